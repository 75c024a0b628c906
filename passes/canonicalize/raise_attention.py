"""Raise decomposed attention (Vaswani et al., 2017) to Attention-23, K/V head sharing included."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import ANY_VALUE, OrValue, Var

from bitfold.passes.canonicalize.rules import Rule, decline, either, ints, is_scalar, scalar
from bitfold.passes.core.dim_names import telling_names

Dim = int | ir.SymbolicDim

LOWEST = -3.0e38
HIDES = -1.0e30
"""Scores vanish beside this number."""


class RaiseAttention(Rule):
    """``softmax(q kT * scale + mask) v`` on [batch, heads, sequence, head] tensors.

    1. k may be transposed from [batch, heads, sequence, head] or from [batch, sequence, heads,
       head].
    2. The scale may stand on the product, on q and on k; it must be a positive constant.
    3. Repeated K/V heads (Unsqueeze, Expand, Reshape) become the op's own head sharing.
    4. A mask may be added, or a boolean one choose between scores and a large negative number.
    5. A mask whose query axis is not known to be full, or whose key axis is 1, is expanded: the op
       wants it full.
    6. The op does not broadcast batches as MatMul does: q, k or v of batch 1 beside others is
       expanded.

    Declined: a number of heads that is unknown, heads that do not divide, softmax over another
    axis, an integer mask; batches that the model's inputs name differently; a mask that would
    make more batches, heads or queries of the scores.
    """

    def __init__(self, repeated: bool) -> None:
        super().__init__("Attention raised from its parts")
        self._repeated = repeated

    def pattern(
        self,
        op: Any,
        q: Any,
        k: Any,
        v: Any,
        mask: Any,
        q_scale: Any,
        k_scale: Any,
        scale: Any,
        zero: Any,
        keep: Any,
        hidden: Any,
    ) -> Any:
        wide_v = v
        if self._repeated:
            wide_k = _repeat_heads(op, k, "k_axes")
            wide_v = _repeat_heads(op, v, "v_axes")
            turned = op.Transpose(wide_k, perm=[0, 1, 3, 2], _outputs=["turned"])
        else:
            turned = op.Transpose(k, _allow_other_attributes=True, _outputs=["turned"])
        scaled_k = OrValue(
            [either(op.Mul, turned, k_scale), op.Div(turned, k_scale), turned],
            tag_var="k_scaled",
            tag_values=["Mul", "Div", ""],
        )
        scaled_q = OrValue(
            [either(op.Mul, q, q_scale), op.Div(q, q_scale), q],
            tag_var="q_scaled",
            tag_values=["Mul", "Div", ""],
        )
        product = op.MatMul(scaled_q, scaled_k, _outputs=["product"])
        scores = OrValue(
            [either(op.Mul, product, scale), op.Div(product, scale), product],
            tag_var="scaled",
            tag_values=["Mul", "Div", ""],
        )
        # A mask may choose scores, add to them, or both (GPT-2 with padding).
        chosen = OrValue(
            [op.Where(keep, scores, hidden), op.Where(keep, hidden, scores), scores],
            tag_var="chosen",
            tag_values=["keep", "hide", ""],
        )
        masked = OrValue([either(op.Add, chosen, mask), chosen])
        probs = op.Softmax(masked, _allow_other_attributes=True, _outputs=["probs"])
        # PyTorch makes zeros of the rows that a mask of -inf leaves nothing in.
        guarded = op.Where(op.IsNaN(probs), zero, probs)
        probs = OrValue([guarded, probs], tag_var="guarded", tag_values=[True, False])
        return op.MatMul(probs, wide_v)

    def check(
        self,
        context: Any,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        probs: ir.Value,
        turned: ir.Value,
        product: ir.Value,
        mask: ir.Value | None = None,
        **found: Any,
    ) -> MatchResult:
        q = _unscaled(q, found)
        softmax = probs.producer()
        if softmax is None or softmax.attributes.get_int("axis", -1) not in (-1, 3):
            return decline("the softmax is not over the last axis", probs)
        layout = _layout(turned)
        if layout is None:
            return decline("k is not transposed in its last two axes", turned)
        for name, value in (("q", q), ("k", k), ("v", v)):
            if value.shape is None or len(value.shape) != 4:
                return decline(f"{name} is not known to have 4 axes", value)
            if value.dtype not in (None, ir.DataType.FLOAT):
                return decline(f"{name} is {value.dtype}, not float", value)
        heads, kv_heads = _axis(q, 1), _axis(k, layout.index("heads"))
        if heads is None or kv_heads is None or _axis(v, 1) != kv_heads:
            return decline("the number of heads is not known", q, k, v)
        if self._repeated:
            for name in ("k_axes", "v_axes"):
                if ints(found[name]) != [2]:
                    return decline("K/V heads are repeated, but not beside each other", found[name])
        elif heads != kv_heads:
            return decline(f"{heads} query heads meet {kv_heads} key heads", q, k)
        if heads % kv_heads:
            return decline(f"{heads} query heads do not divide by {kv_heads}", q, k)
        for tag, name in (("q_scaled", "q_scale"), ("k_scaled", "k_scale"), ("scaled", "scale")):
            number = _factor(found, tag, name)
            if number is None or not number > 0 or not math.isfinite(number):
                return decline("the scale is not a positive constant", found.get(name))
        if found["guarded"] and not is_scalar(found["zero"], 0):
            return decline("what replaces NaN is not 0", found["zero"])
        if mask is not None and mask.dtype not in (None, ir.DataType.FLOAT):
            return decline(f"the mask is {mask.dtype}, not float", mask)
        batch, _ = _batch_of(q, k, v)
        names = _input_names(product)
        if batch is None or len({str(x) for x in _batches(q, k, v) if _name(x) in names}) > 1:
            return decline("q, k and v are not known to be of one batch", q, k, v)
        keep = found["keep"] if found["chosen"] else None
        if keep is not None:
            number = scalar(found["hidden"])
            if number is None or number > HIDES:
                return decline("what hides scores is not a large negative constant", keep)
        for each in (mask, keep):
            if each is not None and (each.shape is None or not 2 <= len(each.shape) <= 4):
                return decline("the mask's rank is not known to be 2, 3 or 4", each)
            if each is not None and _widens(each, q, _batches(q, k, v), names):
                return decline("the mask has other batches, heads or queries than q", each)
        return MatchResult()

    def rewrite(
        self,
        op: Any,
        q: ir.Value,
        k: ir.Value,
        v: ir.Value,
        turned: ir.Value,
        mask: ir.Value | None = None,
        **found: Any,
    ) -> Any:
        q = _unscaled(q, found)
        scale = 1.0
        for tag, name in (("q_scaled", "q_scale"), ("k_scaled", "k_scale"), ("scaled", "scale")):
            number = _factor(found, tag, name)
            assert number is not None  # check looked
            scale = scale / number if found.get(tag) == "Div" else scale * number
        layout = _layout(turned)
        if layout is not None and layout.index("heads") == 2:
            k = _swap_heads(op, k)
        masks = [each for each in (mask, found.get("keep")) if each is not None]
        _, source = _batch_of(q, k, v)
        q, k, v = _of_one_batch(op, q, k, v, source)
        keyed = all(_dim(each, -1) == 1 for each in masks) and _dim(k, 2) != 1
        full = any(_full_queries(each, q) for each in masks)
        if found["chosen"]:
            hidden = op.Constant(value_float=scalar(found["hidden"]))
            zero = op.Constant(value_float=0.0)
            added = op.Where(
                found["keep"], *((zero, hidden) if found["chosen"] == "keep" else (hidden, zero))
            )
            mask = added if mask is None else op.Add(added, mask)
        if mask is not None:
            mask = _finite(op, mask, keep_infinite=found["guarded"])
            if not full or keyed:
                # 1 leaves an axis as it is.
                one = op.Constant(value_ints=[1])
                queries = one if full else op.Shape(q, start=2, end=3)
                keys = op.Shape(k, start=2, end=3) if keyed else one
                mask = op.Expand(mask, op.Concat(queries, keys, axis=0))
        return op.Attention(q, k, v, mask, scale=scale)


def _repeat_heads(op: Any, x: Any, axes: str) -> Any:
    """[batch, kv_heads, …] to [batch, heads, …], each head repeated beside itself."""
    return op.Reshape(
        op.Expand(op.Unsqueeze(x, Var(axes)), ANY_VALUE),
        ANY_VALUE,
        _allow_other_attributes=True,
    )


def _unscaled(q: ir.Value, found: dict[str, Any]) -> ir.Value:
    """The query itself: in ``scale * q`` the matcher takes the first factor for q."""
    if found.get("q_scaled") == "Mul" and scalar(q) is not None:
        swapped: ir.Value = found["q_scale"]
        found["q_scale"] = q
        return swapped
    return q


def _factor(found: dict[str, Any], tag: str, name: str) -> float | None:
    """The constant that a factor multiplies or divides by; 1 where there is none."""
    return scalar(found.get(name)) if found.get(tag) else 1.0


def _swap_heads(op: Any, k: ir.Value) -> ir.Value:
    """[batch, sequence, heads, head] to [batch, heads, sequence, head], with its shape known."""
    turned: ir.Value = op.Transpose(k, perm=[0, 2, 1, 3])
    if k.shape is not None:
        turned.shape = ir.Shape([k.shape[axis] for axis in (0, 2, 1, 3)])
    turned.type = k.type
    return turned


def _finite(op: Any, mask: Any, keep_infinite: bool) -> Any:
    """Keep the op from taking a mask's lowest finite number for -inf.

    Softmax of a row that is masked whole with a finite number is uniform; ORT's Attention makes
    zeros of it once the number is the lowest of float32, as it does for -inf.  Scores vanish
    beside either number, so any large one is as good.
    """
    finite = op.Max(mask, op.Constant(value_float=LOWEST))
    return op.Where(op.IsInf(mask), mask, finite) if keep_infinite else finite


def _layout(turned: ir.Value) -> tuple[str, ...] | None:
    """The axes of k before the Transpose that gives [batch, heads, head, sequence]."""
    node = turned.producer()
    perm = list(node.attributes.get_ints("perm", [])) if node is not None else []
    if perm == [0, 1, 3, 2]:
        return ("batch", "heads", "sequence", "head")
    if perm == [0, 2, 3, 1]:
        return ("batch", "sequence", "heads", "head")
    return None


def _axis(value: ir.Value, axis: int) -> int | None:
    size = value.shape[axis] if value.shape is not None else None
    return size if isinstance(size, int) else None


def _full_queries(mask: ir.Value, q: ir.Value) -> bool:
    """Whether the mask's query axis is known to be as long as q's."""
    if mask.shape is None or q.shape is None:
        return False
    mine, theirs = mask.shape[-2], q.shape[2]
    if isinstance(mine, int) or isinstance(theirs, int):
        return mine == theirs
    return mine.value is not None and mine.value == theirs.value


def _dim(value: ir.Value, axis: int) -> Dim:
    assert value.shape is not None  # check looked
    return value.shape[axis]


def _name(dim: Dim) -> str | None:
    return None if isinstance(dim, int) else dim.value


def _input_names(value: ir.Value) -> set[str]:
    """Names of dimensions that the graph's inputs have, which the exporter meant."""
    node = value.producer()
    graph = node.graph if node is not None else None
    inputs = graph.inputs if isinstance(graph, ir.Graph) else ()
    return {name for each in inputs for name in telling_names(each) if name is not None}


