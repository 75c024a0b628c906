"""What the tests of passes that scale channels share."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from support.graphs import assert_same, parse, run

from bitfold.passes.core.base import Pass
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import to_original, to_own
from bitfold.passes.core.report import PassEntry

RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def outliers(size: int, places: tuple[int, ...], strength: float = 50.0) -> np.ndarray:
    found = np.ones(size, np.float32)
    found[list(places)] = strength
    return found


def apply_exactly(item: Pass, model: ir.Model, samples: list[dict[str, np.ndarray]]) -> PassEntry:
    """Run a pass with sample inputs in place; checks that the outputs stay."""
    before = [in_original(model, feeds) for feeds in samples]
    with Context(calibration=samples) as context:
        context.entry = PassEntry(item.name, {}, item.promise.value)
        item.run(model, context)
    for feeds, expected in zip(samples, before, strict=True):
        assert_same(expected, in_original(model, feeds), 1e-5)
    return context.entry


def in_original(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs in the coordinates that the model had at first."""
    found = run(model, to_own(model.graph.inputs, feeds))
    return to_original(model.graph.outputs, found)


def array(model: ir.Model, name: str) -> np.ndarray:
    """An initializer."""
    return model.graph.initializers[name].const_value.numpy()


def input_named(model: ir.Model, name: str) -> ir.Value:
    """A graph input."""
    return next(value for value in model.graph.inputs if value.name == name)


def twin(model: ir.Model, other: ir.Model) -> ir.Model:
    """``other``, of the same graph, with the weights of ``model``."""
    for name, value in other.graph.initializers.items():
        value.const_value = model.graph.initializers[name].const_value
    return other


RMS = "RMSNormalization<axis = -1>(x, gain)"
LAYER = "LayerNormalization<axis = -1>(x, gain, bias)"
PLAIN_LAYER = "LayerNormalization<axis = -1>(x, gain)"


def normed(
    norm: str = RMS, places: tuple[int, ...] = (3, 9), strength: float = 50.0, shy: float = 0.0
) -> ir.Model:
    """Outliers in the gain; the weights that read them are smaller by strength**shy."""
    own = {"bias": f(64)} if norm == LAYER else {}
    gain = outliers(64, places, strength)
    wy, wz = (f(64, 40) / gain[:, None] ** shy for _ in range(2))
    return parse(
        f"""g (float[b, s, 64] u) => (float[b, s, 40] y, float[b, s, 40] z) {{
            x = MatMul(u, v)
            n = {norm}
            y = MatMul(n, wy)
            z = MatMul(n, wz)
        }}""",
        gain=gain,
        v=f(64, 64),
        wy=wy,
        wz=wz,
        **own,
    )


def cached(
    strength: float = 50.0, keys: float = 1.0, queries: float = 1.0, rotary: bool = False
) -> ir.Model:
    """Attention with two K/V heads for four, and caches; outliers in values, keys, queries."""
    turn = """
        qs = RotaryEmbedding(qt, cos, sin, ids)
        ks = RotaryEmbedding(kt, cos, sin, ids)"""
    names = ("qs", "ks") if rotary else ("qt", "kt")
    angles = np.outer(np.arange(64), 100.0 ** (-np.arange(8) / 8)).astype(np.float32)
    tables = {"cos": np.cos(angles), "sin": np.sin(angles)} if rotary else {}
    ids = ", int64[b, s] ids" if rotary else ""
    return parse(
        f"""g (float[b, s, 24] x, float[b, 2, p, 16] pk, float[b, 2, p, 16] pv{ids})
            => (float[b, s, 24] y, float[b, 2, t, 16] nk, float[b, 2, t, 16] nv) {{
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            qr = Reshape(q, to_q)
            qt = Transpose<perm = [0, 2, 1, 3]>(qr)
            kr = Reshape(k, to_kv)
            kt = Transpose<perm = [0, 2, 1, 3]>(kr)
            vr = Reshape(v, to_kv)
            vt = Transpose<perm = [0, 2, 1, 3]>(vr){turn if rotary else ""}
            o, nk, nv = Attention({names[0]}, {names[1]}, vt, , pk, pv)
            ot = Transpose<perm = [0, 2, 1, 3]>(o)
            flat = Reshape(ot, to_flat)
            y = MatMul(flat, wo)
        }}""",
        wq=f(24, 64) / 5 * outliers(64, (1, 17, 34, 50), queries),
        wk=f(24, 32) / 5 * outliers(32, (1, 18, 9), keys),
        wv=f(24, 32) * outliers(32, (2, 20), strength),
        wo=f(64, 24),
        to_q=np.array([0, 0, 4, 16]),
        to_kv=np.array([0, 0, 2, 16]),
        to_flat=np.array([0, 0, 64]),
        **tables,
    )


def past(rotary: bool = False) -> dict[str, np.ndarray]:
    """Inputs of :func:`cached`."""
    feeds = {"x": f(1, 30, 24), "pk": f(1, 2, 4, 16), "pv": f(1, 2, 4, 16)}
    return {**feeds, "ids": np.arange(30)[None]} if rotary else feeds
