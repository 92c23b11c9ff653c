"""Masks as files that other tools open: palette PNG, colour overlay, COCO with compressed RLE."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from saot.data import IGNORE_INDEX, ClassSet, write_atomic

VOID_COLOR = (224, 224, 192)  # the cream that PASCAL VOC draws "ignore" in


def _check_mask(mask: UInt8[np.ndarray, "h w"], num_classes: int) -> None:
    present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    wrong = [int(value) for value in present if value >= num_classes and value != IGNORE_INDEX]
    if wrong:
        raise ValueError(
            f"mask must hold class indices below {num_classes} or {IGNORE_INDEX} for ignore, got "
            f"{wrong[:5]}; pass indices of this class set, not raw ids"
        )


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "mh mw"],
    colors: Sequence[tuple[int, int, int]],
    alpha: float = 0.55,
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with each pixel mixed with its class's colour; ignored pixels keep the picture.

    Args:
        image: RGB.
        mask: Class indices of the same size, 255 for ignore.
        colors: RGB 0-255, one a class.
        alpha: Share of the class colour, 0 to 1.

    Returns:
        RGB of the same size.

    Raises:
        ValueError: If the sizes differ, `alpha` is outside [0, 1], or the mask holds an unknown class.

    Example:
        >>> black, mask = np.zeros((1, 2, 3), np.uint8), np.array([[0, 255]], np.uint8)
        >>> overlay(black, mask, [(100, 0, 50)], 0.5).tolist()
        [[[50, 0, 25], [0, 0, 0]]]
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask is {mask.shape[0]} x {mask.shape[1]} but the picture is "
            f"{image.shape[0]} x {image.shape[1]}; upsample the mask to the picture"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    _check_mask(mask, len(colors))
    table = np.zeros((256, 3), np.float32)
    table[: len(colors)] = colors
    mixed = image * np.float32(1 - alpha) + table[mask] * np.float32(alpha)
    return np.where((mask == IGNORE_INDEX)[..., None], image, np.rint(mixed)).astype(np.uint8)


def palette_png(
    mask: UInt8[np.ndarray, "h w"],
    colors: Sequence[tuple[int, int, int]],
    *,
    transparent_ignore: bool = False,
) -> bytes:
    """A PNG whose pixel values are the class indices and whose palette holds the class colours.

    Args:
        mask: Class indices, 255 for ignore.
        colors: RGB 0-255, one a class.
        transparent_ignore: Whether 255 is see-through instead of cream.

    Returns:
        The file's bytes.

    Raises:
        ValueError: If the mask holds an unknown class.
    """
    from PIL import Image

    _check_mask(mask, len(colors))
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    table[IGNORE_INDEX] = VOID_COLOR
    picture = Image.fromarray(mask, mode="L")
    picture.putpalette(table.tobytes())
    buffer = io.BytesIO()
    options: dict[str, Any] = {"transparency": IGNORE_INDEX} if transparent_ignore else {}
    picture.save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()


def write_index_png(path: Path, mask: UInt8[np.ndarray, "h w"], classes: ClassSet) -> None:
    """Writes the mask as a palette PNG: values are class indices or 255, colours those of the classes.

    Raises:
        ValueError: If the mask holds a class that `classes` does not have.
    """
    write_atomic(Path(path), palette_png(mask, classes.colors))


def write_color_overlay(
    path: Path,
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "mh mw"],
    classes: ClassSet,
    alpha: float = 0.55,
) -> None:
    """Writes the picture under its coloured mask as an RGB PNG, for looking at; see `overlay`."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(overlay(image, mask, classes.colors, alpha)).save(buffer, "PNG")
    write_atomic(Path(path), buffer.getvalue())


@dataclass(frozen=True)
class CocoItem:
    """One picture for `coco_document`: file name, mask, and, if known, the confidence of each pixel."""

    file_name: str
    mask: UInt8[np.ndarray, "h w"]
    confidence: Float[np.ndarray, "ch cw"] | None = None


def coco_document(items: Iterable[CocoItem], classes: ClassSet) -> dict[str, Any]:
    """A COCO document with one annotation a class and picture, as compressed RLE.

    Category ids are class index + 1, since many readers take 0 for "nothing"; `iscrowd` is 1, which is how
    COCO marks RLE. A class without pixels gets no annotation, so no segmentation is empty. With a confidence,
    each annotation has a `score`: its mean over the class's pixels.

    Args:
        items: Pictures; read once, so a generator keeps one mask in memory.
        classes: Names and order of the classes.

    Returns:
        Plain JSON values: `info`, `images`, `annotations`, `categories`.

    Raises:
        ValueError: If a mask holds an unknown class, two pictures have one file name, or a
            confidence does not fit its mask.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    seen: set[str] = set()
    for item in items:
        if item.file_name in seen:
            raise ValueError(f"two pictures are called {item.file_name!r}; give each its own file name")
        seen.add(item.file_name)
        _check_mask(item.mask, len(classes.names))
        if item.confidence is not None and item.confidence.shape != item.mask.shape:
            raise ValueError(
                f"confidence of {item.file_name} is {item.confidence.shape} but its mask is "
                f"{item.mask.shape}; pass one value a pixel"
            )
        height, width = item.mask.shape
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": item.file_name, "width": width, "height": height})
        for index in np.unique(item.mask[item.mask != IGNORE_INDEX]).tolist():
            identity = {"id": len(annotations) + 1, "image_id": image_id, "category_id": index + 1}
            annotations.append({**identity, **_segment(item, index)})
    return {
        "info": {"description": f"semantic masks of saot, classes {classes.name}"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": index + 1, "name": name, "supercategory": "", "color": list(color)}
            for index, (name, color) in enumerate(zip(classes.names, classes.colors, strict=True))
        ],
    }


def _segment(item: CocoItem, index: int) -> dict[str, Any]:
    """Segmentation, area, box and score of one class of one picture."""
    from pycocotools import mask as coco_mask

    pixels = item.mask == index
    encoded: Any = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    size = [int(length) for length in encoded["size"]]
    segment = {
        "segmentation": {"size": size, "counts": encoded["counts"].decode("ascii")},
        "area": int(pixels.sum()),
        "bbox": [float(value) for value in coco_mask.toBbox(encoded)],
        "iscrowd": 1,
    }
    if item.confidence is not None:
        segment["score"] = float(item.confidence[pixels].mean())
    return segment


def write_coco(path: Path, items: Iterable[CocoItem], classes: ClassSet) -> None:
    """Writes `coco_document(items, classes)` as JSON, whole or not at all.

    Raises:
        ValueError: As `coco_document`.
    """
    write_atomic(Path(path), json.dumps(coco_document(items, classes), allow_nan=False).encode())
