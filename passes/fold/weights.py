"""Weight math of the fold passes: pure NumPy, no graph in sight.

A weight W is [out, in] or, for convolutions, [out, in/groups, …]; a scale or shift is a vector
over the input or output channels.  Results are rounded once.
"""

from __future__ import annotations

import numpy as np


def scale_inputs(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """W[N, K] with input channel k multiplied by scale[k]: W · (scale * x) = result · x."""
    # One product is rounded once in any precision: no float64 copy for a scale of W's own type.
    result: np.ndarray = (weight * scale[None, :]).astype(weight.dtype, copy=False)
    return result


def shift_of_inputs(weight: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """W · shift, f64[N]: what adding shift[K] to the input adds to the output."""
    result: np.ndarray = np.empty(weight.shape[0], np.float64)
    # A block of rows at a time: a float64 copy of the whole weight could be gigabytes.
    block = max(1, (1 << 20) // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], block):
        rows = weight[start : start + block].astype(np.float64)
        result[start : start + block] = rows @ shift.astype(np.float64)
    return result


def batch_norm_affine(
    gain: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift), f64[C]: what inference BatchNormalization does to channel c,
    ``y = scale[c] * x + shift[c]`` (Ioffe and Szegedy, 2015).
    """
    scale = gain.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return scale, bias.astype(np.float64) - mean.astype(np.float64) * scale


def scale_conv_outputs(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Conv weight [out, in/groups, …] with output channel n multiplied by scale[n]."""
    return (weight * _over_axis(scale, weight.ndim, 0)).astype(weight.dtype)


def scale_conv_transpose_outputs(weight: np.ndarray, scale: np.ndarray, groups: int) -> np.ndarray:
    """ConvTranspose weight [in, out/groups, …] with output channel n multiplied by scale[n].

    Output channel g * out/groups + m belongs to the inputs of group g.
    """
    inputs, per_group = weight.shape[:2]
    grouped = weight.reshape(groups, inputs // groups, per_group, -1)
    factors = scale.astype(np.float64).reshape(groups, 1, per_group, 1)
    return (grouped * factors).astype(weight.dtype).reshape(weight.shape)


def scale_conv_inputs(weight: np.ndarray, scale: np.ndarray, groups: int) -> np.ndarray:
    """Conv weight [out, in/groups, …] with input channel k multiplied by scale[k]."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    factors = scale.astype(np.float64).reshape(groups, 1, weight.shape[1], 1)
    return (grouped * factors).astype(weight.dtype).reshape(weight.shape)


def shift_of_conv_inputs(weight: np.ndarray, shift: np.ndarray, groups: int) -> np.ndarray:
    """What adding shift[k] to every pixel adds to the output of an unpadded Conv, f64[out]."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    sums = grouped.astype(np.float64).sum(axis=-1)
    result: np.ndarray = np.einsum("gok,gk->go", sums, shift.reshape(groups, -1))
    return result.reshape(-1)


def _over_axis(vector: np.ndarray, rank: int, axis: int) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = -1
    return vector.astype(np.float64).reshape(shape)
