"""Whether a confidence means what it says: reliability, risk against coverage, temperature. Streamed over pictures."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Num
from torch import Tensor

SCORE_LIMIT = 16.0  # |score|; in log odds 1 - 1.1e-7, where float32 probabilities end
SCORE_BINS = 4096  # 1/128 wide each: two confidences share a bin if their odds differ by less than 0.8 %
TEMPERATURES = (0.05, 20.0)
EM_STEPS = 500
CHUNK = 1 << 15  # pixels worked on at a time: 5 MiB of float64 for 19 classes


def log_odds(confidence: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """log(p / (1 - p)), cut off at +-SCORE_LIMIT: the score under which `ScoreHistogram` keeps a confidence."""
    return confidence.double().logit().clamp(-SCORE_LIMIT, SCORE_LIMIT)


@dataclass(frozen=True)
class RiskCoverage:
    """Error among the surest pixels, as more and more of them are labelled.

    Attributes:
        coverage: Share of pixels labelled, increasing to 1.
        risk: Share of wrong ones among them.
        aurc: Mean risk over all coverages; lower is better. Pixels of equal score are taken in random order.
        best_aurc: What a score would reach that ranks every right pixel above every wrong one.
        auroc: Probability that a right pixel has a higher score than a wrong one, ties half; NaN if all are alike.
    """

    coverage: Float64[Tensor, "b"]
    risk: Float64[Tensor, "b"]
    aurc: float
    best_aurc: float
    auroc: float

    def coverage_at(self, risk: float) -> float:
        """The largest share of pixels whose error is at most `risk`: hindsight, since the truth chooses it."""
        fine = self.risk <= risk
        return float(self.coverage[fine].max()) if bool(fine.any()) else 0.0


class ScoreHistogram:
    """Counts of right and wrong pixels by score; higher means surer. Memory does not grow with the pixels.

    Scores lie on a real line cut into SCORE_BINS bins from -SCORE_LIMIT to SCORE_LIMIT; what is beyond goes to the
    ends. Confidences enter as `log_odds`, a mass ratio as its logarithm. Pixels of one bin count as tied.

    Example:
        >>> histogram = ScoreHistogram()
        >>> histogram.update(torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.tensor([False, False, True, True]))
        >>> histogram.risk_coverage().risk.tolist(), histogram.risk_coverage().auroc
        ([0.0, 0.0, 0.3333333333333333, 0.5], 1.0)
    """

    def __init__(self) -> None:
        self.counts: Int64[Tensor, "b"] = torch.zeros(SCORE_BINS, dtype=torch.int64)
        self.errors: Int64[Tensor, "b"] = torch.zeros(SCORE_BINS, dtype=torch.int64)

    def update(self, scores: Float[Tensor, " p"], wrong: Bool[Tensor, " q"]) -> None:
        """Add pixels.

        Raises:
            ValueError: If the shapes differ or a score is NaN.
        """
        place = score_bins(scores, wrong)
        self.counts += torch.bincount(place, minlength=SCORE_BINS)
        self.errors += torch.bincount(place[wrong], minlength=SCORE_BINS)

    def quantiles(self, levels: int) -> Float64[Tensor, " t"]:
        """Thresholds above which about 1/levels, 2/levels, ... of the pixels lie, high to low; the last takes all.

        They are lower edges of bins, so that at least the share asked for lies at or above each.

        Raises:
            ValueError: If no pixel has been added.
        """
        self._require_pixels()
        share = self.counts.flip(0).cumsum(0).double() / self.counts.sum()
        wanted = torch.arange(1, levels, dtype=torch.float64) / levels
        place = SCORE_BINS - 1 - torch.searchsorted(share, wanted)
        edges = place.double() * (2 * SCORE_LIMIT / SCORE_BINS) - SCORE_LIMIT
        return torch.cat([edges, torch.tensor([-SCORE_LIMIT], dtype=torch.float64)])

    def _require_pixels(self) -> int:
        total = int(self.counts.sum())
        if total == 0:
            raise ValueError("expected at least one pixel; none was added: call update first")
        return total

    def risk_coverage(self) -> RiskCoverage:
        """The curve and its summaries.

        Raises:
            ValueError: If no pixel has been added.
        """
        total = self._require_pixels()
        kept = self.counts.flip(0) > 0
        n, e = self.counts.flip(0)[kept].double(), self.errors.flip(0)[kept].double()
        labelled, wrong = n.cumsum(0), e.cumsum(0)
        before, wrong_before = labelled - n, wrong - e
        # integral of (E + e t / n) / (N + t) over t in [0, n]: the tied pixels of a bin in random order
        growth = torch.where(before > 0, (labelled / before.clamp_min(1.0)).log(), torch.zeros_like(n))
        area = e + (wrong_before - e * before / n) * growth
        errors, right = float(wrong[-1]), total - float(wrong[-1])
        rate = errors / total
        best = rate + (1 - rate) * torch.tensor(1 - rate, dtype=torch.float64).log() if rate < 1 else torch.tensor(1.0)
        ranked = ((n - e) * (errors - wrong + 0.5 * e)).sum()
        auroc = float(ranked) / (errors * right) if errors and right else float("nan")
        return RiskCoverage(labelled / total, wrong / labelled, float(area.sum()) / total, float(best), auroc)


def score_bins(scores: Float[Tensor, " p"], wrong: Bool[Tensor, " q"]) -> Int64[Tensor, " p"]:
    """The bin of each score of a `ScoreHistogram`.

    Raises:
        ValueError: If the shapes differ or a score is NaN.
    """
    if scores.shape != wrong.shape or bool(scores.isnan().any()):
        raise ValueError(
            f"expected one score that is no NaN for each of {wrong.numel()} pixels; got shape {tuple(scores.shape)} "
            "or NaN: check the scores"
        )
    place = (scores.double() + SCORE_LIMIT) * (SCORE_BINS / (2 * SCORE_LIMIT))
    return place.clamp(0, SCORE_BINS - 1).long()


@dataclass(frozen=True)
class ReliabilityBins:
    """A reliability diagram; bins without pixels are left out.

    Attributes:
        share: Share of all pixels in each bin.
        confidence: Their mean confidence.
        accuracy: Share of them that is right.
    """

    share: Float64[Tensor, "b"]
    confidence: Float64[Tensor, "b"]
    accuracy: Float64[Tensor, "b"]

    def error(self) -> float:
        """Expected calibration error: mean over pixels of |accuracy - confidence| of their bin, in [0, 1]."""
        return float((self.share * (self.accuracy - self.confidence).abs()).sum())


@dataclass(frozen=True)
class CalibrationScores:
    """What `Calibration` has found.

    Attributes:
        pixels: How many were counted.
        accuracy: Share that is right.
        confidence: Mean probability of the chosen class.
        equal_width: Bins of equal width; `.error()` is the ECE as it is mostly reported.
        equal_mass: Bins of about equal numbers of pixels.
        classwise_ece: The ECE of each class's own probability, equal width, averaged over the classes that occur.
        nll: Mean -log p of the true class, nats, over pixels where p > 0; NaN if there is none.
        impossible: Share of pixels whose true class has p = 0; each alone would make the likelihood zero.
        brier: Mean over pixels of the sum over classes of (p - truth)^2, in [0, 2].
        risk_coverage: With the confidence as score.
    """

    pixels: int
    accuracy: float
    confidence: float
    equal_width: ReliabilityBins
    equal_mass: ReliabilityBins
    classwise_ece: float
    nll: float
    impossible: float
    brier: float
    risk_coverage: RiskCoverage


class Calibration:
    """Sums over pixels from which calibration is read; memory does not grow with the pixels.

    Args:
        num_classes: Number of classes K.
        bins: Bins of the diagrams. 15 is what most papers use.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(self, num_classes: int, bins: int = 15) -> None:
        if num_classes < 1 or bins < 1:
            raise ValueError(f"expected at least one class and one bin; got {num_classes} and {bins}")
        self.num_classes, self.bins = num_classes, bins
        self.histogram = ScoreHistogram()
        self._fine = torch.zeros(SCORE_BINS, dtype=torch.float64)  # summed confidence
        self._wide = torch.zeros(3, bins, dtype=torch.float64)  # pixels, summed confidence, right ones
        self._classes = torch.zeros(3, num_classes * bins, dtype=torch.float64)
        self._seen = torch.zeros(num_classes, dtype=torch.bool)
        self._nll, self._impossible, self._brier = 0.0, 0, 0.0

    def update(self, probs: Float[Tensor, "p K"], truth: Int[Tensor, " q"]) -> None:
        """Add pixels; the prediction is the most probable class.

        Args:
            probs: Rows that sum to 1.
            truth: Classes in [0, K); leave ignored pixels out.

        Raises:
            ValueError: If the shapes do not fit, a class is outside the range, or a row is no distribution.
        """
        if probs.shape != (len(truth), self.num_classes):
            raise ValueError(
                f"expected probabilities of shape {(len(truth), self.num_classes)}; got {tuple(probs.shape)}"
            )
        if len(truth) == 0:
            return
        truth = truth.long()
        if int(truth.min()) < 0 or int(truth.max()) >= self.num_classes:
            raise ValueError(f"expected true classes in [0, {self.num_classes}); leave ignored pixels out")
        if bool((probs < 0).any()) or not bool(((probs.sum(-1) - 1).abs() < 1e-4).all()):
            raise ValueError("expected rows that are probabilities and sum to 1; apply a softmax to logits first")
        for some_probs, some_truth in zip(probs.split(CHUNK), truth.split(CHUNK), strict=True):
            self._add(some_probs.double(), some_truth)

    def _add(self, probs: Float64[Tensor, "p K"], truth: Int64[Tensor, " p"]) -> None:
        confidence, predicted = probs.max(-1)
        right = predicted == truth
        place = score_bins(log_odds(confidence.clamp_max(1.0)), ~right)
        self.histogram.counts += torch.bincount(place, minlength=SCORE_BINS)
        self.histogram.errors += torch.bincount(place[~right], minlength=SCORE_BINS)
        self._fine += torch.bincount(place, confidence, minlength=SCORE_BINS)
        self._wide += _sums((confidence * self.bins).long().clamp_max(self.bins - 1), confidence, right, self.bins)
        cells = (probs * self.bins).long().clamp_max(self.bins - 1) + torch.arange(self.num_classes) * self.bins
        onehot = torch.zeros_like(probs).scatter_(1, truth.unsqueeze(1), 1.0)
        self._classes += _sums(cells.flatten(), probs.flatten(), onehot.flatten(), self.num_classes * self.bins)
        self._seen[truth.unique()] = True
        chosen = probs.gather(1, truth.unsqueeze(1)).squeeze(1)
        possible = chosen > 0
        self._nll -= float(chosen[possible].log().sum())
        self._impossible += int((~possible).sum())
        self._brier += float((probs - onehot).square().sum())

    def scores(self) -> CalibrationScores:
        """What the pixels added so far say.

        Raises:
            ValueError: If there are none.
        """
        curve = self.histogram.risk_coverage()
        pixels = int(self.histogram.counts.sum())
        _, p, hits = self._classes.view(3, self.num_classes, self.bins)
        gaps = (hits - p).abs().sum(-1) / pixels  # an empty bin adds 0
        possible = pixels - self._impossible
        return CalibrationScores(
            pixels=pixels,
            accuracy=1 - float(curve.risk[-1]),
            confidence=float(self._fine.sum()) / pixels,
            equal_width=_diagram(*self._wide),
            equal_mass=self._equal_mass(),
            classwise_ece=float(gaps[self._seen].mean()),
            nll=self._nll / possible if possible else float("nan"),
            impossible=self._impossible / pixels,
            brier=self._brier / pixels,
            risk_coverage=curve,
        )

    def _equal_mass(self) -> ReliabilityBins:
        """Neighbouring score bins joined; a score bin is never split, so masses are equal only nearly."""
        counts = self.histogram.counts.double()
        middle = (counts.cumsum(0) - 0.5 * counts) / counts.sum()
        group = (middle * self.bins).long().clamp_max(self.bins - 1)
        sums = torch.zeros(3, self.bins, dtype=torch.float64)
        parts = torch.stack([counts, self._fine, counts - self.histogram.errors])
        sums.scatter_add_(1, group.expand(3, -1), parts)
        return _diagram(*sums)


