"""Recipes read back what they write, and refuse what they do not understand."""

from __future__ import annotations

import contextlib
import enum
import math
import textwrap
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import onnx_ir.passes.common as onnx_ir_passes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfold.passes.core import options
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.foreign import ForeignPass
from bitfold.passes.core.recipe import Recipe, format_text, from_toml, parse_text, to_toml
from bitfold.passes.registry import PASSES
from bitfold.runtime.errors import RecipeError


class Mode(enum.Enum):
    NEAREST = "nearest"
    STOCHASTIC = "stochastic"


@dataclass(frozen=True)
class Scheme:
    bits: int = 4
    kind: str = "int"


@dataclass(frozen=True)
class Everything(Pass):
    """One option of every type."""

    name: ClassVar[str] = "everything"
    promise: ClassVar[Promise] = Promise.EXACT

    count: int = 3
    ratio: float = 0.5
    flag: bool = True
    text: str = "int4"
    choice: Literal["mse", "minmax", 3] = "mse"
    mode: Mode = Mode.NEAREST
    globs: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1,)
    limit: int | None = None
    label: str | None = "on"
    either: int | str = 1
    scheme: Scheme = Scheme()
    group_size: int = field(default=32, metadata={"alias": "group"})

    def run(self, model: Any, context: Any) -> bool:
        return False


class Optionless(Pass):
    name: ClassVar[str] = "optionless"
    promise: ClassVar[Promise] = Promise.LOSSY

    def run(self, model: Any, context: Any) -> bool:
        return False


finite = st.floats(allow_nan=False)
everything = st.builds(
    Everything,
    count=st.integers(),
    ratio=finite,
    flag=st.booleans(),
    text=st.text(),
    choice=st.sampled_from(["mse", "minmax", 3]),
    mode=st.sampled_from(Mode),
    globs=st.lists(st.text(), max_size=3).map(tuple),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
    limit=st.none() | st.integers(),
    label=st.none() | st.text() | st.sampled_from(["none", "true", "3"]),
    either=st.integers() | st.text() | st.sampled_from(["3", "none", "1e3"]),
    scheme=st.builds(Scheme, bits=st.integers(1, 8), kind=st.text()),
    group_size=st.integers(1, 256),
)
recipes = st.lists(everything, max_size=3).map(lambda items: Recipe(tuple(items)))


@given(recipes)
def test_text_round_trip(recipe):
    text = format_text(recipe)
    assert parse_text(text) == recipe
    assert format_text(parse_text(text)) == text


# TOML 1.0 integers have 64 bits, and it has no lone surrogates; both are the writer's limits.
@given(recipes)
def test_toml_round_trip(recipe):
    assert from_toml(to_toml(recipe)) == recipe


@given(recipes)
def test_toml_and_text_mean_the_same(recipe):
    assert format_text(from_toml(to_toml(recipe))) == format_text(recipe)


@given(st.text(alphabet='ab:{}[]=,"# \n1.-*', max_size=30))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(RecipeError):
        recipe = parse_text(text)
        assert parse_text(format_text(recipe)) == recipe


@pytest.mark.parametrize("cls", PASSES, ids=lambda cls: cls.name)
def test_registered_passes_are_written_by_name(cls):
    assert format_text(Recipe.of(cls())) == cls.name
    assert parse_text(cls.name) == Recipe((cls(),))
    assert cls.__doc__


def test_registered_names_are_unique_and_well_formed():
    names = [cls.name for cls in PASSES]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)


def test_only_what_differs_from_the_defaults_is_written():
    one = Everything(count=5, globs=("*lm_head*", "a b"), limit=None, scheme=Scheme(bits=2))
    expected = f'{__name__}:Everything{{count=5 globs=["*lm_head*", "a b"] scheme={{bits=2}}}}'
    assert format_text(Recipe.of(one)) == expected


