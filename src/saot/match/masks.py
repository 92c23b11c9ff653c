"""Masks of pictures on their tokens."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from saot.data import PatchGrid, point_tokens, soft_patch_labels


def token_mask(
    mask: Bool[Tensor, "h w"] | Bool[np.ndarray, "h w"], grid: PatchGrid, min_share: float = 0.5
) -> Bool[Tensor, " n"]:
    """The tokens that an object covers.

    Args:
        mask: True on the object, at the picture's own size.
        grid: How the picture lies under the tokens.
        min_share: Smallest share of a token's pixels on the object, 0-1; padding is not counted. With 0 one pixel is
            enough.

    Returns:
        True for covered tokens (n,), row by row. A mask that covers none, being too small or too thin, gets the
        one token under its centre of mass, so at least one is True.

    Raises:
        ValueError: If the mask is empty, has another size than the picture, or the share is out of range.

    Example:
        >>> mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
        >>> token_mask(mask, PatchGrid(2, 4, 2, 4, 2, 1, 2)), token_mask(mask, PatchGrid(2, 4, 2, 4, 2, 1, 2), 0.2)
        (tensor([ True, False]), tensor([True, True]))
    """
    pixels = torch.as_tensor(mask).cpu()
    if not 0 <= min_share <= 1:
        raise ValueError(f"min_share must lie in 0 to 1, but is {min_share}")
    if not bool(pixels.any()):
        raise ValueError("the mask is empty: no pixel of it is on the object; give one that is not")
    shares, _ = soft_patch_labels(pixels.numpy().astype(np.uint8), grid, num_classes=2)
    covered = (shares[:, 1] >= min_share) & (shares[:, 1] > 0)
    if not bool(covered.any()):
        y, x = (pixels.nonzero().double().mean(0) + 0.5).floor().long()  # of the pixel that holds the centre
        covered[point_tokens(x[None], y[None], grid)] = True
    return covered
