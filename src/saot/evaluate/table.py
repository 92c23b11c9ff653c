"""Methods in the order of the tables: entries of metrics.json, rows for reading."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from saot.data import ClassSet
from saot.evaluate.confusion import ConfusionMatrix

PREDICTED_TOO = "miou_predicted_too"
EDGES = "miou_edges"

GROUPS = {
    "paper": "The paper's baselines (source labels only)",
    "beyond": "Beyond the paper (source labels only)",
    "same_points": "With the same target points as SAOT",
    "ours": "SAOT",
    "adapted": "Trained end to end (source labels only)",
    "reference": "For scale, not competitors",
    "other": "Other",
}


@dataclass(frozen=True)
class Method:
    """A method's name in metrics.json, how a person reads it, its group, and what its label budget counts."""

    name: str
    title: str
    group: str
    what: str
    unit: Literal["points", "pixels"] = "points"


METHODS = (
    Method("nearest_neighbor", "Nearest neighbour", "paper", "label of the most similar source token"),
    Method("knn_global", "kNN, global bank", "paper", "softmax vote of 10 source tokens from all pictures"),
    Method("linear_probe", "Linear probe", "paper", "linear classifier on source tokens"),
    Method("prototypes", "Prototypes", "paper", "nearest mean feature of a class"),
    Method("ot", "OT", "paper", "balanced transport, fixed cost"),
    Method("uot", "UOT", "paper", "unbalanced transport, fixed cost"),
    Method("rwot", "RWOT", "paper", "transport with reweighted source tokens"),
    Method("label_propagation", "Label propagation", "paper", "labels diffused over a neighbour graph"),
    Method("mlp", "MLP", "beyond", "a small network on source tokens"),
    Method("mlp_ema", "MLP + EMA", "beyond", "that network, self-trained on the target"),
    Method("linear_probe_points", "Linear probe + points", "same_points", "source tokens and the target points"),
    Method("mlp_points", "MLP + points", "same_points", "source tokens and the target points"),
    Method("mlp_points_ema", "MLP + points + EMA", "same_points", "that network, self-trained on the target"),
    Method("semantic_prior", "Semantic prior", "same_points", "the class predictor of the learned cost, alone"),
    Method("best_no_transport", "Best, no transport", "same_points", "preset best without the plan"),
    Method("saot", "SAOT", "ours", "learned cost, labels carried by the plan from one source picture"),
    Method("saot_multi", "SAOT, several sources", "ours", "the same, averaged over several source pictures"),
    Method("saot_decoder", "SAOT + decoder", "ours", "one network distilled from the transported labels"),
    Method("source_only", "Source only", "adapted", "the whole network, trained on labelled source pictures alone"),
    Method("dacs", "DACS", "adapted", "mean teacher on mixed pictures, with DAFormer's strategies"),
    Method("t2s_da", "T2S-DA", "adapted", "the same, translated source pixels drawn to source prototypes"),
    Method("t2s_da_dg", "T2S-DA, no target", "adapted", "domain generalisation: no target picture is used"),
    Method("grid_ceiling", "Grid ceiling", "reference", "the true patch labels, upsampled: what the grid allows"),
    Method("oracle", "Oracle", "reference", "MLP on all source and all target training labels", "pixels"),
)


def method_named(name: str) -> Method:
    """What is known of a method; an unknown name gets the group "other" and itself as title."""
    for method in METHODS:
        if method.name == name:
            return method
    return Method(name, name.replace("_", " "), "other", "")


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def method_entry(
    confusion: ConfusionMatrix | None, classes: ClassSet, label_budget: int, edges: ConfusionMatrix | None = None
) -> dict[str, Any]:
    """A method's entry in metrics.json, plain: `miou`, `miou_predicted_too`, `iou` by name and `label_budget`.

    `miou` is over the classes of `classes.scored` that occur in the truth, and each of `classes.subsets` ("miou16",
    "miou13") adds its own mean. `miou_predicted_too` also counts those that are predicted alone, as 0; `miou_edges`
    is over the pixels near an edge of the truth alone (`near_edges`).

    Args:
        confusion: Counts over the data set; None where there are no evaluation labels.
        classes: Names, in the order of the counts.
        label_budget: Target labels the method used: points, or pixels for the oracle.
        edges: Counts of the pixels near an edge; None where they were not counted.

    Returns:
        Plain JSON values; None where a class never occurs or nothing could be scored.

    Raises:
        ValueError: If the counts have another number of classes than `classes`.
    """
    means = {"miou": classes.scored, PREDICTED_TOO: classes.scored, **classes.subsets}
    if confusion is None:
        iou = [math.nan] * len(classes.names)
        scores = dict.fromkeys(means)
    elif confusion.num_classes != len(classes.names):
        raise ValueError(
            f"the counts have {confusion.num_classes} classes but {classes.name} has {len(classes.names)}; "
            "score with the class set of the run"
        )
    else:
        iou = confusion.iou().tolist()
        scores = {
            name: _or_null(confusion.mean_iou(chosen, predicted_too=name == PREDICTED_TOO))
            for name, chosen in means.items()
        }
    scores[EDGES] = None if edges is None else _or_null(edges.mean_iou(classes.scored))
    per_class = {name: _or_null(value) for name, value in zip(classes.names, iou, strict=True)}
    return {**scores, "iou": per_class, "label_budget": int(label_budget)}


