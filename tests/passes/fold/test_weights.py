"""The fold math: properties over random shapes, against the computation it replaces."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from bitfold.passes.fold.weights import (
    batch_norm_affine,
    scale_conv_inputs,
    scale_conv_outputs,
    scale_conv_transpose_outputs,
    scale_inputs,
    shift_of_conv_inputs,
    shift_of_inputs,
)

sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32 - 1)


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@given(seeds, sizes, sizes)
def test_scaling_and_shifting_inputs_moves_into_the_weight(seed, n, k):
    weight, scale, shift, x = arrays(seed, (n, k), k, k, k)
    expected = weight.astype(np.float64) @ (scale * x.astype(np.float64) + shift)
    folded = scale_inputs(weight, scale) @ x.astype(np.float64) + shift_of_inputs(weight, shift)
    assert_allclose(folded, expected, rtol=1e-5, atol=1e-5)
    assert scale_inputs(weight, scale).dtype == np.float32


@given(seeds, sizes)
def test_scales_of_two_undo_each_other_exactly(seed, n):
    (weight,) = arrays(seed, (n, 5))
    powers = 2.0 ** np.random.default_rng(seed).integers(-8, 8, 5)
    back = scale_inputs(scale_inputs(weight, powers), 1 / powers)
    np.testing.assert_array_equal(back, weight)


@given(seeds, sizes)
def test_batch_norm_is_an_affine_map(seed, c):
    gain, bias, mean, variance, x = arrays(seed, c, c, c, c, c)
    variance = np.abs(variance)
    scale, shift = batch_norm_affine(gain, bias, mean, variance, 1e-3)
    expected = (x - mean) / np.sqrt(variance + 1e-3) * gain + bias
    assert_allclose(scale * x + shift, expected, rtol=1e-4, atol=1e-4)


def conv(x, weight, groups):
    """A valid convolution by hand: x[in, h, w], weight[out, in/groups, k, k]."""
    out, per_group, k, _ = weight.shape
    h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
    y = np.zeros((out, h, w))
    for o in range(out):
        first = (o // (out // groups)) * per_group
        for i in range(per_group):
            for a in range(k):
                for b in range(k):
                    y[o] += weight[o, i, a, b] * x[first + i, a : a + h, b : b + w]
    return y


@given(seeds, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_convolutions_take_scales_and_shifts_on_either_side(seed, groups, out, into, k):
    weight, x, scale, shift, gain = arrays(
        seed,
        (groups * out, into, k, k),
        (groups * into, k + 1, k + 2),
        groups * into,
        groups * into,
        groups * out,
    )
    expected = conv(x * scale[:, None, None] + shift[:, None, None], weight, groups)
    folded = conv(x, scale_conv_inputs(weight, scale, groups), groups)
    folded += shift_of_conv_inputs(weight, shift, groups)[:, None, None]
    assert_allclose(folded, expected, rtol=1e-4, atol=1e-4)
    scaled = conv(x, scale_conv_outputs(weight, gain), groups)
    assert_allclose(scaled, conv(x, weight, groups) * gain[:, None, None], rtol=1e-4, atol=1e-4)


@given(seeds, st.integers(1, 3), sizes, sizes)
def test_transposed_convolutions_scale_the_channels_of_their_group(seed, groups, into, out):
    weight, scale = arrays(seed, (groups * into, out, 2), groups * out)
    scaled = scale_conv_transpose_outputs(weight, scale, groups)
    for i in range(groups * into):
        for m in range(out):
            factor = scale[(i // into) * out + m]
            assert_allclose(scaled[i, m], weight[i, m] * factor, rtol=1e-6)