def _sums(place: Tensor, values: Tensor, hits: Tensor, size: int) -> Float64[Tensor, "3 b"]:
    """Of each bin: how many, their summed values, their summed hits."""
    return torch.stack(
        [
            torch.bincount(place, minlength=size).double(),
            torch.bincount(place, values.double(), minlength=size),
            torch.bincount(place, hits.double(), minlength=size),
        ]
    )


def _diagram(n: Float64[Tensor, "b"], confidence: Float64[Tensor, "b"], right: Float64[Tensor, "b"]) -> ReliabilityBins:
    kept = n > 0
    n = n[kept]
    return ReliabilityBins(n / n.sum(), confidence[kept] / n, right[kept] / n)


def fit_temperature(
    logits: Float[Tensor, "p K"], classes: Int[Tensor, " p"], weights: Float[Tensor, " p"] | None = None
) -> float:
    """The temperature T under which softmax(logits / T) makes the labels most likely.

    It never changes which class is most probable. The likelihood is log-concave in 1/T, so that golden sections on
    log T, within TEMPERATURES, find its one maximum.

    Args:
        logits: Or log-probabilities; -inf forbids a class, and points whose own class is forbidden are passed over.
        classes: Classes of points that the network was not trained on.
        weights: What each point counts; None counts all alike.

    Raises:
        ValueError: If no point is left.
    """
    chosen = logits.gather(1, classes.long().unsqueeze(1)).squeeze(1)
    kept = chosen > -torch.inf
    if not bool(kept.any()):
        raise ValueError("expected a point whose class has a probability; there is none: hold out more points")
    values, chosen = logits[kept].double(), chosen[kept].double()
    share = torch.ones_like(chosen) if weights is None else weights[kept].double()
    share = share / share.sum()

    def loss(log_temperature: float) -> float:
        inverse = torch.tensor(-log_temperature, dtype=torch.float64).exp()
        return float((share * (torch.logsumexp(values * inverse, dim=-1) - chosen * inverse)).sum())

    low, high = (float(torch.tensor(end, dtype=torch.float64).log()) for end in TEMPERATURES)
    golden = (5**0.5 - 1) / 2
    for _ in range(40):  # leaves 6 * 0.618^40 < 1e-7 of log T
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return float(torch.tensor((low + high) / 2, dtype=torch.float64).exp())


