"""Tokens of several backbones side by side: the zero-shot fusion of GeoAware-SC and Shape-of-You.

Both join Stable Diffusion and DINOv2 so: each network's tokens are scaled to length 1, brought to one grid,
concatenated, and the whole is scaled to length 1. The cosine of two joined tokens is then the mean of the parts'
cosines.

Choices of ours, where several would do:

- The first part leads: the picture is resized to its input, and the tokens lie on its grid. The other parts see
  *that* picture, resized by their own filter to their own input size, so all of them look at the same pixels.
- An explicit size is the first part's. Another part takes it too if it accepts it (a multiple of its own patch);
  otherwise, and if no size is given, it keeps its default. `dinov2-base+stable-diffusion` at 840 is thus
  sd-dino's pair of inputs, 840 and 960 pixels, both with 60 tokens a long side.
- On a padded square (`pad:840`) every part that can pads a square of its own; where the side does not fit a part it
  pads to its default. Each sees the picture at the top left, so that parts lie on each other as before.
- Tokens are normalised before they are resampled; between tokens that disagree, a resampled part is therefore
  shorter than 1 and weighs less. Parts on equal grids are not changed by resampling at all.
- Layers are given part by part, as weights are: `s5,s4,s3+11`, empty for a part's default. The final norm is of the
  parts that have a choice.
- A part that pads (mobile-sam) drops the tokens wholly in padding; its last row or column may still reach beyond
  the picture, so places are compared in shares of the picture, not of the grid.
"""

from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.features.base import (
    Backbone,
    FeatureSettings,
    Keyed,
    OpenBackbone,
    Padded,
    map_widths,
    resample_tokens,
    resize_image,
)
from saot.features.grid import FeatureKey

_NO_WEIGHTS = ("filterbank",)
_NEED_WEIGHTS = ("mobile-sam", "adapted")  # the rest has a published place to look for them
_NO_CHOICE = ("filterbank", "mobile-sam", "adapted")  # of the final norm
_SAID_ELSEWHERE = ("backbone", "weights_sha256", "l2_norm", "format_version", "precision", "form")  # of the parts' keys


class Joined(Keyed):
    """Backbones joined by `+` as one `Backbone`; the tokens lie on the first one's grid.

    `key.weights_sha256` holds the parts' hashes, joined by `+`; `key.layers` one entry a part, with all that the
    part's own key says; `key.dim` the sum. The fields about the picture (size, padding, patch, filter, pixel
    statistics, final norm) are those of the first part.
    """

    def __init__(self, settings: FeatureSettings, open_part: OpenBackbone) -> None:
        names = _split_names(settings.name)
        if not settings.l2_norm:
            raise ValueError(f"l2_norm=False does not fit {settings.name}: fusion is made of unit tokens; leave it out")
        weights, layers = _split_weights(names, settings.weights), _split_layers(names, settings.layers)
        first, *rest = (
            replace(settings, name=name, weights=file, layers=own, final_norm=_norm_of(name, settings.final_norm))
            for name, file, own in zip(names, weights, layers, strict=True)
        )
        self._parts = (open_part(first), *(_open_other(part, open_part) for part in rest))
        self.device = settings.device
        keys = [part.key for part in self._parts]
        lead = asdict(keys[0])
        lead["backbone"] = settings.name
        lead["weights_sha256"] = "+".join(key.weights_sha256 for key in keys)
        lead["layers"] = tuple(_describe(key) for key in keys)
        lead["dim"] = sum(key.dim for key in keys)
        self._key = FeatureKey(**lead)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(width for part in self.part_widths for width in part)

    @property
    def part_widths(self) -> tuple[tuple[int, ...], ...]:
        """`widths` of each network."""
        return tuple(map_widths(part) for part in self._parts)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return self._parts[0].input_size(height, width)

    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n d"]:
        size = (image.shape[0], image.shape[1])
        blocks = []
        for number, part in enumerate(self._parts):
            own = part.input_size(*size) if number else size
            tokens = F.normalize(part.tokens(resize_image(image, own, part.key.resize)), dim=-1)
            blocks.append(resample_tokens(tokens, own, part.patch_size, size, self.patch_size))
        return torch.cat(blocks, -1)


def _split_names(name: str) -> list[str]:
    names = name.split("+")
    if not all(names):
        raise ValueError(f"expected backbones joined by +, such as dinov2-base+stable-diffusion; got {name!r}")
    twice = [part for part, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{name} names {twice[0]} twice, which adds nothing; name each backbone once")
    return names


def _split_layers(names: list[str], layers: tuple[str, ...] | None) -> list[tuple[str, ...] | None]:
    """Layers of each part: pieces between `+`, empty for the part's own.

    Raises:
        ValueError: If there are not as many pieces as parts.
    """
    if layers is None:
        return [None] * len(names)
    pieces = ",".join(layers).split("+")
    if len(pieces) != len(names):
        raise ValueError(
            f"layers mean something else for each part of {'+'.join(names)}; expected {len(names)} pieces between +, "
            f"empty for a part's own, such as s5,s4,s3+11; got {','.join(layers)!r}"
        )
    return [tuple(one.strip() for one in piece.split(",")) if piece.strip() else None for piece in pieces]


def _norm_of(name: str, final_norm: bool | None) -> bool | None:
    """The final norm of a part; None for one that has no choice."""
    return None if name in _NO_CHOICE or name.startswith("stable-diffusion") else final_norm


def _split_weights(names: list[str], weights: str | None) -> list[str | None]:
    """Weights of each part: pieces between `+`, or one string for the only part that it can be meant for."""
    if weights is None:
        return [None] * len(names)
    if "+" in weights:
        pieces = weights.split("+")
        if len(pieces) != len(names):
            raise ValueError(
                f"{weights!r} has {len(pieces)} pieces between its + but {'+'.join(names)} has {len(names)} parts; "
                "give one for each, empty for none"
            )
        return [piece or None for piece in pieces]
    takers = [name for name in names if name in _NEED_WEIGHTS] or [name for name in names if name not in _NO_WEIGHTS]
    if len(takers) != 1:
        example = "+".join([weights, *[""] * (len(names) - 1)])
        raise ValueError(
            f"it is not clear which part of {'+'.join(names)} has the weights {weights!r}; write a piece for each "
            f"part, empty for none, such as {example!r} for the first"
        )
    return [weights if name == takers[0] else None for name in names]


def _open_other(settings: FeatureSettings, open_part: OpenBackbone) -> Backbone:
    """A part behind the first: at the given size if it accepts that, else at its default."""
    if settings.size is not None:
        try:
            return open_part(settings)
        except ValueError:  # any other trouble than the size comes again below
            pass
    part = open_part(replace(settings, size=None))
    if isinstance(settings.size, Padded):
        side, _ = part.input_size(1, 1)  # of its default, in whole patches
        try:
            return open_part(replace(settings, size=Padded(side)))
        except ValueError:  # it never pads
            pass
    return part


def _describe(key: FeatureKey) -> str:
    """All that a part's key says and the joined key's other fields do not."""
    values = {name: value for name, value in asdict(key).items() if name not in _SAID_ELSEWHERE}
    values["layers"] = "/".join(key.layers)
    return f"{key.backbone}({', '.join(f'{name}={value}' for name, value in values.items())})"
