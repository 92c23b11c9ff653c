"""What a training step sees: crops of labelled source pictures, their translations, crops of target pictures.

A batch depends on the seed, the step and the process alone, so an interrupted training sees what an undisturbed one
sees. Target pictures come from an `ImageSet`, which has no labels to give.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor

from saot.adapt.crops import Crop, crop_together, draw_crop
from saot.adapt.recipe import AdaptRecipe
from saot.adapt.sampling import draw_rare, draw_rare_crop
from saot.adapt.translate import fit_to_size, translate
from saot.data import IGNORE_INDEX, ImageSet, LabelledSet, Remembered
from saot.runs import generator_for

CACHE_BYTES = 2**30  # of resized pictures kept in memory; more are decoded again
Size = tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Crops of one batch, on the CPU; pictures are raw RGB, 0-255.

    Attributes:
        source: (b, 3, h, w) x^s.
        labels: (b, h, w) y^s, 255 for "ignore".
        translated: (b, 3, h, w) T(x^s), or None where no loss asks for it.
        target: (b, 3, h, w) x^t, or None.
    """

    source: Float[Tensor, "b 3 h w"]
    labels: Int64[Tensor, "b h w"]
    translated: Float[Tensor, "b 3 h w"] | None
    target: Float[Tensor, "b 3 h w"] | None

    def to(self, device: torch.device) -> "Batch":
        """The batch elsewhere."""
        parts = (self.source, self.labels, self.translated, self.target)
        return Batch(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]


def resized(image: UInt8[np.ndarray, "h w 3"], size: Size | None) -> UInt8[np.ndarray, "H W 3"]:
    """The picture at `size` (height, width), bilinear; as it is for None."""
    if size is None or image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resized_mask(mask: UInt8[np.ndarray, "h w"], size: Size | None) -> UInt8[np.ndarray, "H W"]:
    """The mask at `size` (height, width), nearest pixel; as it is for None."""
    if size is None or mask.shape == tuple(size):
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