def class_shares(
    predicted: Float[Tensor, " K"], confusion: Num[Tensor, "K K"], present: Bool[Tensor, " K"]
) -> Float64[Tensor, " K"]:
    """Shares of the true classes behind the shares of the predicted ones, by maximum likelihood.

    A method that calls everything "road" predicts nothing but road; what it predicts says little of how frequent
    classes are until its confusions are taken back out. With P(prediction k | class c) from labelled points, the
    shares q maximise sum_k predicted_k log sum_c q_c P(k | c), found by EM. (Saerens et al. 2002; label shift.)

    Args:
        predicted: Pixels by predicted class.
        confusion: Points by (class, prediction); rows are the truth, their sums do not matter.
        present: Classes that may have a share; those without a point are left out.

    Returns:
        Shares that sum to 1 over the present classes; equal where predictions say nothing.

    Raises:
        ValueError: If no present class has a point.

    Example:
        >>> confusion = torch.tensor([[8, 2], [4, 4]])  # predicts 0 for half of class 1
        >>> class_shares(torch.tensor([65.0, 35.0]), confusion, torch.ones(2, dtype=torch.bool)).round(decimals=3)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    counts = confusion.double()
    usable = present & (counts.sum(1) > 0)
    if not bool(usable.any()):
        raise ValueError("expected points of at least one class that is present; there are none")
    rates = counts / counts.sum(1, keepdim=True).clamp_min(1.0)
    shares = usable.double() / usable.sum()
    seen = predicted.double() * (usable.double() @ rates > 0)  # what no present class is ever taken for tells nothing
    if float(seen.sum()) == 0:
        return shares
    seen = seen / seen.sum()
    for _ in range(EM_STEPS):
        explained = shares @ rates
        shares = shares * (rates @ torch.where(seen > 0, seen / explained.clamp_min(1e-300), torch.zeros_like(seen)))
    return shares


def fit_logistic(
    features: Float[Tensor, "p f"], right: Bool[Tensor, " p"], weights: Float[Tensor, " p"]
) -> Float64[Tensor, " f"]:
    """Coefficients of the logistic regression of "is right" on a few scores: how to join them into one.

    Newton steps with a small ridge on the standardised features, so that separable points have an answer too.

    Args:
        features: Scores of points that nothing was trained on.
        right: Whether the prediction at each point is right.
        weights: What each point counts.

    Returns:
        Coefficients of the features as they came; the intercept, which changes no ranking, is left out.
    """
    share = weights.double() / weights.double().sum()
    x = features.double()
    mean = (share.unsqueeze(1) * x).sum(0)
    spread = (share.unsqueeze(1) * (x - mean).square()).sum(0).sqrt()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    design = torch.cat([(x - mean) / spread, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    ridge = 1e-3 * torch.eye(design.shape[1], dtype=torch.float64)
    beta = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(50):
        p = torch.sigmoid(design @ beta)
        slope = design.T @ (share * (right.double() - p)) - ridge @ beta
        curvature = (design * (share * p * (1 - p)).unsqueeze(1)).T @ design + ridge
        step = torch.linalg.solve(curvature, slope)
        beta = beta + step / max(1.0, float(step.norm()))
    return beta[:-1] / spread
