"""Tiny models with random weights and real structure, for tests: nothing to fetch, seeded.

Each is written as exporters write it (decomposed, dynamic sizes, names of the module tree) and
has outlier channels in its residual stream, so that quantizing activations hurts as it does in
trained models; see `draw`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bitfold.models.tiny import bert as _bert
from bitfold.models.tiny import cnn as _cnn
from bitfold.models.tiny import decoder as _decoder
from bitfold.models.tiny import vit as _vit
from bitfold.runtime.errors import UnsupportedError

TINY: dict[str, Callable[[int], ir.Model]] = {
    "decoder": _decoder.decoder,
    "bert": _bert.bert,
    "vit": _vit.vit,
    "cnn": _cnn.cnn,
}
"""Every tiny model by name: seed → model. The seed determines every byte of it."""

_FEEDS = {
    "decoder": _decoder.feeds,
    "bert": _bert.feeds,
    "vit": _vit.feeds,
    "cnn": _cnn.feeds,
}


def sample_feeds(name: str, seed: int, batch: int = 2, length: int = 12) -> dict[str, np.ndarray]:
    """Returns inputs for one run of a tiny model.

    Args:
        name: a key of `TINY`.
        seed: determines the inputs.
        batch: the batch size.
        length: the sequence length in tokens, at most 64; models of images ignore it.

    Raises:
        UnsupportedError: there is no such model.
    """
    if name not in _FEEDS:
        raise UnsupportedError(f"no tiny model {name!r}", hint=f"known: {', '.join(_FEEDS)}")
    return _FEEDS[name](np.random.default_rng(seed), batch, length)
