"""Figures 3 to 5 and 7 to 10: pictures, their truth and the masks of several methods."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import UInt8
from matplotlib.figure import Figure
from torch import Tensor

from saot.data import LabelledSet
from saot.evaluate import iou_from_counts, mean_over
from saot.report import figure_png, overlay, shrink, shrink_mask
from saot.tables.experiment import PictureGrid
from saot.tables.label.labelling import Labelling
from saot.tables.label.settings import settings_for
from saot.tables.label_room import Scored, predicted_masks, wings_of
from saot.tables.results import Cell, ResultRow, TableResult, cell_of
from saot.tables.table import Planned, run_name

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


class Pictures(Labelling):
    """A figure of pictures and masks, and the IoU on each of its pictures as a table; of the first seed alone."""

    @property
    def grid(self) -> PictureGrid:
        """Which pictures."""
        grid = self.experiment.grid
        assert grid is not None, "a qualitative figure has a grid"
        return grid

    def plan_all(self) -> dict[tuple[str, str], list[Planned | None]]:
        settings = settings_for(self.request, self.experiment, {}, self.seeds[0])
        name = run_name(settings)
        return {("", method): [Planned(name, settings, "miou", None, method)] for method, _ in self.grid.methods}

    @cached_property
    def outcome(self) -> Scored:
        """Of the one run."""
        outcome = self.finished[self.planned()[0].run].outcome
        assert outcome is not None, "methods were asked for"
        return outcome

    @cached_property
    def chosen(self) -> list[Shown]:
        """The lines of the figure."""
        counts = self.outcome.methods[self.grid.methods[-1][0]].counts
        if not self.grid.classes:
            return [Shown(number, None) for number in spread_pictures(len(counts), self.grid)]
        names = self.classes.names
        return [Shown(best_picture(counts, names.index(name)), name) for name in self.grid.classes if name in names]

    @cached_property
    def truth(self) -> LabelledSet:
        """The pictures that are scored."""
        return wings_of(self.request.mask_map).labelled(self.request.eval, self.classes)

    def rows(self) -> list[ResultRow]:
        """A line a picture, below those of classes that the data does not have: the paper's numbers alone."""
        papers = {row.label: row.paper for row in self.experiment.rows}
        there = {shown.class_name for shown in self.chosen}
        rows = [
            ResultRow(label, {column.key: Cell(paper.get(column.key)) for column in self.experiment.columns})
            for label, paper in papers.items()
            if label not in there
        ]
        for shown in self.chosen:
            label = self.truth.keys[shown.picture] if shown.class_name is None else shown.class_name
            paper = papers.get(shown.class_name or "", {})
            values = {m: self._score(m, shown) for m, _ in self.grid.methods}
            rows.append(ResultRow(label, {m: cell_of(paper.get(m), [value], 1) for m, value in values.items()}))
        return rows

    def notes(self) -> list[str]:
        keys = ", ".join(self.truth.keys[shown.picture] for shown in self.chosen)
        return [f"Pictures, top to bottom: {keys}. Only the first seed is shown."]

    def figures(self, result: TableResult) -> dict[str, bytes]:
        plan, methods = self.planned()[0], [method for method, _ in self.grid.methods]
        numbers = sorted({shown.picture for shown in self.chosen})
        folder, store = self.places.runs / plan.run, self.made.store_of(plan.settings)
        masks = predicted_masks(plan.settings, folder, methods, numbers, store, self.request.device)
        return {"figure.png": figure_png(self._figure(masks), 110)}

    def _score(self, method: str, shown: Shown) -> float | None:
        """IoU of the class, or mIoU, on one picture, %; None where the class is not in it."""
        iou = iou_from_counts(self.outcome.methods[method].counts[shown.picture])
        value = mean_over(iou) if shown.class_name is None else iou[self.classes.names.index(shown.class_name)]
        return None if bool(value.isnan()) else 100 * float(value)

    def _painted(
        self, image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], shown: Shown
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A mask over its picture; with a highlighted class, that class in its colour over the dimmed picture."""
        if shown.class_name is None:
            return overlay(image, mask, self.classes.colors)
        index = self.classes.names.index(shown.class_name)
        dimmed = (image * DIMMED).astype(np.uint8)
        return np.where((mask == index)[..., None], np.array(self.classes.colors[index], np.uint8), dimmed)

    def _figure(self, masks: dict[str, dict[int, Tensor]]) -> Figure:
        """Picture, truth and methods from left to right, a line a picture; the score stands over each mask."""
        columns, lines = 2 + len(self.grid.methods), max(1, len(self.chosen))
        height, width = self.truth.images.size(0)
        figure = Figure(figsize=(2.2 * columns, lines * (2.2 * height / width + 0.3)), layout="constrained")
        for line, shown in enumerate(self.chosen):
            whole, labels = self.truth.image(shown.picture), self.truth.mask(shown.picture)
            image = shrink(whole, SHOWN_WIDTH)
            pictures = [
                ("target" if shown.class_name is None else f"target, {shown.class_name}", image),
                ("ground truth", self._painted(image, shrink_mask(labels, SHOWN_WIDTH), shown)),
            ]
            for method, title in self.grid.methods:
                score = self._score(method, shown)
                mask = shrink_mask(masks[method][shown.picture].numpy(), SHOWN_WIDTH)
                told = "–" if score is None else f"{score:.1f} %"
                pictures.append((f"{title}: {told}", self._painted(image, mask, shown)))
            for place, (title, picture) in enumerate(pictures):
                axes = figure.add_subplot(lines, columns, line * columns + place + 1)
                axes.imshow(picture, interpolation="nearest")
                axes.set_title(title, fontsize=7)
                axes.set_axis_off()
        return figure
