"""Two scales at once, HRDA (Hoyer et al., ECCV 2022; FACTS T-4): a wide context at half size, a detail at full size.

One encoder and one head see both. The input is the context at full resolution; halved, it is the context picture. A
window of it at full resolution is the detail; an attention of the context says, class by class, where the detail is
right. The published sizes are inputs of 1024 x 1024 with windows of 512 x 512 pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saot.adapt.crops import Crop, crop_together
from saot.adapt.encoders import Encoder
from saot.adapt.heads import StageEmbedding, classifier, conv_block


@dataclass(frozen=True)
class TwoScaleSettings:
    """How the detail is cut."""

    window: tuple[int, int] | None = None  # height, width of the detail, pixels; None is half the input's (FACTS T-4)
    divisor: int = 8  # FACTS T-4: of the drawn window's place, pixels
    projector_scale: Literal["context", "detail"] = "context"  # FACTS T-4: T2S-DA does not say


@dataclass(frozen=True)
class DetailPrediction:
    """What the detail window alone says, for its loss of weight .1.

    Attributes:
        logits: (b, K, window / stride).
        box: Where the window lies, pixels of the input; `crop_together(box, labels)` cuts its labels.
    """

    logits: Float[Tensor, "b K h w"]
    box: Crop


@dataclass(frozen=True)
class TwoScaleOutput:
    """What both scales say together.

    Attributes:
        logits: (b, K, h / stride, w / stride) fused.
        stages: The encoder's maps of the context picture.
        features: What the projector gets: the last stage, of the context or of the detail.
        detail: Of the drawn window; None where windows were slid over the whole input.
    """

    logits: Float[Tensor, "b K h w"]
    stages: tuple[Tensor, ...]
    features: Float[Tensor, "b d fh fw"]
    detail: DetailPrediction | None


class ScaleAttention(nn.Module):
    """Logits of the scale attention: SegFormer's decoder, as HRDA has it beside DAFormer's head.

    Args:
        widths: Channels of each stage.
        num_classes: Number of classes K, each with an attention of its own.
        channels: Of everything between.
        dropout: Share of channels.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = StageEmbedding(widths, channels)
        self.fusion = conv_block(channels * len(widths), channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)

    def forward(self, stages: Sequence[Tensor]) -> Float[Tensor, "b K h w"]:
        return self.classifier(self.dropout(self.fusion(self.embedding(stages))))


