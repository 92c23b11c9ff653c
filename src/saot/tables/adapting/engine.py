"""Tables of T2S-DA: every run behind them, done once and gone on with after a stop, then counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from saot.adapt import (
    AdaptSettings,
    recipe_differences,
    run_adaptation,
    separation_figure,
    similarity_figure,
)
from saot.data import ClassSet
from saot.evaluate import iou_from_counts, mean_over
from saot.label import RunSettings
from saot.report import figure_png
from saot.runs import load_tensors
from saot.tables.adapting.model import PAPERS, AdaptColumn, AdaptExperiment, AdaptRow, AdaptTableRequest
from saot.tables.bootstrap import PairedDifference, paired_bootstrap
from saot.tables.output import check_folder, write_table
from saot.tables.pieces import Progress, classes_of, score
from saot.tables.results import ResultRow, SettingDifference, TableResult, cell_of
from saot.tables.runs import run_name

SOURCE = {"source_miou", "source_iou"}


@dataclass(frozen=True)
class Trained:
    """What one run left.

    Attributes:
        counts: (N, K, K) of the evaluation pictures.
        source_counts: The same of held-out source pictures, or None.
        features: Measure -> class -> value, or empty.
        minutes: Of training.
    """

    counts: Tensor
    source_counts: Tensor | None
    features: Mapping[str, Mapping[str, float | None]]
    minutes: float | None


def adapt_table(
    experiment: AdaptExperiment,
    request: AdaptTableRequest,
    out: Path,
    *,
    runs: Path | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
) -> TableResult:
    """The table on the data at hand; the same call again goes on where it stopped.

    Raises:
        ValueError: If an input is not as it should be; what is made so far is kept.
    """
    check_folder(out, experiment.name)
    classes = classes_of(request.source)
    experiment = with_class_columns(experiment, classes)
    folder = runs or out / "runs"
    wanted = [(row, seed) for seed in request.seeds for row in experiment.rows]
    made: dict[tuple[str, int], Trained] = {}
    names: dict[str, Any] = {}
    for number, (row, seed) in enumerate(wanted):
        settings = request.settings(row, seed, experiment.main)
        if settings is None:
            continue
        told = telling(progress, f"run {number + 1}/{len(wanted)}")
        made[row.label, seed] = _run(settings, row, folder, store, request.device, told)
        names[run_name(settings)] = settings.to_dict()
    rows = tuple(_result_row(experiment, row, request, made, classes) for row in experiment.rows)
    images = max((len(one.counts) for one in made.values()), default=0)
    left_out = [
        row.label for row in experiment.rows if not row.quoted and request.settings(row, 0, experiment.main) is None
    ]
    notes = list(experiment.notes)
    if left_out:
        notes.append(f"Not run with these counts, which have one network: {', '.join(left_out)}. Use --counts paper.")
    result = TableResult(
        name=experiment.name,
        title=experiment.title,
        location=experiment.location,
        columns=tuple((column.key, column.title) for column in experiment.columns),
        rows=rows,
        reference=experiment.reference,
        images=images,
        notes=tuple(notes),
        differences=_differences(experiment, request),
        request=request.to_dict(),
        runs=names,
        figures=_figures(experiment, request, made, classes) if experiment.figure else {},
    )
    write_table(out, result)
    return result


def with_class_columns(experiment: AdaptExperiment, classes: ClassSet) -> AdaptExperiment:
    """The table with a column for every class before the others, where it asks for them."""
    if experiment.classes == "none":
        return experiment
    where = "iou" if experiment.classes == "target" else "source_iou"
    every = tuple(AdaptColumn(f"{where}:{name}", name, where, name) for name in classes.names)  # type: ignore[arg-type]
    return replace(experiment, columns=(*experiment.columns, *every))


def telling(progress: Progress | None, prefix: str) -> Progress | None:
    """The callback with the run's number before every stage."""
    return None if progress is None else lambda stage, done, total: progress(f"{prefix}: {stage}", done, total)


def _run(
    settings: AdaptSettings | RunSettings,
    row: AdaptRow,
    folder: Path,
    store: Path | None,
    device: str,
    progress: Progress | None,
) -> Trained:
    place = folder / run_name(settings)
    if isinstance(settings, RunSettings):
        assert row.frozen is not None  # only such rows have settings of a frozen run
        kept = (store or folder / "features") / f"{settings.backbone}-{settings.size or 'default'}"
        outcome = score(settings, place, [row.frozen], kept, device, progress)
        return Trained(outcome.methods[row.frozen].counts, None, {}, None)
    outcome = run_adaptation(settings, place, device=device, progress=progress)
    counts = load_tensors(place / "work" / "scores" / "eval.safetensors")
    source = load_tensors(place / "work" / "scores" / "source.safetensors")
    if counts is None:
        raise ValueError(f"expected the counts of a finished run in {place}; they are missing: remove the folder")
    seconds = outcome.run["stages"].get("train", {}).get("seconds")
    return Trained(
        counts["counts"],
        None if source is None else source["counts"],
        outcome.metrics.get("features", {}),
        None if seconds is None else seconds / 60,
    )


