"""Synthesized samples fit the graph; the user's are checked against it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.small_models import LM, LM_SHAPES, MLP, MLP_SHAPES, make_model, replace_weight

from bitfold.models.tiny.bert import bert
from bitfold.models.tiny.cnn import cnn
from bitfold.models.tiny.decoder import decoder
from bitfold.models.tiny.vit import vit
from bitfold.passes.core.context import Context
from bitfold.passes.core.sample_sizes import Sizes
from bitfold.passes.core.samples import check_feeds, prepare_samples, synthesize
from bitfold.runtime.errors import CalibrationError, ModelError
from bitfold.runtime.execution import open_session


def prepared(model, seed=0):
    return prepare_samples(model, Context(seed=seed), open_session(model, optimize=False).run)


def test_language_model_inputs():
    first, second, third = prepared(make_model(LM, LM_SHAPES))
    assert first["input_ids"].shape == (1, 12)
    assert first["past_key_values_0"].shape == (1, 2, 0, 4)
    assert first["position_ids"].tolist() == [list(range(12))]
    assert second["past_key_values_0"].shape == (1, 2, 12, 4)
    assert second["attention_mask"].shape == (1, 16)
    assert second["attention_mask"].all()
    assert second["position_ids"].tolist() == [[12, 13, 14, 15]]
    assert third["past_key_values_0"].shape == (2, 2, 12, 4)
    assert third["attention_mask"].shape == (2, 13)
    assert third["position_ids"].tolist() == [[12], [12]]
    for feeds in (first, second, third):
        ids = feeds["input_ids"]
        assert ids.min() >= 0
        assert ids.max() < LM_SHAPES["embedding"][0]


def test_seed_decides_and_nothing_else():
    model = make_model(LM, LM_SHAPES)
    a, b, c = prepared(model, 1), prepared(model, 1), prepared(model, 2)
    assert all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)
    assert not np.array_equal(a[0]["input_ids"], c[0]["input_ids"])


@pytest.mark.parametrize("make", [decoder, bert, vit, cnn])
def test_tiny_models_get_samples_that_fit_and_run(make):
    model = make(seed=0)
    samples = prepared(model)
    assert len(samples) == (3 if make is decoder else 2)
    for feeds in samples:
        check_feeds(model.graph, feeds, "sample")
        outputs = open_session(model, optimize=False).run(feeds)
        assert all(np.isfinite(array).all() for array in outputs.values())


def test_every_type_of_input():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (bool flag, float16[n, 3] half, int32[n] few, float[3] gain, uint8[2, n] bytes,
       int64 count) => (float16[n, 3] a, int32[n] b, float[3] c, uint8[2, n] d, bool e, int64 f) {
        a = Neg (half)  b = Neg (few)  c = Neg (gain)
        d = Identity (bytes)  e = Not (flag)  f = Neg (count)
    }"""
    model = make_model(text, {})
    feeds = synthesize(model.graph, Sizes(2, 5, 7), np.random.default_rng(0))
    assert {name: str(a.dtype) for name, a in feeds.items()} == {
        "flag": "bool", "half": "float16", "few": "int32", "gain": "float32", "bytes": "uint8",
        "count": "int64",
    }  # fmt: skip
    assert feeds["half"].shape[0] == feeds["few"].shape[0] == feeds["bytes"].shape[1]
    open_session(model, optimize=False).run(feeds)


def test_indices_stay_within_the_shortest_table_behind_casts():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (int32[n] which) => (float[n, 2] y) {
        wide = Cast <to = 7> (which)  a = Gather (long, wide)  b = Gather (short, wide)
        y = Add (a, b)
    }"""
    model = make_model(text, {"long": (100, 2), "short": (3, 2)})
    for seed in range(5):
        assert all(feeds["which"].max() < 3 for feeds in prepared(model, seed))


def test_sizes_that_do_not_run_give_way_to_those_that_do():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[rows, 4] x) => (float[1, 4] y) { y = Reshape (x, one) }"""
    model = make_model(text, {})
    one = np.array([1, 4])
    value = ir.Value(name="one", const_value=ir.tensor(one, name="one"))
    value.dtype = ir.DataType.INT64
    value.shape = ir.Shape([2])
    model.graph[0].replace_input_with(1, value)
    model.graph.register_initializer(value)
    samples = prepared(model)  # a batch of two does not fit into one row
    assert [feeds["x"].shape for feeds in samples] == [(1, 4), (1, 4)]


