"""What the user asked of a table, and what that makes of the settings of each row."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from saot.label import RunSettings, parse_size
from saot.recipes import BEST, PAPER, PAPER_SMALL, Recipe
from saot.tables.model import Changes, Count, Experiment, Size
from saot.tables.pieces import available_pictures, default_size, patch_size

Counts = Literal["paper", "small", "tiny"]
COUNTS: tuple[Counts, ...] = ("paper", "small", "tiny")
SCENES = ("scenes:game:train", "scenes:street:train", "scenes:street:val")
PAPER_POINTS = "resample:20"  # E.3: 20 a class, drawn anew at each step
PAPER_SIZE = Size("504x1008", 1.0)
PAPER_PICTURES = 1_000  # E.1
MOST_PICTURES = 2_000  # the largest count of table 3; stands for all pictures where counts are not the paper's
TINY_STEPS = (2, 5)  # fewest and most steps of any training under --counts tiny

# fields that only say how long and how large: under --counts paper, preset best takes the paper's
_COUNT_FIELDS = {
    "cost": ("steps",),
    "decoder": ("hidden", "steps", "batch"),
    "refine": ("steps", "batch", "ema_decay", "regenerate"),
    "baselines": ("bank", "propagation_bank"),
}


@dataclass(frozen=True)
class Request:
    """What `saot reproduce` was asked for.

    Attributes:
        source: SPEC of the labelled pictures.
        target: SPEC of the pictures to adapt to.
        eval: SPEC of the pictures to score on.
        points: Label budget where a row does not set its own.
        backbone: Frozen network.
        weights: Its weights.
        size: Base input size, HEIGHTxWIDTH or the long side, pixels; None is the backbone's default.
        counts: "paper" takes the paper's steps, pictures and sizes, "small" those of preset paper-small, "tiny" 2 to 5
            steps: enough to see that everything runs.
        seeds: One run each.
        backbones: NAME or NAME=WEIGHTS of further backbones, for tables that compare them.
    """

    source: str = SCENES[0]
    target: str = SCENES[1]
    eval: str = SCENES[2]
    points: str = PAPER_POINTS
    backbone: str = "filterbank"
    weights: str | None = None
    size: str | None = None
    counts: Counts = "small"
    seeds: tuple[int, ...] = (0,)
    backbones: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"expected --seeds as different whole numbers with commas, such as 0,1,2; got {self.seeds}"
            )
        parse_size(self.size)

    @classmethod
    def from_words(
        cls, data: tuple[str | None, str | None, str | None], seeds: str, backbones: str = "", **given: Any
    ) -> "Request":
        """A request from what stands on a command line; what is None is left at its default.

        Args:
            data: SPECs of source, target and evaluation; all or none.
            seeds: Whole numbers with commas.
            backbones: NAME or NAME=WEIGHTS with commas.
            given: Other fields.

        Raises:
            ValueError: If some but not all SPECs came, a seed is no whole number, or `counts` is none of COUNTS.

        Example:
            >>> Request.from_words((None, None, None), "0,1").seeds
            (0, 1)
        """
        names = ("source", "target", "eval")
        missing = [f"--{name}" for name, spec in zip(names, data, strict=True) if spec is None]
        if 0 < len(missing) < len(names):
            raise ValueError(
                f"expected --source, --target and --eval together, or none for the built-in scenes; {missing[0]} is "
                "missing"
            )
        counts = given.get("counts")
        if counts is not None and counts not in COUNTS:
            raise ValueError(f"expected --counts as one of {', '.join(COUNTS)}; got {counts!r}")
        fields = {**dict(zip(names, data, strict=True)), **given}
        return cls(
            seeds=parse_seeds(seeds),
            backbones=tuple(part.strip() for part in backbones.split(",") if part.strip()),
            **{name: value for name, value in fields.items() if value is not None},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for table.json."""
        return {**dataclasses.asdict(self), "seeds": list(self.seeds), "backbones": list(self.backbones)}

    def compared(self) -> dict[str, str | None]:
        """Backbones to compare and their weights; the main one unless others are named."""
        if not self.backbones:
            return {self.backbone: self.weights}
        pairs = [text.partition("=") for text in self.backbones]
        return {name.strip(): weights.strip() or None for name, _, weights in pairs}


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds behind "0,1,2".

    Raises:
        ValueError: If one is no whole number, or none came.

    Example:
        >>> parse_seeds("0, 2")
        (0, 2)
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise ValueError(f"expected --seeds as whole numbers with commas, such as 0,1,2; got {text!r}")
    return tuple(int(part) for part in parts)


