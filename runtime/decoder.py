"""Step through a language model token by token, its key/value cache kept inside ONNX Runtime.

The model has the inputs ``input_ids`` i64[batch, S], ``attention_mask`` i64[batch, past + S] and
``position_ids`` i64[batch, S] (the last two optional), ``past_key_values.N.key`` and ``.value``
[batch, kv_heads, past, head_dim], and the outputs ``logits`` [batch, S, vocab] and
``present.N.key`` and ``.value``: the names that exporters of decoders agree on.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from bitfold.runtime.errors import CalibrationError, UnsupportedError
from bitfold.runtime.ort_errors import explained

if TYPE_CHECKING:
    from bitfold.runtime.session import Session, ValueInfo

CACHE_KEY = "bitfold.kv_cache"
"""Metadata property of a model that says how its cache may be fed."""
SHARED_OK = "shared-buffer-ok"
"""Value of that property: past and present may be one buffer, longer than what is in it."""

_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_OTHERS = ("input_ids", "attention_mask", "position_ids")


class CacheMode(enum.Enum):
    """How a decoder carries the keys and values of past tokens."""

    SHARED = "shared"
    """One preallocated buffer a layer is both past and present: a step appends in place."""
    PASSED = "passed"
    """Each step's present becomes the next one's past; the model copies it."""
    NONE = "none"
    """The model has no cache: each step runs over all tokens again."""


class Decoder:
    """A language model in the middle of a text.

    Example::

        decoder = Session("model.onnx").decoder()
        logits = decoder.step(prompt)               # [1, len(prompt), vocab]
        logits = decoder.step([int(logits[0, -1].argmax())])

    Args:
        session: the loaded model.
        batch: number of texts, all of the same length.
        capacity: tokens that a shared cache has room for at first; it doubles when full.
        share: use one buffer for past and present where the model allows it.

    Raises:
        UnsupportedError: the model's inputs and outputs are not those of a language model.
    """

    def __init__(
        self, session: Session, *, batch: int = 1, capacity: int = 256, share: bool = True
    ) -> None:
        self.session = session
        self.batch = batch
        self._pairs = cache_pairs(session)
        self._inputs = {value.name: value for value in session.inputs}
        self.mode = CacheMode.NONE
        if self._pairs:
            shared = share and session.metadata.get(CACHE_KEY) == SHARED_OK
            self.mode = CacheMode.SHARED if shared else CacheMode.PASSED
        self._capacity = max(1, capacity)
        self._outputs = ["logits", *self._pairs.values()]
        self._binding = session.ort.io_binding()
        self._logits: Any = None
        self._feeds: dict[str, np.ndarray] = {}
        self._cache: dict[str, Any] = {}
        self._buffers: dict[str, np.ndarray] = {}
        if self.mode is CacheMode.SHARED:
            self._buffers = {past: self._empty(past, self._capacity) for past in self._pairs}
            self._bind_buffers()
        self.reset()

    @property
    def length(self) -> int:
        """Tokens taken so far, of each text."""
        return self._length

    def reset(self) -> None:
        """Forget the text."""
        self._length = 0
        self._tokens = np.zeros((self.batch, 0), np.int64)
        if self.mode is CacheMode.PASSED:
            self._cache = {past: _ortvalue(self._empty(past, 0)) for past in self._pairs}

    def step(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Take the next tokens and return their logits.

        Args:
            tokens: [S], or [batch, S]; S is at least 1.

        Returns:
            [batch, S, vocab] (or what the model's ``logits`` holds).  The array is ORT's own
            memory and is overwritten by the next step.

        Raises:
            CalibrationError: the tokens do not fit the model.
            ModelError: a node of the model failed.
        """
        ids = np.ascontiguousarray(np.atleast_2d(np.asarray(tokens, np.int64)))
        if ids.ndim != 2 or ids.shape[0] != self.batch or ids.shape[1] == 0:
            raise CalibrationError(
                f"expected tokens of shape [{self.batch}, S] with S >= 1, found {list(ids.shape)}"
            )
        count = ids.shape[1]
        start = self._length
        if self.mode is CacheMode.NONE:
            self._tokens = ids = np.concatenate([self._tokens, ids], axis=1)
            start = 0
        elif self.mode is CacheMode.SHARED:
            self._reserve(start + count)
        logits = self._run(ids, start)
        self._length += count
        return logits[:, -count:] if self.mode is CacheMode.NONE else logits

    def _run(self, ids: np.ndarray, start: int) -> np.ndarray:
        count = ids.shape[1]
        total = start + count
        binding = self._binding
        self._bind("input_ids", ids)
        if "attention_mask" in self._inputs:
            self._bind("attention_mask", np.ones((self.batch, total), np.int64))
        if "position_ids" in self._inputs:
            positions = np.arange(start, total)[None].repeat(self.batch, axis=0)
            self._bind("position_ids", positions)
        if self.mode is CacheMode.PASSED:
            for past, value in self._cache.items():
                binding.bind_ortvalue_input(past, value)
        if self._logits is not None and self._logits.shape()[:2] == [self.batch, count]:
            binding.bind_ortvalue_output("logits", self._logits)
        else:
            self._logits = None
            binding.bind_output("logits", "cpu")
        if self.mode is CacheMode.PASSED:
            for present in self._pairs.values():
                binding.bind_output(present, "cpu")
        try:
            self.session.ort.run_with_iobinding(binding)
        except Exception as error:
            self._logits = None
            raise explained(error, f"{self.session.path.name} failed") from error
        results = dict(zip(self._order(), binding.get_outputs(), strict=True))
        self._logits = results["logits"]
        if self.mode is CacheMode.PASSED:
            self._cache = {past: results[present] for past, present in self._pairs.items()}
        return np.asarray(self._logits.numpy())

    def _order(self) -> list[str]:
        """Outputs in the order in which they were bound first: ORT keeps it."""
        if self.mode is CacheMode.SHARED:
            return self._outputs[1:] + self._outputs[:1]
        return self._outputs

    def _bind(self, name: str, array: np.ndarray) -> None:
        # ORT borrows the array; that its bindings keep it alive is so in new versions only.
        self._feeds[name] = np.ascontiguousarray(array, self._inputs[name].dtype)
        self._binding.bind_ortvalue_input(name, _ortvalue(self._feeds[name]))

    def _empty(self, past: str, length: int) -> np.ndarray:
        value = self._inputs[past]
        _, heads, _, width = value.shape
        return np.zeros((self.batch, heads, length, width), value.dtype)  # type: ignore[arg-type]

    def _reserve(self, length: int) -> None:
        """Make room for ``length`` tokens in the shared buffers."""
        if length <= self._capacity:
            return
        while self._capacity < length:
            self._capacity *= 2
        for past, old in self._buffers.items():
            new = self._empty(past, self._capacity)
            new[:, :, : self._length] = old[:, :, : self._length]
            self._buffers[past] = new
        self._bind_buffers()

    def _bind_buffers(self) -> None:
        for past, present in self._pairs.items():
            value = _ortvalue(self._buffers[past])
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)


