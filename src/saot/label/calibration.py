"""calibration.json: whether confidences mean what they say, and what may be labelled with a guarantee.

Temperatures and thresholds come from held-out declared points; evaluation masks are read for the report alone.
`docs/calibration.md` says what is guaranteed and what is not.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saot.certify import (
    SCORE_LIMIT,
    Calibration,
    CalibrationScores,
    ReliabilityBins,
    ScoreHistogram,
    Threshold,
    class_error_threshold,
    class_limits,
    class_shares,
    fit_logistic,
    fit_temperature,
    log_odds,
    prediction_sets,
    selective_threshold,
)
from saot.data import PatchGrid, as_written, whole_record, write_atomic
from saot.decoder import Decoder
from saot.evaluate import ConfusionMatrix, scores_at
from saot.label.data import Domain
from saot.label.scoring import Contest
from saot.label.sizes import SizesDecoder
from saot.runs import Kept, Making, identity_of
from saot.transfer import SemanticCost, fill_uncovered, solve_pair, transfer_labels

DECODER, TRANSPORT = "saot_decoder", "saot"
LEVELS = 50  # candidate thresholds: quantiles of unlabelled pixels
LEVEL_PICTURES = 8  # target pictures the quantiles are taken of
MOST_PIXELS = 200_000  # of a picture; larger ones are read on a regular sub-grid of pixels


@dataclass(frozen=True)
class Answers:
    """What the methods say at some pixels of a picture.

    Attributes:
        log_probs: Method -> (p, K), log-probabilities; the largest is the mask's class.
        mass: (p,) log of the mass a token received over its weight; unmatched mass is 1 - exp(mass). None where
            nothing was transported.
    """

    log_probs: dict[str, Float64[Tensor, "p K"]]
    mass: Float64[Tensor, " p"] | None

    def confidence(self, name: str) -> Float64[Tensor, " p"]:
        """Log odds of the chosen class."""
        return log_odds(self.log_probs[name].amax(-1).exp().clamp_max(1.0))


@dataclass(frozen=True)
class Held:
    """The held-out declared points, and the unlabelled pixels that candidates and weights come from.

    Attributes:
        answers: At the points' own pixels.
        classes: (p,) declared classes.
        picture: (p,) target picture of each.
        predicted: Method -> (pictures, K) pixels of each held-out picture by predicted class.
        levels: Method -> candidate thresholds, log odds.
        frequency: Method -> (K,) the same on other target pictures.
    """

    answers: Answers
    classes: Int64[Tensor, " p"]
    picture: Int64[Tensor, " p"]
    predicted: dict[str, Float64[Tensor, "pictures K"]]
    levels: dict[str, Float64[Tensor, " t"]]
    frequency: dict[str, Float64[Tensor, " K"]]

    def wrong(self, name: str) -> Bool[Tensor, " p"]:
        """Where the method misses the declared class."""
        return self.answers.log_probs[name].argmax(-1) != self.classes

    def confusion(self, name: str) -> Int64[Tensor, "K K"]:
        """Points by (declared class, prediction)."""
        matrix = ConfusionMatrix(len(self.frequency[name]))
        matrix.update(self.answers.log_probs[name].argmax(-1), self.classes)
        return matrix.counts

    def weights(self, name: str) -> Float64[Tensor, " p"]:
        """Points weighted so that each class counts by its estimated share of the target's pixels; they sum to 1."""
        size = len(self.frequency[name])
        shares = class_shares(self.frequency[name], self.confusion(name), torch.ones(size, dtype=torch.bool))
        return (shares / torch.bincount(self.classes, minlength=size).clamp_min(1))[self.classes]

    def picture_weights(self, name: str) -> Float64[Tensor, " p"]:
        """The same within each picture, by its own shares; they sum to 1 in each. Its points name its classes."""
        size, confusion = len(self.frequency[name]), self.confusion(name)
        weights = torch.zeros(len(self.classes), dtype=torch.float64)
        for place, number in enumerate(self.picture.unique().tolist()):
            mine = self.picture == number
            count = torch.bincount(self.classes[mine], minlength=size)
            shares = class_shares(self.predicted[name][place], confusion, count > 0)
            weights[mine] = (shares / count.clamp_min(1))[self.classes[mine]]
        return weights


