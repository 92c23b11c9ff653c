"""Label Studio's JSON: predictions that a person corrects, and the annotations that come back.

A region is a brush (`runs.brush_rle`) or, newer and a third of the size, a picture of a bit mask. Places are in percent
of the original picture. Export as "JSON": its COCO export follows outlines and loses lines and holes.
"""

import base64
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Bool

from saot.annotate.regions import Click, Marked, Region, inside_polygon, numbered, read_json
from saot.annotate.runs import brush_rle, checked_size, mask_of_brush, shown
from saot.annotate.tags import TAGS, Kind, Tags
from saot.data import BROKEN, ClassSet, open_atomic
from saot.report import MaskItem, begins_with

FROM, TO, KEY = Tags.from_name, Tags.to_name, Tags.key  # in what `labelling_config` writes
MODEL = "saot"


def labelling_config(classes: ClassSet, kind: Kind = "brush") -> str:
    """The labelling configuration that predictions of this kind need: paste it into the project's settings."""
    labels = "".join(
        f"\n    <Label value={quoteattr(name)} background={quoteattr(f'#{bytes(color).hex()}')}/>"
        for name, color in zip(classes.names, classes.colors, strict=True)
    )
    smooth = "" if kind == "brush" else ' smoothing="false"'
    return (
        f'<View>\n  <Image name="{TO}" value="${KEY}" zoom="true"{smooth}/>\n'
        f'  <{TAGS[kind]} name="{FROM}" toName="{TO}">{labels}\n  </{TAGS[kind]}>\n'
        f'  <KeyPointLabels name="points" toName="{TO}">{labels}\n  </KeyPointLabels>\n</View>\n'
    )


def write_label_studio(
    path: Path,
    items: Iterable[MaskItem],
    classes: ClassSet,
    kind: Kind = "brush",
    address: Callable[[str], str] = lambda name: name,
) -> None:
    """Writes tasks with predictions, one region a class and picture, whole or not at all.

    Args:
        path: Of the JSON file, to be imported.
        items: The pictures; read once.
        classes: Names of the labels.
        kind: Of the regions.
        address: Where Label Studio finds a picture of that name.
    """
    with open_atomic(Path(path)) as file:
        file.write(b"[")
        for number, item in enumerate(items):
            task = {"predictions": [prediction_of(item, classes, Tags(kind))], "data": {KEY: address(item.file_name)}}
            file.write((",\n" if number else "\n").encode() + json.dumps(task, allow_nan=False).encode())
        file.write(b"\n]\n")


def is_label_studio(path: Path) -> bool:
    """Whether a file is one of `write_label_studio`."""
    return begins_with(path, f'[\n{{"predictions": [{{"model_version": "{MODEL}"'.encode()) or begins_with(
        path, b"[\n]"
    )


def prediction_of(item: MaskItem, classes: ClassSet, tags: Tags, version: str = MODEL) -> dict[str, Any]:
    """A prediction of Label Studio's: one region a class that the mask shows, and their mean score if it is known.

    Args:
        item: The picture's mask.
        classes: Names of the labels.
        tags: What the regions refer to.
        version: Of the model, as the tool shows it.
    """
    parts = shown(item.mask)
    known = [item.scores[label] for label, _ in parts if label in item.scores]
    score = {"score": round(sum(known) / len(known), 4)} if known else {}
    result = [_region(pixels, classes.names[label], label, item.scores, tags) for label, pixels in parts]
    return {"model_version": version, **score, "result": result}


def _region(
    pixels: Bool[np.ndarray, "h w"], name: str, label: int, scores: Mapping[int, float], tags: Tags
) -> dict[str, Any]:
    if tags.kind == "brush":
        value: dict[str, Any] = {"format": "rle", "rle": list(brush_rle(pixels)), "brushlabels": [name]}
    else:
        value = {"imageDataURL": _data_url(pixels), "bitmasklabels": [name]}
    return {
        "id": f"saot{label}",
        "type": f"{tags.kind}labels",
        "from_name": tags.from_name,
        "to_name": tags.to_name,
        "original_width": pixels.shape[1],
        "original_height": pixels.shape[0],
        "image_rotation": 0,
        **({"score": scores[label]} if label in scores else {}),
        "value": value,
    }


