"""Hadamard matrices of order m * 2**n and fast multiplication by them.

A Hadamard matrix H has entries +1 and -1 and orthogonal rows: ``H H^T = size I``.  Those of order
``m * 2**n`` are the Kronecker product of a small base matrix of order m (Paley's constructions)
and Sylvester's matrix of order ``2**n``, so that a product with a vector takes
``size * (m + n)`` additions.

Paley, "On orthogonal matrices", Journal of Mathematics and Physics 12 (1933).
"""

from __future__ import annotations

import itertools
import math
from functools import cache

import numpy as np
from scipy.linalg import hadamard as sylvester

from bitfold.runtime.errors import UnsupportedError

MOST_BASE = 512
"""The largest order of a base matrix: a kernel multiplies by it with ``m * m / 4`` additions."""


def hadamard_base(size: int) -> tuple[int, int]:
    """The smallest m, and n, with ``size = m * 2**n`` and a base matrix of order m.

    m is 1 where the size is a power of two.

    Raises:
        UnsupportedError: no such m up to ``MOST_BASE`` is known here.
    """
    found = _base(size)
    if found is None:
        raise UnsupportedError(
            f"no Hadamard matrix of order {size}: expected a power of two, or 12, 20, 28, 36, 44, "
            "52, 60, 68, 72... times one",
            f"the largest block that divides {size} is {largest_block(size)}" if size > 0 else "",
        )
    return found


def largest_block(size: int) -> int:
    """The largest divisor of ``size`` for which there is a Hadamard matrix.

    Blocks of it on the diagonal make an orthogonal matrix of the whole size.
    """
    return next(
        size // parts for parts in range(1, size + 1) if size % parts == 0 and _base(size // parts)
    )


def base_matrix(order: int) -> np.ndarray:
    """The base matrix: int8 [order, order] of +1 and -1, for an order that ``hadamard_base`` gives.

    Raises:
        UnsupportedError: there is none.
    """
    if order == 1:
        return np.ones((1, 1), np.int8)
    matrix = _paley(order)
    if matrix is None:
        raise UnsupportedError(f"no construction of Paley's gives a matrix of order {order}")
    return matrix.copy()


def hadamard_matrix(size: int) -> np.ndarray:
    """The whole matrix H, int8 [size, size]: ``base (x) sylvester``.

    Raises:
        UnsupportedError: see ``hadamard_base``.
    """
    m, n = hadamard_base(size)
    whole: np.ndarray = np.kron(base_matrix(m), sylvester(1 << n, dtype=np.int8))
    return whole


def hadamard_transform(x: np.ndarray, size: int, inverse: bool = False) -> np.ndarray:
    """``x H / sqrt(size)`` along the last axis, in blocks of ``size``: an orthogonal transform.

    Rows of a weight W and the activations that it multiplies may both be transformed:
    ``(x H) (W H)^T = size x W^T``.

    Args:
        x: floats [..., K]; the result has its type, sums are made in it too.
        size: a divisor of K.
        inverse: multiply by the transposed matrix instead.

    Raises:
        UnsupportedError: see ``hadamard_base``.
    """
    m, n = hadamard_base(size)
    y = x.reshape(-1, m, 1 << n)
    for bit in range(n):
        pairs = y.reshape(-1, 2, 1 << bit)
        y = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
    y = y.reshape(-1, m, 1 << n)
    if m > 1:
        base = base_matrix(m).astype(x.dtype)
        y = np.einsum("am,bmk->bak", base if inverse else base.T, y, optimize=True)
    scaled: np.ndarray = y.reshape(x.shape) * x.dtype.type(1 / math.sqrt(size))
    return scaled


def _base(size: int) -> tuple[int, int] | None:
    if size < 1:
        return None
    odd, twos = size, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    if odd == 1:
        return 1, twos
    for used in range(2, twos + 1):
        order = odd << used
        if order > MOST_BASE:
            return None
        if _paley(order) is not None:
            return order, twos - used
    return None


@cache
def _paley(order: int) -> np.ndarray | None:
    """Paley's matrix of this order, made from the squares of a finite field of q elements.

    q = order - 1 with q = 3 mod 4 (construction I), or q = order / 2 - 1 with q = 1 mod 4 (II).
    """
    if order % 4:
        return None
    if (q := order - 1) % 4 == 3 and (residues := _jacobsthal(q)) is not None:
        bordered = _bordered(residues, -1)
        return (bordered + np.eye(order, dtype=np.int8)).astype(np.int8)
    if (q := order // 2 - 1) % 4 == 1 and (residues := _jacobsthal(q)) is not None:
        conference = _bordered(residues, 1)
        off, on = np.array([[1, 1], [1, -1]], np.int8), np.array([[1, -1], [-1, -1]], np.int8)
        return np.kron(conference, off) + np.kron(np.eye(q + 1, dtype=np.int8), on)
    return None


def _bordered(residues: np.ndarray, left: int) -> np.ndarray:
    """``residues`` with a row of ones above, a column of ``left`` at the left, 0 in the corner."""
    whole = np.ones((len(residues) + 1, len(residues) + 1), np.int8)
    whole[1:, 1:], whole[1:, 0], whole[0, 0] = residues, left, 0
    return whole


def _jacobsthal(q: int) -> np.ndarray | None:
    """int8 [q, q]: 1 where the difference of two field elements is a square, else -1, 0 for 0.

    None where q is no prime power.
    """
    prime = next(p for p in range(2, q + 1) if q % p == 0)
    degree = round(math.log(q, prime))
    if prime**degree != q:
        return None
    elements = list(itertools.product(range(prime), repeat=degree))
    number = {element: index for index, element in enumerate(elements)}
    character = np.full(q, -1, np.int8)
    character[0] = 0
    modulus = _irreducible(prime, degree)
    for element in elements[1:]:
        character[number[_square(element, modulus, prime)]] = 1
    digits = np.array(elements)
    differences = (digits[:, None] - digits[None, :]) % prime
    weights = prime ** np.arange(degree - 1, -1, -1)
    jacobsthal: np.ndarray = character[differences @ weights]
    return jacobsthal


def _square(element: tuple[int, ...], modulus: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """The square of a polynomial, constant term first, modulo one with the leading term 1."""
    degree = len(element)
    product = [0] * (2 * degree - 1)
    for i, j in itertools.product(range(degree), repeat=2):
        product[i + j] += element[i] * element[j]
    for top in range(2 * degree - 2, degree - 1, -1):
        for i, coefficient in enumerate(modulus):
            product[top - degree + i] -= product[top] * coefficient
    return tuple(each % prime for each in product[:degree])


def _irreducible(prime: int, degree: int) -> tuple[int, ...]:
    """The lower coefficients of an irreducible polynomial: squares hit half of the elements.

    In a field of odd order every square but 0 has two roots; with a reducible modulus some
    product of two polynomials is 0, and the count differs.
    """
    elements = list(itertools.product(range(prime), repeat=degree))
    for modulus in itertools.product(range(prime), repeat=degree):
        squares = {_square(element, modulus, prime) for element in elements}
        zeros = sum(not any(_square(element, modulus, prime)) for element in elements)
        if len(squares) == (len(elements) + 1) // 2 and zeros == 1:
            return modulus
    raise ValueError(f"expected a prime, found {prime}")
