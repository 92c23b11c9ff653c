"""What `saot reproduce` was asked for, of whichever table."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saot.label import parse_size

COUNTS = ("paper", "small", "tiny")


@dataclass(frozen=True)
class Request:
    """What `saot reproduce` was asked for. Each kind of table takes some of these fields and refuses the others.

    Attributes:
        source: SPEC of the labelled pictures; of matching, of the pairs; of sequences, of the labelled frames. "" here
            and below is the table's own.
        target: SPEC of the pictures to adapt to; of matching, of the pairs that adapters are trained on.
        eval: SPEC of the pictures to score on.
        source_eval: SPEC of labelled source pictures that are not trained on.
        points: Label budget where a row does not set its own.
        backbone: Frozen network, or the encoder that is trained.
        weights: Its weights.
        size: Base input size, HEIGHTxWIDTH or the long side, pixels; None is the backbone's default.
        layers: Of the backbone, with commas.
        final_norm: Whether the backbone's final norm is applied; its own default unless given.
        counts: "paper" takes the paper's steps, pictures and sizes, "small" what two cores can do, "tiny" a few steps:
            enough to see that everything runs.
        set: "PATH=VALUE" of the recipe of every row each, before a row's own changes.
        seeds: One run each.
        backbones: NAME or NAME=WEIGHTS of further backbones, for tables that compare them.
        sam: MobileSAM's weights, for object masks where the set has none.
        structure: Where tokens lie in space on sets without exact depth: depth:MODEL, metric:MODEL, vggt, files:FOLDER
            or grid.
        masks: Object masks: "set", the set's own, or "sam", those of `sam`; of the generated pairs "set" unless given,
            of others "sam" where `sam` is given, as in Shape-of-You.
        label_backbone: NAME or NAME=WEIGHTS of the network whose features pseudo-labels are made of; `backbone` unless
            given.
        held_out: How many training pairs choose an adapter's weights; see `AdapterPlan`.
        pca: Of matching: what each map of the features is reduced to by a PCA of each pair; see `saot.match.read_dims`.
        remove_position: Of matching: how much of a token's place is taken out of the features of rows without an
            adapter; see `saot.features.position_subspace`. Rows of their own keep theirs.
        limit: At most so many pairs, spread over the set; all unless given.
        device: Where networks and transport run.
        mask_map: What the values in masks of a folder mean, as in `RunSettings`.
        strict: Whether what does not fit (a mask of another size than its picture, a key point outside it) is an
            error; else it is left out and named.
    """

    source: str = ""
    target: str = ""
    eval: str = ""
    source_eval: str = ""
    points: str = ""
    backbone: str = "filterbank"
    weights: str | None = None
    size: str | None = None
    layers: str | None = None
    final_norm: bool | None = None
    counts: str = "small"
    set: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    backbones: tuple[str, ...] = ()
    sam: str | None = None
    structure: str | None = None
    masks: str | None = None
    label_backbone: str | None = None
    held_out: int = 0
    pca: str | None = None
    remove_position: str | None = None
    limit: int | None = None
    device: str = "cpu"
    mask_map: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(
                f"expected --seeds as different whole numbers with commas, such as 0,1,2; got {self.seeds}"
            )
        if self.counts not in COUNTS:
            raise ValueError(f"expected --counts as one of {', '.join(COUNTS)}; got {self.counts!r}")
        if self.masks not in (None, "set", "sam") or (self.masks == "sam" and self.sam is None):
            raise ValueError(f"expected --masks as set, or sam with --sam PATH; got {self.masks!r}")
        if self.held_out < 0:
            raise ValueError(f"expected --held-out of at least 0; got {self.held_out}")
        parse_size(self.size)

    @classmethod
    def from_words(cls, seeds: str, backbones: str = "", **given: Any) -> "Request":
        """A request from what stands on a command line; what is None is left at its default.

        Args:
            seeds: Whole numbers with commas.
            backbones: NAME or NAME=WEIGHTS with commas.
            given: Other fields; paths become text.

        Raises:
            ValueError: If a seed is no whole number, or a field is not as it should be.

        Example:
            >>> Request.from_words("0,1", source=None).seeds
            (0, 1)
        """
        fields: dict[str, Any] = {
            name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value is not None
        }
        return cls(
            seeds=parse_seeds(seeds),
            backbones=tuple(part.strip() for part in backbones.split(",") if part.strip()),
            **fields,
        )

    def given(self) -> list[str]:
        """Names of the fields that are not as they are if nobody asks."""
        usual = Request()
        return [each.name for each in dataclasses.fields(self) if getattr(self, each.name) != getattr(usual, each.name)]

    def folder_of(self, table: str) -> str:
        """A name for the table's folder: what `set` changes is another table.

        Example:
            >>> Request().folder_of("saot-mass"), Request(set=("transport.k=64",)).folder_of("saot-mass")
            ('saot-mass', 'saot-mass-5de7071c')
        """
        return "-".join([table, *([hashlib.sha256("\n".join(self.set).encode()).hexdigest()[:8]] if self.set else [])])

    def besides_set(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes of a whole table less those that `set` takes the place of."""
        paths = {word.partition("=")[0] for word in self.set}
        return {path: value for path, value in changes.items() if path not in paths}

    def with_sets(self, **sets: str) -> "Request":
        """The request with these SPECs where it has none of source, target and eval.

        Raises:
            ValueError: If it has some of the three but not all.
        """
        missing = [f"--{name}" for name in ("source", "target", "eval") if not getattr(self, name)]
        if 0 < len(missing) < 3:
            raise ValueError(
                f"expected --source, --target and --eval together, or none for the built-in scenes; {missing[0]} is "
                "missing"
            )
        return replace(self, **{name: getattr(self, name) or spec for name, spec in sets.items()}) if missing else self

    def to_dict(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Plain JSON values, for table.json: under each name the field that it stands for."""
        fields = {name: getattr(self, field) for name, field in names.items()}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        return {name: None if value == "" else value for name, value in plain.items()}

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
