"""From the counts of a run to one cell of a table."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from saot.data import ClassSet
from saot.evaluate import iou_from_counts, mean_over
from saot.label import RunSettings
from saot.recipes import as_dict
from saot.tables.model import Quantity
from saot.tables.pieces import Scored, decoder_parameters, grid_of, rank_correlation, source_tokens

Value = float | str | None
DIGITS: dict[str, int] = {
    "seconds": 2,
    "stage_seconds": 2,
    "stage_memory": 2,
    "memory": 2,
    "budget": 0,
    "parameters": 0,
    "tokens": 0,
    "source_tokens": 0,
    "source_share": 3,
    "rank_correlation": 2,
}
NO_PARAMETERS = ("nearest_neighbor", "knn_global", "label_propagation", "ot", "uot", "rwot")
GAP_METHODS = ("mlp", "oracle")  # the ends of the gap that "closed_gap" measures


@dataclass(frozen=True)
class Finished:
    """One run of a table, finished.

    Attributes:
        settings: Behind it.
        folder: Where it lies.
        outcome: Counts of its methods; None where the table needs none.
        mass: Method -> share of plan mass between different classes, overall (None) and by class name.
    """

    settings: RunSettings
    folder: Path
    outcome: Scored | None = None
    mass: Mapping[str, Mapping[str | None, float | None]] | None = None


def class_iou(run: Finished, method: str) -> Float64[Tensor, " K"] | None:
    """IoU of each class over the evaluation set, %, NaN where absent; None if the method was not scored."""
    result = None if run.outcome is None else run.outcome.methods.get(method)
    return None if result is None else 100 * iou_from_counts(result.counts.sum(0))


def measured(quantity: Quantity, of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    """What stands in a cell, for one seed; None where there is nothing to say."""
    if quantity == "setting":
        return filled(of or "", run.settings, classes)
    if quantity == "tokens":
        settings = run.settings
        return grid_of(settings.backbone, settings.weights, settings.size, str(settings.eval)).tokens
    if quantity == "parameters":
        return _parameters(run.settings, method, classes)
    if quantity in ("miou", "miou16", "miou13", "iou", "zero_classes", "rank_correlation", "closed_gap"):
        return _from_scores(quantity, of, method, run, classes)
    return _OTHERS[quantity](of, method, run, classes) if quantity in _OTHERS else None


def _from_scores(quantity: Quantity, of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    iou = class_iou(run, method)
    if iou is None:
        return None
    match quantity:
        case "miou":
            return _number(mean_over(iou, classes.scored))
        case "miou16" | "miou13":
            return _number(mean_over(iou, classes.subsets[quantity])) if quantity in classes.subsets else None
        case "iou":
            return _number(iou[classes.names.index(of)]) if of in classes.names else None
        case "zero_classes":
            count = int((iou[list(classes.scored)] == 0).sum())
            return f"{count} {'class' if count == 1 else 'classes'} at 0%"
        case "rank_correlation":
            tokens = source_tokens(run.folder, len(classes.names))
            known = ~iou.isnan()
            return None if tokens is None else rank_correlation(tokens[known].double(), iou[known])
        case _:
            ends = [class_iou(run, name) for name in GAP_METHODS]
            if ends[0] is None or ends[1] is None:
                return None
            low, high = (float(mean_over(end, classes.scored)) for end in ends if end is not None)
            return 100 * (float(mean_over(iou, classes.scored)) - low) / (high - low) if high != low else None


def _number(value: Tensor) -> float | None:
    return None if bool(value.isnan()) else float(value)


def _seconds(of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    result = None if run.outcome is None else run.outcome.methods.get(method)
    return None if result is None else result.seconds


def _budget(of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    result = None if run.outcome is None else run.outcome.methods.get(method)
    return None if result is None else float(result.budget)


def _stages(of: str | None, run: Finished) -> list[Mapping[str, Any]]:
    stages = {} if run.outcome is None else run.outcome.stages
    patterns = (of or "*").split("|")
    return [stage for name, stage in stages.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _stage_seconds(of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    found = _stages(of, run)
    return sum(stage["seconds"] for stage in found) if found else None


def _stage_memory(of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    return max((stage["peak_memory_bytes"] / 2**30 for stage in _stages(of, run)), default=None)


def _source_tokens(of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    tokens = source_tokens(run.folder, len(classes.names))
    return None if tokens is None or of not in classes.names else float(tokens[classes.names.index(of)])


def _source_share(of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    tokens = source_tokens(run.folder, len(classes.names))
    if tokens is None or of not in classes.names:
        return None
    return 100 * float(tokens[classes.names.index(of)]) / max(float(tokens.sum()), 1.0)


def _wrong_mass(of: str | None, method: str, run: Finished, classes: ClassSet) -> Value:
    share = None if run.mass is None else run.mass.get(method, {}).get(of)
    return None if share is None else 100 * share


_OTHERS: dict[str, Callable[[str | None, str, Finished, ClassSet], Value]] = {
    "seconds": _seconds,
    "budget": _budget,
    "stage_seconds": _stage_seconds,
    "stage_memory": _stage_memory,
    "memory": lambda of, method, run, classes: _stage_memory(None, method, run, classes),
    "source_tokens": _source_tokens,
    "source_share": _source_share,
    "wrong_mass": _wrong_mass,
}


def oracle_iou(runs: Sequence[tuple[Finished, str]]) -> Float64[Tensor, " K"] | None:
    """The best IoU of each class among several (run, method), %."""
    found = [iou for run, method in runs if (iou := class_iou(run, method)) is not None]
    return torch.stack(found).amax(0) if found else None


def _parameters(settings: RunSettings, method: str, classes: ClassSet) -> float | None:
    if method in NO_PARAMETERS:
        return 0.0
    grid = grid_of(settings.backbone, settings.weights, settings.size, str(settings.eval))
    return float(decoder_parameters(settings.recipe.decoder, grid.dim, len(classes.names)))


class _Words(dict):
    """Values by dotted path for a template: `{transport.k}`."""

    def __getitem__(self, path: str) -> str:
        value = super().__getitem__(path)
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else f"{value}"


def filled(template: str, settings: RunSettings, classes: ClassSet) -> str:
    """A template with the settings of a run: `{transport.k}`, `{points}`, `{size}`, `{decoder.parameters}`.

    Raises:
        ValueError: If the template names something that is no setting.
    """
    recipe = as_dict(settings.recipe)
    words = {
        f"{part}.{name}": value for part, inner in recipe.items() if part != "name" for name, value in inner.items()
    }
    words |= {"points": settings.points, "classes": len(classes.names)}
    transport = settings.recipe.transport
    words["transport.damping"] = f"{1 / (1 + transport.epsilon / transport.tau):.4g}"
    wanted = [part.partition("}")[0] for part in template.split("{")[1:]]
    if {"features.dim", "decoder.parameters", "size"} & set(wanted):
        grid = grid_of(settings.backbone, settings.weights, settings.size, str(settings.eval))
        words["features.dim"], words["size"] = grid.dim, f"{grid.height}×{grid.width}"
        words["decoder.parameters"] = decoder_parameters(settings.recipe.decoder, grid.dim, len(classes.names))
    lookup = _Words(words)
    for path in wanted:
        if path not in words:
            raise ValueError(f"expected a setting in the template {template!r}; {path!r} is none")
        template = template.replace("{" + path + "}", lookup[path])
    return template