def _result_row(
    experiment: AdaptExperiment,
    row: AdaptRow,
    request: AdaptTableRequest,
    made: Mapping[tuple[str, int], Trained],
    classes: ClassSet,
) -> ResultRow:
    cells = {}
    for column in experiment.columns:
        paper = row.paper.get(column.key)
        found = [made[row.label, seed] for seed in request.seeds if (row.label, seed) in made]
        values = [value_of(column, one, classes) for one in found]
        digits = 3 if column.quantity in ("ccd", "pdd", "similarity") else 1
        cells[column.key] = cell_of(paper, values, digits, _difference(experiment, row, column, request, made, classes))
    return ResultRow(row.label, cells, row.quoted, row.section)


def value_of(column: AdaptColumn, run: Trained, classes: ClassSet) -> float | None:
    """What stands in a cell, for one seed; None where there is nothing to say."""
    if column.quantity == "minutes":
        return run.minutes
    if column.quantity in ("ccd", "pdd", "similarity"):
        known = [value for value in run.features.get(column.quantity, {}).values() if value is not None]
        return fmean(known) if known else None
    counts = run.source_counts if column.quantity in SOURCE else run.counts
    if counts is None:
        return None
    iou = 100 * iou_from_counts(counts.sum(0))
    if column.of is not None:
        value = iou[classes.names.index(column.of)] if column.of in classes.names else torch.tensor(torch.nan)
    elif column.quantity in ("miou", "source_miou"):
        value = mean_over(iou, classes.scored)
    elif column.quantity in classes.subsets:
        value = mean_over(iou, classes.subsets[column.quantity])
    else:
        return None
    return None if bool(value.isnan()) else float(value)


def _difference(
    experiment: AdaptExperiment,
    row: AdaptRow,
    column: AdaptColumn,
    request: AdaptTableRequest,
    made: Mapping[tuple[str, int], Trained],
    classes: ClassSet,
) -> PairedDifference | None:
    """mIoU against the reference row, points; the counts of all seeds are added picture by picture."""
    if column.quantity not in ("miou", "source_miou") or experiment.reference in (None, row.label):
        return None

    def counts(label: str | None) -> Tensor | None:
        parts = []
        for seed in request.seeds:
            run = made.get((str(label), seed))
            part = None if run is None else run.source_counts if column.quantity in SOURCE else run.counts
            if part is None:
                return None
            parts.append(part)
        return torch.stack(parts).sum(0)

    mine, theirs = counts(row.label), counts(experiment.reference)
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return None
    found = paired_bootstrap(mine, theirs, classes=classes.scored)
    return PairedDifference(100 * found.difference, 100 * found.low, 100 * found.high, found.probability)


def _figures(
    experiment: AdaptExperiment,
    request: AdaptTableRequest,
    made: Mapping[tuple[str, int], Trained],
    classes: ClassSet,
) -> dict[str, bytes]:
    """Distances and similarities class by class, means over seeds."""

    def mean(label: str, measure: str) -> list[float | None]:
        runs = [made[label, seed] for seed in request.seeds if (label, seed) in made]
        found: list[float | None] = []
        for name in classes.names:
            if measure == "iou":
                values = [value_of(AdaptColumn("", "", "iou", name), run, classes) for run in runs]
            else:
                values = [run.features.get(measure, {}).get(name) for run in runs]
            known = [value for value in values if value is not None]
            found.append(fmean(known) if known else None)
        return found

    labels = [row.label for row in experiment.rows if (row.label, request.seeds[0]) in made and row.frozen is None]
    if not labels:
        return {}

    def all_of(measure: str) -> dict[str, Sequence[float | None]]:
        return {label: mean(label, measure) for label in labels}

    iou = {label: [None if v is None else v / 100 for v in values] for label, values in all_of("iou").items()}
    return {
        "distances.png": figure_png(separation_figure(classes.names, all_of("ccd"), all_of("pdd"))),
        "similarity.png": figure_png(similarity_figure(classes.names, all_of("similarity"), iou)),
    }


def _differences(experiment: AdaptExperiment, request: AdaptTableRequest) -> tuple[SettingDifference, ...]:
    """Where the whole table departs from the paper: data, seeds, then every field of the recipe."""
    found = [
        SettingDifference("data", experiment.data, f"{request.source}, {request.target}, {request.eval}", "as asked"),
        SettingDifference("seeds", "3", f"{len(request.seeds)} ({', '.join(map(str, request.seeds))})", "as asked"),
    ]
    recipe = request.recipe(AdaptRow("", "t2s-da", network=experiment.main), experiment.main)
    assert recipe is not None  # the main network's recipe is always there
    found += [SettingDifference(**vars(d)) for d in recipe_differences(recipe, PAPERS[experiment.main])]
    return tuple(found)
