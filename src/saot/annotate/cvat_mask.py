"""CVAT's "Segmentation mask 1.1": a zip of colour masks in the folders of PASCAL VOC, beside their label map.

Three things make CVAT read back what was written: `background` is declared as black, what has no label is black, and
`SegmentationObject` says which pixels are an object; without it the background would become an annotation.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from saot.annotate.regions import Marked, Region
from saot.annotate.runs import MOST_PIXELS, box_of
from saot.data import BROKEN, IGNORE_INDEX, ClassSet, open_atomic
from saot.report import MaskItem

BACKGROUND, BLACK = "background", (0, 0, 0)
LABELS, LISTS = "labelmap.txt", "ImageSets/Segmentation/"
CLASS, OBJECT = "SegmentationClass/", "SegmentationObject/"
COMMENT = b"masks of saot"
MOST_BYTES = 1 << 31  # of a file in the zip, unpacked

Color = tuple[int, int, int]


def write_cvat_mask(path: Path, items: Iterable[MaskItem], classes: ClassSet) -> None:
    """Writes masks for CVAT's importer "Segmentation mask 1.1", whole or not at all; one object a class and picture.

    Args:
        path: Of the zip.
        items: The pictures; read once.
        classes: Names and colours of the labels.

    Raises:
        ValueError: If two classes have one colour, or two pictures one name without its ending.
    """
    colors = mask_colors(classes)
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    objects = np.arange(1, 257, dtype=np.uint8)
    objects[IGNORE_INDEX] = 0
    names: dict[str, str] = {}
    with open_atomic(Path(path)) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is packed
        archive.comment = COMMENT
        for item in items:
            name, mask = item.file_name, item.mask
            stem = PurePosixPath(name).with_suffix("").as_posix()
            if stem in names:
                raise ValueError(f"expected names that differ without their ending; got {names[stem]} and {name}")
            names[stem] = name
            archive.writestr(_entry(f"{CLASS}{stem}.png"), _png(table[mask]))
            archive.writestr(_entry(f"{OBJECT}{stem}.png"), _png(_object_colors()[objects[mask]]))
        archive.writestr(_entry(f"{LISTS}default.txt"), "".join(f"{stem}\n" for stem in names))
        lines = [(BACKGROUND, BLACK), *zip(classes.names, colors, strict=True)]
        text = "".join(f"{name}:{','.join(map(str, color))}::\n" for name, color in lines)
        archive.writestr(_entry(LABELS), "# label:color_rgb:parts:actions\n" + text)


def is_cvat_mask(path: Path) -> bool:
    """Whether a file is one of `write_cvat_mask`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == COMMENT
    except (OSError, zipfile.BadZipFile):
        return False


def mask_colors(classes: ClassSet) -> list[Color]:
    """The classes' colours; one that is black becomes nearly so, since black is the background.

    Raises:
        ValueError: If two are the same, or a name is that of the background.
    """
    if BACKGROUND in classes.names:
        raise ValueError(
            f"expected classes other than {BACKGROUND!r}, which CVAT keeps for what has no label: rename the class, "
            "or write another format"
        )
    colors: list[Color] = [(1, 1, 1) if (r, g, b) == BLACK else (r, g, b) for r, g, b in classes.colors]
    for number, color in enumerate(colors):
        if color in colors[:number]:
            one, other = classes.names[colors.index(color)], classes.names[number]
            raise ValueError(f"expected a colour of its own for each class; {one} and {other} both have {color}")
    return colors


def _entry(name: str) -> zipfile.ZipInfo:
    """Of one date always, so that equal masks give equal bytes."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _object_colors() -> UInt8[np.ndarray, "256 3"]:
    """PASCAL VOC's colour of each object number: its bits, three at a time, from the highest bit of each channel on."""
    numbers, table = np.arange(256), np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            table[:, channel] |= (((numbers >> channel) & 1) << (7 - place)).astype(np.uint8)
        numbers = numbers >> 3
    return table


def read_cvat_mask(path: Path) -> Iterator[Marked]:
    """The pictures of an export as "Segmentation mask 1.1", one at a time; black, and `background`, is no label.

    Where the label map names no colours, masks are pictures of numbers, counted from 1 with 0 for the background.
    Names come without their ending, as the zip has them.

    Args:
        path: Of the zip.

    Raises:
        ValueError: If the zip is damaged or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if LABELS not in names:
                raise ValueError(f"expected {LABELS} in {path}; it holds none: export as 'Segmentation mask 1.1'")
            labels = _labels(_unpacked(archive, LABELS, path).decode("utf-8", "replace"), path)
            for name in sorted(names):
                if name.startswith(CLASS) and name.endswith(".png"):
                    yield _marked(_unpacked(archive, name, path), labels, name[len(CLASS) : -len(".png")], path)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"expected a whole zip in {path}; {error}: export it again") from error


def _unpacked(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    size = archive.getinfo(name).file_size
    if size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES:,} bytes of {name} in {path}; it has {size:,}")
    with archive.open(name) as file:
        return file.read(MOST_BYTES)


def _labels(text: str, path: Path) -> list[tuple[str, Color | None]]:
    found: list[tuple[str, Color | None]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.rpartition(":")[0].rpartition(":")[0].rpartition(":")
        numbers = [part for part in rest.split(",") if part.strip()]
        if not name or len(numbers) not in (0, 3) or not all(part.strip().isdecimal() for part in numbers):
            raise ValueError(f"expected lines such as road:128,64,128:: in {LABELS} of {path}; got {line!r}")
        color = tuple(int(part) for part in numbers)
        if any(value > 255 for value in color):
            raise ValueError(f"expected colours from 0 to 255 in {LABELS} of {path}; got {line!r}")
        found.append((name, (color[0], color[1], color[2]) if color else None))
    if not found:
        raise ValueError(f"expected labels in {LABELS} of {path}; got none")
    return found


def _marked(data: bytes, labels: list[tuple[str, Color | None]], name: str, path: Path) -> Marked:
    from PIL import Image

    where = f"{name} of {path}"
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"expected at most {MOST_PIXELS:,} pixels in {where}; got {picture.size}")
            size = picture.height, picture.width
            by_color = all(color is not None for _, color in labels)
            values = np.asarray(picture.convert("RGB") if by_color else picture)
    except BROKEN as error:
        raise ValueError(f"expected a whole PNG in {where}; {error}: export it again") from error
    if by_color:
        codes = (values.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(-1)
        meant = {color[0] << 16 | color[1] << 8 | color[2]: label for label, color in labels if color is not None}
    elif values.ndim == 2:
        codes, meant = values.astype(np.int64), {number: label for number, (label, _) in enumerate(labels)}
    else:
        raise ValueError(f"expected a picture of numbers in {where}, since {LABELS} names no colours; got colours")
    regions = []
    for code in np.unique(codes).tolist():
        if code not in meant and code != 0:
            raise ValueError(f"expected colours that {LABELS} names in {where}; it has #{code:06x} besides")
        label, mask = meant.get(code, BACKGROUND), codes == code
        box = box_of(mask)
        if label != BACKGROUND and box is not None:
            cut = mask[box.top : box.bottom + 1, box.left : box.right + 1]
            regions.append(Region(label, box.left, box.top, cut))
    return Marked(name, size, tuple(regions))