def base_recipe(counts: Counts, preset: str = "paper") -> Recipe:
    """The recipe a table starts from.

    Args:
        counts: How long and large, see `Request`.
        preset: "paper" or "best".

    Raises:
        ValueError: If there is no such preset.

    Example:
        >>> base_recipe("small").cost.steps, base_recipe("paper").cost.steps, base_recipe("tiny").cost.steps
        (1000, 14000, 5)
    """
    if preset not in ("paper", "best"):
        raise ValueError(f"expected the preset of a row as paper or best; got {preset!r}")
    if counts == "paper":
        return PAPER if preset == "paper" else _with_counts_of(BEST, PAPER, "best-paper-counts")
    recipe = PAPER_SMALL if preset == "paper" else BEST
    return recipe if counts == "small" else tiny(recipe)


def _with_counts_of(recipe: Recipe, other: Recipe, name: str) -> Recipe:
    changes = {
        part: replace(getattr(recipe, part), **{field: getattr(getattr(other, part), field) for field in fields})
        for part, fields in _COUNT_FIELDS.items()
    }
    return replace(recipe, name=name, **changes)


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
    part, _, field = path.partition(".")
    paper = getattr(getattr(PAPER, part), field)
    small = getattr(getattr(PAPER_SMALL, part), field)
    steps = max(1, round(count.paper * small / paper))
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
    elif isinstance(own, int):
        sides = (own * size.ratio,)
    else:
        base = own or default_size(backbone, weights, request.eval)
        sides = tuple(side * size.ratio for side in base)
    patch = patch_size(backbone, weights)
    return "x".join(str(max(1, math.floor(side / patch + 0.5)) * patch) for side in sides)


def settings_for(request: Request, experiment: Experiment, changes: Changes, seed: int) -> RunSettings:
    """The settings of one run of a table.

    Args:
        request: What the user asked.
        experiment: The table; its `base` changes come first.
        changes: Of the row and the column, by dotted path; `preset` chooses the recipe they change.
        seed: Of this run.

    Raises:
        ValueError: If a path names no setting.
    """
    merged = {**experiment.base, **changes}
    recipe = base_recipe(request.counts, str(merged.pop("preset", "paper")))
    backbone = str(merged.get("backbone", request.backbone))
    weights = request.compared().get(backbone) if "backbone" in merged else request.weights
    size = scaled_size(request, PAPER_SIZE, backbone, weights)
    top: dict[str, Any] = {"points": request.points, "size": size, "weights": weights, **_pictures(request)}
    for path, value in merged.items():
        if isinstance(value, Count):
            value = scaled_count(request, path, value)
        elif isinstance(value, Size):
            value = scaled_size(request, value, backbone, weights)
        if "." in path:
            recipe = changed(recipe, path, value)
        else:
            top[path] = value
    known = {field.name for field in dataclasses.fields(RunSettings)}
    unknown = [path for path in top if path not in known]
    if unknown:
        raise ValueError(f"expected settings of a run such as size or points; {experiment.name} changes {unknown[0]!r}")
    top.setdefault("backbone", backbone)
    return RunSettings(source=request.source, target=request.target, eval=request.eval, seed=seed, recipe=recipe, **top)


def _pictures(request: Request) -> Mapping[str, int | None]:
    """The paper takes 1,000 pictures of each domain (E.1); smaller counts take what there is."""
    if request.counts != "paper":
        return {}
    found = {"source_pictures": request.source, "target_pictures": request.target}
    return {name: PAPER_PICTURES for name, spec in found.items() if available_pictures(spec) > PAPER_PICTURES}


def changed(recipe: Recipe, path: str, value: Any) -> Recipe:
    """The recipe with one field replaced.

    Raises:
        ValueError: If the path names no field.

    Example:
        >>> changed(PAPER, "transport.k", 64).transport.k
        64
    """
    part, _, field = path.partition(".")
    inner = getattr(recipe, part, None)
    if not dataclasses.is_dataclass(inner) or isinstance(inner, type):
        raise ValueError(f"expected a setting as PART.FIELD of a recipe, such as transport.tau; got {path!r}")
    if field not in {f.name for f in dataclasses.fields(inner)}:
        raise ValueError(f"expected a setting as PART.FIELD of a recipe, such as transport.tau; got {path!r}")
    return replace(recipe, **{part: replace(inner, **{field: value})})
