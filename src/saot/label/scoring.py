"""Scoring every method on the evaluation pictures: counts for the table, masks for the report."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from saot.data import write_atomic
from saot.evaluate import ConfusionMatrix, method_entry, predict_mask
from saot.label.job import Job
from saot.label.rivals import Scorer, method_builders
from saot.runs import load_tensors, save_tensors

PANELS = 6


@dataclass(frozen=True)
class MethodScores:
    """What scoring one method left behind.

    Attributes:
        counts: (K, K) of the whole set, rows truth; None without evaluation labels.
        masks: Predicted masks of the pictures the report shows, by picture number.
        shown: The counts of these pictures, by picture number.
        budget: Target labels the method has seen.
    """

    counts: Int64[Tensor, "K K"] | None
    masks: dict[int, UInt8[Tensor, "..."]]
    shown: dict[int, Int64[Tensor, "..."]]
    budget: int


def panel_pictures(job: Job) -> list[int]:
    """The pictures the report shows, spread over the evaluation set."""
    return spread_pictures(len(job.test))


def spread_pictures(total: int) -> list[int]:
    """At most `PANELS` numbers below `total`, evenly spread.

    Example:
        >>> spread_pictures(3), spread_pictures(12)
        ([0, 1, 2], [0, 2, 4, 6, 8, 10])
    """
    count = min(PANELS, total)
    return [round((k + 0.5) * total / count - 0.5) for k in range(count)]


def score_methods(job: Job) -> dict[str, MethodScores]:
    """Scores of every method; those already on disk are read, not made again."""
    results = {}
    for name, build in method_builders(job).items():
        try:
            results[name] = _unpack(score_method(job, name, build))
        except ValueError as error:
            if name != "oracle":
                raise
            job.space.set_facts("oracle", {"left_out": str(error)})  # a bad target mask costs this row alone
    return results


def score_method(job: Job, name: str, build: Callable[[], Scorer]) -> dict[str, Tensor]:
    """What scoring one method leaves behind, from disk or made: `budget`; with evaluation labels `counts` (N, K, K).

    Also the masks of the pictures the report shows (`mask-NNNNNN`) and the logit adjustment (`bias`), if any.
    """
    path = job.space.work("scores", f"{name}.safetensors")
    kept = load_tensors(path)
    if kept is None:
        kept = _score(job, name, build)
        save_tensors(path, kept)
    return kept


def _score(job: Job, name: str, build: Callable[[], Scorer]) -> dict[str, Tensor]:
    scorer = build()
    shown, counts, kept = set(panel_pictures(job)), [], {"budget": torch.tensor(scorer.budget)}
    with job.space.stage(f"score {name}", resumes=False):
        for number in range(len(job.test)):
            if job.truth is None and number not in shown:
                continue
            mask = predict_mask(scorer.score(number).cpu(), job.test.grid(number), scorer.bias)
            if job.truth is not None:
                matrix = ConfusionMatrix(job.num_classes)
                matrix.update(mask, torch.from_numpy(job.truth.mask(number)))
                counts.append(matrix.counts)
            if number in shown:
                kept[f"mask-{number:06d}"] = mask
            job.space.tell(f"score {name}")(number + 1, len(job.test))
    if counts:
        kept["counts"] = torch.stack(counts)
    if scorer.bias is not None:
        kept["bias"] = scorer.bias
    return kept


def _unpack(kept: dict[str, Tensor]) -> MethodScores:
    masks = {int(name.removeprefix("mask-")): mask for name, mask in kept.items() if name.startswith("mask-")}
    if "counts" not in kept:
        return MethodScores(None, masks, {}, int(kept["budget"]))
    shown = {number: kept["counts"][number].clone() for number in masks}
    return MethodScores(kept["counts"].sum(0), masks, shown, int(kept["budget"]))


def confusion_of(counts: Tensor) -> ConfusionMatrix:
    """The confusion matrix of these counts."""
    return ConfusionMatrix.from_list(counts.tolist())


def write_metrics(job: Job, scores: dict[str, MethodScores]) -> dict:
    """metrics.json: the contract's table, without times, so that an interrupted run ends with the same bytes."""
    methods = {}
    for name, result in scores.items():
        matrix = None if result.counts is None else confusion_of(result.counts)
        methods[name] = method_entry(matrix, job.classes, result.budget)
    metrics = {
        "classes": list(job.classes.names),
        "split": job.settings.eval,
        "images": len(job.test) if job.truth is not None else 0,
        "methods": methods,
    }
    write_atomic(job.space.path("metrics.json"), (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics
