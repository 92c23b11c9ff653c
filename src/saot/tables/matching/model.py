"""What a table of matching is: a way of matching a row, a kind of percentage of correct key points a column."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from saot.match import AdapterSettings, MatchSettings, ShapeOfYouSettings
from saot.recipes import as_dict
from saot.tables.model import Changes, Number
from saot.tables.request import COUNTS, parse_seeds

Space = Literal["none", "grid", "exact", "distorted", "lifted"]
Masks = Literal["all", "object"]
WIDTH = 256  # of an adapter's features here; the paper's is 768


@dataclass(frozen=True)
class AdapterPlan:
    """What an adapter is trained on.

    Attributes:
        pairs: SPEC of the training pairs; empty if they must be given.
        count: How many of them, spread over the set; None for all.
        labels: "nearest" neighbours, or Shape-of-You's "fused" transport.
        space: Where tokens lie in space, as in a row.
        label_changes: Fields of `ShapeOfYouSettings`.
        changes: Fields of `AdapterSettings`.
        width: Numbers a token of its features.
        held_out: How many of the pairs with labels choose its weights by their loss and are not trained on. 0 takes the
            last weights: the paper says nothing of a choice, DIY-SC makes one.
    """

    pairs: str
    count: int | None = 60
    labels: Literal["nearest", "fused"] = "fused"
    space: Space = "exact"
    label_changes: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    width: int = WIDTH
    held_out: int = 0

    def identity(self) -> list[Any]:
        """Everything the adapter depends on, but for pictures, features and seed."""
        known = [self.pairs, self.count, self.labels, self.space, as_dict(self.label_settings()), dict(self.changes)]
        added = {"width": (self.width, WIDTH), "held_out": (self.held_out, 0)}  # later fields: kept adapters stay valid
        return known + [[name, value] for name, (value, usual) in added.items() if value != usual]

    def asked(self, request: "MatchTableRequest") -> "AdapterPlan":
        """The plan under the request's pairs, counts and held-out pairs."""
        plan = replace(self, pairs=request.training or self.pairs, held_out=request.held_out or self.held_out)
        match request.counts:
            case "paper":  # all of SPair-71k's training pairs; SoY Tab. 6; width FACTS S-11
                return replace(plan, count=None, width=768, changes={**plan.changes, "steps": 200_000})
            case "tiny":
                return replace(plan, count=2 + plan.held_out, changes={**plan.changes, "steps": 2})
        return plan

    def words(self) -> str:
        """How it is trained, for whoever reads the table."""
        chosen = f"the best weights by {self.held_out} held-out pairs" if self.held_out else "the last weights"
        return (
            f"Trained on {'all' if self.count is None else self.count} pairs of {self.pairs}, "
            f"{self.changes.get('steps', AdapterSettings.steps):,} steps, {self.width} numbers a token, {chosen}."
        )

    def label_settings(self) -> ShapeOfYouSettings:
        """Of the pseudo-labels."""
        return ShapeOfYouSettings(**self.label_changes)


@dataclass(frozen=True)
class MatchColumn:
    """One percentage of correct key points, or a cost.

    Attributes:
        key: Name in table.json, and in `MatchRow.paper`.
        title: Heading.
        alpha: Threshold, as a share of the longer side of `threshold`.
        threshold: Of the target's box, or of the picture.
        subset: All common key points, or the geometry-aware ones.
        weight: What is averaged: "points", "images", "categories" (of their points) or "categories_of_images".
        category: That alone.
        attribute: Name and value: pairs of that alone.
        counted: "all" counts every common point also in rows that count within the mask alone.
        quantity: "pck" in percent; "seconds" of matching a pair, "feature_seconds" of its features, "total_seconds";
            "memory" of matching, MiB; "parameters" of the network, millions.
    """

    key: str
    title: str
    alpha: float = 0.1
    threshold: Literal["box", "image"] = "box"
    subset: Literal["all", "geometry"] = "all"
    weight: Literal["points", "images", "categories", "categories_of_images"] = "points"
    category: str | None = None
    attribute: tuple[str, int] | None = None
    counted: Literal["row", "all"] = "row"
    quantity: Literal["pck", "seconds", "feature_seconds", "total_seconds", "memory", "parameters"] = "pck"


