"""What a table of labelling makes of the settings of each row, under what was asked."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from saot.features import Padded
from saot.label import RunSettings, parse_size
from saot.recipes import (
    BEST,
    FAST,
    PAPER,
    PAPER_PICTURES,
    PAPER_POINTS,
    PAPER_SIZE,
    PAPER_SMALL,
    Recipe,
    replaced,
    with_words,
)
from saot.tables.experiment import Changes, Count, Experiment, Row, Size
from saot.tables.label_room import available_pictures, grid_of, patch_size
from saot.tables.request import Request

BASE_SIZE = Size(PAPER_SIZE, 1.0)
MOST_PICTURES = 2_000  # the largest count of table 3; stands for all pictures where counts are not the paper's
TINY_STEPS = (2, 5)  # fewest and most steps of any training under --counts tiny

# fields that only say how long and how large: under --counts paper, preset best takes the paper's
_COUNT_FIELDS = (
    *("cost.steps", "decoder.hidden", "decoder.steps", "decoder.batch", "refine.steps", "refine.batch"),
    *("refine.ema_decay", "refine.regenerate", "baselines.bank", "baselines.propagation_bank"),
)


def _at(recipe: Recipe, path: str) -> Any:
    part, _, field = path.partition(".")
    return getattr(getattr(recipe, part), field)


def base_recipe(counts: str, preset: str = "paper") -> Recipe:
    """The recipe a table starts from.

    Args:
        counts: How long and large, see `Request`.
        preset: "paper", "fast" or "best".

    Raises:
        ValueError: If there is no such preset.

    Example:
        >>> base_recipe("small").cost.steps, base_recipe("paper").cost.steps, base_recipe("tiny").cost.steps
        (1000, 14000, 5)
    """
    ours = {"fast": FAST, "best": BEST}
    if preset != "paper" and preset not in ours:
        raise ValueError(f"expected the preset of a row as paper, fast or best; got {preset!r}")
    if counts == "paper":
        recipe = PAPER if preset == "paper" else replace(ours[preset], name=f"{preset}-paper-counts")
        for path in _COUNT_FIELDS:
            recipe = replaced(recipe, path, _at(PAPER, path))
        return recipe
    recipe = PAPER_SMALL if preset == "paper" else ours[preset]
    return recipe if counts == "small" else tiny(recipe)


def tiny(recipe: Recipe) -> Recipe:
    """The recipe cut to a few steps of narrow networks: it shows that a table runs, and nothing about methods."""
    most = TINY_STEPS[1]
    return replace(
        recipe,
        name=f"{recipe.name}-tiny",
        transport=replace(recipe.transport, k=min(recipe.transport.k, 16)),
        cost=replace(recipe.cost, dim=8, steps=min(recipe.cost.steps, most)),
        transfer=replace(recipe.transfer, multi_sources=2, pseudo_sources=2),
        decoder=replace(recipe.decoder, hidden=16, blocks=1, steps=min(recipe.decoder.steps, most), batch=32),
        tail=replace(
            recipe.tail,
            steps=min(recipe.tail.steps, most),
            taught_steps=min(recipe.tail.taught_steps, most),
            width=16,
            crop=14,
            points_crop=7,
        ),
        taught=replace(recipe.taught, steps=min(recipe.taught.steps, most)),
        bridge=replace(recipe.bridge, queries=2, negatives=16, width=16),
        refine=replace(recipe.refine, steps=min(recipe.refine.steps, most), batch=32, regenerate=2),
        baselines=replace(
            recipe.baselines, bank=400, propagation_bank=200, probe_weight_decays=(1e-3,), probe_iterations=3
        ),
    )


def scaled_count(request: Request, path: str, count: Count) -> int:
    """A count of the paper under the request's `--counts`.

    Steps keep their ratio to the paper's setting of the same name; pictures keep theirs to MOST_PICTURES, which stands
    for all there are.
    """
    if request.counts == "paper":
        return count.paper
    if path in ("source_pictures", "target_pictures"):
        there = available_pictures(request.source if path == "source_pictures" else request.target)
        return max(1, round(count.paper / MOST_PICTURES * there))
    steps = max(1, round(count.paper * _at(PAPER_SMALL, path) / _at(PAPER, path)))
    return min(max(steps, TINY_STEPS[0]), TINY_STEPS[1]) if request.counts == "tiny" else steps


def scaled_size(request: Request, size: Size, backbone: str, weights: str | None) -> str | None:
    """An input size of the paper under the request, in whole patches of the backbone.

    The paper's own where `--counts paper` is given without `--size`; else the base size times its ratio. The base size
    is the user's, or what the backbone makes of the first evaluation picture; at ratio 1 it stays as it is.
    """
    own = parse_size(request.size)
    if request.counts == "paper" and own is None:
        sides = tuple(float(side) for side in size.paper.split("x"))
    elif size.ratio == 1.0:
        return request.size
    elif isinstance(own, Padded):
        sides = (own.side * size.ratio,)
    elif isinstance(own, int):
        sides = (own * size.ratio,)
    else:
        if own is None:
            grid = grid_of(backbone, weights, None, request.eval)
            own = grid.height, grid.width
        sides = tuple(side * size.ratio for side in own)
    patch = patch_size(backbone, weights)
    scaled = "x".join(str(max(1, math.floor(side / patch + 0.5)) * patch) for side in sides)
    return f"pad:{scaled}" if isinstance(own, Padded) else scaled


def settings_for(request: Request, experiment: Experiment, changes: Changes, seed: int) -> RunSettings:
    """The settings of one run of a table.

    Args:
        request: What the user asked.
        experiment: The table; its `base` changes come first, then what the user set.
        changes: Of the row and the column, by dotted path; `preset` chooses the recipe they change.
        seed: Of this run.

    Raises:
        ValueError: If a path names no setting.
    """
    merged = {**request.besides_set(experiment.base), **changes}
    recipe = with_words(base_recipe(request.counts, str(merged.pop("preset", "paper"))), request.set)
    backbone = str(merged.get("backbone", request.backbone))
    weights = request.compared().get(backbone) if "backbone" in merged else request.weights
    size = scaled_size(request, BASE_SIZE, backbone, weights)
    pictures = _pictures(request, experiment.pictures)
    top: dict[str, Any] = {"points": request.points, "size": size, "weights": weights, **pictures}
    top["mask_map"] = request.mask_map
    for path, value in merged.items():
        if isinstance(value, Count):
            value = scaled_count(request, path, value)
        elif isinstance(value, Size):
            value = scaled_size(request, value, backbone, weights)
        if "." in path:
            recipe = replaced(recipe, path, value)
        else:
            top[path] = value
    known = {field.name for field in dataclasses.fields(RunSettings)}
    unknown = [path for path in top if path not in known]
    if unknown:
        raise ValueError(f"expected settings of a run such as size or points; {experiment.name} changes {unknown[0]!r}")
    top.setdefault("backbone", backbone)
    return RunSettings(source=request.source, target=request.target, eval=request.eval, seed=seed, recipe=recipe, **top)


def paper_request(
    source: str, target: str, backbone: str, weights: str | None, asked: Mapping[str, Any]
) -> dict[str, Any]:
    """What preset paper asks for besides its recipe: pictures (E.1), points (E.3) and size, in whole patches.

    Args:
        source: SPEC.
        target: SPEC.
        backbone: Its name.
        weights: Its weights.
        asked: What the user asks for; nothing is looked up for it.

    Returns:
        The others. What cannot be looked up is left out: the run itself says why it cannot open it.
    """
    request = Request(source=source, target=target, counts="paper")
    looked_up: dict[str, Callable[[], Mapping[str, Any]]] = {
        "size": lambda: {"size": scaled_size(request, BASE_SIZE, backbone, weights)},
        "source_pictures": lambda: _most("source_pictures", source, PAPER_PICTURES),
        "target_pictures": lambda: _most("target_pictures", target, PAPER_PICTURES),
    }
    found: dict[str, Any] = {"points": PAPER_POINTS}
    for name, look in looked_up.items():
        with contextlib.suppress(ValueError):
            found |= {} if name in asked else look()
    return {name: value for name, value in found.items() if name not in asked}


def _most(name: str, spec: str, paper: int) -> Mapping[str, int]:
    """The paper's number of pictures of a set that has more."""
    return {name: paper} if available_pictures(spec) > paper else {}


def _pictures(request: Request, paper: tuple[int, int]) -> Mapping[str, int | None]:
    """The paper's numbers of source and target pictures (E.1); smaller counts take what there is."""
    if request.counts != "paper":
        return {}
    source, target = paper
    return {**_most("source_pictures", request.source, source), **_most("target_pictures", request.target, target)}


def fused_rows(experiment: Experiment) -> list[Row]:
    """The rows whose runs a fused row joins."""
    return [row for row in experiment.rows if row.role == "run" and not row.quoted]
