"""Classification of photographs: top-1 on twenty pictures of ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitfold.frontend.tasks.pictures import pillow
from bitfold.frontend.tasks.task import Score, Setting
from bitfold.models.catalogue import fetch_entry
from bitfold.models.efficientnet import MEAN, STD
from bitfold.models.foolbox_images import ENTRY, labelled_images
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

_MARGIN = 32
"""Pixels that the centre crop leaves out of the scaled picture's shorter side."""


class Classification:
    """Top-1 accuracy on the catalogue's ImageNet pictures."""

    name = "classification"
    summary = "top-1 on ImageNet pictures"

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        """The pictures, one at a time."""
        return [feeds for feeds, _ in _samples(session, setting)]

    def score(self, session: Session, setting: Setting) -> Score:
        """The share of pictures whose likeliest class is theirs, and of those where it is near."""
        samples = _samples(session, setting)
        ranks = []
        for index, (feeds, label) in enumerate(samples):
            setting.progress("classifying", index / len(samples))
            logits = session.run(feeds, [session.outputs[0].name])[session.outputs[0].name][0]
            ranks.append(int((logits > logits[label]).sum()))
        right, near = ([rank < top for rank in ranks] for top in (1, 5))
        details = {"right": float(sum(right)), "top-5": float(np.mean(near))}
        return Score(
            "ImageNet top-1", float(np.mean(right)), True, len(samples), details, share=True
        )


def _samples(session: Session, setting: Setting) -> list[tuple[Feeds, int]]:
    shape = session.inputs[0].shape if session.inputs else ()
    if len(session.inputs) != 1 or len(shape) != 4 or shape[1] != 3:
        raise UnsupportedError(
            f"{session.path.name} is no classifier of pictures: it has the inputs "
            f"{', '.join(f'{value.name}{list(value.shape)}' for value in session.inputs)}",
            "choose another task",
        )
    height, width = (side if isinstance(side, int) else 224 for side in shape[2:])
    pictures = labelled_images(fetch_entry(ENTRY, setting.progress))[: setting.limit]
    name = session.inputs[0].name
    return [({name: read_picture(path, height, width)}, label) for path, label in pictures]


def read_picture(path: Path, height: int, width: int) -> np.ndarray:
    """A picture as the classifier reads it: f32[1, 3, height, width].

    The shorter side is scaled to that of the crop and 32 more (bicubic), the centre is cut out,
    and colours from 0 to 1 become (colour - mean) / deviation.
    """
    image, _, _ = pillow()
    with image.open(path) as file:
        picture = file.convert("RGB")
    scale = (min(height, width) + _MARGIN) / min(picture.size)
    size = [
        max(round(side * scale), least)
        for side, least in zip(picture.size, (width, height), strict=True)
    ]
    picture = picture.resize(size, image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    picture = picture.crop((left, top, left + width, top + height))
    colours = np.asarray(picture, np.float32) / 255
    return np.ascontiguousarray(((colours - MEAN) / STD).transpose(2, 0, 1)[None], np.float32)