@dataclass(frozen=True)
class MatchRow:
    """One way of matching.

    Attributes:
        label: As printed.
        changes: Dotted paths into `MatchSettings`: `{"method": "gwot", "gwot.structure": 0.0}`.
        masks: "object" matches within the objects' masks, "all" whole pictures.
        space: Where tokens lie in space: "exact" depth of generated pairs, "distorted" by an unknown scale, shift and
            smooth noise, "lifted" by the model that was asked for, the flat "grid", or "none".
        pose_align: Whether the mirrored source may be taken instead; uses annotation at test time.
        symmetric: Whether symmetric key points of the source are given; annotation at test time.
        adapter: Trained on pseudo-labels of other pairs; its features are matched in place of the backbone's.
        counted: "mask" counts only targets within the object's mask (PCK_label of Shape-of-You).
        paper: The paper's numbers by column key.
        quoted: Numbers of other papers; nothing is run.
        section: Heading above a group of rows.
    """

    label: str
    changes: Changes = field(default_factory=dict)
    masks: Masks = "all"
    space: Space = "none"
    pose_align: bool = False
    symmetric: bool = False
    adapter: AdapterPlan | None = None
    counted: Literal["all", "mask"] = "all"
    paper: Mapping[str, Number] = field(default_factory=dict)
    quoted: bool = False
    section: str = ""

    def settings(self, base: Changes) -> MatchSettings:
        """The settings behind the row."""
        settings = MatchSettings()
        for path, value in {**base, **self.changes}.items():
            settings = _changed(settings, path.split("."), value)
        return settings

    def asked(self, request: "MatchTableRequest") -> "MatchRow":
        """The row with its adapter as the request has it."""
        return self if self.adapter is None else replace(self, adapter=self.adapter.asked(request))

    @property
    def runs(self) -> bool:
        """Whether it can be run: not if it is quoted, or nobody said what its adapter is trained on."""
        return not self.quoted and (self.adapter is None or bool(self.adapter.pairs))

    def annotation(self) -> str:
        """What it knows of the pair beyond the pictures, in words."""
        known = []
        if self.adapter is not None:
            known.append(f"pseudo-labels of training pairs, made within object masks (space: {self.adapter.space})")
        if self.masks == "object":
            known.append("object masks (the set's own, else MobileSAM's from annotated boxes of both pictures)")
        if self.space in ("exact", "distorted"):
            known.append("depth" if self.space == "exact" else "depth of unknown scale")
        if self.symmetric or self.pose_align:
            known.append("symmetric key points at test time")
        return ", ".join(known) or "none"

    def identity(self, base: Changes) -> str:
        """Everything its predictions depend on, but for the pictures."""
        adapter = None if self.adapter is None else self.adapter.identity()
        known = [self.masks, self.space, self.pose_align, self.symmetric, adapter]
        if self.counted == "mask":
            known.append("with what lies on the mask")  # kept beside the places
        return json.dumps([as_dict(self.settings(base)), known], sort_keys=True, default=str)


def _changed(settings: Any, path: list[str], value: Any) -> Any:
    known = [part.name for part in dataclasses.fields(settings)]
    if path[0] not in known:
        raise ValueError(f"expected a field of {type(settings).__name__} among {', '.join(known)}; got {path[0]!r}")
    if len(path) > 1:
        value = _changed(getattr(settings, path[0]), path[1:], value)
    return replace(settings, **{path[0]: value})


@dataclass(frozen=True)
class MatchExperiment:
    """One table of matching.

    Attributes:
        name: The preset, such as "gwot-spair".
        title: What it shows.
        location: Where the paper has it; "ours" for what it lacks.
        columns: In the paper's order.
        rows: In the paper's order.
        pairs: SPEC of the pairs where none is given; empty if the data set must be.
        data: What the paper ran it on.
        kind: "points" or "flow".
        base: Settings of all rows.
        reference: Label of the row that differences are taken against.
        notes: How ours differs by design.
    """

    name: str
    title: str
    location: str
    columns: tuple[MatchColumn, ...]
    rows: tuple[MatchRow, ...]
    pairs: str = ""
    data: str = ""
    kind: Literal["points", "flow"] = "points"
    base: Changes = field(default_factory=dict)
    reference: str | None = None
    notes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Plain JSON values for `saot reproduce --list --json`."""
        return {
            "title": self.title,
            "rows": [row.label for row in self.rows],
            "columns": [column.title for column in self.columns],
            "needs": f"pairs as --source, such as {self.pairs or self.data}",
            "location": self.location,
        }


@dataclass(frozen=True)
class MatchTableRequest:
    """What `saot reproduce` was asked for, of a table of matching.

    Attributes:
        pairs: SPEC of the pairs; the preset's own unless given.
        backbone, weights, size, layers, final_norm: Of the features, as in `load_backbone`; layers with commas.
        training: SPEC of the pairs that adapters are trained on; the preset's own unless given.
        seeds: Of pairs that are drawn; sets of their own have one.
        sam: MobileSAM's weights, for object masks where the set has none.
        structure: Model for "lifted" rows, as in `saot match --structure`.
        counts: Of the training of adapters: "paper" is the paper's, "small" the preset's, "tiny" two steps.
        held_out: How many training pairs choose an adapter's weights; see `AdapterPlan`.
        limit: At most so many pairs, spread over the set; all unless given.
        device: Where networks and matching run.
    """

    pairs: str | None = None
    backbone: str = "filterbank"
    weights: str | None = None
    size: str | None = None
    layers: str | None = None
    final_norm: bool | None = None
    training: str | None = None
    seeds: tuple[int, ...] = (0,)
    sam: str | None = None
    structure: str | None = None
    counts: str = "small"
    held_out: int = 0
    limit: int | None = None
    device: str = "cpu"

    @classmethod
    def from_words(cls, seeds: str, **given: Any) -> "MatchTableRequest":
        """A request from what stands on a command line.

        Raises:
            ValueError: If a seed is no whole number, or a count none that there is.
        """
        request = cls(seeds=parse_seeds(seeds), **given)
        if request.counts not in COUNTS or request.held_out < 0:
            raise ValueError(
                f"expected --counts as one of {', '.join(COUNTS)} and --held-out of at least 0; got {request.counts!r} "
                f"and {request.held_out}"
            )
        return request

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "seeds": list(self.seeds)}
