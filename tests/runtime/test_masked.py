"""The masked layout against its specification, and its function body against the oracle."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lowbit_nodes import Case, matmul_model

from bitfold.runtime.layouts.masked import masked_size, pack_masked, unpack_masked
from bitfold.runtime.layouts.tiles import packed_size
from bitfold.runtime.ops.lowbit_matmul import LowBitMatMul
from bitfold.runtime.ops.packed import PackedWeight


@given(
    bits=st.integers(1, 8),
    n=st.integers(1, 40),
    k=st.integers(1, 80),
    share=st.sampled_from([0, 0.1, 0.5, 0.9, 1]),
    seed=st.integers(0, 2**31),
)
def test_kept_codes_come_back(bits, n, k, share, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (n, k)).astype(np.uint8)
    kept = rng.random((n, k)) < share
    packed = pack_masked(codes, kept, bits)
    assert packed.size == masked_size(kept, bits)
    found, mask = unpack_masked(packed, n, k, bits)
    assert np.array_equal(mask, kept)
    assert np.array_equal(found, np.where(kept, codes, 0))


def test_a_weight_lies_where_the_specification_says():
    """Output 3's input 6 is the 14th place of step 1; codes 5 and 9 come before it."""
    codes, kept = np.zeros((16, 32), np.uint8), np.zeros((16, 32), bool)
    for (row, column), code in {(0, 4): 5, (3, 5): 9, (3, 6): 12, (2, 0): 7}.items():
        codes[row, column], kept[row, column] = code, True
    packed = pack_masked(codes, kept, 4)
    masks = packed[:64].view("<u8")
    assert masks.tolist() == [1 << 8, 1 << 0 | 1 << 13 | 1 << 14, 0, 0, 0, 0, 0, 0]
    assert packed[64:-64].tolist() == [0x57, 0x90, 0xC0]
    assert not packed[-64:].any()


@pytest.mark.parametrize(("bits", "of_four", "size"), [(4, 2, 0.75), (4, 1, 0.5), (8, 1, 0.375)])
def test_even_sparsity_wastes_nothing(bits, of_four, size):
    kept = np.zeros((64, 256 // 4, 4), bool)
    rng = np.random.default_rng(0)
    order = rng.permuted(np.broadcast_to(np.arange(4), kept.shape), axis=2)
    kept = (order < of_four).reshape(64, 256)
    codes = rng.integers(0, 1 << bits, kept.shape).astype(np.uint8)
    assert pack_masked(codes, kept, bits).size == size * packed_size(64, 256, bits) + 64


def test_what_does_not_fit_is_refused():
    kept = np.ones((2, 40), bool)
    with pytest.raises(ValueError, match="code 8 does not fit in 3 bits"):
        pack_masked(np.full((2, 40), 8, np.uint8), kept, 3)
    with pytest.raises(ValueError, match=r"expected kept of shape \(2, 40\)"):
        pack_masked(np.zeros((2, 40), np.uint8), kept[:1], 3)
    packed = pack_masked(np.zeros((2, 40), np.uint8), kept, 3)
    with pytest.raises(ValueError, match="take"):
        unpack_masked(packed[:-1], 2, 40, 3)
    with pytest.raises(ValueError, match="16 masks"):
        unpack_masked(packed[:100], 2, 40, 3)


BODIES = [
    Case(20, 72, 4, 16, act_group=16, kept=0.5),
    Case(33, 70, 3, 32, acts="none", zero_points=True, zero_range=3, kept=0.3),
    Case(20, 70, 7, table=True, bias=True, kept=0.6),
    Case(70, 40, 8, activation="swiglu", kept=0.5),
    Case(17, 33, 6, acts="none", float_table=True, kept=0.2),
]


@pytest.mark.parametrize("case", BODIES, ids=str)
def test_body_agrees_with_the_oracle(case):
    weight = PackedWeight(
        case.n,
        case.k,
        case.bits,
        case.group_size,
        case.zero_points,
        case.table or case.float_table,
        paired=case.activation == "swiglu",
        masked=True,
    )
    made = LowBitMatMul(weight, case.acts, case.act_group or case.k, case.bias, case.activation)
    assert made.attributes() == case.attributes()
    inputs, function = case.weights(), made.function()
    model = matmul_model(case.attributes(), inputs)
    model.graph.node[0].overload = function.overload
    model.functions.append(ir.serde.serialize_function(function))
    model.opset_import[0].version = 23
    x = case.rows(3)
    y = ort.InferenceSession(model.SerializeToString()).run(None, {"X": x})[0]
    expected = case.expected(x, inputs)
    assert np.abs(y - expected).max() <= 1e-2 * np.abs(expected).max()
