"""Naming the first node that differs; telling rounding from error."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse
from support.small_models import (
    MLP,
    MLP_SHAPES,
    NORMED,
    NORMED_SHAPES,
    make_model,
    replace_weight,
    weight,
)

from bitfold.models.tiny.decoder import decoder
from bitfold.passes.core import noise as noise_module
from bitfold.passes.core import verify
from bitfold.passes.core.compare import Moved
from bitfold.passes.core.context import Context
from bitfold.passes.core.local_check import _longest_step, _too_far, local_difference
from bitfold.passes.core.noise import judge_outputs, rounding_floor, rounding_noise
from bitfold.passes.core.samples import prepare_samples
from bitfold.passes.core.stage import same_computation, snapshot
from bitfold.passes.core.verify import first_difference, verify_models
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import VerificationError
from bitfold.runtime.execution import open_session

FEEDS = {"x": np.random.default_rng(0).standard_normal((4, 24)).astype(np.float32)}


def test_equal_models_do_not_differ():
    model = make_model(MLP, MLP_SHAPES)
    assert first_difference(model, snapshot(model), FEEDS) is None


@pytest.mark.parametrize(
    ("name", "node"),
    [("w_up", "matmul_0"), ("b_up", "add_1"), ("w_down", "matmul_3"), ("w_head", "matmul_5")],
)
@pytest.mark.parametrize("chunk", [1, 256 << 20])
def test_node_of_each_changed_weight_is_named(name, node, chunk, monkeypatch):
    monkeypatch.setattr(verify, "CHUNK_BYTES", chunk)
    model = make_model(MLP, MLP_SHAPES)
    wrong = snapshot(model)
    replace_weight(wrong, name, weight(model, name) + 0.01)
    difference = first_difference(model, wrong, FEEDS)
    assert difference.node == node
    assert difference.error > 1e-4
    assert difference.added == ()


def test_every_matmul_of_a_decoder_is_found():
    model = decoder(0)
    (feeds, *_) = prepare_samples(model, Context(), open_session(model, optimize=False).run)
    for node in model.graph:
        if node.op_type != "MatMul" or node.inputs[1].const_value is None:
            continue
        wrong = snapshot(model)
        name = node.inputs[1].name
        replace_weight(wrong, name, weight(model, name) * 1.01)
        found = first_difference(model, wrong, feeds)
        readers = {user.name for user, _ in model.graph.initializers[name].uses()}
        assert found.node in readers, name


def test_new_nodes_on_the_way_are_told():
    model = make_model(MLP, MLP_SHAPES)
    wrong = snapshot(model)
    relu = next(node for node in wrong.graph if node.op_type == "Relu")
    down = next(node for node in wrong.graph if node.name == "matmul_3")
    one = ir.node("Sigmoid", [relu.outputs[0]], name="new_gate")
    two = ir.node("Mul", [relu.outputs[0], one.outputs[0]], name="new_product")
    one.outputs[0].name, two.outputs[0].name = "gate", "gated"
    wrong.graph.insert_before(down, [one, two])
    down.replace_input_with(0, two.outputs[0])
    difference = first_difference(model, wrong, FEEDS)
    assert difference.node == "matmul_3"
    assert difference.added == ("new_gate", "new_product")
    assert "through the new nodes new_gate, new_product" in str(difference)


def test_change_that_all_readers_undo_is_no_difference():
    model = make_model(NORMED, NORMED_SHAPES)
    folded = snapshot(model)
    gain = weight(model, "gain")
    for name in ("w_a", "w_b"):
        replace_weight(folded, name, gain[:, None] * weight(model, name))
    replace_weight(folded, "gain", np.ones_like(gain))
    assert first_difference(model, folded, FEEDS) is None
    # The norm itself is to blame once a reader other than a matched one sees the change.
    replace_weight(folded, "w_a", weight(model, "w_a"))
    assert first_difference(model, folded, FEEDS).node == "matmul_1"


def test_rounding_is_told_from_error():
    model = make_model(MLP, MLP_SHAPES)
    expected = open_session(model, optimize=False).run(FEEDS)
    floor = rounding_floor(model)
    assert 1e-6 < floor < 1e-4
    for factor, kept in ((1 + 1e-7, True), (1 + 1e-3, False)):
        other = snapshot(model)
        replace_weight(other, "w_head", weight(model, "w_head") * np.float32(factor))
        found = open_session(other, optimize=False).run(FEEDS)
        assert (judge_outputs(model, FEEDS, expected, found, None).reason is None) is kept


def test_noise_of_a_model_that_rounds_on_purpose_is_measured():
    """Codes at the edge of two levels fall either way: no floor would cover that."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 24] x) => (float[n, 24] y) {
        a = MatMul (x, w)  scaled = Mul (a, gain)  codes = Round (scaled)  y = MatMul (codes, v)
    }"""
    model = make_model(text, {"w": (24, 24), "gain": (24,), "v": (24, 24)})
    # Products that are exactly half a step: the smallest nudge decides.
    replace_weight(model, "w", np.eye(24))
    replace_weight(model, "gain", np.ones(24))
    feeds = {"x": np.random.default_rng(0).integers(-8, 8, (64, 24)).astype(np.float32) + 0.5}
    outputs = open_session(model, optimize=False).run(feeds)
    noise = rounding_noise(model, feeds, outputs)
    assert noise["y"].max_error > 100 * rounding_floor(model)
    nudged = snapshot(model)
    replace_weight(nudged, "gain", np.full(24, 1 + 2.0**-23))
    found = open_session(nudged, optimize=False).run(feeds)
    judgement = judge_outputs(model, feeds, outputs, found, None)
    assert judgement.reason is None
    assert judgement.chaotic
    assert local_difference(model, nudged, feeds) is None
    # An error far below the noise is found piece by piece.
    replace_weight(nudged, "v", weight(model, "v") * 1.01)
    found = open_session(nudged, optimize=False).run(feeds)
    assert judge_outputs(model, feeds, outputs, found, None).reason is None
    assert local_difference(model, nudged, feeds).value == "y"


def test_pieces_are_compared_where_noise_moves_every_value_far():
    """Two stages that make nearly equal inputs unlike: neither's values agree end to end."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 24] x) => (float[n, 24] y) {
        a = Mul (x, first)  p = Mul (a, far)  s = Sin (p)
        b = Mul (s, second)  q = Mul (b, far)  t = Sin (q)  y = MatMul (t, v)
    }"""
    shapes = {"first": (24,), "second": (24,), "far": (1,), "v": (24, 24)}
    model = make_model(text, shapes)
    for name in ("first", "second"):
        replace_weight(model, name, np.ones(24))
    replace_weight(model, "far", np.array([1e5]))
    feeds = {"x": np.random.default_rng(0).standard_normal((64, 24), np.float32)}
    other = snapshot(model)
    for name in ("first", "second"):
        replace_weight(other, name, np.full(24, 1 + 1e-4))
    assert local_difference(model, other, feeds) is None
    replace_weight(other, "v", weight(model, "v") * 1.01)
    assert local_difference(model, other, feeds) is not None


def test_half_precision_has_a_wider_floor_within_bounds():
    wide = make_model(MLP, MLP_SHAPES)
    half = snapshot(wide)
    for node in half.graph:
        node.outputs[0].dtype = ir.DataType.FLOAT16
    assert rounding_floor(wide) < rounding_floor(half) <= 1e-2


def test_verify_models_measures_and_refuses_lost_outputs():
    model = make_model(MLP, MLP_SHAPES)
    other = snapshot(model)
    replace_weight(other, "w_head", weight(model, "w_head") * 1.01)
    divergence = verify_models(model, other, [FEEDS, FEEDS])
    assert divergence.sqnr_db == pytest.approx(40, abs=0.01)
    other.graph.outputs[0].name = "scores"
    with pytest.raises(
        VerificationError, match=r"candidate: expected .*\['logits'\] of.*\['scores'\]"
    ):
        verify_models(model, other, [FEEDS])


def test_snapshots_share_tensors_and_nothing_else():
    model = make_model(MLP, MLP_SHAPES)
    copy = snapshot(model)
    assert same_computation(model, copy)
    tensor = model.graph.initializers["w_up"].const_value
    assert copy.graph.initializers["w_up"].const_value is tensor
    copy.graph.outputs[0].dtype = ir.DataType.FLOAT16
    copy.graph.outputs[0].shape = ir.Shape([1])
    copy.graph[0].name = "other"
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert model.graph.outputs[0].shape.rank() == 2
    assert model.graph[0].name == "matmul_0"


def test_same_computation_sees_every_change():
    def changed(edit):
        model = make_model(MLP, MLP_SHAPES)
        copy = snapshot(model)
        edit(copy)
        return not same_computation(model, copy)

    def swap_inputs(model):
        node = model.graph[4]
        a, b = node.inputs
        node.replace_input_with(0, b)
        node.replace_input_with(1, a)

    assert changed(swap_inputs)
    assert changed(lambda m: replace_weight(m, "w_up", weight(m, "w_up")))
    assert changed(lambda m: m.graph[2].attributes.add(ir.AttrInt64("axis", 1)))
    assert changed(lambda m: setattr(m.graph[2], "op_type", "Abs"))
    assert changed(lambda m: m.graph.opset_imports.update({"": 22}))
    assert not changed(lambda m: m.metadata_props.update({"a": "b"}))
    assert not changed(lambda m: setattr(m.graph[2], "name", "other"))


def test_a_mask_with_the_lowest_number_is_not_moved_to_infinity():
    model = parse(
        """g (float[2, 6] x, float[2, 6] hidden) => (float[2, 6] y) {
            fill = Mul(hidden, lowest)
            scores = Add(x, fill)
            y = Softmax<axis = -1>(scores)
        }""",
        lowest=np.array(np.finfo(np.float32).min),
    )
    hidden = np.array([[0, 0, 0, 0, 1, 1], [0] * 6], np.float32)
    feeds = {"x": FEEDS["x"][:2, :6], "hidden": hidden}
    outputs = open_session(model).run(feeds)
    for seed in range(8):
        assert rounding_noise(model, feeds, outputs, seed)["y"].max_error < 1e-5


def test_noise_is_drawn_again_before_a_pass_is_blamed(monkeypatch):
    """One token on an edge: some draws of the noise move it, others do not."""
    model = make_model(MLP, MLP_SHAPES)
    expected = open_session(model, optimize=False).run(FEEDS)
    found = {name: array * np.float32(1 + 1e-3) for name, array in expected.items()}
    for last, kept, count in ((0, True, 1), (2, True, 3), (noise_module.DRAWS, False, 4)):
        noise = [Moved(1e-7, 1e-7)] * last + [Moved(1e-3, 1e-3)]
        seeds = []

        def drawn(model, feeds, outputs, seed=0, noise=noise, seeds=seeds):
            seeds.append(seed)
            return dict.fromkeys(outputs, noise[seed])

        monkeypatch.setattr(noise_module, "rounding_noise", drawn)
        assert (judge_outputs(model, FEEDS, expected, found, None).reason is None) is kept
        assert seeds == list(range(count))


@pytest.mark.parametrize(("acts", "step"), [("none", 1.0), ("int8", 1.0), ("int4", 127 / 7)])
def test_codes_of_few_bits_may_fall_further(acts, step):
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    model = parse("g (float[b, 64] x) => (float[b, 32] y) { y = MatMul(x, w) }", w=weight)
    apply(Quantize(acts=acts), model)
    assert _longest_step(model.graph) == step
    one_code = Moved(max_error=0.02, rms_error=4e-3)
    assert _too_far(one_code, _longest_step(model.graph)) == (acts != "int4")
    assert _too_far(Moved(max_error=1.5, rms_error=4e-3), step)
    assert _too_far(Moved(max_error=0.02, rms_error=0.1), step)
