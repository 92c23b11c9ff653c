"""Sparse target points: drawn once from masks, or read from what a person clicked or scribbled."""

import csv
import hashlib
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from saot.data.classes import IGNORE_INDEX, ClassSet
from saot.data.datasets import ImageSet, LabelledSet
from saot.data.files import write_atomic
from saot.data.images import read_mask
from saot.data.listing import by_stem, picture_finder, walk
from saot.data.patches import PatchGrid, patch_labels, point_tokens
from saot.data.readers import check_indices
from saot.data.spreadsheets import SEPARATORS, read_table

HEADER = ("image", "x", "y", "class")

COLUMNS = {  # what others call them, small letters, "_" for what lies between words; the first that is there counts
    "image": ("image", "picture", "image_name", "image_path", "file_name", "filename", "file", "path", "img", "frame"),
    "x": ("x", "x_px", "px", "x_pixel", "column", "col"),
    "y": ("y", "y_px", "py", "y_pixel", "row"),
    "class": (
        "class",
        "class_name",
        "label",
        "label_name",
        "category",
        "category_name",
        "class_id",
        "label_id",
        "name",
    ),
}

Row = tuple[str, int, int, int]  # key, y, x, class: in this order rows sort


@dataclass(frozen=True)
class Points:
    """Labelled pixels, one row a point; the functions of this file return them sorted by key, y, x.

    Args:
        keys: Picture of each point, a key of its `ImageSet`.
        x: Column of each point, pixels from the left, from 0.
        y: Row of each point, pixels from the top, from 0.
        classes: Class index of each point.

    Raises:
        ValueError: If the columns differ in length.

    Example:
        >>> Points(("a.png", "b.png"), (3, 4), (0, 1), (7, 8)).of("b.png")
        (tensor([4]), tensor([1]), tensor([8]))
    """

    keys: tuple[str, ...]
    x: tuple[int, ...]
    y: tuple[int, ...]
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.keys) == len(self.x) == len(self.y) == len(self.classes):
            lengths = [len(self.keys), len(self.x), len(self.y), len(self.classes)]
            raise ValueError(f"points need a key, x, y and class each, but there are {lengths}")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(self.keys):
            rows.setdefault(key, []).append(row)
        return rows

    def of(self, key: str) -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"], Int64[Tensor, "p"]]:
        """Columns x, y and class of the points of one picture; empty where it has none."""
        rows = self._rows.get(key, [])
        x, y, classes = ([column[row] for row in rows] for column in (self.x, self.y, self.classes))
        return (
            torch.tensor(x, dtype=torch.int64),
            torch.tensor(y, dtype=torch.int64),
            torch.tensor(classes, dtype=torch.int64),
        )


def draw_points(
    labelled: LabelledSet,
    *,
    per_class: int,
    seed: int,
    scope: Literal["picture", "total"] = "picture",
    progress: Callable[[int, int], None] | None = None,
    grid_of: Callable[[int, int], PatchGrid] | None = None,
    ignore: Literal["exclude", "include"] = "exclude",
) -> Points:
    """Random pixels of each class, drawn once: the label budget of a target (SAOT E.3, paper-notes C13, C14).

    Every labelled pixel gets a random number from the seed and its picture's key, and the `per_class` lowest
    of each class win. So a draw does not depend on the order of the files, and a smaller budget is part of a
    larger one. With `grid_of` patches are drawn in place of pixels (E.3: "from all target patches labeled c"), and a
    patch stands in the result as one pixel of it that has its class, the one nearest its centre.

    Args:
        labelled: Pictures with masks; each mask is opened once.
        per_class: Points N of each class; where a class has fewer pixels, all of them. 0 opens no mask.
        seed: Seed of the draw, at least 0.
        scope: "picture": N of each class in each picture; "total": N of each class in the whole set.

    Other:
        progress: Called with (masks done, masks in all).
        grid_of: (height, width) of a picture -> how it lies under its tokens; None draws pixels.
        ignore: With `grid_of`, how a patch gets its class, as in `patch_labels`.

    Returns:
        Distinct pixels, sorted by key, y, x.

    Raises:
        ValueError: If a number is negative, or no mask has a labelled pixel.
    """
    if per_class < 0 or seed < 0:
        raise ValueError(f"points per class and seed must be at least 0, but are {per_class} and {seed}")
    if scope not in ("picture", "total"):
        raise ValueError(f"scope is {scope!r}; choose 'picture' (points a class and picture) or 'total' (in all)")
    if per_class == 0:
        return Points((), (), (), ())
    drawn: dict[int, list[tuple[float, Row]]] = {}
    classes = labelled.classes.num_classes
    for index, key in enumerate(labelled.keys):
        mask = labelled.mask(index)
        if grid_of is not None:
            grid = grid_of(*mask.shape)
            mask = _one_a_patch(mask, grid, patch_labels(mask, grid, num_classes=classes, ignore=ignore).numpy())
        for label, ranked in _lowest(mask, key, per_class, seed).items():
            kept = drawn.setdefault(label, []) + ranked
            drawn[label] = sorted(kept)[:per_class] if scope == "total" else kept
        if progress is not None:
            progress(index + 1, len(labelled))
    if not drawn:
        what = "pixel" if grid_of is None else "patch"
        raise ValueError(f"no mask of {labelled.images.spec} has a labelled {what}, so that no point can be drawn")
    return _points(row for ranked in drawn.values() for _, row in ranked)


