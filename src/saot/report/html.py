"""report.html: one self-contained file with everything a run can show."""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from saot.data import write_atomic
from saot.evaluate import GROUPS, METHODS, TableRow, extra_means, mean_title, method_named, predicted_alone, table_rows
from saot.report.contents import Figure, MassMap, Panel, PatchStory, ReportData, SourcePatch, Table

__all__ = [
    "Figure",
    "MassMap",
    "Panel",
    "PatchStory",
    "ReportData",
    "SourcePatch",
    "Table",
    "render_report",
    "write_report",
]

MAX_BYTES = 8_000_000  # what mail servers still carry
WIDTHS = (560, 400, 280, 180)  # widths of pictures to try, pixels, until the file is small enough
SHOWN_FIRST = ("nearest_neighbor", "uot", "saot", "saot_decoder")
OURS = ("saot_decoder", "saot_multi", "saot")
RUN_FACTS = (
    "source",
    "target",
    "eval",
    "backbone",
    "preset",
    "points",
    "label_budget",
    "seed",
    "device",
    "commit",
)

GOOD, WEAK = 0.7, 0.4  # IoU from which a class is called strong, below which it is called weak; words, not science
ABBREVIATIONS = {
    "mIoU": "mean intersection over union: for each class the pixels that mask and truth share, divided by those that "
    "either has; the mean over the classes",
    "IoU": "intersection over union: the pixels of a class that mask and truth share, divided by those that either has",
    "SAOT": "Semantically Aware Optimal Transport, the method behind this tool: labels are carried along a transport "
    "plan between the features of two pictures",
    "OT": "optimal transport: all weight of the target is matched with weight of the source",
    "UOT": "unbalanced optimal transport: the plan may leave weight unmatched at a price",
    "RWOT": "reweighted optimal transport: source tokens do not all count the same",
    "kNN": "k nearest neighbours: the k source tokens whose features are most alike vote",
    "MLP": "multi-layer perceptron: a small network that sees one token at a time",
    "EMA": "exponential moving average: a network learns on from labels that a slowly following copy of it gives",
    "T2S-DA": "target to source domain adaptation, a method that trains the whole network",
    "DACS": "domain adaptation by cross-domain mixed sampling: trained on pictures pasted together from both domains",
    "ECE": "expected calibration error: the mean gap between how sure the network is and how often it is right",
    "AURC": "area under the risk-coverage curve: the mean error over all shares of pixels labelled, the surest first",
    "AUROC": "area under the ROC curve: how often a right pixel is surer than a wrong one; 50 % is chance",
    "CCD": "class centre distance: how far features lie from the mean of their class; lower is better",
    "PDD": "pixel-wise discrimination distance: how badly single features tell classes apart; lower is better",
    "t-SNE": "t-distributed stochastic neighbour embedding: a drawing in which like features lie near each other",
    "CPU": "the main processor of a machine",
    "GPU": "a graphics card, which computes many numbers at a time",
    "DAFormer": "a recipe for training a whole network on one domain for another",
    "JSON": "a text format for data",
}
UNEXPLAINED = ("script", "style", "pre", "code", "svg")
WORDS = "<!-- words -->"
SUBSET = "the same mean over {} of the classes alone, as papers on such data print it"


def write_report(path: Path, data: ReportData) -> None:
    """Writes the report as one HTML file that needs nothing beside it, whole or not at all.

    Raises:
        ValueError: If a mask does not fit its picture or the classes.
        OSError: If the file cannot be written.
    """
    write_atomic(Path(path), render_report(data).encode())


def render_report(data: ReportData) -> str:
    """The report's HTML; pictures shrink, then some are left out, until it fits MAX_BYTES.

    Raises:
        ValueError: If a mask does not fit its picture or the classes.
    """
    from jinja2 import Environment, StrictUndefined

    source = files("saot.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "seconds": _seconds, "memory": _memory, "breakable": _breakable}
    template = environment.from_string(source)
    shared = _numbers(data)
    attempts = [(width, 1000) for width in WIDTHS] + [(WIDTHS[-1], count) for count in (32, 16, 8, 4, 2, 1)]
    text = ""
    for width, count in attempts:
        text = _explained(template.render(**shared, **_pictures(data, width, count)))
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _explained(page: str) -> str:
    """The page with the meaning of every abbreviation where it stands, and a list of them at `WORDS`."""
    head, start, body = page.partition("<body>")
    names = "|".join(map(re.escape, sorted(ABBREVIATIONS, key=len, reverse=True)))
    found: set[str] = set()

    def spell(match: re.Match[str]) -> str:
        name, subset = match[1], match[2]
        found.add(name)
        meaning = ABBREVIATIONS[name] if subset is None else SUBSET.format(subset[1:])
        return f'<abbr title="{meaning}">{match[0]}</abbr>'

    closing, parts = "", re.split(r"(<[^>]*>)", body)  # a tag holds no ">": the template escapes it
    for place, part in enumerate(parts):
        if part.startswith("<"):
            tag = re.match(r"</?([a-zA-Z0-9]+)", part)
            name = tag[1].lower() if tag else ""
            if closing:
                closing = "" if part == closing else closing
            elif name in UNEXPLAINED and not part.startswith("</"):
                closing = f"</{name}>"
        elif not closing:
            parts[place] = re.sub(rf"(?<![\w-])({names})(-\d+)?(?![\w-])", spell, part)
    entries = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in ABBREVIATIONS.items() if name in found)
    return head + start + "".join(parts).replace(WORDS, f"<dl>{entries}</dl>" if entries else "")


