"""CVAT for images 1.1: one XML file, masks as run lengths along the rows of their box, background first.

https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/ describes it. `right = left + width - 1`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from saot.annotate.regions import Click, Marked, Region, inside, inside_polygon, numbered
from saot.annotate.runs import checked_size, runs_in_box, shown, values_of_runs
from saot.data import ClassSet, open_atomic
from saot.report import MaskItem, begins_with

CHUNK = 1 << 16
HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n<!-- masks of saot -->\n<annotations>\n  <version>1.1</version>\n'
SHAPES = ("mask", "polygon", "polyline", "box", "points", "ellipse", "cuboid", "skeleton", "tag")


def write_cvat(path: Path, items: Iterable[MaskItem], classes: ClassSet) -> None:
    """Writes masks for CVAT's importer "CVAT 1.1", whole or not at all; one region a class and picture.

    A class without pixels gets none: CVAT makes a pixel at the origin of an empty mask.

    Args:
        path: Of the XML file.
        items: The pictures; read once.
        classes: Their names are those of the labels in CVAT.
    """
    with open_atomic(Path(path)) as file:
        file.write(HEAD + _meta(classes).encode())
        for number, item in enumerate(items):
            (height, width), name = item.mask.shape, item.file_name
            file.write(f'  <image id="{number}" name={quoteattr(name)} width="{width}" height="{height}">\n'.encode())
            for label, pixels in shown(item.mask):
                box, lengths = runs_in_box(pixels)
                runs = ", ".join(map(str, lengths))
                file.write(
                    f'    <mask label={quoteattr(classes.names[label])} source="file" occluded="0" rle="{runs}" '
                    f'left="{box.left}" top="{box.top}" width="{box.size[1]}" height="{box.size[0]}" z_order="0">'
                    "</mask>\n".encode()
                )
            file.write(b"  </image>\n")
        file.write(b"</annotations>\n")


def _meta(classes: ClassSet) -> str:
    """The labels as CVAT's own exports declare them; datumaro reads no file without them."""
    labels = "".join(
        f"<label><name>{escape(name)}</name><color>#{bytes(color).hex()}</color></label>"
        for name, color in zip(classes.names, classes.colors, strict=True)
    )
    return f"  <meta><task><labels>{labels}</labels></task></meta>\n"


def is_cvat(path: Path) -> bool:
    """Whether a file is one of `write_cvat`."""
    return begins_with(path, HEAD)


def read_cvat(path: Path) -> Iterator[Marked]:
    """The pictures of a CVAT for images file, one at a time: masks, polygons, boxes, ellipses and points.

    What is neither (polylines, cuboids, skeletons, tags) is counted in `left_out`. Boxes of masks need not be tight.

    Args:
        path: Of the XML file.

    Raises:
        ValueError: If the file is no such XML; names the picture where it can.
    """
    reader = _Reader(Path(path))
    with open(path, "rb") as file:
        while part := file.read(CHUNK):
            reader.feed(part, last=False)
            yield from reader.take()
        reader.feed(b"", last=True)
        yield from reader.take()
    if not reader.rooted:
        raise ValueError(f"expected CVAT's <annotations> in {path}; it holds none: export as 'CVAT for images 1.1'")


class _Reader:
    """Events of the parser as pictures."""

    def __init__(self, path: Path) -> None:
        self.path, self.rooted = path, False
        self.image: dict[str, str] | None = None
        self.shapes: list[tuple[str, dict[str, str]]] = []
        self.depth = 0
        self.done: list[Marked] = []
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._refuse

    def feed(self, part: bytes, last: bool) -> None:
        try:
            self.parser.Parse(part, last)
        except expat.ExpatError as error:
            raise ValueError(f"expected whole XML in {self.path}; {error}: export it again") from error

    def take(self) -> list[Marked]:
        done, self.done = self.done, []
        return done

    def _refuse(self, *_: Any) -> None:
        raise ValueError(f"expected CVAT's XML in {self.path}; it declares a document type, which CVAT never does")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self.depth == 0:
            self.rooted = name == "annotations"
            if not self.rooted:
                raise ValueError(f"expected CVAT's <annotations> in {self.path}; got <{name}>: export as 'CVAT 1.1'")
        self.depth += 1
        if name == "image":
            self.image, self.shapes = attributes, []
        elif name == "track":
            raise ValueError(f"expected 'CVAT for images' in {self.path}; got tracks of a video: export for images")
        elif self.image is not None and name in SHAPES and self.depth == 3:
            self.shapes.append((name, attributes))

    def _end(self, name: str) -> None:
        self.depth -= 1
        if name == "image" and self.image is not None:
            self.done.append(self._marked(self.image))
            self.image = None

    def _marked(self, image: dict[str, str]) -> Marked:
        name = image.get("name", "")
        where = f"{name or 'a picture'} of {self.path}"
        size = checked_size([_whole(image, key, where) for key in ("height", "width")], where)
        regions, clicks, others = [], [], []
        for kind, shape in self.shapes:
            label = shape.get("label", "")
            if kind == "points":
                places = [(int(np.floor(x)), int(np.floor(y))) for x, y in _places(shape.get("points", ""), where)]
                if any(not (0 <= x < size[1] and 0 <= y < size[0]) for x, y in places):
                    raise ValueError(f"expected points inside {where}, {size[0]} x {size[1]}; one lies outside")
                clicks += [Click(label, x, y, shape.get("source", "")) for x, y in places]
            elif kind in ("mask", "polygon", "box", "ellipse"):
                regions.append(_region(kind, shape, size, where))
            else:
                others.append(kind)
        return Marked(name, size, tuple(regions), tuple(clicks), numbered(others))


