"""How far a mean IoU may be off: bootstrap over pictures, for one method and for the difference of two."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Generator, Tensor

from saot.evaluate import iou_from_counts

CHUNK = 256  # resamples worked on at a time


@dataclass(frozen=True)
class BootstrapInterval:
    """mIoU of a method and its percentile interval, all in [0, 1].

    Attributes:
        value: mIoU on the pictures as they are.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """mIoU of the first method minus that of the second, with its percentile interval, all in [-1, 1].

    Attributes:
        difference: On the pictures as they are.
        low: Lower end of the interval.
        high: Upper end.
        probability: Share of the resamples in which the first is above the second; a tie counts half.
    """

    difference: float
    low: float
    high: float
    probability: float


def paired_bootstrap(
    first: Int64[Tensor, "N k k"],
    second: Int64[Tensor, "N k k"],
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    *,
    block: int = 1,
    classes: Sequence[int] | None = None,
) -> PairedDifference:
    """Difference in mIoU of two methods on the same pictures, with its bootstrap interval.

    A resample takes N pictures with replacement, the same for both methods, sums their counts and takes the mean IoU
    of each. The mean is always over the same classes: those that occur in the truth of the whole set. A class that a
    resample happens to miss keeps the IoU it has on the whole set, since such a resample says nothing of it; so an
    interval is too narrow where classes occur in a handful of pictures. Pictures without a labelled pixel are left
    out before anything is drawn.

    The interval speaks of other pictures of the same kind, for the networks as they are. It says nothing of other
    seeds, and nothing of pictures of another kind.

    Args:
        first: Confusion counts of the first method, one matrix a picture, rows truth.
        second: The same of the second method, pictures in the same order.
        samples: Number of resamples.
        seed: Fixes the resamples.
        level: Share of the resamples inside the interval.

    Other:
        block: Draw runs of this many consecutive pictures instead of single ones (circular block bootstrap: the
            first picture follows the last, so that all are drawn equally often). For video, a run should be longer
            than frames resemble each other; 1 takes pictures for independent.
        classes: Classes in the mean, of which those that never occur are left out; None means all.

    Raises:
        ValueError: If the pictures do not match, nothing can be scored, or a number is out of its range.

    Example:
        >>> better = torch.tensor([[[4, 0], [0, 4]], [[3, 0], [0, 5]]])
        >>> worse = torch.tensor([[[2, 2], [0, 4]], [[3, 0], [5, 0]]])
        >>> paired_bootstrap(better, worse, samples=50).probability
        1.0
    """
    if first.shape != second.shape or not torch.equal(first.sum(-1), second.sum(-1)):
        raise ValueError(
            "expected counts of both methods on the same pictures in the same order; got shapes "
            f"{tuple(first.shape)} and {tuple(second.shape)} or another truth: score both in one pass"
        )
    stacked = torch.stack([first, second])
    whole, drawn = _resampled_means(stacked, samples, seed, level, block, classes)
    differences = drawn[0] - drawn[1]
    low, high = _percentiles(differences, level)
    above = (differences > 0).double() + 0.5 * (differences == 0).double()
    return PairedDifference(float(whole[0] - whole[1]), low, high, float(above.mean()))


def bootstrap_interval(
    counts: Int64[Tensor, "N k k"],
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    *,
    block: int = 1,
    classes: Sequence[int] | None = None,
) -> BootstrapInterval:
    """mIoU of one method with its bootstrap interval; classes and blocks as in `paired_bootstrap`.

    Two intervals that overlap do not mean that two methods are alike: compare them by `paired_bootstrap`.

    Args:
        counts: Confusion counts, one matrix a picture, rows truth.
        samples: Number of resamples.
        seed: Fixes the resamples.
        level: Share of the resamples inside the interval.

    Other:
        block: Consecutive pictures drawn together.
        classes: Classes in the mean; None means all that occur.

    Raises:
        ValueError: If nothing can be scored, or a number is out of its range.
    """
    whole, drawn = _resampled_means(counts.unsqueeze(0), samples, seed, level, block, classes)
    low, high = _percentiles(drawn[0], level)
    return BootstrapInterval(float(whole[0]), low, high)


def picture_weights(pictures: int, samples: int, block: int, generator: Generator) -> Float64[Tensor, "samples N"]:
    """How often each picture is drawn in each resample; every row sums to `pictures`.

    Runs of `block` consecutive pictures start anywhere, go round at the end, and the last is cut to fit.
    """
    runs = -(-pictures // block)
    starts = torch.randint(pictures, (samples, runs), generator=generator)
    chosen = (starts.unsqueeze(-1) + torch.arange(block)) % pictures
    chosen = chosen.flatten(1)[:, :pictures]
    weights = torch.zeros(samples, pictures, dtype=torch.float64)
    return weights.scatter_add_(1, chosen, torch.ones(chosen.shape, dtype=torch.float64))


def _resampled_means(
    counts: Int64[Tensor, "methods N k k"],
    samples: int,
    seed: int,
    level: float,
    block: int,
    classes: Sequence[int] | None,
) -> tuple[Float64[Tensor, "methods"], Float64[Tensor, "methods samples"]]:
    """mIoU of each method on the whole set and on each resample."""
    labelled = counts[0].sum((-1, -2)) > 0
    counts = counts[:, labelled]
    pictures, size = counts.shape[1], counts.shape[-1]
    if samples < 1 or not 0 < level < 1 or not 1 <= block <= max(1, pictures):
        raise ValueError(
            "expected at least one resample, a level between 0 and 1 and a block of 1 to as many pictures as are "
            f"labelled ({pictures}); got {samples}, {level} and {block}"
        )
    whole_iou = iou_from_counts(counts.sum(1))  # (methods, k)
    kept = ~whole_iou[0].isnan()
    if classes is not None:
        chosen = torch.zeros(size, dtype=torch.bool)
        chosen[list(classes)] = True
        kept &= chosen
    if not bool(kept.any()):
        raise ValueError("expected a class that occurs in the truth; none of those asked for does: check the masks")
    hits = counts.diagonal(dim1=-2, dim2=-1)[..., kept].double()  # (methods, N, c)
    truth, predicted = counts.sum(-1)[..., kept].double(), counts.sum(-2)[..., kept].double()
    weights = picture_weights(pictures, samples, block, torch.Generator().manual_seed(seed))
    means = []
    for part in weights.split(CHUNK):  # whole numbers below 2^53 are exact in float64
        union = part @ (truth + predicted - hits)
        seen = part @ truth > 0
        iou = torch.where(seen, (part @ hits) / union.clamp_min(1.0), whole_iou[:, kept].unsqueeze(1))
        means.append(iou.mean(-1))
    return whole_iou[:, kept].mean(-1), torch.cat(means, dim=-1)


def _percentiles(values: Float64[Tensor, "samples"], level: float) -> tuple[float, float]:
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(values, tails).tolist()
    return low, high