def _numbers(data: ReportData) -> dict[str, Any]:
    """What the template shows beside pictures."""
    rows = table_rows(data.metrics)
    scores = [value for row in rows for value in (row.miou, *row.means.values()) if value is not None]
    swatches = [f"rgb({r}, {g}, {b})" for r, g, b in data.classes.colors]
    # with labels, a class that no method has an IoU for does not occur
    absent = [name for name in data.classes.names if all(row.iou.get(name) is None for row in rows)]
    run = shlex.quote(data.folder) if data.folder else "RUN"
    return {
        "title": data.title,
        "notes": data.notes,
        "estimate": _estimate(data),
        "facts": _facts(data.run),
        "stages": _stages(data.run),
        "stage_words": _stage_words(_stages(data.run)),
        "run_json": json.dumps(data.run, indent=2, default=str),
        "images": data.metrics.get("images"),
        "split": data.metrics.get("split"),
        "scored": bool(scores),
        "groups": _grouped(rows),
        "means": [(name, mean_title(name)) for name in extra_means(rows)] if scores else [],
        "scale": math.ceil(max(scores, default=1.0) * 10 + 1e-9) / 10,
        "headline": _headline(rows),
        "classes": list(zip(data.classes.names, swatches, strict=True)),
        "absent": absent if scores else [],
        "predicted_alone": [f"{row.method.title} {_percent(row.predicted_too)}" for row in predicted_alone(rows)],
        "names": data.classes.names,
        "by_class": _by_class(rows, data),
        "verdict": _verdict(rows, data),
        "command": f"saot predict {run} new/ --out masks --format png,color",
        "run": run if "estimate" in data.run else None,  # of `saot run`, which alone can be looked into
        "differences": data.differences,
        **_figures(rows, data),
        **_further(data),
    }


def _lookup(run: Mapping[str, Any], name: str) -> Any:
    settings = run.get("settings")
    inner = settings.get(name) if isinstance(settings, Mapping) else None
    return run.get(name, inner)


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(name, _lookup(run, name)) for name in RUN_FACTS]
    words = [(name, _words(value)) for name, value in found if value is not None]
    if _lookup(run, "eval") is None:
        words.insert(min(2, len(words)), ("eval", "none"))
    return [(name.replace("_", " "), value) for name, value in words]


