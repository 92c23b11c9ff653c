"""Label only what you are sure of, with a guarantee from held-out labelled points.

Two things are offered: thresholds on a confidence whose error is bounded (Learn-then-Test: exact tests along fixed
sequences of thresholds), and split-conformal sets of classes, class by class. `docs/calibration.md` says what each
guarantee is about and what it is not about.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

STARTS = 4  # where the fixed sequences of `selective_threshold` begin; each has a quarter of delta
BETS = 8  # stakes that `bounded_mean_p_value` mixes


@dataclass(frozen=True)
class Threshold:
    """The least confidence that may be labelled.

    Attributes:
        value: Label where the score is at least this; +inf labels nothing.
        alpha: Error allowed.
        delta: Probability, over the draw of the held-out points, with which the guarantee may fail.
        tested: Held-out units behind it: points, or groups where groups were given.
        labelled: Share of the held-out points at or above it.
        error: Share of wrong ones among these; NaN where nothing is labelled.
    """

    value: float
    alpha: float
    delta: float
    tested: int
    labelled: float
    error: float

    @property
    def found(self) -> bool:
        """Whether anything may be labelled."""
        return self.value < math.inf


def binomial_p_value(errors: int, trials: int, alpha: float) -> float:
    """P(Bin(trials, alpha) <= errors): p-value of "the error rate is at least alpha", exact for independent trials.

    Rejecting at `delta` is the same as a one-sided Clopper-Pearson bound below `alpha`.

    Example:
        >>> round(binomial_p_value(0, 22, 0.1), 4), round(binomial_p_value(1, 2, 0.5), 4)
        (0.0985, 0.75)
    """
    if errors >= trials:
        return 1.0
    k = torch.arange(errors + 1, dtype=torch.float64)
    n = torch.tensor(float(trials), dtype=torch.float64)
    ways = (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()
    logs = ways + k * math.log(alpha) + (n - k) * math.log1p(-alpha)
    return min(1.0, float(torch.logsumexp(logs, dim=0).exp()))


def clopper_pearson_upper(errors: int, trials: int, delta: float) -> float:
    """The one-sided upper confidence bound on an error rate: exceeded with probability at most `delta`.

    Example:
        >>> round(clopper_pearson_upper(0, 22, 0.1), 3)
        0.099
    """
    if errors >= trials:
        return 1.0
    low, high = errors / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_p_value(errors, trials, middle) > delta else (low, middle)
    return high


def bounded_mean_p_value(values: Float[Tensor, " g"], mean: float) -> float:
    """p-value of "independent values in [0, 1] have a mean of at least `mean`", whatever their distribution.

    A gambler stakes a share of his fortune on each value being below `mean`: prod(1 + nu (mean - value)) has an
    expectation of at most 1 under the hypothesis, and so has the weighted mean over BETS stakes nu. By Markov's
    inequality its inverse is a p-value. (Waudby-Smith and Ramdas 2024, with fixed stakes, so that the order of the
    values does not matter.)

    Raises:
        ValueError: If a value or `mean` is outside its range.

    Example:
        >>> bounded_mean_p_value(torch.zeros(60), 0.1) < 0.05, bounded_mean_p_value(torch.full((60,), 0.2), 0.1)
        (True, 1.0)
    """
    if not 0 < mean < 1 or (len(values) and not (float(values.min()) >= -1e-9 and float(values.max()) <= 1 + 1e-9)):
        raise ValueError(f"expected values in [0, 1] and a mean between 0 and 1; got mean {mean}: rescale the losses")
    k = torch.arange(BETS, dtype=torch.float64)
    stakes = 0.99 / (1 - mean) * 0.5**k
    weights = 0.5**k / (0.5**k).sum()
    fortunes = torch.log1p(stakes * (mean - values.double().unsqueeze(1))).sum(0)
    return min(1.0, math.exp(min(700.0, -float(torch.logsumexp(fortunes + weights.log(), dim=0)))))


def selective_threshold(
    scores: Float[Tensor, " p"],
    wrong: Bool[Tensor, " q"],
    thresholds: Float[Tensor, " t"],
    alpha: float,
    delta: float = 0.1,
    *,
    groups: Int[Tensor, " p"] | None = None,
    weights: Float[Tensor, " p"] | None = None,
) -> Threshold:
    """The lowest threshold under which P(wrong | labelled) <= alpha, with probability at least 1 - delta.

    The probability that is bounded is that of the distribution the points were drawn from: with 20 points a class and
    picture each class that a picture shows counts alike, however many pixels it has. `weights` move it elsewhere.
    The test is exact binomial for independent points. With `groups` (pictures, or runs of frames) only groups need be
    independent: the bounded quantity is then the ratio of means over groups, E[sum w wrong labelled] /
    E[sum w labelled], tested by `bounded_mean_p_value`.

    The thresholds are tested from the highest down, in STARTS sequences that begin at different places and stop at
    their first failure; each has delta / STARTS. So nothing is paid for the number of thresholds, but they must not
    depend on the points given here.

    Args:
        scores: Confidence at each held-out point; higher is surer.
        wrong: Whether the prediction there is wrong.
        thresholds: Candidates, chosen without these points, such as quantiles of unlabelled pixels.
        alpha: Error allowed, in (0, 1).
        delta: Probability of failure allowed, in (0, 1).

    Other:
        groups: Group of each point; None takes points for independent.
        weights: At least 0. With `groups`, None makes each group count 1, spread evenly over its points.

    Raises:
        ValueError: If shapes differ, there are no thresholds, or a number is out of its range.
    """
    _check(scores, wrong, thresholds, alpha, delta)
    ordered = thresholds.double().unique().flip(0)  # high to low
    scores, group, share = scores.double(), _numbered(groups, len(scores)), _shares(groups, weights, len(scores))
    units = int(group.max()) + 1 if len(group) else 0
    bound = float(torch.zeros(max(1, units), dtype=torch.float64).index_add_(0, group, share).max()) or 1.0

    def p_value(threshold: float) -> float:
        labelled = scores >= threshold
        if groups is None and weights is None:
            return binomial_p_value(int((labelled & wrong).sum()), int(labelled.sum()), alpha)
        # in each group, sum of w (wrong - alpha) over what is labelled; its mean is negative iff the ratio is < alpha
        loss = share * (wrong.double() - alpha) * labelled
        summed = torch.zeros(units, dtype=torch.float64).index_add_(0, group, loss)
        return bounded_mean_p_value(summed / bound + alpha, alpha)

    chosen = math.inf
    for number in range(STARTS):
        for place in range(round((number + 0.5) * len(ordered) / STARTS - 0.5), len(ordered)):
            if p_value(float(ordered[place])) > delta / STARTS:
                break
            chosen = min(chosen, float(ordered[place]))
    return _threshold(chosen, scores, wrong, share, alpha, delta, units)


def class_error_threshold(
    scores: Float[Tensor, " p"],
    wrong: Bool[Tensor, " q"],
    thresholds: Float[Tensor, " t"],
    alpha: float,
    delta: float = 0.1,
    *,
    groups: Int[Tensor, " p"] | None = None,
) -> Threshold:
    """The lowest threshold under which P(labelled and wrong | class) <= alpha for the one class of these points.

    Give the points of one true class: within it they are drawn uniformly from its pixels, so that no weights are
    needed. The quantity falls as the threshold rises, so one sequence of tests from the highest down has all of delta.
    For several classes at once take the highest of their thresholds, each at delta / K.

    Args:
        scores: Confidence at each held-out point of the class.
        wrong: Whether the prediction there is wrong.
        thresholds: Candidates, chosen without these points.
        alpha: Share of the class that may be labelled wrongly, in (0, 1).
        delta: Probability of failure allowed, in (0, 1).

    Other:
        groups: Group of each point; then the mean over groups of the share in each is bounded.

    Raises:
        ValueError: As `selective_threshold`.
    """
    _check(scores, wrong, thresholds, alpha, delta)
    ordered = thresholds.double().unique().flip(0)
    scores, group, share = scores.double(), _numbered(groups, len(scores)), _shares(groups, None, len(scores))
    units = int(group.max()) + 1 if len(group) else 0
    chosen = math.inf
    for threshold in ordered.tolist():
        loss = (scores >= threshold) & wrong
        if groups is None:
            p = binomial_p_value(int(loss.sum()), len(scores), alpha)
        else:
            summed = torch.zeros(units, dtype=torch.float64).index_add_(0, group, share * loss)
            p = bounded_mean_p_value(summed, alpha)
        if p > delta:
            break
        chosen = threshold
    return _threshold(chosen, scores, wrong, share, alpha, delta, units)


def one_per_group(
    groups: Int[Tensor, " p"], classes: Int[Tensor, " p"], generator: torch.Generator
) -> Int64[Tensor, " q"]:
    """Indices of one random point of each class in each group, in increasing order.

    Points of one picture resemble each other; one a picture are independent if pictures are. What is calibrated on
    them holds for a random point of the class in a new picture, at the price of fewer points.
    """
    order = torch.randperm(len(groups), generator=generator)
    key = (groups.long() * 256 + classes.long())[order]
    by_key = key.argsort(stable=True)
    first = torch.ones(len(key), dtype=torch.bool)
    first[1:] = key[by_key][1:] != key[by_key][:-1]
    return order[by_key[first]].sort().values


def class_limits(probs: Float[Tensor, "p K"], classes: Int[Tensor, " q"], alpha: float) -> Float64[Tensor, " K"]:
    """For each class c the least probability p_c at which it stays in the set of a pixel, split conformal.

    With n_c held-out points of class c and a new one exchangeable with them, the set {c: p_c >= limit_c} holds the
    true class with probability at least 1 - alpha given that it is c, on average over held-out points: the limit is
    the floor(alpha (n_c + 1))-th smallest p_c. (Vovk 2012, Mondrian; Sadinle et al. 2019.)

    Args:
        probs: Class probabilities at points that nothing was trained on.
        classes: Their true classes.
        alpha: How often the true class may be left out, in (0, 1).

    Returns:
        Limits (K,); -inf for a class with fewer than 1/alpha - 1 points: it is then in every set.

    Raises:
        ValueError: If `alpha` is outside (0, 1) or shapes differ.

    Example:
        >>> class_limits(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]), torch.tensor([0, 0, 0]), 0.25).tolist()
        [0.6000000238418579, -inf]
    """
    if not 0 < alpha < 1 or len(probs) != len(classes):
        raise ValueError(
            f"expected alpha in (0, 1) and a class for each of {len(probs)} points; got {alpha} and {len(classes)}"
        )
    limits = torch.full((probs.shape[1],), -math.inf, dtype=torch.float64)
    for label in classes.unique().tolist():
        own = probs[classes == label, label].double().sort().values
        rank = math.floor(alpha * (len(own) + 1) + 1e-9)
        if rank >= 1:
            limits[label] = own[rank - 1]
    return limits


def prediction_sets(probs: Float[Tensor, "p K"], limits: Float[Tensor, " K"]) -> Bool[Tensor, "p K"]:
    """The classes that are still possible at each pixel: p_c >= limit_c. May be empty, or all of them."""
    return probs.double() >= limits.double()


def _check(scores: Tensor, wrong: Tensor, thresholds: Tensor, alpha: float, delta: float) -> None:
    if scores.shape != wrong.shape or thresholds.numel() == 0:
        raise ValueError(
            f"expected one score for each of {wrong.numel()} points and at least one threshold; got "
            f"{scores.numel()} and {thresholds.numel()}"
        )
    if not 0 < alpha < 1 or not 0 < delta < 1:
        raise ValueError(f"expected alpha and delta between 0 and 1; got {alpha} and {delta}")


def _numbered(groups: Tensor | None, size: int) -> Int64[Tensor, " p"]:
    """Groups as 0, 1, 2, ...; each point its own where there are none."""
    return torch.arange(size) if groups is None else torch.unique(groups, return_inverse=True)[1]


def _shares(groups: Tensor | None, weights: Tensor | None, size: int) -> Float64[Tensor, " p"]:
    """What each point counts: its weight, else an equal share of its group."""
    if weights is not None:
        return weights.double()
    if groups is None:
        return torch.ones(size, dtype=torch.float64)
    group = _numbered(groups, size)
    return 1.0 / torch.bincount(group).double()[group]


def _threshold(
    value: float, scores: Tensor, wrong: Tensor, share: Tensor, alpha: float, delta: float, units: int
) -> Threshold:
    labelled = scores >= value
    total, kept = float(share.sum()), float(share[labelled].sum())
    error = float(share[labelled & wrong].sum()) / kept if kept > 0 else math.nan
    return Threshold(value, alpha, delta, units, kept / total if total > 0 else 0.0, error)
