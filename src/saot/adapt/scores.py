"""What a finished `saot adapt` is worth: scores on target and source, how well its features separate classes."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from saot.adapt.figures import separation_figure, similarity_figure, tsne_figure
from saot.adapt.inputs import Adaptation
from saot.adapt.predict import last_features, predict_mask
from saot.adapt.recipe import PicturesRecipe
from saot.adapt.separation import (
    ClassMoments,
    ClassSample,
    PixelDiscrimination,
    center_similarity,
    class_center_distance,
)
from saot.data import LabelledSet, write_atomic
from saot.evaluate import method_entry, method_named, picture_counts
from saot.label import confusion_of, spread_pictures, thinned
from saot.recipes import RecipeDifference
from saot.report import Figure, Panel, ReportData, Table, figure_png, write_report
from saot.runs import Kept, Making, generator_for, identity_of, load_tensors

SAMPLED = 256  # cells of each class and domain in the t-SNE picture, as in the paper
MEASURED = 500  # pictures of each domain that the feature measures look at, at most: Cityscapes has as many
LOSSES = ("source", "target", "pull", "feature_distance", "sure")


@dataclass(frozen=True)
class AdaptationScores:
    """What scoring left behind.

    Attributes:
        counts: (N, K, K) of each evaluation picture, rows truth; None without evaluation labels.
        edges: The same of the pixels near an edge of the truth alone.
        source_counts: As `counts`, of held-out source pictures; None where none are given.
        source_edges: As `edges`, of those.
        masks: Predicted masks of the pictures the report shows, by number.
        measures: Of the features, as plain JSON values; empty without evaluation labels.
    """

    counts: Int64[Tensor, "N K K"] | None
    edges: Int64[Tensor, "N K K"] | None
    source_counts: Int64[Tensor, "M K K"] | None
    source_edges: Int64[Tensor, "M K K"] | None
    masks: dict[int, Tensor]
    measures: dict[str, Any]


def score_adaptation(job: Adaptation) -> AdaptationScores:
    """Scores and measures; what is on disk is read, not made again."""
    truth, source, sizes = job.inputs.truth, job.inputs.source_truth, job.recipe.pictures
    shown = [] if truth is None else spread_pictures(len(truth))
    target = {} if truth is None else _scored(job, "eval", truth, shown, sizes)
    own = {} if source is None else _scored(job, "source", source, [], sizes.of_source())
    masks = {int(key.removeprefix("mask-")): value for key, value in target.items() if key.startswith("mask-")}
    return AdaptationScores(
        target.get("counts"), target.get("edges"), own.get("counts"), own.get("edges"), masks, feature_measures(job)
    )


def _scored(
    job: Adaptation, name: str, data: LabelledSet, shown: list[int], sizes: PicturesRecipe
) -> Mapping[str, Tensor]:
    """`counts` and `edges` of each picture, and the masks that are shown."""

    def make(making: Making) -> Kept:
        masks, counts, edges = {}, [], []
        with job.space.stage(f"score {name}", resumes=False):
            for number in range(len(data)):
                mask = predict_mask(job.network, data.image(number), sizes)
                whole, near = picture_counts(mask, data.mask(number), len(job.inputs.classes.names))
                counts.append(whole)
                edges.append(near)
                if number in shown:
                    masks[f"mask-{number:06d}"] = mask
                job.space.tell(f"score {name}")(number + 1, len(data))
        return Kept({**masks, "counts": torch.stack(counts), "edges": torch.stack(edges)})

    return job.space.once(f"work/scores/{name}", identity_of(_identity(job), "edges"), make).tensors


def feature_measures(job: Adaptation) -> dict[str, Any]:
    """Class centre distance, pixel-wise discrimination distance and similarity across domains, Eqs. (14), (15), Fig. 2.

    Of the encoder's last stage on evaluation pictures; the source's side are held-out source pictures where given,
    else training ones. The evaluation's labels are used to measure alone.
    """
    truth = job.inputs.truth
    if truth is None:
        return {}

    def make(making: Making) -> Kept:
        with job.space.stage("measures", resumes=False):
            target, discrimination, sample = _measured(job, truth, "target")
            source, _, source_sample = _measured(job, job.inputs.source_truth or job.inputs.source, "source")
            similarity = center_similarity(source, target)
        measures = {
            "ccd": _plain(class_center_distance(target)),
            "pdd": _plain(discrimination),
            "similarity": _plain(similarity),
        }
        tensors = {
            "target_features": sample.features.float(),
            "target_labels": sample.labels,
            "source_features": source_sample.features.float(),
            "source_labels": source_sample.labels,
        }
        return Kept(tensors, measures)

    return dict(job.space.once("work/scores/sample", _identity(job), make).facts)


def _identity(job: Adaptation) -> str:
    """A name for what was asked and what it was asked of."""
    return identity_of(job.settings.to_dict(), job.space.facts("data"))


def _measured(job: Adaptation, data: LabelledSet, name: str) -> tuple[ClassMoments, Tensor, ClassSample]:
    """Moments in a first pass, discrimination in a second, and a sample for t-SNE."""
    classes = len(job.inputs.classes.names)
    sizes = job.recipe.pictures if name == "target" else job.recipe.pictures.of_source()
    numbers = np.unique(np.linspace(0, len(data) - 1, min(MEASURED, len(data))).round().astype(int)).tolist()

    def features(what: str) -> Iterator[tuple[Tensor, Tensor]]:
        for done, number in enumerate(numbers):
            yield last_features(job.network, data.image(number), data.mask(number), sizes)
            job.space.tell(f"{name} {what}")(done + 1, len(numbers))

    sample = ClassSample(classes, generator_for(job.settings.seed, "t-sne", name), SAMPLED)
    moments: ClassMoments | None = None
    for part, labels in features("features"):
        moments = moments or ClassMoments(classes, part.shape[1])
        moments.update(part, labels)
        sample.update(part, labels)
    assert moments is not None  # sets are not empty
    second = PixelDiscrimination(moments.centers)
    if name == "target":
        for part, labels in features("discrimination"):
            second.update(part, labels)
    return moments, second.values, sample


def _plain(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def write_adaptation_metrics(job: Adaptation, scores: AdaptationScores) -> dict[str, Any]:
    """metrics.json: the contract's table, and beside it the source domain's and the feature measures."""
    classes, name = job.inputs.classes, job.settings.method

    def entry(*counts: Tensor | None) -> dict[str, Any]:
        whole, edges = (None if one is None else confusion_of(one.sum(0)) for one in counts)
        return method_entry(whole, classes, 0, edges)

    metrics: dict[str, Any] = {
        "classes": list(classes.names),
        "split": job.settings.eval,
        "images": 0 if scores.counts is None else len(scores.counts),
        "methods": {name: entry(scores.counts, scores.edges)},
    }
    if scores.source_counts is not None:
        metrics["source_domain"] = {
            "split": job.settings.source_eval,
            "images": len(scores.source_counts),
            "methods": {name: entry(scores.source_counts, scores.source_edges)},
        }
    if scores.measures:
        metrics["features"] = {
            measure: dict(zip(classes.names, values, strict=True)) for measure, values in scores.measures.items()
        }
    write_atomic(job.space.path("metrics.json"), (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


def adaptation_report(job: Adaptation, run: dict[str, Any], metrics: dict[str, Any], scores: AdaptationScores) -> None:
    """report.html."""
    name = job.settings.method
    counts = scores.counts
    data = ReportData(
        title=f"{method_named(name).title}: {job.settings.source} to {job.settings.target or 'unseen domains'}",
        run=run,
        metrics=metrics,
        classes=job.inputs.classes,
        differences=tuple(RecipeDifference(**d) for d in run["differences_from_paper"]),
        panels=tuple(_panel(job, number, mask, scores) for number, mask in sorted(scores.masks.items())),
        confusions={} if counts is None else {name: counts.sum(0)},
        curves=_curves(job),
        notes=tuple(run["notes"]),
        figures=_figures(job, metrics, scores),
        tables=_tables(job, metrics),
        folder=str(job.space.root),
    )
    write_report(job.space.path("report.html"), data)


def _panel(job: Adaptation, number: int, mask: Tensor, scores: AdaptationScores) -> Panel:
    truth = job.inputs.truth
    assert truth is not None and scores.counts is not None  # masks are shown of scored pictures
    value = confusion_of(scores.counts[number]).mean_iou()
    name = job.settings.method
    return Panel(
        truth.keys[number],
        truth.image(number),
        truth.mask(number),
        {name: mask.numpy()},
        {name: None if value != value else value},
    )


def _curves(job: Adaptation) -> dict[str, list[tuple[float, float]]]:
    path = job.space.logs().get("adapt")
    if path is None:
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    found = {}
    for loss in LOSSES:
        values = [(record["step"], record[loss]) for record in records if loss in record]
        if values:
            found[f"training: {loss.replace('_', ' ')}"] = thinned(values)
    return found


def _figures(job: Adaptation, metrics: dict[str, Any], scores: AdaptationScores) -> tuple[Figure, ...]:
    """t-SNE of both domains, distances a class, similarity against IoU."""
    sample = load_tensors(job.space.work("scores", "sample.safetensors"))
    if sample is None or not scores.measures:
        return ()
    classes, title = job.inputs.classes, method_named(job.settings.method).title
    iou = list(metrics["methods"][job.settings.method]["iou"].values())
    drawn = [
        (
            "Features of both domains",
            "Cells of the encoder's last stage, at most 256 a class and domain, laid out by t-SNE. Where rings lie "
            "among dots of their colour, the target's features have come to the source's.",
            tsne_figure(
                sample["source_features"], sample["source_labels"], sample["target_features"],
                sample["target_labels"], classes, job.settings.seed,
            ),
        ),
        (
            "How well features separate classes",
            "Class centre distance and pixel-wise discrimination distance on the evaluation pictures; lower is better.",
            separation_figure(classes.names, {title: scores.measures["ccd"]}, {title: scores.measures["pdd"]}),
        ),
        (
            "Similarity across domains and IoU",
            "Cosine between a class's mean feature in the source and in the target, against its IoU.",
            similarity_figure(classes.names, {title: scores.measures["similarity"]}, {title: iou}),
        ),
    ]  # fmt: skip
    return tuple(Figure(heading, text, figure_png(figure)) for heading, text, figure in drawn)


def _tables(job: Adaptation, metrics: dict[str, Any]) -> tuple[Table, ...]:
    """Per class: IoU on target and source, and the measures."""
    if metrics["methods"][job.settings.method]["miou"] is None:
        return ()
    target = metrics["methods"][job.settings.method]["iou"]
    source = metrics.get("source_domain", {}).get("methods", {}).get(job.settings.method, {}).get("iou", {})
    features = metrics.get("features", {})

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    rows = tuple(
        (
            name,
            percent(target.get(name)),
            percent(source.get(name)),
            *(number(features.get(measure, {}).get(name)) for measure in ("similarity", "ccd", "pdd")),
        )
        for name in metrics["classes"]
    )
    columns = ("class", "IoU % target", "IoU % source", "similarity", "CCD", "PDD")
    return (Table("Class by class", "Source: held-out source pictures, where given.", columns, rows),)
