"""The oracle of ``LowBitMatMul``: NumPy, straight from the specification in ``runtime/ops``."""

from __future__ import annotations

import numpy as np
from scipy.special import erfc

from bitfold.runtime.formats.scale_types import scale_values
from bitfold.runtime.layouts.masked import MASKED_VERSION, unpack_masked
from bitfold.runtime.layouts.tiles import LAYOUT_VERSION, TILE, unpack_codes, untile_groups
from bitfold.runtime.reference.hadamard import hadamard as hadamard_of
from bitfold.runtime.reference.skip_columns import without_skipped

TINY = np.float32(1e-30)
"""Runs of activations whose largest magnitude is below this become zeros."""


def quantize_activations(
    x: np.ndarray, group_size: int, bits: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Round rows to integers of ``bits`` bits, one scale for each run of ``group_size`` inputs.

    Args:
        x: float32 [M, K], finite.
        group_size: inputs that share a scale; the last run may be shorter.
        bits: 8, 4, 3, 2, or 1 for signs and mean magnitudes.

    Returns:
        q int8 [M, K] and s_a float32 [M, ceil(K / group_size)].
    """
    m, k = x.shape
    groups = -(-k // group_size)
    padded = np.zeros((m, groups * group_size), np.float32)
    padded[:, :k] = x
    grouped = padded.reshape(m, groups, group_size)
    if bits == 1:
        counts = np.minimum(group_size, k - group_size * np.arange(groups))
        mean = (np.abs(grouped).sum(axis=2, dtype=np.float64) / counts).astype(np.float32)
        q = np.where(x < 0, -1, 1).astype(np.int8)
        return q, np.where(mean < TINY, np.float32(0), mean)
    top = np.float32((1 << (bits - 1)) - 1)
    reach = np.abs(grouped).max(axis=2)
    dead = reach < TINY
    safe = np.where(dead, np.float32(1), reach)
    inverse = np.where(dead, np.float32(0), top / safe)
    scale = np.where(dead, np.float32(0), reach / top)
    q = np.rint(grouped * inverse[:, :, None]).astype(np.int8)
    return q.reshape(m, -1)[:, :k], scale.astype(np.float32)


def levels(
    codes: np.ndarray, bits: int, table: np.ndarray | None, zero_points: np.ndarray | None
) -> np.ndarray:
    """What codes stand for before scaling: [N, G, group] of ``t[c] - z``, int64 or float32.

    Args:
        codes: uint8 [N, G, group].
        table: int8 or float32 [2**bits], or None.
        zero_points: int8 [N, G] or None.
    """
    if table is None:
        plain = codes - np.int64(1 << bits - 1)
    else:
        plain = table[codes] if table.dtype == np.float32 else table[codes].astype(np.int64)
    return plain if zero_points is None else plain - zero_points[:, :, None].astype(plain.dtype)


def unpaired(rows: np.ndarray, n: int) -> np.ndarray:
    """Undo the interleaving of gate and up tiles: [16 T, ...] to [n, ...], gate rows first."""
    tiles = rows.reshape(-1, 2, TILE, *rows.shape[1:])
    gate, up = (tiles[:, half].reshape(-1, *rows.shape[1:])[: n // 2] for half in (0, 1))
    return np.concatenate([gate, up])


def activated(y: np.ndarray, activation: str) -> np.ndarray:
    """An ``activation`` of float64 [M, N]; SwiGLU gives [M, N/2]."""
    with np.errstate(over="ignore"):
        if activation == "swiglu":
            gate, up = np.split(y, 2, axis=1)
            return gate / (1 + np.exp(-gate)) * up
        if activation == "relu":
            return np.maximum(y, 0)
        if activation == "gelu":
            return 0.5 * y * erfc(-y / np.sqrt(2))
        if activation == "gelu_tanh":
            return y / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    return y


def prepared(
    rows: np.ndarray,
    gain: np.ndarray | None,
    epsilon: float,
    base: np.ndarray | None,
    hadamard_size: int,
) -> np.ndarray:
    """The prologue of float32 rows [M, K], computed in float64 and rounded to float32 at its end.

    A row that holds a NaN or infinity gets one.
    """
    if gain is None and not hadamard_size:
        return rows
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        y = rows.astype(np.float64)
        if gain is not None:
            mean = (y**2).mean(axis=1, keepdims=True) + np.float64(np.float32(epsilon))
            y = y / np.sqrt(mean) * gain
        if hadamard_size:
            y = hadamard_of(y, base, size=hadamard_size)
        rounded: np.ndarray = y.astype(np.float32)
    return rounded


def operands(
    rows: np.ndarray,
    group_size: int,
    acts: str,
    act_group_size: int,
    act_scale: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """What float32 rows [M, K] are multiplied as: q [M, K] and s_a [M, G], float64."""
    m, k = rows.shape
    groups = -(-k // group_size)
    if act_scale is not None:
        inverse = np.float32(1) / act_scale
        with np.errstate(over="ignore"):
            q = np.rint(np.clip(rows * inverse, -127, 127))
        return q.astype(np.float64), np.full((m, groups), np.float64(act_scale[0]))
    if acts == "none":
        return rows.astype(np.float64), np.ones((m, groups))
    bits = int(acts.removeprefix("int"))
    q, s = quantize_activations(rows, act_group_size or k, bits)
    s = s if s.shape[1] == groups else np.repeat(s, groups, axis=1)
    return q.astype(np.float64), s.astype(np.float64)


def lowbit_matmul(
    x: np.ndarray,
    packed: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None = None,
    table: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    norm_gain: np.ndarray | None = None,
    hadamard: np.ndarray | None = None,
    act_scale: np.ndarray | None = None,
    low_rank_down: np.ndarray | None = None,
    low_rank_up: np.ndarray | None = None,
    input_scales: np.ndarray | None = None,
    column_norms: np.ndarray | None = None,
    *,
    n: int,
    k: int,
    bits: int,
    group_size: int,
    layout: int = LAYOUT_VERSION,
    acts: str = "int8",
    act_group_size: int = 0,
    activation: str = "none",
    scale_factor: float = 1.0,
    epsilon: float = 0.0,
    hadamard_size: int = 0,
    n_group_size: int = 0,
    keep: float = 1.0,
) -> np.ndarray:
    """Y of ``LowBitMatMul`` in float64, for x float32 [..., K] and the inputs as the op has them.

    ``act_group_size`` 0 stands for K, ``n_group_size`` 0 for N.  Sums are exact for
    integer activations up to the scales.  Y is whole: ``splits`` cut it into the outputs.
    """

    def of_rows(rows: np.ndarray) -> np.ndarray:
        return unpaired(rows, n) if activation == "swiglu" else rows[:n]

    tiled_rows = len(scales) * TILE
    if layout == MASKED_VERSION:
        codes, kept = unpack_masked(packed, tiled_rows, k, bits)
    else:
        codes = unpack_codes(packed.reshape(-1), tiled_rows, k, bits)
        kept = np.ones_like(codes)
    parts = [codes, untile_groups(scale_values(scales, scale_factor), tiled_rows)]
    if zero_points is not None:
        parts.append(untile_groups(zero_points, tiled_rows))
    parts, kept = [of_rows(part) for part in parts], of_rows(kept)
    codes, scale = parts[0], parts[1].astype(np.float64)
    groups = -(-k // group_size)

    def grouped(values: np.ndarray) -> np.ndarray:
        spread = np.zeros((n, groups * group_size), np.uint8)
        spread[:, :k] = values
        return spread.reshape(n, groups, group_size)

    zeros = parts[2] if zero_points is not None else None
    weight = np.where(grouped(kept), levels(grouped(codes), bits, table, zeros), 0)

    rows = prepared(x.reshape(-1, k), norm_gain, epsilon, hadamard, hadamard_size)
    if column_norms is not None:
        rows = without_skipped(rows, column_norms, keep)
    broken = ~np.isfinite(rows).all(axis=1)
    finite = np.where(broken[:, None], np.float32(0), rows)
    y = np.zeros((len(rows), n))
    size = n_group_size or n
    for block, start in enumerate(range(0, n, size)):
        outputs = slice(start, start + size)
        scaled = finite if input_scales is None else finite * input_scales[block]
        operand, scale_a = operands(scaled, group_size, acts, act_group_size, act_scale)
        padded = np.zeros((len(rows), groups * group_size))
        padded[:, :k] = operand
        for g in range(groups):
            levels_of = weight[outputs, g].T.astype(np.float64)
            part = padded[:, g * group_size : (g + 1) * group_size] @ levels_of
            y[:, outputs] += scale_a[:, g : g + 1] * scale[outputs, g] * part
    if low_rank_down is not None and low_rank_up is not None:
        thin = finite.astype(np.float64) @ low_rank_down.T.astype(np.float64)
        y += thin @ low_rank_up.T.astype(np.float64)
    if bias is not None:
        y += bias
    y = activated(y, activation)
    if residual is not None:
        y += residual.reshape(y.shape)
    y[broken] = np.nan
    return y.reshape(*x.shape[:-1], -1)
