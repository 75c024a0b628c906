"""The sound models that the fuzzer breaks: small, and of every form that import knows."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx import TensorProto, numpy_helper

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support.tiny_gguf import write_gguf  # noqa: E402

Files = dict[str, bytes]
"""A model's files; the first one is the model."""


def text_model(body: str, opset: int, ir_version: int = 8, **weights: np.ndarray) -> Files:
    """A model in ONNX's text form with weights."""
    header = f'<ir_version: {ir_version}, opset_import: ["": {opset}, "local": 1]>\n'
    proto = onnx.parser.parse_model(header + body)
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return {"m.onnx": proto.SerializeToString(deterministic=True)}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded float32 weights."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)


def mlp() -> Files:
    return text_model(
        """g (float[n, 32] x) => (float[n, 32] y) {
            a = MatMul(x, w1)
            b = Add(a, b1)
            c = Relu(b)
            w = Transpose<perm = [1, 0]>(w2)
            y = MatMul(c, w)
        }""",
        17,
        w1=normal(32, 48),
        b1=normal(48),
        w2=normal(32, 48, seed=1),
    )


def convolutions() -> Files:
    return text_model(
        """g (float[n, 3, 12, 12] image) => (float[n, 10] scores) {
            a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(image, w1)
            b = BatchNormalization(a, s, t, m, v)
            c = Clip(b, low, high)
            d = Conv<pads = [1, 1, 1, 1], group = 16>(c, w2)
            e = Relu(d)
            f = Conv(e, w3)
            p = GlobalAveragePool(f)
            q = Flatten(p)
            scores = Gemm<transB = 1>(q, w4, b4)
        }""",
        13,
        w1=normal(16, 3, 3, 3),
        s=np.ones(16, np.float32),
        t=normal(16),
        m=normal(16, seed=1),
        v=np.ones(16, np.float32),
        low=np.zeros((), np.float32),
        high=np.full((), 6, np.float32),
        w2=normal(16, 1, 3, 3),
        w3=normal(64, 16, 1, 1),
        w4=normal(10, 64),
        b4=normal(10),
    )


def old_opset() -> Files:
    return text_model(
        """g (float[n, 4, 8, 8] x) => (float[n, 20] y, float[n, 3] top, int64[n, 3] at) {
            a = Clip<min = 0.0, max = 6.0>(x)
            b = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1], value = 0.5>(a)
            c = Slice<axes = [2, 3], starts = [1, 1], ends = [9, 9]>(b)
            d = Upsample<mode = "nearest">(c, scales)
            e = MaxPool<kernel_shape = [4, 4], strides = [4, 4]>(d)
            f = Flatten(e)
            g = MatMul(f, w)
            h, mask = Dropout<ratio = 0.1>(g)
            y = Softmax(h)
            top, at = TopK<k = 3>(y)
        }""",
        9,
        5,
        scales=np.array([1, 1, 2, 2], np.float32),
        w=normal(64, 20),
    )


def control_flow() -> Files:
    return text_model(
        """g (float[n, 32] x, bool c) => (float[n, 32] y) {
            h = If (c) <
                then_branch = t () => (float[n, 32] a) { a = MatMul(x, outer) },
                else_branch = e () => (float[n, 32] b) { k = Constant<value_float = 2.0>()
                    m = MatMul(x, outer)
                    b = Mul(m, k) }
            >
            y = Loop (trips, go, h) <
                body = l (int64 i, bool on, float[n, 32] s) => (bool still, float[n, 32] next) {
                    still = Identity(on)
                    r = MatMul(s, inner)
                    next = Tanh(r)
                }
            >
        }""",
        17,
        outer=normal(32, 32),
        inner=normal(32, 32, seed=1),
        trips=np.array(2, np.int64),
        go=np.array(True),
    )


def functions() -> Files:
    files = text_model(
        """g (float[n, 32] x) => (float[n, 32] y) {
            a = local.Layer<at = 1>(x, w1)
            y = local.Layer<at = -1>(a, w2)
        }
        <domain: "local", opset_import: ["": 15]>
        Layer<at>(x, w) => (y) {
            a = MatMul(x, w)
            y = Softmax<axis: int = @at>(a)
        }""",
        18,
        w1=normal(32, 48),
        w2=normal(48, 32),
    )
    return files


