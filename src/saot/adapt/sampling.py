"""Rare-class sampling of source pictures (RCS, Hoyer et al., DAFormer, CVPR 2022; FACTS T-3)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from saot.adapt.crops import CAT_MAX_RATIO, Crop, crop_together, draw_crop
from saot.data import IGNORE_INDEX
from saot.runs import generator_for


@dataclass(frozen=True)
class RareClassSettings:
    """How much rarer classes are preferred, and how much of them a picture and a crop must show."""

    temperature: float = 0.01  # FACTS T-3; of the softmax
    min_pixels: int = 3000  # FACTS T-3: at the size the labels were made in; more than these
    min_crop_ratio: float = 0.5  # FACTS T-3: share of min_pixels that a crop must show; 0 takes any
    tries: int = 10  # FACTS T-3: crops drawn anew at most

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.min_pixels < 0 or self.min_crop_ratio < 0 or self.tries < 0:
            raise ValueError(f"expected a temperature above 0 and nothing below 0, but {self} came")


@dataclass(frozen=True)
class RareDraws:
    """Source pictures of one step and the classes they were drawn for.

    Attributes:
        pictures: (count,) picture numbers.
        classes: (count,) classes.
    """

    pictures: Int64[Tensor, " count"]
    classes: Int64[Tensor, " count"]


def count_pixels(masks: Iterable[Integer[np.ndarray, "_ _"]], num_classes: int) -> Int64[Tensor, "pictures K"]:
    """Pixels of each class in each picture, at the size of its mask.

    Args:
        masks: Class per pixel as it lies in the file, before any resizing; 255 for "ignore".
        num_classes: Number of classes K.

    Raises:
        ValueError: If a mask has a class outside the range.

    Example:
        >>> count_pixels([np.array([[0, 1, 1]]), np.array([[255, 0]])], num_classes=2)
        tensor([[1, 2],
                [1, 0]])
    """
    rows = []
    for number, mask in enumerate(masks):
        kept = mask[mask != IGNORE_INDEX].astype(np.int64)
        if kept.size and (kept.min() < 0 or kept.max() >= num_classes):
            worst = kept.max() if kept.max() >= num_classes else kept.min()
            raise ValueError(
                f"mask number {number} has class {worst}, but allowed are 0-{num_classes - 1} and {IGNORE_INDEX}"
            )
        rows.append(torch.from_numpy(np.bincount(kept, minlength=num_classes)))
    return torch.stack(rows).long() if rows else torch.zeros(0, num_classes, dtype=torch.long)


def class_probabilities(
    pixels: Int64[Tensor, "pictures K"], settings: RareClassSettings = RareClassSettings()
) -> Float64[Tensor, " K"]:
    """Probability of drawing each class: softmax((1 - f) / T), f its share of all labelled pixels.

    A class that no picture shows with more than `min_pixels` has probability 0 and stays out of the softmax.

    Args:
        pixels: From `count_pixels`.
        settings: T and the threshold.

    Raises:
        ValueError: If no picture shows enough of any class.

    Example:
        >>> settings = RareClassSettings(temperature=1.0, min_pixels=1)
        >>> class_probabilities(torch.tensor([[6, 2, 0]]), settings)  # e^(1/4) to e^(3/4): 0.38 to 0.62
        tensor([0.3775, 0.6225, 0.0000], dtype=torch.float64)
    """
    enough = (pixels > settings.min_pixels).any(0)
    if not bool(enough.any()):
        raise ValueError(
            f"no source picture has more than {settings.min_pixels} pixels of any class; lower rare.min_pixels or "
            "give larger masks"
        )
    share = pixels.sum(0).double() / pixels.sum()
    scores = torch.where(enough, (1 - share) / settings.temperature, -torch.inf)
    return torch.softmax(scores, 0)


def draw_rare(
    pixels: Int64[Tensor, "pictures K"],
    count: int,
    seed: int,
    step: int,
    settings: RareClassSettings = RareClassSettings(),
) -> RareDraws:
    """Source pictures of one step: a class first, then any picture that shows enough of it, with replacement.

    Args:
        pixels: From `count_pixels`.
        count: Pictures wanted, one or more.
        seed: Of the training; with `step`, all that the draw depends on.
        step: Number of the step.
        settings: See `class_probabilities`.

    Raises:
        ValueError: If no picture shows enough of any class.

    Example:
        >>> pixels = torch.tensor([[9000, 0], [9000, 5000], [9000, 100]])
        >>> draws = draw_rare(pixels, 3, seed=0, step=0)  # class 1 is rarer by e^68
        >>> draws.classes.tolist(), draws.pictures.tolist()
        ([1, 1, 1], [1, 1, 1])
    """
    generator = generator_for(seed, "rare-class", step)
    chances = class_probabilities(pixels.cpu(), settings)
    classes = torch.multinomial(chances, count, replacement=True, generator=generator)
    pictures = []
    for label in classes.tolist():
        showing = torch.nonzero(pixels[:, label].cpu() > settings.min_pixels).flatten()
        pictures.append(showing[torch.randint(len(showing), (), generator=generator)])
    return RareDraws(torch.stack(pictures), classes)


def draw_rare_crop(
    labels: Integer[Tensor, "h w"],
    label: int,
    size: tuple[int, int],
    generator: torch.Generator,
    settings: RareClassSettings = RareClassSettings(),
    cat_max_ratio: float = CAT_MAX_RATIO,
    flip: float = 0.5,
) -> Crop:
    """A crop that shows more than `min_crop_ratio * min_pixels` pixels of the class, or the last of eleven drawn.

    Args:
        labels: Of the whole picture.
        label: The class it was drawn for.
        size: Height and width of the crop.
        generator: Of all draws.
        settings: Threshold and number of tries.
        cat_max_ratio: See `draw_crop`.
        flip: Probability of mirroring.

    Raises:
        ValueError: If the crop is larger than the picture.

    Example:
        >>> settings = RareClassSettings(min_pixels=2)  # more than one pixel of class 1: the last two columns
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> draw_rare_crop(labels, 1, (1, 2), torch.Generator().manual_seed(0), settings, cat_max_ratio=1.0).left
        1
    """
    crop = draw_crop(labels, size, generator, cat_max_ratio, flip)
    for _ in range(settings.tries if settings.min_crop_ratio > 0 else 0):
        shown = int((crop_together(crop, labels)[0] == label).sum())
        if shown > settings.min_crop_ratio * settings.min_pixels:
            break
        crop = draw_crop(labels, size, generator, cat_max_ratio, flip)
    return crop
