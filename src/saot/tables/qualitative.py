"""Figures 3 to 5 and 7 to 10: pictures, their truth and the masks of several methods."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from saot.data import ClassSet, LabelledSet
from saot.evaluate import iou_from_counts, mean_over
from saot.report import figure_png, overlay, shrink, shrink_mask
from saot.tables.model import Experiment, PictureGrid
from saot.tables.pieces import Scored, predicted_masks
from saot.tables.plan import Arm
from saot.tables.request import Request, settings_for
from saot.tables.results import Cell, ResultRow, TableResult, cell_of
from saot.tables.runs import Runs
from saot.tables.wings import ALL_WINGS

SPREAD = 20  # pictures that figures 4, 8 and 9 (5 and 10) share between them
SHOWN_WIDTH = 420  # pixels of a picture
DIMMED = 0.35  # brightness of what is not the highlighted class


@dataclass(frozen=True)
class Shown:
    """One line of the figure: a picture, and the class that is highlighted on it, if any."""

    picture: int
    class_name: str | None


def spread_pictures(total: int, grid: PictureGrid) -> list[int]:
    """Pictures spread evenly over an evaluation set; figures with different `skip` share none while there are enough.

    Example:
        >>> spread_pictures(500, PictureGrid((), pictures=4)), spread_pictures(2, PictureGrid((), pictures=4, skip=8))
        ([12, 37, 62, 87], [0, 1])
    """
    count = min(SPREAD, total)
    places = [round((k + 0.5) * total / count - 0.5) for k in range(count)]
    return places[grid.skip : grid.skip + grid.pictures] or places[: grid.pictures]


def best_picture(counts: Tensor, index: int) -> int:
    """The picture on which class `index` has the highest IoU, the first of equals; 0 where it never occurs.

    Args:
        counts: (N, K, K) confusion counts of each picture, rows truth.
        index: The class.
    """
    iou = iou_from_counts(counts)[:, index]
    return int(torch.where(iou.isnan(), -1.0, iou).argmax())


def picture_table(experiment: Experiment, request: Request, made: Runs, classes: ClassSet) -> TableResult:
    """The figure as figure.png, and the IoU on each of its pictures as a table."""
    from saot.tables.engine import table_of

    grid = experiment.grid
    assert grid is not None, "a qualitative figure has a grid"
    methods = [method for method, _ in grid.methods]
    settings = settings_for(request, experiment, {}, request.seeds[0])
    arms = [Arm(settings, method, "miou", None) for method in methods]
    made.make(arms)
    run = made.of(arms[0])
    assert run.outcome is not None, "methods were asked for"
    chosen = _chosen(grid, run.outcome, classes)
    numbers = sorted({shown.picture for shown in chosen})
    masks = predicted_masks(settings, run.folder, methods, numbers, made.store_of(settings), made.device)
    truth = ALL_WINGS.labelled(request.eval, classes)
    rows = _absent(experiment, chosen)
    for shown in chosen:
        values = {method: _score(run.outcome, method, shown, classes) for method in methods}
        paper = next((row.paper for row in experiment.rows if row.label == shown.class_name), {})
        label = truth.keys[shown.picture] if shown.class_name is None else shown.class_name
        rows.append(ResultRow(label, {m: cell_of(paper.get(m), [values[m]], 1) for m in methods}))
    figure = _figure(grid, chosen, truth, masks, run.outcome, classes)
    shown_keys = ", ".join(truth.keys[shown.picture] for shown in chosen)
    notes = [f"Pictures, top to bottom: {shown_keys}. Only the first seed is shown."]
    return table_of(experiment, request, made, rows, notes, {"figure.png": figure_png(figure, 110)})


def _absent(experiment: Experiment, chosen: Sequence[Shown]) -> list[ResultRow]:
    """Rows of classes that the data does not have: the paper's numbers alone."""
    there = {shown.class_name for shown in chosen}
    return [
        ResultRow(row.label, {column.key: Cell(row.paper.get(column.key)) for column in experiment.columns})
        for row in experiment.rows
        if row.label not in there
    ]


def _chosen(grid: PictureGrid, outcome: Scored, classes: ClassSet) -> list[Shown]:
    counts = outcome.methods[grid.methods[-1][0]].counts
    if not grid.classes:
        return [Shown(number, None) for number in spread_pictures(len(counts), grid)]
    there = [name for name in grid.classes if name in classes.names]
    return [Shown(best_picture(counts, classes.names.index(name)), name) for name in there]


def _score(outcome: Scored, method: str, shown: Shown, classes: ClassSet) -> float | None:
    """IoU of the class, or mIoU, on one picture, %; None where the class is not in it."""
    iou = iou_from_counts(outcome.methods[method].counts[shown.picture])
    value = mean_over(iou) if shown.class_name is None else iou[classes.names.index(shown.class_name)]
    return None if bool(value.isnan()) else 100 * float(value)


def _painted(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], shown: Shown, classes: ClassSet
) -> UInt8[np.ndarray, "h w 3"]:
    """A mask over its picture; with a highlighted class, that class in its colour over the dimmed picture."""
    if shown.class_name is None:
        return overlay(image, mask, classes.colors)
    index = classes.names.index(shown.class_name)
    dimmed = (image * DIMMED).astype(np.uint8)
    return np.where((mask == index)[..., None], np.array(classes.colors[index], np.uint8), dimmed)


def _figure(
    grid: PictureGrid,
    chosen: Sequence[Shown],
    truth: LabelledSet,
    masks: dict[str, dict[int, Tensor]],
    outcome: Scored,
    classes: ClassSet,
) -> Figure:
    """Picture, truth and methods from left to right, a line a picture; the score stands over each mask."""
    columns = 2 + len(grid.methods)
    height, width = truth.images.size(0)
    lines = max(1, len(chosen))
    figure = Figure(figsize=(2.2 * columns, lines * (2.2 * height / width + 0.3)), layout="constrained")
    for line, shown in enumerate(chosen):
        whole, labels = truth.image(shown.picture), truth.mask(shown.picture)
        image = shrink(whole, SHOWN_WIDTH)
        pictures = [
            ("target" if shown.class_name is None else f"target, {shown.class_name}", image),
            ("ground truth", _painted(image, shrink_mask(labels, SHOWN_WIDTH), shown, classes)),
        ]
        for method, title in grid.methods:
            score = _score(outcome, method, shown, classes)
            mask = shrink_mask(masks[method][shown.picture].numpy(), SHOWN_WIDTH)
            told = "–" if score is None or math.isnan(score) else f"{score:.1f} %"
            pictures.append((f"{title}: {told}", _painted(image, mask, shown, classes)))
        for place, (title, picture) in enumerate(pictures):
            axes = figure.add_subplot(lines, columns, line * columns + place + 1)
            axes.imshow(picture, interpolation="nearest")
            axes.set_title(title, fontsize=7)
            axes.set_axis_off()
    return figure
