"""An encoder that was adapted to a target domain (`saot adapt`), frozen, as a backbone."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.adapt.encoder_files import read_encoder
from saot.data import sha256_file
from saot.features import FeatureKey, FeatureSettings, Keyed, OpenBackbone, check_size, fit_size

_FILE = "encoder.safetensors"
_LONG_SIDE = 1024


class Adapted(Keyed):
    """The last map of an encoder that `save_encoder` wrote, as a `Backbone`.

    Pictures are resized, bilinearly, to a long side of 1024 pixels; both sides are rounded to what the encoder can
    take, and nothing is padded.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        if settings.weights is None:
            raise ValueError(f"backbone adapted needs its weights; pass --weights PATH of an {_FILE} or its run folder")
        path = Path(settings.weights)
        path = path / _FILE if path.is_dir() else path
        self._settings, self.device = settings, settings.device
        self._encoder = read_encoder(path).requires_grad_(False).to(settings.device)
        layer = f"stage{len(self._encoder.widths) - 1}"
        if settings.layers not in (None, (layer,)):
            raise ValueError(f"backbone adapted has the layer {layer} alone, not {settings.layers}; leave layers out")
        if settings.final_norm not in (None, self._encoder.final_norm):
            raise ValueError(
                f"final_norm={settings.final_norm} does not fit {self._encoder.name}, whose last map "
                f"{'ends in a' if self._encoder.final_norm else 'has no'} norm; leave the setting out"
            )
        self._size = _LONG_SIDE if settings.size is None else settings.size
        self._key = FeatureKey(
            backbone=settings.name,
            weights_sha256=sha256_file(path),
            size=check_size(self._size, self._encoder.multiple),
            layers=(layer,),
            final_norm=self._encoder.final_norm,
            l2_norm=settings.l2_norm,
            pad=False,
            patch_size=self._encoder.strides[-1],
            dim=self._encoder.widths[-1],
            resize="pillow-bilinear",
            pixel_mean=self._encoder.pixel_mean,
            pixel_deviation=self._encoder.pixel_deviation,
        )

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return fit_size(height, width, self._size, self._encoder.multiple)

    @torch.no_grad()
    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n d"]:
        pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1)
        last = self._encoder(pixels[None].to(self._settings.device))[-1][0]
        return last.flatten(1).T.contiguous().cpu()


BACKBONES: Mapping[str, OpenBackbone] = MappingProxyType({"adapted": Adapted})  # what a caller of the core hands in
