"""Where a mask is judged at the borders of things: pixels of the truth within a few pixels of another class."""

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer, UInt8
from torch import Tensor

from saot.data import IGNORE_INDEX
from saot.evaluate.confusion import ConfusionMatrix

REACH = 3  # pixels


def near_edges(
    mask: Integer[np.ndarray, "h w"], reach: int = REACH, ignore_index: int = IGNORE_INDEX
) -> Bool[np.ndarray, "h w"]:
    """Pixels with a pixel of another class at most `reach` rows and columns away: the trimap of a mask.

    Pixels that are ignored are no class: they make no edge, and are not near one.

    Args:
        mask: Class of each pixel.
        reach: How far an edge reaches, pixels.
        ignore_index: Marks pixels without a class.

    Example:
        >>> near_edges(np.array([[0, 0, 0, 1, 1, 255, 2]]), reach=1)[0].tolist()
        [False, False, True, True, False, False, False]
    """
    known = mask != ignore_index
    kind = np.uint8 if mask.dtype == np.uint8 else np.int64
    high = _spread(np.where(known, mask, 0).astype(kind), reach, np.maximum)
    low = _spread(np.where(known, mask, ignore_index).astype(kind), reach, np.minimum)
    return known & (high > low)


def _spread(values: np.ndarray, reach: int, take: np.ufunc) -> np.ndarray:
    """The largest or smallest value at most `reach` rows and columns away."""
    for axis in (0, 1):
        before = np.moveaxis(values, axis, 0)
        found = before.copy()
        for step in range(1, reach + 1):
            take(found[step:], before[:-step], out=found[step:])
            take(found[:-step], before[step:], out=found[:-step])
        values = np.moveaxis(found, 0, axis)
    return values


def picture_counts(
    mask: UInt8[Tensor, "h w"], truth: Integer[np.ndarray, "h w"], num_classes: int
) -> tuple[Int64[Tensor, "K K"], Int64[Tensor, "K K"]]:
    """Confusion counts of one picture, rows truth: of all its pixels, and of those near an edge of the truth."""
    found = []
    for pixels in (truth, np.where(near_edges(truth), truth, IGNORE_INDEX)):
        matrix = ConfusionMatrix(num_classes)
        matrix.update(mask, torch.from_numpy(pixels))
        found.append(matrix.counts)
    return found[0], found[1]