def test_many_ways_to_write_the_same():
    text = f"""
        {__name__}:Everything{{ count=7, flag=false group=64   # a comment
            globs="only one" choice=minmax mode=stochastic limit=none }},
    """
    expected = Everything(
        count=7, flag=False, group_size=64, globs=("only one",), choice="minmax",
        mode=Mode.STOCHASTIC,
    )  # fmt: skip
    assert parse_text(text) == Recipe((expected,))
    assert parse_text("") == Recipe()
    assert len(Recipe.of([Everything(), Everything, f"{__name__}:Everything", Recipe()])) == 3


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("count=x", "option 'count': expected an integer, found x"),
        ("count=1.5", "expected an integer, found 1.5"),
        ('count="3"', "expected an integer, found '3'"),
        ("ratio=fast", "expected a number, found fast"),
        ("flag=maybe", "expected true or false, found maybe"),
        ("choice=max", "expected one of mse, minmax, 3, found max"),
        ("mode=up", "expected one of nearest, stochastic, found up"),
        ("sizes=[1, x]", "expected a list of an integer"),
        ("scheme={depth=3}", "unknown option 'depth'"),
        ("cuont=3", "unknown option 'cuont'; expected one of: choice, count"),
        ("count=3 count=4", "each option once"),
        ("group=3 group_size=4", "option 'group_size' is given twice"),
        ("count 3", "expected '=' after option 'count', found '3}'"),
        ("count=", "expected a value, found '}'"),
        ("globs=[a b]", "expected ',' or ']'"),
    ],
)
def test_wrong_options_say_where_what_and_instead_of_what(inside, message):
    with pytest.raises(RecipeError) as caught:
        parse_text(f"{__name__}:Everything,\n  {__name__}:Everything{{{inside}}}")
    assert message in str(caught.value)
    assert "line 2, column" in str(caught.value)


def test_hints_for_what_is_nearly_right():
    with pytest.raises(RecipeError) as caught:
        parse_text("quantise{weights=int4}")
    assert "unknown pass" in str(caught.value)
    assert caught.value.hint == "did you mean 'quantize'?"
    with pytest.raises(RecipeError) as caught:
        parse_text("quantize{weihgts=int4}")
    assert caught.value.hint == "did you mean 'weights'?"


def test_a_promise_is_no_option_of_a_pass_that_makes_one():
    with pytest.raises(RecipeError, match="unknown option 'promise'; expected none") as caught:
        parse_text(f"{__name__}:Optionless{{promise=lossy}}")
    assert "says itself" in caught.value.hint


def test_the_hint_on_toml_is_toml():
    with pytest.raises(RecipeError, match="tables only") as caught:
        from_toml("passes = 3")
    written = caught.value.hint.removeprefix("a recipe reads: ").partition(", or has")[0]
    assert from_toml(written) == parse_text("canonicalize, quantize{weights=int4}")


@pytest.mark.parametrize(
    "text",
    ["quantize lower", "quantize{", "quantize{a=[1", "{a=1}", "=", 'quantize{exclude="open}', ",,"],
)
def test_broken_text_is_refused_with_its_position(text):
    with pytest.raises(RecipeError, match=r"recipe line 1, column \d+: expected"):
        parse_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pass = 3", "expected [[pass]] tables"),
        ("[[passes]]\nname = 'x'", "found ['passes']"),
        ("[[pass]]\nweights = 'int4'", "number 1: expected a name"),
        ("[[pass]]\nname = 'nothing'", "unknown pass"),
        ("[[pass]]\nname = 'quantize'\ngroup = 'x'", "option 'group': expected an integer"),
        ("[[pass]", "no TOML"),
    ],
)
def test_broken_toml_is_refused(text, message):
    with pytest.raises(RecipeError) as caught:
        from_toml(text)
    assert message in str(caught.value)


