"""What people corrected in a tool, as a `folder:` set to learn from and as clicks."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from jaxtyping import UInt8

from saot.annotate.coco import read_coco
from saot.annotate.cvat import read_cvat
from saot.annotate.cvat_mask import read_cvat_mask
from saot.annotate.label_studio import read_label_studio
from saot.annotate.labelme import read_labelme
from saot.annotate.layouts import put_picture, read_fiftyone, read_yolo
from saot.annotate.regions import Marked, index_of
from saot.data import (
    CLASS_SET_NAMES,
    IGNORE_INDEX,
    ClassSet,
    Points,
    check_place,
    class_set,
    files_below,
    folder_class_set,
    image_size,
    is_marked,
    mask_counts,
    picture_finder,
    read_classes,
    read_mask,
    write_atomic,
    write_points_csv,
)
from saot.label import Wings, open_run
from saot.report import write_index_png

Read = Callable[[Path, ClassSet | None], Iterator[Marked]]

READERS: Mapping[str, Read] = {
    "coco": lambda path, classes: read_coco(path),
    "cvat": lambda path, classes: read_cvat(path),
    "cvat-mask": lambda path, classes: read_cvat_mask(path),
    "label-studio": lambda path, classes: read_label_studio(path),
    "labelme": lambda path, classes: read_labelme(path),
    "fiftyone": read_fiftyone,
    "yolo": read_yolo,
}
FOLDERS = ("fiftyone", "yolo", "labelme")  # formats that are folders; the last also a file
UNTOUCHED = ("file", "prediction")  # what CVAT and Label Studio call a region that nobody has changed since its import
RECORD = "import.json"


@dataclass(frozen=True)
class Imported:
    """What `import_annotations` ends with.

    Attributes:
        out: The folder.
        classes: What the indices mean.
        masks: Pictures that have a mask now.
        pixels: Labelled pixels of all masks, by class.
        points: Clicks, by class.
        unchanged: Pictures that hold nothing but what was predicted.
        empty: Pictures that the tool holds nothing of.
        left_out: By picture, what no mask can be made of, such as "2 polyline".
    """

    out: Path
    classes: ClassSet
    masks: tuple[str, ...] = ()
    pixels: Mapping[str, int] = field(default_factory=dict)
    points: Mapping[str, int] = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """The import in numbers: pictures, labelled pixels and clicks by class, which are its label budget."""
        return {
            "masks": len(self.masks),
            "pixels": dict(self.pixels),
            "points": dict(self.points),
            "unchanged": list(self.unchanged),
            "empty": list(self.empty),
            "left_out": {key: list(kinds) for key, kinds in self.left_out.items()},
        }

    def said(self) -> str:
        """The same in words."""
        budget = ", ".join(f"{name} {count:,}" for name, count in self.pixels.items())
        lines = [f"{len(self.masks)} pictures with masks in {self.out}" + (f"; pixels: {budget}" if budget else "")]
        if self.points:
            clicks = ", ".join(f"{name} {count:,}" for name, count in self.points.items())
            lines.append(f"{sum(self.points.values()):,} clicks in {self.out / 'points.csv'}: {clicks}")
        return "\n".join(lines)


def import_annotations(
    path: Path,
    kind: str,
    images: Path,
    out: Path,
    *,
    classes: ClassSet | None = None,
    before: Path | None = None,
    accept: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Makes `out` a `folder:` set of what was corrected (images, masks, classes.txt), and points.csv of the clicks.

    Only what a person changed is a label: regions that the tool knows as imported, and with `before` pixels that are as
    they were predicted, become 255. Pictures without any change are left out.

    Args:
        path: The tool's export, a file or a folder.
        kind: Of `READERS`.
        images: Folder of the pictures.
        out: Missing, empty, or of an earlier import, whose masks and pictures are replaced.
        classes: What the indices of the masks are to mean; the labels that occur, sorted, unless given.
        before: Masks that `saot predict` had written of the same folder, as `png` or for another format.
        accept: What was left as it was has been looked at: whole masks count.
        progress: Told how many pictures are done, of how many.

    Raises:
        ValueError: If a file is not as it should be, a picture is missing or of another size, or a label unknown.
        OSError: If a file cannot be written.
    """
    if kind not in READERS:
        raise ValueError(f"expected a format among {', '.join(READERS)}; got {kind}")
    if not (path.is_dir() and kind in FOLDERS) and not (path.is_file() and kind not in FOLDERS[:2]):
        what = "a folder" if kind in FOLDERS else "a file"
        raise ValueError(f"expected {what} of format {kind}; {path} is {'none' if path.exists() else 'missing'}")
    if not images.is_dir():
        raise ValueError(f"expected the folder of pictures; {images} is {'a file' if images.exists() else 'missing'}")
    if before is not None and not before.is_dir():
        raise ValueError(f"expected the folder of masks that `saot predict` wrote; {before} is none")
    check_place(out)
    if out.exists() and not is_marked(out, RECORD):
        raise ValueError(f"expected {out} to be empty or of an earlier import; it holds something else: choose another")
    pictures = files_below(images)
    if not pictures:
        raise ValueError(f"expected pictures in {images}; there are none")
    known = classes or _labels(path, kind)
    find, keys = picture_finder([*pictures], f"folder {images}"), [*pictures]
    total = sum(1 for _ in READERS[kind](path, classes)) if progress else 0
    write_atomic(_made(out) / RECORD, b'{"complete": false}\n')
    made = _Making(out, known, before, accept)
    for number, one in enumerate(READERS[kind](path, classes), 1):
        key = keys[find(picture_name(one.name, find), f"{one.name} of {path}")]
        made.take(one, key, pictures[key])
        if progress:
            progress(number, total)
    return made.done(path, kind)


