"""Small float graphs for tests of the pass manager, written in ONNX's text form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

MLP = """<ir_version: 10, opset_import: ["" : 21]>
mlp (float[batch, 24] x) => (float[batch, 32] logits) {
    up = MatMul (x, w_up)
    shifted = Add (up, b_up)
    hidden = Relu (shifted)
    down = MatMul (hidden, w_down)
    residual = Add (down, x)
    logits = MatMul (residual, w_head)
}"""

MLP_SHAPES = {"w_up": (24, 40), "b_up": (40,), "w_down": (40, 24), "w_head": (24, 32)}

NORMED = """<ir_version: 10, opset_import: ["" : 23]>
normed (float[batch, 24] x) => (float[batch, 24] y) {
    n = RMSNormalization <axis = -1> (x, gain)
    a = MatMul (n, w_a)
    b = MatMul (n, w_b)
    y = Add (a, b)
}"""

NORMED_SHAPES = {"gain": (24,), "w_a": (24, 24), "w_b": (24, 24)}

LM = """<ir_version: 10, opset_import: ["" : 21]>
lm (int64[batch_size, sequence_length] input_ids,
    int64[batch_size, total_sequence_length] attention_mask,
    int64[batch_size, sequence_length] position_ids,
    float[batch_size, 2, past_sequence_length, 4] past_key_values_0)
    => (float[batch_size, sequence_length, 50] logits,
        float[batch_size, 2, total, 4] present_0) {
    h = Gather (embedding, input_ids)
    p = Gather (positions, position_ids)
    hp = Add (h, p)
    split = Constant <value_ints = [0, 0, 2, 4]> ()
    heads = Reshape (hp, split)
    key = Transpose <perm = [0, 2, 1, 3]> (heads)
    present_0 = Concat <axis = 2> (past_key_values_0, key)
    last = Constant <value_ints = [2]> ()
    means = ReduceSum <keepdims = 0> (present_0, last)
    mask = Cast <to = 1> (attention_mask)
    row = Constant <value_ints = [1]> ()
    kept = ReduceSum <keepdims = 1> (mask, row)
    three = Unsqueeze (kept, row)
    flat = Constant <value_ints = [0, 1, 8]> ()
    context = Reshape (means, flat)
    scaled = Div (context, three)
    mixed = Add (hp, scaled)
    logits = MatMul (mixed, w_head)
}"""

LM_SHAPES = {"embedding": (50, 8), "positions": (64, 8), "w_head": (8, 50)}


def make_model(text: str, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> ir.Model:
    """The graph of ``text`` with normal weights of the given shapes, about 1/sqrt(inputs)."""
    proto = onnx.parser.parse_model(text)
    for name, array in make_weights(shapes, seed).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    for index, node in enumerate(model.graph):
        node.name = f"{node.op_type.lower()}_{index}"
    return model


def make_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded float32 weights."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in shapes.items()
    }


def replace_weight(model: ir.Model, name: str, array: np.ndarray) -> None:
    """Give initializer ``name`` a new tensor; the old one, which others may share, stays."""
    model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)


def weight(model: ir.Model, name: str) -> np.ndarray:
    """The array of initializer ``name``."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()