def _data_url(pixels: Bool[np.ndarray, "h w"]) -> str:
    """A PNG, black where set and transparent elsewhere."""
    from PIL import Image

    buffer = io.BytesIO()
    alpha = Image.fromarray(pixels.astype(np.uint8) * 255)
    Image.merge("LA", (Image.new("L", alpha.size), alpha)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def read_label_studio(path: Path, key: str = KEY) -> Iterator[Marked]:
    """The tasks of an export as "JSON" that somebody has annotated; of several annotations the latest.

    Brushes, bit masks, polygons, rectangles and ellipses become regions, key points clicks; what else there is, and
    regions of a picture that was turned in the tool, is counted in `left_out`.

    Args:
        path: Of the JSON file.
        key: Of the picture in a task's data.

    Raises:
        ValueError: If the file is no such export; names the task.
    """
    tasks = read_json(Path(path), "Label Studio's")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError(
            f"expected a list of tasks in {path}; got something else: export as JSON, not JSON-MIN or COCO"
        )
    for number, task in enumerate(tasks):
        data, annotations = task.get("data"), task.get("annotations", [])
        if not isinstance(data, dict) or not isinstance(data.get(key), str) or not isinstance(annotations, list):
            raise ValueError(f"expected data.{key} and annotations in task {number} of {path}; got {str(task)[:80]}")
        done = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
        if not done:
            continue
        latest = max(done, key=lambda one: str(one.get("updated_at", "")))
        yield _marked(str(data[key]), latest.get("result", []), f"{data[key]} of {path}")


def _marked(name: str, result: Any, where: str) -> Marked:
    if not isinstance(result, list) or not all(isinstance(one, dict) for one in result):
        raise ValueError(f"expected a list of regions in {where}; got {str(result)[:80]}")
    size, regions, clicks, others = None, [], [], []
    for order, one in enumerate(result):
        kind, value = one.get("type"), one.get("value")
        if not isinstance(kind, str) or not isinstance(value, dict):
            others.append(str(kind))
            continue
        if kind not in SHAPES or not isinstance(value.get(kind), list) or not value[kind]:
            others.append(kind)
            continue
        own = checked_size([one.get("original_height"), one.get("original_width")], where)
        if size is not None and own != size:
            raise ValueError(f"expected one size of {where}; its regions say {size} and {own}")
        size = own
        if one.get("image_rotation"):
            others.append(f"{kind} of a picture that was turned")
            continue
        label = str(value[kind][0])
        if kind == "keypointlabels":
            x, y = (_percent(value, name, where) for name in ("x", "y"))
            clicks.append(Click(label, _pixel(x, own[1]), _pixel(y, own[0]), str(one.get("origin", ""))))
        else:
            regions.append(Region(label, 0, 0, SHAPES[kind](value, own, where), order, str(one.get("origin", ""))))
    if size is None:
        return Marked(name, (0, 0), left_out=numbered(others))
    return Marked(name, size, tuple(regions), tuple(clicks), numbered(others))


def _pixel(percent: float, length: int) -> int:
    """The pixel that a place in percent lies in; the far border belongs to the last."""
    return min(max(int(np.floor(percent * length / 100)), 0), length - 1)


def _percent(value: dict[str, Any], name: str, where: str) -> float:
    found = value.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not np.isfinite(found):
        raise ValueError(f"expected {name} as a number in {where}; got {found!r}")
    return float(found)


def _brush(value: dict[str, Any], size: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    if value.get("format") != "rle" or not isinstance(value.get("rle"), list):
        raise ValueError(f"expected a brush as rle in {where}; got format {value.get('format')!r}")
    return mask_of_brush(value["rle"], size, f"a brush of {where}")


def _bitmask(value: dict[str, Any], size: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    from PIL import Image

    head, _, text = str(value.get("imageDataURL", "")).partition(",")
    if head != "data:image/png;base64":
        raise ValueError(f"expected a bit mask as data:image/png;base64 in {where}; got {head[:40]!r}")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as picture:
            if (picture.height, picture.width) != size:
                raise ValueError(
                    f"expected a bit mask of {size[0]} x {size[1]} in {where}; got {picture.height} x {picture.width}"
                )
            return np.asarray(picture.convert("RGBA"))[..., 3] > 127
    except BROKEN as error:
        raise ValueError(f"expected a whole PNG as a bit mask in {where}; {error}") from error


def _polygon(value: dict[str, Any], size: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    points = value.get("points")
    try:
        corners = np.array(points, dtype=np.float64).reshape(-1, 2) * (size[1] / 100, size[0] / 100)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected a polygon's points as [[x, y], ...] in {where}; got {str(points)[:60]}") from error
    if not np.isfinite(corners).all():
        raise ValueError(f"expected a polygon of finite numbers in {where}; got {str(points)[:60]}")
    return inside_polygon(corners, size)


def _rectangle(value: dict[str, Any], size: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    """Turned about its upper left corner, in pixels."""
    x, y, width, height = (_percent(value, name, where) for name in ("x", "y", "width", "height"))
    along, across = _turned(x, y, value, size, where)
    return (along >= 0) & (along <= width * size[1] / 100) & (across >= 0) & (across <= height * size[0] / 100)


def _ellipse(value: dict[str, Any], size: tuple[int, int], where: str) -> Bool[np.ndarray, "h w"]:
    x, y, across_x, across_y = (_percent(value, name, where) for name in ("x", "y", "radiusX", "radiusY"))
    along, across = _turned(x, y, value, size, where)
    half = max(across_x * size[1] / 100, 1e-9), max(across_y * size[0] / 100, 1e-9)
    return (along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1


def _turned(
    x: float, y: float, value: dict[str, Any], size: tuple[int, int], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Places of all pixel centres seen from a point in percent, along and across a shape that is turned there."""
    angle = float(np.deg2rad(_percent({"rotation": 0, **value}, "rotation", where)))
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    columns, rows = columns - x * size[1] / 100, rows - y * size[0] / 100
    along = columns * np.cos(angle) + rows * np.sin(angle)
    return along, rows * np.cos(angle) - columns * np.sin(angle)


SHAPES: dict[str, Callable[[dict[str, Any], tuple[int, int], str], Any]] = {
    "brushlabels": _brush,
    "bitmasklabels": _bitmask,
    "polygonlabels": _polygon,
    "rectanglelabels": _rectangle,
    "ellipselabels": _ellipse,
    "keypointlabels": lambda value, size, where: None,
}