@dataclass(frozen=True)
class Models:
    """The methods of a run that are calibrated: its decoder and, where a cost was learned, its transport.

    Attributes:
        contest: Sets, recipe and run folder.
        cost: The learned cost, or None.
        decoder: SAOT's decoder.
        bias: The logit adjustment it was scored with, or None.
    """

    contest: Contest
    cost: SemanticCost | None
    decoder: Decoder | SizesDecoder
    bias: Tensor | None

    @property
    def methods(self) -> tuple[str, ...]:
        """Their names in metrics.json."""
        return (DECODER,) if self.cost is None else (DECODER, TRANSPORT)

    def similar(self, which: str) -> Tensor | None:
        """Cosines of the pictures of "test" or "target" with the source's; None where nothing is transported."""
        return None if self.cost is None else self.contest.similar(which)

    def tokens(self, domain: Domain, similar: Tensor | None, number: int) -> tuple[Tensor, Tensor | None]:
        """Logits of the decoder (n, K), or of cells; (n, K + 1) probabilities of the plan, log of mass over weight."""
        recipe, data = self.contest.bench.recipe, self.contest.data
        if self.cost is None or similar is None:
            return domain.logits(self.decoder, number).cpu(), None
        closest = int(similar[number].argmax())
        source, labels = data.source.labelled(closest)
        target = domain.tokens(number)
        with torch.no_grad():
            logits = domain.logits(self.decoder, number)
            places = data.source.places(closest), domain.places(number)
            result = solve_pair(source, labels, target, self.cost, recipe.transport, places=places)
            transfer = transfer_labels(result, labels, data.num_classes)
            probs = fill_uncovered(transfer, source, labels, target, recipe.transfer.uncovered)
        received = (result.marginals[1] * len(target)).log().clamp(-SCORE_LIMIT, SCORE_LIMIT)  # b_j = 1/m
        return logits.cpu(), torch.cat([probs, received.unsqueeze(1).to(probs)], dim=1).cpu()

    def at(self, values: tuple[Tensor, Tensor | None], grid: PatchGrid, rows: Tensor, columns: Tensor) -> Answers:
        """Answers at single pixels, upsampled as the masks are."""
        logits = scores_at(values[0], grid, rows, columns).double()
        logits = logits if self.bias is None else logits + self.bias
        answers = {DECODER: logits.log_softmax(-1)}
        if values[1] is None:
            return Answers(answers, None)
        whole = values[1].split([self.contest.data.num_classes, 1], dim=1)
        probs, mass = (scores_at(part, grid, rows, columns).double() for part in whole)
        answers[TRANSPORT] = (probs / probs.sum(-1, keepdim=True)).log()
        return Answers(answers, mass.squeeze(1))


def open_models(contest: Contest, bias: Tensor | None, transported: bool = True) -> Models:
    """The decoder of a run, with the logit adjustment it was scored with, and the learned cost if it transported."""
    cost = contest.cost().cost if transported else None
    return Models(contest, cost, contest.decoder().decoder, bias)


