"""What is chosen on held-out declared points, and never on what is reported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saot.certify import class_shares
from saot.decoder import FineDecoder, GridDecoder, TokenPool
from saot.evaluate import ConfusionMatrix, scores_at
from saot.label.data import Bench, TrainingData
from saot.label.terms import points_pool
from saot.runs import generator_for

Network = Callable[..., Tensor]  # tokens to logits; a `GridDecoder` wants the grid's rows and columns too
MOST_JUDGED = 50_000  # held-out points that a choice is made on


def sample_tokens(pool: TokenPool, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most `size` tokens of a pool, drawn without regard to their class."""
    tokens, classes = pool.read(_positions(pool, size, seed))
    return tokens.float(), classes


def _positions(pool: TokenPool, size: int, seed: int) -> Tensor:
    return torch.randperm(len(pool), generator=generator_for(seed, "sample", len(pool)))[:size]


@dataclass(frozen=True)
class Adjustment:
    """The logit adjustment chosen for a network.

    Attributes:
        bias: (K,) added to its logits, or None.
        facts: The strengths tried, as JSON values; empty where nothing could be chosen.
    """

    bias: Tensor | None
    facts: dict[str, Any]


def chosen_adjustment(
    bench: Bench, data: TrainingData, network: Network, strengths: Sequence[float] | None = None
) -> Adjustment:
    """The logit adjustment that gains most at held-out declared points (E.6, never on what is reported).

    How frequent the classes are is not known, and an adjustment lives on it; so a strength counts by the lesser of its
    gains under two estimates of the shares, those the network predicts and those behind them. None where no strength
    gains under both, or no points are held out: a choice on points a network was trained on says little. The strengths
    are the recipe's unless given.
    """
    strengths = bench.recipe.scores.logit_adjustment if strengths is None else strengths
    judged = None if len(strengths) < 2 else _judged(bench, data, network)
    if judged is None:
        return Adjustment(None, {})
    frequencies = data.source.frequencies(data.num_classes)
    trials = adjustment_trials(judged, frequencies, strengths)
    best = max(trials, key=lambda trial: (trial["gain"], -abs(trial["strength"])))
    bias = None if best["strength"] == 0.0 else adjustment_bias(frequencies, best["strength"])
    return Adjustment(bias, {"chosen": best["strength"], "trials": trials})


def adjustment_bias(frequencies: Tensor, strength: float) -> Tensor:
    """-tau log f_c of appendix E.6; a class the source never has is left where it is."""
    known = frequencies > 0
    logs = torch.where(known, frequencies.clamp_min(1e-300).log(), torch.zeros_like(frequencies))
    return (-strength * logs).float()


@dataclass(frozen=True)
class _Judged:
    """What a network says of the held-out points, and two estimates of how many tokens each class has."""

    logits: Tensor
    classes: Tensor
    predicted: Tensor
    behind: Tensor

    def miou(self, bias: Tensor, shares: Tensor) -> float:
        return estimated_miou(self.classes, (self.logits + bias).argmax(-1), shares)


def adjustment_trials(judged: _Judged, frequencies: Tensor, strengths: Sequence[float]) -> list[dict[str, float]]:
    """Each strength with its estimated mIoU and the lesser of its gains under the two estimates of the shares."""
    trials = []
    for strength in strengths:
        bias = adjustment_bias(frequencies, strength)
        gains = [judged.miou(bias, s) - judged.miou(0 * bias, s) for s in (judged.predicted, judged.behind)]
        trials.append({"strength": strength, "miou": judged.miou(bias, judged.behind), "gain": min(gains)})
    return trials


def held_out_scores(bench: Bench, data: TrainingData, network: Network, biases: Sequence[Tensor]) -> list[float] | None:
    """Estimated mIoU at held-out declared points, with each bias added; None where no point is held out.

    Points are drawn class by class, so their confusion matrix says how often class c is taken for class k, not how
    frequent c is; the rows are therefore weighted by the shares of the classes behind what the network predicts on the
    unlabelled target, its confusions taken back out (`saot.evaluate.class_shares`).
    """
    judged = _judged(bench, data, network)
    return None if judged is None else [judged.miou(bias, judged.behind) for bias in biases]


