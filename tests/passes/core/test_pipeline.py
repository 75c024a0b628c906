"""The pipeline keeps passes to their promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as onnx_ir_passes
import pytest
from onnxscript.rewriter import RewriteRuleSet, pattern
from support.small_models import (
    LM,
    LM_SHAPES,
    MLP,
    MLP_SHAPES,
    NORMED,
    NORMED_SHAPES,
    make_model,
    replace_weight,
    weight,
)

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context, digest_of
from bitfold.passes.core.metadata import recipe_of, seed_of, versions
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe, format_text
from bitfold.runtime.errors import (
    BitfoldError,
    CalibrationError,
    ModelError,
    RecipeError,
    UnsupportedError,
    VerificationError,
)
from bitfold.runtime.execution import open_session


@dataclass(frozen=True)
class ScaleWeight(Pass):
    """Multiply one weight: what a wrong exact pass looks like unless ``factor`` is 1."""

    name: ClassVar[str] = "scale-weight"
    promise: ClassVar[Promise] = Promise.EXACT

    weight: str = "w_down"
    factor: float = 1.1

    def run(self, model: ir.Model, context: Context) -> bool:
        replace_weight(model, self.weight, weight(model, self.weight) * self.factor)
        context.entry.changed(self.weight, f"times {self.factor}")
        return True


@dataclass(frozen=True)
class ScaleWeightKnowingly(ScaleWeight):
    name: ClassVar[str] = "scale-weight-knowingly"
    promise: ClassVar[Promise] = Promise.LOSSY


@dataclass(frozen=True)
class FoldGain(Pass):
    """Fold the norm's gain into both readers, or wrongly into one of them only."""

    name: ClassVar[str] = "fold-gain"
    promise: ClassVar[Promise] = Promise.EXACT

    forget: str = ""

    def run(self, model: ir.Model, context: Context) -> bool:
        gain = weight(model, "gain")
        for name in ("w_a", "w_b"):
            if name != self.forget:
                replace_weight(model, name, gain[:, None] * weight(model, name))
        replace_weight(model, "gain", np.ones_like(gain))
        return True


@dataclass(frozen=True)
class Tell(Pass):
    """A pass that lies about having changed nothing."""

    name: ClassVar[str] = "tell"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> bool:
        replace_weight(model, "w_down", 2 * weight(model, "w_down"))
        return False


@dataclass(frozen=True)
class Crash(Pass):
    name: ClassVar[str] = "crash"
    promise: ClassVar[Promise] = Promise.EXACT

    known: bool = False

    def run(self, model: ir.Model, context: Context) -> bool:
        if self.known:
            raise UnsupportedError("no such thing here", hint="take another")
        raise KeyError("w_missing")


@dataclass(frozen=True)
class BreakGraph(Pass):
    """Make a node read a value that nothing defines."""

    name: ClassVar[str] = "break-graph"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> bool:
        node = next(node for node in model.graph if node.op_type == "Relu")
        node.replace_input_with(0, ir.Value(name="nowhere"))
        return True


@dataclass(frozen=True)
class BreakGraphKnowingly(BreakGraph):
    name: ClassVar[str] = "break-graph-knowingly"
    promise: ClassVar[Promise] = Promise.LOSSY


@dataclass(frozen=True)
class InsertNaN(Pass):
    """Divide zero by zero on one channel."""

    name: ClassVar[str] = "insert-nan"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> bool:
        array = weight(model, "b_up").copy()
        array[3] = np.nan
        replace_weight(model, "b_up", array)
        return True


