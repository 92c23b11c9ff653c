"""What a table of matching looks like: curves over the threshold, what a pair costs, and key points right or wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saot.match import point_hits
from saot.match.pairs import Pair
from saot.report import INK, SERIES, WIDTH, figure_png, shrink
from saot.tables.match.pair_results import PairResult

Threshold = Literal["box", "image"]
ALPHAS = tuple(round(0.01 * step, 2) for step in range(1, 31))
RIGHT, WRONG = "#1a9850", "#d73027"
SIDE = 220  # pixels a picture's longer side is shown at
_GAP = 8


@dataclass(frozen=True, eq=False)
class Answers:
    """What one row said of every pair, and which of its key points count.

    Attributes:
        label: Of the row.
        results: By the pair's key.
        counted: By the pair's key, one a key point.
        seconds: Median of a pair.
    """

    label: str
    results: Mapping[str, PairResult]
    counted: Mapping[str, Bool[np.ndarray, " k"]]
    seconds: float


def _hits(answers: Answers, pair: Pair, alphas: Sequence[float], threshold: Threshold) -> Bool[np.ndarray, "a k"]:
    """Which counted key points of a pair came right at each threshold."""
    places = np.array(answers.results[pair.key].places).reshape(-1, 2)
    return point_hits(places, pair, tuple(alphas), threshold)[:, answers.counted[pair.key] & pair.common]


def curves(rows: Sequence[Answers], pairs: Sequence[Pair], threshold: Threshold) -> bytes:
    """PCK over the threshold, key points pooled; a panel for each category where there are several (Fig. 6, 7)."""
    categories = sorted({pair.category for pair in pairs})
    panels = ["all", *categories] if 1 < len(categories) <= 11 else ["all"]
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(WIDTH, 2.6 * down + 0.6 + 0.16 * len(rows)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, name in zip(grid, panels, strict=False):
        shown = [pair for pair in pairs if name in ("all", pair.category)]
        for number, row in enumerate(rows):
            hits = [_hits(row, pair, ALPHAS, threshold) for pair in shown]
            found = np.concatenate(hits, axis=1)
            if found.shape[1]:
                style = {"color": SERIES[number % len(SERIES)], "linestyle": "-" if number < len(SERIES) else "--"}
                axes.plot(ALPHAS, 100 * found.mean(1), label=row.label, linewidth=1.5, **style)
        axes.set_title(f"{name} ({len(shown)} pairs)", fontsize=9)
        axes.grid(alpha=0.25)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[::across][:down]:
        axes.set_ylabel("PCK, %", fontsize=8)
    grid[0].set_xlim(0, ALPHAS[-1])
    grid[0].set_ylim(0, 100)
    figure.supxlabel(f"threshold, of the longer side of the {threshold}", fontsize=8)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure_png(figure)


def costs(rows: Sequence[Answers], pairs: Sequence[Pair], alpha: float, threshold: Threshold) -> bytes:
    """PCK over the seconds that a pair costs, features apart (Fig. 1)."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        hits = np.concatenate([_hits(row, pair, (alpha,), threshold) for pair in pairs], axis=1)
        place = (max(row.seconds, 1e-4), 100 * float(hits.mean()) if hits.size else 0.0)
        axes.scatter(*place, color=SERIES[number % len(SERIES)], s=40, zorder=3)
        axes.annotate(row.label, place, (5, 4), textcoords="offset points", fontsize=8, color=INK)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("seconds a pair")
    axes.set_ylabel(f"PCK@{alpha:g}, %")
    axes.grid(alpha=0.25)
    return figure_png(figure)


def key_points(rows: Sequence[Answers], pairs: Sequence[Pair], alpha: float, threshold: Threshold) -> bytes:
    """Pairs below each other and rows side by side; lines to the answers, green where right and red where wrong."""
    figure = Figure(figsize=(2.6 * len(rows), 1.6 * len(pairs) + 0.5), layout="constrained")
    grid = figure.subplots(len(pairs), len(rows), squeeze=False)
    for pair, line in zip(pairs, grid, strict=True):
        images = pair.source.image(), pair.target.image()
        for row, axes in zip(rows, line, strict=True):
            places, common = np.array(row.results[pair.key].places).reshape(-1, 2), pair.common
            right = point_hits(places, pair, (alpha,), threshold)[0][common]
            _draw_pair(axes, images, (pair.source.points[common], places[common]), right)
            share = f"{int(right.sum())} of {len(right)}"
            axes.set_xlabel(share, fontsize=8)
            if line is grid[0]:
                axes.set_title(row.label, fontsize=8)
    return figure_png(figure)


def _draw_pair(
    axes: Axes,
    images: tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "H W 3"]],
    points: tuple[Float64[np.ndarray, "k 2"], Float64[np.ndarray, "k 2"]],
    right: Bool[np.ndarray, " k"],
) -> None:
    scales = [min(1.0, SIDE / max(image.shape[:2])) for image in images]
    shown = [shrink(image, round(scale * image.shape[1])) for image, scale in zip(images, scales, strict=True)]
    height = max(image.shape[0] for image in shown)
    canvas = np.full((height, shown[0].shape[1] + _GAP + shown[1].shape[1], 3), 255, np.uint8)
    canvas[: shown[0].shape[0], : shown[0].shape[1]] = shown[0]
    canvas[: shown[1].shape[0], shown[0].shape[1] + _GAP :] = shown[1]
    axes.imshow(canvas)
    starts = points[0] * scales[0]
    ends = points[1] * scales[1] + np.array([shown[0].shape[1] + _GAP, 0])
    for start, end, ok in zip(starts, ends, right, strict=True):
        style = {"color": RIGHT if ok else WRONG, "linewidth": 1.0, "markersize": 4}
        axes.plot([start[0], end[0]], [start[1], end[1]], marker="o" if ok else "x", **style)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(-0.5, canvas.shape[1] - 0.5)
    axes.set_ylim(canvas.shape[0] - 0.5, -0.5)
