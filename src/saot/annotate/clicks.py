"""Clicks to be made, as a table or as points in an annotation tool."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from saot.data import ClassSet, write_atomic


@dataclass(frozen=True)
class Suggestion:
    """A pixel to be labelled.

    Attributes:
        image: Key of the picture in its set.
        size: Height and width of the picture.
        x: Column, from 0.
        y: Row, from 0.
        predicted: Index of the class that the network sees there.
        score: Higher is more worth asking; comparable within one list.
    """

    image: str
    size: tuple[int, int]
    x: int
    y: int
    predicted: int
    score: float


def check_ending(path: Path) -> None:
    """Check that `write_clicks` can write such a file.

    Raises:
        ValueError: If not.
    """
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"expected a file that ends with .csv, .xml (CVAT) or .json (Label Studio); got {path.name}")


def write_clicks(path: Path, found: Sequence[Suggestion], classes: ClassSet) -> None:
    """Writes suggestions by the file's ending: .csv a table, .xml points for CVAT, .json key points for Label Studio.

    The table's column `class` is empty, for a person to fill; the network's own class stands beside it. The tools show
    points with that class, which a person corrects.

    Args:
        path: Of the file.
        found: The suggestions.
        classes: Names of the labels.

    Raises:
        ValueError: If the ending is another.
    """
    check_ending(path)
    write_atomic(path, WRITERS[path.suffix.lower()](found, classes).encode())


def _table(found: Sequence[Suggestion], classes: ClassSet) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("image", "x", "y", "class", "predicted", "score"))
    for one in found:
        table.writerow((one.image, one.x, one.y, "", classes.names[one.predicted], one.score))
    return text.getvalue()


def _by_picture(found: Sequence[Suggestion]) -> dict[str, list[Suggestion]]:
    pictures: dict[str, list[Suggestion]] = {}
    for one in found:
        pictures.setdefault(one.image, []).append(one)
    return pictures


def _cvat(found: Sequence[Suggestion], classes: ClassSet) -> str:
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "  <version>1.1</version>"]
    for number, (key, points) in enumerate(_by_picture(found).items()):
        height, width = points[0].size
        lines.append(f'  <image id="{number}" name={quoteattr(key)} width="{width}" height="{height}">')
        for one in points:
            label, place = quoteattr(classes.names[one.predicted]), f"{one.x + 0.5},{one.y + 0.5}"
            lines.append(f'    <points label={label} source="file" occluded="0" points="{place}" z_order="0"></points>')
        lines.append("  </image>")
    return "\n".join([*lines, "</annotations>", ""])


def _label_studio(found: Sequence[Suggestion], classes: ClassSet) -> str:
    tasks = []
    for key, points in _by_picture(found).items():
        result = []
        for number, one in enumerate(points):
            height, width = one.size
            place = {"x": 100 * (one.x + 0.5) / width, "y": 100 * (one.y + 0.5) / height, "width": 0.5}
            about = {"from_name": "points", "to_name": "image", "original_width": width, "original_height": height}
            value = {**place, "keypointlabels": [classes.names[one.predicted]]}
            result.append(
                {"id": f"click{number}", "type": "keypointlabels", **about, "image_rotation": 0, "value": value}
            )
        tasks.append({"data": {"image": key}, "predictions": [{"model_version": "saot", "result": result}]})
    return json.dumps(tasks, indent=1) + "\n"


WRITERS = {".csv": _table, ".xml": _cvat, ".json": _label_studio}  # by the ending of a file
