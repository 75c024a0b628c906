"""What LowBitMatMul's prologue takes in, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, parse, run
from support.hadamard_nodes import base_of

from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session
from bitfold.runtime.hadamard import hadamard_base
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.hadamard import hadamard

K, N = 96, 64
NORM = "RMSNormalization<axis = -1, epsilon = 12.0>"


def quantized(nodes: str, outputs: str = "float[b, s, 64] y", acts: str = "int8") -> ir.Model:
    """Weights w and w2 [96, 64], a gain [96], quantized; ``Turn`` stands for Hadamard."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((K, N), np.float32),
        "w2": rng.standard_normal((K, N), np.float32),
        "gain": rng.integers(1, 5, K).astype(np.float32),
    }
    used = {name: array for name, array in arrays.items() if f"{name})" in nodes}
    model = parse(f"g (float[b, s, 96] x) => ({outputs}) {{{nodes}}}", **used)
    for node in list(model.graph):
        if node.op_type == "Identity":
            _turn(model, node, 48)
    apply(Quantize(weights="int4", group=16, acts=acts), model)
    return model


def _turn(model: ir.Model, identity: ir.Node, size: int) -> None:
    """Put a Hadamard in the place of an Identity."""
    base = base_of(size)
    assert base is not None
    value = ir.Value(name="base", const_value=ir.tensor(base, name="base"))
    model.graph.register_initializer(value)
    function = hadamard(size, hadamard_base(size)[0])
    node = call(model, function, [identity.inputs[0], value], {"size": size}, "turn")
    old, new = identity.outputs[0], node.outputs[0]
    new.name, new.type, new.shape = f"{old.name}.turned", old.type, old.shape
    model.graph.insert_before(identity, node)
    old.replace_all_uses_with(new)
    model.graph.remove(identity, safe=True)


def rows(seed: int = 1) -> dict[str, np.ndarray]:
    """Random rows."""
    return {"x": np.random.default_rng(seed).standard_normal((2, 5, K), np.float32)}


def exact_rows() -> dict[str, np.ndarray]:
    """Rows of 2 and -2: with a norm they become halves, and every sum of them is exact."""
    return {"x": np.copysign(np.float32(2), rows()["x"])}


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def lowered(model: ir.Model) -> ir.Model:
    """A copy in LowBitMatMuls that ONNX's checker accepts."""
    native = model.clone()
    apply(Lower(), native)
    onnx.checker.check_model(ir.to_proto(native))
    return native


TAKEN = {
    "norm": f"n = {NORM}(x, gain)\ny = MatMul(n, w)",
    "Hadamard": "h = Identity(x)\ny = MatMul(h, w)",
    "norm, Hadamard": f"n = {NORM}(x, gain)\nh = Identity(n)\ny = MatMul(h, w)",
}


@pytest.mark.parametrize("acts", ["int8", "none"])
@pytest.mark.parametrize("names", TAKEN)
def test_prologue(names: str, acts: str) -> None:
    """Kernel and function body agree with the separate nodes, to float rounding.

    A row that differs in its last bit may round to another code: those of ``exact_rows`` do not.
    """
    model = quantized(TAKEN[names], acts=acts)
    native = lowered(model)
    (node,) = native.graph
    assert node.op_type == "LowBitMatMul"
    inputs = [None if value is None else value.name for value in node.inputs]
    assert inputs[0] == "x"
    assert (len(inputs) > 7 and inputs[7] == "gain") == ("norm" in names)
    assert (len(inputs) > 8 and inputs[8] == "base") == ("Hadamard" in names)
    assert node.attributes.get_float("epsilon", 0) == pytest.approx(12 * ("norm" in names))
    assert node.attributes.get_int("hadamard_size", 0) == 48 * ("Hadamard" in names)
    for feeds, close in ((rows(), 1e-2 if acts == "int8" else 1e-5), (exact_rows(), 1e-5)):
        expected = run(model, feeds)
        assert_same(expected, run(native, feeds), close)
        assert_same(expected, open_session(native, op_library=False).run(feeds), close)


@pytest.mark.parametrize("names", TAKEN)
def test_threads_change_no_bit(names: str) -> None:
    native = lowered(quantized(TAKEN[names]))
    x = np.random.default_rng(2).standard_normal((3, 100, K), np.float32)
    one, *others = [open_session(native, threads=n).run({"x": x})["y"] for n in (1, 2, 3)]
    assert all(other.tobytes() == one.tobytes() for other in others)


def test_the_report_names_what_is_taken() -> None:
    model = quantized(TAKEN["norm, Hadamard"])
    assert [note.text.split(" with ")[1] for note in apply(Lower(), model).changes] == [
        "norm, Hadamard"
    ]


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        (f"n = {NORM}(x, gain)\np = MatMul(n, w)\nq = MatMul(n, w2)\ny = Mul(p, q)", 1),
        (f"n = {NORM}(x, gain)\np = MatMul(n, w)\nr = Cos(n)\ny = Add(p, p)\nz = Abs(r)", 1),
        (f"h = Identity(x)\nn = {NORM}(h, gain)\ny = MatMul(n, w)", 0),
        ("n = RMSNormalization<axis = 1>(x, g2)\ny = MatMul(n, w)", 1),
        ("h = Identity(x)\nr = Abs(h)\np = MatMul(h, w)\nq = MatMul(r, w2)\ny = Add(p, q)", 0),
    ],
    ids=["two readers", "another reader", "norm behind a transform", "axis", "shared transform"],
)
def test_what_is_left_alone(nodes: str, left: int) -> None:
    """Norms and transforms with other readers, or that are none of whole rows, stay nodes."""
    outputs = "float[b, s, 64] y" + ", float[b, s, 96] z" * ("z =" in nodes)
    model = quantized(nodes.replace("g2", "gain"), outputs)
    native = lowered(model)
    assert ops(native).count("RMSNormalization") == left
    assert ops(native).count("Hadamard") == ("Identity" in nodes)
    assert_same(run(model, rows()), run(native, rows()), 1e-2)


def test_an_output_stays() -> None:
    """A norm that the graph gives out is computed for all to see."""
    outputs = "float[b, s, 64] y, float[b, s, 96] n"
    model = quantized(TAKEN["norm"], outputs)
    native = lowered(model)
    assert sorted(ops(native)) == ["LowBitMatMul", "RMSNormalization"]
    assert_same(run(model, rows()), run(native, rows()), 1e-5)
