"""Figures of the report, drawn with matplotlib's objects (no pyplot, no global figure), as SVG or PNG."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.colors
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from saot.report.contents import Curve
from saot.report.export import overlay

__all__ = [
    "confusion_figure",
    "curves_figure",
    "figure_png",
    "figure_svg",
    "jpeg_uri",
    "mass_map",
    "mass_scale_css",
    "overlay",
    "per_class_bars",
    "png_uri",
    "shrink",
    "shrink_mask",
    "side_by_side",
]

INK = "#010203"  # text and axes; becomes the reader's text colour in inline SVG
SERIES = ("#2f7fc2", "#d9822b", "#2a9d78", "#8d6bb8", "#c2527a", "#7d8794")  # legible on white and on black
WIDTH = 5.4  # inches; a phone shows it at about its own size
CURVE_POINTS = 400


def _plain(text: str) -> str:
    """Text without mathematics: a dollar sign is a dollar sign."""
    return text.replace("$", r"\$")


def _ink(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, length=0, labelsize=8)
    for name, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_alpha(0.35)
        spine.set_visible(name in ("left", "bottom"))


def per_class_bars(names: Sequence[str], series: Mapping[str, Sequence[float | None]]) -> Figure:
    """Horizontal bars of IoU, one group a class and one bar a method.

    Args:
        names: Class names, top to bottom.
        series: Title of a method -> IoU in [0, 1] of each class; None where the class is absent.

    Returns:
        The figure; an absent class has the word "absent" instead of bars.

    Raises:
        ValueError: If a method has another number of classes than `names`.
    """
    wrong = [title for title, values in series.items() if len(values) != len(names)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} must have one IoU for each of the {len(names)} classes")
    figure = Figure(figsize=(WIDTH, 1.0 + 0.075 * len(names) * (len(series) + 1)), layout="constrained")
    axes = figure.add_subplot()
    thickness = 0.84 / max(1, len(series))
    for order, (title, values) in enumerate(series.items()):
        places = [row - 0.42 + (order + 0.5) * thickness for row in range(len(names))]
        lengths = [0.0 if value is None else 100 * value for value in values]
        axes.barh(places, lengths, thickness * 0.92, color=SERIES[order % len(SERIES)], label=_plain(title))
    for row in range(len(names)):
        if series and all(values[row] is None for values in series.values()):
            axes.text(1, row, "absent", va="center", fontsize=7, color=INK, alpha=0.6)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU, %", color=INK, fontsize=8)
    axes.grid(axis="x", color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    _ink(axes)
    if series:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def confusion_figure(counts: Int64[Tensor, "k k"], names: Sequence[str]) -> Figure:
    """The confusion matrix, each row divided by its sum: where the pixels of a true class went.

    Args:
        counts: Pixels, rows truth, columns prediction.
        names: Class names.

    Returns:
        The figure, in percent; the row of an absent class stays empty.

    Raises:
        ValueError: If the number of names differs from the counts.
    """
    size = counts.shape[0]
    if len(names) != size:
        raise ValueError(f"the counts have {size} classes but there are {len(names)} names; pass one each")
    total = counts.sum(1, keepdim=True)
    share = torch.where(total > 0, counts.double() / total.double(), torch.nan).numpy()
    side = max(2.6, min(WIDTH, 1.6 + 0.24 * size))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shades = matplotlib.colors.LinearSegmentedColormap.from_list(
        "share", [(0.18, 0.5, 0.76, 0.0), (0.18, 0.5, 0.76, 0.75), (0.08, 0.3, 0.55, 1.0)]
    )
    axes.pcolormesh(share, cmap=shades, vmin=0, vmax=1, rasterized=size > 32)
    for row, column in np.argwhere(share >= 0.005) if size <= 24 else ():
        value = share[row, column]
        color = "white" if value > 0.45 else INK
        axes.text(column + 0.5, row + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize=5.5, color=color)
    small = 7 if size <= 24 else max(2.0, 170 / size)
    ticks = [place + 0.5 for place in range(size)]
    axes.set_xticks(ticks, [_plain(name) for name in names], rotation=90)
    axes.set_yticks(ticks, [_plain(name) for name in names])
    axes.invert_yaxis()
    axes.set_aspect("equal")
    _ink(axes)
    axes.tick_params(labelsize=small)
    axes.set_xlabel("predicted", color=INK, fontsize=8)
    axes.set_ylabel("truth", color=INK, fontsize=8)
    return figure


def curves_figure(curves: Mapping[str, Curve], columns: int = 1) -> Figure:
    """Training curves as small panels, one a quantity, each with its own scale.

    Args:
        curves: Name of a quantity -> (step, value) pairs; non-finite values leave a gap.
        columns: Panels side by side.

    Returns:
        The figure. Long curves are thinned to the mean of about CURVE_POINTS equal stretches.
    """
    rows = max(1, math.ceil(len(curves) / columns))
    figure = Figure(figsize=(2.9 * columns, 1.8 * rows), layout="constrained")
    for place, (name, points) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        steps, values = _thinned(points)
        few = int(np.isfinite(values).sum()) < 3
        axes.plot(steps, values, color=SERIES[0], linewidth=1.2, marker="o" if few else None, markersize=3)
        axes.set_title(_plain(name), fontsize=8.5, color=INK, loc="left")
        axes.set_xlabel("step", fontsize=7, color=INK)
        axes.grid(color=INK, alpha=0.12)
        axes.locator_params(nbins=5)
        _ink(axes)
        axes.tick_params(labelsize=7)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_offset_text().set_color(INK)
            axis.get_offset_text().set_fontsize(7)
    return figure


def _thinned(
    points: Curve,
) -> tuple[Float[np.ndarray, "p"], Float[np.ndarray, "p"]]:
    values = np.asarray(points, np.float64).reshape(-1, 2)
    values[~np.isfinite(values[:, 1]), 1] = np.nan
    stretch = math.ceil(len(values) / CURVE_POINTS)
    if stretch > 1:
        values = np.stack([part.mean(0) for part in np.array_split(values, len(values) // stretch)])
    return values[:, 0], values[:, 1]


def side_by_side(
    columns: Sequence[tuple[str, UInt8[np.ndarray, "..."]]],
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> Figure:
    """Pictures in one row under their titles, with a legend of class colours.

    Args:
        columns: Title and RGB picture (h, w, 3) of each column.
        legend: Class name and colour, RGB 0-255.

    Returns:
        The figure, for `figure_png`.

    Raises:
        ValueError: If there is no picture.
    """
    if not columns:
        raise ValueError("side_by_side needs at least one picture, got none")
    height, width = columns[0][1].shape[:2]
    wide = 2.6
    lines = math.ceil(len(legend) / 6)
    figure = Figure(figsize=(wide * len(columns), wide * height / width + 0.35 + 0.22 * lines), layout="constrained")
    for place, (title, picture) in enumerate(columns):
        axes = figure.add_subplot(1, len(columns), place + 1)
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(_plain(title), fontsize=9, color=INK)
        axes.set_axis_off()
    if legend:
        patches = [Patch(color="#{:02x}{:02x}{:02x}".format(*color), label=_plain(name)) for name, color in legend]
        figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=7.5)
    return figure


def mass_map(
    image: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "gh gw"], low: float = 0.0, high: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """A token quantity drawn over the greyed picture, dark for `low` and bright for `high`.

    Args:
        image: RGB.
        values: One value a token; the grid is stretched over the picture. NaN keeps the grey picture.
        low: Value of the darkest colour.
        high: Value of the brightest colour.

    Returns:
        RGB of the picture's size.
    """
    height, width = image.shape[:2]
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    spread = values[rows[:, None], columns[None, :]].astype(np.float64)
    scaled = np.clip((spread - low) / (high - low if high > low else 1.0), 0, 1)
    colored = matplotlib.colormaps["inferno"](scaled)[..., :3] * 255
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    strength = np.where(np.isnan(spread), 0.0, 0.72)[..., None]
    return np.rint(grey * (1 - strength) + np.nan_to_num(colored) * strength).astype(np.uint8)


def mass_scale_css() -> str:
    """The colours of `mass_map`, low to high, as a CSS gradient."""
    stops = matplotlib.colormaps["inferno"](np.linspace(0, 1, 9))
    return f"linear-gradient(90deg, {', '.join(matplotlib.colors.to_hex(tuple(stop)) for stop in stops)})"


def figure_svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element for inlining: text stays text, and its colour is the reader's.

    Args:
        figure: A figure of this module.
        label: What it shows, for screen readers.

    Returns:
        Markup without prolog, comments, time stamp or fixed size; the same figure gives the same text.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<g id=\"[^\"]*\"", "<g", text)  # ids would repeat from figure to figure
    safe = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = re.search(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", text)
    assert head is not None
    text = f'<svg {spaces} role="img" aria-label="{safe}" {head[1]}>' + text[head.end() :]
    return text.replace(INK, "currentColor")


def figure_png(figure: Figure, dpi: int = 150) -> bytes:
    """The figure as a PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def shrink(image: UInt8[np.ndarray, "h w 3"], width: int) -> UInt8[np.ndarray, "sh sw 3"]:
    """The picture at most `width` wide, smoothly reduced; never enlarged."""
    from PIL import Image

    if image.shape[1] <= width:
        return image
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def shrink_mask(mask: UInt8[np.ndarray, "h w"], width: int) -> UInt8[np.ndarray, "sh sw"]:
    """The mask at most `width` wide, nearest pixel, in step with `shrink`."""
    if mask.shape[1] <= width:
        return mask
    height = max(1, round(mask.shape[0] * width / mask.shape[1]))
    rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
    return np.ascontiguousarray(mask[rows[:, None], columns[None, :]])


def jpeg_uri(image: UInt8[np.ndarray, "h w 3"], quality: int = 80) -> str:
    """The picture as a JPEG data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def png_uri(data: bytes) -> str:
    """The bytes of a PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
