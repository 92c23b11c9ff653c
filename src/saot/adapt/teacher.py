"""The momentum teacher: its update, its pseudo-labels and what they weigh, Eqs. (S1) and (S2)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from saot.data import IGNORE_INDEX
from saot.decoder import update_teacher


@dataclass(frozen=True)
class TeacherSettings:
    """Momentum and pseudo-labels."""

    decay: float = 0.999  # eta; sec. 4
    threshold: float = 0.968  # delta_p of Eq. (S2); supplement A
    share_of: Literal["batch", "picture"] = "batch"  # DAFormer's code, FACTS T-1; Eq. (S2) prints one q a picture
    ignore_top: int = 15  # rows without weight; FACTS T-1, for 512-pixel crops of Cityscapes
    ignore_bottom: int = 120  # idem: the bonnet
    ignore_sides: int = 0  # columns without weight on the left and on the right; FACTS T-4

    def __post_init__(self) -> None:
        margins = (self.ignore_top, self.ignore_bottom, self.ignore_sides)
        if not 0 <= self.decay <= 1 or not 0 <= self.threshold <= 1 or min(margins) < 0:
            raise ValueError(f"expected decay and threshold between 0 and 1 and no negative margin, but {self} came")


@dataclass(frozen=True)
class PseudoLabels:
    """What the teacher says of target pictures.

    Attributes:
        labels: (b, h, w) most probable class.
        confidence: (b, h, w) its probability.
        weights: (b, h, w) q of Eq. (S2), 0 in the ignored margins.
        share: (b,) q.
    """

    labels: Int64[Tensor, "b h w"]
    confidence: Float[Tensor, "b h w"]
    weights: Float[Tensor, "b h w"]
    share: Float[Tensor, " b"]


def momentum(step: int, decay: float = TeacherSettings.decay) -> float:
    """min(1 - 1 / (t + 1), eta): at step 0 the teacher becomes the student, then follows ever more slowly (T-1).

    Example:
        >>> momentum(0), momentum(1), momentum(9999)
        (0.0, 0.5, 0.999)
    """
    return min(1 - 1 / (step + 1), decay)


def update_ema(teacher: nn.Module, student: nn.Module, step: int, decay: float = TeacherSettings.decay) -> None:
    """theta_t <- eta theta_t + (1 - eta) theta_s with the momentum of the step, sec. 3.1: parameters, not buffers.

    Args:
        teacher: Changed in place; batch-norm statistics stay its own (FACTS T-1).
        student: Of the same shape.
        step: t, from 0.
        decay: Largest momentum.

    Example:
        >>> teacher, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(teacher.weight, 4.0), nn.init.constant_(student.weight, 2.0)
        >>> update_ema(teacher, student, step=1)
        >>> teacher.weight.item()
        3.0
    """
    update_teacher(teacher, student, momentum(step, decay))


def copy_buffers(teacher: nn.Module, student: nn.Module) -> None:
    """The student's batch-norm statistics for a teacher in evaluation mode, which has no way to gather its own."""
    for old, new in zip(teacher.buffers(), student.buffers(), strict=True):
        old.copy_(new)


def pseudo_labels(logits: Float[Tensor, "b K h w"], settings: TeacherSettings = TeacherSettings()) -> PseudoLabels:
    """Labels by the most probable class, weighted by q: the share of pixels with p >= delta_p, Eq. (S2).

    The share is counted over all pixels, those of ignored margins included, as DAFormer does; Eq. (S2) prints
    p > delta_p.

    Args:
        logits: The teacher's, of target pictures at label size.
        settings: Threshold, margins, and whether q is of the whole batch or of each picture.

    Example:
        >>> probs = torch.tensor([[0.99, 0.6], [0.01, 0.4]]).view(1, 2, 1, 2)  # two pixels, one of them sure
        >>> made = pseudo_labels(probs.log(), TeacherSettings(ignore_top=0, ignore_bottom=0))
        >>> made.labels.tolist(), made.weights.tolist()
        ([[[0, 0]]], [[[0.5, 0.5]]])
    """
    wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    confidence, labels = torch.softmax(wide, 1).max(1)
    share = (confidence >= settings.threshold).to(wide.dtype).mean((1, 2))
    if settings.share_of == "batch":
        share = share.mean().expand(len(share)).clone()
    weights = share.view(-1, 1, 1).expand_as(confidence).clone()
    weights[:, : settings.ignore_top] = 0
    weights[:, max(weights.shape[1] - settings.ignore_bottom, 0) :] = 0
    weights[..., : settings.ignore_sides] = 0
    weights[..., max(weights.shape[2] - settings.ignore_sides, 0) :] = 0
    return PseudoLabels(labels, confidence, weights, share)


def weighted_cross_entropy(
    logits: Float[Tensor, "b K h w"],
    labels: Integer[Tensor, "b h w"],
    weights: Float[Tensor, "b h w"],
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, ""]:
    """L_target, Eq. (S1): cross-entropy with a weight for each pixel; with weights of 1 it is L_source, Eq. (1).

    Args:
        logits: The student's.
        labels: Classes, 255 for "ignore".
        weights: q of Eq. (S2), or 1 where a pixel's label is the source's.
        reduction: "mean" over all pixels, ignored ones included, as DAFormer's code; "sum" is as printed (T-10 l).

    Example:
        >>> labels, weights = torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 0.0]]])
        >>> weighted_cross_entropy(torch.zeros(1, 2, 1, 2), labels, weights, reduction="sum")  # log 2 of one pixel
        tensor(0.6931)
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = nn.functional.cross_entropy(wide, labels.long(), ignore_index=IGNORE_INDEX, reduction="none")
    total = (weights * losses).sum()
    return total / max(labels.numel(), 1) if reduction == "mean" else total
