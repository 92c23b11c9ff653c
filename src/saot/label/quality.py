"""How good the masks are, without a mask to compare with: from declared points that a network has not learned from.

Where points are held out the run's own network is asked about those. Else the pictures with points are split in two,
and each half is asked of a network that has learned from the other half alone, with a third of the steps and no
stage 2. Such networks err more than the run's, by ten points of mIoU and more across a large shift, and the run's own
errs less on points that it has learned; the .632+ rule stands between (`saot.certify.between`). A run that goes on from
another (`saot.label.start`) asks that one's network about the points that are new, in place of the halves.

Either way it speaks of pictures that nobody clicked in: those with points trained the network, and are labelled better.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saot.certify import QualityEstimate, between, estimate_quality
from saot.data import Points
from saot.evaluate import ConfusionMatrix, predict_mask
from saot.label.best import joint_decoder
from saot.label.data import Bench, TrainingData
from saot.label.networks import Trained, labelled_terms, network
from saot.label.scoring import UNADJUSTED, decided, logits_at_points
from saot.runs import Kept, Making, generator_for, identity_of, side_by_side

FOLDS = 2
SHORTER = 3  # a fold's network has this share of the steps
LEVEL = 0.9


def estimate(
    bench: Bench,
    data: TrainingData,
    trained: Trained,
    bias: Tensor | None,
    before: tuple[Trained, Points] | None = None,
) -> dict[str, Any]:
    """run.json's `estimate`: mIoU and each class's IoU with an interval, or why there is none; made once.

    Args:
        bench: Where and how.
        data: The target and its declared points.
        trained: The run's network.
        bias: The logit adjustment of its masks, or None.
        before: The network it goes on from, and the points that this one has not learned from.
    """
    points = data.points.tokens
    if before is not None and not before[1]:
        return {"miou": None, "why": "no point is new since the run it goes on from, so nothing can be promised"}
    if len(points) == 0 or points.resample:
        why = "no point is declared" if not points.resample else "points are drawn anew each step"
        return {"miou": None, "why": f"{why}, so nothing can be promised"}
    held = len(points.held()) > 0
    if not held and bench.recipe.taught.teachers == 0:
        return {"miou": None, "why": "no point is held out, and this recipe's network learns from pairs, not points"}

    def make(making: Making) -> Kept:
        predicted = _pixels(bench, data, trained, bias)
        if held:
            asked = {"counts": _answers(data, points.held().picture.unique().tolist(), trained, bias)}
            counts = asked["counts"]
        else:
            asked = (
                _cross_fitted(bench, data, trained, bias)
                if before is None
                else _new(bench, data, trained, bias, *before)
            )
            counts = between(**asked)
        found = estimate_quality(counts, predicted, level=LEVEL, seed=bench.seed)
        assert found is not None, "there are points"
        facts = _record(found, data, "held-out" if held else "cross-fitted" if before is None else "new")
        return Kept({**asked, "pixels": predicted}, facts)

    identity = identity_of(data, trained, bias, bench.recipe, bench.seed, *(before or ()))
    return dict(bench.space.once("work/estimate", identity, make, title="estimate").facts)


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
    interval = f"{low} to {high}, {100 * estimate['level']:.0f} % interval"
    return f"Expected mIoU on target pictures without points: {miou} % ({interval}), by {where}."


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
        total += torch.bincount(mask.flatten().long(), minlength=data.num_classes).double()
        bench.space.tell("estimate")(number + 1, len(target))
    return total


def _answers(data: TrainingData, pictures: Sequence[int], trained: Trained, bias: Tensor | None) -> Tensor:
    """(pictures, K, K) points of these pictures by (class, prediction), at their own pixels."""
    counts = []
    for number in pictures:
        logits, classes = logits_at_points(data, trained.decoder, number)
        matrix = ConfusionMatrix(data.num_classes)
        matrix.update((logits if bias is None else logits + bias).argmax(-1), classes)
        counts.append(matrix.counts)
    return torch.stack(counts)


def _new(
    bench: Bench, data: TrainingData, trained: Trained, bias: Tensor | None, earlier: Trained, new: Points
) -> dict[str, Tensor]:
    """The points that an earlier network has not learned from, as it and the present one say them."""
    part, index = replace(data, points=replace(data.points, pixels=new)), data.target.images.keys.index
    pictures = [index(key) for key in dict.fromkeys(new.keys)]
    adjusted = decided(bench, data, earlier.decoder, UNADJUSTED).bias
    return {"cross": _answers(part, pictures, earlier, adjusted), "own": _answers(part, pictures, trained, bias)}


def _cross_fitted(bench: Bench, data: TrainingData, trained: Trained, bias: Tensor | None) -> dict[str, Tensor]:
    """All points as networks say them that have not seen their picture's, and as the run's own says them."""
    points, recipe = data.points.tokens, bench.recipe.decoder
    pictures = points.picture.unique()
    fold = torch.randperm(len(pictures), generator=generator_for(bench.seed, "folds")) % FOLDS
    short = replace(recipe, steps=max(1, recipe.steps // SHORTER))

    def answers(number: int) -> Tensor:
        tokens = replace(points, held_out=torch.isin(points.picture, pictures[fold == number]))
        part = replace(data, points=replace(data.points, tokens=tokens))
        if data.tail is not None:
            trained = joint_decoder(bench, part, refined=False, shorter=SHORTER)
        else:
            terms = labelled_terms(bench, part, short)
            trained = network(bench, part, terms, None, name=f"fold-{number}", decoder=short)
        adjusted = decided(bench, part, trained.decoder, UNADJUSTED).bias
        return _answers(part, tokens.held().picture.unique().tolist(), trained, adjusted)

    own = _answers(data, pictures.tolist(), trained, bias)
    counts = torch.zeros(len(pictures), data.num_classes, data.num_classes, dtype=torch.int64)
    numbers = fold.unique().tolist()
    for number, found in zip(numbers, side_by_side([partial(answers, n) for n in numbers], bench.device), strict=True):
        counts[fold == number] = found
    return {"cross": counts, "own": own}