def _words(value: Any) -> str:
    """A setting as a person reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_words(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(inner) for inner in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _stages(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    stages = run.get("stages") or {}
    longest = max((stage.get("seconds") or 0 for stage in stages.values()), default=0) or 1
    return [
        {
            "name": name,
            "seconds": stage.get("seconds"),
            "share": (stage.get("seconds") or 0) / longest,
            "memory": stage.get("peak_memory_bytes"),
        }
        for name, stage in stages.items()
    ]


def _stage_words(stages: Sequence[Mapping[str, Any]]) -> str:
    """What stands over the folded table of stages."""
    seconds = _seconds(sum(stage["seconds"] or 0 for stage in stages))
    peak = _memory(max((stage["memory"] or 0 for stage in stages), default=0) or None)
    return f"Time and memory: {len(stages)} stages, {seconds}, at most {peak}"


def _grouped(rows: Sequence[TableRow]) -> list[tuple[str, str, list[TableRow]]]:
    parts = [(key, title, [row for row in rows if row.method.group == key]) for key, title in GROUPS.items()]
    return [part for part in parts if part[2]]


def _headline(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """Our best row, then the strongest of each group of competitors."""
    tiles = []
    captions = {
        "ours": "",
        "same_points": "strongest with the same target points",
        "beyond": "strongest beyond the paper, source labels only",
        "paper": "strongest of the paper's baselines",
    }
    for group, caption in captions.items():
        scored = [row for row in rows if row.method.group == group and row.miou is not None]
        if scored:
            best = max(scored, key=lambda row: row.miou or 0.0)
            tiles.append({"row": best, "caption": caption or best.method.what, "ours": group == "ours"})
    return tiles


def _place(name: str) -> int:
    """Our methods first, the others after all of them."""
    return OURS.index(name) if name in OURS else len(OURS)


def _by_class(rows: Sequence[TableRow], data: ReportData) -> dict[str, Any]:
    """Columns and lines of the per-class table, our methods first."""
    ordered = sorted(rows, key=lambda row: _place(row.method.name))
    counts = next((counts for counts in data.confusions.values()), None)
    shares: list[float | None] = [None] * len(data.classes.names)
    if counts is not None and int(counts.sum()) > 0:
        shares = (counts.sum(1).double() / counts.sum()).tolist()
    lines = [
        {"name": name, "index": index, "share": share, "iou": [row.iou.get(name) for row in ordered]}
        for index, (name, share) in enumerate(zip(data.classes.names, shares, strict=True))
    ]
    return {"methods": [row.method for row in ordered], "lines": lines}


def _verdict(rows: Sequence[TableRow], data: ReportData) -> dict[str, Any]:
    """How good our masks are in plain words: share of right pixels, strong and weak classes, what is sure."""
    ours = next((row for name in OURS for row in rows if row.method.name == name and row.miou is not None), None)
    ours = ours or max((row for row in rows if row.miou is not None), key=lambda row: row.miou or 0.0, default=None)
    counts = None if ours is None else data.confusions.get(ours.method.name)
    right = None
    if counts is not None and int(counts.sum()) > 0:
        right = int(counts.diagonal().sum()) / int(counts.sum())
    estimate = _estimate(data) or {}
    iou = dict(ours.iou) if ours is not None else {name: value for name, value, *_ in estimate.get("known", ())}
    found = [(n, index, v) for index, n in enumerate(data.classes.names) if (v := iou.get(n)) is not None]
    found.sort(key=lambda one: -one[2])
    weak = [one for one in found if one[2] < WEAK]
    say = "" if ours is not None else ", as expected"
    return {
        "right": right,
        "strengths": [
            (f"Strong (IoU of {GOOD:.0%} or more{say})", [one for one in found if one[2] >= GOOD]),
            ("In between", [one for one in found if WEAK <= one[2] < GOOD]),
            (f"Weak (below {WEAK:.0%}{say})", weak),
        ],
        "weak": bool(weak),
        "sure": _sure(data.calibration),
    }


def _sure(calibration: Mapping[str, Any] | None) -> list[tuple[str, float | None]]:
    """The allowed error nearest 5 % that has a threshold, as --abstain takes it, and the share of pixels left."""
    abstain = ((calibration or {}).get("methods", {}).get("saot_decoder") or {}).get("abstain", {})
    held = [(alpha, part) for alpha, part in abstain.items() if part["threshold"] is not None and part["basis"]]
    held.sort(key=lambda one: abs(float(one[0]) - 0.05))
    return [(alpha, part[part["basis"]].get("coverage")) for alpha, part in held[:1]]


def _estimate(data: ReportData) -> dict[str, Any] | None:
    """run.json's estimate with the classes that have points, the worst first; None where the run has none."""
    estimate = data.run.get("estimate")
    if estimate is None or estimate["miou"] is None:
        return estimate
    known = [(name, *values) for name, values in estimate["classes"].items() if values is not None]
    unknown = [name for name, values in estimate["classes"].items() if values is None]
    return {**estimate, "known": sorted(known, key=lambda row: row[1]), "unknown": unknown}


def _figures(rows: Sequence[TableRow], data: ReportData) -> dict[str, Any]:
    """Bars, confusion matrix, curves and calibration as inline SVG."""
    from markupsafe import Markup

    from saot.report import figures
    from saot.report.reliability import calibration_view

    names, by_name = data.classes.names, {row.method.name: row for row in rows}
    picked = [by_name[name] for name in SHOWN_FIRST if name in by_name and by_name[name].miou is not None]
    picked = picked or [row for row in rows if row.miou is not None][:4]
    bars = ""
    if picked:
        occurring = [name for name in names if any(row.iou.get(name) is not None for row in picked)]
        series = {row.method.title: [row.iou.get(name) for name in occurring] for row in picked}
        bars = figures.figure_svg(figures.per_class_bars(occurring, series), "IoU of each class")
    chosen = next((name for name in (*OURS, *data.confusions) if name in data.confusions), None)
    confusion, title, worst = "", "", []
    if chosen is not None and int(data.confusions[chosen].sum()) > 0:
        title = method_named(chosen).title
        confusion = figures.figure_svg(
            figures.confusion_figure(data.confusions[chosen].cpu(), names), f"confusion matrix of {title}"
        )
        worst = _worst_confusions(data.confusions[chosen], names)
    curves = [
        Markup(figures.figure_svg(figures.curves_figure({name: points}), f"training curve {name}"))
        for name, points in data.curves.items()
        if len(points)
    ]
    return {
        "bars": Markup(bars),
        "confusion": Markup(confusion),
        "confusion_title": title,
        "worst": worst,
        "curves": curves,
        "calibration": calibration_view(data.calibration),
    }