def test_foreign_passes_by_reference():
    text = "onnx_ir.passes.common:DeduplicateInitializersPass{size_limit=10}"
    recipe = parse_text(text)
    (item,) = recipe
    assert isinstance(item, ForeignPass)
    assert isinstance(item.target, onnx_ir_passes.DeduplicateInitializersPass)
    assert item.target.size_limit == 10
    assert item.promise is Promise.EXACT
    assert format_text(recipe) == text
    assert from_toml(to_toml(recipe)) == recipe
    lossy = parse_text("onnx_ir.passes.common:IdentityEliminationPass{promise=lossy}")
    assert lossy.passes[0].promise is Promise.LOSSY
    assert parse_text(format_text(lossy)) == lossy
    for text, message in [
        ("onnx_ir.passes.common:IdentityEliminationPass{size=1}", "arguments"),
        ("onnx_ir.passes.common:IdentityEliminationPass{promise=maybe}", "promise=exact"),
        ("onnx_ir.passes.common:IdentityPass", "has no 'IdentityPass'"),
        ("no.such.module:Pass", "cannot import 'no.such.module'"),
        ("math:pi", "expected a pass"),
    ]:
        with pytest.raises(RecipeError) as caught:
            parse_text(text)
        assert message in str(caught.value)
        assert "line 1, column 1" in str(caught.value)


def test_pass_in_a_file(tmp_path, monkeypatch):
    source = """
        from dataclasses import dataclass
        from bitfold.passes.core.base import Pass, Promise

        @dataclass(frozen=True)
        class Mine(Pass):
            name = "mine"
            promise = Promise.EXACT
            depth: int = 2

            def run(self, model, context):
                return False
    """
    (tmp_path / "my pass.py").write_text(textwrap.dedent(source))
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    text = '"my pass.py:Mine"{depth=5}'
    recipe = parse_text(text)
    assert recipe.passes[0].depth == 5
    assert parse_text(text) == recipe
    assert format_text(recipe) == text
    with pytest.raises(RecipeError, match=r"cannot be run: division by zero"):
        parse_text("broken.py:Mine")
    with pytest.raises(RecipeError, match=r"no file 'absent.py'"):
        parse_text("absent.py:Mine")
    with pytest.raises(RecipeError, match="outside bitfold"):
        parse_text(text, allow_code=False)


def test_infinite_options_are_written():
    for value in (math.inf, -math.inf, 1e300):
        recipe = Recipe((Everything(ratio=value),))
        assert parse_text(format_text(recipe)) == recipe
        assert from_toml(to_toml(recipe)) == recipe


def test_options_without_types_are_read_naturally():
    words = [options.Word(w) for w in ("3", "0.5", "true", "none", "int4")]
    assert options.guess(words) == (3, 0.5, True, None, "int4")


@dataclass(frozen=True)
class Checked(Pass):
    """A pass with a check of its own, which relies on the types, and types of every kind."""

    name: ClassVar[str] = "checked"
    promise: ClassVar[Promise] = Promise.EXACT

    count: int = 1
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    ratio: float | None = None
    globs: tuple[str, ...] = ()
    table: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise RecipeError(f"checked: expected a count >= 1, found {self.count}")

    def run(self, model: Any, context: Any) -> bool:
        return False


@pytest.mark.parametrize(
    ("option", "wrong", "expected"),
    [
        ("count", "2", "an integer"),
        ("count", 2.0, "an integer"),
        ("count", True, "an integer"),
        ("mode", "c", "one of a, b"),
        ("flag", 1, "true or false"),
        ("ratio", "half", "a number or none"),
        ("globs", [1], "a list of text"),
    ],
)
def test_options_are_checked_in_python_too(option, wrong, expected):
    with pytest.raises(
        RecipeError, match=f"checked, option '{option}': expected {expected}, found"
    ):
        Checked(**{option: wrong})


def test_options_of_python_become_what_a_recipe_holds():
    made = Checked(count=3, ratio=1, globs=["a", "b"], table={"x": 1})
    assert (made.count, made.globs, made.table) == (3, ("a", "b"), {"x": 1})
    assert type(made.ratio) is float
    assert Checked(globs="lm_head").globs == ("lm_head",)


def test_a_pass_keeps_its_own_check():
    with pytest.raises(RecipeError, match="expected a count >= 1, found 0"):
        Checked(count=0)
