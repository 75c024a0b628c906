"""How hard activations are to quantize, and why: figures of a matrix of tokens by channels.

Rows are tokens (or pixels), columns channels; the functions look at nothing else.
"""

from __future__ import annotations

import numpy as np

MASSIVE, TIMES_MEDIAN = 100.0, 1000.0
"""Sun et al.: a massive activation is above the first, and above the second times the median."""

SINK_SHARE = 0.3
"""Gu et al.: a sink is given more than this share of attention on average."""


def excess_kurtosis(rows: np.ndarray) -> np.ndarray:
    """Excess kurtosis of the channels within each token: f64[tokens].

    The mean fourth power of the channels' distance from their mean, over the square of their
    variance, less 3: 0 for a normal distribution, -1.2 for a uniform one, near the number of
    channels where one of them holds everything.  Tokens of equal channels have 0.
    """
    wide = np.asarray(rows, np.float64)
    squares = np.square(wide - wide.mean(axis=1, keepdims=True))
    variance = squares.mean(axis=1)
    fourth = np.square(squares).mean(axis=1)
    flat = variance <= np.square(1e-12 * wide).max(axis=1)  # but for the mean's own rounding
    return np.where(flat, 0.0, fourth / np.where(flat, 1.0, np.square(variance)) - 3.0)


def peak_ratio(rows: np.ndarray) -> np.ndarray:
    """Largest over median magnitude within each token: f64[tokens]; inf where the median is 0."""
    size = np.abs(np.asarray(rows, np.float64))
    peak, median = size.max(axis=1), np.median(size, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(peak == 0, 1.0, peak / median)


def utilization(rows: np.ndarray) -> float:
    """How much of the space that a quantizer's grid spans the tokens fill, between 0 and 1.

    After the quantization-space utilization rate of OSTQuant (Hu et al., arXiv 2501.13987): of
    tokens from a normal distribution N(m, C), the volume of the ellipsoid that holds most of them,
    over the volume of the cube that the grid spans.  Here::

        det(C)^(1/2d) / max_j sqrt(C_jj + m_j^2)

    which is that rate but for these differences:

    - it is the d-th root, relative to that of a ball, which fills a cube best: the rate itself
      is far below what a float holds where there are many channels;
    - the cube holds the whole ellipsoid, where the paper takes the ends of its longest axis, for
      which any will do where several are equally long;
    - the mean, which the paper leaves out as small, takes room as part of the widest channel's
      root mean square;
    - fewer tokens than channels leave the determinant 0, hence C is drawn towards a ball of the
      same size, by d / (d + tokens): figures compare for like numbers of tokens.

    1 where all channels are alike and independent.  No rotation changes the numerator; one that
    spreads outliers makes the denominator smaller.
    """
    count, d = rows.shape
    wide = np.asarray(rows, np.float64)
    mean = wide.mean(axis=0)
    wide = wide - mean
    variances = np.square(wide).mean(axis=0)
    size = float(variances.mean())
    if size <= 0:
        return 1.0
    share = d / (d + count)
    ball = share * size
    # Tokens' products have the same determinant as channels' (Sylvester), whichever are fewer.
    few = wide if count < d else wide.T
    inner = (1 - share) / count * (few @ few.T) + ball * np.eye(len(few))
    _, volume = np.linalg.slogdet(inner)
    volume += (d - len(few)) * np.log(ball)
    widest = float(((1 - share) * variances + ball + np.square(mean)).max())
    return float(np.exp(volume / (2 * d)) / np.sqrt(widest))


def massive(rows: np.ndarray) -> np.ndarray:
    """Places of massive activations: int[n, 2] of (token, channel).

    Above 100 in magnitude, and above 1,000 times the median magnitude of all (Sun et al., arXiv
    2402.17762).  Norms divide them away: they are found in the stream in front.
    """
    size = np.abs(np.asarray(rows))
    bound = max(MASSIVE, TIMES_MEDIAN * float(np.median(size))) if size.size else MASSIVE
    return np.argwhere(size > bound)


def sink_tokens(given: np.ndarray, even: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Tokens that draw attention whatever they say: their places among the keys.

    A key is a sink of a head where the queries that see it give it more than 0.3 on average (Gu et
    al., arXiv 2410.10781); here, a key that is one in at least one head, and for which that is
    twice what it would get if each query gave all keys the same, as is not much in a short text,
    and half of the queries see it: near the end of a text a few see a key, and may well mean it.

    Args:
        given: [heads, keys], the sum of the probabilities that queries give each key.
        even: likewise, if each query gave all that it sees the same.
        queries: likewise, how many see it.
    """
    seen = (queries > 1) & (2 * queries >= queries.max(initial=0))
    drawn = (given > SINK_SHARE * queries) & (given > 2 * even)
    return np.flatnonzero((drawn & seen).any(axis=0))
