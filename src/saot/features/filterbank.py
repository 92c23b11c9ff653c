"""A classical dense descriptor that needs no weights: colour, edges, texture, surroundings, height in the
picture.

It is here so that every command works without a download, and as the plainest baseline. All constants are
fixed, so equal pictures give equal tokens; nothing is learned from data.
"""

import hashlib
import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.features.base import FeatureSettings, Keyed, check_size, pixels_on
from saot.features.grid import FeatureKey

_VERSION = "filterbank-1"  # change it with any number below: tokens of two versions must not be mixed
_ORIENTATIONS = 8
_SCALES = 3
_HUES = 8
_GREYS = 6
_HEIGHTS = 8
_CONTEXTS = (3, 9)  # sides of the wider neighbourhoods, tokens


class FilterBank(Keyed):
    """The descriptor as a `Backbone`: patch 14 and long side 1008 unless said otherwise."""

    concurrent = True

    def __init__(self, settings: FeatureSettings, patch_size: int = 14) -> None:
        if settings.weights is not None:
            raise ValueError(f"filterbank has no weights, got {settings.weights!r}; leave --weights out")
        if settings.layers not in (None, ("all",)) or settings.final_norm:
            raise ValueError("filterbank has neither layers nor a final norm; leave both settings out")
        self._size = 72 * patch_size if settings.size is None else settings.size
        self._key = FeatureKey(
            backbone="filterbank",
            weights_sha256=hashlib.sha256(_VERSION.encode()).hexdigest(),
            size=check_size(self._size, patch_size),
            layers=("all",),
            final_norm=False,
            l2_norm=settings.l2_norm,
            pad=False,
            patch_size=patch_size,
            dim=describe(torch.zeros(3, patch_size, patch_size), patch_size).shape[-1],
            resize="pillow-bicubic",
            pixel_mean=(0.0, 0.0, 0.0),
            pixel_deviation=(255.0, 255.0, 255.0),
        )

    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n d"]:
        return self.pixel_tokens(pixels_on(image[None], self.device))[0]

    def pixel_tokens(self, pixels: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """See `saot.features.Traceable`."""
        pictures = pixels.permute(0, 3, 1, 2).contiguous() / 255
        return torch.stack([describe(picture, self.patch_size).flatten(0, 1) for picture in pictures])


@torch.no_grad()
def describe(image: Float[Tensor, "3 h w"], patch_size: int) -> Float[Tensor, "gh gw d"]:
    """Descriptor of every patch, not L2-normalised.

    The picture is first put under one light (`_balanced`), since the light is what changes most between two
    sets of pictures. Groups: means and deviations of opponent colours, hue and grey-level histograms,
    oriented gradient histograms at three scales, Laplacian responses at three scales; the first four again as
    means over 3x3 and 9x9 patches; differences to the patches above, below and beside; height in the picture.
    Histograms are square-rooted (Hellinger), and each group has a fixed weight.

    Args:
        image: RGB in [0, 1]; sides are multiples of `patch_size`.
        patch_size: Pixels a patch side.
    """
    grid = (image.shape[1] // patch_size, image.shape[2] // patch_size)
    pyramid = [_balanced(image[None])]
    for _ in range(_SCALES):
        pyramid.append(_halve(pyramid[-1]))
    colour = _colour_statistics(pyramid[1], grid)
    palette = _palette_histogram(pyramid[1], grid)
    grey = [level.mean(1, keepdim=True) for level in pyramid]
    edges, energy = zip(*(_gradient_histogram(level, grid) for level in grey[:_SCALES]), strict=True)
    blobs = _laplacian(grey, grid)
    texture = torch.cat([*energy, blobs], 1).add(1e-3).log() / 4 + 0.8
    groups = [0.8 * _centre(colour), _root(palette, 1.0), 0.25 * texture]
    groups += [_root(_contrast_normalised(level), 0.8) for level in edges]
    for side in _CONTEXTS:
        groups += [
            0.8 * _centre(_neighbourhood(colour, side)),
            _root(_neighbourhood(palette, side), 1.0),
            0.25 * _neighbourhood(texture, side),
        ]
        groups += [_root(_contrast_normalised(_neighbourhood(level, side)), 0.8) for level in edges]
    groups += [0.8 * _directions(torch.cat([colour[:, :6], texture[:, :1]], 1)), 0.5 * _heights(grid)]
    return torch.cat(groups, 1)[0].permute(1, 2, 0).contiguous()


def _halve(x: Tensor) -> Tensor:
    """Half the size by 2x2 means; a side of one pixel stays."""
    return F.avg_pool2d(x, (min(2, x.shape[2]), min(2, x.shape[3])), ceil_mode=True, count_include_pad=False)


def _pool(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean of every patch, whatever the scale of `x`."""
    height, width = x.shape[2] // grid[0], x.shape[3] // grid[1]
    if height * grid[0] == x.shape[2] and width * grid[1] == x.shape[3]:
        return F.avg_pool2d(x, (height, width))
    return F.adaptive_avg_pool2d(x, grid)


def _balanced(rgb: Tensor) -> Tensor:
    """The picture under a grey light of medium strength: every channel brought to one mean."""
    mean = rgb.mean((2, 3), keepdim=True)
    return rgb * (0.42 / (mean + 0.02))


def _opponent(rgb: Tensor) -> Tensor:
    """Grey, red-green, blue-yellow, and these two relative to the grey (free of the light's strength)."""
    red, green, blue = rgb.unbind(1)
    grey = (red + green + blue) / 3
    red_green, blue_yellow = red - green, blue - (red + green) / 2
    strength = grey + 0.05
    return torch.stack([grey, red_green, blue_yellow, red_green / strength, blue_yellow / strength], 1)


def _colour_statistics(half: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch means and deviations of opponent colours, and the logarithm of the grey."""
    opponent = _opponent(half)
    mean = _pool(opponent, grid)
    deviation = (_pool(opponent * opponent, grid) - mean * mean).clamp_min(0).sqrt()
    brightness = ((mean[:, :1] + 0.02) / 0.42).log() / 2
    return torch.cat([mean, brightness, deviation], 1)


def _centre(colour: Tensor) -> Tensor:
    """Colour statistics around zero and of like spread, by fixed numbers."""
    middle = colour.new_tensor([0.4, 0, 0, 0, 0, 0, 0.08, 0.01, 0.02, 0.04, 0.04])
    scale = colour.new_tensor([1.0, 3, 3, 1.5, 1.5, 0.7, 2, 4, 4, 2, 2])
    return (colour - middle[:, None, None]) * scale[:, None, None]


def _palette_histogram(half: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each grey level and of each hue (weighted by its saturation) in the patch."""
    grey, _, _, x, y = _opponent(half).split(1, 1)
    centres = torch.linspace(0, 1, _GREYS).view(1, -1, 1, 1)
    greys = (1 - (grey.clamp(0, 1).sqrt() - centres).abs() * (_GREYS - 1)).clamp_min(0)
    angles = torch.arange(_HUES).view(1, -1, 1, 1) * (2 * math.pi / _HUES)
    threshold = math.cos(2 * math.pi / _HUES)
    hues = (x * angles.cos() + y * angles.sin() - threshold * (x * x + y * y).sqrt()).clamp_min(0)
    hues = _pool(hues, grid)
    return torch.cat([_pool(greys, grid), hues / (hues.sum(1, keepdim=True) + 0.15)], 1)


def _gradient_histogram(grey: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Energy of the gradient by orientation, and in all."""
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    magnitude = (across * across + down * down).sqrt()
    threshold = math.cos(math.pi / _ORIENTATIONS) * magnitude
    bins, along = [], torch.empty_like(across)
    for k in range(_ORIENTATIONS):
        angle = k * math.pi / _ORIENTATIONS
        torch.mul(across, math.cos(angle), out=along)
        bins.append(_pool(along.add_(down, alpha=math.sin(angle)).abs_().sub_(threshold).relu_(), grid))
    return torch.cat(bins, 1), _pool(magnitude, grid)


def _contrast_normalised(histogram: Tensor) -> Tensor:
    """Histogram over its total in the surrounding 3x3 patches: edges count by direction, not contrast."""
    total = _neighbourhood(histogram.sum(1, keepdim=True), 3)
    return histogram / (total + 0.002)


def _laplacian(grey: list[Tensor], grid: tuple[int, int]) -> Tensor:
    """Bright and dark blob energy: each level of the pyramid minus the next."""
    responses = []
    for fine, coarse in pairwise(grey):
        rough = F.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        difference = fine - rough
        responses += [_pool(difference.clamp_min(0), grid), _pool((-difference).clamp_min(0), grid)]
    return torch.cat(responses, 1)


def _neighbourhood(tokens: Tensor, side: int) -> Tensor:
    """Mean over side x side patches, of those inside the picture."""
    beside = tokens.contiguous(memory_format=torch.channels_last)  # equal sums, several channels at a time
    return F.avg_pool2d(beside, side, stride=1, padding=side // 2, count_include_pad=False).contiguous()


def _root(histogram: Tensor, weight: float) -> Tensor:
    """Hellinger map, shifted by the root of an even histogram, so that cosines do not all lie near one."""
    return weight * (histogram.clamp_min(0).sqrt() - 0.6 / math.sqrt(histogram.shape[1]))


def _directions(tokens: Tensor) -> Tensor:
    """Difference to the mean of 3x3 patches that lie three patches above, below, left and right."""
    mean = _neighbourhood(tokens, 3)
    padded = F.pad(mean, (3, 3, 3, 3), mode="replicate")
    above, below = padded[:, :, :-6, 3:-3], padded[:, :, 6:, 3:-3]
    left, right = padded[:, :, 3:-3, :-6], padded[:, :, 3:-3, 6:]
    beside = (left - tokens).abs() + (right - tokens).abs()
    return torch.cat([above - tokens, below - tokens, 0.5 * beside], 1)


def _heights(grid: tuple[int, int]) -> Tensor:
    """Soft bins of the height in the picture."""
    height = (torch.arange(grid[0]) + 0.5) / grid[0]
    centres = torch.linspace(0, 1, _HEIGHTS).view(-1, 1)
    bumps = torch.exp(-0.5 * ((height - centres) * _HEIGHTS).square()) - 0.3
    return bumps[None, :, :, None].expand(1, -1, -1, grid[1])
