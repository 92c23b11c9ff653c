"""What the tests of the trainer share: encoders of a few weights, and pictures that say where each pixel stood."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from saot.adapt.encoders import Encoder
from saot.adapt.heads import DeepLabV2Head, Projector
from saot.adapt.networks import Segmenter
from saot.adapt.pictures import TrainingPictures
from saot.adapt.recipe import SMALL, AdaptRecipe, NetworkRecipe, OptimizerRecipe, PicturesRecipe, with_method
from saot.adapt.sampling import RareClassSettings, count_pixels
from saot.adapt.teacher import TeacherSettings
from saot.data import ImageSet, LabelledSet
from saot.data.classes import folder_class_set

CLASSES = ("sky", "road", "tree", "car", "sign")
NEUTRAL = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class TinyEncoder(Encoder):
    """Two convolutions, 4 and 8 pixels a cell; no normalisation, dropout where wanted."""

    family = "tiny"

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__("tiny", (6, 8), (4, 8), 8, ((127.0,) * 3, (80.0,) * 3))
        self.fine, self.coarse, self.dropout = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 8, 2, 2), nn.Dropout(dropout)

    def maps(self, pixels):
        fine = self.dropout(torch.relu(self.fine(pixels)))
        return fine, torch.relu(self.coarse(fine))


class Passing(Encoder):
    """The picture itself, every `stride`-th pixel of it from the centre of each cell."""

    family = "passing"

    def __init__(self, multiple: int = 1, stride: int = 1) -> None:
        super().__init__("passing", (3, 3), (1, stride), multiple, NEUTRAL)
        self.nothing = nn.Parameter(torch.zeros(()))

    def maps(self, pixels):
        first, step = self.strides[-1] // 2, self.strides[-1]
        return pixels, pixels[..., first::step, first::step]


def tiny_network(classes: int = len(CLASSES), projector: bool = True, dropout: float = 0.0, seed: int = 0) -> Segmenter:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = TinyEncoder(dropout)
        return Segmenter(encoder, DeepLabV2Head(8, classes), Projector(8, 12) if projector else None, classes).train()


def mask_of(number: int, height: int, width: int, classes: int = len(CLASSES)) -> np.ndarray:
    """Blocks of 5x7 pixels of random classes, here and there ignored."""
    blocks = np.random.default_rng(number).integers(0, classes + 1, (height // 5 + 1, width // 7 + 1))
    mask = np.repeat(np.repeat(blocks, 5, 0), 7, 1)[:height, :width]
    return np.where(mask == classes, 255, mask).astype(np.uint8)


def told_picture(number: int, height: int, width: int) -> np.ndarray:
    """Red is the column, green the row, blue 20 times the class (200: ignored)."""
    mask = mask_of(number, height, width).astype(int)
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.where(mask == 255, 200, 20 * mask)], -1).astype(np.uint8)


def labelled(count: int = 3, height: int = 56, width: int = 112) -> LabelledSet:
    images = ImageSet(
        "made:source",
        folder_class_set(CLASSES),
        tuple(f"{n}" for n in range(count)),
        lambda n: told_picture(n, height, width),
        lambda n: f"source {n}",
    )
    return LabelledSet(images, lambda n: mask_of(n, height, width))


def unlabelled(count: int = 3, height: int = 48, width: int = 80) -> ImageSet:
    """Pictures of noise over a red that tells their number: 40, 80, 120."""

    def picture(number: int) -> np.ndarray:
        noise = np.random.default_rng(100 + number).integers(0, 256, (height, width, 3))
        noise[..., 0] = 40 * (number + 1)
        return noise.astype(np.uint8)

    return ImageSet("made:target", None, tuple(f"{n}" for n in range(count)), picture, lambda n: f"target {n}")


def tiny_recipe(method: str = "t2s-da", **changes) -> AdaptRecipe:
    recipe = replace(
        SMALL,
        name="tiny",
        network=NetworkRecipe(encoder="mit-b0", channels=8),
        pictures=PicturesRecipe(source_size=None, target_size=None, crop=(32, 32)),
        optimizer=OptimizerRecipe(steps=6, warmup=2, rate=1e-3),
        teacher=TeacherSettings(decay=0.9, threshold=0.25, ignore_top=0, ignore_bottom=0),
        rare=RareClassSettings(min_pixels=20),
        pull=replace(SMALL.pull, settings=replace(SMALL.pull.settings, base_queries=8, negatives=16)),
    )
    return replace(with_method(recipe, method), **changes)


def training_pictures(recipe: AdaptRecipe, source=None, target=None, seed: int = 0) -> TrainingPictures:
    source = labelled() if source is None else source
    target = unlabelled() if target is None and recipe.needs_target else target
    pixels = count_pixels((source.mask(n) for n in range(len(source))), len(source.classes.names))
    return TrainingPictures(source, target, pixels, recipe, seed)


def save_segformer(folder: Path) -> str:
    """A folder with a Segformer of four narrow stages, which `load_encoder` takes for mit-b0."""
    import transformers

    settings = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 16], "num_attention_heads": [1, 1, 1, 2]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.SegformerConfig(**settings, drop_path_rate=0.3, initializer_range=0.2)
        transformers.SegformerModel(config).save_pretrained(folder)
    return str(folder)