def is_language_model(session: Session) -> bool:
    """Whether `Decoder` can step through the model: its names, and logits at every position."""
    try:
        cache_pairs(session)
    except UnsupportedError:
        return False
    logits = next(value for value in session.outputs if value.name == "logits")
    return len(logits.shape) in (0, 3)


def cache_pairs(session: Session) -> dict[str, str]:
    """Each past input and the present output that follows it; empty without a cache.

    Raises:
        UnsupportedError: the model is not one that `Decoder` understands; says what is odd.
    """
    outputs = {value.name for value in session.outputs}
    inputs = {value.name: value for value in session.inputs}
    name = session.path.name
    for kind, wanted, have in (("input", "input_ids", inputs), ("output", "logits", outputs)):
        if wanted not in have:
            raise UnsupportedError(
                f"{name} is no language model: expected the {kind} {wanted!r}, found {sorted(have)}"
            )
    pairs = {}
    for value in inputs.values():
        match = _PAST.fullmatch(value.name)
        if match is None:
            if value.name not in _OTHERS:
                raise UnsupportedError(
                    f"{name}: the input {value.name!r} is none that decoders of text have",
                    "expected input_ids, attention_mask, position_ids and past_key_values.N.*",
                )
            continue
        pairs[value.name] = _present_of(value, match, outputs, name)
    return pairs


def _present_of(value: ValueInfo, match: re.Match[str], outputs: set[str], name: str) -> str:
    present = f"present.{match[1]}.{match[2]}"
    if present not in outputs:
        raise UnsupportedError(f"{name} has the input {value.name!r} but no output {present!r}")
    fixed = len(value.shape) == 4 and all(isinstance(value.shape[i], int) for i in (1, 3))
    if not fixed or value.dtype is None:
        raise UnsupportedError(
            f"{name}, input {value.name}: expected [batch, kv_heads, past, head_dim] with fixed "
            f"heads and width, found {list(value.shape)}"
        )
    return present


def _ortvalue(array: np.ndarray) -> Any:
    """An ORT value over the array's own memory, which must outlive it."""
    return ort.OrtValue.ortvalue_from_numpy(array)