def read_points_csv(
    path: str | Path,
    images: ImageSet,
    classes: ClassSet,
    size_of: Callable[[int], tuple[int, int]] | None = None,
) -> Points:
    """Points that a person clicked, from a table with the columns image, x, y, class.

    Other usual names of the columns will do (`COLUMNS`), in any case, and further columns are allowed. `image` is a
    key of `images`, a path that ends with one, or a file name with or without suffix that only one of them has;
    `class` is a name, in any case, or an index, such as 3 or 3.0; x and y count pixels from 0 at the top left,
    fractions being cut off.

    Args:
        path: CSV file, UTF-8, its columns parted by commas, semicolons or tabs.
        images: Pictures that the points lie in.
        classes: Classes of the points.
        size_of: Index of a picture -> (height, width) in pixels; None asks `images`.

    Returns:
        The points, sorted by key, y, x; a point that is given twice counts once.

    Raises:
        ValueError: Names the line: for a bad header, an unknown picture or class, a point outside its picture
            or no point at all, or two classes for one pixel.
    """
    rows: dict[tuple[str, int, int], tuple[int, int]] = {}  # (key, y, x) -> (class, line)
    find = picture_finder(images.keys, images.spec)
    sizes: dict[int, tuple[int, int]] = {}
    for line, row in read_table(path, COLUMNS, HEADER).rows:
        image, x_text, y_text, label = (row[name] for name in HEADER)
        index = find(image, f"line {line} of {path}")
        x, y = _pixel(x_text, line, path), _pixel(y_text, line, path)
        if index not in sizes:
            sizes[index] = (size_of or images.size)(index)
        height, width = sizes[index]
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"line {line} of {path}: point x={x}, y={y} lies outside {images.keys[index]}, which has "
                f"{width}x{height} pixels (width x height); count pixels from 0 at the top left"
            )
        place, found = (images.keys[index], y, x), _class(label, classes, line, path)
        other, earlier = rows.setdefault(place, (found, line))
        if other != found:
            raise ValueError(
                f"line {line} of {path} says {classes.names[found]!r} for a pixel that line {earlier} calls "
                f"{classes.names[other]!r}; keep one of them"
            )
    if not rows:
        raise ValueError(f"{path} has no points below its header; add lines of {','.join(HEADER)}")
    return _points((key, y, x, label) for (key, y, x), (label, _) in rows.items())


def points_said(path: str | Path, points: Points, images: ImageSet, classes: ClassSet) -> str:
    """One sentence on what was read of a file of clicks or a folder of scribbles: columns, pictures, classes.

    Args:
        path: What was read.
        points: What it gave.
        images: Pictures that the points lie in.
        classes: Classes of the points.
    """
    count = Counter(points.classes)
    named = ", ".join(f"{classes.names[label]} {count[label]}" for label in sorted(count))
    missing = [name for label, name in enumerate(classes.names) if label not in count]
    said = f"{path}: {len(points)} points in {len(set(points.keys))} of {len(images)} pictures: {named}"
    if missing:
        said += f"; none of {', '.join(missing[:8])}" + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
    if Path(path).is_file():
        table = read_table(path, COLUMNS, HEADER)
        used = {name: column for name, column in table.columns.items() if name != column.lower()}
        parts = [f"{name} from the column {column!r}" for name, column in used.items()]
        parts += [f"parted by {SEPARATORS[table.separator]}"] * (table.separator != ",")
        said += f" ({', '.join(parts)})" if parts else ""
    return said


