"""From a finished run of the main job to one cell of a table."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from saot.data import ClassSet
from saot.decoder import make_decoder
from saot.evaluate import iou_from_counts, mean_over
from saot.label import RunSettings
from saot.recipes import as_dict
from saot.tables.label.runs import GAP_METHODS, Finished
from saot.tables.label_room import Grid, MethodScore, grid_of, source_tokens
from saot.tables.table import Planned, Value, class_mean

DIGITS = {
    **dict.fromkeys(("seconds", "stage_seconds", "stage_memory", "memory", "rank_correlation"), 2),
    **dict.fromkeys(("budget", "parameters", "tokens", "source_tokens"), 0),
    "source_share": 3,
}
NO_PARAMETERS = ("nearest_neighbor", "knn_global", "label_propagation", "ot", "uot", "rwot")


def method_score(run: Finished, method: str) -> MethodScore | None:
    """What a run knows of a method; None if it was not scored."""
    return None if run.outcome is None else run.outcome.methods.get(method)


def class_iou(run: Finished, method: str) -> Float64[Tensor, " K"] | None:
    """IoU of each class over the evaluation set, %, NaN where absent; None if the method was not scored."""
    result = method_score(run, method)
    return None if result is None else 100 * iou_from_counts(result.counts.sum(0))


def memory_of(stage: Mapping[str, float]) -> float:
    """Peak memory of a stage, bytes: the device's where it ran on one, as the paper reports it; else the host's.

    Example:
        >>> memory_of({"peak_memory_bytes": 5, "device_memory_bytes": 3}), memory_of({"peak_memory_bytes": 5})
        (3, 5)
    """
    return stage.get("device_memory_bytes") or stage["peak_memory_bytes"]


def measured(plan: Planned, run: Finished, classes: ClassSet) -> Value:
    """What stands in a cell, for one seed; None where there is nothing to say."""
    of, result = plan.of, method_score(run, plan.method)
    match plan.quantity:
        case "setting":
            return filled(of or "", run.settings, classes)
        case "tokens":
            return _grid(run.settings).tokens
        case "parameters":
            return 0.0 if plan.method in NO_PARAMETERS else float(decoder_parameters(run.settings, classes))
        case "stage_seconds":
            found = _stages(of, run)
            return sum(stage["seconds"] for stage in found) if found else None
        case "stage_memory" | "memory":
            stages = _stages(of if plan.quantity == "stage_memory" else None, run)
            return max((memory_of(stage) / 2**30 for stage in stages), default=None)
        case "source_tokens" | "source_share":
            tokens = source_tokens(run.folder, len(classes.names))
            if tokens is None or of not in classes.names:
                return None
            count = float(tokens[classes.names.index(of)])
            return count if plan.quantity == "source_tokens" else 100 * count / max(float(tokens.sum()), 1.0)
        case "wrong_mass":
            share = None if run.mass is None else run.mass.get(plan.method, {}).get(of)
            return None if share is None else 100 * share
        case "seconds":
            return None if result is None else result.seconds
        case "budget":
            return None if result is None else float(result.budget)
        case "miou_edges":
            if result is None or result.edges is None:
                return None
            return class_mean("miou", None, 100 * iou_from_counts(result.edges.sum(0)), classes)
    return _from_scores(plan, run, classes)


def _from_scores(plan: Planned, run: Finished, classes: ClassSet) -> Value:
    iou = class_iou(run, plan.method)
    if iou is None:
        return None
    match plan.quantity:
        case "zero_classes":
            count = int((iou[list(classes.scored)] == 0).sum())
            return f"{count} {'class' if count == 1 else 'classes'} at 0%"
        case "rank_correlation":
            tokens = source_tokens(run.folder, len(classes.names))
            known = ~iou.isnan()
            return None if tokens is None else rank_correlation(tokens[known].double(), iou[known])
        case "closed_gap":
            ends = [class_iou(run, name) for name in GAP_METHODS]
            if ends[0] is None or ends[1] is None:
                return None
            low, high = (float(mean_over(end, classes.scored)) for end in ends if end is not None)
            return 100 * (float(mean_over(iou, classes.scored)) - low) / (high - low) if high != low else None
    return class_mean(plan.quantity, plan.of, iou, classes)


def _stages(of: str | None, run: Finished) -> list[Mapping[str, Any]]:
    stages = {} if run.outcome is None else run.outcome.stages
    patterns = (of or "*").split("|")
    return [stage for name, stage in stages.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _grid(settings: RunSettings) -> Grid:
    return grid_of(settings.backbone, settings.weights, settings.size, str(settings.eval))


def oracle_iou(runs: Sequence[tuple[Finished, str]]) -> Float64[Tensor, " K"] | None:
    """The best IoU of each class among several (run, method), %."""
    found = [iou for run, method in runs if (iou := class_iou(run, method)) is not None]
    return torch.stack(found).amax(0) if found else None


def rank_correlation(first: Float64[Tensor, " n"], second: Float64[Tensor, " n"]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where a side is constant.

    Example:
        >>> rank_correlation(torch.tensor([1.0, 5.0, 9.0]).double(), torch.tensor([2.0, 3.0, 10.0]).double())
        1.0
    """

    def ranks(values: Tensor) -> Tensor:
        below = (values.unsqueeze(0) < values.unsqueeze(1)).sum(1).double()
        same = (values.unsqueeze(0) == values.unsqueeze(1)).sum(1).double()
        return below + (same - 1) / 2

    pair = torch.stack([ranks(first), ranks(second)])
    spread = pair - pair.mean(1, keepdim=True)
    norms = spread.norm(dim=1)
    if len(first) < 2 or bool((norms == 0).any()):
        return None
    return round(float((spread[0] @ spread[1]) / norms.prod()), 12)


def decoder_parameters(settings: RunSettings, classes: ClassSet) -> int:
    """Weights of the decoder of a run."""
    decoder = make_decoder(_grid(settings).dim, len(classes.names), settings.recipe.decoder)
    return sum(parameter.numel() for parameter in decoder.parameters())


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
    words["transport.alpha"] = transport.alpha
    words["transport.damping"] = f"{1 / (1 + transport.epsilon / transport.tau):.4g}"
    wanted = [part.partition("}")[0] for part in template.split("{")[1:]]
    if {"features.dim", "decoder.parameters", "size"} & set(wanted):
        grid = _grid(settings)
        words["features.dim"], words["size"] = grid.dim, f"{grid.height}×{grid.width}"
        words["decoder.parameters"] = decoder_parameters(settings, classes)
    for path in wanted:
        if path not in words:
            raise ValueError(f"expected a setting in the template {template!r}; {path!r} is none")
        value = words[path]
        whole = isinstance(value, int) and not isinstance(value, bool)
        template = template.replace("{" + path + "}", f"{value:,}" if whole else f"{value}")
    return template
