"""What stands on an encoder: DAFormer's and DeepLab-V2's segmentation heads, and the projector g of T2S-DA."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

_CLASSIFIER_DEVIATION = 0.01  # of the initial weights of classifiers; mmsegmentation


class StageEmbedding(nn.Module):
    """Every map embedded linearly, brought to the finest one's size bilinearly and concatenated (SegFormer, sec. 3.2).

    Args:
        widths: Channels of each map.
        channels: Of each embedding.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Linear(width, channels) for width in widths)

    def forward(self, stages: Sequence[Tensor]) -> Float[Tensor, "b d h w"]:
        size = stages[0].shape[-2:]
        embedded = []
        for layer, stage in zip(self.embeddings, stages, strict=True):
            x = layer(stage.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            same = x.shape[-2:] == size
            embedded.append(x if same else nn.functional.interpolate(x, size, mode="bilinear", align_corners=False))
        return torch.cat(embedded, 1)


class DAFormerHead(nn.Module):
    """Context-aware fusion of all stages, DAFormer sec. 3.2 and its code.

    Embedded stages, then convolutions side by side with several dilations (1x1 for dilation 1, depthwise separable 3x3
    for the others), fused by a 3x3 convolution; each convolution with batch normalisation and ReLU. Then dropout of
    channels and a 1x1 classifier.

    Args:
        widths: Channels of each stage.
        num_classes: Number of classes K.
        channels: Of everything between.
        dilations: Of the convolutions side by side.
        dropout: Share of channels.

    Example:
        >>> head = DAFormerHead((4, 8), num_classes=3, channels=16)
        >>> head((torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 2, 2))).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int,
        channels: int = 256,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = StageEmbedding(widths, channels)
        total = channels * len(widths)
        self.branches = nn.ModuleList(
            conv_block(total, channels, 1) if dilation == 1 else _separable(total, channels, dilation)
            for dilation in dilations
        )
        self.fusion = conv_block(channels * len(dilations), channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)

    def forward(self, stages: Sequence[Tensor]) -> Float[Tensor, "b K h w"]:
        """Logits at the finest stage's size."""
        x = self.embedding(stages)
        return self.classifier(self.dropout(self.fusion(torch.cat([branch(x) for branch in self.branches], 1))))


class DeepLabV2Head(nn.Module):
    """The sum of 3x3 convolutions with several dilations on the last stage, nothing else (DeepLab-V2, sec. 3.2).

    Args:
        width: Channels of the last stage.
        num_classes: Number of classes K.
        dilations: Those of AdaptSegNet and what came after it (FACTS T-5); DeepLab's own are (6, 12, 18, 24).

    Example:
        >>> DeepLabV2Head(8, num_classes=3)((torch.zeros(2, 8, 5, 6),)).shape
        torch.Size([2, 3, 5, 6])
    """

    def __init__(self, width: int, num_classes: int, dilations: Sequence[int] = (6, 12)) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(classifier(width, num_classes, 3, dilation) for dilation in dilations)

    def forward(self, stages: Sequence[Tensor]) -> Float[Tensor, "b K h w"]:
        """Logits at the last stage's size; the other stages are not looked at."""
        return torch.stack([layer(stages[-1]) for layer in self.classifiers]).sum(0)


class Projector(nn.Module):
    """The projector g: two Conv-BN-ReLU blocks on the encoder's last stage, at its resolution (sec. 4).

    Args:
        width: Channels of the last stage.
        channels: Of both blocks.
        kernel: Of both convolutions, 1 or 3; the paper states none (FACTS T-9).
        last: "relu" is the paper's, by which no cosine of two features is negative; "linear" leaves normalisation
            and ReLU of the second block out.

    Raises:
        ValueError: If the kernel is even.

    Example:
        >>> Projector(8, channels=4)(torch.zeros(2, 8, 5, 6)).shape
        torch.Size([2, 4, 5, 6])
    """

    def __init__(
        self, width: int, channels: int = 256, kernel: int = 1, last: Literal["relu", "linear"] = "relu"
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel such as 1 or 3, but {kernel} came")
        self.blocks = nn.Sequential(conv_block(width, channels, kernel))
        if last == "relu":
            self.blocks.append(conv_block(channels, channels, kernel))
        else:
            self.blocks.append(nn.Conv2d(channels, channels, kernel, padding=kernel // 2))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features before they are scaled to length 1."""
        return self.blocks(features)


def conv_block(width: int, out: int, kernel: int, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch normalisation, ReLU."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(width, out, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


def classifier(width: int, num_classes: int, kernel: int = 1, dilation: int = 1) -> nn.Conv2d:
    """Convolution to class scores that keeps the size."""
    conv = nn.Conv2d(width, num_classes, kernel, padding=kernel // 2 * dilation, dilation=dilation)
    nn.init.normal_(conv.weight, std=_CLASSIFIER_DEVIATION)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _separable(width: int, out: int, dilation: int) -> nn.Sequential:
    """A dilated 3x3 convolution of each channel, then a 1x1 convolution."""
    return nn.Sequential(conv_block(width, width, 3, dilation, groups=width), conv_block(width, out, 1))
