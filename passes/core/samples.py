"""Sample inputs: synthesized from the graph where the user gives none, checked where he does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.compare import is_float
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.dim_names import telling_names
from bitfold.passes.core.generated import generate_samples
from bitfold.passes.core.sample_sizes import Sizes, is_past, name_lengths, shape_of
from bitfold.runtime.errors import BitfoldError, CalibrationError

_TRANSPARENT = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Clip", "Expand"}
"""Operators through which an input's values reach a look-up unchanged."""

LARGEST = 1 << 30
"""No input is synthesized that takes more bytes than this."""

_HINT = "pass sample inputs that fit, as a dict of name to array for each sample"


_FALLBACKS = (
    (Sizes(1, 16, 0), Sizes(1, 8, 0, image=224)),
    (
        *(Sizes(2, 5, 0, uneven=True), Sizes(2, 5, 0)),
        *(Sizes(1, 5, 0, uneven=True), Sizes(1, 5, 0)),
    ),
)
"""For each of the two samples, sizes to try in turn until the model runs."""

_WITH_PAST = ((Sizes(1, 16, 0),), (Sizes(1, 5, 7), Sizes(1, 1, 7)), (Sizes(2, 1, 7),))
"""The same for models with a key/value cache: a prompt, its continuation, and a step of a batch.

Several new tokens after a cache in a batch of several are left out: fused attention operators
do not take them, and generation never asks for them.
"""


def prepare_samples(
    model: ir.Model, context: Context, run: Callable[[Feeds], Mapping[str, np.ndarray]]
) -> list[Feeds]:
    """The context's samples after a check, or synthesized ones that ``run`` takes.

    The first synthesized sample is one sequence (or image), the second a batch of two, with axes of
    different lengths where the model takes them.  A model with a key/value cache gets a prompt,
    its continuation, and one step of a batch of two.  A causal language model writes its own
    (:mod:`~bitfold.passes.core.generated`).  The values depend on the context's seed.

    Args:
        run: runs the model once; raises a BitfoldError where the feeds do not work.

    Raises:
        CalibrationError: a given sample does not fit the graph, or no synthesized one runs.
    """
    if context.samples:
        for number, feeds in enumerate(context.samples):
            check_feeds(model.graph, feeds, f"sample {number}")
        return list(context.samples)
    samples = _written_by_model(model, context, run)
    if samples:
        return samples
    failure: BitfoldError | None = None
    has_past = any(is_past(value) for value in model.graph.inputs)
    for number, candidates in enumerate(_WITH_PAST if has_past else _FALLBACKS):
        for sizes in candidates:
            feeds = synthesize(model.graph, sizes, context.rng(f"sample {number}"))
            if any(_same_feeds(feeds, other) for other in samples):
                continue
            try:
                run(feeds)
            except BitfoldError as error:
                failure = failure or error
                continue
            samples.append(feeds)
            break
    if not samples:
        raise CalibrationError(f"no synthesized input runs: {failure}", hint=_HINT)
    return samples


def _written_by_model(
    model: ir.Model, context: Context, run: Callable[[Feeds], Mapping[str, np.ndarray]]
) -> list[Feeds]:
    """Samples that a causal language model generates; none for other models."""
    cached = any(is_past(value) for value in model.graph.inputs)
    prompt = synthesize(model.graph, Sizes(1, 16, 0), context.rng("sample 0"))
    try:
        samples = generate_samples(prompt, cached, run) or []
        for feeds in samples[1:]:
            run(feeds)
    except BitfoldError:
        return []  # random inputs of other sizes may still do
    return samples


def check_feeds(graph: ir.Graph, feeds: Mapping[str, np.ndarray], label: str) -> None:
    """Check that ``feeds`` fits the graph's inputs: names, types, ranks, fixed dims, no NaN.

    A symbolic dimension must have one length wherever its name occurs, but for names that tell
    nothing (:mod:`~bitfold.passes.core.dim_names`).

    Raises:
        CalibrationError: the first misfit, with what was expected and what was found.
    """
    inputs = {value.name or "": value for value in _free_inputs(graph)}
    missing, unknown = sorted(set(inputs) - set(feeds)), sorted(set(feeds) - set(inputs))
    if missing or unknown:
        raise CalibrationError(
            f"{label}: expected inputs {list(inputs)}, found {list(feeds)}",
            hint=f"missing: {missing}, unknown: {unknown}",
        )
    lengths: dict[str, tuple[int, str]] = {}
    for name, value in inputs.items():
        array = np.asarray(feeds[name])
        where = f"{label}, input {name!r}"
        if value.dtype is not None and value.dtype != ir.DataType.STRING:
            expected = value.dtype.numpy()
            if array.dtype != expected:
                raise CalibrationError(f"{where}: expected type {expected}, found {array.dtype}")
        if value.shape is not None:
            _check_shape(value, array, lengths, where)
        if is_float(array) and not _plausible(array, name):
            raise CalibrationError(f"{where}: expected finite values, found NaN or infinity")


