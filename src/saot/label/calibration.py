"""calibration.json: whether confidences mean what they say, and what may be labelled with a guarantee.

Temperatures and thresholds come from held-out declared points; evaluation masks are read for the report alone.
`docs/calibration.md` says what is guaranteed and what is not.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from saot.certify import (
    Calibration,
    CalibrationScores,
    ReliabilityBins,
    ScoreHistogram,
    Threshold,
    class_error_threshold,
    class_limits,
    fit_logistic,
    fit_temperature,
    prediction_sets,
    selective_threshold,
)
from saot.data import write_atomic
from saot.label.held_out import METHODS, Answers, Held, Models, evaluation_answers, held_points, open_models
from saot.label.scoring import Contest
from saot.runs import Kept, Making, identity_of

ALPHAS = (0.01, 0.05, 0.1)  # errors allowed
DELTA = 0.1  # probability with which a guarantee may fail
BASES = ("pictures", "points", "pixels")  # which threshold is used: the first that exists
CURVE_POINTS = 60


def calibrate(contest: Contest, bias: Tensor | None) -> dict[str, Any]:
    """calibration.json: made once, after scoring, and kept.

    For each of METHODS: a temperature from held-out declared points; calibration on the evaluation pictures before
    and after; how well confidence, unmatched mass and both rank errors; for each of ALPHAS the threshold above which
    pixels may be labelled, what it covers and how often it errs there. Without held-out points there is neither
    temperature nor threshold, without evaluation labels no measurement, and `notes` says so.

    Args:
        contest: Sets, recipe and run folder.
        bias: The logit adjustment that the decoder was scored with, or None.
    """
    bench = contest.bench

    def make(making: Making) -> Kept:
        models = open_models(contest, bias)
        held = held_points(models)
        choices = {name: _choices(contest, held, name) for name in METHODS}
        return Kept(facts=_record(contest, held, choices, _measure(contest, models, choices)))

    identity = identity_of(contest.data, contest.evaluation, bench.recipe, bench.seed, bias)
    record = dict(bench.space.once("work/calibration", identity, make, title="calibration").facts)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_atomic(bench.space.path("calibration.json"), text.encode())
    return record


def load_calibration(path: Path) -> dict[str, Any] | None:
    """The contents of calibration.json, or None if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None


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
    record = load_calibration(Path(folder) / "calibration.json")
    if record is None:
        raise ValueError(
            f"expected {Path(folder) / 'calibration.json'} to know where to abstain; it is missing or damaged: "
            "give the same `saot run` command again"
        )
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
        self.rankings["unmatched"].update(answers.mass, wrong)
        if choices.joint is not None:
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
        scores = ("confidence", "unmatched", "both") if chosen.joint is not None else ("confidence", "unmatched")
        measured[name] = _Measured(
            Calibration(size),
            None if chosen.temperature is None else Calibration(size),
            {score: ScoreHistogram() for score in scores},
            {value: torch.zeros(size, 2, dtype=torch.int64) for value in sorted(values)},
            {alpha: [0, 0] for alpha in chosen.limits},
            torch.zeros(size, dtype=torch.int64),
        )
    for answers, truth in evaluation_answers(models):
        for name in METHODS:
            measured[name].update(name, answers, truth, choices[name])
    return measured if int(measured[METHODS[0]].truth.sum()) else None


def _record(
    contest: Contest, held: Held | None, choices: Mapping[str, _Choices], measured: Mapping[str, _Measured] | None
) -> dict[str, Any]:
    """calibration.json as plain JSON values; what is unknown is null."""
    notes = []
    if held is None:
        why = "none is declared" if len(contest.data.points.tokens) == 0 else "all were trained on"
        notes.append(f"No declared point is held out ({why}), so there is neither a temperature nor a threshold.")
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