def outputs(model: ir.Model, seed: int = 7) -> dict[str, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((3, 24)).astype(np.float32)
    return open_session(model, optimize=False).run({"x": x})


@pytest.mark.parametrize("level", ["fast", "full"])
def test_wrong_exact_pass_is_rolled_back_and_its_node_named(level):
    model = make_model(MLP, MLP_SHAPES)
    result, report = Pipeline([ScaleWeight(factor=1.001)], verify=level).run(model)
    (entry,) = report.passes
    assert entry.status == "rolled-back"
    assert report.rolled_back == [entry]
    assert "'matmul_3' (MatMul)" in entry.culprit
    assert "'down'" in entry.culprit
    assert np.array_equal(outputs(result)["logits"], outputs(model)["logits"])
    assert report.total.max_error == 0


def test_passes_after_a_rolled_back_one_still_run():
    model = make_model(MLP, MLP_SHAPES)
    passes = [ScaleWeight(factor=2.0), ScaleWeightKnowingly("w_head", 3.0)]
    result, report = Pipeline(passes).run(model)
    assert [entry.status for entry in report.passes] == ["rolled-back", "applied"]
    np.testing.assert_allclose(
        outputs(result)["logits"], 3 * outputs(model)["logits"], rtol=1e-4, atol=1e-5
    )


def test_strict_raises():
    pipeline = Pipeline([ScaleWeight()], strict=True)
    with pytest.raises(VerificationError, match=r"scale-weight.*matmul_3"):
        pipeline.run(make_model(MLP, MLP_SHAPES))


def test_right_exact_pass_that_changes_inner_values_is_kept():
    model = make_model(NORMED, NORMED_SHAPES)
    result, report = Pipeline([FoldGain()], verify="full").run(model)
    assert report.passes[0].status == "applied"
    assert weight(result, "gain").tolist() == [1.0] * 24
    assert report.passes[0].divergence.max_error < 1e-5


def test_reader_that_does_not_undo_a_change_is_blamed_not_the_norm():
    model = make_model(NORMED, NORMED_SHAPES)
    _, report = Pipeline([FoldGain(forget="w_b")]).run(model)
    assert report.passes[0].status == "rolled-back"
    assert "'matmul_2' (MatMul)" in report.passes[0].culprit


def test_caller_s_model_is_untouched():
    model = make_model(MLP, MLP_SHAPES)
    before = model.graph.initializers["w_down"].const_value
    result, _ = Pipeline([ScaleWeightKnowingly()]).run(model)
    assert model.graph.initializers["w_down"].const_value is before
    assert model.metadata_props == {}
    untouched = result.graph.initializers["w_up"].const_value
    assert untouched is model.graph.initializers["w_up"].const_value


def test_lossy_pass_is_charged_with_its_own_damage():
    model = make_model(MLP, MLP_SHAPES)
    passes = [
        ScaleWeightKnowingly("w_head", 1.01),
        ScaleWeight("w_up", 1.0),
        ScaleWeightKnowingly("w_head", 1.1),
    ]
    _, report = Pipeline(passes).run(model)
    small, exact, large = report.passes
    # Scaling the head by 1 + e scales the error by e: SQNR is -20 log10(e).
    assert small.divergence.sqnr_db == pytest.approx(40, abs=0.1)
    assert large.divergence.sqnr_db == pytest.approx(20, abs=0.1)
    assert report.total.sqnr_db == pytest.approx(-20 * np.log10(1.01 * 1.1 - 1), abs=0.1)
    assert exact.divergence is None
    assert small.divergence.cosine == pytest.approx(1.0)
    assert 0 < small.divergence.kl < large.divergence.kl
    assert small.divergence.top1 == 1.0


def test_new_nan_is_a_broken_promise():
    _, report = Pipeline([InsertNaN()]).run(make_model(MLP, MLP_SHAPES))
    assert report.passes[0].status == "rolled-back"
    assert "'add_1'" in report.passes[0].culprit


def test_pass_that_denies_its_change_is_checked_all_the_same():
    _, report = Pipeline([Tell()]).run(make_model(MLP, MLP_SHAPES))
    assert report.passes[0].status == "rolled-back"


def test_broken_graph_is_rolled_back_or_an_error():
    model = make_model(MLP, MLP_SHAPES)
    for level in ("off", "fast"):
        result, report = Pipeline([BreakGraph()], verify=level).run(model)
        assert report.passes[0].status == "rolled-back"
        assert "'nowhere'" in report.passes[0].culprit
        assert "relu_2" in report.passes[0].culprit
        outputs(result)
    with pytest.raises(VerificationError, match=r"break-graph-knowingly.*relu_2"):
        Pipeline([BreakGraphKnowingly()]).run(model)


def test_crash_names_the_pass_and_those_before_it():
    model = make_model(MLP, MLP_SHAPES)
    with pytest.raises(BitfoldError, match=r"crash failed after scale-weight: KeyError"):
        Pipeline([ScaleWeight(factor=1.0), Crash()]).run(model)
    with pytest.raises(UnsupportedError, match=r"crash.*after no other pass: no such") as caught:
        Pipeline([Crash(known=True)]).run(model)
    assert caught.value.hint == "take another"


def test_verify_off_runs_nothing_and_says_so():
    result, report = Pipeline([ScaleWeight()], verify="off").run(make_model(MLP, MLP_SHAPES))
    assert report.passes[0].status == "applied"
    assert report.total is None
    assert not np.array_equal(
        weight(result, "w_down"), weight(make_model(MLP, MLP_SHAPES), "w_down")
    )


def test_unknown_level_and_foreign_objects_are_refused():
    with pytest.raises(RecipeError, match="off, fast, full"):
        Pipeline([], verify="quick")
    with pytest.raises(RecipeError, match="found 42"):
        Pipeline([42])


def test_tolerance_is_an_option():
    model = make_model(MLP, MLP_SHAPES)
    _, report = Pipeline([ScaleWeight(factor=1.001)], tolerance=0.01).run(model)
    assert report.passes[0].status == "applied"
    _, report = Pipeline([ScaleWeight(factor=1.000001)], tolerance=1e-9).run(model)
    assert report.passes[0].status == "rolled-back"


def test_fast_checks_the_first_sample_and_full_all_of_them():
    def sample(scale: float) -> dict[str, np.ndarray]:
        return {"x": np.full((1, 24), scale, np.float32)}

    # With a zero input, biases apart, nothing downstream of the first product moves.
    model = make_model(MLP, {**MLP_SHAPES, "b_up": (40,)})
    replace_weight(model, "b_up", np.zeros(40))
    samples = [sample(0.0), sample(1.0)]
    _, report = Pipeline([ScaleWeight()], Context(samples)).run(model)
    assert report.passes[0].status == "applied"
    _, report = Pipeline([ScaleWeight()], Context(samples), verify="full").run(model)
    assert report.passes[0].status == "rolled-back"


def test_onnx_ir_passes_and_rewrite_rules_are_accepted():
    def twice_negated(op, x):
        return op.Neg(op.Neg(x))

    def same(op, x):
        return op.Identity(x)

    def wrong(op, x):
        return op.Abs(x)

    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 4] x) => (float[n, 4] y) { a = Neg (x)  b = Neg (a)  y = Tanh (b) }"""
    model = make_model(text, {})
    right = RewriteRuleSet([pattern.RewriteRule(twice_negated, same, name="drop-negations")])
    bad = RewriteRuleSet([pattern.RewriteRule(twice_negated, wrong, name="take-abs")])
    passes = [bad, right, onnx_ir_passes.IdentityEliminationPass()]
    result, report = Pipeline(passes).run(model)
    assert [e.status for e in report.passes] == ["rolled-back", "applied", "applied"]
    assert [e.name for e in report.passes] == ["take-abs", "drop-negations", "identity-elimination"]
    assert [node.op_type for node in result.graph] == ["Tanh"]
    assert "Abs" in report.passes[0].culprit or "tanh" in report.passes[0].culprit


def test_unchanging_passes_cost_no_run():
    _, report = Pipeline([onnx_ir_passes.IdentityEliminationPass()]).run(
        make_model(MLP, MLP_SHAPES)
    )
    assert report.passes[0].status == "unchanged"


def test_report_and_metadata_tell_how_the_model_was_made():
    model = make_model(MLP, MLP_SHAPES)
    result, report = Pipeline("onnx_ir.passes.common:IdentityEliminationPass", Context(seed=5)).run(
        model
    )
    assert report.seed == seed_of(result) == 5
    assert report.versions == versions()
    assert "onnxruntime" in report.versions
    assert result.metadata_props["bitfold.recipe"] == report.recipe
    assert report.as_dict()["passes"][0]["status"] == "unchanged"
    with pytest.raises(RecipeError, match="outside bitfold"):
        recipe_of(result)
    assert str(recipe_of(result, allow_code=True)) == report.recipe
    with pytest.raises(RecipeError, match="found none"):
        recipe_of(model)


def test_progress_and_times_per_pass():
    lines: list[tuple[str, float]] = []
    context = Context(progress=lambda text, fraction: lines.append((text, fraction)))
    _, report = Pipeline([ScaleWeight(factor=1.0), ScaleWeight()], context).run(
        make_model(MLP, MLP_SHAPES)
    )
    assert ("scale-weight", 0.5) in lines
    assert any(text.startswith("ROLLED BACK") for text, _ in lines)
    assert lines[-1] == ("done", 1.0)
    assert all(entry.verify_seconds > 0 for entry in report.passes)
    assert report.seconds >= sum(e.seconds + e.verify_seconds for e in report.passes)


def test_language_model_with_a_cache_is_checked_with_and_without_a_past():
    context = Context()
    _, report = Pipeline([ScaleWeight("w_head", 1.0)], context, verify="full").run(
        make_model(LM, LM_SHAPES)
    )
    assert report.passes[0].status == "applied"
    assert [feeds["past_key_values_0"].shape[2] for feeds in context.samples] == [0, 12, 12]


def test_broken_model_and_wrong_samples_are_refused_at_once():
    model = make_model(MLP, MLP_SHAPES)
    wrong = [{"x": np.zeros((2, 24), np.float64)}]
    with pytest.raises(CalibrationError, match="float32, found float64"):
        Pipeline([ScaleWeight()], Context(wrong)).run(model)
    relu = next(node for node in model.graph if node.op_type == "Relu")
    relu.replace_input_with(0, ir.Value(name="nowhere"))
    with pytest.raises(ModelError, match=r"relu_2.*nowhere"):
        Pipeline([ScaleWeight()]).run(model)


def test_tells_who_watches_the_model_after_each_pass() -> None:
    model = make_model(MLP, MLP_SHAPES)
    seen: list[tuple[str, str, float]] = []
    recipe = [ScaleWeight(factor=1.0), ScaleWeight(), ScaleWeightKnowingly(factor=2.0)]
    Pipeline(
        recipe,
        watch=lambda entry, stage: seen.append(
            (entry.name, entry.status, float(weight(stage, "w_down")[0, 0]))
        ),
    ).run(model)
    first = float(weight(model, "w_down")[0, 0])
    assert seen == [
        ("scale-weight", "applied", first),
        ("scale-weight", "rolled-back", first),  # the model to go on with
        ("scale-weight-knowingly", "applied", 2 * first),
    ]


def test_a_model_that_does_not_run_is_not_the_pass_s_fault():
    """Unchecked, a pass may be the first to trip over a broken model."""

    @dataclass(frozen=True)
    class Trips(Pass):
        name = "trips"
        promise = Promise.EXACT

        def run(self, model, context):
            raise ValueError("shapes (63,) and (64,)")

    sound = make_model(MLP, MLP_SHAPES)
    with pytest.raises(BitfoldError, match=r"pass trips failed.*ValueError") as caught:
        Pipeline([Trips()], verify="off").run(sound)
    assert "fault of the pass" in caught.value.hint
    broken = make_model(MLP, {**MLP_SHAPES, "w_down": (41, 24)})
    with pytest.raises(ModelError, match="Incompatible dimensions"):
        Pipeline([Trips()], verify="off").run(broken)


def test_a_sample_without_a_finite_output_checks_nothing_and_the_report_says_so():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 24] x) => (float[n, 8] y, float[n, 24] z) {
        l = Log (x)  y = MatMul (l, w)  z = Neg (x)
    }"""
    model = make_model(text, {"w": (24, 8)})
    below, above = ({"x": np.full((1, 24), sign, np.float32)} for sign in (-1, 1))
    _, report = Pipeline([ScaleWeight("w", 1.0)], Context([below, above]), verify="full").run(model)
    (note,) = report.notes
    assert note.startswith("output 'y' has no finite number on sample 0:")


