"""Masks of new pictures as files: which pictures, where each mask goes, what is there already, what cannot be read."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import realpath  # Path.resolve raises RuntimeError at a link to itself
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from saot.data import (
    IGNORE_INDEX,
    check_place,
    files_below,
    image_size,
    mask_counts,
    read_image,
    read_mask,
    sha256_file,
)
from saot.features import Picture
from saot.label.calibration import abstention_threshold
from saot.label.finished import FinishedRun, open_run
from saot.label.wings import NO_WINGS, Labelled, Labeller, Wings
from saot.report import (
    JoinedFormat,
    MaskItem,
    png_mark,
    write_color_overlay,
    write_confidence_png,
    write_index_png,
    write_palette_png,
)
from saot.runs import code_version, identity_of, room_of

FILES = {"png": "", "palette": "_palette", "color": "_color", "confidence": "_confidence"}  # one a picture: its suffix
HIDDEN = ".masks"  # in the folder of masks: those that only a file of all masks asks for
CODE = ("data", "features", "evaluate", "decoder", "label")  # what a mask depends on, beside the run


@dataclass(frozen=True)
class NewPicture:
    """A picture to be labelled.

    Attributes:
        path: Its file.
        key: Its place among the pictures, with "/"; that of its masks in their folder.
    """

    path: Path
    key: str

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.path)

    def fingerprint(self) -> str:
        """Name of its content.

        Raises:
            OSError, ValueError: If it cannot be read.
        """
        return sha256_file(self.path)

    def read(self) -> UInt8[np.ndarray, "h w 3"]:
        """Its pixels, RGB."""
        return read_image(self.path)

    def output(self, out: Path, kind: str) -> Path:
        """Where a file of its goes, by its format, or its "mask" where only a file of all masks asks for it."""
        place = PurePosixPath(self.key)
        folder = out / HIDDEN if kind == "mask" else out
        return folder / place.parent / f"{place.stem}{FILES.get(kind, '')}.png"


@dataclass(frozen=True)
class LabelledPictures:
    """What `predict_pictures` ends with.

    Attributes:
        pictures: All that were found, in order.
        sizes: Height, width and, with `abstain`, the labelled share of each that has its masks, by number.
        made: How many were labelled now; the others of `sizes` had their masks.
        failed: Why a picture could not be read, by its path.
        left_alone: Files in the way that no `saot predict` has written; their pictures have no new masks.
        outputs: By number, the files of a picture: "mask", "palette", "color" and "confidence".
    """

    pictures: Sequence[NewPicture]
    sizes: dict[int, tuple[int, int, float | None]] = field(default_factory=dict)
    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    left_alone: tuple[Path, ...] = ()
    outputs: Callable[[int], dict[str, str]] = lambda number: {}

    def records(self) -> list[dict[str, Any]]:
        """One record a picture that has its masks: image, height, width, labelled, and its files."""
        found = []
        for number, (height, width, labelled) in sorted(self.sizes.items()):
            share = {} if labelled is None else {"labelled": labelled}
            image = {"image": self.pictures[number].name, "height": height, "width": width}
            found.append({**image, **share, **self.outputs(number)})
        return found


def find_pictures(paths: Sequence[Path], out: Path, formats: Sequence[str] = ("png",)) -> list[NewPicture]:
    """The pictures named, and those of the folders named, each with its place among the masks.

    Folders are read as data sets read them: hidden files do not count, linked folders are followed. What lies below
    `out` is an earlier answer. A picture keeps its place below the folder that was named, and a single one its name;
    where two would come to lie in one place, all keep their place below the folder that holds everything named.

    Args:
        paths: Pictures and folders.
        out: The folder of the masks.
        formats: Of the masks.

    Raises:
        ValueError: If a path does not exist, nothing is found, or two outputs would be one file.
    """
    found: dict[str, NewPicture] = {}
    real = _RealPaths()
    for path in paths:
        listed = path.is_dir()
        if listed:
            inside = files_below(path)
        elif path.exists():
            inside = {path.name: path}
        else:
            raise ValueError(f"expected a picture or a folder of pictures; {path} does not exist: check the path")
        for key, one in inside.items():
            if not (listed and _is_answer(one, path, out, real)):
                found.setdefault(os.path.abspath(one), NewPicture(one, key))
    if not found:
        raise ValueError(f"expected at least one picture; found none in {', '.join(map(str, paths))}: check the path")
    pictures = list(found.values())
    if _clash(pictures, out, formats) is not None:
        holders = [path if path.is_dir() else path.parent for path in paths]
        above = Path(os.path.commonpath([os.path.abspath(one) for one in holders]))
        pictures = [replace(one, key=Path(place).relative_to(above).as_posix()) for place, one in found.items()]
    clash = _clash(pictures, out, formats)
    if clash is not None:
        one, other, output = clash
        raise ValueError(
            f"expected pictures whose masks are different files; {one} and {other} would both give {output}: rename "
            "one, or label them into different folders"
        )
    inputs = {real(one.path) for one in pictures}
    for one in pictures:
        for kind in visible(formats):
            if real(one.output(out, kind)) in inputs:
                raise ValueError(
                    f"expected an --out that leaves your pictures alone; {one.output(out, kind)} is one of them: "
                    "choose another --out"
                )
    return pictures


def visible(formats: Sequence[str]) -> list[str]:
    """The kinds of files, one a picture, that these formats ask for."""
    return [kind for kind in FILES if kind in formats]


class _RealPaths:
    """Real paths of many files of few folders, each of which is resolved once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __call__(self, path: Path) -> str:
        """As `os.path.realpath`."""
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or os.path.islink(path):
            return realpath(path)
        if folder not in self._folders:
            self._folders[folder] = realpath(folder)
        return os.path.join(self._folders[folder], name)