def pixel_lattice(height: int, width: int, most: int = MOST_PIXELS) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Rows and columns of every s-th pixel in both directions, s the least step that leaves at most `most`.

    Example:
        >>> [part.tolist() for part in pixel_lattice(2, 6, 3)]
        [[1, 1, 1], [1, 3, 5]]
    """
    step = max(1, math.ceil(math.sqrt(height * width / most)))
    while -(-height // step) * -(-width // step) > most:
        step += 1
    rows, columns = (torch.arange(min(step // 2, (size - 1) % step), size, step) for size in (height, width))
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def held_points(models: Models) -> Held | None:
    """The held-out declared points at their own pixels; None where no point is held out."""
    bench, data = models.contest.bench, models.contest.data
    judge, target = data.points.tokens.held(), data.target
    if len(judge) == 0:
        return None
    similar = models.similar("target")
    parts, classes, pictures = [], [], []
    predicted: dict[str, list[Tensor]] = {name: [] for name in models.methods}
    for number in judge.picture.unique().tolist():
        x, y, labels = data.points.pixels.of(target.images.keys[number])
        assert torch.equal(labels, judge.of(number)[1]), "points on tokens and on pixels are the same points"
        values, grid = models.tokens(target, similar, number), target.grid(number)
        parts.append(models.at(values, grid, y, x))
        classes.append(labels)
        pictures.append(torch.full_like(labels, number))
        seen = models.at(values, grid, *pixel_lattice(grid.image_height, grid.image_width))
        for name in models.methods:
            chosen = seen.log_probs[name].argmax(-1)
            predicted[name].append(torch.bincount(chosen, minlength=data.num_classes).double())
        bench.space.tell("held-out points")(len(parts), len(judge.picture.unique()))
    levels, frequency = _unlabelled(models, similar, set(judge.picture.tolist()))
    masses = [part.mass for part in parts if part.mass is not None]
    answers = Answers(
        {name: torch.cat([part.log_probs[name] for part in parts]) for name in models.methods},
        torch.cat(masses) if masses else None,
    )
    joined = {name: torch.stack(predicted[name]) for name in models.methods}
    return Held(answers, torch.cat(classes), torch.cat(pictures), joined, levels, frequency)


def _unlabelled(models: Models, similar: Tensor | None, held: set[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Candidate thresholds and class frequencies from target pictures without held-out points, where there are any."""
    data, target = models.contest.data, models.contest.data.target
    others = [n for n in range(len(target)) if n not in held] or sorted(held)
    count = min(LEVEL_PICTURES, len(others))
    chosen = [others[(2 * k + 1) * len(others) // (2 * count)] for k in range(count)]
    histograms = {name: ScoreHistogram() for name in models.methods}
    frequency = {name: torch.zeros(data.num_classes, dtype=torch.float64) for name in models.methods}
    for number in chosen:
        grid = target.grid(number)
        lattice = pixel_lattice(grid.image_height, grid.image_width)
        answers = models.at(models.tokens(target, similar, number), grid, *lattice)
        for name in models.methods:
            score, predicted = answers.confidence(name), answers.log_probs[name].argmax(-1)
            histograms[name].update(score, torch.zeros_like(score, dtype=torch.bool))
            frequency[name] += torch.bincount(predicted, minlength=data.num_classes).double()
    levels = {name: histogram.quantiles(LEVELS) for name, histogram in histograms.items()}
    return levels, frequency


def evaluation_answers(models: Models) -> Iterator[tuple[Answers, Tensor]]:
    """Answers and truth at the labelled pixels of each evaluation picture."""
    bench, evaluation = models.contest.bench, models.contest.evaluation
    domain, masks = evaluation.domain, evaluation.truth
    assert masks is not None, "only with evaluation labels"
    similar = models.similar("test")
    for number in range(len(domain)):
        grid = domain.grid(number)
        rows, columns = pixel_lattice(grid.image_height, grid.image_width)
        truth = torch.from_numpy(masks.mask(number))[rows, columns].long()
        labelled = truth != 255
        values = models.tokens(domain, similar, number)
        yield models.at(values, grid, rows[labelled], columns[labelled]), truth[labelled]
        bench.space.tell("calibration")(number + 1, len(domain))


ALPHAS = (0.01, 0.05, 0.1)  # errors allowed
DELTA = 0.1  # probability with which a guarantee may fail
BASES = ("pictures", "points", "pixels")  # which threshold is used: the first that exists
CURVE_POINTS = 60


def calibrate(contest: Contest, bias: Tensor | None, transported: bool = True) -> dict[str, Any]:
    """calibration.json: made once, after scoring, and kept.

    For the decoder and, if it `transported`, the plan: a temperature from held-out declared points; calibration on the
    evaluation pictures before and after; how well confidence, unmatched mass and both rank errors; for each of ALPHAS
    the threshold above which pixels may be labelled, what it covers and how often it errs there. Without held-out
    points there is neither temperature nor threshold, without evaluation labels no measurement, and `notes` says so.

    Args:
        contest: Sets, recipe and run folder.
        bias: The logit adjustment that the decoder was scored with, or None.
        transported: Whether the run's own transport is scored, so that a cost was learned; else nothing is said of
            unmatched mass.
    """
    bench = contest.bench

    def make(making: Making) -> Kept:
        models = open_models(contest, bias, transported)
        held = held_points(models)
        choices = {name: _choices(contest, held, name) for name in models.methods}
        return Kept(facts=_record(contest, held, choices, _measure(contest, models, choices)))

    identity = identity_of(contest.data, contest.evaluation, bench.recipe, bench.seed, bias, transported)
    record = dict(bench.space.once("work/calibration", identity, make, title="calibration").facts)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomic(bench.space.path("calibration.json"), text.encode())
    return record


@dataclass(frozen=True)
class _Choices:
    """What held-out points decide for a method; empty without them."""

    temperature: float | None
    joint: Float64[Tensor, "2"] | None
    thresholds: dict[tuple[float, str], Threshold]
    classes: dict[float, tuple[Threshold, list[int]]]
    limits: dict[float, Float64[Tensor, " K"]]
    tried: int


def abstention_threshold(folder: Path, alpha: float) -> float:
    """The least confidence at which a finished run's decoder may label a pixel, for an allowed error `alpha`.

    Raises:
        ValueError: If the run has no calibration.json, knows no such alpha, or found no threshold for it.
    """
    record = whole_record(Path(folder) / "calibration.json")
    if record is None:
        raise ValueError(
            f"expected {Path(folder) / 'calibration.json'} to know where to abstain; it is missing or damaged: "
            "give the same `saot run` command again"
        )
    with as_written(Path(folder) / "calibration.json", "give the same `saot run` command again"):
        return _threshold(record, folder, alpha)


def _threshold(record: dict[str, Any], folder: Path, alpha: float) -> float:
    known = record["alphas"]
    if alpha not in known:
        raise ValueError(f"expected an allowed error among {', '.join(map(_key, known))}; got {alpha:g}")
    entry, held = record["methods"]["saot_decoder"]["abstain"][_key(alpha)], record["held_out"]
    if entry["threshold"] is None:
        raise ValueError(
            f"expected a threshold for an error of at most {alpha:g}; {folder} has none, since its {held['points']} "
            f"held-out points ({held['pictures']} pictures) do not show one: allow a larger error, or run with a "
            "preset that holds out points, and more of them"
        )
    return float(entry["threshold"])


def _choices(contest: Contest, held: Held | None, name: str) -> _Choices:
    if held is None:
        return _Choices(None, None, {}, {}, {}, 1)
    scores, wrong, weights = held.answers.confidence(name), held.wrong(name), held.weights(name)
    # the logit adjustment was chosen among so many on these points: a union bound over them keeps the guarantee
    strengths = contest.bench.recipe.scores.logit_adjustment
    tried = len(strengths) if name == "saot_decoder" and not contest.evaluation.declared else 1
    delta = DELTA / (max(1, tried) * len(BASES))  # whichever basis has a threshold first is used
    thresholds, classes, limits = {}, {}, {}
    log_probs = held.answers.log_probs[name]
    for alpha in ALPHAS:
        levels = held.levels[name]
        thresholds[alpha, "points"] = selective_threshold(scores, wrong, levels, alpha, delta)
        thresholds[alpha, "pixels"] = selective_threshold(scores, wrong, levels, alpha, delta, weights=weights)
        thresholds[alpha, "pictures"] = selective_threshold(
            scores, wrong, levels, alpha, delta, groups=held.picture, weights=held.picture_weights(name)
        )
        classes[alpha] = _class_threshold(scores, wrong, held.classes, levels, alpha, delta)
        limits[alpha] = class_limits(log_probs.exp(), held.classes, alpha)
    reachable = log_probs.gather(1, held.classes.unsqueeze(1)).squeeze(1) > -torch.inf
    temperature = fit_temperature(log_probs, held.classes, weights) if bool(reachable.any()) else None
    joint = None
    if held.answers.mass is not None:
        joint = fit_logistic(torch.stack([scores, held.answers.mass], dim=1), ~wrong, weights)
        joint = joint / joint.abs().sum().clamp_min(1e-6)  # stays on the scale of its parts; ranks alike
    return _Choices(temperature, joint, thresholds, classes, limits, max(1, tried))


def _class_threshold(
    scores: Tensor, wrong: Tensor, classes: Tensor, levels: Tensor, alpha: float, delta: float
) -> tuple[Threshold, list[int]]:
    """The highest threshold of the classes it can be shown for, all at once, and these classes."""
    present = classes.unique().tolist()
    each = {
        c: class_error_threshold(scores[classes == c], wrong[classes == c], levels, alpha, delta / len(present))
        for c in present
    }
    shown = [c for c, threshold in each.items() if threshold.found]
    worst = max(shown or present, key=lambda c: each[c].value)
    return each[worst], shown


@dataclass(frozen=True)
class _Measured:
    """What the evaluation pictures say of a method.

    Attributes:
        before, after: Calibration with T = 1 and with the chosen temperature (None without one).
        rankings: Score -> how it ranks errors.
        at: Threshold value -> (K, 2): labelled and wrongly labelled pixels of each true class.
        sets: alpha -> (pixels with the true class in the set, summed sizes).
        truth: (K,) pixels of each class.
    """

    before: Calibration
    after: Calibration | None
    rankings: dict[str, ScoreHistogram]
    at: dict[float, Int64[Tensor, "K two"]]
    sets: dict[float, list[int]]
    truth: Int64[Tensor, " K"]

    def update(self, name: str, answers: Answers, truth: Tensor, choices: _Choices) -> None:
        """Add the labelled pixels of a picture."""
        log_probs, size = answers.log_probs[name], self.before.num_classes
        self.truth.add_(torch.bincount(truth, minlength=size))
        self.before.update(log_probs.exp(), truth)
        if self.after is not None and choices.temperature is not None:
            self.after.update((log_probs / choices.temperature).softmax(-1), truth)
        score, wrong = answers.confidence(name), log_probs.argmax(-1) != truth
        self.rankings["confidence"].update(score, wrong)
        if answers.mass is not None:
            self.rankings["unmatched"].update(answers.mass, wrong)
        if answers.mass is not None and choices.joint is not None:
            joined = torch.stack([score, answers.mass], dim=1) @ choices.joint
            self.rankings["both"].update(joined, wrong)
        for value, counts in self.at.items():
            labelled = score >= value
            counts[:, 0] += torch.bincount(truth[labelled], minlength=size)
            counts[:, 1] += torch.bincount(truth[labelled & wrong], minlength=size)
        for alpha, limits in choices.limits.items():
            inside = prediction_sets(log_probs.exp(), limits)
            self.sets[alpha][0] += int(inside.gather(1, truth.unsqueeze(1)).sum())
            self.sets[alpha][1] += int(inside.sum())


def _measure(contest: Contest, models: Models, choices: Mapping[str, _Choices]) -> dict[str, _Measured] | None:
    if contest.evaluation.truth is None:
        return None
    size = contest.data.num_classes
    measured = {}
    for name, chosen in choices.items():
        values = {t.value for t in chosen.thresholds.values()} | {t.value for t, _ in chosen.classes.values()}
        scores = ["confidence"] if models.cost is None else ["confidence", "unmatched"]
        scores += [] if chosen.joint is None else ["both"]
        measured[name] = _Measured(
            Calibration(size),
            None if chosen.temperature is None else Calibration(size),
            {score: ScoreHistogram() for score in scores},
            {value: torch.zeros(size, 2, dtype=torch.int64) for value in sorted(values)},
            {alpha: [0, 0] for alpha in chosen.limits},
            torch.zeros(size, dtype=torch.int64),
        )
    for answers, truth in evaluation_answers(models):
        for name in models.methods:
            measured[name].update(name, answers, truth, choices[name])
    return measured if int(measured[DECODER].truth.sum()) else None


def _record(
    contest: Contest, held: Held | None, choices: Mapping[str, _Choices], measured: Mapping[str, _Measured] | None
) -> dict[str, Any]:
    """calibration.json as plain JSON values; what is unknown is null."""
    notes = []
    if held is None:
        why = "none is declared" if len(contest.data.points.tokens) == 0 else "all were trained on"
        notes.append(f"No declared point is held out ({why}), so there is neither a temperature nor a threshold.")
    if held is not None and contest.members:
        notes.append(
            "The weights of the input sizes were learned on the same held-out points: thresholds are estimates here, "
            "no guarantees."
        )
    if measured is None:
        notes.append("There are no evaluation labels, so calibration itself could not be measured.")
    if contest.evaluation.declared:
        notes.append("Evaluation pictures are target pictures too, so what is measured on them is optimistic.")
    names = contest.data.classes.names
    return {
        "alphas": list(ALPHAS),
        "delta": DELTA,
        "held_out": {
            "points": 0 if held is None else len(held.classes),
            "pictures": 0 if held is None else len(held.picture.unique()),
        },
        "split": contest.evaluation.split if measured is not None else None,
        "notes": notes,
        "methods": {
            name: {
                "temperature": choice.temperature,
                "adjustments_tried": choice.tried,
                "pixels": None if measured is None else measured[name].before.scores().pixels,
                "before": None if measured is None else _scores(measured[name].before.scores()),
                "after": None if measured is None else _after(measured[name]),
                "ranking": None if measured is None else _rankings(measured[name]),
                "abstain": {
                    _key(alpha): _abstention(choice, alpha, None if measured is None else measured[name], names)
                    for alpha in ALPHAS
                },
            }
            for name, choice in choices.items()
        },
    }


def _key(alpha: float) -> str:
    return f"{alpha:g}"


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _after(measured: _Measured) -> dict[str, Any] | None:
    return None if measured.after is None else _scores(measured.after.scores())


def _scores(scores: CalibrationScores) -> dict[str, Any]:
    def bins(part: ReliabilityBins) -> dict[str, list[float]]:
        return {
            "share": part.share.tolist(),
            "confidence": part.confidence.tolist(),
            "accuracy": part.accuracy.tolist(),
        }

    return {
        "accuracy": scores.accuracy,
        "confidence": scores.confidence,
        "ece": scores.equal_width.error(),
        "ece_equal_mass": scores.equal_mass.error(),
        "classwise_ece": scores.classwise_ece,
        "nll": _known(scores.nll),
        "impossible": scores.impossible,
        "brier": scores.brier,
        "equal_width": bins(scores.equal_width),
        "equal_mass": bins(scores.equal_mass),
    }


def _rankings(measured: _Measured) -> dict[str, Any]:
    record = {}
    for score, histogram in measured.rankings.items():
        curve = histogram.risk_coverage()
        at = torch.linspace(1 / CURVE_POINTS, 1.0, CURVE_POINTS, dtype=torch.float64)
        place = torch.searchsorted(curve.coverage, at).clamp_max(len(curve.coverage) - 1).unique()
        record[score] = {
            "aurc": curve.aurc,
            "best_aurc": curve.best_aurc,
            "auroc": _known(curve.auroc),
            "coverage_at": {_key(alpha): curve.coverage_at(alpha) for alpha in ALPHAS},
            "curve": [[float(curve.coverage[p]), float(curve.risk[p])] for p in place.tolist()],
        }
    return record


def _abstention(choice: _Choices, alpha: float, measured: _Measured | None, names: tuple[str, ...]) -> dict[str, Any]:
    """What may be labelled at an allowed error: the threshold in use and its basis, and all there are."""
    found = {basis: choice.thresholds[alpha, basis] for basis in BASES if (alpha, basis) in choice.thresholds}
    used = next((basis for basis, threshold in found.items() if threshold.found), None)
    record: dict[str, Any] = {
        "threshold": None if used is None else _confidence(found[used].value),
        "basis": used,
        **{basis: _one_threshold(threshold, measured) for basis, threshold in found.items()},
    }
    if alpha in choice.classes:
        threshold, shown = choice.classes[alpha]
        record["classes"] = {**_one_threshold(threshold, measured), "shown_for": [names[c] for c in shown]}
        for key in ("units", "held_out_coverage", "held_out_error"):  # of the one class that decides
            del record["classes"][key]
        if measured is not None and threshold.found:
            share = measured.at[threshold.value][:, 1].double() / measured.truth.clamp_min(1).double()
            occur = [c for c in shown if int(measured.truth[c])]
            record["classes"]["worst_class_error"] = max((float(share[c]) for c in occur), default=None)
    if measured is not None and alpha in measured.sets:
        pixels = int(measured.truth.sum())
        inside, size = measured.sets[alpha]
        record["sets"] = {"coverage": inside / pixels, "mean_size": size / pixels}
    return record


def _confidence(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def _one_threshold(threshold: Threshold, measured: _Measured | None) -> dict[str, Any]:
    """A threshold with what it does at held-out points and, where measured, on the evaluation pixels."""
    record: dict[str, Any] = {
        "threshold": _confidence(threshold.value) if threshold.found else None,
        "units": threshold.tested,
        "held_out_coverage": threshold.labelled,
        "held_out_error": _known(threshold.error),
    }
    if measured is not None and threshold.found:
        labelled, wrong = measured.at[threshold.value].sum(0).tolist()
        record["coverage"] = labelled / int(measured.truth.sum())
        record["error"] = wrong / labelled if labelled else None
    return record
