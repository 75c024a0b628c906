"""How hard activations are to quantize, and why: figures of a matrix of tokens by channels.

Rows are tokens (or pixels), columns channels; the functions look at nothing else.
"""

from __future__ import annotations

import numpy as np

MASSIVE, TIMES_MEDIAN = 100.0, 1000.0
"""Sun et al.: a massive activation is above the first, and above the second times the median."""


def excess_kurtosis(rows: np.ndarray) -> np.ndarray:
    """Excess kurtosis of the channels within each token: f64[tokens].

    The mean fourth power of the channels' distance from their mean, over the square of their
    variance, less 3: 0 for a normal distribution, -1.2 for a uniform one, near the number of
    channels where one of them holds everything.  Tokens of equal channels have 0.
    """
    centred = np.asarray(rows, np.float64)
    centred = centred - centred.mean(axis=1, keepdims=True)
    squares = np.square(centred)
    variance = squares.mean(axis=1)
    fourth = np.square(squares).mean(axis=1)
    flat = variance == 0
    return np.where(flat, 0.0, fourth / np.where(flat, 1.0, np.square(variance)) - 3.0)


def peak_ratio(rows: np.ndarray) -> np.ndarray:
    """Largest over median magnitude within each token: f64[tokens]; inf where the median is 0."""
    size = np.abs(np.asarray(rows, np.float64))
    peak, median = size.max(axis=1), np.median(size, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(peak == 0, 1.0, peak / median)


def utilization(count: int, total: np.ndarray, products: np.ndarray) -> float:
    """Quantization-space utilization rate, per channel and relative to the best possible.

    OSTQuant (Hu et al., arXiv 2501.13987) models activations as a normal distribution N(m, C) and
    divides the volume of the ellipsoid that holds most of them by the volume of the cube that the
    quantizer's grid spans, whose edges the widest channel sets.  Both volumes are of as many
    dimensions as there are channels, so this is the ratio's d-th root, over the same root for a
    ball, which fills a cube best::

        det(C)^(1/2d) / max_j sqrt(C_jj + m_j^2)

    1 where all channels are alike and independent; a rotation leaves the numerator as it is and
    shrinks the denominator.  Fewer tokens than channels leave the determinant 0, hence C is drawn
    towards a ball of the same size, by d / (d + tokens), which no rotation changes either.

    Args:
        count: tokens.
        total: f64[channels], the sum of the tokens.
        products: f64[channels, channels], the sum of their outer products.
    """
    d = len(total)
    mean = total / count
    covariance = products / count - np.outer(mean, mean)
    size = float(np.trace(covariance)) / d
    if size <= 0:
        return 1.0
    share = d / (d + count)
    covariance = (1 - share) * covariance + share * size * np.eye(d)
    _, volume = np.linalg.slogdet(covariance)
    widest = float((np.diag(covariance) + np.square(mean)).max())
    return float(np.exp(volume / (2 * d)) / np.sqrt(widest))


def massive(rows: np.ndarray) -> np.ndarray:
    """Places of massive activations: int[n, 2] of (token, channel).

    Above 100 in magnitude, and above 1,000 times the median magnitude of all (Sun et al., arXiv
    2402.17762).  Norms divide them away: they are found in the stream in front.
    """
    size = np.abs(np.asarray(rows))
    bound = max(MASSIVE, TIMES_MEDIAN * float(np.median(size))) if size.size else MASSIVE
    return np.argwhere(size > bound)


def sink_tokens(probabilities: np.ndarray, share: float = 0.3) -> np.ndarray:
    """Tokens that draw attention whatever they say: their places among the keys.

    A key is a sink of a head where the queries that may see it (those with any probability at or
    behind it) give it more than ``share`` on average (Gu et al., arXiv 2410.10781, with 0.3); here,
    a key that is one in at least one head, and that more than one query sees.

    Args:
        probabilities: [heads, queries, keys], rows of sum 1.
    """
    seen = (probabilities > 0).sum(axis=1)
    mean = probabilities.sum(axis=1) / np.maximum(seen, 1)
    return np.flatnonzero(((mean > share) & (seen > 1)).any(axis=0))
