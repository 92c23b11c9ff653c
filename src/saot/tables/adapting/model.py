"""What a table of T2S-DA is: a way of training a row, a quantity a column."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from saot.adapt import (
    PAPER,
    PAPER_CNN,
    PAPER_HRDA,
    SMALL,
    AdaptRecipe,
    AdaptSettings,
    Method,
    NetworkRecipe,
    with_method,
)
from saot.label import RunSettings
from saot.recipes import BEST, replaced
from saot.tables.model import Changes, Number
from saot.tables.request import parse_seeds, tiny

Quantity = Literal[
    "miou", "miou16", "miou13", "iou", "source_miou", "source_iou", "ccd", "pdd", "similarity", "minutes"
]
Network = Literal["transformer", "cnn", "hrda"]
COUNTS = ("paper", "small", "tiny")
PAPERS: Mapping[Network, AdaptRecipe] = {"transformer": PAPER, "cnn": PAPER_CNN, "hrda": PAPER_HRDA}


@dataclass(frozen=True)
class AdaptColumn:
    """One quantity of a trained network.

    Attributes:
        key: Name in table.json, and in `AdaptRow.paper`.
        title: Heading.
        quantity: mIoU or IoU on the evaluation pictures or, "source_...", on held-out source pictures, %; mean "ccd",
            "pdd" or "similarity" over classes; "minutes" of training.
        of: Class, for "iou" and "source_iou".
    """

    key: str
    title: str
    quantity: Quantity = "miou"
    of: str | None = None


@dataclass(frozen=True)
class AdaptRow:
    """One way of training.

    Attributes:
        label: As printed.
        method: Its switches.
        changes: Dotted paths into `AdaptRecipe`.
        network: The paper's; with counts of ours the small network stands for the table's main one alone.
        frozen: A method of `saot run` under preset best in place of all that, on the same pictures, without points.
        paper: The paper's numbers by column key.
        quoted: Numbers of other papers; nothing is run.
        section: Heading above a group of rows.
    """

    label: str
    method: Method = "t2s-da"
    changes: Changes = field(default_factory=dict)
    network: Network = "transformer"
    frozen: str | None = None
    paper: Mapping[str, Number] = field(default_factory=dict)
    quoted: bool = False
    section: str = ""


@dataclass(frozen=True)
class AdaptExperiment:
    """One table of T2S-DA.

    Attributes:
        name: The preset, such as "t2s-da-direction".
        title: What it shows.
        location: Where the paper has it; "ours" for what it lacks.
        columns: In the paper's order.
        rows: In the paper's order.
        data: What the paper ran it on.
        reference: Label of the row that differences are taken against.
        main: The network that ours stands for with counts other than the paper's.
        figure: Whether distances and similarities are drawn class by class.
        classes: Whether there is a column for each class, and of which domain.
        notes: How to read it.
    """

    name: str
    title: str
    location: str
    rows: tuple[AdaptRow, ...]
    columns: tuple[AdaptColumn, ...] = (AdaptColumn("miou", "mIoU %"),)
    data: str = "GTA5 -> Cityscapes"
    reference: str | None = None
    main: Network = "transformer"
    figure: bool = False
    classes: Literal["none", "target", "source"] = "none"
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Plain JSON values for `saot reproduce --list --json`."""
        return {
            "title": self.title,
            "rows": [row.label for row in self.rows],
            "columns": [column.title for column in self.columns],
            "needs": "--source, --target, --eval and --weights of the encoder; without data the built-in scenes",
            "location": self.location,
        }


@dataclass(frozen=True)
class AdaptTableRequest:
    """What `saot reproduce` was asked for, of a table of T2S-DA.

    Attributes:
        source, target, eval, source_eval: SPECs, as in `saot adapt`.
        encoder: In place of the preset's.
        weights: Of the encoder.
        counts: "paper" (for a GPU), "small" (two cores) or "tiny" (a test, random weights unless given).
        seeds: One run each.
        device: Where networks run.
    """

    source: str = "scenes:game:train"
    target: str = "scenes:street:train"
    eval: str = "scenes:street:val"
    source_eval: str | None = "scenes:game:val"
    encoder: str | None = None
    weights: str | None = None
    counts: str = "small"
    seeds: tuple[int, ...] = (0,)
    device: str = "cpu"

    @classmethod
    def from_words(
        cls, sets: tuple[str | None, str | None, str | None, str | None], seeds: str, **given: Any
    ) -> "AdaptTableRequest":
        """A request from what stands on a command line: source, target, eval (all or none) and perhaps source_eval.

        Raises:
            ValueError: If only some of the sets are given, the counts are not known, or a seed is no whole number.
        """
        if given.get("counts", "small") not in COUNTS:
            raise ValueError(f"expected --counts as one of {', '.join(COUNTS)}; got {given['counts']!r}")
        source, target, evaluation, kept = sets
        numbers = parse_seeds(seeds)
        if source is None and target is None and evaluation is None:
            return cls(seeds=numbers, **given)
        if source is None or target is None or evaluation is None:
            raise ValueError("expected --source, --target and --eval together, or none of them for the built-in scenes")
        return cls(source, target, evaluation, kept, seeds=numbers, **given)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "seeds": list(self.seeds)}

    def recipe(self, row: AdaptRow, main: Network = "transformer") -> AdaptRecipe | None:
        """The recipe behind a row; None where these counts have no network for it."""
        if self.counts == "paper":
            base = PAPERS[row.network]
        elif row.network != main:
            return None
        else:
            base = SMALL if self.counts == "small" else TINY
        if self.encoder is not None and row.network == main:
            head = "deeplab-v2" if "resnet" in self.encoder else "daformer"
            base = replace(base, network=replace(base.network, encoder=self.encoder, head=head))
        recipe = with_method(base, row.method)
        for path, value in row.changes.items():
            recipe = replaced(recipe, path, value)
        return recipe

    def settings(self, row: AdaptRow, seed: int, main: Network = "transformer") -> AdaptSettings | RunSettings | None:
        """The run behind a row and a seed, or None if there is none."""
        if row.quoted:
            return None
        if row.frozen is not None:
            recipe = tiny(BEST) if self.counts == "tiny" else BEST
            frozen = self.weights is not None and self.weights != "random"
            return RunSettings(
                self.source, self.target, self.eval, "0",
                backbone="mobile-sam" if frozen else "filterbank", weights=self.weights if frozen else None,
                seed=seed, recipe=recipe,
            )  # fmt: skip
        recipe = self.recipe(row, main)
        if recipe is None:
            return None
        weights = "random" if self.counts == "tiny" and self.weights is None else self.weights
        target = self.target if recipe.needs_target else None
        return AdaptSettings(self.source, target, self.eval, self.source_eval, weights, seed, recipe)


TINY = replace(
    SMALL,
    name="tiny",
    network=NetworkRecipe(encoder="mobile-sam", channels=8),
    pictures=replace(SMALL.pictures, crop=(32, 32)),
    optimizer=replace(SMALL.optimizer, steps=2, warmup=1, batch=1),
    pull=replace(SMALL.pull, settings=replace(SMALL.pull.settings, base_queries=2, negatives=8)),
    rare=replace(SMALL.rare, min_pixels=1) if SMALL.rare is not None else None,
)
