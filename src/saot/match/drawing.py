"""A dense match as a picture: the target in colours by place, the source in the colours of where it went, and lines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, BboxBase

from saot.report import INK, _plain, figure_png, shrink

PANEL = 460  # pixels a picture's longer side is shown at
PAIRS = 10  # in one PNG, so that its height stays below 16,384 pixels, which viewers can open
NAMED = 20  # key points up to which their names are written
GAP = 12  # pixels between two pictures
_HEADING = 34
_SHADE = 0.62  # of the colours over the picture
_FAINT = 0.4  # opacity of a match with confidence 0


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
        point_names: Of the key points, one a line; none where the lines are not those of key points.
    """

    source: UInt8[np.ndarray, "h w 3"]
    target: UInt8[np.ndarray, "H W 3"]
    names: tuple[str, str]
    field: Float[np.ndarray, "h w 2"]
    inside: Bool[np.ndarray, "h w"]
    allowed: Bool[np.ndarray, "H W"]
    lines: Float[np.ndarray, "k 4"]
    sure: Float[np.ndarray, " k"]
    point_names: tuple[str, ...] = ()


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


def draw_pages(pairs: Sequence[DrawnMatch], method: str) -> Iterator[tuple[str, bytes]]:
    """File name and PNG of each `PAIRS` pairs: matches.png, then matches-2.png and so on."""
    for page, start in enumerate(range(0, len(pairs), PAIRS), 1):
        name = "matches.png" if page == 1 else f"matches-{page}.png"
        yield name, draw_matches(pairs[start : start + PAIRS], method)


def draw_matches(pairs: Sequence[DrawnMatch], method: str) -> bytes:
    """All pairs as one PNG, two rows a pair: the dense field in colours, then lines between places that match.

    The surer a match is among the lines of its pair, the more opaque is its line.
    """
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
        axes[0].imshow(beside(shrink(tinted, left[1]), shrink(painted, right[1])))
        title = _plain(f"{pair.names[0]}  →  {pair.names[1]}   ({method})")
        axes[0].set_title(title, fontsize=9, loc="left")
        axes[1].imshow(beside(shrink(pair.source, left[1]), shrink(pair.target, right[1])))
        for one in axes:
            one.set_axis_off()
        _draw_lines(axes[1], pair)
    return figure_png(figure)


def _draw_lines(axes: Axes, pair: DrawnMatch) -> None:
    """Lines between places that match, the surest on top, with the names of key points."""
    (left, width), (right, other_width) = _shown(pair)
    frames = [
        Bbox.from_bounds(-0.5, -0.5, width, pair.source.shape[0] * left),
        Bbox.from_bounds(width + GAP - 0.5, -0.5, other_width, pair.target.shape[0] * right),
    ]
    for frame in frames:  # a white drawing has no edge of its own
        shape = {"fill": False, "edgecolor": INK, "alpha": 0.35, "linewidth": 0.6, "clip_on": False}
        axes.add_patch(Rectangle(frame.p0, frame.width, frame.height, **shape))
    starts, ends = pair.lines[:, :2] * left, pair.lines[:, 2:] * right + np.array([width + GAP, 0])
    colors = place_colors(pair.lines[:, 2] / pair.target.shape[1], pair.lines[:, 3] / pair.target.shape[0]) / 255
    opacity = _opacity(pair.sure)
    for line in pair.sure.argsort(kind="stable"):
        around = "black" if _luminance(colors[line]) > 0.18 else "white"
        halo = withStroke(linewidth=2.6, foreground=around, alpha=opacity[line])
        style = {"color": colors[line], "alpha": opacity[line], "path_effects": [halo]}
        axes.plot(*zip(starts[line], ends[line], strict=True), marker="o", markersize=4, linewidth=1.4, **style)
    if 0 < len(pair.point_names) <= NAMED:
        axes.apply_aspect()  # settles where the pictures are
        for places, frame, outwards in zip((starts, ends), frames, (-1, 1), strict=True):
            _name_points(axes, pair.point_names, places, frame, outwards)


def _opacity(sure: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Opacity by rank, since methods differ in the range of their confidences; equal ones get the same.

    Example:
        >>> _opacity(np.array([0.002, 0.003, 0.003, 0.0])).round(2).tolist()
        [0.7, 1.0, 1.0, 0.4]
    """
    share = np.searchsorted(np.sort(sure), sure, side="right") / max(1, len(sure))
    return _FAINT + (1 - _FAINT) * np.where(sure > 0, share, 0.0)


def _luminance(color: Float[np.ndarray, "3"]) -> float:
    """Relative luminance (WCAG 2): a colour of 0.18 stands out as well from black as from white."""
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def _name_points(
    axes: Axes, names: Sequence[str], places: Float[np.ndarray, "k 2"], frame: Bbox, outwards: int
) -> None:
    """Writes names beside points, inside the picture and where they meet the fewest points and names.

    Args:
        axes: With its final scale.
        names: One a point.
        places: x and y of the points.
        frame: Of the picture that the points are in.
        outwards: The side to try first, -1 for left and 1 for right: there is no line.
    """
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in axes.transData.transform(places)]
    picture = axes.transData.transform_bbox(frame)
    style = {"fontsize": 7, "color": INK, "path_effects": [withStroke(linewidth=2, foreground="white")]}
    across = (outwards, 0, 0, -outwards, outwards, outwards, -outwards, -outwards)
    sides = list(zip(across, (0, 1, -1, 0, 1, -1, 1, -1), strict=True))
    for name, place in zip(names, places, strict=True):
        text = axes.annotate(_plain(name), place, (0, 0), textcoords="offset points", **style)
        met = []
        for side in sides:
            _move(text, side)
            box = text.get_window_extent()
            beyond = sum(not _within(box, area) for area in (picture, axes.bbox))
            met.append(sum(box.overlaps(other) for other in taken) + 10 * beyond)
        _move(text, sides[int(np.argmin(met))])
        taken.append(text.get_window_extent())


def _within(box: BboxBase, area: BboxBase) -> bool:
    return bool(area.xmin <= box.xmin and box.xmax <= area.xmax and area.ymin <= box.ymin and box.ymax <= area.ymax)


def _move(text: Annotation, side: tuple[int, int]) -> None:
    """Puts the text to the left (-1) or right (1) of its point, and below (-1) or above (1)."""
    across, up = side
    text.set_position((4 * across, 4 * up))
    text.set(ha=("center", "left", "right")[across], va=("center", "bottom", "top")[up])


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


def beside(left: UInt8[np.ndarray, "h w 3"], right: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "Y X 3"]:
    """Both pictures in one, their tops in line and `GAP` between them."""
    height = max(left.shape[0], right.shape[0])
    canvas = np.full((height, left.shape[1] + GAP + right.shape[1], 3), 255, np.uint8)
    canvas[: left.shape[0], : left.shape[1]] = left
    canvas[: right.shape[0], left.shape[1] + GAP :] = right
    return canvas
