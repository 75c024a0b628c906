"""Passes that bitfold does not bring: an onnx_ir pass, rewrite rules, a class in a user's file.

Each is named in a recipe in every way a recipe can be written, and gets the same checks and the
same report as bitfold's own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as onnx_ir_passes
import pytest
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

import bitfold
from bitfold.passes.core.recipe import Recipe, from_toml, parse_text, to_toml
from bitfold.passes.core.report import PassEntry

MINE = """
    from dataclasses import dataclass

    import numpy as np
    from onnxscript.rewriter import RewriteRule, RewriteRuleSet

    import bitfold


    @dataclass(frozen=True)
    class ClipWeights(bitfold.Pass):
        name = "clip-weights"
        promise = bitfold.Promise.LOSSY

        limit: float = 1.0

        def run(self, model, context):
            for value in model.graph.initializers.values():
                array = value.const_value.numpy()
                if array.ndim == 2 and np.abs(array).max() > self.limit:
                    clipped = array.clip(-self.limit, self.limit)
                    value.const_value = context.tensor(clipped, value.name)
                    context.entry.changed(value.name, f"clipped to {self.limit}")
            return bool(context.entry.changes)


    @dataclass(frozen=True)
    class HalveWeights(ClipWeights):
        name = "halve-weights"
        promise = bitfold.Promise.EXACT  # a lie

        def run(self, model, context):
            for value in model.graph.initializers.values():
                if value.const_value.numpy().ndim == 2:
                    half = value.const_value.numpy() / 2
                    value.const_value = context.tensor(half, value.name)
            return True


    RULES = RewriteRuleSet(
        [RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Identity(x), name="neg")]
    )
    WRONG = RewriteRuleSet(
        [RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Abs(x), name="wrong")]
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model() -> ir.Model:
    """``-(-(x W))`` behind an Identity, W being 32 x 48."""
    x = ir.val("x", ir.DataType.FLOAT, ["rows", 32])
    weight = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    initializer = ir.val("weight", const_value=ir.tensor(weight, name="weight"))
    passed = ir.node("Identity", [x], name="pass")
    product = ir.node("MatMul", [passed.outputs[0], initializer], name="product")
    first = ir.node("Neg", product.outputs, name="first")
    second = ir.node("Neg", first.outputs, name="second")
    y = second.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["rows", 48])
    graph = ir.Graph(
        [x],
        [y],
        nodes=[passed, product, first, second],
        initializers=[initializer],
        opset_imports={"": 23},
        name="g",
    )
    return ir.Model(graph, ir_version=10)


def ways(text: str, item: Callable[[], Any]) -> list[Any]:
    """The same recipe as text, through TOML, and in Python."""
    written = parse_text(text)
    return [text, from_toml(to_toml(written)), Recipe.of([item()])]


def run(passes: Any) -> tuple[ir.Model, PassEntry]:
    converted, report = bitfold.Pipeline(passes, verify="full").run(model())
    (entry,) = report.passes
    return converted, entry


def operators(made: ir.Model) -> list[str]:
    return [node.op_type for node in made.graph]


def from_file(name: str) -> Callable[[], Any]:
    return lambda: parse_text(f"mine.py:{name}").passes[0]


def test_an_onnx_ir_pass(folder: Path) -> None:
    text = "onnx_ir.passes.common:IdentityEliminationPass"
    for passes in ways(text, onnx_ir_passes.IdentityEliminationPass):
        made, entry = run(passes)
        assert operators(made) == ["MatMul", "Neg", "Neg"]
        assert (entry.status, entry.promise) == ("applied", "exact")


def test_a_rewrite_rule_set(folder: Path) -> None:
    rule = RewriteRule(lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Identity(x), name="neg")
    for passes in ways("mine.py:RULES", lambda: RewriteRuleSet([rule])):
        made, entry = run(passes)
        assert operators(made) == ["Identity", "MatMul", "Identity"]
        assert entry.status == "applied"
        assert [change.text for change in entry.changes] == ["1 match rewritten"]


def test_a_pass_in_a_file(folder: Path) -> None:
    text = "mine.py:ClipWeights{limit=0.5}"
    for passes in ways(text, lambda: parse_text(text).passes[0]):
        made, entry = run(passes)
        tensor = made.graph.initializers["weight"].const_value
        assert tensor is not None
        assert np.abs(tensor.numpy()).max() == 0.5
        assert (entry.name, entry.status, entry.options) == (
            "clip-weights", "applied", {"limit": 0.5},
        )  # fmt: skip
        assert entry.divergence is not None
        assert 0 < entry.divergence.sqnr_db < 40


@pytest.mark.parametrize("name", ["WRONG", "HalveWeights"])
def test_a_broken_promise_is_undone(folder: Path, name: str) -> None:
    before = operators(model())
    for passes in ways(f"mine.py:{name}", from_file(name)):
        made, entry = run(passes)
        assert operators(made) == before
        assert entry.status == "rolled-back"
        culprit = {"WRONG": "'y' is off by", "HalveWeights": "'product'"}[name]
        assert entry.culprit is not None
        assert culprit in entry.culprit, entry.culprit


def test_a_lossy_promise_is_measured_instead(folder: Path) -> None:
    made, entry = run("mine.py:WRONG{promise=lossy}")
    assert operators(made) == ["Identity", "MatMul", "Abs"]
    assert entry.status == "applied"
    assert entry.divergence is not None
    assert entry.divergence.cosine < 0.5


def test_a_recipe_file_names_them_together(folder: Path) -> None:
    text = (
        "onnx_ir.passes.common:IdentityEliminationPass, mine.py:RULES, mine.py:ClipWeights, "
        "canonicalize, quantize{weights=int8}, lower"
    )
    (folder / "recipe.toml").write_text(to_toml(parse_text(text)))
    result = bitfold.convert(model(), "out.onnx", recipe="recipe.toml")
    assert [entry.status for entry in result.report.passes] == ["applied"] * 6
    assert operators(result.model) == ["LowBitMatMul"]
    with pytest.raises(bitfold.BitfoldError, match="outside bitfold"):
        # A model must not bring code that runs when someone replays its recipe.
        bitfold.convert(model(), "again.onnx", recipe="out.onnx")