def _is_answer(picture: Path, folder: Path, out: Path, real: _RealPaths) -> bool:
    """Whether a picture of a folder is an earlier answer: below `out`, or, where that is the folder itself, ours."""
    answers = real(out)
    if answers == real(folder):
        return png_mark(picture) is not None
    return real(picture).startswith(os.path.join(answers, ""))


def _clash(pictures: Sequence[NewPicture], out: Path, formats: Sequence[str]) -> tuple[Path, Path, Path] | None:
    """Two pictures of which some outputs are one file, and that file."""
    taken: dict[Path, Path] = {}
    for one in pictures:
        for kind in visible(formats) or ["mask"]:
            output = one.output(out, kind)
            if output in taken:
                return taken[output], one.path, output
            taken[output] = one.path
    return None


def predict_pictures(
    folder: Path,
    pictures: Sequence[Path],
    out: Path,
    formats: Sequence[str] = ("png",),
    progress: Callable[[int, int], None] | None = None,
    abstain: float | None = None,
    wings: Wings = NO_WINGS,
    device: str = "cpu",
) -> LabelledPictures:
    """Masks of new pictures at their own sizes, folders mirrored.

    A picture that cannot be read does not stop the others. Masks that this run has made of the same picture are not
    made again, so a command that was killed goes on; each PNG says in a text chunk of what it was made. A file that
    says nothing is somebody else's and stays.

    Args:
        folder: A finished run.
        pictures: Files, or folders of files.
        out: Where to write, in sub-folders as the pictures have them.
        formats: "png": STEM.png, class indices in one grey channel; "palette": STEM_palette.png, the same in colours;
            "color": STEM_color.png, the picture under its mask; "confidence": STEM_confidence.png, 255 is 1; "coco":
            annotations/instances_default.json, RLE and a score for each class of each picture; and those of the wings.
        progress: Called with (done, total).
        abstain: Error allowed among the labelled pixels; the others get 255, by the threshold the run found on its
            held-out points. `docs/calibration.md` says what that guarantees.
        wings: What the core does not know.
        device: Where networks run, such as "cuda".

    Raises:
        ValueError: If a format is unknown, two outputs would be one file or a picture, the run is not as it should be,
            or it has no threshold for `abstain`. Nothing is written then.
        OSError: If a mask cannot be written.
    """
    return plan_masks(folder, pictures, out, formats, abstain, wings, device).done(progress or _unheard)


def plan_masks(
    folder: Path,
    pictures: Sequence[Path],
    out: Path,
    formats: Sequence[str] = ("png",),
    abstain: float | None = None,
    wings: Wings = NO_WINGS,
    device: str = "cpu",
) -> "MaskWork":
    """What `predict_pictures` does, checked and ready to begin; arguments and errors are its own."""
    known = wings.formats
    unknown = [name for name in formats if name not in FILES and name not in known]
    if unknown or not formats:
        raise ValueError(f"expected formats among {', '.join([*FILES, *known])}; got {', '.join(unknown) or 'none'}")
    joined = {name: known[name] for name in formats if name in known}
    run, identity = open_abstaining(folder, abstain, wings, device)
    found = find_pictures(pictures, out, formats)
    work = MaskWork(run, identity, found, out, formats, abstain is not None, joined)
    check_place(out)
    for one in joined.values():
        if (out / one.place).exists() and not one.ours(out / one.place):
            raise ValueError(
                f"expected {out / one.place} to be missing or of an earlier `saot predict`; it is something else: "
                "move it, or choose another --out"
            )
    return work


