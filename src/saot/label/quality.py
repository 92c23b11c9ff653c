"""How good the masks are, without a mask to compare with: from declared points that a network has not learned from.

Where points are held out the run's own network is asked about those. Else the pictures with points are split in two,
and each half is asked of a network that has learned from the other half alone, with a third of the steps and no
stage 2. Such networks are a little worse than the run's, so the estimate then errs on the side of caution.
"""

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saot.certify import QualityEstimate, estimate_quality
from saot.evaluate import ConfusionMatrix, predict_mask, scores_at
from saot.label.data import Bench, TrainingData
from saot.label.networks import Trained, labelled_terms, network
from saot.runs import Kept, Making, generator_for, identity_of

FOLDS = 2
SHORTER = 3  # a fold's network has this share of the steps
LEVEL = 0.9


def estimate(bench: Bench, data: TrainingData, trained: Trained, bias: Tensor | None) -> dict[str, Any]:
    """run.json's `estimate`: mIoU and each class's IoU with an interval, or why there is none; made once.

    Args:
        bench: Where and how.
        data: The target and its declared points.
        trained: The run's network.
        bias: The logit adjustment of its masks, or None.
    """
    points = data.points.tokens
    if len(points) == 0 or points.resample:
        why = "no point is declared" if not points.resample else "points are drawn anew each step"
        return {"miou": None, "why": f"{why}, so nothing can be promised"}

    held = len(points.held()) > 0
    if not held and bench.recipe.taught.teachers == 0:
        return {"miou": None, "why": "no point is held out, and this recipe's network learns from pairs, not points"}

    def make(making: Making) -> Kept:
        predicted = _pixels(bench, data, trained, bias)
        counts = _answers(data, trained, bias) if held else _cross_fitted(bench, data)
        found = estimate_quality(counts, predicted, level=LEVEL, seed=bench.seed)
        assert found is not None, "there are points"
        return Kept(facts={"text": json.dumps(_record(found, data, "held-out" if held else "cross-fitted"))})

    identity = identity_of(data, trained, bias, bench.recipe, bench.seed)
    kept = bench.space.once("work/estimate", identity, make, title="estimate")
    return json.loads(kept.facts["text"])


def said(estimate: dict[str, Any]) -> str:
    """The estimate in one sentence.

    Example:
        >>> said({"miou": None, "why": "no point is declared, so nothing can be promised"})
        'Expected mIoU: unknown; no point is declared, so nothing can be promised.'
    """
    if estimate["miou"] is None:
        return f"Expected mIoU: unknown; {estimate['why']}."
    miou, low, high = (f"{100 * estimate[name]:.1f}" for name in ("miou", "low", "high"))
    where = f"{estimate['points']} {estimate['basis']} points on {estimate['pictures']} pictures"
    return f"Expected mIoU of the target's masks: {miou} % ({low} to {high} with {estimate['level']:.0%}), by {where}."


def _record(found: QualityEstimate, data: TrainingData, basis: str) -> dict[str, Any]:
    classes = {
        name: None if found.iou[c].isnan() else [float(v[c]) for v in (found.iou, found.iou_low, found.iou_high)]
        for c, name in enumerate(data.classes.names)
    }
    return {
        "miou": found.miou,
        "low": found.low,
        "high": found.high,
        "level": found.level,
        "classes": classes,
        "points": found.points,
        "pictures": found.pictures,
        "basis": basis,
    }


def _pixels(bench: Bench, data: TrainingData, trained: Trained, bias: Tensor | None) -> Tensor:
    """(K,) pixels of the target pictures by predicted class."""
    target, total = data.target, torch.zeros(data.num_classes, dtype=torch.float64)
    for number in range(len(target)):
        mask = predict_mask(target.logits(trained.decoder, number).cpu(), target.grid(number), bias)
        total += torch.bincount(mask.flatten().long(), minlength=data.num_classes)[: data.num_classes].double()
        bench.space.tell("estimate")(number + 1, len(target))
    return total


def _answers(data: TrainingData, trained: Trained, bias: Tensor | None) -> Tensor:
    """(pictures, K, K) held-out points by (class, prediction), at their own pixels."""
    counts = []
    for number in data.points.tokens.held().picture.unique().tolist():
        x, y, labels = data.points.pixels.of(data.target.images.keys[number])
        logits = data.target.logits(trained.decoder, number).cpu()
        scores = scores_at(logits, data.target.grid(number), y, x)
        said = (scores if bias is None else scores + bias).argmax(-1)
        matrix = ConfusionMatrix(data.num_classes)
        matrix.update(said, labels.long())
        counts.append(matrix.counts)
    return torch.stack(counts)


def _cross_fitted(bench: Bench, data: TrainingData) -> Tensor:
    """(pictures, K, K) all points by (class, prediction), each said by a network that has not seen its picture's."""
    points, recipe = data.points.tokens, bench.recipe.decoder
    pictures = points.picture.unique()
    order = pictures[torch.randperm(len(pictures), generator=generator_for(bench.seed, "folds"))]
    short = replace(recipe, steps=max(1, recipe.steps // SHORTER))
    counts = []
    for fold in range(FOLDS):
        mine = order[fold::FOLDS]
        if len(mine) == 0:
            continue
        tokens = replace(points, held_out=torch.isin(points.picture, mine))
        part = replace(data, points=replace(data.points, tokens=tokens))
        terms = labelled_terms(bench, part, short)
        trained = network(bench, part, terms, None, name=f"fold-{fold}", decoder=short)
        counts.append(_answers(part, trained, None))
    return torch.cat(counts)
