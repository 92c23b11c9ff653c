"""Folders of index masks as FiftyOne's `ImageSegmentationDirectory` and Ultralytics' task `semantic` read them.

https://docs.voxel51.com/user_guide/dataset_creation/datasets.html and https://docs.ultralytics.com/datasets/semantic
describe them. FiftyOne takes the value 0 for "nothing", so that its values are class indices + 1; in Ultralytics' masks
255 is nothing, as in ours.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Integer

from saot.annotate.regions import Marked, Region, read_json
from saot.data import (
    IGNORE_INDEX,
    ClassSet,
    files_below,
    folder_class_set,
    is_marked,
    read_mask,
    read_text,
    write_atomic,
)
from saot.report import MaskItem, check_mask, write_index_png

MARKER = ".saot"  # in a folder that is ours
LABELS, DATA, TARGETS = "labels", "data", "mask_targets.json"  # FiftyOne's names
IMAGES, MASKS, YAML = "images", "masks", "data.yaml"  # Ultralytics'


def begin_folder(folder: Path) -> None:
    """Makes a folder that holds a file for each picture, marked as ours before anything else is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / MARKER, b"masks of saot\n")


def is_our_folder(folder: Path) -> bool:
    """Whether a folder is one that `begin_folder` has made or begun."""
    return is_marked(folder, MARKER)


def stems_of(items: Iterable[MaskItem], classes: ClassSet) -> Iterator[tuple[str, MaskItem]]:
    """The pictures with their names without ending, checked.

    Raises:
        ValueError: If two have one name without ending, or a mask holds an unknown class.
    """
    seen: dict[str, str] = {}
    for item in items:
        stem = PurePosixPath(item.file_name).with_suffix("").as_posix()
        if stem in seen:
            raise ValueError(f"expected names that differ without their ending; got {seen[stem]} and {item.file_name}")
        seen[stem] = item.file_name
        check_mask(item.mask, len(classes.names))
        yield stem, item


def write_fiftyone(folder: Path, items: Iterable[MaskItem], classes: ClassSet) -> None:
    """Writes `labels/`, with 0 for no class and index + 1 for each, `data/` with the pictures, `mask_targets.json`.

    A list of the pictures, `data.json`, would do in place of `data/`, but FiftyOne 1.22.1 looks for it by itself only
    where it is told to.

    Args:
        folder: Gets the files.
        items: The pictures, which must know their files; read once. Files are linked where the disk allows it.
        classes: What the values mean.

    Raises:
        ValueError: If there are 255 classes, since 255 + 1 is no 8-bit value, or two pictures have one name.
    """
    if classes.num_classes > IGNORE_INDEX - 1:
        raise ValueError(f"expected at most 254 classes for FiftyOne's 8-bit masks; got {classes.num_classes}")
    begin_folder(folder)
    values = (np.arange(256) + 1).astype(np.uint8)  # 255 becomes 0
    shifted = folder_class_set(["none", *(f"class {name}" for name in classes.names)])
    for stem, item in stems_of(items, classes):
        place = folder / LABELS / f"{stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_index_png(place, values[item.mask], shifted)
        put_picture(_file_of(item, "FiftyOne"), folder / DATA / item.file_name)
    targets = {str(index + 1): name for index, name in enumerate(classes.names)}
    write_atomic(folder / TARGETS, json.dumps(targets, indent=1).encode())


def write_yolo(folder: Path, items: Iterable[MaskItem], classes: ClassSet) -> None:
    """Writes `images/`, `masks/` and `data.yaml`, which `yolo semantic train data=.../data.yaml` takes.

    Args:
        folder: Gets the files.
        items: The pictures, which must know their files; read once. Files are linked where the disk allows it.
        classes: What the values mean.

    Raises:
        ValueError: If there is one class alone, which Ultralytics takes for the value 1 beside a background of 0.
    """
    if classes.num_classes < 2:
        raise ValueError(
            "expected two classes at least for Ultralytics' masks; it takes the value 0 of one for nothing"
        )
    begin_folder(folder)
    for stem, item in stems_of(items, classes):
        place = folder / MASKS / f"{stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_index_png(place, item.mask, classes)
        put_picture(_file_of(item, "Ultralytics"), folder / IMAGES / item.file_name)
    names = "".join(f"  {index}: {json.dumps(name)}\n" for index, name in enumerate(classes.names))
    text = f"# masks of saot; 255 is ignored\ntrain: {IMAGES}\nval: {IMAGES}\nmasks_dir: {MASKS}\nnames:\n{names}"
    write_atomic(folder / YAML, text.encode())


