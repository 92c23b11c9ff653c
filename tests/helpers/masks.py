"""Masks of a few classes for formats of other tools: holes, islands, noise, odd sizes, nothing at all."""

from pathlib import Path

import numpy as np
from PIL import Image

from saot.data.classes import folder_class_set
from saot.report import MaskItem

CLASSES = folder_class_set(["road", "a & b", "sky"])


def class_masks_of(count=20, classes=3, names="sub/{}.png"):
    """Names and masks; 255 is no class."""
    rng = np.random.default_rng(4)
    yield "none.png", np.full((4, 4), 255, np.uint8)
    for number in range(count):
        height, width = rng.integers(1, 40, 2)
        coarse = rng.choice([*range(classes), 255], (-(-height // 4), -(-width // 4)))
        mask = np.kron(coarse, np.ones((4, 4), int))[:height, :width].astype(np.uint8)
        noise = rng.random(mask.shape) < rng.choice([0, 0.1])
        yield names.format(number), np.where(noise, rng.integers(0, classes, mask.shape), mask).astype(np.uint8)


def items_with_pictures(folder, masks=None):
    """The same with a picture each below a folder."""
    for name, mask in masks or class_masks_of():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(path)
        yield MaskItem(name, mask, picture=path)