def attention() -> Files:
    return text_model(
        """g (int64[b, s] input_ids, float[b, 1, s, s] mask) => (float[b, s, 40] logits) {
            x = Gather(embedding, input_ids)
            mean = ReduceMean<axes = [-1]>(x)
            d = Sub(x, mean)
            sq = Pow(d, two)
            var = ReduceMean<axes = [-1]>(sq)
            eps = Add(var, epsilon)
            std = Sqrt(eps)
            norm = Div(d, std)
            n = Mul(norm, gain)
            q0 = MatMul(n, wq)
            k0 = MatMul(n, wk)
            v0 = MatMul(n, wv)
            q1 = Reshape(q0, heads)
            k1 = Reshape(k0, heads)
            v1 = Reshape(v0, heads)
            q = Transpose<perm = [0, 2, 1, 3]>(q1)
            k = Transpose<perm = [0, 2, 3, 1]>(k1)
            v = Transpose<perm = [0, 2, 1, 3]>(v1)
            qk = MatMul(q, k)
            scaled = Mul(qk, scale)
            masked = Add(scaled, mask)
            p = Softmax<axis = -1>(masked)
            o = MatMul(p, v)
            o1 = Transpose<perm = [0, 2, 1, 3]>(o)
            o2 = Reshape(o1, joined)
            o3 = MatMul(o2, wo)
            res = Add(o3, x)
            g1 = MatMul(res, wg)
            g2 = Sigmoid(g1)
            g3 = Mul(g1, g2)
            u = MatMul(res, wu)
            m = Mul(g3, u)
            f = MatMul(m, wd)
            out = Add(f, res)
            head = Transpose<perm = [1, 0]>(embedding)
            logits = MatMul(out, head)
        }""",
        17,
        embedding=normal(40, 32),
        two=np.array(2, np.float32),
        epsilon=np.array(1e-5, np.float32),
        gain=np.ones(32, np.float32),
        wq=normal(32, 32),
        wk=normal(32, 32, seed=1),
        wv=normal(32, 32, seed=2),
        heads=np.array([0, 0, 4, 8], np.int64),
        scale=np.array(8**-0.5, np.float32),
        joined=np.array([0, 0, 32], np.int64),
        wo=normal(32, 32, seed=3),
        wg=normal(32, 48),
        wu=normal(32, 48, seed=1),
        wd=normal(48, 32),
    )


def half() -> Files:
    return text_model(
        """g (float16[n, 32] x) => (float16[n, 32] y) {
            c = Cast<to = 1>(x)
            f = Cast<to = 10>(c)
            a = MatMul(f, w1)
            s = Reshape(w2, to)
            y = MatMul(a, s)
        }""",
        17,
        w1=normal(32, 48).astype(np.float16),
        w2=normal(48 * 32).astype(np.float16),
        to=np.array([48, 32], np.int64),
    )


def quantized() -> Files:
    return text_model(
        """g (float[n, 32] x) => (float[n, 32] y) {
            xq = QuantizeLinear(x, xs, xz)
            xd = DequantizeLinear(xq, xs, xz)
            wd = DequantizeLinear<axis = 1>(codes, scales, zeros)
            a = MatMul(xd, wd)
            y = MatMul(a, w)
        }""",
        13,
        xs=np.array(0.05, np.float32),
        xz=np.array(128, np.uint8),
        codes=np.arange(32 * 48, dtype=np.int64).reshape(32, 48).astype(np.int8),
        scales=np.full(48, 0.01, np.float32),
        zeros=np.zeros(48, np.int8),
        w=normal(48, 32),
    )


def external() -> Files:
    files = mlp()
    proto = onnx.ModelProto.FromString(files["m.onnx"])
    data = io.BytesIO()
    for tensor in proto.graph.initializer:
        data.write(b"\0" * (-data.tell() % 64))
        entries = {"location": "m.data", "offset": data.tell(), "length": len(tensor.raw_data)}
        data.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    return {"m.onnx": proto.SerializeToString(deterministic=True), "m.data": data.getvalue()}


def recurrent() -> Files:
    return text_model(
        """g (float[t, n, 16] x) => (float[t, n, 72] y) {
            h, last, cell = LSTM<hidden_size = 16>(x, w, r)
            s = Squeeze(h, at)
            y = MatMul(s, v)
        }""",
        14,
        w=normal(1, 64, 16),
        r=normal(1, 64, 16, seed=1),
        at=np.array([1], np.int64),
        v=normal(16, 72),
    )


def shapes() -> Files:
    """Shapes that are computed, as exporters write them."""
    return text_model(
        """g (float[b, s, 32] x) => (float[b, s, 4, 12] y) {
            shape = Shape(x)
            b = Gather(shape, zero)
            s = Gather(shape, one)
            b1 = Unsqueeze(b, axis)
            s1 = Unsqueeze(s, axis)
            to = Concat<axis = 0>(b1, s1, four, twelve)
            a = MatMul(x, w)
            grown = Expand(bias, one_row)
            c = Add(a, grown)
            y = Reshape(c, to)
        }""",
        16,
        zero=np.array(0, np.int64),
        one=np.array(1, np.int64),
        axis=np.array([0], np.int64),
        four=np.array([4], np.int64),
        twelve=np.array([12], np.int64),
        w=normal(32, 48),
        bias=normal(48),
        one_row=np.array([1, 48], np.int64),
    )


def gguf() -> Files:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(Path(folder) / "m.gguf")
        return {"m.gguf": path.read_bytes()}


def low_bit() -> Files:
    """A model that bitfold wrote."""
    from bitfold.passes.core.pipeline import Pipeline

    model = ir.from_proto(onnx.ModelProto.FromString(mlp()["m.onnx"]))
    converted, _ = Pipeline("quantize{weights=int8 group=16}, lower", verify="off").run(model)
    return {"m.onnx": ir.to_proto(converted).SerializeToString(deterministic=True)}


SEEDS: tuple[Callable[[], Files], ...] = (
    mlp,
    convolutions,
    old_opset,
    control_flow,
    functions,
    attention,
    half,
    quantized,
    external,
    recurrent,
    shapes,
    gguf,
    low_bit,
)
