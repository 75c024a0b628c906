"""Read a pickle as inert data: nothing is imported, called or constructed.

A pickle is a program for a stack machine, and loading it the usual way runs whatever the file's
author wrote. This machine knows only the instructions that checkpoints of tensors need, and
where the program would import or call something it leaves a note of it: a `Global` or a `Call`.
(Opcodes: CPython's `pickletools`, PEP 307 and PEP 3154.)
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, cast

from bitfold.runtime.errors import ModelError, UnsupportedError

MAX_OPERATIONS = 4_000_000
"""A checkpoint has about twenty operations a tensor; a file that has more than this is none."""


@dataclass(frozen=True)
class Global:
    """Something the pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Call:
    """Something the pickle would call, with the arguments."""

    function: Any
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Persistent:
    """Something that lies outside the pickle, by its id."""

    id: Any


def read_pickle(file: io.RawIOBase | io.BytesIO) -> Any:
    """The object that the pickle at the file's position describes; the file is left behind it.

    The result is made of dictionaries, lists, tuples, strings, bytes, numbers, None, and of
    `Global`, `Call` and `Persistent` notes. Dictionaries have keys that are strings or integers.

    Raises:
        ModelError: the pickle is broken.
        UnsupportedError: it does what no checkpoint of tensors does.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if count > MAX_OPERATIONS:
                raise ModelError(f"the pickle has more than {MAX_OPERATIONS} operations")
            if opcode.name == "STOP":
                return machine.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise UnsupportedError(
                    f"the pickle uses {opcode.name}, which tensors do not need",
                    hint="save model.state_dict() instead of the model",
                )
            step(machine, argument)
    except (ModelError, UnsupportedError):
        raise
    # Whatever the standard library makes of broken bytes: ValueError for most, but not for all.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError) as error:
        raise ModelError(f"the pickle is broken ({error})") from error
    raise ModelError("the pickle has no end")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def push(self, item: Any) -> None:
        self.stack.append(item)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ModelError("the pickle takes from an empty stack")
        return self.stack.pop()

    def drop(self) -> None:
        self.pop()

    def top(self, kind: type) -> Any:
        item = self.pop()
        self.push(item)
        if not isinstance(item, kind):
            raise ModelError(f"the pickle fills a {type(item).__name__} as if a {kind.__name__}")
        return item

    def pop_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple([self.pop() for _ in range(count)][::-1])

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ModelError("the pickle has a key without a value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing an artful tuple of tuples takes for ever.
            if not isinstance(key, (str, int)):
                raise ModelError(f"the pickle has a {type(key).__name__} as a key")
            target[key] = value

    def call(self) -> None:
        function, arguments = self.pop_many(2)
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ModelError("the pickle calls something that is no function")
        if function == Global("collections", "OrderedDict") and arguments in ((), ([],)):
            self.push({})
        else:
            self.push(Call(function, arguments))

    def import_global(self) -> None:
        module, name = self.pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ModelError("the pickle imports something that has no name")
        self.push(Global(module, name))


def _push(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _put(machine: _Machine, index: int | None) -> None:
    machine.memo[len(machine.memo) if index is None else index] = machine.stack[-1]


_Step = Callable[[_Machine, Any], None]

_STEPS: dict[str, _Step] = {
    **dict.fromkeys(
        ["BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "FLOAT", "BINFLOAT"], _push
    ),
    **dict.fromkeys(["BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"], _push),
    **dict.fromkeys(["BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING"], _push),
    **dict.fromkeys(["PROTO", "FRAME"], lambda machine, _: None),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_many(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_many(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_many(3)),
    "APPEND": lambda machine, _: _append(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _append(machine, machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.pop_many(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "PUT": _put,
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _put,
    "GET": lambda machine, index: machine.push(machine.memo[index]),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": lambda machine, name: machine.push(Global(*name.split(" ", 1))),
    "STACK_GLOBAL": lambda machine, _: machine.import_global(),
    "REDUCE": lambda machine, _: machine.call(),
    "BINPERSID": lambda machine, _: machine.push(Persistent(machine.pop())),
    # An object's attributes: a state dictionary's `_metadata`, which says nothing about tensors.
    "BUILD": lambda machine, _: machine.drop(),
}  # fmt: skip


def _append(machine: _Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)
