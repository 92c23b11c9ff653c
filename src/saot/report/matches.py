"""A dense match as a picture: the target in colours by place, the source in the colours of where it went, and lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from saot.report.figures import figure_png, shrink

PANEL = 460  # pixels a picture's longer side is shown at
_GAP = 12
_HEADING = 34
_SHADE = 0.62  # of the colours over the picture


@dataclass(frozen=True, eq=False)
class DrawnMatch:
    """One pair of pictures with what was found.

    Attributes:
        source, target: The pictures.
        names: Of the two, for the headings.
        field: For each pixel of the source, where it goes in the target: x and y from 0 to 1.
        inside: Pixels of the source that were matched.
        allowed: Pixels of the target that could be matched.
        lines: x, y in the source and x, y in the target, pixels.
        sure: Between 0 and 1, one a line.
    """

    source: UInt8[np.ndarray, "h w 3"]
    target: UInt8[np.ndarray, "H W 3"]
    names: tuple[str, str]
    field: Float[np.ndarray, "h w 2"]
    inside: Bool[np.ndarray, "h w"]
    allowed: Bool[np.ndarray, "H W"]
    lines: Float[np.ndarray, "k 4"]
    sure: Float[np.ndarray, " k"]


def place_colors(x: Float[np.ndarray, "*s"], y: Float[np.ndarray, "*s"]) -> UInt8[np.ndarray, "*s 3"]:
    """A colour for each place of a picture, x and y from 0 to 1: the hue goes round the centre, the corners are pure.

    Example:
        >>> place_colors(np.array([0.5, 1.0]), np.array([0.5, 0.5])).tolist()
        [[235, 235, 235], [235, 70, 70]]
    """
    dx, dy = 2 * x - 1, 2 * y - 1
    hue = np.arctan2(dy, dx) / (2 * np.pi) % 1.0
    strength = np.clip(np.maximum(np.abs(dx), np.abs(dy)), 0, 1)[..., None]
    pure = np.clip(np.abs(6 * ((hue[..., None] + np.array([0, 2 / 3, 1 / 3])) % 1.0) - 3) - 1, 0, 1)
    return np.round(235 - 165 * strength * (1 - pure)).astype(np.uint8)


def draw_matches(pairs: Sequence[DrawnMatch], method: str) -> bytes:
    """All pairs as one PNG, two rows a pair: the dense field in colours, then lines between places that match."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * PANEL / 100 + 0.3, sum(_height(pair) for pair in pairs) / 100), dpi=100)
    parts = figure.subfigures(len(pairs), 1, squeeze=False, height_ratios=[_height(pair) for pair in pairs])
    for part, pair in zip(parts[:, 0], pairs, strict=True):
        room = {"hspace": 0.06, "left": 0.01, "right": 0.99, "bottom": 0.01, "top": 1 - _HEADING / _height(pair)}
        axes = part.subplots(2, 1, gridspec_kw=room)
        left, right = _shown(pair)
        colors = place_colors(pair.field[..., 0], pair.field[..., 1])
        wheel = np.stack(np.meshgrid(*(np.linspace(0, 1, size) for size in pair.target.shape[1::-1])), -1)
        tinted = _tint(pair.source, colors, pair.inside)
        painted = _tint(pair.target, place_colors(wheel[..., 0], wheel[..., 1]), pair.allowed)
        axes[0].imshow(_beside(shrink(tinted, left[1]), shrink(painted, right[1])))
        axes[0].set_title(f"{pair.names[0]}  →  {pair.names[1]}   ({method})", fontsize=9, loc="left")
        axes[1].imshow(_beside(shrink(pair.source, left[1]), shrink(pair.target, right[1])))
        hues = place_colors(pair.lines[:, 2] / pair.target.shape[1], pair.lines[:, 3] / pair.target.shape[0]) / 255
        for (x, y, to_x, to_y), color, sure in zip(pair.lines, hues, pair.sure, strict=True):
            xs = [x * left[0], left[1] + _GAP + to_x * right[0]]
            style = {"color": color, "alpha": 0.25 + 0.75 * float(sure)}
            axes[1].plot(xs, [y * left[0], to_y * right[0]], marker="o", markersize=3.5, linewidth=1.1, **style)
        for one in axes:
            one.set_axis_off()
    return figure_png(figure)


def _shown(pair: DrawnMatch) -> tuple[tuple[float, int], tuple[float, int]]:
    """Scale and width of the two pictures as they are shown."""
    found = []
    for image in (pair.source, pair.target):
        width = min(image.shape[1], max(1, round(PANEL * image.shape[1] / max(image.shape[:2]))))
        found.append((width / image.shape[1], width))
    return found[0], found[1]


def _height(pair: DrawnMatch) -> int:
    (left, _), (right, _) = _shown(pair)
    return 2 * round(max(pair.source.shape[0] * left, pair.target.shape[0] * right)) + _HEADING + 24


def _tint(
    image: UInt8[np.ndarray, "h w 3"], colors: UInt8[np.ndarray, "h w 3"], inside: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Colours over a grey picture; outside, the grey picture alone, paled."""
    grey = image.mean(-1, keepdims=True) * np.ones(3)
    over = (1 - _SHADE) * grey + _SHADE * colors
    return np.where(inside[..., None], over, 0.35 * grey + 0.65 * 245).astype(np.uint8)


def _beside(left: UInt8[np.ndarray, "h w 3"], right: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "Y X 3"]:
    height = max(left.shape[0], right.shape[0])
    canvas = np.full((height, left.shape[1] + _GAP + right.shape[1], 3), 255, np.uint8)
    canvas[: left.shape[0], : left.shape[1]] = left
    canvas[: right.shape[0], left.shape[1] + _GAP :] = right
    return canvas