@dataclass(frozen=True)
class TableRow:
    """One method as a line of the table; `miou`, `predicted_too` and `means` in [0, 1], None where not scored."""

    method: Method
    miou: float | None
    means: Mapping[str, float | None]
    iou: Mapping[str, float | None]
    label_budget: int
    predicted_too: float | None = None

    @property
    def budget(self) -> str:
        """The label budget in words: "none", "380 points", "12,000 pixels"."""
        if self.method.name == "grid_ceiling":
            return "the truth itself"
        return f"{self.label_budget:,} {self.method.unit}" if self.label_budget else "none"


def table_rows(metrics: Mapping[str, Any]) -> tuple[TableRow, ...]:
    """The methods of a metrics.json in reading order: by group, and in the order of `METHODS` within each.

    Args:
        metrics: The contents of metrics.json.

    Returns:
        One row a method; unknown methods last, by name.
    """
    methods = metrics.get("methods", {})
    groups, order = list(GROUPS), [method.name for method in METHODS]
    known = [method_named(name) for name in sorted(methods)]
    known.sort(key=lambda m: (groups.index(m.group), order.index(m.name) if m.name in order else len(order)))
    return tuple(
        TableRow(
            method=method,
            miou=methods[method.name].get("miou"),
            means={
                k: v
                for k, v in methods[method.name].items()
                if k.startswith("miou") and k not in ("miou", PREDICTED_TOO)
            },
            iou=methods[method.name].get("iou", {}),
            label_budget=methods[method.name].get("label_budget", 0),
            predicted_too=methods[method.name].get(PREDICTED_TOO),
        )
        for method in known
    )


def extra_means(rows: Sequence[TableRow]) -> tuple[str, ...]:
    """The further means that any row has, the one over most classes first: `("miou16", "miou13", "miou_edges")`."""
    names = {name for row in rows for name, value in row.means.items() if name != EDGES or value is not None}
    return tuple(sorted(sorted(names), key=lambda name: -int("0" + "".join(filter(str.isdigit, name)))))


def mean_title(name: str) -> str:
    """How a person reads the name of a further mean.

    Example:
        >>> mean_title("miou16"), mean_title("miou_edges")
        ('mIoU-16 %', 'mIoU at edges %')
    """
    return "mIoU at edges %" if name == EDGES else f"mIoU-{name.removeprefix('miou')} %"


def predicted_alone(rows: Sequence[TableRow]) -> list[TableRow]:
    """The rows with both means; none where no method predicts a class that is absent from the truth, so they agree."""
    both = [row for row in rows if row.predicted_too is not None]
    return both if any(row.predicted_too != row.miou for row in both) else []


def format_table(metrics: Mapping[str, Any]) -> str:
    """The table of methods as text: grouped, mIoU in percent, label budget in words.

    Where a class is predicted that is absent from the truth, a line says what the mean would be if it counted as 0.

    Example:
        >>> entry = {"miou": 0.25, "iou": {}, "label_budget": 40}
        >>> print(format_table({"methods": {"saot": entry, "uot": {"miou": None, "label_budget": 0}}}))
        method  mIoU %  target labels
        The paper's baselines (source labels only)
          UOT        -           none
        SAOT
          SAOT    25.0      40 points
    """
    rows = table_rows(metrics)
    extra = extra_means(rows)
    head = ["method", "mIoU %", *map(mean_title, extra), "target labels"]
    body = [
        [
            f"  {row.method.title}",
            _percent(row.miou),
            *(_percent(row.means.get(k)) for k in extra),
            row.budget,
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines, group = [_aligned(head, widths)], None
    for row, line in zip(rows, body, strict=True):
        if row.method.group != group:
            group = row.method.group
            lines.append(GROUPS[group])
        lines.append(_aligned(line, widths))
    if other := predicted_alone(rows):
        means = ", ".join(f"{row.method.title} {_percent(row.predicted_too)}" for row in other)
        lines.append(f"If classes that are predicted but absent from the truth counted as 0: {means}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])
