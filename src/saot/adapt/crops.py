"""Training crops: one window and one flip for a picture, its translation and its label (FACTS T-1, T-7)."""

from dataclasses import dataclass

import torch
from jaxtyping import Integer, Shaped
from torch import Tensor

from saot.data import IGNORE_INDEX

CAT_MAX_RATIO = 0.75  # FACTS T-1: no class may fill more of a source crop
RETRIES = 10  # DAFormer: then the last window is taken as it is


@dataclass(frozen=True)
class Crop:
    """A window, in pixels, and whether it is mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


def largest_share(labels: Integer[Tensor, "h w"]) -> float:
    """Share of the commonest class among the labelled pixels; 1 where there is none.

    Example:
        >>> largest_share(torch.tensor([[0, 0, 0, 7], [255, 255, 255, 255]]))
        0.75
    """
    kept = labels[labels != IGNORE_INDEX].long()
    return int(torch.bincount(kept).max()) / len(kept) if len(kept) else 1.0


def draw_crop(
    labels: Integer[Tensor, "h w"],
    size: tuple[int, int],
    generator: torch.Generator,
    cat_max_ratio: float = CAT_MAX_RATIO,
    flip: float = 0.5,
) -> Crop:
    """A window at a random place, drawn anew while one class fills it, ten times at most.

    Args:
        labels: Of the whole picture, 255 for "ignore".
        size: Height and width of the window.
        generator: Of all draws.
        cat_max_ratio: Largest share of one class among labelled pixels, exclusive; 1 takes any window.
        flip: Probability of mirroring.

    Raises:
        ValueError: If the window is larger than the picture.

    Example:
        >>> labels = torch.tensor([[0, 0, 1]])  # only the last two columns hold two classes
        >>> draw_crop(labels, (1, 2), torch.Generator().manual_seed(0), flip=0.0)
        Crop(top=0, left=1, height=1, width=2, flip=False)
    """
    height, width = labels.shape
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"a crop of {size[0]}x{size[1]} does not fit a picture of {height}x{width} (height x width); "
            "make the picture larger or the crop smaller"
        )

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator, device=generator.device))

    def window() -> Crop:
        return Crop(below(height - size[0] + 1), below(width - size[1] + 1), *size)

    crop = window()
    for _ in range(RETRIES if cat_max_ratio < 1 else 0):
        if largest_share(crop_together(crop, labels)[0]) < cat_max_ratio:
            break
        crop = window()
    mirrored = bool(torch.rand((), generator=generator, device=generator.device) < flip)
    return Crop(crop.top, crop.left, *size, mirrored)


def crop_together(crop: Crop, *maps: Shaped[Tensor, "..."]) -> tuple[Shaped[Tensor, "..."], ...]:
    """The same window of each map, mirrored alike: picture, translation and label stay aligned (FACTS T-7).

    Args:
        crop: The window.
        maps: Any number of them (..., h, w), all of one height and width.

    Raises:
        ValueError: If the maps differ in size or the window leaves them.

    Example:
        >>> picture, label = torch.tensor([[[1, 2, 3]]]), torch.tensor([[7, 8, 9]])
        >>> [part.flatten().tolist() for part in crop_together(Crop(0, 1, 1, 2, flip=True), picture, label)]
        [[3, 2], [9, 8]]
    """
    sizes = {tuple(each.shape[-2:]) for each in maps}
    if len(sizes) > 1:
        raise ValueError(f"expected maps of one height and width, but {sorted(sizes)} came; crop before they differ")
    bottom, right = crop.top + crop.height, crop.left + crop.width
    if any(bottom > height or right > width for height, width in sizes):
        raise ValueError(f"{crop} leaves maps of height and width {sorted(sizes)[0]}")
    parts = (each[..., crop.top : bottom, crop.left : right] for each in maps)
    return tuple(part.flip(-1) if crop.flip else part for part in parts)
