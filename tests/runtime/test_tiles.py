"""The packed layout against its specification, bit by bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfold.runtime.layouts.tiles import (
    pack_codes,
    packed_size,
    pieces,
    steps_in_lines,
    tile_groups,
    unpack_codes,
    untile_groups,
)


def code_by_specification(packed: np.ndarray, n: int, k: int, shape: tuple[int, int], bits: int):
    """One code, read the way the module's docstring says a kernel finds it."""
    chunks = -(-shape[1] // 32)
    chunk_bytes = packed.reshape(-1, chunks, 64 * bits)[n // 16, k // 32]
    step, byte = divmod(k % 32, 4)
    lines = [int(each) for each in chunk_bytes.reshape(bits, 16, 4)[:, n % 16, byte]]
    code = first = 0
    for width in (8, 4):
        if bits & width:
            line, field = divmod(step, 8 // width)
            code = lines[line] >> (field * width) & ((1 << width) - 1)
            first = width
    rest = bits & 3
    if rest == 3:
        if step < 6:
            value = lines[first + step // 2] >> (3 * (step % 2)) & 7
        else:
            upper = lines[first + step - 6] >> 6
            lowest = lines[first + 2] >> (7 if step == 6 else 6) & 1
            value = upper << 1 | lowest
        code |= value << first
    elif rest:
        line, field = divmod(step, 8 // rest)
        code |= (lines[first + line] >> (field * rest) & ((1 << rest) - 1)) << first
    return code


@given(
    bits=st.integers(1, 8), n=st.integers(1, 40), k=st.integers(1, 80), seed=st.integers(0, 2**31)
)
def test_every_code_lies_where_the_specification_says(bits, n, k, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (n, k)).astype(np.uint8)
    packed = pack_codes(codes, bits)
    assert packed.size == packed_size(n, k, bits)
    assert np.array_equal(unpack_codes(packed, n, k, bits), codes)
    for row, column in ((0, 0), (n - 1, k - 1), (n // 2, k // 3)):
        assert code_by_specification(packed, row, column, (n, k), bits) == codes[row, column]


def test_four_bits_have_eight_inputs_of_sixteen_outputs_in_a_line():
    codes = np.zeros((16, 32), np.uint8)
    codes[3, 6] = 0xA
    packed = pack_codes(codes, 4)
    assert np.flatnonzero(packed).tolist() == [3 * 4 + 2]
    assert packed[14] == 0xA0


def test_three_bits_put_two_steps_where_the_others_leave_room():
    codes = np.zeros((16, 32), np.uint8)
    codes[0, 4 * 6] = 0b101
    lines = pack_codes(codes, 3).reshape(3, 64)
    assert [line[0] for line in lines] == [0b1000_0000, 0, 0b1000_0000]
    assert steps_in_lines(3) == [[0, 1, 6], [2, 3, 7], [4, 5, 6, 7]]


@given(bits=st.integers(1, 8))
def test_every_bit_of_a_chunk_is_one_bit_of_a_code(bits):
    taken = np.zeros((bits, 8), int)
    for piece in pieces(bits):
        for line, at, mask in zip(piece.line, piece.at, piece.mask, strict=True):
            taken[line] += [int(mask) << int(at) >> bit & 1 for bit in range(8)]
    assert (taken == 1).all()


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit in 3 bits"):
        pack_codes(np.full((1, 1), 8, np.uint8), 3)
    with pytest.raises(ValueError, match="1 to 8 bits"):
        pieces(9)
    with pytest.raises(ValueError, match="take 128 bytes, found 127"):
        unpack_codes(np.zeros(127, np.uint8), 16, 32, 2)


@given(n=st.integers(1, 40), groups=st.integers(1, 5))
def test_tiled_groups_come_back(n, groups):
    values = np.arange(n * groups, dtype=np.float32).reshape(n, groups)
    tiled = tile_groups(values)
    assert tiled.shape == (-(-n // 16), groups, 16)
    assert tiled[(n - 1) // 16, groups - 1, (n - 1) % 16] == values[-1, -1]
    assert np.array_equal(untile_groups(tiled, n), values)
