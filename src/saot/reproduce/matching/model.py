"""What a table of matching is: a way of matching a row, a kind of percentage of correct key points a column."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from saot.match import MatchSettings, ShapeOfYouSettings
from saot.recipes import as_dict
from saot.reproduce.model import Changes, Number
from saot.reproduce.request import parse_seeds

Space = Literal["none", "grid", "exact", "distorted", "lifted"]
Masks = Literal["all", "object"]


@dataclass(frozen=True)
class AdapterPlan:
    """What an adapter is trained on.

    Attributes:
        pairs: SPEC of the training pairs.
        count: How many of them, spread over the set.
        labels: "nearest" neighbours, or Shape-of-You's "fused" transport.
        space: Where tokens lie in space, as in a row.
        label_changes: Fields of `ShapeOfYouSettings`.
        changes: Fields of `AdapterSettings`.
    """

    pairs: str
    count: int = 60
    labels: Literal["nearest", "fused"] = "fused"
    space: Space = "exact"
    label_changes: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> list[Any]:
        """Everything the adapter depends on, but for pictures, features and seed."""
        return [self.pairs, self.count, self.labels, self.space, as_dict(self.label_settings()), dict(self.changes)]

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
        backbone, weights, size: Of the features.
        training: SPEC of the pairs that adapters are trained on; the preset's own unless given.
        seeds: Of pairs that are drawn; sets of their own have one.
        sam: MobileSAM's weights, for object masks where the set has none.
        structure: Model for "lifted" rows, as in `saot match --structure`.
        limit: At most so many pairs, spread over the set; all unless given.
        device: Where networks and matching run.
    """

    pairs: str | None = None
    backbone: str = "filterbank"
    weights: str | None = None
    size: str | None = None
    training: str | None = None
    seeds: tuple[int, ...] = (0,)
    sam: str | None = None
    structure: str | None = None
    limit: int | None = None
    device: str = "cpu"

    @classmethod
    def from_words(cls, seeds: str, **given: Any) -> "MatchTableRequest":
        """A request from what stands on a command line.

        Raises:
            ValueError: If a seed is no whole number.
        """
        return cls(seeds=parse_seeds(seeds), **given)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "seeds": list(self.seeds)}
