"""Confusion counts at pixel level, and what is read from them: IoU, mean IoU, accuracy."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

CHUNK = 1 << 24  # pixels counted at a time: bincount works on int64, so 128 MiB


def iou_from_counts(counts: Int64[Tensor, "*batch k k"]) -> Float64[Tensor, "*batch k"]:
    """Intersection over union of each class, TP / (TP + FP + FN).

    Args:
        counts: Pixels; `counts[..., t, p]` of truth t were predicted as p.

    Returns:
        IoU (..., K) in [0, 1]; NaN for a class that is absent from the truth. Pixels predicted as an absent
        class still count, as misses of the class they belong to.

    Example:
        >>> iou_from_counts(torch.tensor([[3, 1], [0, 2]]))
        tensor([0.7500, 0.6667], dtype=torch.float64)
    """
    hits = counts.diagonal(dim1=-2, dim2=-1)
    truth, predicted = counts.sum(-1), counts.sum(-2)
    share = hits.double() / (truth + predicted - hits).double()
    return torch.where(truth > 0, share, torch.nan)


def mean_over(iou: Float64[Tensor, "*batch k"], classes: Sequence[int] | None = None) -> Float64[Tensor, "*batch"]:
    """Mean IoU over the classes that occur.

    Args:
        iou: IoU of each class, NaN where absent.
        classes: Indices to average over; None means all.

    Returns:
        The mean (...), leaving out NaN; NaN where none of the classes occurs.

    Raises:
        ValueError: If an index is outside [0, K).

    Example:
        >>> mean_over(torch.tensor([0.5, torch.nan, 0.25], dtype=torch.float64))
        tensor(0.3750, dtype=torch.float64)
    """
    if classes is not None:
        size = iou.shape[-1]
        wrong = [index for index in classes if not 0 <= index < size]
        if wrong:
            raise ValueError(f"class indices must lie in [0, {size}), got {wrong}; pass indices, not raw ids")
        iou = iou[..., list(classes)]
    return iou.nanmean(-1)


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs, summed over a data set; rows are the truth.

    mIoU is computed from these sums, never averaged over pictures.

    Args:
        num_classes: Number of classes K.
        ignore_index: Truth value whose pixels are left out, whatever was predicted there.

    Raises:
        ValueError: If `num_classes` is not positive.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 255]))
        >>> matrix.counts.tolist()
        [[1, 0], [1, 1]]
        >>> matrix.mean_iou(), matrix.iou().tolist()
        (0.5, [0.5, 0.5])
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts: Int64[Tensor, "k k"] = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, pred: Integer[Tensor, "..."], target: Integer[Tensor, "..."]) -> None:
        """Adds the pixels of one or more pictures; nothing is added if an error is raised.

        Args:
            pred: Predicted classes, any shape, integer.
            target: True classes of the same shape; `ignore_index` leaves the pixel out.

        Raises:
            ValueError: If the shapes differ, or a counted pixel holds a class outside [0, K).
        """
        if pred.shape != target.shape:
            raise ValueError(
                f"prediction has shape {tuple(pred.shape)} but truth has {tuple(target.shape)}; "
                "upsample the prediction to the size of the truth"
            )
        size, total = self.num_classes, torch.zeros_like(self.counts)
        flat_pred, flat_target = pred.reshape(-1), target.reshape(-1).to(pred.device)
        for some_pred, some_target in zip(flat_pred.split(CHUNK), flat_target.split(CHUNK), strict=True):
            kept = some_target != self.ignore_index
            p, t = some_pred[kept].long(), some_target[kept].long()
            self._check_range("prediction", p)
            self._check_range("truth", t)
            total += torch.bincount(t * size + p, minlength=size * size).view(size, size).cpu()
        self.counts = self.counts + total

    def _check_range(self, name: str, values: Int64[Tensor, "p"]) -> None:
        if values.numel() == 0:
            return
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"{name} must hold classes in [0, {self.num_classes}), got {low if low < 0 else high}; "
                f"map raw ids to indices, and mark unknown truth as {self.ignore_index}"
            )

    def iou(self) -> Float64[Tensor, "k"]:
        """IoU of each class, NaN for a class absent from the truth; see `iou_from_counts`."""
        return iou_from_counts(self.counts)

    def mean_iou(self, classes: Sequence[int] | None = None, *, predicted_too: bool = False) -> float:
        """Mean IoU over the classes that occur in the truth; NaN if none does.

        Args:
            classes: Indices to average over; None means all.

        Other:
            predicted_too: Count a class that is predicted but absent from the truth as 0, as many evaluators do, in
                place of leaving it out.

        Example:
            >>> matrix = ConfusionMatrix.from_list([[3, 1], [0, 0]])  # one pixel taken for a class that is not there
            >>> matrix.mean_iou(), matrix.mean_iou(predicted_too=True)
            (0.75, 0.375)
        """
        iou = self.iou()
        if predicted_too:
            only_predicted = (self.counts.sum(1) == 0) & (self.counts.sum(0) > 0)
            iou = torch.where(only_predicted, 0.0, iou)
        return float(mean_over(iou, classes))

    def accuracy(self) -> float:
        """Share of counted pixels whose class is right; NaN without pixels."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum().double())

    def __add__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if (self.num_classes, self.ignore_index) != (other.num_classes, other.ignore_index):
            raise ValueError(
                f"cannot add counts of {other.num_classes} classes (ignore {other.ignore_index}) to those of "
                f"{self.num_classes} classes (ignore {self.ignore_index}); score both with one class set"
            )
        result = ConfusionMatrix(self.num_classes, self.ignore_index)
        result.counts = self.counts + other.counts
        return result

    def to_list(self) -> list[list[int]]:
        """The counts as plain lists, rows truth, for JSON."""
        return self.counts.tolist()

    @classmethod
    def from_list(cls, counts: Sequence[Sequence[int | float]], ignore_index: int = 255) -> "ConfusionMatrix":
        """A matrix with the given counts, as `to_list` wrote them.

        Raises:
            ValueError: If `counts` is not square, or has a negative or fractional number.
        """
        size = len(counts)
        if any(len(row) != size for row in counts):
            raise ValueError(f"counts must be square, got {size} rows of {sorted({len(row) for row in counts})}")
        if any(int(value) != value or value < 0 for row in counts for value in row):
            raise ValueError("counts must be whole numbers of pixels, 0 or more")
        result = cls(size, ignore_index)
        result.counts = torch.tensor(counts, dtype=torch.int64).reshape(size, size)
        return result

    def __repr__(self) -> str:
        return f"ConfusionMatrix(num_classes={self.num_classes}, pixels={int(self.counts.sum())})"