def write_points_csv(path: str | Path, points: Points, classes: ClassSet) -> None:
    """Write points as `read_points_csv` reads them, in one step, classes by name.

    Raises:
        OSError: If the file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEADER)
    for key, x, y, label in zip(points.keys, points.x, points.y, points.classes, strict=True):
        table.writerow((key, x, y, classes.names[label]))
    write_atomic(path, text.getvalue().encode())


def read_scribbles(
    folder: str | Path, images: ImageSet, classes: ClassSet, *, per_class: int = 20, seed: int = 0
) -> Points:
    """Points from scribbles: masks of the pictures' names in which all but a few strokes is 255.

    Args:
        folder: Folder of PNG files with the stems of the pictures; pictures without one have no points.
        images: Pictures that were scribbled on.
        classes: Classes of the scribbles.

    Other:
        per_class: Points kept of each class and picture, drawn as `draw_points` draws; SAOT E.3 has 20.
        seed: Seed of that draw, at least 0.

    Returns:
        The points, sorted by key, y, x.

    Raises:
        ValueError: If a scribble has no picture, another size or an unknown class, or nothing is marked.
    """
    if per_class < 1 or seed < 0:
        raise ValueError(f"per_class must be at least 1 and seed at least 0, but they are {per_class} and {seed}")
    find = picture_finder(images.keys, images.spec)
    scribbles = by_stem(walk(Path(folder), "a scribble set", ".png"), Path(folder))
    rows: list[Row] = []
    for stem, path in scribbles.items():
        index = find(stem, f"scribble {path}")
        mask = check_indices(read_mask(path), classes, path)
        height, width = images.size(index)
        if mask.shape != (height, width):
            raise ValueError(
                f"scribble {path} has {mask.shape[1]}x{mask.shape[0]} pixels but its picture "
                f"{images.keys[index]} has {width}x{height} (width x height); draw it at the picture's size"
            )
        for ranked in _lowest(mask, images.keys[index], per_class, seed).values():
            rows.extend(row for _, row in ranked)
    if not rows:
        raise ValueError(f"no scribble in {folder} has a marked pixel: all are 255; mark some with their class index")
    return _points(rows)


def _lowest(mask: UInt8[np.ndarray, "h w"], key: str, per_class: int, seed: int) -> dict[int, list[tuple[float, Row]]]:
    """For each class in a mask, the pixels with the lowest random numbers, and those numbers."""
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    numbers = np.random.default_rng([seed, name]).random(mask.size)
    flat, width = mask.ravel(), mask.shape[1]
    lowest: dict[int, list[tuple[float, Row]]] = {}
    for label in np.unique(flat[flat != IGNORE_INDEX]).tolist():
        pixels = np.flatnonzero(flat == label)
        if len(pixels) > per_class:
            pixels = pixels[np.argpartition(numbers[pixels], per_class - 1)[:per_class]]
        lowest[label] = sorted((float(numbers[p]), (key, int(p // width), int(p % width), label)) for p in pixels)
    return lowest


def _one_a_patch(
    mask: UInt8[np.ndarray, "h w"], grid: PatchGrid, labels: UInt8[np.ndarray, "n"]
) -> UInt8[np.ndarray, "h w"]:
    """The mask with one pixel left of each labelled patch: of those with the patch's class, the nearest its centre.

    A patch that is smaller than a pixel and has the centre of none is left out.
    """
    height, width = mask.shape
    zeros = torch.zeros(max(height, width), dtype=torch.int64)
    rows = point_tokens(zeros[:height], torch.arange(height), grid).numpy() // grid.width
    columns = point_tokens(torch.arange(width), zeros[:width], grid).numpy() % grid.width
    token = rows[:, None] * grid.width + columns[None, :]
    y, x = np.nonzero((mask != IGNORE_INDEX) & (mask == labels[token]))
    down = (y + 0.5) * grid.input_height / height / grid.patch_size - rows[y] - 0.5  # from the centre, in patches
    across = (x + 0.5) * grid.input_width / width / grid.patch_size - columns[x] - 0.5
    order = np.lexsort((down**2 + across**2, token[y, x]))
    _, first = np.unique(token[y, x][order], return_index=True)
    chosen = y[order[first]], x[order[first]]
    left = np.full_like(mask, IGNORE_INDEX)
    left[chosen] = mask[chosen]
    return left


def _points(rows: Iterable[Row]) -> Points:
    ordered = sorted(rows)
    return Points(
        keys=tuple(row[0] for row in ordered),
        x=tuple(row[2] for row in ordered),
        y=tuple(row[1] for row in ordered),
        classes=tuple(row[3] for row in ordered),
    )


def _pixel(text: str, line: int, path: str | Path) -> int:
    """A pixel coordinate; a fraction, behind a point or a comma, lies within the pixel it is cut off to."""
    try:
        return math.floor(float(text.replace(",", ".")))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"line {line} of {path}: {text!r} is no pixel coordinate; give a number") from error


def _class(text: str, classes: ClassSet, line: int, path: str | Path) -> int:
    """The index of a class by its name, by its name in other letters, or by its index, which may be 3 or 3.0."""
    if text in classes.names:
        return classes.names.index(text)
    alike = [index for index, name in enumerate(classes.names) if _plain(name) == _plain(text)]
    if len(alike) == 1:
        return alike[0]
    whole = re.fullmatch(r"(\d{1,9})(?:[.,]0*)?", text)
    if whole is not None and int(whole[1]) < classes.num_classes:
        return int(whole[1])
    raise ValueError(
        f"line {line} of {path}: there is no class {text!r}; give an index 0-{classes.num_classes - 1} or a "
        f"name of {', '.join(classes.names)}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()
