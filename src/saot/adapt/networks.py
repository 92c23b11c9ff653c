"""The network of T2S-DA: encoder h, head f and projector g (sec. 3.1 and 4)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saot.adapt.encoders import Encoder
from saot.adapt.heads import DAFormerHead, DeepLabV2Head, Projector
from saot.adapt.two_scale import DetailPrediction, ScaleAttention, TwoScale, TwoScaleSettings
from saot.runs import first_weights

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_POSITIONS = "positions"  # what parameters of positions are called


@dataclass(frozen=True)
class Prediction:
    """What a `Segmenter` says of pictures.

    Attributes:
        logits: (b, K, lh, lw) coarser than the pictures; bring them to label size bilinearly, `align_corners=False`.
        stages: The encoder's maps, finest first; with two scales, of the halved picture.
        projected: (b, d, fh, fw) from the projector, not normalised; None unless asked for.
        detail: With two scales, of the window drawn in training; else None.
    """

    logits: Float[Tensor, "b K lh lw"]
    stages: tuple[Tensor, ...]
    projected: Float[Tensor, "b d fh fw"] | None
    detail: DetailPrediction | None


class Segmenter(nn.Module):
    """Encoder, head and projector as one.

    Args:
        encoder: From `load_encoder`.
        head: From the encoder's stages to logits.
        projector: On its last stage; None if features are not pulled.
        num_classes: Number of classes K.
        two_scale: What joins two scales; None for one.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Module,
        projector: Projector | None,
        num_classes: int,
        two_scale: TwoScale | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.projector, self.two_scale = encoder, head, projector, two_scale
        self.num_classes = num_classes

    @property
    def multiple(self) -> int:
        """Both sides of the input must be a multiple of it, pixels."""
        return self.encoder.multiple if self.two_scale is None else self.two_scale.multiple(self.encoder)

    @property
    def projects_detail(self) -> bool:
        """Whether the projector is fed from the detail scale, which covers whole pictures by slid windows alone."""
        return self.two_scale is not None and self.two_scale.settings.projector_scale == "detail"

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], project: bool = False, generator: torch.Generator | None = None
    ) -> Prediction:
        """Logits and, if asked, projected features.

        Args:
            pixels: RGB between 0 and 255, sides multiples of `multiple`.
            project: Whether to run the projector.
            generator: With two scales, in training: of the detail window; without it windows are slid.

        Raises:
            ValueError: If the input does not fit, or the projector that is to run does not exist.
        """
        if project and self.projector is None:
            raise ValueError("projected features were asked of a network without projector; build it with one")
        if self.two_scale is None:
            stages, detail = self.encoder(pixels), None
            logits, features = self.head(stages), stages[-1]
        else:
            both = self.two_scale(self.encoder, self.head, pixels, generator)
            stages, logits, features, detail = both.stages, both.logits, both.features, both.detail
        projected = self.projector(features) if project and self.projector is not None else None
        return Prediction(logits, stages, projected, detail)

    def parameter_groups(
        self, rate: float, head_factor: float = 10.0, weight_decay: float = 0.01
    ) -> list[dict[str, Any]]:
        """Groups for an optimiser: a rate for the encoder and one for the rest, no decay of norms and positions.

        FACTS T-1. DAFormer's code finds norms by "norm" in their names and so misses the batch normalisation of its
        head; here every norm is spared.

        Args:
            rate: Learning rate of the encoder.
            head_factor: How many times higher that of head, projector and scale attention is.
            weight_decay: Of all other weights.

        Returns:
            Groups with `params`, `lr`, `weight_decay` and `name`; empty ones are left out.
        """
        spared = {id(each) for part in self.modules() if isinstance(part, _NORMS) for each in part.parameters()}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                plain = id(parameter) in spared or name.rpartition(".")[2] == _POSITIONS
                groups.setdefault((name.startswith("encoder."), plain), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": rate if inner else rate * head_factor,
                "weight_decay": 0.0 if plain else weight_decay,
                "name": f"{'encoder' if inner else 'head'}{', no decay' if plain else ''}",
            }
            for (inner, plain), parameters in groups.items()
        ]


def build_segmenter(
    encoder: Encoder,
    num_classes: int,
    head: Literal["daformer", "deeplab-v2"] = "daformer",
    two_scale: bool | TwoScaleSettings = False,
    projector: bool = True,
    projector_kernel: int = 1,
    projector_last: Literal["relu", "linear"] = "relu",
    seed: int = 0,
    channels: int = 256,
) -> Segmenter:
    """A network in training mode, its head, projector and scale attention with weights drawn from `seed`.

    Args:
        encoder: From `load_encoder` or `read_encoder`.
        num_classes: Number of classes K.
        head: "daformer" or "deeplab-v2".
        two_scale: Whether two scales are joined; settings, for other than the default ones.
        projector: Whether there is one.
        projector_kernel: See `Projector`.
        projector_last: See `Projector`.
        seed: Of the weights.
        channels: Of DAFormer's head and of the scale attention.

    Raises:
        ValueError: If a choice is not known.
    """
    if head not in ("daformer", "deeplab-v2"):
        raise ValueError(f"expected the head daformer or deeplab-v2, but {head!r} came")
    widths = encoder.widths
    with first_weights(seed):
        fine = head == "daformer"
        decoder = DAFormerHead(widths, num_classes, channels) if fine else DeepLabV2Head(widths[-1], num_classes)
        network = Projector(widths[-1], kernel=projector_kernel, last=projector_last) if projector else None
        joined = None
        if two_scale is not False:
            settings = TwoScaleSettings() if two_scale is True else two_scale
            # beside DeepLab-V2's head HRDA's attention is another such head
            coarse = DeepLabV2Head(widths[-1], num_classes)
            attention = ScaleAttention(widths, num_classes, channels) if fine else coarse
            joined = TwoScale(attention, encoder.strides[0 if fine else -1], settings)
    return Segmenter(encoder, decoder, network, num_classes, joined).train()
