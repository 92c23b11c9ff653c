"""Figures of T2S-DA: t-SNE, the measures of its figure 5, similarity against IoU, masks side by side."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from torch import Tensor

from saot.data import IGNORE_INDEX, ClassSet, how_to_install
from saot.report import INK, SERIES, WIDTH, _ink, _plain

MASK_WIDTH = 1.9  # inches of a picture beside its masks
MASK_LETTERS = 30  # of a method's name in a line above them
PERPLEXITY = 30.0  # scikit-learn's default; fewer where there are few features
Values = Mapping[str, Sequence[float | None]]  # title of a method -> value of each class, None or NaN where absent


def tsne_figure(
    source_features: Float[Tensor, "s d"],
    source_labels: Integer[Tensor, " p"],
    target_features: Float[Tensor, "t e"],
    target_labels: Integer[Tensor, " q"],
    classes: ClassSet,
    seed: int = 0,
) -> Figure:
    """Features of two domains in one plane by t-SNE, T2S-DA figure S1: source as dots, target as rings.

    Both domains are laid out together, in Euclidean distance; axes have no unit, and distances between far groups
    mean little.

    Args:
        source_features: One feature a row; T2S-DA shows 256 of each class (`saot.evaluate.sample_per_class`).
        source_labels: Their classes; 255 leaves a feature out.
        target_features: The same of the target.
        target_labels: True classes of the target.
        classes: Names and colours.
        seed: Fixes the layout on one machine.

    Returns:
        The figure, for `figure_png`; the same features and seed give the same one.

    Raises:
        ValueError: If scikit-learn is missing, shapes or classes do not fit, a feature is not finite, or fewer than
            three features have a class.
    """
    parts = [
        _with_classes(name, features, labels, classes)
        for name, features, labels in (
            ("source", source_features, source_labels),
            ("target", target_features, target_labels),
        )
    ]
    (source, source_classes), (target, target_classes) = parts
    if source.shape[1] != target.shape[1]:
        raise ValueError(f"source features have {source.shape[1]} channels but target ones {target.shape[1]}")
    places = _tsne(np.concatenate([source, target]), seed)
    figure = Figure(figsize=(WIDTH * 1.3, WIDTH), layout="constrained")
    axes = figure.add_subplot()
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in classes.colors]
    first, second = places[: len(source)], places[len(source) :]
    size = float(np.clip(9000 / len(places), 5, 26))
    axes.scatter(*first.T, s=size, c=[colors[index] for index in source_classes], alpha=0.75, linewidths=0)
    axes.scatter(
        *second.T,
        s=size * 1.5,
        facecolors="none",
        edgecolors=[colors[index] for index in target_classes],
        linewidths=0.6,
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    handles = [_mark("source", INK, filled=True), _mark("target", INK, filled=False)]
    shown = sorted({*source_classes.tolist(), *target_classes.tolist()})
    handles += [_mark(classes.names[index], colors[index], filled=True) for index in shown]
    _name_groups(axes, classes, (first, source_classes), (second, target_classes))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=7.5, labelcolor=INK)
    return figure


Placed = tuple[Float[np.ndarray, "_ 2"], Integer[np.ndarray, "_"]]  # places and classes


def _name_groups(axes: Axes, classes: ClassSet, source: Placed, target: Placed) -> None:
    """Names over the dots, at the source where it has the class: colours may be hard to tell apart."""
    for index, name in enumerate(classes.names):
        groups = [places[labels == index] for places, labels in (source, target)]
        group = groups[0] if len(groups[0]) else groups[1]
        if not len(group):
            continue
        x, y = np.median(group, axis=0).tolist()
        halo = [withStroke(linewidth=1.8, foreground="white", alpha=0.85)]
        style = {"ha": "center", "va": "center", "fontsize": 6.5, "color": INK}
        axes.text(x, y, _plain(name), path_effects=halo, **style)


def _with_classes(
    name: str, features: Float[Tensor, "n d"], labels: Integer[Tensor, " m"], classes: ClassSet
) -> tuple[Float64[np.ndarray, "p d"], Integer[np.ndarray, " p"]]:
    """The features that have a class, for scikit-learn."""
    if labels.shape != features.shape[:1]:
        raise ValueError(f"{name} has {features.shape[0]} features but labels of shape {tuple(labels.shape)}")
    kept = labels != IGNORE_INDEX
    found, indices = features[kept.to(features.device)].detach().cpu().double(), labels[kept].cpu().long()
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < classes.num_classes:
        raise ValueError(
            f"{name} labels must lie in [0, {classes.num_classes}) or be {IGNORE_INDEX}, got {int(indices.min())} to "
            f"{int(indices.max())}"
        )
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name} features are infinite or NaN in places; check the network")
    return found.numpy(), indices.numpy()


def _tsne(features: Float64[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Places in the plane; few features get a smaller perplexity."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ValueError(f"t-SNE needs scikit-learn, which is missing; {how_to_install('adapt')}") from error
    if len(features) < 3:
        raise ValueError(f"t-SNE needs at least three features with a class, got {len(features)}")
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    start = "pca" if features.shape[1] > 1 and bool(np.ptp(features, axis=0).any()) else "random"
    return TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(features)


def _mark(label: str, color: str, *, filled: bool) -> Line2D:
    face = color if filled else "none"
    return Line2D(
        [], [], linestyle="", marker="o", markersize=4.5, color=color, markerfacecolor=face, label=_plain(label)
    )


def separation_figure(names: Sequence[str], ccd: Values, pdd: Values) -> Figure:
    """Class center distance and pixel-wise discrimination distance of each class, a bar a method: T2S-DA figure 5.

    Args:
        names: Class names, top to bottom.
        ccd: Title of a method -> Eq. (14) of each class (`saot.evaluate.class_center_distance`).
        pdd: The same titles -> Eq. (15) (`saot.evaluate.PixelDiscrimination`).

    Returns:
        The figure, lower is better in both panels; a missing value has a dash for a bar, and an infinite one the
        longest.

    Raises:
        ValueError: If there is no method, the panels have other methods, or a method another number of classes.
    """
    if not ccd or list(ccd) != list(pdd):
        raise ValueError(f"both measures need the same methods, at least one; got {list(ccd)} and {list(pdd)}")
    for series in (ccd, pdd):
        _check_lengths(names, series)
    figure = Figure(figsize=(WIDTH * 1.35, 1.0 + 0.085 * len(names) * (len(ccd) + 1)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    _bars(panels[0], ccd, "class center distance", legend=True)
    _bars(panels[1], pdd, "pixel-wise discrimination distance", legend=False)
    panels[0].set_yticks(range(len(names)), [_plain(name) for name in names])
    panels[0].set_ylim(len(names) - 0.45, -0.55)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _bars(axes: Axes, series: Values, title: str, *, legend: bool) -> None:
    """Horizontal bars with their values behind them."""
    cleaned = {name: [_number(value) for value in values] for name, values in series.items()}
    finite = [value for values in cleaned.values() for value in values if math.isfinite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    high = high if high > low else 1.0
    thickness = 0.84 / len(series)
    for order, (name, values) in enumerate(cleaned.items()):
        places = [row - 0.42 + (order + 0.5) * thickness for row in range(len(values))]
        lengths = [0.0 if math.isnan(value) else min(value, 1.12 * high) for value in values]
        color = SERIES[order % len(SERIES)]
        axes.barh(places, lengths, thickness * 0.92, color=color, label=_plain(name) if legend else None)
        for place, value, length in zip(places, values, lengths, strict=True):
            style = {"va": "center_baseline", "fontsize": 5, "color": INK, "alpha": 0.75}
            axes.annotate(_short(value), (max(length, 0.0), place), (2, 0), textcoords="offset points", **style)
    axes.set_xlim(low * 1.05, high + 0.22 * (high - low))  # room for the numbers
    axes.set_xlabel(f"{title}, lower is better", color=INK, fontsize=8)
    axes.grid(axis="x", color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)
    _ink(axes)


def _short(value: float) -> str:
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def similarity_figure(names: Sequence[str], similarity: Values, iou: Values) -> Figure:
    """IoU of each class against the similarity of its centres across domains, T2S-DA figure 2; a colour a method.

    Args:
        names: Class names.
        similarity: Title of a method -> cosine of each class's centres (`saot.evaluate.center_similarity`).
        iou: The same titles -> IoU in [0, 1] of each class on the target.

    Returns:
        The figure; a line joins what the methods make of one class, and its name stands at the first. A class without
        one of the two values is left out. The legend has Pearson's correlation over the classes, a dash where it does
        not exist.

    Raises:
        ValueError: If there is no method, the values have other methods, or a method another number of classes.
    """
    if not similarity or list(similarity) != list(iou):
        raise ValueError(f"expected similarity and IoU of the same methods; got {list(similarity)} and {list(iou)}")
    for series in (similarity, iou):
        _check_lengths(names, series)
    points = np.array(
        [
            [(_number(x), 100 * _number(y)) for x, y in zip(similarity[title], iou[title], strict=True)]
            for title in similarity
        ]
    ).reshape(len(similarity), len(names), 2)
    points[~np.isfinite(points).all(-1)] = np.nan
    figure = Figure(figsize=(WIDTH * 1.2, WIDTH), layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    axes = figure.add_subplot()
    for row in range(len(names)):
        joined = points[np.isfinite(points[:, row, 0]), row]
        axes.plot(*joined.T, color=INK, alpha=0.18, linewidth=0.8)
    for order, title in enumerate(similarity):
        label = f"{title} (r = {_correlation(points[order])})"
        axes.scatter(*points[order].T, s=20, color=SERIES[order % len(SERIES)], label=_plain(label), zorder=3)
    axes.set_xlabel("cosine between source and target centre", color=INK, fontsize=8)
    axes.set_ylabel("IoU on the target, %", color=INK, fontsize=8)
    axes.grid(color=INK, alpha=0.12)
    axes.margins(0.09)
    axes.set_axisbelow(True)
    _ink(axes)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    _name_points(axes, names, points)
    return figure


def masks_figure(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    truths: Sequence[UInt8[np.ndarray, "_ _"]],
    masks: Mapping[str, Sequence[UInt8[np.ndarray, "_ _"]]],
    classes: ClassSet,
) -> Figure:
    """Pictures, their truth and each method's mask side by side, T2S-DA figures 4 and S2 to S4.

    Args:
        pictures: RGB, top to bottom.
        truths: Class index of each pixel of each, 255 for ignore, which is black.
        masks: Title of a method -> its mask of each picture.
        classes: Names and colours.

    Returns:
        The figure, a column for picture, truth and each method, names above, the classes that are shown below.

    Raises:
        ValueError: If there is no picture, or a method has another number of masks.

    Example:
        >>> from saot.data import folder_class_set
        >>> image, mask = np.zeros((4, 8, 3), np.uint8), np.zeros((4, 8), np.uint8)
        >>> figure = masks_figure([image], [mask], {"ours": [mask]}, folder_class_set(["road", "sky"]))
        >>> [axes.get_title() for axes in figure.axes], [text.get_text() for text in figure.legends[0].get_texts()]
        (['picture', 'truth', 'ours'], ['road'])
    """
    series = {"picture": pictures, "truth": truths, **masks}
    wrong = [title for title, of_method in series.items() if len(of_method) != len(pictures)]
    if not len(pictures) or wrong or len(series) != 2 + len(masks):
        raise ValueError(
            f"expected at least one picture and a mask of each of the {len(pictures)} by every method; got "
            f"{ {title: len(of_method) for title, of_method in series.items()} }"
        )
    palette = np.zeros((256, 3), np.uint8)
    palette[: classes.num_classes] = classes.colors
    height, width = pictures[0].shape[:2]
    shown = sorted({int(c) for title in (*masks, "truth") for mask in series[title] for c in np.unique(mask)} - {255})
    across = MASK_WIDTH * len(series)
    per_line = max(1, int(across / 1.3))
    legend = 0.22 * -(-len(shown) // per_line)
    titles = {title: "\n".join(textwrap.wrap(title, MASK_LETTERS)) for title in series}
    lines = max(title.count("\n") + 1 for title in titles.values())
    tall = len(pictures) * (MASK_WIDTH * height / width + 0.05) + 0.13 * lines + legend + 0.15
    figure = Figure(figsize=(across, tall), layout="constrained")
    panels = figure.subplots(len(pictures), len(series), squeeze=False)
    for column, (title, of_method) in enumerate(series.items()):
        panels[0, column].set_title(_plain(titles[title]), fontsize=7, color=INK)
        for row, one in enumerate(of_method):
            panels[row, column].imshow(one if one.ndim == 3 else palette[one], interpolation="nearest", aspect="auto")
            panels[row, column].set_axis_off()
    handles = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*classes.colors[c]), label=_plain(classes.names[c])) for c in shown
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=per_line, frameon=False, fontsize=7, labelcolor=INK
    )
    return figure


def _name_points(axes: Axes, names: Sequence[str], points: Float64[np.ndarray, "methods k 2"]) -> None:
    """Writes each class's name at its first point, on the side where it meets the fewest points and names."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # settles the layout, so that places in pixels are final
    near = figure.dpi / 72  # pixels a point of text
    dots = axes.transData.transform(points.reshape(-1, 2)[np.isfinite(points).all(-1).reshape(-1)])
    taken = [Bbox.from_bounds(x - 3 * near, y - 3 * near, 6 * near, 6 * near) for x, y in dots]
    sides = [(5, 0, "left", "center"), (-5, 0, "right", "center"), (0, 5, "center", "bottom"), (0, -5, "center", "top")]
    sides += [(x, y, "left" if x > 0 else "right", "bottom" if y > 0 else "top") for x in (4, -4) for y in (4, -4)]
    for row, name in enumerate(names):
        shown = points[np.isfinite(points[:, row, 0]), row]
        if not len(shown):
            continue
        text = axes.annotate(_plain(name), shown[0], (0, 0), textcoords="offset points", fontsize=6.5, color=INK)
        best, fewest = sides[0], math.inf
        for side in sides:
            _move(text, side)
            box = text.get_window_extent()
            outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1)
            met = sum(box.overlaps(other) for other in taken) + 10 * outside
            if met < fewest:
                best, fewest = side, met
        _move(text, best)
        taken.append(text.get_window_extent())


def _move(text: Annotation, side: tuple[int, int, str, str]) -> None:
    text.set_position(side[:2])
    text.set(ha=side[2], va=side[3])


def _correlation(points: Float64[np.ndarray, "k 2"]) -> str:
    """Pearson's r in words; a dash for fewer than three classes or a constant column."""
    kept = points[np.isfinite(points).all(-1)]
    if len(kept) < 3 or not (np.ptp(kept, axis=0) > 0).all():
        return "–"
    return f"{np.corrcoef(kept.T)[0, 1]:.2f}"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _check_lengths(names: Sequence[str], series: Values) -> None:
    wrong = [title for title, values in series.items() if len(values) != len(names)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} must have one value for each of the {len(names)} classes")
