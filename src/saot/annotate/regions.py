"""What an annotation tool says of a picture, whatever the tool: regions with a label, and points."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from saot.data import IGNORE_INDEX, ClassSet

MOST_BYTES = 1 << 30  # of a JSON file


@dataclass(frozen=True, eq=False)
class Region:
    """Some pixels with a label.

    Attributes:
        label: Name of the class.
        left: Of the box that `mask` fills, in pixels of the picture.
        top: The same.
        mask: Which pixels of the box.
        order: Later regions lie over earlier ones; equal numbers in the order of the file.
        source: Who made it, as the tool says: "file", "manual", ...
    """

    label: str
    left: int
    top: int
    mask: Bool[np.ndarray, "h w"]
    order: int = 0
    source: str = ""


@dataclass(frozen=True)
class Click:
    """A pixel with a label.

    Attributes:
        label: Name of the class.
        x: Column, from 0.
        y: Row, from 0.
        source: Who made it, as of a region.
    """

    label: str
    x: int
    y: int
    source: str = ""


@dataclass(frozen=True, eq=False)
class Marked:
    """A picture as it was labelled.

    Attributes:
        name: Its file name in the tool, with "/".
        size: Height and width that the tool knows it by.
        regions: In the order of the file.
        clicks: Single points.
        left_out: What the tool holds of it and no mask can be made of, such as "2 polylines".
    """

    name: str
    size: tuple[int, int]
    regions: tuple[Region, ...] = ()
    clicks: tuple[Click, ...] = ()
    left_out: tuple[str, ...] = ()

    def mask(self, classes: ClassSet) -> UInt8[np.ndarray, "h w"]:
        """Class index of every pixel, 255 where no region lies; what lies above counts.

        Raises:
            ValueError: If a label is not one of the classes; names it.
        """
        found = np.full(self.size, IGNORE_INDEX, np.uint8)
        for region in sorted(self.regions, key=lambda one: one.order):
            height, width = region.mask.shape
            place = found[region.top : region.top + height, region.left : region.left + width]
            place[region.mask] = index_of(region.label, classes, self.name)
        return found


def read_json(path: Path, what: str) -> Any:
    """What a tool's JSON file holds.

    Args:
        path: The file.
        what: Names the tool in errors, such as "COCO's".

    Raises:
        ValueError: If it is no plain file, larger than `MOST_BYTES`, or no JSON.
    """
    if not path.is_file():
        raise ValueError(f"expected {what} JSON in {path}; it is {'no plain file' if path.exists() else 'missing'}")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes in {path}; it has {size:,}: export it in parts")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected {what} JSON in {path}; {error}: export it again") from error


def index_of(label: str, classes: ClassSet, where: str) -> int:
    """Index of a class by its name.

    Raises:
        ValueError: If there is none of that name.
    """
    if label not in classes.names:
        raise ValueError(
            f"expected labels among {', '.join(classes.names)}; {where} has {label!r}: rename it in the tool, or pass "
            "the classes it was labelled with"
        )
    return classes.names.index(label)


def inside(left: int, top: int, size: Sequence[int], picture: tuple[int, int], what: str) -> None:
    """Check that a box lies in its picture.

    Raises:
        ValueError: If it does not.
    """
    if left < 0 or top < 0 or left + size[1] > picture[1] or top + size[0] > picture[0]:
        raise ValueError(
            f"expected {what} inside its picture of {picture[0]} x {picture[1]}; its box of {size[0]} x {size[1]} "
            f"begins at row {top}, column {left}: the picture was labelled at another size"
        )


def numbered(kinds: Iterable[str]) -> tuple[str, ...]:
    """How many of each kind, in words.

    Example:
        >>> numbered(["polyline", "box", "polyline"])
        ('1 box', '2 polyline')
    """
    found = list(kinds)
    return tuple(f"{found.count(kind)} {kind}" for kind in sorted(set(found)))


def inside_polygon(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres lie in a polygon, by the number of its edges to the left of them.

    Args:
        corners: (n, 2) x and y, in pixels from the top left corner of the picture.
        size: Height and width.

    Example:
        >>> inside_polygon(np.array([[0, 0], [2, 0], [2, 1], [0, 1]]), (2, 3)).astype(int).tolist()
        [[1, 1, 0], [0, 0, 0]]
    """
    height, width = size
    crossings = np.zeros((height, width + 1), np.int64)
    rows = np.arange(height) + 0.5
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        mine = np.flatnonzero((rows >= min(y0, y1)) & (rows < max(y0, y1)))
        x = x0 + (rows[mine] - y0) * (x1 - x0) / (y1 - y0)
        first = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)  # the first centre at or right of the edge
        np.add.at(crossings, (mine, first), 1)
    return np.cumsum(crossings, axis=1)[:, :width] % 2 == 1