def _region(kind: str, shape: dict[str, str], size: tuple[int, int], where: str) -> Region:
    label, order = shape.get("label", ""), _whole(shape, "z_order", where) if "z_order" in shape else 0
    source = shape.get("source", "")
    if kind == "mask":
        box = checked_size([_whole(shape, key, where) for key in ("height", "width")], f"a mask of {where}")
        left, top = (_whole(shape, key, where) for key in ("left", "top"))
        inside(left, top, box, size, f"a mask of {where}")
        try:
            runs = np.array(shape.get("rle", "").split(","), dtype=np.int64)  # numpy skips the blanks
        except (ValueError, OverflowError) as error:
            raise ValueError(f"expected run lengths with commas in a mask of {where}; got others: {error}") from error
        mask = values_of_runs(runs, box[0] * box[1], f"a mask of {where}").reshape(box)
        return Region(label, left, top, mask, order, source)
    return Region(label, 0, 0, _filled(kind, shape, size, where), order, source)


def _filled(kind: str, shape: dict[str, str], size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels whose centres lie in a polygon, a box or an ellipse."""
    height, width = size
    if kind == "polygon":
        return inside_polygon(np.array(_places(shape.get("points", ""), where)).reshape(-1, 2), size)
    turned = np.deg2rad(_number(shape, "rotation", where) if "rotation" in shape else 0.0)
    if kind == "box":
        left, top, right, bottom = (_number(shape, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
        middle, half = ((left + right) / 2, (top + bottom) / 2), ((right - left) / 2, (bottom - top) / 2)
    else:
        middle = _number(shape, "cx", where), _number(shape, "cy", where)
        half = _number(shape, "rx", where), _number(shape, "ry", where)
    y, x = np.mgrid[:height, :width] + 0.5
    x, y = x - middle[0], y - middle[1]
    along, across = x * np.cos(turned) + y * np.sin(turned), y * np.cos(turned) - x * np.sin(turned)
    if kind == "box":
        return (np.abs(along) <= half[0]) & (np.abs(across) <= half[1])
    return (along / max(half[0], 1e-9)) ** 2 + (across / max(half[1], 1e-9)) ** 2 <= 1


def _places(text: str, where: str) -> list[tuple[float, float]]:
    try:
        found = [tuple(float(part) for part in pair.split(",")) for pair in text.split(";") if pair.strip()]
        places = [(x, y) for x, y in found]
    except ValueError as error:
        raise ValueError(f"expected places as x,y;x,y in {where}; got {text[:60]!r}") from error
    if not all(np.isfinite(value) for place in places for value in place):
        raise ValueError(f"expected places of finite numbers in {where}; got {text[:60]!r}")
    return places


def _number(shape: dict[str, str], key: str, where: str) -> float:
    try:
        value = float(shape[key])
    except (KeyError, ValueError) as error:
        raise ValueError(f"expected {key} as a number in {where}; got {shape.get(key)!r}") from error
    if not np.isfinite(value):
        raise ValueError(f"expected {key} as a finite number in {where}; got {shape.get(key)!r}")
    return value


def _whole(shape: dict[str, str], key: str, where: str) -> int:
    value = _number(shape, key, where)
    if value != int(value):
        raise ValueError(f"expected {key} as a whole number in {where}; got {shape.get(key)!r}")
    return int(value)