def classes_named(text: str, wings: Wings) -> ClassSet:
    """The classes of a run's folder, of a classes.txt, or of a known set by its name.

    Args:
        text: Which.
        wings: What the core does not know.

    Raises:
        ValueError: If it is none of them.
    """
    path = Path(text)
    if (path / "run.json").is_file():
        return open_run(path, wings).classes
    if path.is_file():
        return read_classes(path)
    if text in CLASS_SET_NAMES:
        return class_set(text)
    raise ValueError(
        f"expected --classes as the folder of a run, a classes.txt or one of {', '.join(CLASS_SET_NAMES)}; got {text}, "
        "which is none of them"
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _labels(path: Path, kind: str) -> ClassSet:
    """The labels of a file, sorted."""
    found = {part.label for one in READERS[kind](path, None) for part in (*one.regions, *one.clicks)}
    if not found:
        raise ValueError(f"expected labelled pictures in {path}; nobody has labelled any: give another export")
    return folder_class_set(sorted(found))


def picture_name(name: str, find: Callable[[str, str], int]) -> str:
    """The name of a picture as its folder has it, of what a tool calls it.

    Label Studio gives addresses: of local files (`/data/local-files/?d=new/a.jpg`), and of uploads, whose names begin
    with eight characters of its own.

    Args:
        name: As the tool has it.
        find: Of `picture_finder`.
    """
    try:
        find(name, "")
        return name
    except ValueError:
        pass
    parts = urlsplit(name)
    inside = parse_qs(parts.query).get("d", [""])[0]
    plain = unquote(inside or parts.path).lstrip("/")
    last = PurePosixPath(plain).name
    head, dash, tail = last.partition("-")
    if dash and len(head) == 8 and all(one in "0123456789abcdef" for one in head):
        try:
            find(plain, "")
        except ValueError:
            return tail
    return plain or name


@dataclass
class _Making:
    """One import on its way."""

    out: Path
    classes: ClassSet
    before: Path | None
    accept: bool
    masks: dict[str, str] = field(default_factory=dict)  # by stem
    pixels: Counter[str] = field(default_factory=Counter)
    clicks: list[tuple[str, int, int, int]] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def take(self, one: Marked, key: str, picture: Path) -> None:
        """One picture of the tool's."""
        if one.left_out:
            self.left_out[key] = one.left_out
        if not one.regions and not one.clicks:
            self.empty.append(key)
            return
        size = image_size(picture)
        if one.size != size:
            turned = ": it read the picture lying, as it is stored" if one.size == size[::-1] else ""
            raise ValueError(
                f"expected {key} to be of its picture's {size[0]} x {size[1]} pixels (height x width); the tool has "
                f"{one.size[0]} x {one.size[1]}{turned}; label it at its own size"
            )
        clicks = [click for click in one.clicks if self.accept or click.source not in UNTOUCHED]
        for click in clicks:
            self.clicks.append((key, click.y, click.x, index_of(click.label, self.classes, one.name)))
        mask = self._corrected(one, key) if one.regions else None
        if mask is None:
            self.unchanged += [] if clicks else [key]
            return
        stem = PurePosixPath(key).with_suffix("").as_posix()
        if stem in self.masks:
            raise ValueError(f"expected names that differ without their ending; got {self.masks[stem]} and {key}")
        self.masks[stem] = key
        place = self.out / "masks" / f"{stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_index_png(place, mask, self.classes)
        put_picture(picture, self.out / "images" / key)
        counts = mask_counts(mask)
        self.pixels.update({name: int(counts[index]) for index, name in enumerate(self.classes.names) if counts[index]})

    def _corrected(self, one: Marked, key: str) -> UInt8[np.ndarray, "h w"] | None:
        """The mask of what a person says; None where nobody has changed anything."""
        mask = one.mask(self.classes)
        if self.before is not None:
            predicted = self._predicted(key, mask.shape)
            if np.array_equal(predicted, mask):
                return mask if self.accept else None
            return mask if self.accept else np.where(mask != predicted, mask, np.uint8(IGNORE_INDEX))
        if self.accept or not any(region.source in UNTOUCHED for region in one.regions):
            return mask
        touched = Marked(one.name, one.size, tuple(one for one in one.regions if one.source not in UNTOUCHED))
        if not touched.regions:
            return None
        mine = touched.mask(self.classes)
        return np.where(mine == mask, mine, np.uint8(IGNORE_INDEX))  # what lies below an imported region is not seen

    def _predicted(self, key: str, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w"]:
        assert self.before is not None
        name = PurePosixPath(key).with_suffix(".png")
        places = [self.before / name, self.before / ".masks" / name]
        place = next((one for one in places if one.is_file()), None)
        if place is None:
            raise ValueError(f"expected the mask of {key} that was predicted, in {places[0]}; there is none")
        found = read_mask(place).astype(np.uint8)
        if found.shape != shape:
            raise ValueError(
                f"expected a mask of {shape[0]} x {shape[1]} in {place}; got {found.shape}: another picture"
            )
        return found

    def done(self, path: Path, kind: str) -> Imported:
        """Clicks, classes and the record; masks and pictures of an earlier import go."""
        kept = {
            *(f"masks/{stem}.png" for stem in self.masks),
            *(f"images/{key}" for key in self.masks.values()),
        }
        for folder in ("masks", "images"):
            for old in files_below(self.out / folder) if (self.out / folder).is_dir() else ():
                if f"{folder}/{old}" not in kept:
                    (self.out / folder / old).unlink()
        colors = (f"{name} #{bytes(color).hex()}" for name, color in _colored(self.classes))
        write_atomic(self.out / "classes.txt", "".join(f"{line}\n" for line in colors).encode())
        points = self._points()
        if points is None:
            (self.out / "points.csv").unlink(missing_ok=True)
        else:
            write_points_csv(self.out / "points.csv", points, self.classes)
        count = Counter(self.classes.names[label] for label in (points.classes if points else ()))
        found = Imported(
            self.out,
            self.classes,
            tuple(sorted(self.masks.values())),
            dict(self.pixels),
            dict(count),
            tuple(self.unchanged),
            tuple(self.empty),
            self.left_out,
        )
        record = {"complete": True, "from": kind, "file": path.name, "accept": self.accept, **found.record()}
        write_atomic(self.out / RECORD, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
        return found

    def _points(self) -> Points | None:
        rows: dict[tuple[str, int, int], int] = {}
        for key, y, x, label in self.clicks:
            other = rows.setdefault((key, y, x), label)
            if other != label:
                names = self.classes.names[other], self.classes.names[label]
                raise ValueError(f"expected one label a pixel; x={x}, y={y} of {key} is {names[0]} and {names[1]}")
        if not rows:
            return None
        ordered = sorted(rows.items())
        keys, ys, xs = zip(*(place for place, _ in ordered), strict=True)
        return Points(keys, xs, ys, tuple(label for _, label in ordered))


def _colored(classes: ClassSet) -> list[tuple[str, tuple[int, int, int]]]:
    return [*zip(classes.names, classes.colors, strict=True)]