def _judged(bench: Bench, data: TrainingData, network: Network) -> _Judged | None:
    judge = data.points.tokens.held()
    if len(judge) == 0:
        return None
    predicted = torch.zeros(data.num_classes, dtype=torch.float64)
    for number in range(len(data.target)):
        part = data.target.logits(network, number).argmax(-1).cpu()
        predicted += torch.bincount(part, minlength=data.num_classes).double()
    if isinstance(network, FineDecoder):
        logits, classes = _logits_at_pixels(data, network, judge.picture.unique().tolist())
    else:
        pool = points_pool(judge, data.target, data.num_classes)
        positions = _positions(pool, MOST_JUDGED, bench.seed)
        logits, classes = _logits_at(data, network, pool, positions), pool.label[positions].long()
    return _Judged(logits, classes, predicted, shares_behind(predicted, classes, logits.argmax(-1)))


def shares_behind(frequencies: Tensor, classes: Tensor, predicted: Tensor) -> Tensor:
    """(K,) tokens of each class behind the frequencies of predictions, from how points of each class are taken.

    Example:
        >>> classes, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])  # half of class 1 is missed
        >>> shares_behind(torch.tensor([75.0, 25.0]), classes, predicted).round()
        tensor([50., 50.], dtype=torch.float64)
    """
    confusion = ConfusionMatrix(len(frequencies))
    confusion.update(predicted, classes)
    present = torch.ones(len(frequencies), dtype=torch.bool)
    return frequencies.sum() * class_shares(frequencies, confusion.counts, present)


def _logits_at(data: TrainingData, network: Network, pool: TokenPool, positions: Tensor) -> Tensor:
    """Logits of single target tokens; a decoder that looks at neighbours sees their whole pictures."""
    if not isinstance(network, GridDecoder):
        with torch.no_grad():
            return network(pool.read(positions)[0].float().to(data.target.device)).cpu()
    logits = torch.zeros(len(positions), data.num_classes)
    pictures, tokens = pool.picture[positions], pool.token[positions].long()
    for number in pictures.unique().tolist():
        mine = pictures == number
        logits[mine] = data.target.logits(network, number).cpu()[tokens[mine]]
    return logits


def _logits_at_pixels(data: TrainingData, network: FineDecoder, pictures: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits and classes of the declared points of these pictures, at their own pixels."""
    logits, classes = [], []
    for number in pictures:
        x, y, labels = data.points.pixels.of(data.target.images.keys[number])
        scores = data.target.logits(network, number).cpu()
        logits.append(scores_at(scores, data.target.grid(number), y, x).float())
        classes.append(labels.long())
    return torch.cat(logits), torch.cat(classes)


def estimated_miou(classes: Tensor, predicted: Tensor, shares: Tensor) -> float:
    """mIoU of a confusion matrix whose rows come from class-balanced points and whose weights are `shares`.

    Args:
        classes: True class of each point.
        predicted: Class it is taken for.
        shares: (K,) tokens of each class; a class that has a point has at least one.

    Example:
        >>> estimated_miou(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([3.0, 1.0]).double())
        1.0
    """
    size = len(shares)
    counts = torch.bincount(classes * size + predicted, minlength=size * size).view(size, size).double()
    seen = counts.sum(1)
    rows = counts / seen.clamp_min(1).unsqueeze(-1) * shares.clamp_min(1.0).unsqueeze(-1)
    rows = rows * (seen > 0).unsqueeze(-1)
    hits, truth = rows.diagonal(), rows.sum(1)
    iou = hits / (truth + rows.sum(0) - hits).clamp_min(1e-12)
    return float(iou[seen > 0].mean())
