"""COCO's JSON: masks as compressed run lengths; what annotation tools export also as plain ones and polygons."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from saot.annotate.regions import Marked, Region, inside_polygon, numbered, read_json
from saot.annotate.runs import ColumnRuns, checked_size, column_runs, compressed, mask_of_coco
from saot.data import ClassSet, open_atomic
from saot.report import MaskItem, begins_with, check_mask

DESCRIPTION = "semantic masks of saot"


def write_coco(path: Path, items: Iterable[MaskItem], classes: ClassSet) -> None:
    """Writes a COCO document with one annotation a class and picture, as compressed RLE, whole or not at all.

    Category ids are class index + 1, since many readers take 0 for "nothing"; `iscrowd` is 0, since trainers drop
    crowds and every reader takes RLE without it. A class without pixels gets no annotation: no segmentation is empty.

    Args:
        path: Of the file.
        items: Pictures; read once, so a generator keeps one mask in memory.
        classes: Names and order of the classes.

    Raises:
        ValueError: If a mask holds an unknown class, or two pictures have one file name.
    """
    rest = {"categories": _categories(classes)}
    with (
        open_atomic(Path(path)) as file,
        tempfile.TemporaryFile("w+", encoding="utf-8", dir=Path(path).parent) as annotations,
    ):
        file.write(json.dumps(_coco_head(classes))[:-1].encode() + b', "images": [')
        between = annotated = ""
        for image, own in _coco_entries(items, classes):
            file.write((between + json.dumps(image, allow_nan=False)).encode())
            between = ", "
            for one in own:
                annotations.write(annotated + json.dumps(one, allow_nan=False))
                annotated = ", "
        file.write(b'], "annotations": [')
        annotations.seek(0)
        while part := annotations.read(1 << 20):
            file.write(part.encode())
        file.write(b"], " + json.dumps(rest)[1:].encode())


def is_coco(path: Path) -> bool:
    """Whether a file is one of `write_coco`."""
    return begins_with(path, f'{{"info": {{"description": "{DESCRIPTION}'.encode())


def _coco_head(classes: ClassSet) -> dict[str, Any]:
    return {"info": {"description": f"{DESCRIPTION}, classes {classes.name}"}, "licenses": []}


def _categories(classes: ClassSet) -> list[dict[str, Any]]:
    return [
        {"id": index + 1, "name": name, "supercategory": "", "color": list(color)}
        for index, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
    ]


def _coco_entries(
    items: Iterable[MaskItem], classes: ClassSet
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The entry of each picture and those of its classes."""
    seen: set[str] = set()
    annotation = 0
    for item in items:
        if item.file_name in seen:
            raise ValueError(f"two pictures are called {item.file_name!r}; give each its own file name")
        seen.add(item.file_name)
        check_mask(item.mask, len(classes.names))
        height, width = item.mask.shape
        own = []
        for index, runs in column_runs(item.mask).items():
            annotation += 1
            identity = {"id": annotation, "image_id": len(seen), "category_id": index + 1}
            score = {"score": item.scores[index]} if index in item.scores else {}
            own.append({**identity, **_segment(runs), **score})
        yield {"id": len(seen), "file_name": item.file_name, "width": width, "height": height}, own


def _segment(runs: ColumnRuns) -> dict[str, Any]:
    """Segmentation, area and box of one class of one picture."""
    box = runs.box
    return {
        "segmentation": {"size": list(runs.size), "counts": compressed(runs.lengths)},
        "area": runs.area,
        "bbox": [float(value) for value in (box.left, box.top, box.size[1], box.size[0])],
        "iscrowd": 0,
    }


def read_coco(path: Path) -> Iterator[Marked]:
    """The pictures of a COCO document, one at a time; later annotations lie over earlier ones.

    Run lengths that do not fill their picture are refused; pycocotools would leave the rest of the mask to chance.
    Annotations with a box alone are counted in `left_out`.

    Args:
        path: Of the JSON file.

    Raises:
        ValueError: If the file is no COCO document; names the picture where it can.
    """
    document = read_json(Path(path), "COCO's")
    images, annotations, categories = (
        _entries(document, name, path) for name in ("images", "annotations", "categories")
    )
    labels = {_key(one, "id", path): str(one.get("name", "")) for one in categories}
    of_image: dict[Any, list[dict[str, Any]]] = {_key(one, "id", path): [] for one in images}
    if len(of_image) < len(images) or len(labels) < len(categories):
        raise ValueError(f"expected an id of its own for each picture and category in {path}; some are alike")
    for one in annotations:
        image, label = _key(one, "image_id", path), _key(one, "category_id", path)
        if image not in of_image or label not in labels:
            raise ValueError(f"expected annotations of pictures and categories of {path}; got {image!r} and {label!r}")
        of_image[image].append(one)
    for image in images:
        where = f"{image.get('file_name')} of {path}"
        size = checked_size([image.get("height"), image.get("width")], where)
        regions, others = [], []
        for one in of_image[image["id"]]:
            mask = _mask(one.get("segmentation"), size, where)
            if mask is None:
                others.append("box")
            else:
                regions.append(Region(labels[one["category_id"]], 0, 0, mask))
        yield Marked(str(image.get("file_name", "")), size, tuple(regions), (), numbered(others))


def _entries(document: Any, name: str, path: Path) -> list[dict[str, Any]]:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"expected images, annotations and categories in {path}; got other {name}: export as COCO")
    return found


def _key(one: dict[str, Any], name: str, path: Path) -> int | str:
    found = one.get(name)
    if isinstance(found, bool) or not isinstance(found, int | str):
        raise ValueError(f"expected {name} as a number in every entry of {path}; got {found!r}")
    return found


def _mask(segmentation: Any, size: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"] | None:
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        own, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(own, list) or not isinstance(counts, str | list):
            raise ValueError(f"expected size and counts in a segmentation of {where}; got {str(segmentation)[:60]}")
        if tuple(own) != size:
            raise ValueError(f"expected segmentations of {size[0]} x {size[1]} in {where}; got {own}: another size")
        return mask_of_coco(own, counts, f"a mask of {where}")
    found = np.zeros(size, bool)
    for polygon in segmentation if isinstance(segmentation, list) else [None]:
        try:
            corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected polygons as [x, y, x, y, ...] in {where}; got {str(polygon)[:60]}") from error
        if not np.isfinite(corners).all():
            raise ValueError(f"expected polygons of finite numbers in {where}; got {str(polygon)[:60]}")
        found |= inside_polygon(corners, size)
    return found
