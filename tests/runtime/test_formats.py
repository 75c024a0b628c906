"""Formats: codes, levels and tables."""

import ml_dtypes
import numpy as np
import pytest
from scipy.stats import norm

from bitfold.runtime.errors import RecipeError, UnsupportedError
from bitfold.runtime.formats import FAMILIES, FORMATS, Format, format_named
from bitfold.runtime.formats.gaussian import MAGNITUDES
from bitfold.runtime.formats.nf4 import QUANTILES
from bitfold.runtime.formats.power_exponent import POWERS, power_exponent
from bitfold.runtime.formats.scheme import QuantScheme, WeightScheme, takes_zero_points
from bitfold.runtime.formats.whole import whole_levels


@pytest.mark.parametrize("name", FORMATS)
def test_every_level_has_its_own_code(name):
    number = format_named(name)
    levels = np.array(number.levels, np.float32)
    codes = number.encode(levels)
    assert codes.max() < 1 << number.bits
    assert np.array_equal(number.decode(codes), levels)


def test_values_go_to_the_nearest_level_and_stay_in_range():
    int4 = format_named("int4")
    values = np.array([-100, -8.4, -0.5, 0.5, 1.5, 6.6, 100])
    assert int4.decode(int4.encode(values)).tolist() == [-8, -8, 0, 0, 2, 7, 7]


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].linear])
def test_a_code_stands_for_a_level_or_for_zero(name):
    number = format_named(name)
    every = number.decode(np.arange(1 << number.bits, dtype=np.uint8))
    assert {*number.levels} <= {*every.tolist()} <= {*number.levels, 0}


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].linear])
def test_every_value_goes_to_the_nearest_level(name):
    number = format_named(name)
    levels = np.array(number.levels, np.float64)
    reach = 1.2 * number.highest
    values = np.random.default_rng(0).uniform(-reach, reach, 4000).astype(np.float32)
    nearest = levels[np.abs(levels - values[:, None]).argmin(1)]
    assert np.array_equal(number.decode(number.encode(values)), nearest)
    assert np.array_equal(number.nearest(values), nearest)


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].linear])
def test_ties_go_to_the_even_code(name):
    number = format_named(name)
    levels = np.array(number.levels, np.float32)
    codes = number.encode(levels).astype(int)
    found = number.encode((levels[1:] + levels[:-1]) / 2).astype(int)
    for low, high, tie in zip(codes[:-1], codes[1:], found, strict=True):
        assert tie == (high if high % 2 == 0 else low)


@pytest.mark.parametrize(
    ("name", "scale", "standard"),
    [
        ("fp4", 2, ml_dtypes.float4_e2m1fn),
        ("fp6_e2m3", 8, ml_dtypes.float6_e2m3fn),
        ("fp6_e3m2", 1, ml_dtypes.float6_e3m2fn),
        ("fp8_e4m3", 1, ml_dtypes.float8_e4m3fn),
        ("fp8_e5m2", 1, ml_dtypes.float8_e5m2),
    ],
)
def test_minifloats_have_the_codes_of_their_standard(name, scale, standard):
    number = format_named(name)
    codes = np.arange(1 << number.bits, dtype=np.uint8)
    expected = codes.view(standard).astype(np.float32)
    expected[~np.isfinite(expected)] = 0  # no levels
    assert np.array_equal(number.decode(codes), expected * scale)
    values = np.random.default_rng(1).normal(size=5000).astype(np.float32) * 2
    rounded = values.astype(standard).astype(np.float32)
    assert np.array_equal(number.nearest(values * scale), rounded * scale)


def test_fp4_is_that_of_the_ocp_specification():
    fp4 = format_named("fp4").decode(np.arange(16, dtype=np.uint8)) / 2
    assert fp4[:8].tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert np.array_equal(fp4[8:], -fp4[:8])


def test_nf4_holds_the_quantiles_of_a_normal_distribution():
    """Appendix E of the paper: 8 quantiles of one side and 7 of the other, and 0 between them."""
    offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort([*(positive / positive.max()), 0, *(-negative / positive.max())])
    assert np.allclose(QUANTILES, values, atol=1e-6)
    nf4 = format_named("nf4")
    assert np.allclose(np.array(nf4.levels) / 127, QUANTILES, atol=0.5 / 127)
    assert nf4.encode(127 * np.array(QUANTILES)).tolist() == list(range(16))


def test_powers_of_two_and_their_sums():
    assert format_named("pot3").levels == (-4, -2, -1, 0, 1, 2, 4)
    assert format_named("pot4").levels[7:] == (0, 1, 2, 4, 8, 16, 32, 64)
    apot5 = format_named("apot5").levels
    assert apot5[15:] == (0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48)
    assert format_named("pot5").levels[15:] == (0, *(2**power for power in range(15)))
    assert apot5[:15] == tuple(-each for each in apot5[:15:-1])
    assert format_named("binary").table().tolist() == [-1, 1]


