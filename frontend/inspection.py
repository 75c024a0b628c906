"""``bitfold.inspect``: what a model is made of, and what a recipe would do to it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import ModelProto

from bitfold.frontend.importers import import_model
from bitfold.frontend.op_costs import qualified
from bitfold.frontend.recipes import resolve_recipe
from bitfold.frontend.report.space_picture import page
from bitfold.frontend.report.space_rows import lay_out
from bitfold.frontend.report.write import write_page
from bitfold.frontend.space_report import SpacesReport, space_info
from bitfold.passes.analysis.attention_sinks import find_sinks
from bitfold.passes.analysis.foreign_sites import find_foreign_sites
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.analysis.space_statistics import measure_spaces
from bitfold.passes.analysis.spaces.survey import survey_spaces
from bitfold.passes.analysis.weight_statistics import WeightStatistics, weight_statistics
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.report import PassEntry
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import BitfoldError

PREPARED = "canonicalize, fold-batch-norm"
"""What runs, in memory, before channel spaces are looked for."""


@dataclass(frozen=True)
class SiteInfo:
    """One linear op with a constant weight.

    Attributes:
        name: the node's name, which globs match.
        weight: the weight's name.
        rows: output channels.
        columns: input channels.
        scheme: how it is quantized, or its float type.
        statistics: the float weight's distribution; None for any other type.
    """

    name: str
    kind: str
    weight: str
    rows: int
    columns: int
    scheme: str
    bytes: int
    statistics: WeightStatistics | None


@dataclass
class InspectReport:
    """What `inspect` finds.

    Attributes:
        operators: how many nodes there are of each operator.
        weights: initializer bytes by type.
        sites: every linear op with a constant weight.
        plan: what each pass of the recipe would change and skip, and why.
        plan_error: why the recipe fails on this model, and what may help; empty if it does not.
        low_bit: whether `convert` refuses the model, as the recipe would quantize it again.
    """

    opset: int | None
    nodes: int
    parameters: int
    bytes: int
    operators: dict[str, int]
    weights: dict[str, int]
    metadata: dict[str, str]
    sites: list[SiteInfo]
    recipe: str = ""
    plan: list[PassEntry] = field(default_factory=list)
    plan_error: str = ""
    low_bit: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return asdict(self)


def inspect(
    model: str | os.PathLike[str] | ModelProto | ir.Model,
    *,
    preset: str | None = None,
    recipe: Any = None,
    passes: Any = None,
    target: str | None = None,
    exclude: Sequence[str] = (),
    plan: bool = True,
) -> InspectReport:
    """Describe a model: operators, sizes, sites and their weights' statistics.

    With ``plan``, the recipe (the default preset unless one is named) runs unchecked on a copy
    of the graph, and its entries say what would change, what would be skipped, and why.  A
    model on which the recipe fails is described all the same, and the report says what fails.

    Raises:
        ModelError: the model is broken.
        RecipeError: the recipe is.
    """
    loaded = import_model(model)
    initializers = list(loaded.graph.initializers.values())
    weights: Counter[str] = Counter()
    parameters = 0
    for value in initializers:
        if value.const_value is not None:
            weights[str(value.const_value.dtype)] += value.const_value.nbytes
            parameters += value.const_value.size
    operators = Counter(qualified(node) for node in loaded.graph.all_nodes())
    packed = packed_sites(loaded)
    report = InspectReport(
        opset=loaded.graph.opset_imports.get(""),
        nodes=sum(operators.values()),
        parameters=parameters,
        bytes=sum(weights.values()),
        operators=dict(operators.most_common()),
        weights=dict(weights.most_common()),
        metadata=dict(loaded.metadata_props),
        sites=[
            *(site_info(site) for site in find_sites(loaded)),
            *packed,
            *foreign_sites(loaded),
        ],
    )
    if plan:
        chosen = resolve_recipe(
            preset=preset, recipe=recipe, passes=passes, target=target, exclude=exclude
        )
        report.recipe = str(chosen)
        report.low_bit = bool(packed) and any(isinstance(each, Quantize) for each in chosen)
    if plan and not report.low_bit:
        try:
            with Context() as context:
                _, ran = Pipeline(chosen, context, verify="off").run(loaded.clone())
            report.plan = ran.passes
        except BitfoldError as error:
            report.plan_error = f"{error} ({error.hint})" if error.hint else str(error)
    return report


def inspect_spaces(
    model: str | os.PathLike[str] | ModelProto | ir.Model,
    *,
    picture: str | os.PathLike[str] | None = None,
    everything: bool = False,
    samples: Sequence[Feeds] = (),
) -> SpacesReport:
    """Find the channel spaces of a model, after those exact passes that show more of them.

    Args:
        picture: an HTML file to draw them into, which stands alone; an earlier one is replaced.
        everything: draw each layer, not the first of those that repeat.
        samples: inputs to measure what flows through the spaces on; by default nothing runs.

    Raises:
        ModelError: the model is broken, or, with samples, ORT does not run it.
        CalibrationError: a sample does not fit the model.
        OutputError: the picture cannot be written.
    """
    loaded = import_model(model).clone()
    recipe = resolve_recipe(passes=PREPARED)
    with Context(samples) as context:
        prepared, _ = Pipeline(recipe, context, verify="off").run(loaded)
        surveyed = survey_spaces(prepared)
        measured = measure_spaces(prepared, [each.space for each in surveyed], samples)
        spaces = [space_info(*each) for each in zip(surveyed, measured, strict=True)]
        report = SpacesReport(
            nodes=sum(1 for _ in prepared.graph.all_nodes()),
            prepared=PREPARED,
            spaces=spaces,
            samples=len(samples),
            sinks=find_sinks(prepared, samples) if samples else None,
        )
        if picture is not None:
            named = Path(model).name if isinstance(model, (str, os.PathLike)) else "model"
            note = f"{len(spaces)} channel spaces in {report.nodes} nodes, after {PREPARED}."
            write_page(
                Path(picture), page(named, lay_out(prepared, surveyed, spaces, everything), note)
            )
    return report


def site_info(site: Site) -> SiteInfo:
    """A float site, or one in the neutral quantized form."""
    rows, columns = site.shape
    tensor = site.source.const_value
    if tensor is None:
        dequantize = site.quantized
        assert dequantize is not None, "a weight is an initializer or quantized"
        scheme = f"int{dequantize.attributes.get_int('bits', 8)} codes"
        inputs = [value for value in dequantize.inputs if value is not None]
        size = sum(value.const_value.nbytes for value in inputs if value.const_value is not None)
        return SiteInfo(
            site.name, site.kind, site.source.name or "", rows, columns, scheme, size, None
        )
    return SiteInfo(
        site.name,
        site.kind,
        site.source.name or "",
        rows,
        columns,
        str(tensor.dtype).lower(),
        tensor.nbytes,
        weight_statistics(site.weight()) if tensor.dtype.is_floating_point() else None,
    )


def packed_sites(model: ir.Model) -> list[SiteInfo]:
    """The sites that are already native operators."""
    kinds = {
        "LowBitMatMul": ("matmul", 1),
        "LowBitGather": ("gather", 0),
        "LowBitConv": ("conv", 1),
    }
    found = []
    for node in model.graph.all_nodes():
        if node.domain != "bitfold" or node.op_type not in kinds:
            continue
        kind, first = kinds[node.op_type]
        attributes = node.attributes
        parts = [value for value in node.inputs[first : first + 4] if value is not None]
        bits, group = attributes.get_int("bits", 8), attributes.get_int("group_size", 0)
        acts = attributes.get_string("acts", "none")
        found.append(
            SiteInfo(
                node.name or "",
                kind,
                parts[0].name or "",
                attributes.get_int("N", 0),
                _columns(node),
                f"{bits} bits, group {group}, {'float' if acts == 'none' else acts} inputs",
                sum(part.const_value.nbytes for part in parts if part.const_value is not None),
                None,
            )
        )
    return found


def _columns(node: ir.Node) -> int:
    """What one output of a native operator reads: K, or the channels of a group times the taps."""
    attributes = node.attributes
    if node.op_type != "LowBitConv":
        return attributes.get_int("K", 0)
    channels = attributes.get_int("C", 0) // attributes.get_int("groups", 1)
    return channels * math.prod(attributes.get_ints("kernel_shape", []))


def foreign_sites(model: ir.Model) -> list[SiteInfo]:
    """The sites that another tool has quantized."""
    found = []
    for site in find_foreign_sites(model):
        tensor = site.codes.const_value
        dims = [] if tensor is None else list(tensor.shape.numpy())
        out_first = site.kind == "conv" or site.node.op_type in ("MatMulNBits", "MatMulBnb4")
        rows, columns = dims[0] if dims else 1, int(np.prod(dims[1:]))
        if not out_first and site.kind != "gather":
            rows, columns = columns, rows
        attributes = site.node.attributes
        found.append(
            SiteInfo(
                site.node.name or "",
                site.kind,
                site.codes.name or "",
                attributes.get_int("N", rows),
                attributes.get_int("K", columns),
                site.scheme,
                site.bytes,
                None,
            )
        )
    return found
