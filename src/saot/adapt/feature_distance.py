"""Keeping what ImageNet taught about things (FD, Hoyer et al., DAFormer, CVPR 2022; FACTS T-3)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor, nn

from saot.data import IGNORE_INDEX, ClassSet

THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # FACTS T-3: lights, signs and all that moves, of Cityscapes' 19
PURITY = 0.75  # FACTS T-3
THING_NAMES = (  # the same by name, so that class sets other than Cityscapes' have them too
    "traffic light", "traffic sign", "sign", "person", "pedestrian", "rider", "bicyclist", "car", "truck", "bus",
    "train", "motorcycle", "bicycle",
)  # fmt: skip


def things_of(classes: ClassSet) -> tuple[int, ...]:
    """Classes that the feature distance counts, by name; all of them where no name is known.

    Example:
        >>> from saot.data import class_set
        >>> things_of(class_set("cityscapes19"))
        (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)
    """
    found = tuple(number for number, name in enumerate(classes.names) if name.lower() in THING_NAMES)
    return found or tuple(range(len(classes.names)))


def pure_labels(
    labels: Integer[Tensor, "b H W"], size: tuple[int, int], num_classes: int, purity: float = PURITY
) -> Int64[Tensor, "b h w"]:
    """The class that fills each cell of a coarser grid, 255 where none fills `purity` of it.

    Args:
        labels: Classes, 255 for "ignore", which counts as a class of its own and fills cells in vain.
        size: Rows and columns of the grid.
        num_classes: Number of classes K.
        purity: Smallest share of a cell's pixels.

    Example:
        >>> pure_labels(torch.tensor([[[2, 2, 0, 1], [2, 0, 1, 0]]]), (1, 2), num_classes=3)  # 3/4 and 1/2
        tensor([[[  2, 255]]])
    """
    filled = torch.where(labels == IGNORE_INDEX, num_classes, labels.long())
    one_hot = torch.zeros(len(labels), num_classes + 1, *labels.shape[1:], device=labels.device)
    one_hot.scatter_(1, filled.unsqueeze(1), 1.0)
    share, label = nn.functional.adaptive_avg_pool2d(one_hot, size).max(1)
    return torch.where((share >= purity) & (label < num_classes), label, IGNORE_INDEX)


def feature_distance(
    features: Float[Tensor, "b d h w"],
    reference: Float[Tensor, "b d h w"],
    labels: Integer[Tensor, "b H W"],
    num_classes: int,
    things: Sequence[int] = THINGS,
    purity: float = PURITY,
) -> Float[Tensor, ""]:
    """Mean distance |F_theta - F_ImageNet| over cells that a thing fills; its weight is .005 (FACTS T-3).

    Args:
        features: Last stage of the student's encoder, on source pictures.
        reference: The same of the frozen ImageNet encoder; no gradient goes through it.
        labels: Of the source at any larger size.
        num_classes: Number of classes K.
        things: Classes that count.
        purity: See `pure_labels`.

    Returns:
        The mean; 0 where no cell is filled by a thing.

    Example:
        >>> student, imagenet = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
        >>> feature_distance(student, imagenet, torch.full((1, 2, 2), 13), num_classes=19)
        tensor(5.)
    """
    cells = pure_labels(labels, (features.shape[-2], features.shape[-1]), num_classes, purity)
    mask = torch.isin(cells, torch.tensor(list(things), dtype=cells.dtype, device=cells.device))
    wide = torch.promote_types(features.dtype, torch.float32)
    distance = torch.linalg.vector_norm(features.to(wide) - reference.detach().to(wide), dim=1)
    return distance[mask].sum() / max(int(mask.sum()), 1)