def _file_of(item: MaskItem, reader: str) -> Path:
    if item.picture is None:
        raise ValueError(f"expected the file of {item.file_name}, which {reader} reads too; got none")
    return item.picture


def put_picture(picture: Path, place: Path) -> None:
    """The picture under another name: a link where the disk allows it, else a copy."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.new")
    beside.unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(picture), beside)
    except OSError:  # another disk, or one without links
        shutil.copyfile(picture, beside)
    os.replace(beside, place)
    beside.unlink(missing_ok=True)  # where both were links to one file, nothing was renamed


def read_fiftyone(folder: Path, classes: ClassSet | None = None) -> Iterator[Marked]:
    """The masks of an `ImageSegmentationDirectory`, one at a time.

    Args:
        folder: With `labels/` and, where `classes` is not given, `mask_targets.json`.
        classes: Index + 1 is the value in the masks.

    Raises:
        ValueError: If names are missing, or a mask holds a value without one.
    """
    return _read(folder, LABELS, _targets(folder) if classes is None else dict(enumerate(classes.names, 1)), 0)


def read_yolo(folder: Path, classes: ClassSet | None = None) -> Iterator[Marked]:
    """The masks of a set for Ultralytics' task `semantic`, one at a time.

    Args:
        folder: With `masks/` and, where `classes` is not given, `data.yaml`.
        classes: What the values mean.

    Raises:
        ValueError: If names are missing, or a mask holds a value without one.
    """
    return _read(folder, MASKS, _names(folder) if classes is None else dict(enumerate(classes.names)), IGNORE_INDEX)


def _read(folder: Path, below: str, names: Mapping[int, str], nothing: int) -> Iterator[Marked]:
    if not (folder / below).is_dir():
        raise ValueError(f"expected a folder {below} in {folder}; there is none: give the folder that holds it")
    for key, path in files_below(folder / below).items():
        values = read_mask(path)
        yield Marked(
            PurePosixPath(key).with_suffix("").as_posix(), values.shape, _regions(values, names, nothing, path)
        )


def _regions(
    values: Integer[np.ndarray, "h w"], names: Mapping[int, str], nothing: int, path: Path
) -> tuple[Region, ...]:
    found = []
    for value in np.unique(values).tolist():
        if value == nothing:
            continue
        if value not in names:
            raise ValueError(
                f"expected values among {', '.join(map(str, sorted(names)))}, and {nothing} for nothing, in {path}; "
                f"got {value}: give --classes, in the order of the values"
            )
        found.append(Region(names[value], 0, 0, values == value))
    return tuple(found)


def _targets(folder: Path) -> dict[int, str]:
    path = folder / TARGETS
    if not path.is_file():
        raise ValueError(f"expected {TARGETS} in {folder}, such as {{'1': 'road'}}; there is none: give --classes")
    found = read_json(path, "FiftyOne's")
    try:
        return {int(value): str(name) for value, name in found.items() if int(value) != 0}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected values and names in {path}, such as {{'1': 'road'}}; got others: {error}"
        ) from error


def _names(folder: Path) -> dict[int, str]:
    """The names of a `data.yaml`, as Ultralytics' own files have them: one a line, or in one list."""
    path = folder / YAML
    if not path.is_file():
        raise ValueError(f"expected {YAML} in {folder}, which names the classes; there is none: give --classes")
    text = read_text(path)
    lines = re.search(r"^names:[ \t]*(?:#.*)?\n((?:[ \t]+.*\n?|[ \t]*#.*\n?)+)", text, re.MULTILINE)
    if lines is not None:
        pairs = re.findall(r"^[ \t]+(\d{1,3}):[ \t]*(.+?)[ \t]*$", lines[1], re.MULTILINE)
        if pairs:
            return {int(index): name.strip("'\"") for index, name in pairs}
    listed = re.search(r"^names:[ \t]*\[([^\]]*)\]", text, re.MULTILINE)
    if listed is not None:
        return {index: name.strip(" \t\n'\"") for index, name in enumerate(listed[1].split(","))}
    raise ValueError(f"expected names, one a line or in a list, in {path}; got none: give --classes")