def test_the_recorded_recipe_has_the_passes_that_were_kept():
    model = make_model(NORMED, NORMED_SHAPES)
    recipe = [FoldGain("w_b"), FoldGain(), ScaleWeight("w_a", 1.0)]
    result, report = Pipeline(recipe).run(model)
    assert report.rolled_back == report.passes[:1]
    text = result.metadata_props["bitfold.recipe"]
    assert text == format_text(Recipe(tuple(recipe[1:])))
    assert report.recipe == format_text(Recipe(tuple(recipe)))
    again, replayed = Pipeline(recipe[1:], verify="off").run(model)
    assert not replayed.rolled_back
    assert ir.to_proto(again) == ir.to_proto(result)


@pytest.mark.parametrize("verify", ["off", "fast"])
def test_samples_that_do_not_fit_are_refused_at_every_level(verify):
    model = make_model(MLP, MLP_SHAPES)
    with pytest.raises(CalibrationError, match="sample 0"):
        Pipeline([ScaleWeight()], Context([{"x": np.zeros(3)}]), verify=verify).run(model)


def test_digests_tell_samples_apart():
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(["a", "bc"], object)
    first = digest_of([{"x": x, "y": y}])
    assert first == digest_of([{"y": y.copy(), "x": np.asfortranarray(x)}])
    others = [{"x": x.reshape(3, 2), "y": y}, {"x": x.view(np.int32), "y": y}, {"z": x, "y": y}]
    others += [{"x": x, "y": np.array(["a", "bd"], object)}]
    assert len({first, digest_of([]), *(digest_of([other]) for other in others)}) == 6