def _unheard(done: int, total: int) -> None:
    return None


def label_found(
    run: Labeller,
    identity: str,
    pictures: Sequence[NewPicture],
    out: Path,
    formats: Sequence[str],
    abstains: bool,
    progress: Callable[[int, int], None] | None = None,
) -> LabelledPictures:
    """As `predict_pictures`, of a run that is open and of pictures that are found.

    Args:
        run: Labels them.
        identity: Of everything that its masks depend on.
        pictures: Each with its place among the masks.
        out: Where to write.
        formats: Among "png", "palette", "color" and "confidence".
        abstains: Whether the labelled share is of interest.
        progress: Called with (done, total).
    """
    check_place(out)
    return MaskWork(run, identity, pictures, out, formats, abstains).label(progress or _unheard)


def open_abstaining(folder: Path, abstain: float | None, wings: Wings, device: str) -> tuple[Labeller, str]:
    """A finished run that leaves out what it is not sure of, and a name for everything that its masks depend on.

    Args:
        folder: Of the run.
        abstain: Error allowed among the labelled pixels; None labels all.
        wings: What the core does not know.
        device: Where networks run.

    Raises:
        ValueError: If the run is not as it should be, or has no threshold for `abstain`.
    """
    run = open_run(folder, wings, device)
    if abstain is not None:
        if not isinstance(run, FinishedRun):
            raise ValueError(
                "expected a run of `saot run` for --abstain; networks of `saot adapt` have no held-out points"
            )
        run = replace(run, threshold=abstention_threshold(folder, abstain))
    return run, _identity(folder, run)


def _identity(folder: Path, run: Labeller) -> str:
    """A name for everything of a run that its masks depend on, and for the code that makes them."""
    record = json.loads((folder / "run.json").read_text())
    said = {name: record.get(name) for name in ("kind", "features", "sizes", "decoder_bias")}
    networks = [folder / f"{name}.safetensors" for name in ("decoder", "network", "encoder")]
    contents = [sha256_file(path) if path.exists() else None for path in networks]
    threshold = run.threshold if isinstance(run, FinishedRun) else 0.0
    return identity_of(said, contents, threshold, code_version(*CODE, room_of(type(run).masks)))


