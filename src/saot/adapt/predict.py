"""Whole pictures through a trained network: padding to what it takes, sliding windows, features of its last stage."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.adapt.networks import Segmenter
from saot.adapt.pictures import Size, resized
from saot.adapt.recipe import PicturesRecipe


def upsampled(logits: Float[Tensor, "b K h w"], size: Size) -> Float[Tensor, "b K H W"]:
    """Logits at the size of the picture: bilinear, corners not aligned, as DAFormer does."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return torch.nn.functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def windows(size: Size, window: Size, stride: Size) -> Iterator[tuple[slice, slice]]:
    """Places of a sliding window: a stride apart, the last ones pushed back inside.

    Example:
        >>> [(rows.start, columns.start) for rows, columns in windows((4, 7), (4, 4), (2, 2))]
        [(0, 0), (0, 2), (0, 3)]
    """
    starts = [
        [min(step * each, side - length) for step in range(max(-(-(side - length) // each), 0) + 1)]
        for side, length, each in zip(size, (min(a, b) for a, b in zip(window, size, strict=True)), stride, strict=True)
    ]
    for top in starts[0]:
        for left in starts[1]:
            yield slice(top, top + min(window[0], size[0])), slice(left, left + min(window[1], size[1]))


def padded(image: Float[Tensor, "3 h w"], multiple: int) -> Float[Tensor, "3 H W"]:
    """The picture with its last row and column repeated until both sides are multiples."""
    down, across = (-image.shape[-2]) % multiple, (-image.shape[-1]) % multiple
    if not down and not across:
        return image
    return torch.nn.functional.pad(image[None], (0, across, 0, down), mode="replicate")[0]


@torch.no_grad()
def picture_logits(
    network: Segmenter, image: UInt8[np.ndarray, "h w 3"], recipe: PicturesRecipe = PicturesRecipe()
) -> Float[Tensor, "K h w"]:
    """Logits of a whole picture at its own size.

    Args:
        network: In evaluation mode.
        image: Raw RGB of any size.
        recipe: The size it is brought to, and the window; of overlapping windows the logits are averaged.
    """
    device = next(network.parameters()).device
    multiple = network.multiple
    small = torch.from_numpy(resized(image, recipe.target_size).copy()).permute(2, 0, 1).float().to(device)
    size = (small.shape[-2], small.shape[-1])
    window = recipe.window or size
    stride = recipe.stride or (max(2 * window[0] // 3, 1), max(2 * window[1] // 3, 1))
    total, count = torch.zeros((), device=device), torch.zeros(size, device=device)
    for rows, columns in windows(size, window, stride):
        part = small[:, rows, columns]
        given = padded(part, multiple)
        logits = upsampled(network(given[None]).logits.float(), (given.shape[-2], given.shape[-1]))[0]
        if total.dim() == 0:
            total = torch.zeros(len(logits), *size, device=device)
        total[:, rows, columns] += logits[:, : part.shape[-2], : part.shape[-1]]
        count[rows, columns] += 1
    return upsampled((total / count)[None], (image.shape[0], image.shape[1]))[0]


def predict_mask(
    network: Segmenter, image: UInt8[np.ndarray, "h w 3"], recipe: PicturesRecipe = PicturesRecipe()
) -> UInt8[Tensor, "h w"]:
    """Class index of every pixel at the picture's own size."""
    return picture_logits(network, image, recipe).argmax(0).to("cpu", torch.uint8)


@torch.no_grad()
def last_features(
    network: Segmenter,
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "h w"],
    recipe: PicturesRecipe = PicturesRecipe(),
) -> tuple[Float[Tensor, "n d"], Tensor]:
    """Features of the encoder's last stage and the class at the centre of each cell, for sec. 4.3's measures.

    Args:
        network: In evaluation mode.
        image: Raw RGB.
        mask: Its classes, 255 for "ignore".
        recipe: The size the picture is brought to.

    Returns:
        Features (n, d) on the CPU and classes (n,); cells whose centre lies in padding are left out.
    """
    device = next(network.parameters()).device
    small = torch.from_numpy(resized(image, recipe.target_size).copy()).permute(2, 0, 1).float().to(device)
    height, width = small.shape[-2:]
    features = network(padded(small, network.multiple)[None]).stages[-1][0].float().cpu()
    stride = network.encoder.strides[-1] * (1 if network.two_scale is None else 2)
    centres = [torch.arange(side) * stride + stride // 2 for side in features.shape[-2:]]
    inside = [centre[centre < side] for centre, side in zip(centres, (height, width), strict=True)]
    rows = (inside[0] * mask.shape[0] // height).clamp_max(mask.shape[0] - 1)
    columns = (inside[1] * mask.shape[1] // width).clamp_max(mask.shape[1] - 1)
    labels = torch.from_numpy(mask.copy())[rows[:, None], columns]
    kept = features[:, : len(rows), : len(columns)].permute(1, 2, 0).flatten(0, 1)
    return kept, labels.flatten().long()