def _batches(*values: ir.Value) -> list[Dim]:
    return [_dim(value, 0) for value in values]


def _batch_of(q: ir.Value, k: ir.Value, v: ir.Value) -> tuple[Dim | None, ir.Value]:
    """The batch of the result and one of q, k, v that has it; None where two fixed ones differ."""
    fixed = [each for each in (q, k, v) if isinstance(_dim(each, 0), int) and _dim(each, 0) != 1]
    if fixed:
        same = all(_dim(each, 0) == _dim(fixed[0], 0) for each in fixed)
        return (_dim(fixed[0], 0) if same else None), fixed[0]
    source = next((each for each in (q, k, v) if _dim(each, 0) != 1), q)
    return _dim(source, 0), source


def _of_one_batch(
    op: Any, q: ir.Value, k: ir.Value, v: ir.Value, source: ir.Value
) -> list[ir.Value]:
    """q, k and v, each expanded that is of batch 1 (or of an unknown one beside a fixed one)."""
    batch = _dim(source, 0)
    values = []
    for value in (q, k, v):
        mine = _dim(value, 0)
        if mine != batch and (mine == 1 or isinstance(batch, int)):
            if isinstance(batch, int):
                target = op.Constant(value_ints=[batch, 1, 1, 1])
            else:
                ones = op.Constant(value_ints=[1, 1, 1])
                target = op.Concat(op.Shape(source, start=0, end=1), ones, axis=0)
            wide = op.Expand(value, target)
            wide.type = value.type
            assert value.shape is not None  # check looked
            wide.shape = ir.Shape([batch, *list(value.shape)[1:]])
            value = wide
        values.append(value)
    return values


def _widens(mask: ir.Value, q: ir.Value, batches: list[Dim], names: set[str]) -> bool:
    """Whether a mask certainly or probably has more batches, heads or queries than the scores.

    A dimension whose name shape inference made up is believed to fit, and so is one that meets
    queries of a symbolic length.
    """
    assert mask.shape is not None  # check looked
    axes = list(mask.shape)[:-1]
    queries = _dim(q, 2)
    scores: list[list[Dim]] = [batches, [_dim(q, 1)], [queries]]
    for axis, (mine, theirs) in enumerate(zip(axes[::-1], scores[::-1], strict=False)):
        if mine == 1 or mine in theirs or (axis == 0 and not isinstance(queries, int)):
            continue
        fixed = any(isinstance(each, int) for each in theirs)
        if isinstance(mine, int) or (fixed and _name(mine) in names):
            return True
    return False


RULES: tuple[RewriteRule, ...] = (RaiseAttention.rule(True), RaiseAttention.rule(False))
