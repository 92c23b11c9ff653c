"""A way of matching: what stands behind a row of a table of matching."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from saot.match import AdapterSettings, MatchSettings, ShapeOfYouSettings
from saot.recipes import as_dict
from saot.tables.experiment import Experiment, Row
from saot.tables.replace import with_changes
from saot.tables.request import Request

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

    def asked(self, request: Request) -> "AdapterPlan":
        """The plan under the request's training pairs, counts and held-out pairs."""
        plan = replace(self, pairs=request.target or self.pairs, held_out=request.held_out or self.held_out)
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
class Way:
    """One way of matching. A row's changes are fields of it, or dotted paths into its `settings`.

    Attributes:
        settings: Method and settings: `{"method": "gwot", "gwot.structure": 0.0}`.
        masks: "object" matches within the objects' masks, "all" whole pictures.
        space: Where tokens lie in space: "exact" depth of generated pairs, "distorted" by an unknown scale, shift and
            smooth noise, "lifted" by the model that was asked for, the flat "grid", or "none".
        pose_align: Whether the mirrored source may be taken instead; uses annotation at test time.
        symmetric: Whether symmetric key points of the source are given; annotation at test time.
        adapter: Trained on pseudo-labels of other pairs; its features are matched in place of the backbone's.
        position: How much of a token's place is taken out of its features, "95%" or a number of directions; None
            for nothing. See `saot.features.position_subspace`.
        counted: "mask" counts only targets within the object's mask (PCK_label of Shape-of-You).
    """

    settings: MatchSettings = field(default_factory=MatchSettings)
    masks: Masks = "all"
    space: Space = "none"
    pose_align: bool = False
    symmetric: bool = False
    adapter: AdapterPlan | None = None
    position: str | None = None
    counted: Literal["all", "mask"] = "all"

    @property
    def runs(self) -> bool:
        """Whether it can be run: not if nobody said what its adapter is trained on."""
        return self.adapter is None or bool(self.adapter.pairs)

    def words(self, masks: str = "the set's own, else MobileSAM's from annotated boxes of both pictures") -> str:
        """What it knows beyond the pictures, and how its adapter is trained, for whoever reads the table.

        Args:
            masks: Whose object masks these are.
        """
        if not self.runs:
            return "not trained; pass training pairs as --target, such as spair:PATH:trn."
        known = []
        if self.adapter is not None:
            known.append(f"pseudo-labels of training pairs, made within object masks (space: {self.adapter.space})")
        if self.masks == "object":
            known.append(f"object masks ({masks})")
        if self.space in ("exact", "distorted"):
            known.append("depth" if self.space == "exact" else "depth of unknown scale")
        if self.symmetric or self.pose_align:
            known.append("symmetric key points at test time")
        text = f"annotation used beyond the pictures: {', '.join(known) or 'none'}."
        return text if self.adapter is None else f"{text} {self.adapter.words()}"

    def identity(self) -> str:
        """Everything its predictions depend on, but for the pictures."""
        adapter = None if self.adapter is None else self.adapter.identity()
        known = [self.masks, self.space, self.pose_align, self.symmetric, adapter]
        if self.counted == "mask":
            known.append("with what lies on the mask")  # kept beside the places
        if self.position is not None:
            known.append(f"without {self.position} of place")
        return json.dumps([as_dict(self.settings), known], sort_keys=True, default=str)


def on_the_set(way: Way, exact: bool, structure: str | None) -> Way:
    """The way where pairs are photographs: places in space come from a model, from files or are those of the grid.

    Args:
        way: As the table has it.
        exact: Whether the pairs come with exact depth, as generated ones do.
        structure: `Request.structure`.

    Raises:
        ValueError: If there is nothing to take them from.
    """

    def space(wanted: Space) -> Space:
        if wanted not in ("exact", "lifted") or (exact and wanted == "exact"):
            return wanted
        if structure is None:
            raise ValueError(
                "these pairs come without depth; pass --structure vggt, depth:MODEL, metric:MODEL, files:FOLDER, or "
                "grid for the flat grid of patches"
            )
        return "grid" if structure == "grid" else "lifted"

    adapter = way.adapter
    if adapter is not None and adapter.pairs and not adapter.pairs.startswith(("scenes-pairs", "warps")):
        adapter = replace(adapter, space=space(adapter.space))
    return replace(way, space=space(way.space), adapter=adapter)


def way_of(experiment: Experiment, row: Row, request: Request) -> Way:
    """The way of matching behind a row, its adapter as the request has it.

    Raises:
        ValueError: If a change names no setting.
    """
    way = with_changes(Way(), {**experiment.base, **row.changes}, "settings")
    if way.adapter is not None:
        return replace(way, adapter=way.adapter.asked(request))
    return replace(way, position=way.position or request.remove_position)
