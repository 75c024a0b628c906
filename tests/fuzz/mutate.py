"""Break model files: bytes at random, or the messages inside an ONNX file, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.message import DecodeError

INTEGERS = (0, 1, -1, 2, 3, 7, 64, -64, 2**15, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
STRINGS = (b"", b"x", b"y", b"w", b"\xff\xfe", b"\x00", b"a" * 300, b"ai.onnx", b"..", b"/etc")
OPERATORS = (
    *("Add", "Mul", "MatMul", "Gemm", "Conv", "ConvTranspose", "Relu", "Softmax", "Transpose"),
    *("Reshape", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Gather", "GatherND"),
    *("Expand", "Tile", "Pad", "Range", "ConstantOfShape", "Constant", "Cast", "CastLike"),
    *("Shape", "Size", "Identity", "If", "Loop", "Scan", "Resize", "Upsample", "TopK", "NonZero"),
    *("ReduceSum", "ReduceMean", "LayerNormalization", "BatchNormalization", "MaxPool", "LSTM"),
    *("QuantizeLinear", "DequantizeLinear", "MatMulInteger", "SequenceConstruct", "Dropout"),
    *("Attention", "RotaryEmbedding", "RMSNormalization", "Swish", "Einsum", "Where", "Clip"),
    *("SequenceAt", "SplitToSequence", "Optional", "OneHot", "CumSum", "ScatterND", "Nonsense"),
)
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "bitfold", "local", "acme")

Random = random.Random


def mutate(content: bytes, rng: Random, is_onnx: bool) -> bytes:
    """The file's bytes after one to four random changes."""
    if is_onnx and rng.random() < 0.8:
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(content)
        except DecodeError:
            return mutate_bytes(content, rng)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            _change_message(proto, rng)
        content = proto.SerializeToString()
        return mutate_bytes(content, rng) if rng.random() < 0.05 else content
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = mutate_bytes(content, rng)
    return content


def mutate_bytes(content: bytes, rng: Random) -> bytes:
    """One change to bytes: flipped, overwritten, cut, inserted, repeated, or lost."""
    data = bytearray(content)
    # Weights are most of a file and the least interesting part of it: stay near either end.
    size = len(data)
    near = min(size, 2000)
    at = rng.choice(
        (rng.randrange(near + 1), size - rng.randrange(near + 1), rng.randrange(size + 1))
    )
    kind = rng.randrange(6)
    if kind == 0 and at < size:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at : at + rng.choice((1, 2, 4, 8))] = rng.randbytes(rng.choice((1, 2, 4, 8)))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        data[at:at] = rng.randbytes(rng.randrange(1, 20))
    elif kind == 4:
        length = rng.randrange(1, 60)
        data[at:at] = data[at : at + length]
    else:
        del data[at : at + rng.randrange(1, 60)]
    return bytes(data)


def graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The graph and those inside its nodes, at any depth."""
    return list(_nested(proto.graph))


def _nested(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nested(attribute.g)


def _change_message(proto: onnx.ModelProto, rng: Random) -> None:
    graph = rng.choice(graphs(proto))
    rng.choice(CHANGES)(proto, graph, rng)


def _names(graph: onnx.GraphProto) -> list[str]:
    names = [info.name for info in graph.input]
    names += [tensor.name for tensor in graph.initializer]
    return [*names, *(name for node in graph.node for name in node.output), ""]


def _drop_node(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    if graph.node:
        del graph.node[rng.randrange(len(graph.node))]


def _repeat_node(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    if graph.node:
        copy = graph.node.add()
        copy.CopyFrom(rng.choice(graph.node[:-1] or graph.node))
        if rng.random() < 0.7:
            for index in range(len(copy.output)):
                copy.output[index] += "_again"
            if rng.random() < 0.5 and graph.output:
                graph.output[0].name = copy.output[0] if copy.output else ""


def _swap_nodes(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    if len(graph.node) > 1:
        one, other = rng.sample(range(len(graph.node)), 2)
        kept = onnx.NodeProto()
        kept.CopyFrom(graph.node[one])
        graph.node[one].CopyFrom(graph.node[other])
        graph.node[other].CopyFrom(kept)


def _rename_operator(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    if graph.node:
        node = rng.choice(graph.node)
        if rng.random() < 0.8:
            node.op_type = rng.choice(OPERATORS)
        else:
            node.domain = rng.choice(DOMAINS)


def _rewire(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    if not graph.node:
        return
    node = rng.choice(graph.node)
    names = rng.choice((node.input, node.input, node.output))
    kind = rng.randrange(4)
    if kind == 0 and names:
        names[rng.randrange(len(names))] = rng.choice(_names(graph))
    elif kind == 1 and names:
        del names[rng.randrange(len(names))]
    elif kind == 2:
        names.append(rng.choice(_names(graph)))
    elif names:
        names[rng.randrange(len(names))] = rng.choice(("ghost", "", "é", "x" * 200))


def _change_attribute(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    nodes = [node for node in graph.node if node.attribute]
    if not nodes:
        return
    node = rng.choice(nodes)
    attribute = rng.choice(node.attribute)
    kind = rng.randrange(6)
    if kind == 0:
        node.attribute.remove(attribute)
    elif kind == 1:
        attribute.type = rng.randrange(15)
    elif kind == 2:
        attribute.i = rng.choice(INTEGERS)
        attribute.f = rng.choice(FLOATS)
        attribute.s = rng.choice(STRINGS)
    elif kind == 3 and attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(INTEGERS)
    elif kind == 4:
        attribute.ints.append(rng.choice(INTEGERS))
    else:
        attribute.name = rng.choice(("axis", "to", "perm", "value", "group", "k", "body", "zzz"))


def _change_tensor(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    tensors = [*graph.initializer]
    tensors += [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    kind = rng.randrange(8)
    dims = list(tensor.dims)
    if kind == 0 and dims:
        tensor.dims[rng.randrange(len(dims))] = rng.choice(INTEGERS)
    elif kind == 1:
        tensor.data_type = rng.randrange(28)
    elif kind == 2:
        tensor.dims[:] = rng.sample(dims, len(dims))
    elif kind == 3:
        tensor.dims[:] = rng.choice(([], [*dims, 1], [1, *dims], [_product(dims)], [0], [0, *dims]))
        if 0 in tensor.dims:
            tensor.raw_data = b""
    elif kind == 4 and len(tensor.raw_data) >= 4:
        data = bytearray(tensor.raw_data)
        at = 4 * rng.randrange(len(data) // 4)
        data[at : at + 4] = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff" * 4))
        tensor.raw_data = bytes(data)
    elif kind == 5 and dims and tensor.raw_data:  # one row fewer, and data to match
        row = len(tensor.raw_data) // max(1, dims[0])
        tensor.dims[0] = max(0, dims[0] - 1)
        tensor.raw_data = tensor.raw_data[: row * tensor.dims[0]]
    elif kind == 6 and tensor.raw_data:  # four bytes a number become four numbers
        tensor.data_type = rng.choice((onnx.TensorProto.INT8, onnx.TensorProto.UINT8))
        if dims:
            tensor.dims[-1] = dims[-1] * 4
    else:
        tensor.name = rng.choice((*_names(graph), "ghost"))


def _change_initializers(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    if not graph.initializer:
        return
    tensor = rng.choice(graph.initializer)
    if rng.random() < 0.5:
        graph.initializer.remove(tensor)
    else:
        graph.initializer.add().CopyFrom(tensor)


def _change_value(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    infos = [*graph.input, *graph.output, *graph.value_info]
    if not infos:
        return
    info = rng.choice(infos)
    kind = rng.randrange(7)
    dims = info.type.tensor_type.shape.dim
    if kind == 0:
        info.type.tensor_type.elem_type = rng.randrange(28)
    elif kind == 1 and dims:
        dims[rng.randrange(len(dims))].dim_value = rng.choice(INTEGERS)
    elif kind == 2 and dims:
        dims[rng.randrange(len(dims))].dim_param = rng.choice(("batch", "n", "", "seq", "2*n"))
    elif kind == 3:
        info.type.tensor_type.ClearField("shape")
    elif kind == 4:
        info.ClearField("type")
    elif kind == 5:
        info.type.tensor_type.shape.dim.add().dim_value = rng.choice((1, 2, 8))
    else:
        info.name = rng.choice((*_names(graph), "ghost"))


def _change_interface(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    values = rng.choice((graph.input, graph.output))
    kind = rng.randrange(3)
    if kind == 0 and values:
        del values[rng.randrange(len(values))]
    elif kind == 1 and values:
        values.add().CopyFrom(rng.choice(values[:-1] or values))
    else:
        values.add().name = rng.choice(_names(graph))


def _change_header(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    kind = rng.randrange(5)
    if kind == 0 and proto.opset_import:
        rng.choice(proto.opset_import).version = rng.randrange(32)
    elif kind == 1:
        proto.ir_version = rng.choice((0, 1, 3, 4, 8, 10, 13, 99, -1))
    elif kind == 2:
        proto.opset_import.add(domain=rng.choice(DOMAINS), version=rng.randrange(30))
    elif kind == 3 and proto.opset_import:
        del proto.opset_import[rng.randrange(len(proto.opset_import))]
    else:
        entry = proto.metadata_props.add()
        entry.key = rng.choice(("bitfold.recipe", "bitfold.seed", "x", ""))
        entry.value = rng.choice(("quantize{", "1", "\x00", "lower"))


def _change_functions(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    if not proto.functions:
        return
    function = rng.choice(proto.functions)
    kind = rng.randrange(5)
    if kind == 0:
        proto.functions.remove(function)
    elif kind == 1 and function.node:
        rng.choice(function.node).op_type = function.name
    elif kind == 2 and function.node:
        rng.choice(function.node).op_type = rng.choice(OPERATORS)
    elif kind == 3 and function.input:
        del function.input[0]
    else:
        function.domain = rng.choice(DOMAINS)


def _change_anything(proto: onnx.ModelProto, graph: onnx.GraphProto, rng: Random) -> None:
    """Walk down the message to a random place and clear, repeat or overwrite a field there."""
    message: Any = graph if rng.random() < 0.8 else proto
    while True:
        fields = [field for field, _ in message.ListFields()]
        if not fields:
            return
        field = rng.choice(fields)
        value = getattr(message, field.name)
        nested = field.message_type is not None
        repeated = hasattr(value, "append") and not isinstance(value, (str, bytes))
        if nested and rng.random() < 0.8:
            message = rng.choice(value) if repeated else value
            continue
        if rng.random() < 0.3:
            message.ClearField(field.name)
        elif repeated and len(value):
            index = rng.randrange(len(value))
            if rng.random() < 0.5:
                del value[index]
            elif nested:
                value.add().CopyFrom(value[index])
            else:
                value.append(value[index])
        elif not repeated and not nested:
            _overwrite(message, field, value, rng)
        return


def _overwrite(message: Any, field: Any, value: Any, rng: Random) -> None:
    if isinstance(value, bytes):
        setattr(message, field.name, rng.choice((*STRINGS, value[: len(value) // 2])))
    elif isinstance(value, str):
        setattr(message, field.name, rng.choice(("", "x", "y", value + "_", "é" * 40)))
    elif isinstance(value, float):
        setattr(message, field.name, rng.choice(FLOATS))
    elif field.enum_type is None and isinstance(value, int):
        number = rng.choice(INTEGERS)
        try:
            setattr(message, field.name, number)
        except ValueError:  # the field has 32 bits
            setattr(message, field.name, number % 2**31)


def _product(dims: list[int]) -> int:
    total = 1
    for dim in dims:
        total *= dim
    return total if abs(total) < 2**63 else 0


CHANGES: tuple[Callable[[onnx.ModelProto, onnx.GraphProto, Random], None], ...] = (
    _drop_node,
    _repeat_node,
    _swap_nodes,
    _rename_operator,
    _rename_operator,
    _rewire,
    _rewire,
    _change_attribute,
    _change_attribute,
    _change_tensor,
    _change_tensor,
    _change_initializers,
    _change_value,
    _change_value,
    _change_interface,
    _change_header,
    _change_functions,
    _change_anything,
    _change_anything,
)
"""What may happen to a model, the more interesting kinds more often."""
