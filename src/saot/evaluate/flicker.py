"""How steady predicted masks are along the true motion of a video."""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor


def flicker_counts(
    predicted: tuple[UInt8[Tensor, "h w"], UInt8[Tensor, "h w"]],
    truth: tuple[UInt8[Tensor, "h w"], UInt8[Tensor, "h w"]],
    motion: Float[np.ndarray, "_ _ 2"],
    ignore_index: int = 255,
) -> Int64[Tensor, "2"]:
    """Pixels whose predicted label changes along the true motion, and all pixels that could be followed.

    A pixel of the new frame is followed to the pixel nearest to where its point was in the frame before. It counts
    where the point is seen in both frames and has one true label in both. Flicker is the first number over the second,
    summed over frames.

    Args:
        predicted: Masks of the frame before and of the new one.
        truth: The true ones.
        motion: (row, column) in the frame before, pixels, of what each pixel of the new frame shows; NaN where hidden.
        ignore_index: True label that does not count.

    Returns:
        (changed, followed).

    Raises:
        ValueError: If the shapes differ, or a motion leaves the picture.

    Example:
        Two pixels show what the left one showed, the third something new; the middle one is now called 1:

        >>> before, now = torch.tensor([[0, 1, 1]], dtype=torch.uint8), torch.tensor([[0, 1, 1]], dtype=torch.uint8)
        >>> motion = np.array([[[0.0, 0.0], [0.0, 0.2], [np.nan, np.nan]]])
        >>> same = torch.zeros(1, 3, dtype=torch.uint8)
        >>> flicker_counts((before, now), (same, same), motion).tolist()
        [1, 2]
    """
    shapes = {tuple(mask.shape) for mask in (*predicted, *truth)} | {tuple(motion.shape[:2])}
    if len(shapes) > 1:
        raise ValueError(f"expected masks and motion of one height and width; got {sorted(shapes)}")
    seen = torch.from_numpy(np.isfinite(motion).all(-1))
    row, column = torch.from_numpy(np.rint(np.where(np.isfinite(motion), motion, 0.0))).long().unbind(-1)
    height, width = seen.shape
    if bool((seen & ((row < 0) | (row >= height) | (column < 0) | (column >= width))).any()):
        raise ValueError(f"a motion leaves the picture of {height} x {width} pixels; it is NaN where nothing was seen")
    followed = seen & (truth[1] != ignore_index) & (truth[1] == truth[0][row, column])
    changed = followed & (predicted[1] != predicted[0][row, column])
    return torch.stack([changed.sum(), followed.sum()])
