"""How good masks are, from labelled points alone: IoU of each class and their mean, with an interval.

Points say how often class c is taken for class k; the masks say how many pixels are called k. With the class shares
behind those pixels, both make a confusion matrix of the pixels, and that the IoU. The shares are estimated in two ways:
those of the masks, with one step of EM towards what the rates say, which favours the method; and by EM to its end
(`class_shares`), which takes the share of a hard class to zero where points are few or of few pictures. The estimate is
the mean of both, the interval holds both.

What is not known exactly is drawn by a Bayesian bootstrap: every picture that was asked about gets a weight from the
exponential distribution, and half a point more a class one from a gamma. With one point a picture that is the Dirichlet
posterior of each row; points of one picture and class count as saying the same.

It assumes that the points of a class lie where its pixels lie, at random, and that the network did not learn from
them; so it speaks of pictures that nobody clicked in.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64, Num
from torch import Tensor

DRAWS = 400
PRIOR = 0.5  # points that every class is thought to have had beside its own, spread as all predictions are
EM_STEPS = (1, 200)  # from the predicted shares: next to them, and the likeliest


@dataclass(frozen=True)
class QualityEstimate:
    """What may be expected of masks that nobody has checked.

    Attributes:
        miou: Mean IoU over the classes that have points.
        low, high: Its interval.
        iou: (K,) IoU of each class; NaN for a class without points.
        iou_low, iou_high: (K,) their intervals.
        level: Share of such intervals that should hold the truth.
        points: Labelled points it rests on.
        pictures: Pictures they lie on.
    """

    miou: float
    low: float
    high: float
    iou: Float64[Tensor, " K"]
    iou_low: Float64[Tensor, " K"]
    iou_high: Float64[Tensor, " K"]
    level: float
    points: int
    pictures: int


def estimate_quality(
    counts: Num[Tensor, "pictures K K"],
    predicted: Num[Tensor, " K"],
    *,
    level: float = 0.9,
    seed: int = 0,
) -> QualityEstimate | None:
    """The quality of masks with `predicted` pixels of each class; None without points.

    Args:
        counts: Points of each picture by (class, prediction), from a network that has not learned from them.
        predicted: Pixels of the unlabelled pictures by predicted class.
        level: Of the intervals.
        seed: Of the draws.

    Example:
        Of ten points a class, all of class 0 and eight of class 1 are met; as many pixels are called 0 as 1:

        >>> counts = torch.tensor([[[10, 0], [2, 8]]])
        >>> found = estimate_quality(counts, torch.tensor([50.0, 50.0]))
        >>> round(found.miou, 2), found.low < found.miou < found.high
        (0.79, True)
    """
    total = counts.sum(0).double()
    known = total.sum(1) > 0
    if not bool(known.any()):
        return None
    spread = predicted.double() + 1e-9
    prior = (PRIOR * spread / spread.sum()).expand_as(total)
    generator = torch.Generator().manual_seed(seed)
    weights = -torch.rand(DRAWS, len(counts), generator=generator, dtype=torch.float64).clamp_min(1e-300).log()
    drawn = (weights @ counts.double().flatten(1)).view(DRAWS, *total.shape)
    drawn = drawn + torch._standard_gamma(prior.expand_as(drawn), generator)  # pyright: ignore[reportPrivateImportUsage]
    every = torch.cat([(total + 1e-6 * prior)[None], drawn])  # the first is the plain estimate
    rates = every / every.sum(-1, keepdim=True)
    both = [_iou(rates, predicted.double(), known, steps) for steps in EM_STEPS]
    iou = torch.stack([part[0] for part in both]).mean(0)
    means, mean = torch.stack([part[1:, known].mean(-1) for part in both]), iou[known].mean()
    tail = (1 - level) / 2
    quantiles = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(means, quantiles, dim=1)  # of each way to the shares
    lows, highs = torch.quantile(torch.stack([part[1:] for part in both]), quantiles, dim=1)
    lows, highs = lows.amin(0), highs.amax(0)
    unknown = torch.full_like(lows, torch.nan)
    return QualityEstimate(
        miou=float(mean),
        low=min(float(low.min()), float(mean)),
        high=max(float(high.max()), float(mean)),
        iou=torch.where(known, iou, unknown),
        iou_low=torch.where(known, torch.minimum(lows, iou), unknown),
        iou_high=torch.where(known, torch.maximum(highs, iou), unknown),
        level=level,
        points=round(float(total.sum())),
        pictures=int((counts.flatten(1).sum(1) > 0).sum()),
    )


def between(
    cross: Int64[Tensor, "pictures K K"], own: Int64[Tensor, "pictures K K"]
) -> Float64[Tensor, "pictures K K"]:
    """Points as a network is thought to meet them that has learned from all but their pictures: the .632+ rule.

    Networks of a cross-fit learn from fewer points than the one in question, so they err more; that one has learned
    from the points themselves, so there it errs less. The truth lies between: Efron and Tibshirani (1997) give the
    cross-fit the weight .632 / (1 - .368 R), where R is how far the two errors lie apart, as a share of how far they
    could: 1 where the network does no better on other pictures than one that guesses.

    Args:
        cross: Points of each picture by (class, prediction), said by networks that have not seen its points.
        own: The same points, said by the network in question.

    Example:
        >>> cross, own = torch.tensor([[[6, 4], [4, 6]]]), torch.tensor([[[10, 0], [0, 10]]])
        >>> [[round(float(value), 2) for value in row] for row in between(cross, own)[0]]  # R = 0.8
        [[6.42, 3.58], [3.58, 6.42]]
    """
    crossed, owned = cross.sum(0).double(), own.sum(0).double()
    points = owned.sum().clamp_min(1.0)
    errors = [1.0 - float(part.diagonal().sum() / points) for part in (crossed, owned)]
    guess = 1.0 - float((owned.sum(1) * owned.sum(0)).sum() / points**2)
    apart = min(max((errors[0] - errors[1]) / max(guess - errors[1], 1e-12), 0.0), 1.0)
    weight = 0.632 / (1.0 - 0.368 * apart)
    return weight * cross.double() + (1.0 - weight) * own.double()


def _iou(
    rates: Float64[Tensor, "d K K"], predicted: Float64[Tensor, " K"], known: Tensor, steps: int
) -> Float64[Tensor, "d K"]:
    """IoU of every class for each draw of rates P(prediction k | class c): shares by EM, then pixels by both."""
    rates = rates * known[:, None]
    seen = predicted / predicted.sum().clamp_min(1e-300)
    shares = ((seen + 1e-6) * known).expand(len(rates), -1)
    shares = shares / shares.sum(-1, keepdim=True)
    for _ in range(steps):
        explained = (shares.unsqueeze(1) @ rates).squeeze(1).clamp_min(1e-300)
        shares = shares * (rates @ (seen / explained).unsqueeze(-1)).squeeze(-1)
    joint = shares.unsqueeze(-1) * rates
    pixels = joint / joint.sum(1, keepdim=True).clamp_min(1e-300) * seen  # each prediction's pixels among the classes
    hits = pixels.diagonal(dim1=1, dim2=2)
    return hits / (pixels.sum(2) + pixels.sum(1) - hits).clamp_min(1e-300)
