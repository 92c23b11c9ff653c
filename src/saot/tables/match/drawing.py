"""What a table of matching looks like: curves over the threshold, what a pair costs, and key points right or wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saot.match import GAP, beside, point_hits
from saot.match.pairs import Pair
from saot.report import SERIES, WIDTH, figure_png, shrink
from saot.tables.match.pair_results import PairResult

Threshold = Literal["box", "image"]
ALPHAS = tuple(round(0.01 * step, 2) for step in range(1, 31))
RIGHT, WRONG = "#1a9850", "#d73027"
SIDE = 220  # pixels a picture's longer side is shown at


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
    across = min(3, len(panels))
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
    for axes in grid[max(0, len(panels) - across) : len(panels)]:
        axes.set_xlabel("threshold", fontsize=8)
        axes.tick_params(labelbottom=True)
    figure.suptitle(f"Right key points by the threshold, a share of the {threshold}'s longer side", fontsize=9)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure_png(figure)


def costs(rows: Sequence[Answers], pairs: Sequence[Pair], alpha: float, threshold: Threshold) -> bytes:
    """PCK over the seconds that a pair costs, features apart (Fig. 1)."""
    figure = Figure(figsize=(WIDTH, 3.2 + 0.1 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        hits = np.concatenate([_hits(row, pair, (alpha,), threshold) for pair in pairs], axis=1)
        place = (max(row.seconds, 1e-4), 100 * float(hits.mean()) if hits.size else 0.0)
        marker = "o" if number < len(SERIES) else "D"
        axes.scatter(*place, color=SERIES[number % len(SERIES)], marker=marker, s=40, zorder=3, label=row.label)
    axes.set_xscale("log")
    axes.margins(0.1)
    axes.set_xlabel("seconds a pair")
    axes.set_ylabel(f"PCK@{alpha:g}, %")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure_png(figure)


def key_points(rows: Sequence[Answers], pairs: Sequence[Pair], alpha: float, threshold: Threshold) -> bytes:
    """Pairs below each other and rows side by side; lines to the answers, green where right and red where wrong."""
    figure = Figure(figsize=(2.6 * len(rows), 1.6 * len(pairs) + 0.8), layout="constrained")
    figure.suptitle(f"Key points: green within {alpha:g} of the {threshold}'s longer side, red not", fontsize=9)
    grid = figure.subplots(len(pairs), len(rows), squeeze=False)
    for axes, row in zip(grid[0], rows, strict=True):
        axes.set_title(row.label, fontsize=8)
    for pair, line in zip(pairs, grid, strict=True):
        images = pair.source.image(), pair.target.image()
        for row, axes in zip(rows, line, strict=True):
            places, common = np.array(row.results[pair.key].places).reshape(-1, 2), pair.common
            right = point_hits(places, pair, (alpha,), threshold)[0][common]
            _draw_pair(axes, images, (pair.source.points[common], places[common]), right)
            axes.set_xlabel(f"{int(right.sum())} of {len(right)}", fontsize=8)
    return figure_png(figure)


def best(rows: Sequence[Answers], pairs: Sequence[Pair], alpha: float, threshold: Threshold) -> list[Answers]:
    """The first row and the three with most right key points, in the order of the table."""

    def right(row: Answers) -> int:
        return sum(int(_hits(row, pair, (alpha,), threshold).sum()) for pair in pairs)

    chosen = sorted(rows[1:], key=right, reverse=True)[:3]
    return [row for row in rows if row is rows[0] or any(row is one for one in chosen)]


def _draw_pair(
    axes: Axes,
    images: tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "H W 3"]],
    points: tuple[Float64[np.ndarray, "k 2"], Float64[np.ndarray, "k 2"]],
    right: Bool[np.ndarray, " k"],
) -> None:
    scales = [min(1.0, SIDE / max(image.shape[:2])) for image in images]
    shown = [shrink(image, round(scale * image.shape[1])) for image, scale in zip(images, scales, strict=True)]
    canvas = beside(*shown)
    axes.imshow(canvas)
    starts = points[0] * scales[0]
    ends = points[1] * scales[1] + np.array([shown[0].shape[1] + GAP, 0])
    for start, end, ok in zip(starts, ends, right, strict=True):
        style = {"color": RIGHT if ok else WRONG, "linewidth": 1.0, "markersize": 4}
        axes.plot([start[0], end[0]], [start[1], end[1]], marker="o" if ok else "x", **style)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlim(-0.5, canvas.shape[1] - 0.5)
    axes.set_ylim(canvas.shape[0] - 0.5, -0.5)
