"""Pixel masks to patch labels, hard and soft, and pixels to tokens."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from saot.data.classes import IGNORE_INDEX


@dataclass(frozen=True)
class PatchGrid:
    """How a picture lies under the token grid.

    The picture is resized to the network input and padded right and below to whole patches; tokens that lie
    wholly in padding are dropped. A network that cuts off the last incomplete patch instead of padding it has
    `height * patch_size < input_height`: the strip right or below belongs to no token.

    Args:
        image_height: Height of the picture itself, pixels.
        image_width: Width of the picture itself, pixels.
        input_height: Height of the picture after resizing, before padding, pixels of the network input.
        input_width: Width of the same, pixels of the network input.
        patch_size: Side of a token, pixels of the network input.
        height: Rows of tokens kept.
        width: Columns of tokens kept.

    Raises:
        ValueError: If a number is not positive, or a row or column of tokens lies wholly in padding.

    Example:
        >>> PatchGrid(720, 1280, 504, 896, 14, 36, 64).num_tokens
        2304
    """

    image_height: int
    image_width: int
    input_height: int
    input_width: int
    patch_size: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} of a patch grid must be at least 1, but is {value}")
        for side, tokens, pixels in (
            ("rows", self.height, self.input_height),
            ("columns", self.width, self.input_width),
        ):
            if (tokens - 1) * self.patch_size >= pixels:
                raise ValueError(
                    f"{tokens} {side} of {self.patch_size}-pixel tokens reach beyond an input of {pixels} "
                    f"pixels; drop those wholly in padding, which leaves {-(-pixels // self.patch_size)}"
                )

    @property
    def num_tokens(self) -> int:
        """Number of tokens, height * width."""
        return self.height * self.width

    def subdivide(self, parts: int) -> "PatchGrid":
        """The grid of cells, `parts` along each side of a token; rows and columns wholly in padding are dropped.

        The network input counts `parts` times as many pixels, so that a patch of 14 pixels has quarters too.

        Raises:
            ValueError: If `parts` is not positive.

        Example:
            >>> fine = PatchGrid(360, 480, 750, 1000, 16, 47, 63).subdivide(4)
            >>> fine.height, fine.width, 4 * 47, 4 * 63
            (188, 250, 188, 252)
        """
        if parts < 1:
            raise ValueError(f"expected at least 1 part along each side of a token; got {parts}")
        height, width = parts * self.input_height, parts * self.input_width
        return PatchGrid(
            self.image_height,
            self.image_width,
            height,
            width,
            self.patch_size,
            min(parts * self.height, -(-height // self.patch_size)),
            min(parts * self.width, -(-width // self.patch_size)),
        )


def patch_labels(
    mask: UInt8[np.ndarray, "h w"],
    grid: PatchGrid,
    *,
    num_classes: int,
    ignore: Literal["exclude", "include"] = "exclude",
    min_valid: float = 0.5,
) -> UInt8[Tensor, "n"]:
    """The class of each token, by majority of its pixels (SAOT E.1).

    The mask is resized to the network input (nearest pixel) and padded with "ignore"; ties go to the lower
    class. The paper does not say whether "ignore" may win the vote: paper-notes C24.

    Args:
        mask: Class index per pixel of the picture, 255 for ignore.
        grid: How the picture lies under the tokens.
        num_classes: Number of classes K.

    Other:
        ignore: "exclude": the majority among labelled pixels, where at least `min_valid` of the patch is
            labelled. "include": "ignore" takes part in the vote like a class, and `min_valid` is not used.
        min_valid: Smallest labelled share of a patch that gets a label, 0-1.

    Returns:
        Labels (n,), n = height * width tokens row by row; 255 where there is none.

    Raises:
        ValueError: If the mask has another size than the picture or a class outside the range.

    Example:
        >>> grid = PatchGrid(2, 4, 2, 4, 2, 1, 2)
        >>> patch_labels(np.array([[1, 1, 255, 0], [0, 1, 255, 255]], np.uint8), grid, num_classes=2)
        tensor([  1, 255], dtype=torch.uint8)
    """
    counts = _counts(mask, grid, num_classes)
    if ignore == "include":
        winner = counts.argmax(1)
        return torch.from_numpy(np.where(winner == num_classes, IGNORE_INDEX, winner).astype(np.uint8))
    valid = counts[:, :num_classes].sum(1)
    labelled = (valid > 0) & (valid >= min_valid * grid.patch_size**2)
    winner = counts[:, :num_classes].argmax(1)
    return torch.from_numpy(np.where(labelled, winner, IGNORE_INDEX).astype(np.uint8))


def soft_patch_labels(
    mask: UInt8[np.ndarray, "h w"], grid: PatchGrid, *, num_classes: int
) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n"]]:
    """The share of each class in each token.

    Args:
        mask: Class index per pixel of the picture, 255 for ignore.
        grid: How the picture lies under the tokens.
        num_classes: Number of classes K.

    Returns:
        Class shares (n, K) of the labelled pixels, rows summing to 1, or all zero where nothing is labelled;
        and the labelled share (n,) of each patch, padding counting as not labelled.

    Raises:
        ValueError: If the mask has another size than the picture or a class outside the range.

    Example:
        >>> mask = np.array([[1, 0], [0, 255]], np.uint8)
        >>> shares, valid = soft_patch_labels(mask, PatchGrid(2, 2, 2, 2, 2, 1, 1), num_classes=2)
        >>> [round(share, 3) for share in shares[0].tolist()], valid.tolist()
        ([0.667, 0.333], [0.75])
    """
    counts = torch.from_numpy(_counts(mask, grid, num_classes)[:, :num_classes])
    valid = counts.sum(1)
    shares = counts.float() / valid.clamp(min=1)[:, None]
    return shares, valid.float() / grid.patch_size**2


def point_tokens(x: Int[Tensor, "p"], y: Int[Tensor, "p"], grid: PatchGrid) -> Int64[Tensor, "p"]:
    """The token under each pixel of the picture.

    Args:
        x: Column of each point in the picture, pixels from the left, 0 to image_width - 1.
        y: Row of each point in the picture, pixels from the top, 0 to image_height - 1.
        grid: How the picture lies under the tokens.

    Returns:
        Token index row * width + column (p,). The centre of the pixel decides; a point in a strip that the
        network cuts off belongs to the nearest token.

    Raises:
        ValueError: If a point lies outside the picture.

    Example:
        >>> point_tokens(torch.tensor([0, 9]), torch.tensor([0, 4]), PatchGrid(5, 10, 28, 56, 14, 2, 4))
        tensor([0, 7])
    """
    outside = (x < 0) | (y < 0) | (x >= grid.image_width) | (y >= grid.image_height)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        raise ValueError(
            f"point x={int(x[first])}, y={int(y[first])} lies outside its picture of {grid.image_width}x"
            f"{grid.image_height} pixels (width x height); count pixels from 0 at the top left"
        )
    column = _token_of(x.long(), grid.image_width, grid.input_width, grid.patch_size, grid.width)
    row = _token_of(y.long(), grid.image_height, grid.input_height, grid.patch_size, grid.height)
    return row * grid.width + column


def _token_of(pixel: Tensor, image_size: int, input_size: int, patch_size: int, tokens: int) -> Tensor:
    """Token under the centre of a pixel, along one axis: floor((pixel + 1/2) * input / image / patch)."""
    return ((2 * pixel + 1) * input_size // (2 * image_size * patch_size)).clamp(max=tokens - 1)


def _counts(mask: UInt8[np.ndarray, "h w"], grid: PatchGrid, num_classes: int) -> np.ndarray:
    """Pixels of each class in each token, (n, K + 1); the last column counts "ignore" and padding."""
    if mask.shape != (grid.image_height, grid.image_width):
        raise ValueError(
            f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels but its picture {grid.image_width}x"
            f"{grid.image_height} (width x height); use the mask of the same picture at the same size"
        )
    if int(mask[mask != IGNORE_INDEX].max(initial=0)) >= num_classes:
        worst = int(mask[mask != IGNORE_INDEX].max())
        raise ValueError(f"the mask has class {worst}, but allowed are 0-{num_classes - 1} and 255 for ignore")
    rows = _nearest(grid.image_height, grid.input_height)[: grid.height * grid.patch_size]
    columns = _nearest(grid.image_width, grid.input_width)[: grid.width * grid.patch_size]
    token_column = np.arange(len(columns)) // grid.patch_size
    capped, cells = np.minimum(mask, num_classes), grid.width * (num_classes + 1)
    counts = np.zeros((grid.height, cells), np.int64)
    for row in range(grid.height):  # one row of tokens at a time, for pictures of any size
        strip = capped[rows[row * grid.patch_size : (row + 1) * grid.patch_size, None], columns[None, :]]
        counts[row] = np.bincount((token_column * (num_classes + 1) + strip).ravel(), minlength=cells)
    counts = counts.reshape(grid.num_tokens, num_classes + 1)
    counts[:, num_classes] += grid.patch_size**2 - counts.sum(1)  # padding
    return counts


def _nearest(image_size: int, input_size: int) -> np.ndarray:
    """The picture's pixel under the centre of each input pixel, along one axis."""
    return (2 * np.arange(input_size) + 1) * image_size // (2 * input_size)
