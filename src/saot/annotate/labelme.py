"""labelme's JSON, one file a picture: masks as PNG within their box, whose lower right pixel belongs to it."""

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Bool

from saot.annotate.layouts import begin_folder, stems_of
from saot.annotate.regions import Click, Marked, Region, inside, inside_polygon, numbered, read_json
from saot.annotate.runs import box_of, checked_size, shown
from saot.data import BROKEN, ClassSet, write_atomic
from saot.report import MaskItem

VERSION = "6.3.1"  # of labelme, whose files look like ours


def write_labelme(folder: Path, items: Iterable[MaskItem], classes: ClassSet) -> None:
    """Writes a file a picture, which labelme opens together with the picture; one shape a class.

    Args:
        folder: Gets the files, in the pictures' sub-folders.
        items: The pictures; read once. Where one does not know its file, labelme looks for it beside the JSON.
        classes: Names of the labels.

    Raises:
        ValueError: If two pictures have one name without its ending, or a mask holds an unknown class.
    """
    begin_folder(folder)
    for stem, item in stems_of(items, classes):
        place = folder / f"{stem}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = PurePosixPath(item.file_name).name
        if item.picture is not None:
            picture = Path(os.path.relpath(item.picture, place.parent)).as_posix()
        height, width = item.mask.shape
        document = {
            "version": VERSION,
            "flags": {},
            "shapes": [_shape(classes.names[label], pixels) for label, pixels in shown(item.mask)],
            "imagePath": picture,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_atomic(place, json.dumps(document, indent=1).encode())


def _shape(label: str, pixels: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    from PIL import Image

    box = box_of(pixels)
    assert box is not None, "a class that is shown has pixels"
    cut, buffer = pixels[box.top : box.bottom + 1, box.left : box.right + 1], io.BytesIO()
    Image.fromarray(cut.astype(np.uint8)).save(buffer, "PNG")
    return {
        "label": label,
        "points": [[box.left, box.top], [box.right, box.bottom]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(buffer.getvalue()).decode("ascii"),
    }


def read_labelme(path: Path) -> Iterator[Marked]:
    """The pictures of a folder of labelme's files, or of one, one at a time; later shapes lie over earlier ones.

    Masks, polygons, rectangles and circles become regions, points clicks; lines are counted in `left_out`.

    Args:
        path: A folder, whose sub-folders count, or a JSON file.

    Raises:
        ValueError: If a file is none of labelme's.
    """
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*.json") if not one.name.startswith("."))
    if not files:
        raise ValueError(f"expected labelme's JSON files in {path}; there are none")
    for file in files:
        yield _marked(file, path if path.is_dir() else path.parent)


def _marked(file: Path, top: Path) -> Marked:
    document = read_json(file, "labelme's")
    shapes = document.get("shapes") if isinstance(document, dict) else None
    if not isinstance(shapes, list) or not isinstance(document.get("imagePath"), str):
        raise ValueError(f"expected shapes and imagePath in {file}; got something else: it is no file of labelme")
    size = checked_size([document.get("imageHeight"), document.get("imageWidth")], str(file))
    regions, clicks, others = [], [], []
    for order, shape in enumerate(shapes):
        kind = shape.get("shape_type", "polygon") if isinstance(shape, dict) else None
        if kind == "point":
            ((x, y),) = _corners(shape, 1, file)
            if not (0 <= x < size[1] and 0 <= y < size[0]):
                raise ValueError(f"expected points inside the {size[0]} x {size[1]} pixels of {file}; got {x}, {y}")
            clicks.append(Click(str(shape.get("label", "")), int(x), int(y)))
        elif kind in ("mask", "polygon", "rectangle", "circle"):
            regions.append(_region(shape, kind, size, order, file))
        else:
            others.append(str(kind))
    return Marked(_name(document["imagePath"], file, top), size, tuple(regions), tuple(clicks), numbered(others))


def _name(picture: str, file: Path, top: Path) -> str:
    """Of the picture as the file names it: below the folder of the files where it points out of it."""
    name = PureWindowsPath(picture).as_posix()
    if ".." in name.split("/") or name.startswith("/") or ":" in name:
        return file.relative_to(top).with_suffix(PurePosixPath(name).suffix).as_posix()
    return PurePosixPath(file.relative_to(top).parent, name).as_posix()


def _corners(shape: dict[str, Any], least: int, file: Path) -> np.ndarray:
    try:
        found = np.array(shape.get("points"), dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected points as [[x, y], ...] in {file}; got {str(shape.get('points'))[:60]}") from error
    if len(found) < least or not np.isfinite(found).all():
        raise ValueError(f"expected {least} finite points at least in a shape of {file}; got {found.tolist()[:4]}")
    return found


def _region(shape: dict[str, Any], kind: str, size: tuple[int, int], order: int, file: Path) -> Region:
    label, corners = str(shape.get("label", "")), _corners(shape, 3 if kind == "polygon" else 2, file)
    if kind == "polygon":
        return Region(label, 0, 0, inside_polygon(corners, size), order)
    if kind == "mask":
        mask = _mask(shape.get("mask"), file)
        left, top = (int(value) for value in corners[0])
        right, bottom = (int(value) for value in corners[1])
        if mask.shape != (bottom - top + 1, right - left + 1):
            raise ValueError(
                f"expected a mask of the {bottom - top + 1} x {right - left + 1} pixels of its box in {file}; "
                f"got {mask.shape[0]} x {mask.shape[1]}"
            )
        inside(left, top, mask.shape, size, f"a mask of {file}")
        return Region(label, left, top, mask, order)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    (x0, y0), (x1, y1) = corners[0], corners[1]
    if kind == "circle":  # its middle, and a point on it
        within = (columns - x0) ** 2 + (rows - y0) ** 2 <= (x1 - x0) ** 2 + (y1 - y0) ** 2
    else:
        within = (columns >= min(x0, x1)) & (columns <= max(x0, x1)) & (rows >= min(y0, y1)) & (rows <= max(y0, y1))
    return Region(label, 0, 0, within, order)


def _mask(text: Any, file: Path) -> Bool[np.ndarray, "h w"]:
    from PIL import Image

    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            checked_size([picture.height, picture.width], f"a mask of {file}")
            return np.asarray(picture.convert("L") if picture.mode != "1" else picture) > 0
    except BROKEN as error:
        raise ValueError(f"expected a mask as a PNG in base64 in {file}; {error}") from error
