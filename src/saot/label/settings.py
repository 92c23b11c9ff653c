"""What a run was asked to do, as one frozen value that is written down and compared."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saot.data import Fingerprints, address_of, parse_spec, said_of_masks
from saot.features import PRECISIONS, Padded, SizePolicy, parse_form
from saot.recipes import (
    PAPER_BACKBONE,
    PAPER_PICTURES,
    PAPER_POINTS,
    PAPER_SIZE,
    PAPER_SMALL,
    Recipe,
    RecipeDifference,
    as_dict,
    differences,
    from_dict,
)
from saot.runs import RUN_FORMAT

SCOPES = ("picture", "total", "patches", "patches:total", "resample")  # of --points N, SCOPE:N; the first has no word


@dataclass(frozen=True)
class RunSettings:
    """The whole request behind a run folder.

    Attributes:
        source: SPEC of the labelled pictures.
        target: SPEC of the pictures to adapt to.
        eval: SPEC of labelled pictures to score on; None scores nothing.
        points: "0", "20" (a class and picture), "total:20" (a class), the same of patches by majority: "patches:20",
            "patches:total:20"; "resample:20" (patches anew each step, the paper), a CSV file or a folder of scribbles.
        backbone: Name for `load_backbone`.
        weights: Its weights, where it needs a path.
        size: Input size for the backbone: "HEIGHTxWIDTH", "LONG" (long side), "pad:SIDE" (the long side in a black
            square) or None for its default; several with
            commas, such as "504x1008,672x1344", train a decoder at each and join them.
        seed: Fixes every draw.
        recipe: All other settings.
        source_pictures: How many source pictures to use, drawn as in the paper (E.9), whatever the seed; None is all.
        target_pictures: How many target pictures to use, the first ones (E.9); None is all.
        precision: Of the backbone: "float32", or "bf16".
        mask_map: What values in the masks of a `folder` mean, as `saot.data.parse_mask_map` reads it; None where they
            are class indices. A file is read once, and what it says is kept.
        start: Folder of a finished run whose network this one goes on from; None trains from the beginning.
        store_form: How tokens are kept, and so what all networks see: "half", "int8", "projected" or
            "projected:NUMBERS".
    """

    source: str
    target: str
    eval: str | None = None
    points: str = "0"
    backbone: str = "filterbank"
    weights: str | None = None
    size: str | None = None
    seed: int = 0
    recipe: Recipe = field(default_factory=lambda: PAPER_SMALL)
    source_pictures: int | None = None
    target_pictures: int | None = None
    precision: str = "float32"
    mask_map: str | None = None
    start: str | None = None
    store_form: str = "half"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask_map", said_of_masks(self.mask_map, self.source, self.target, self.eval))
        if self.precision not in PRECISIONS:
            raise ValueError(f"expected the precision as one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        parse_form(self.store_form)
        sizes_of(self.size)
        points_request(self.points)
        if type(self.seed) is not int:
            raise ValueError(f"expected the seed as a whole number; got {self.seed!r}")
        if self.start is not None and (self.recipe.taught.teachers < 1 or "," in (self.size or "")):
            raise ValueError(
                "expected a preset with taught.teachers of 1 or more, such as best or fast, and one input size with "
                f"--start; got preset {self.recipe.name} and size {self.size}: leave --start out"
            )
        if self.recipe.decoder.architecture == "fine" and self.recipe.taught.teachers < 1:
            raise ValueError(
                "expected taught.teachers of 1 or more with decoder.architecture=fine, whose cells no plan between "
                "pictures can label; got 0: choose residual, mlp3 or conv"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for run.json."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "recipe"}
        if self.precision == "float32":
            del plain["precision"]  # as in runs of earlier versions, which go on
        if self.store_form == "half":
            del plain["store_form"]
        plain = {name: value for name, value in plain.items() if value is not None or name not in ("mask_map", "start")}
        return {"format": RUN_FORMAT, **plain, "preset": self.recipe.name, "recipe": as_dict(self.recipe)}


def settings_of(record: Mapping[str, Any]) -> RunSettings:
    """The settings that a run's record holds.

    Args:
        record: Of `RunSettings.to_dict`.

    Raises:
        ValueError: If they are not settings of this version.
    """
    plain = {name: value for name, value in record.items() if name not in ("format", "preset", "recipe")}
    return RunSettings(**plain, recipe=from_dict(Recipe, record["recipe"]))


def parse_size(text: str | None) -> SizePolicy:
    """The size policy behind "HEIGHTxWIDTH", "LONG", "pad:SIDE" or None.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> parse_size("252x504"), parse_size("1024"), parse_size("pad:840")
        ((252, 504), 1024, Padded(side=840))
    """
    if text is None:
        return None
    if text.startswith("pad:"):
        side = parse_size(text.removeprefix("pad:"))
        if isinstance(side, tuple) and side[0] == side[1]:
            side = side[0]
        if not isinstance(side, int):
            raise ValueError(f"expected the side of a square, such as pad:840 or pad:840x840; got {text!r}")
        return Padded(side)
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"expected a size as HEIGHTxWIDTH, a long side in pixels or pad:SIDE; got {text!r}")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def sizes_of(text: str | None) -> tuple[str | None, ...]:
    """The input sizes behind "504x1008,672x1344", one each.

    Raises:
        ValueError: If one is no size, or named twice.

    Example:
        >>> sizes_of("504x1008, 672x1344"), sizes_of("1024"), sizes_of(None)
        (('504x1008', '672x1344'), ('1024',), (None,))
    """
    if text is None:
        return (None,)
    parts = tuple(part.strip() for part in text.split(","))
    policies = [parse_size(part) for part in parts]
    twice = next((part for part, policy in zip(parts, policies, strict=True) if policies.count(policy) > 1), None)
    if twice is not None:
        raise ValueError(f"expected each input size once; got {twice} twice in {text!r}: leave one out")
    return parts


def points_request(text: str) -> tuple[str, int | None]:
    """How points are to be had: (scope, N), the scope as in `SCOPES`, or ("file", None).

    Example:
        >>> points_request("20"), points_request("total:5"), points_request("clicks.csv")
        (('picture', 20), ('total', 5), ('file', None))
        >>> points_request("patches:20"), points_request("patches:total:5")
        (('patches', 20), ('patches:total', 5))

    Raises:
        ValueError: If the number is none that counts points.
    """
    scope, _, number = text.rpartition(":")
    if scope not in ("", *SCOPES[1:]):
        return "file", None
    if number.isdecimal():
        return (scope or "picture"), int(number)
    try:
        float(number)
    except ValueError:
        return "file", None
    raise ValueError(f"expected points as a whole number, such as 20 or total:20; got {text!r}")


def run_differences(
    settings: RunSettings, pictures: Mapping[str, int], size: tuple[int, int]
) -> tuple[RecipeDifference, ...]:
    """Where a run departs from the paper's: what it was asked and was given, then every field of its recipe.

    Args:
        settings: What was asked.
        pictures: Number of "source" and of "target" pictures.
        size: Height and width that the backbone sees of the first target picture, pixels.
    """
    printed_and_used = {
        "backbone": (PAPER_BACKBONE, settings.backbone),
        "input size": (PAPER_SIZE, f"{size[0]}x{size[1]}"),
        "points": (PAPER_POINTS, settings.points),
        "source_pictures": (str(PAPER_PICTURES), str(pictures["source"])),
        "target_pictures": (str(PAPER_PICTURES), str(pictures["target"])),
    }
    found = [
        RecipeDifference(name, printed, used, "as asked" if name in ("backbone", "points") else "what there is")
        for name, (printed, used) in printed_and_used.items()
        if printed != used
    ]
    return (*found, *differences(settings.recipe))


def fingerprints_file(out: Path, store: Path | None) -> Path:
    """Where fingerprints of pictures and masks are kept: in the store where a folder is named, for all its runs."""
    return (out / "work" if store is None or address_of(store) else store) / "fingerprints.jsonl"


def seen_beside(store: Path) -> Fingerprints:
    """What is remembered of files in a store; only within this process where the store lies at an address."""
    return Fingerprints(None if address_of(store) else fingerprints_file(store, store))


def size_folder(root: Path, size: str | None, sizes: Collection[str | None]) -> Path:
    """Where the features of one input size lie below a store: a folder of its own where there are several."""
    return root if len(sizes) == 1 else root / str(size)


def store_folder(root: Path, spec: str) -> Path:
    """Where a data set's features live below a store: one folder a data set, shared by its splits.

    Scenes of different sizes are different pictures and get folders of their own.
    """
    parts = parse_spec(spec)
    if parts.name == "scenes":
        options = [part for part in (parts.split or "").split(",")[1:] if not part.startswith("count")]
        identity = json.dumps([parts.name, parts.path, sorted(options)])
    else:
        identity = json.dumps([parts.name, os.path.realpath(os.path.expanduser(parts.path))])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return root / f"{parts.name}-{Path(parts.path).name or 'data'}-{digest}"
