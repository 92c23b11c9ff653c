"""Tables as figures: bars for figures 2 and 6, curves over a swept setting or a label budget."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from saot.report import INK, SERIES, WIDTH, figure_svg, per_class_bars
from saot.tables.experiment import Experiment
from saot.tables.results import Cell, TableResult

PAPER_SUFFIX = " (paper)"


def draw(experiment: Experiment, result: TableResult) -> dict[str, bytes]:
    """The table as figure.svg, where the preset asks for it."""
    if experiment.figure not in ("bars", "curve"):
        return {}
    figure = _bars(result) if experiment.figure == "bars" else _curves(experiment, result)
    return {"figure.svg": figure_svg(figure, f"{experiment.name}: {experiment.title}").encode()}


def _share(value: float | None) -> float | None:
    return None if value is None else value / 100


def _paper(cell: Cell) -> float | None:
    return float(cell.paper) if isinstance(cell.paper, int | float) else None


def _bars(result: TableResult) -> Figure:
    """Ours and the paper's side by side: a group a row, a bar a column."""
    names = [row.label for row in result.rows]
    series: dict[str, Sequence[float | None]] = {}
    for key, title in result.columns:
        series[title] = [_share(row.cells[key].mean) for row in result.rows]
    if len(result.columns) == 1:
        key, title = result.columns[0]
        paper = [_share(_paper(row.cells[key])) for row in result.rows]
        series = {title: series[title], f"{title}{PAPER_SUFFIX}": paper}
    return per_class_bars(names, series)


def _curves(experiment: Experiment, result: TableResult) -> Figure:
    """mIoU along the rows (a swept setting) or along the columns (a label budget), with the paper's points."""
    along_columns = all(key != "miou" for key, _ in result.columns)  # however few of them were asked for
    if along_columns:
        rows = [row for row in result.rows if row.label != "Labels seen"]
        ticks = [title for _, title in result.columns]
        lines: Mapping[str, list[Cell]] = {row.label: [row.cells[key] for key, _ in result.columns] for row in rows}
    else:
        ticks = [row.label for row in result.rows]
        lines = {"mIoU": [row.cells["miou"] for row in result.rows]}
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for order, (label, found) in enumerate(lines.items()):
        places = [place for place, cell in enumerate(found) if cell.mean is not None]
        means = [cell.mean or 0.0 for cell in found if cell.mean is not None]
        spread = [cell.deviation or 0.0 for cell in found if cell.mean is not None]
        style = "-" if order < len(SERIES) else "--"
        color = SERIES[order % len(SERIES)]
        axes.errorbar(places, means, yerr=spread, color=color, linestyle=style, marker="o", markersize=4, label=label)
        told = [(place, value) for place, cell in enumerate(found) if (value := _paper(cell)) is not None]
        if told:
            axes.scatter(*zip(*told, strict=True), marker="x", color=color, label=f"{label}{PAPER_SUFFIX}")
    axes.set_xticks(range(len(ticks)), ticks, rotation=20, ha="right", fontsize=8)
    axes.set_ylabel("mIoU, %", color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=8)
    axes.set_facecolor("none")
    axes.grid(axis="y", color=INK, alpha=0.12)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_alpha(0.35)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8, labelcolor=INK)
    return figure