def _plausible(array: np.ndarray, name: str) -> bool:
    """Whether all values are finite; a mask may hold minus infinity."""
    values = array.astype(np.float32)
    if "mask" in name.lower():
        values = values[~np.isneginf(values)]
    return bool(np.isfinite(values).all())


def _check_shape(
    value: ir.Value, array: np.ndarray, lengths: dict[str, tuple[int, str]], where: str
) -> None:
    shape = value.shape or ()
    if array.ndim != len(shape):
        raise CalibrationError(f"{where}: expected shape {value.shape}, found {array.shape}")
    names = telling_names(value)
    for axis, (dim, name, length) in enumerate(zip(shape, names, array.shape, strict=True)):
        if isinstance(dim, int):
            if dim != length:
                raise CalibrationError(
                    f"{where}: expected {dim} along axis {axis}, found shape {array.shape}"
                )
        elif name is not None:
            known, place = lengths.setdefault(name, (length, where))
            if known != length:
                raise CalibrationError(
                    f"{where}: expected {known} along axis {axis} ({name}, as in {place}), "
                    f"found {length}"
                )


def synthesize(graph: ir.Graph, sizes: Sizes, rng: np.random.Generator) -> Feeds:
    """Make one set of inputs: what each input means is read off its name, type and readers."""
    inputs = list(_free_inputs(graph))
    has_past = any(is_past(value) for value in inputs)
    past = sizes.past if has_past else 0
    lengths = name_lengths(inputs, sizes, past)
    feeds: Feeds = {}
    for value in inputs:
        shape = shape_of(value, lengths, sizes, past)
        _check_size(value, shape)
        feeds[value.name or ""] = _fill(value, shape, past, rng)
    return feeds


def _check_size(value: ir.Value, shape: tuple[int, ...]) -> None:
    """Raise before NumPy is asked for more memory than a sample can reasonably take."""
    dtype = value.dtype or ir.DataType.FLOAT
    bits = 64 if dtype == ir.DataType.STRING else dtype.bitwidth
    size = math.prod(shape) * bits // 8
    if size > LARGEST:
        raise CalibrationError(
            f"input {value.name!r} of shape {list(shape)} takes {size >> 20} MiB, expected at "
            f"most {LARGEST >> 20}",
            hint=_HINT,
        )


def _fill(
    value: ir.Value, shape: tuple[int, ...], past: int, rng: np.random.Generator
) -> np.ndarray:
    name = (value.name or "").lower()
    dtype = value.dtype or ir.DataType.FLOAT
    kind = dtype.numpy()
    if dtype == ir.DataType.BOOL:
        return np.ones(shape, bool) if "mask" in name else np.zeros(shape, bool)
    if dtype == ir.DataType.STRING:
        return np.full(shape, "text", dtype=object)
    if dtype.is_floating_point():
        if "mask" in name:
            # A float mask is added to scores (rank 4) or multiplied with values (rank 2).
            return np.full(shape, 0 if len(shape) > 2 else 1).astype(kind)
        return rng.standard_normal(shape).astype(kind)
    if "mask" in name:
        return np.ones(shape, kind)
    limit = _lookup_limit(value)
    if "position" in name and shape:
        row = past + np.arange(shape[-1])
        return np.broadcast_to(np.minimum(row, (limit or 1 << 30) - 1), shape).astype(kind)
    if limit is None:
        # Counts and lengths ("num_logits_to_keep", "seqlens") are safest small.
        return rng.integers(0, 2 if len(shape) < 2 else 8, shape).astype(kind)
    return rng.integers(0, limit, shape).astype(kind)


def _free_inputs(graph: ir.Graph) -> Iterator[ir.Value]:
    return (value for value in graph.inputs if value.name not in graph.initializers)


def _lookup_limit(value: ir.Value) -> int | None:
    """The shortest constant table that the values index: a vocabulary, say; None without one."""
    limits: list[int] = []
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        for node, index in current.uses():
            if node.op_type.endswith("Gather") and index > 0:
                axis = node.attributes.get_int("axis", 0)
                length = _table_length(node, axis)
                if length is not None:
                    limits.append(length)
            elif node.op_type in _TRANSPARENT and index == 0 and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
    return min(limits, default=None)


def _table_length(node: ir.Node, axis: int) -> int | None:
    if node.domain == "bitfold":
        return node.attributes.get_int("N")
    table = node.inputs[0]
    shape = table.shape if table is not None else None
    if shape is None and table is not None and table.const_value is not None:
        shape = ir.Shape(table.const_value.shape.numpy())
    if shape is None or axis >= len(shape):
        return None
    length = shape[axis]
    # A table computed at run time (a sequence, say) tells nothing by its length here.
    return length if isinstance(length, int) else None


def _same_feeds(a: Feeds, b: Feeds) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)
