"""COCO's JSON as annotation tools export it: run lengths, compressed or not, and polygons."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from saot.annotate.cvat import inside_polygon
from saot.annotate.regions import Marked, Region, numbered
from saot.annotate.runs import checked_size, mask_of_coco


def read_coco(path: Path) -> Iterator[Marked]:
    """The pictures of a COCO document, one at a time; later annotations lie over earlier ones.

    Run lengths that do not fill their picture are refused; pycocotools would leave the rest of the mask to chance.
    Annotations with a box alone are counted in `left_out`.

    Args:
        path: Of the JSON file.

    Raises:
        ValueError: If the file is no COCO document; names the picture where it can.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"expected COCO's JSON in {path}; {error}: export it again") from error
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