@dataclass(frozen=True)
class MaskWork:
    """Pictures to be labelled by one run into one folder.

    Attributes:
        run: Labels them.
        identity: Of the run.
        pictures: All of them.
        out: The folder.
        formats: Of the masks.
        abstains: Whether the labelled share is of interest.
        joined: Formats that hold all masks in one file.
    """

    run: Labeller
    identity: str
    pictures: Sequence[NewPicture]
    out: Path
    formats: Sequence[str]
    abstains: bool
    joined: Mapping[str, JoinedFormat] = field(default_factory=dict)

    def done(self, progress: Callable[[int, int], None]) -> LabelledPictures:
        """Label those that have no masks yet, and join all masks where that is asked for."""
        labelled = self.label(progress)
        self.join(labelled)
        return labelled

    def order(self) -> list[int]:
        """Numbers of the pictures, those that lack a file first; no file is opened."""
        lacks = [not all(path.exists() for path in self.files(one)) for one in self.pictures]
        return sorted(range(len(lacks)), key=lambda number: not lacks[number])

    def files(self, one: NewPicture) -> list[Path]:
        """The files of a picture, and its mask where it is kept out of sight."""
        return [one.output(self.out, kind) for kind in self._kinds()]

    def join(self, labelled: LabelledPictures) -> None:
        """Write the files that hold all masks, where there are any."""
        for one in self.joined.values() if labelled.sizes else ():
            one.write(self.out / one.place, self._items(sorted(labelled.sizes)), self.run.classes)

    def label(self, progress: Callable[[int, int], None]) -> LabelledPictures:
        """Label those that have no masks yet; nothing is joined."""
        sizes: dict[int, tuple[int, int, float | None]] = {}
        marks: dict[str, str] = {}  # of the pictures on their way
        failed: dict[str, str] = {}
        strange: list[Path] = []
        number_of = {one.name: number for number, one in enumerate(self.pictures)}
        finished = 0

        def tell() -> None:
            nonlocal finished
            finished += 1
            progress(finished, len(self.pictures))

        def fail(picture: Picture, reason: str) -> None:
            failed[picture.name] = reason
            marks.pop(picture.name, None)
            tell()

        def missing() -> Iterator[Picture]:
            for number, one in enumerate(self.pictures):
                try:
                    content = one.fingerprint()
                except (OSError, ValueError):
                    content = ""  # reading it will say why
                mark = identity_of(self.identity, content)
                known = self._known(number, mark)
                if known is None:
                    marks[one.name] = mark
                    yield Picture(one.name, one.read, content)
                    continue
                if isinstance(known, Path):
                    strange.append(known)
                else:
                    sizes[number] = known
                tell()

        def write(found: Labelled) -> tuple[int, int, int, float | None]:
            number, mask = number_of[found.picture.name], found.mask.numpy()
            share = 1 - float(mask_counts(mask)[IGNORE_INDEX] / mask.size) if self.abstains else None
            about: dict[str, Any] = {"of": marks.pop(found.picture.name), "labelled": share}
            if found.confidence is not None:
                about["scores"] = class_scores(mask, found.confidence.numpy())
            self._write(self.pictures[number], found, json.dumps(about))
            return number, *mask.shape, share

        made = 0
        confident = bool(self.joined) or "confidence" in self.formats
        for number, height, width, share in self.run.each(missing(), write, fail, confident):
            sizes[number], made = (height, width, share), made + 1
            tell()
        return LabelledPictures(self.pictures, sizes, made, failed, tuple(strange), self.outputs)

    def _write(self, one: NewPicture, found: Labelled, mark: str) -> None:
        """The files of a picture, each marked with what it was made of."""
        mask, classes = found.mask.numpy(), self.run.classes
        for kind in self._kinds():
            place = one.output(self.out, kind)
            if kind == "color":
                write_color_overlay(place, found.image, mask, classes, mark=mark)
            elif kind == "palette":
                write_palette_png(place, mask, classes, mark)
            elif kind == "confidence":
                assert found.confidence is not None, "asked for"
                write_confidence_png(place, found.confidence.numpy(), mark)
            else:
                write_index_png(place, mask, classes, mark)

    def _kinds(self) -> list[str]:
        """The kinds of files a picture has; all are joined from masks, which are kept out of sight if not asked for."""
        hidden = ["mask"] if self.joined and "png" not in self.formats else []
        return visible(self.formats) + hidden

    def _known(self, number: int, wanted: str) -> tuple[int, int, float | None] | Path | None:
        """Size and labelled share of a picture whose masks were made of `wanted`; a file in the way; else None."""
        one = self.pictures[number]
        outputs = {kind: one.output(self.out, kind) for kind in self._kinds()}
        there = {kind: place for kind, place in outputs.items() if place.exists()}
        if not there:
            return None
        said = {kind: png_mark(place) for kind, place in there.items()}
        for kind, mark in said.items():
            if mark is None and kind != "mask":
                return there[kind]
        marks = set(said.values())
        if len(there) < len(outputs) or len(marks) > 1 or None in marks:
            return None
        try:
            about = json.loads(marks.pop() or "")
            if about["of"] != wanted or (self.joined and "scores" not in about):
                return None
            height, width = image_size(next(iter(there.values())))
            return height, width, about["labelled"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _items(self, numbers: Sequence[int]) -> Iterator[MaskItem]:
        kind = "png" if "png" in self.formats else "mask"
        for number in numbers:
            one = self.pictures[number]
            place = one.output(self.out, kind)
            scores = json.loads(png_mark(place) or "{}").get("scores", {})
            mask = read_mask(place).astype("uint8")
            yield MaskItem(one.key, mask, {int(label): float(score) for label, score in scores.items()}, one.path)

    def outputs(self, number: int) -> dict[str, str]:
        """The files of a picture, by "mask", "palette", "color" and "confidence"."""
        return {
            "mask" if kind == "png" else kind: str(self.pictures[number].output(self.out, kind))
            for kind in visible(self.formats)
        }


def class_scores(mask: UInt8[np.ndarray, "h w"], confidence: Float[np.ndarray, "h w"]) -> dict[int, float]:
    """Mean confidence of the pixels of each class that a mask shows, to four digits.

    Example:
        >>> class_scores(np.array([[0, 0, 255]], np.uint8), np.array([[0.5, 1.0, 0.9]]))
        {0: 0.75}
    """
    flat = mask.reshape(-1)
    total = np.bincount(flat, weights=confidence.reshape(-1), minlength=256)
    count = np.bincount(flat, minlength=256)
    return {int(k): round(float(total[k] / count[k]), 4) for k in np.flatnonzero(count) if k != IGNORE_INDEX}
