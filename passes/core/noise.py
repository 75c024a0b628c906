"""How far a model's outputs move by rounding alone, and so how far an exact pass may move them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.compare import Moved, Outputs, flat_outputs, moved
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_original, to_own
from bitfold.runtime.execution import open_session

LARGEST_FLOOR = 1e-2
"""Rounding is never assumed, only measured, to move outputs by more than this."""

FLOOR_STEPS = 16.0
"""Units in the last place by which a node's result may change.  Rewriting the norms and
attentions of a 2,100-node decoder moved its outputs by 8 times epsilon times sqrt(n)."""

NOISE_MARGIN = 8.0
"""An exact pass may move outputs this many times as far as the measured rounding noise does."""

DRAWS = 4
"""Times that rounding noise is measured before a pass is found to have moved outputs further.  On
one token of a speech encoder, draws gave 1.2e-6 to 1.7e-5."""

CHAOS = 10.0
"""A model is chaotic where rounding noise is this many times as large as rounding's floor."""

_EPSILON = {
    ir.DataType.DOUBLE: 2.0**-52,
    ir.DataType.FLOAT: 2.0**-23,
    ir.DataType.FLOAT16: 2.0**-10,
    ir.DataType.BFLOAT16: 2.0**-7,
}

_PERTURB_BYTES = 1 << 20
"""Only float tensors up to this size are perturbed: norm gains, biases, small weights."""


def rounding_floor(model: ir.Model) -> float:
    """The error that any rewrite may make, relative to an output's largest magnitude.

    Each node that gives floats adds an error of about one unit in the last place, and errors of
    n nodes add up like a random walk: :data:`FLOOR_STEPS` times epsilon times the square root
    of n.
    """
    total = 0.0
    for node in model.graph.all_nodes():
        if node.outputs:
            dtype = node.outputs[0].dtype
            total += _EPSILON[ir.DataType.FLOAT if dtype not in _EPSILON else dtype] ** 2
    return min(LARGEST_FLOOR, FLOOR_STEPS * math.sqrt(max(total, 2.0**-46)))


def rounding_noise(
    model: ir.Model, feeds: Feeds, outputs: Outputs, seed: int = 0
) -> dict[str, Moved]:
    """Measure how far each output moves when nothing but rounding changes.

    The model runs with ORT's optimizer on (``outputs`` came from a run with it off) and with
    each element of its small float tensors moved by one unit in the last place; single numbers
    stay, as the 1 that a mask is taken from, for they are exact.  Models that round on purpose
    (quantized activations) amplify this: a value at the edge of two codes falls to the other side.

    Args:
        outputs: what ``model`` gives for ``feeds``.
        seed: which elements move which way.
    """
    rng = np.random.default_rng(seed)
    shaken = model.clone()
    for value in shaken.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            continue
        if tensor.size > 1 and tensor.nbytes <= _PERTURB_BYTES:
            array = tensor.numpy()
            step = rng.integers(-1, 2, array.shape).astype(array.dtype)
            # What fills a mask stays: past it lies infinity, which times 0 is no number.
            step = np.where(np.abs(array) > np.finfo(array.dtype).max / 2, 0, step)
            nudged = array * (1 + step * array.dtype.type(_EPSILON[tensor.dtype]))
            value.const_value = ir.tensor(nudged.astype(array.dtype), name=tensor.name)
    execution = open_session(shaken, optimize=True, copy_weights=False)
    found = flat_outputs(execution.run(to_own(model.graph.inputs, feeds)))
    found = to_original(model.graph.outputs, found)
    return {name: moved(array, found[name]) for name, array in outputs.items() if name in found}


@dataclass(frozen=True)
class Judgement:
    """What the outputs say about an exact pass.

    Attributes:
        reason: the first output that moved too far; None where none did.
        chaotic: rounding alone moves the outputs so far that they prove little either way.
    """

    reason: str | None = None
    chaotic: bool = False


def judge_outputs(
    model: ir.Model, feeds: Feeds, expected: Outputs, found: Outputs, tolerance: float | None
) -> Judgement:
    """Whether an exact pass kept its promise, as far as the outputs tell.

    An output may move by ``tolerance`` of its largest magnitude where one is given.  Otherwise
    it may move by :func:`rounding_floor`; past that, :func:`rounding_noise` is measured, and it
    may move :data:`NOISE_MARGIN` times as far as the noise does, in its largest error and in
    its root mean square; noise that is too small is drawn again, :data:`DRAWS` times in all.

    Args:
        model: the model before the pass, which gave ``expected`` for ``feeds``.
    """
    limit = rounding_floor(model) if tolerance is None else tolerance
    suspects = {}
    for name, array in expected.items():
        if name not in found:
            return Judgement(f"output {name!r} is missing")
        apart = moved(array, found[name])
        if apart.max_error > limit:
            suspects[name] = apart
        if not math.isfinite(apart.max_error):
            reason = f"output {name!r} has other values that are not finite, or another shape"
            return Judgement(reason)
    if not suspects:
        return Judgement()
    noise: dict[str, Moved] = {}
    judgement = _compare(suspects, noise, limit)
    for seed in range(DRAWS if tolerance is None else 0):
        for name, own in rounding_noise(model, feeds, expected, seed).items():
            before = noise.get(name, Moved(0.0, 0.0))
            worst = max(before.max_error, own.max_error), max(before.rms_error, own.rms_error)
            noise[name] = Moved(*worst)
        judgement = _compare(suspects, noise, limit)
        if judgement.reason is None:
            break
    return judgement


def _compare(suspects: dict[str, Moved], noise: dict[str, Moved], limit: float) -> Judgement:
    """What outputs that moved further than ``limit`` say beside what rounding does to them."""
    chaotic = any(own.max_error > CHAOS * limit for own in noise.values())
    for name, apart in suspects.items():
        own = noise.get(name, Moved(0.0, 0.0))
        allowed = max(limit, NOISE_MARGIN * own.max_error)
        allowed_rms = max(limit, NOISE_MARGIN * own.rms_error)
        if apart.max_error > allowed or apart.rms_error > allowed_rms:
            reason = (
                f"output {name!r} moved by {apart.max_error:.2g} of its largest value, "
                f"expected at most {allowed:.2g}"
            )
            return Judgement(reason, chaotic)
    return Judgement(None, chaotic)