class TrainingPictures:
    """Batches of crops.

    Args:
        source: Labelled pictures.
        target: Pictures to adapt to, without labels; None for domain generalisation and source-only training.
        pixels: (pictures, K) of each class in each source mask, from `count_pixels`.
        recipe: Sizes, crops, sampling, translation.
        seed: Of the training.

    Raises:
        ValueError: If a set is empty, no source pixel has a label, or a picture is smaller than the crop.
    """

    def __init__(
        self,
        source: LabelledSet,
        target: ImageSet | None,
        pixels: Int64[Tensor, "pictures K"],
        recipe: AdaptRecipe,
        seed: int,
    ) -> None:
        if len(source) == 0 or (target is not None and len(target) == 0):
            raise ValueError("expected pictures to train on; a set is empty: check the SPECs of source and target")
        if int(pixels.sum()) == 0:
            raise ValueError(
                f"expected labelled pixels in {source.images.spec}; every pixel is {IGNORE_INDEX} (ignore): check the "
                "masks and the class set"
            )
        if recipe.needs_target and target is None:
            raise ValueError(f"expected target pictures for the method {recipe.method}; got none: give --target")
        self.source, self.target, self.pixels, self.recipe, self.seed = source, target, pixels, recipe, seed
        sizes = recipe.pictures
        check_sizes(source.images, sizes.source_size, sizes.crop)
        if target is not None and recipe.needs_target:
            check_sizes(target, sizes.target_size, sizes.crop)
        self._images = Remembered(lambda i: resized(source.image(i), sizes.source_size), CACHE_BYTES)
        self._masks = Remembered(lambda i: resized_mask(source.mask(i), sizes.source_size), CACHE_BYTES)
        self._targets = None
        if target is not None:
            self._targets = Remembered(lambda i: resized(target.image(i), sizes.target_size), CACHE_BYTES)

    def draw(self, step: int, process: int = 0) -> Batch:
        """The batch of one step of one process: the same whenever it is asked for."""
        recipe, size = self.recipe, self.recipe.pictures.crop
        generator = generator_for(self.seed, "batch", step, process)
        source, labels, translated, target = [], [], [], []
        for number, wanted in self._sources(step, process, generator):
            mask = torch.from_numpy(self._masks(number).copy())
            crop = self._crop(mask, wanted, size, generator)
            image = self._images(number)
            picture = self._drawn_target(generator)
            parts = self._translated(image, crop, picture, generator)
            source.append(parts[0])
            labels.append(crop_together(crop, mask)[0].long())
            translated.append(parts[1])
            if recipe.self_training or recipe.pull_uses_target:
                assert picture is not None  # `needs_target` was checked
                target.append(_random_crop(picture, size, recipe.pictures.flip, generator))
        return Batch(
            torch.stack(source),
            torch.stack(labels),
            torch.stack([t for t in translated if t is not None]) if recipe.translates else None,
            torch.stack(target) if target else None,
        )

    def _sources(self, step: int, process: int, generator: torch.Generator) -> Iterator[tuple[int, int | None]]:
        """Source pictures of a step, with the class each was drawn for."""
        count, rare = self.recipe.optimizer.batch, self.recipe.rare
        if rare is None:
            for number in torch.randint(len(self.source), (count,), generator=generator).tolist():
                yield number, None
            return
        draws = draw_rare(self.pixels, count, self.seed, own_step(step, process), rare)
        yield from zip(draws.pictures.tolist(), draws.classes.tolist(), strict=True)

    def _crop(self, mask: Tensor, wanted: int | None, size: Size, generator: torch.Generator) -> Crop:
        pictures, rare = self.recipe.pictures, self.recipe.rare
        if wanted is None or rare is None:
            return draw_crop(mask, size, generator, pictures.cat_max_ratio, pictures.flip)
        return draw_rare_crop(mask, wanted, size, generator, rare, pictures.cat_max_ratio, pictures.flip)

    def _drawn_target(self, generator: torch.Generator) -> UInt8[np.ndarray, "h w 3"] | None:
        if self.target is None or self._targets is None or not self.recipe.needs_target:
            return None
        return self._targets(int(torch.randint(len(self.target), (), generator=generator)))

    def _translated(
        self, image: np.ndarray, crop: Crop, target: np.ndarray | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The crop of a source picture and of its translation, which is made of a frame around the crop.

        The paper crops the source to the size of the target, translates, and crops again (FACTS T-7). Here the inner
        crop is drawn first, since rare-class sampling chooses it, and the frame falls at random around it.
        """
        whole = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
        if not self.recipe.translates:
            return crop_together(crop, whole)[0], None
        frame = whole
        inner = crop
        if self.recipe.translator.kind == "fda" and target is not None:
            sides = [min(a, b) for a, b in zip(image.shape[:2], target.shape[:2], strict=True)]
            sides = [max(side, least) for side, least in zip(sides, (crop.height, crop.width), strict=True)]
            top = _start(crop.top, crop.height, sides[0], image.shape[0], generator)
            left = _start(crop.left, crop.width, sides[1], image.shape[1], generator)
            frame = whole[:, top : top + sides[0], left : left + sides[1]]
            inner = Crop(crop.top - top, crop.left - left, crop.height, crop.width, crop.flip)
            fitted = torch.from_numpy(fit_to_size(target, (sides[0], sides[1])).copy()).permute(2, 0, 1).float()
        else:
            fitted = None
            frame = crop_together(Crop(crop.top, crop.left, crop.height, crop.width), whole)[0]
            inner = Crop(0, 0, crop.height, crop.width, crop.flip)
        made = translate(frame, fitted, self.recipe.translator, generator)
        plain, other = crop_together(inner, frame, made)
        return plain, other


def check_sizes(pictures: ImageSet, size: Size | None, crop: Size) -> None:
    """Refuse a crop that some picture cannot hold, before hours are spent on the others.

    Args:
        pictures: Of which only the sizes are read, and none where all are brought to one.
        size: What pictures are brought to; None leaves them as they are.
        crop: Height and width.

    Raises:
        ValueError: If it is larger than a picture.
    """
    for number, key in enumerate(pictures.keys):
        height, width = size or pictures.size(number)
        if crop[0] > height or crop[1] > width:
            what = f"{key} of {pictures.spec}" if size is None else f"{pictures.spec}, brought to that size"
            raise ValueError(
                f"a crop of {crop[0]}x{crop[1]} does not fit pictures of {height}x{width} (height x width): {what}; "
                "give a smaller --crop or larger pictures"
            )
        if size is not None:
            return


def own_step(step: int, process: int) -> int:
    """One number of a step and a process: processes draw different pictures.

    Example:
        >>> own_step(3, 0), own_step(3, 1)
        (3, 1000000003)
    """
    return step + 1_000_000_000 * process


def _start(inner: int, length: int, frame: int, total: int, generator: torch.Generator) -> int:
    """Where a frame that holds [inner, inner + length) may begin, drawn evenly among all places inside the picture."""
    low, high = max(0, inner + length - frame), min(inner, total - frame)
    return low + int(torch.randint(high - low + 1, (), generator=generator))


def _random_crop(image: np.ndarray, size: Size, flip: float, generator: torch.Generator) -> Tensor:
    """A window of a picture without labels."""
    blank = torch.zeros(image.shape[:2], dtype=torch.uint8)
    crop = draw_crop(blank, size, generator, cat_max_ratio=1.0, flip=flip)
    return crop_together(crop, torch.from_numpy(image.copy()).permute(2, 0, 1).float())[0]