def _further(data: ReportData) -> dict[str, Any]:
    """Drawings as data URIs, and tables whose columns of numbers are told from columns of words."""
    from saot.report.figures import png_uri

    tables = []
    for table in data.tables:
        numeric = [all(_is_number(row[place]) for row in table.rows) for place in range(len(table.columns))]
        rows = [list(zip(row, numeric, strict=True)) for row in table.rows]
        head = list(zip(table.columns, numeric, strict=True))
        tables.append({"title": table.title, "text": table.text, "head": head, "rows": rows})
    drawn = [{"title": figure.title, "text": figure.text, "uri": png_uri(figure.png)} for figure in data.figures]
    return {"further_figures": drawn, "further_tables": tables}


def _is_number(cell: str) -> bool:
    """Whether a cell reads as a number with or without a unit, or as a missing one."""
    return cell[:1] in tuple("0123456789+-−–∞") or not cell


def _worst_confusions(
    counts: Int64[Tensor, "k k"], names: Sequence[str], limit: int = 6
) -> list[tuple[str, str, float]]:
    """(truth, prediction, share of the truth) of the largest confusions above 5 %."""
    total = counts.sum(1)
    found = [
        (names[t], names[p], int(counts[t, p]) / int(total[t]))
        for t in range(len(names))
        for p in range(len(names))
        if t != p and int(counts[t, p]) > 0.05 * int(total[t])
    ]
    return sorted(found, key=lambda item: -item[2])[:limit]


def _pictures(data: ReportData, width: int, count: int) -> dict[str, Any]:
    """Panels, stories and maps as data URIs, at most `count` of each and `width` pixels wide."""
    from markupsafe import Markup

    from saot.report import figures, pictures

    present = {name for panel in data.panels for name in panel.predictions}
    known = [method.name for method in METHODS if method.name in present]
    order = sorted(known, key=_place)
    order += sorted(present - set(order))
    first = [name for name in SHOWN_FIRST if name in present] or order[:4]
    seen = {method_named(name).name for panel in data.panels[:count] for name in panel.predictions}
    left_out = sum(max(0, len(part) - count) for part in (data.panels, data.stories, data.maps))
    return {
        "seen_methods": seen,
        "shown_in": _shown_in(data, first, count),
        "words_place": Markup(WORDS),
        "panel_methods": [(method_named(name), name in first) for name in order],
        "panels": [pictures.panel_view(panel, order, data.classes, width) for panel in data.panels[:count]],
        "stories": [pictures.story_view(story, data.classes, width) for story in data.stories[:count]],
        "maps": [pictures.map_view(item, width) for item in data.maps[:count]],
        "mass_scale": figures.mass_scale_css(),
        "left_out": left_out,
    }


def _shown_in(data: ReportData, methods: Sequence[str], count: int) -> dict[int, int]:
    """Class -> number, from 1, of the picture with most of its pixels: of the truth, else of the first mask shown."""
    best: dict[int, tuple[int, int]] = {}
    for number, panel in enumerate(data.panels[:count], start=1):
        masks = [panel.predictions[name] for name in methods if name in panel.predictions]
        for mask in [panel.truth] if panel.truth is not None else masks[:1]:
            for label, pixels in zip(*np.unique(mask, return_counts=True), strict=True):
                best[int(label)] = max(best.get(int(label), (0, 0)), (int(pixels), number))
    return {label: number for label, (_, number) in best.items()}


def _percent(value: int | float | None, digits: int = 1) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def _breakable(text: str) -> Any:
    """Text that a narrow screen breaks after the marks of a path or a list, not within a word."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=[:,/=_])(?=\w)", "<wbr>", str(escape(text))))


def _seconds(value: int | float | None) -> str:
    if value is None:
        return "–"
    if value < 120:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _memory(value: int | float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