def test_model_that_runs_on_nothing_asks_for_samples():
    def refuse(feeds):
        raise ModelError("node 'reshape' failed")

    with pytest.raises(CalibrationError, match="no synthesized input runs: node 'reshape'") as e:
        prepare_samples(make_model(MLP, MLP_SHAPES), Context(), refuse)
    assert "pass sample inputs" in e.value.hint


def lm_feeds(**changes):
    feeds = {
        "input_ids": np.zeros((2, 3), np.int64),
        "attention_mask": np.ones((2, 3), np.int64),
        "position_ids": np.zeros((2, 3), np.int64),
        "past_key_values_0": np.zeros((2, 2, 0, 4), np.float32),
    }
    feeds.update(changes)
    return {name: array for name, array in feeds.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": None}, "expected inputs ['input_ids', 'attention_mask'"),
        ({"labels": np.zeros(1)}, "found ['input_ids', 'attention_mask', 'position_ids'"),
        ({"input_ids": np.zeros((2, 3), np.int32)}, "expected type int64, found int32"),
        ({"input_ids": np.zeros(3, np.int64)}, "expected shape [batch_size,sequence_length]"),
        ({"past_key_values_0": np.zeros((2, 3, 0, 4), np.float32)}, "expected 2 along axis 1"),
        ({"position_ids": np.zeros((2, 5), np.int64)}, "expected 3 along axis 1 (sequence_length"),
        ({"past_key_values_0": np.full((2, 2, 1, 4), np.nan, np.float32)}, "found NaN"),
        ({"past_key_values_0": np.full((2, 2, 1, 4), np.inf, np.float32)}, "infinity"),
    ],
)
def test_misfits_are_refused_with_expected_and_found(changes, message):
    model = make_model(LM, LM_SHAPES)
    check_feeds(model.graph, lm_feeds(), "sample 0")
    context = Context([lm_feeds(), lm_feeds(**changes)])
    with pytest.raises(CalibrationError) as caught:
        prepare_samples(model, context, lambda feeds: None)
    assert message in str(caught.value)
    assert str(caught.value).startswith("sample 1")


def test_fitting_samples_are_taken_as_they_are():
    given = [lm_feeds()]
    assert prepare_samples(make_model(LM, LM_SHAPES), Context(given), print) == given


def test_language_model_writes_its_own_samples_and_cache():
    model = make_model(LM, LM_SHAPES)
    execution = open_session(model, optimize=False)
    prompt, continuation, step = prepared(model)
    left = execution.run(prompt)["present_0"]
    assert np.array_equal(continuation["past_key_values_0"], left)
    assert np.array_equal(step["past_key_values_0"], np.concatenate([left, left]))
    # The continuation from the cache is what one run over all tokens gives.
    whole = {
        "input_ids": np.concatenate([prompt["input_ids"], continuation["input_ids"]], axis=1),
        "attention_mask": continuation["attention_mask"],
        "position_ids": np.arange(16)[None],
        "past_key_values_0": prompt["past_key_values_0"],
    }
    keys = execution.run(whole)["present_0"]
    np.testing.assert_allclose(execution.run(continuation)["present_0"], keys, atol=1e-6)


def test_generated_tokens_follow_the_model_s_distribution():
    """A head that gives all probability to the next number makes the model count."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (int64[b, s] input_ids) => (float[b, s, 40] logits) {
        h = Gather (table, input_ids)  logits = MatMul (h, head)
    }"""
    model = make_model(text, {"table": (40, 40), "head": (40, 40)})
    replace_weight(model, "table", np.eye(40))
    replace_weight(model, "head", 100 * np.roll(np.eye(40), 1, axis=1))
    (feeds,) = prepared(model)
    ids = feeds["input_ids"][0]
    assert np.array_equal(np.diff(ids) % 40, np.ones(len(ids) - 1))


