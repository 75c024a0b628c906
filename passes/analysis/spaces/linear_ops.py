"""Linear operators with a constant weight: they read coordinates and write new ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, input_at, site_of
from bitfold.passes.analysis.spaces.symmetry import CENTER, PERMUTE, ROTATE
from bitfold.passes.analysis.spaces.trace import Kind, Port, Role, Trace
from bitfold.passes.core.rewire import constant


def linear(node: ir.Node, trace: Trace) -> str | None:
    """MatMul, Gemm or Gather with a constant weight."""
    site = site_of(node)
    if site is None:
        return "its weight is no constant"
    if site.quantized is not None:
        return "its weight is quantized"
    if site.transpose is not None and len(site.transpose.outputs[0].uses()) > 1:
        return "others read its transposed weight too"
    output, (n, k) = node.outputs[0], site.shape
    if output.shape is None:
        return "the rank of its output is not known"
    owner, index = weight_input(site)
    view = tuple(site.source.shape.numpy())  # type: ignore[union-attr]
    inner, outer = (1, 0) if site.out_first else (0, 1)
    if site.kind == "gather":  # of a table [rows, channels]
        made = trace.write(output, len(output.shape) - 1, k)
        trace.ports.append(Port(owner, index, view, (1,), made, Role.WRITE, node))
        return None
    ids = trace.ids(site.data)
    if ids is not None:
        row = trace.channel(ids, ids.ndim - 1)
        if len(row) != k:
            return f"it reads {k} channels of {len(row)}"
        trace.ports.append(Port(owner, index, view, (inner,), row, Role.READ, node))
        trace.limit(row, CENTER, node, "reads it")
    made = trace.write(output, len(output.shape) - 1, n)
    trace.ports.append(Port(owner, index, view, (outer,), made, Role.WRITE, node))
    if site.kind == "gemm" and input_at(node, 2) is not None:
        trace.ports.append(Port(node, 2, (n,), (0,), made, Role.WRITE, node, kind=Kind.BIAS))
    return None


def weight_input(site: Site) -> tuple[ir.Node, int]:
    """The node that reads the stored weight, and as which of its inputs."""
    if site.transpose is not None:
        return site.transpose, 0
    return site.node, 0 if site.kind == "gather" else 1


def conv(node: ir.Node, trace: Trace) -> str | None:
    """Conv: dense, grouped, or channel by channel (depthwise)."""
    weight, output = constant(input_at(node, 1)), node.outputs[0]
    if weight is None or output.shape is None:
        return "its weight is no constant"
    bias = input_at(node, 2)
    if bias is not None and constant(bias) is None:
        return "its bias is no constant"
    groups = node.attributes.get_int("group", 1)
    n, cg, *kernel = weight.shape
    single = cg == 1 and groups > 1
    kind = Kind.GAIN if single else Kind.WEIGHT
    ids = trace.ids(input_at(node, 0))
    row = None if ids is None else trace.channel(ids, 1)
    if row is not None and len(row) != groups * cg:
        return f"it reads {groups * cg} channels of {len(row)}"
    made = trace.write(output, 1, n)
    if row is not None:
        trace.limit(row, CENTER, node, "reads it")
    if single:
        _channelwise(node, trace, row, made, weight.shape)
    else:
        trace.part(made.reshape(groups, -1), (0,), node)
        if row is not None:
            view = (groups, n // groups, cg, *kernel)
            grouped = row.reshape(groups, cg)
            trace.part(grouped, (0,), node)
            trace.ports.append(Port(node, 1, view, (0, 2), grouped, Role.READ, node))
    port = Port(node, 1, weight.shape, (0,), made, Role.WRITE, node, kind=kind)
    trace.ports.append(port)
    if bias is not None:
        trace.ports.append(Port(node, 2, (n,), (0,), made, Role.WRITE, node, kind=Kind.BIAS))
    return None


def _channelwise(
    node: ir.Node, trace: Trace, read: np.ndarray | None, made: np.ndarray, shape: tuple[int, ...]
) -> None:
    """A kernel of the ``shape`` for each channel; None is read where the channels are not known."""
    if read is None:
        trace.limit(made, ROTATE | PERMUTE | CENTER, node, "works channel by channel")
        return
    times = len(made) // len(read)
    # Seen as the outputs see it, where there are as many: then it is reordered but once.
    view = shape if times == 1 else (len(read), times, *shape[1:])
    trace.ports.append(Port(node, 1, view, (0,), read, Role.READ, node, kind=Kind.GAIN))
    trace.link(made.reshape(-1, times)[:, 0], read, PERMUTE)
    for ids in (read, made):
        trace.limit(ids, ROTATE | CENTER, node, "works channel by channel")
    if times > 1:
        trace.limit(made, PERMUTE, node, f"makes {times} channels of each")
