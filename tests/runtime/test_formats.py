"""Formats: codes, levels and tables."""

import numpy as np
import pytest

from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats import FORMATS, Format, format_named
from bitfold.runtime.formats.scheme import WeightScheme


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
