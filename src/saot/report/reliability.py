"""The report's part on calibration: reliability diagrams, risk against coverage, thresholds."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from saot.evaluate import method_named
from saot.report.figures import INK, SERIES, WIDTH, _ink, _plain, figure_svg

RANKINGS = {"confidence": "confidence", "unmatched": "unmatched mass", "both": "both"}
BASES = {
    "pictures": "per pixel; pictures independent",
    "pixels": "per pixel; points independent",
    "points": "classes alike; points independent",
}

Bins = Mapping[str, Sequence[float]]  # share, confidence, accuracy of each bin, as in calibration.json


def reliability_figure(diagrams: Mapping[str, Bins]) -> Figure:
    """Accuracy against confidence, one line a diagram, a dot a bin; larger dots hold more pixels.

    Args:
        diagrams: Title -> `share`, `confidence` and `accuracy` of each bin, in [0, 1].

    Returns:
        The figure; on the diagonal a confidence means what it says, below it is too high.

    Raises:
        ValueError: If the columns of a diagram differ in length.
    """
    for title, bins in diagrams.items():
        if not len(bins["share"]) == len(bins["confidence"]) == len(bins["accuracy"]):
            raise ValueError(f"expected share, confidence and accuracy of each bin of {title!r}; their lengths differ")
    figure = Figure(figsize=(WIDTH * 0.72, WIDTH * 0.72), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=INK, alpha=0.35, linewidth=1, linestyle="--")
    for order, (title, bins) in enumerate(diagrams.items()):
        color = SERIES[order % len(SERIES)]
        x, y = ([100 * value for value in bins[name]] for name in ("confidence", "accuracy"))
        axes.plot(x, y, color=color, linewidth=1.2, label=_plain(title))
        axes.scatter(x, y, s=[8 + 160 * share for share in bins["share"]], color=color, alpha=0.75, linewidth=0)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.set_xlabel("confidence, %", color=INK, fontsize=8)
    axes.set_ylabel("accuracy, %", color=INK, fontsize=8)
    axes.grid(color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    _ink(axes)
    if diagrams:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def risk_coverage_figure(curves: Mapping[str, Sequence[Sequence[float]]], alphas: Sequence[float] = ()) -> Figure:
    """Error among the labelled pixels against the share that is labelled, one line a score.

    Args:
        curves: Title -> (coverage, risk) pairs in [0, 1], coverage increasing.
        alphas: Allowed errors, drawn as level lines.
    """
    figure = Figure(figsize=(WIDTH * 0.72, WIDTH * 0.72), layout="constrained")
    axes = figure.add_subplot()
    for alpha in alphas:
        axes.axhline(100 * alpha, color=INK, alpha=0.35, linewidth=0.8, linestyle=":")
    for order, (title, points) in enumerate(curves.items()):
        x, y = [100 * point[0] for point in points], [100 * point[1] for point in points]
        marker = "o" if len(points) < 3 else None
        axes.plot(x, y, color=SERIES[order % len(SERIES)], linewidth=1.4, marker=marker, label=_plain(title))
    axes.set_xlim(0, 101)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("labelled, % of pixels", color=INK, fontsize=8)
    axes.set_ylabel("wrong among them, %", color=INK, fontsize=8)
    axes.grid(color=INK, alpha=0.12)
    axes.set_axisbelow(True)
    _ink(axes)
    if curves:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8, labelcolor=INK)
    return figure


def calibration_view(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the template shows of a calibration.json; None where there is none."""
    if record is None:
        return None
    methods = [
        _method_view(name, entry, [float(alpha) for alpha in record["alphas"]])
        for name, entry in record["methods"].items()
    ]
    return {
        "notes": record["notes"],
        "held_out": record["held_out"],
        "sure": 1 - record["delta"],
        "alphas": record["alphas"],
        "methods": methods,
        "measured": any(method["before"] is not None for method in methods),
        "thresholds": record["held_out"]["points"] > 0,
    }


def _method_view(name: str, entry: Mapping[str, Any], alphas: Sequence[float]) -> dict[str, Any]:
    from markupsafe import Markup

    title, ranking = method_named(name).title, entry["ranking"] or {}
    diagram = curve = ""
    if entry["before"] is not None:
        diagrams = {"as it is": entry["before"]["equal_mass"]}
        if entry["after"] is not None:
            diagrams["with temperature"] = entry["after"]["equal_mass"]
        diagram = figure_svg(reliability_figure(diagrams), f"reliability diagram of {title}")
        curves = {RANKINGS[score]: values["curve"] for score, values in ranking.items()}
        curve = figure_svg(risk_coverage_figure(curves, alphas), f"risk against coverage of {title}")
    best = min(ranking, key=lambda score: ranking[score]["aurc"], default=None)
    return {
        "title": title,
        "temperature": entry["temperature"],
        "before": entry["before"],
        "after": entry["after"],
        "diagram": Markup(diagram),
        "curve": Markup(curve),
        "rankings": [(RANKINGS[score], values) for score, values in ranking.items()],
        "best": None if best is None else RANKINGS[best],
        "abstain": [_threshold_row(alpha, part) for alpha, part in entry["abstain"].items()],
    }


def _threshold_row(alpha: str, part: Mapping[str, Any]) -> dict[str, Any]:
    used = {} if part["basis"] is None else part[part["basis"]]
    return {
        "alpha": float(alpha),
        "basis": "no threshold" if part["basis"] is None else BASES[part["basis"]],
        "threshold": part["threshold"],
        "coverage": used.get("coverage"),
        "error": used.get("error"),
    }