class TwoScale(nn.Module):
    """From one encoder and one head to fused logits.

    Args:
        attention: From the context's stages to logits (b, K, h, w) of the head's size.
        stride: Pixels of input per cell of the head's logits.
        settings: Window and its places.
    """

    def __init__(self, attention: nn.Module, stride: int, settings: TwoScaleSettings = TwoScaleSettings()) -> None:
        super().__init__()
        self.attention, self.stride, self.settings = attention, stride, settings

    def forward(
        self,
        encoder: Encoder,
        head: nn.Module,
        pixels: Float[Tensor, "b 3 h w"],
        generator: torch.Generator | None = None,
    ) -> TwoScaleOutput:
        """Fused logits of the input.

        In training with a generator, one window is drawn for the whole batch. Without one (a teacher that labels
        whole crops may be in training mode, too), and in evaluation, windows are slid over the input by half a window,
        one after the other, and averaged where they overlap.

        Args:
            encoder: Of both scales.
            head: Of both scales.
            pixels: RGB between 0 and 255.
            generator: Of the window's place.

        Raises:
            ValueError: If the input or the window is not a multiple of what both scales need.
        """
        window, unit = self._check(encoder, pixels)
        height, width = pixels.shape[-2:]
        # half size by a bilinear filter: the mean of 2x2 pixels
        halved = nn.functional.interpolate(pixels, scale_factor=0.5, mode="bilinear", align_corners=False)
        context = encoder(halved)
        if self.training and generator is not None:
            box = draw_box((height, width), window, math.lcm(self.settings.divisor, 2 * self.stride), generator)
            stages = encoder(crop_together(box, pixels)[0])
            logits, last = head(stages), stages[-1]
            detail = DetailPrediction(logits, box)
        else:
            box, detail = Crop(0, 0, height, width), None
            logits, last = self._slide(encoder, head, pixels, slide_boxes((height, width), window, unit))
        fused = fuse(head(context), torch.sigmoid(self.attention(context)), logits, box, self.stride)
        features = context[-1] if self.settings.projector_scale == "context" else last
        return TwoScaleOutput(fused, context, features, detail)

    def multiple(self, encoder: Encoder) -> int:
        """Both sides of the input must be a multiple of it, pixels; half of it is the step of windows."""
        return 2 * math.lcm(encoder.multiple, 2 * self.stride)  # a cell of the context's logits covers two strides

    def _check(self, encoder: Encoder, pixels: Tensor) -> tuple[tuple[int, int], int]:
        """The window, and what its sides and places must be multiples of."""
        unit = self.multiple(encoder) // 2
        height, width = pixels.shape[-2:]
        if height % (2 * unit) or width % (2 * unit) or not height or not width:
            raise ValueError(
                f"two scales of {encoder.name} need both sides to be multiples of {2 * unit}, but the input is "
                f"{height}x{width} (height x width); crop or resize it"
            )
        window = self.settings.window or (height // 2, width // 2)
        if any(side % unit or side <= 0 for side in window):
            raise ValueError(
                f"the detail window of {encoder.name} needs sides that are multiples of {unit}, but {window[0]}x"
                f"{window[1]} (height x width) came; choose another"
            )
        return (min(window[0], height), min(window[1], width)), unit

    def _slide(self, encoder: Encoder, head: nn.Module, pixels: Tensor, boxes: list[Crop]) -> tuple[Tensor, Tensor]:
        """Logits and last stage of the whole input at full resolution."""
        logits, last = [], []
        for box in boxes:
            stages = encoder(crop_together(box, pixels)[0])
            logits.append(head(stages))
            last.append(stages[-1])
        size = (pixels.shape[-2], pixels.shape[-1])
        return average_windows(logits, boxes, size, self.stride), average_windows(
            last, boxes, size, encoder.strides[-1]
        )


def draw_box(size: tuple[int, int], window: tuple[int, int], divisor: int, generator: torch.Generator) -> Crop:
    """A window at a random place whose top and left are multiples of `divisor`.

    HRDA's code never draws the last place of each axis; here all are as likely.

    Args:
        size: Height and width of the input, pixels.
        window: Height and width of the window, not larger.
        divisor: Pixels.
        generator: Of both draws.

    Example:
        >>> draw_box((64, 32), (32, 32), 32, torch.Generator().manual_seed(0)).top in (0, 32)
        True
    """
    top, left = (
        divisor * int(torch.randint((whole - part) // divisor + 1, (), generator=generator, device=generator.device))
        for whole, part in zip(size, window, strict=True)
    )
    return Crop(top, left, *window)


def slide_boxes(size: tuple[int, int], window: tuple[int, int], unit: int) -> list[Crop]:
    """Windows over the whole input, half a window apart, the last of each row and column flush with the edge.

    Args:
        size: Height and width of the input, pixels.
        window: Height and width of the window, not larger.
        unit: What steps are rounded down to; one at least.

    Example:
        >>> [(box.top, box.left) for box in slide_boxes((32, 64), (32, 32), 16)]
        [(0, 0), (0, 16), (0, 32)]
    """
    tops, lefts = (
        [*range(0, whole - part, max(unit, part // 2 // unit * unit)), whole - part]
        for whole, part in zip(size, window, strict=True)
    )
    return [Crop(top, left, *window) for top in tops for left in lefts]


def average_windows(
    parts: Sequence[Tensor], boxes: Sequence[Crop], size: tuple[int, int], stride: int
) -> Float[Tensor, "b d h w"]:
    """Maps of windows joined to one of the whole input; where windows overlap, their mean.

    Args:
        parts: Map (b, d, height / stride, width / stride) of each window.
        boxes: The windows, which cover the input; multiples of `stride`.
        size: Height and width of the input, pixels.
        stride: Pixels per cell.
    """
    wide = torch.promote_types(parts[0].dtype, torch.float32)
    shape = (*parts[0].shape[:2], size[0] // stride, size[1] // stride)
    total = torch.zeros(shape, dtype=wide, device=parts[0].device)
    count = total.new_zeros(total.shape[-2:])
    for part, box in zip(parts, boxes, strict=True):
        rows, columns = _cells(box, stride)
        total[..., rows, columns] += part
        count[rows, columns] += 1
    return total / count


def fuse(
    context: Float[Tensor, "b K h w"],
    attention: Float[Tensor, "b K h w"],
    detail: Float[Tensor, "b K dh dw"],
    box: Crop,
    stride: int,
) -> Float[Tensor, "b K H W"]:
    """up((1 - a) context) + up(a) detail, with a = 0 outside the window (HRDA, sec. 3.3).

    Args:
        context: Logits of the context.
        attention: a, between 0 and 1: how far the detail is trusted.
        detail: Logits of the window, with half as many pixels per cell.
        box: The window, pixels of the input; multiples of 2 `stride`.
        stride: Pixels per cell of `detail`.

    Returns:
        Logits twice as fine as the context's.

    Example:
        >>> context, sure = torch.full((1, 1, 1, 2), 2.0), torch.ones(1, 1, 1, 2)
        >>> fuse(context, sure, torch.full((1, 1, 2, 2), 6.0), Crop(0, 0, 2, 2), stride=1)[0, 0]
        tensor([[6.0000, 5.0000, 1.5000, 2.0000],
                [6.0000, 5.0000, 1.5000, 2.0000]])
    """
    mask = torch.zeros_like(context[:1, :1])
    mask[..., *_cells(box, 2 * stride)] = 1
    attention = attention * mask
    size = (2 * context.shape[-2], 2 * context.shape[-1])
    up_context, up_attention = (
        nn.functional.interpolate(each, size, mode="bilinear", align_corners=False)
        for each in ((1 - attention) * context, attention)
    )
    placed = torch.zeros_like(up_context)
    placed[..., *_cells(box, stride)] = detail.to(placed.dtype)
    return up_context + up_attention * placed


def _cells(box: Crop, stride: int) -> tuple[slice, slice]:
    """Rows and columns of a map that a window covers."""
    rows = slice(box.top // stride, (box.top + box.height) // stride)
    return rows, slice(box.left // stride, (box.left + box.width) // stride)
