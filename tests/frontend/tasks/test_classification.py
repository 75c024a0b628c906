"""How a picture becomes a classifier's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitfold.frontend.tasks.classification import read_picture
from bitfold.models.foolbox_images import ENTRY, labelled_images


@pytest.mark.parametrize("size", [(512, 256), (256, 512), (64, 40), (300, 300)])
def test_cuts_the_centre(tmp_path: Path, size: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image")
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    ramp[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    ramp[..., 2] = 127
    image.fromarray(ramp).save(tmp_path / "ramp.png")
    x = read_picture(tmp_path / "ramp.png", 224, 224)
    assert x.shape == (1, 3, 224, 224)
    assert x.dtype == np.float32
    # Colour 127 is the mean, 0 and 255 are about -1 and 1; the ramps are symmetric about 127.5.
    np.testing.assert_allclose(x[0, 2], 0, atol=1e-3)
    for channel, axis, side in ((0, 1, width), (1, 0, height)):
        ramp_found = x[0, channel].mean(axis=1 - axis)
        kept = 224 / 256 * min(size) / side
        # A quarter of a step: a picture scaled up from 40 pixels has steps of 6 colours.
        np.testing.assert_allclose(ramp_found[[0, -1]], [-kept, kept], atol=0.04)
        np.testing.assert_allclose(ramp_found[112], 0, atol=0.04)


def test_labels_are_in_the_names(tmp_path: Path) -> None:
    pictures = labelled_images(tmp_path / ENTRY.file_name)
    assert len(pictures) == 20
    assert [label for _, label in pictures[:4]] == [243, 559, 438, 990]
    assert all(path.parent == tmp_path for path, _ in pictures)