@pytest.mark.parametrize("bits", MAGNITUDES)
def test_gaussian_levels_are_the_means_of_what_goes_to_them(bits):
    """What makes levels optimal (Max, 1960, equation 6), and the distortion of his table I."""
    levels = np.array([*(-each for each in MAGNITUDES[bits][::-1]), *MAGNITUDES[bits]])
    borders = np.array([-np.inf, *(levels[1:] + levels[:-1]) / 2, np.inf])
    mass = np.diff(norm.cdf(borders))
    assert np.allclose(levels, -np.diff(norm.pdf(borders)) / mass, atol=2e-3)
    distortion = {2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}[bits]
    assert 1 - mass @ levels**2 == pytest.approx(distortion, rel=2e-3)
    whole = np.array(format_named(f"gauss{bits}").levels)
    assert np.allclose(whole / whole[-1], levels / levels[-1], atol=1 / 128)


def test_odd_and_quinary_levels():
    assert format_named("odd2").levels == (-3, -1, 1, 3)
    assert format_named("odd4").levels == tuple(range(-15, 16, 2))
    assert format_named("quinary").levels == (-2, -1, 0, 1, 2)
    assert [takes_zero_points(format_named(name)) for name in ("int4", "quinary", "odd3")] == [
        True,
        False,
        False,
    ]


def test_power_exponents():
    """A power of 1 is evenly spaced; at 2, codes stand for their squares."""
    assert power_exponent(4, 1).levels == tuple(range(-64, 64, 8))
    assert power_exponent(4, 2).levels[8:] == (0, 1, 4, 9, 16, 25, 36, 49)
    assert power_exponent(3, 2).table().tolist() == [-64, -36, -16, -4, 0, 4, 16, 36]
    for bits, p in ((3, 1.375), (4, 1.5), (5, POWERS[-1])):
        number = power_exponent(bits, p)
        k = np.arange(-(1 << (bits - 1)), 1 << (bits - 1))
        exact = np.sign(k) * np.abs(k / k[0]) ** p
        nearest = np.abs(np.array(number.levels) / -number.lowest - exact[:, None]).min(1)
        assert nearest.max() <= 1 / 128
        assert number.integral
        assert number.bits == bits


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_formats_of_whole_levels(name):
    number = format_named(name)
    assert number.integral
    assert not number.linear
    assert WeightScheme(name).number is number
    member = power_exponent(number.bits, 1.125)
    assert WeightScheme(name, member=member).number is member


def test_whole_levels():
    assert whole_levels([0.5, -1.5]) == (-66, 22)
    assert whole_levels([-1, 0, 1e-9]) == (-64, 0)
    values = np.random.default_rng(0).normal(size=16)
    levels = np.array(whole_levels(values))
    factor = np.abs(levels).max() / np.abs(values).max()
    assert np.abs(levels - factor * np.sort(values)).max() <= 0.5


def test_int8_inputs_take_integers():
    with pytest.raises(UnsupportedError, match="multiply integers") as error:
        QuantScheme(WeightScheme("fp8_e4m3"), "int8")
    assert "acts=none" in error.value.hint
    QuantScheme(WeightScheme("fp8_e4m3"), "none")
    QuantScheme(WeightScheme("fp6_e2m3"), "int8")


def test_zero_points_of_uneven_levels_are_refused():
    with pytest.raises(RecipeError, match="evenly spaced"):
        WeightScheme("nf4", 32, symmetric=False)


def test_a_table_format_finds_the_nearest_of_uneven_levels():
    uneven = Format("uneven", 2, (-8, -1, 1, 8), linear=False)
    codes = uneven.encode(np.array([-9.0, -4.6, -4.4, 0.2, 4.4, 4.6]))
    assert uneven.decode(codes).tolist() == [-8, -8, -1, 1, 1, 8]
    assert uneven.table().tolist() == [-8, -1, 1, 8]


def test_unknown_formats_and_odd_groups_are_refused():
    with pytest.raises(RecipeError, match="no number format 'int9'"):
        format_named("int9")
    with pytest.raises(RecipeError, match="not a multiple of 16"):
        WeightScheme("int4", 20)


def test_bits_per_weight_count_scales_and_zero_points():
    assert WeightScheme("int4", 32).bits_per_weight() == 4.5
    assert WeightScheme("int4", 32, symmetric=False).bits_per_weight() == 4.75
    assert WeightScheme("fp4", 32, scale="e8m0").bits_per_weight() == 4.25
    assert WeightScheme("fp4", 16, scale="e4m3").bits_per_weight() == 4.5
