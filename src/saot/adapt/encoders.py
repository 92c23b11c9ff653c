"""Encoders that can be trained: pixels to maps of several scales, for the networks of T2S-DA.

Three kinds, all with raw RGB between 0 and 255 as input:

- MiT-B0 .. B5 (SegFormer's encoder, that of DAFormer) through `transformers`, which uses 1e-5 in every layer
  normalisation where the authors have 1e-6 in most; drop path as the weights' configuration has it (published: 0.1).
- ResNet-101 through `transformers`, made stride 8 as DeepLab-V2 has it: the strides of the last two stages become
  dilations of 2 and 4 behind them. What came before keeps its dilation, so the published weights see what they were
  trained on: every second (fourth) cell is that of the network with strides. The published weights have a 7x7 stem
  and the stride in the 3x3 convolution; DAFormer's CNN baseline has ResNet-101-v1c, with a stem of three 3x3
  convolutions (FACTS T-5).
- MobileSAM's TinyViT. Its batch normalisation, and the affine part of its layer normalisations, are folded into the
  weights and trained with them: frozen batch normalisation. The last map is that of stage 3, before the neck: the
  neck was made for SAM's mask decoder, and a head of ours embeds each stage itself.
"""

import math
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saot.features import PIXEL_DEVIATION, PIXEL_MEAN, Statistics, TinyViT


class Encoder(nn.Module):
    """Pixels to maps of several scales.

    Attributes:
        name: As given to `load_encoder`.
        family: `segformer`, `resnet` or `tinyvit`.
        widths: Channels of each map, finest first.
        strides: Pixels per cell of each map.
        multiple: Both sides of the input must be a multiple of it, pixels.
        pixel_mean, pixel_deviation: What is taken off R, G, B and what they are divided by, 0 to 255.
        final_norm: Whether the last map comes out of a normalisation.
    """

    family: str
    final_norm: bool = False
    model: Any
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, name: str, widths: tuple[int, ...], strides: tuple[int, ...], multiple: int, statistics: Statistics
    ) -> None:
        super().__init__()
        self.name, self.widths, self.strides, self.multiple = name, widths, strides, multiple
        self.pixel_mean, self.pixel_deviation = statistics
        self.register_buffer("mean", torch.tensor(self.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(self.pixel_deviation).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """Maps (b, d, h / stride, w / stride), finest first.

        Args:
            pixels: RGB between 0 and 255; both sides multiples of `multiple`.

        Raises:
            ValueError: If they are not.
        """
        height, width = pixels.shape[-2:]
        if height % self.multiple or width % self.multiple or not height or not width:
            raise ValueError(
                f"encoder {self.name} needs both sides to be multiples of {self.multiple}, but the input is "
                f"{height}x{width} (height x width); crop or resize it"
            )
        return self.maps((pixels - self.mean) / self.deviation)

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The maps, from normalised pixels."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """All that is needed to build the network again, but for its weights; plain JSON."""
        found = {"family": self.family, "pixel_mean": self.pixel_mean, "pixel_deviation": self.pixel_deviation}
        return found if self.family == "tinyvit" else {**found, "network": self.model.config.to_dict()}


class MixTransformer(Encoder):
    """SegFormer's encoder; each map ends in a layer normalisation."""

    family = "segformer"
    final_norm = True

    def __init__(self, name: str, model: Any, statistics: Statistics) -> None:
        config = model.config
        strides = tuple(accumulate(config.strides, mul))
        # keys and values of a stage are `sr_ratio` times coarser; nothing may be left over at the edge
        multiple = math.lcm(*(stride * ratio for stride, ratio in zip(strides, config.sr_ratios, strict=True)))
        super().__init__(name, tuple(config.hidden_sizes), strides, multiple, statistics)
        self.model = model

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(pixels, output_hidden_states=True).hidden_states)


class DilatedResNet(Encoder):
    """A ResNet whose last two stages are as fine as the one before them."""

    family = "resnet"

    def __init__(self, name: str, model: Any, statistics: Statistics) -> None:
        config, stages = model.config, model.encoder.stages
        first = 8 if config.downsample_in_first_stage else 4
        kept = max(1, len(stages) - 2)
        strides = tuple(first * 2 ** min(stage, kept - 1) for stage in range(len(stages)))
        super().__init__(name, tuple(config.hidden_sizes), strides, strides[-1], statistics)
        dilation = 1
        for stage in stages[kept:]:
            _dilate(stage, dilation)
            dilation *= 2
        self.model = model

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(pixels, output_hidden_states=True).hidden_states[1:])


class TinyViTEncoder(Encoder):
    """MobileSAM's TinyViT without its neck: stem, stages 0 and 1, and stage 3, which is as coarse as stage 1."""

    family = "tinyvit"

    def __init__(self, name: str, statistics: Statistics = (PIXEL_MEAN, PIXEL_DEVIATION)) -> None:
        super().__init__(name, (64, 128, 160, 320), (4, 8, 16, 16), 16, statistics)
        self.model = TinyViT(neck=False)

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixels.permute(0, 2, 3, 1))
        return tuple(outputs[name].permute(0, 3, 1, 2) for name in ("stem", "stage0", "stage1", "stage3"))


def _dilate(stage: Any, dilation: int) -> None:
    """Stride 2 becomes 1; 3x3 convolutions up to there reach `dilation` far, those behind it twice as far."""
    reach = dilation
    for layer in stage.layers:
        for conv in _convolutions(layer.shortcut):
            conv.stride = (1, 1)  # 1x1, nothing to dilate
        for conv in _convolutions(layer.layer):
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (reach, reach)
            if conv.stride == (2, 2):
                conv.stride, reach = (1, 1), 2 * dilation


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]
