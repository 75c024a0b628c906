"""Which sites are left in float because nothing would be won, and what the others weigh."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bitfold.passes.core.context import Context
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize

SMALL = "its weight is too small to gain from it"
SHORT = "its table has rows too short for a scale, and little to gain"
PADDED = "its weight would be no smaller with its padding"


def model_with(body: str, shape: tuple[int, ...]) -> ir.Model:
    axes = "float[n, c, h, w]" if len(shape) == 4 else "float[n, c]"
    inputs = f"{axes} x, int64[m] i"
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23]> g ({inputs}) => (float[n, p] y) {{ {body} }}'
    )
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
    return ir.from_proto(model)


@pytest.mark.parametrize(
    ("body", "shape", "weights", "reason", "detail"),
    [
        ("y = Gather(w, i)", (2000, 4), "int4", SHORT, "2000 x 4"),
        ("y = Gather(w, i)", (2000, 15), "int8", SHORT, "2000 x 15"),
        ("y = MatMul(x, w)", (31, 33), "int4", SMALL, "33 x 31"),
        ("y = MatMul(x, w)", (4, 512), "int4", PADDED, "512 x 4: 9728 bytes, and 8192 in float"),
        ("y = Conv<group = 32>(x, w)", (64, 2, 3, 3), "int4", PADDED, " 4608 in float"),
        ("y = Conv(x, w)", (64, 3, 3, 3), "int8", PADDED, " 6912 in float"),
    ],
)
def test_sites_that_would_not_shrink_stay_float(body, shape, weights, reason, detail):
    model = model_with(body, shape)
    with Context() as context:
        assert not Quantize(weights=weights).run(model, context)
    (skip,) = context.entry.skips
    assert skip.text == reason  # alike for all such sites: reports group by it
    assert detail in skip.detail
    assert [node.op_type for node in model.graph] == [body.split("(")[0].split("<")[0][4:]]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scales", ["f16", "f32"])
@pytest.mark.parametrize(
    ("body", "shape", "weights"),
    [
        ("y = Gather(w, i)", (2000, 16), "int4"),
        ("y = MatMul(x, w)", (100, 37), "int3"),
        ("y = Gemm<transB = 1>(x, w)", (37, 100), "int8"),
        ("y = Conv(x, w)", (33, 40, 3, 3), "int4"),
        ("y = Conv<group = 2>(x, w)", (36, 32, 1, 1), "int8"),
        ("y = Conv<group = 128>(x, w)", (128, 1, 3, 3), "int4"),
    ],
)
def test_the_report_has_the_bytes_of_the_packed_weight(body, shape, weights, scales, symmetric):
    model = model_with(body, shape)
    with Context() as context:
        quantize = Quantize(weights=weights, scales=scales, symmetric=symmetric)
        assert quantize.run(model, context)
        (record,) = context.entry.sites
        Lower().run(model, context)
    parts = (".packed", ".tiled_scales", ".tiled_zero_points")
    values = model.graph.initializers.values()
    found = sum(v.const_value.nbytes for v in values if v.name.endswith(parts))
    assert record.bytes_after == found
    assert record.bytes_before == 4 * int(np.prod(shape))