def test_a_mask_may_hold_minus_infinity():
    mask = ir.val("attn_mask", ir.DataType.FLOAT, (2,))
    graph = ir.Graph([mask], [], nodes=[])
    check_feeds(graph, {"attn_mask": np.array([0, -np.inf], np.float32)}, "sample 0")
    for wrong in (np.inf, np.nan):
        with pytest.raises(CalibrationError, match="NaN or infinity"):
            check_feeds(graph, {"attn_mask": np.array([0, wrong], np.float32)}, "sample 0")


READERS = {
    "matmul": ("y = MatMul(x, w)", (24, 8), (2, 24)),
    "matmul behind Relu": ("r = Relu(x) y = MatMul(r, w)", (24, 8), (2, 24)),
    "gemm": ("y = Gemm(x, w)", (24, 8), (2, 24)),
    "gemm transposed": ("y = Gemm<transB = 1>(x, w)", (8, 24), (2, 24)),
    "image": ("y = Conv(x, w)", (8, 6, 3, 3), (2, 6, 64, 64)),
    "grouped": ("y = Conv<group = 2>(x, w)", (8, 3, 3, 3), (2, 6, 64, 64)),
    "signal": ("y = Conv(x, w)", (8, 6, 3), (2, 6, 5)),
    "transposed": ("y = ConvTranspose(x, w)", (6, 8, 3, 3), (2, 6, 64, 64)),
}


@pytest.mark.parametrize("shape", [None, "?"])
@pytest.mark.parametrize("name", READERS)
def test_readers_tell_the_shape_where_the_input_does_not(name, shape):
    """Files without shape information, and ones with nothing but free dimensions."""
    lines, dims, expected = READERS[name]
    rank = "" if shape is None else "[" + ",".join(["?"] * len(expected)) + "]"
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float{rank} x) => (float y) {{ {lines} }}"""
    model = make_model(text, {"w": dims})
    if shape is None:
        model.graph.inputs[0].shape = None
    feeds = synthesize(model.graph, Sizes(2, 5, 0), np.random.default_rng(0))
    assert feeds["x"].shape[1] == expected[1]
    assert feeds["x"].ndim == len(expected)
    with Context() as context:
        assert prepare_samples(model, context, open_session(model).run)


def test_inputs_larger_than_memory_are_not_made():
    value = ir.val("x", ir.DataType.FLOAT, (1 << 20, 1 << 20))
    graph = ir.Graph([value], [], nodes=[])
    with pytest.raises(CalibrationError, match=r"'x' of shape .* takes 4194304 MiB"):
        synthesize(graph, Sizes(1, 4, 0), np.random.default_rng(0))


def test_a_model_that_gives_nothing_but_nan_still_gets_samples():
    model = make_model(LM, LM_SHAPES)
    replace_weight(model, "w_head", np.full(LM_SHAPES["w_head"], np.nan))
    with Context() as context:
        samples = prepare_samples(model, context, open_session(model).run)
    assert samples
    assert all((feeds["input_ids"] < 50).all() for feeds in samples)


@pytest.mark.parametrize("name", ["?", "None", "n"])
def test_a_name_that_tells_nothing_is_no_one_length(name):
    """A model that takes any image is also run on one that is no square."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[b, 3, h, w] x) => (float[p, q, r, s] y) { y = Neg (x) }"""
    model = make_model(text, {})
    model.graph.inputs[0].shape = ir.Shape([name, 3, name, name])
    first, second = prepared(model)
    expected = (1, 3, 64, 64) if name != "n" else (1, 3, 1, 1)  # by the name, where it is one
    assert first["x"].shape == expected
    assert second["x"].shape == (2, 3, 64, 96)
    check_feeds(model.graph, {"x": np.ones((2, 3, 8, 10), np.float32)}, "sample")


def test_axes_differ_only_where_the_model_runs():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[b, 3, h, w] x, float[k, m, l0] z) => (float[p, q, r, s] y, float[k, m, l0] u) {
        t = Transpose <perm = [0, 1, 3, 2]> (x)  y = Add (x, t)  u = Neg (z)
    }"""
    first, second = prepared(make_model(text, {}))
    assert first["x"].shape == (1, 3, 64, 64)
    assert second["x"].shape == (2, 3, 64, 64)
    _, second = prepared(make_model(text.replace("y = Add (x, t)", "y = Neg (t)"), {}))
    assert second["x"].shape == (2, 3, 64, 96)
    assert second["z"].shape == (2, 9, 10)
