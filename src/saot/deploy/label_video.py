"""The frames of videos and ROS bags labelled by a finished run: masks with their times, or one video of overlays."""

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from saot.data import ClassSet, Fingerprints, check_place, read_mask, temporary_name, write_atomic
from saot.deploy.footage import Footage, parse_every
from saot.deploy.steady import SteadyRun
from saot.deploy.video import ENDINGS, av_module
from saot.deploy.video_set import Shots, is_footage, shots
from saot.features import Picture
from saot.label import (
    NO_WINGS,
    FinishedRun,
    LabelledPictures,
    Labeller,
    NewPicture,
    Wings,
    label_found,
    open_abstaining,
    visible,
)
from saot.report import overlay
from saot.runs import code_version, identity_of

FORMATS = ("png", "palette", "color", "confidence")
OVERLAYS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}  # ending -> what FFmpeg calls it
TIMES = "timestamps.csv"
COLUMNS = ("file", "seconds", "pts")
ENCODER = "libx264"
QUALITY = "18"  # its constant rate factor: differences are hard to see
MICROSECOND = Fraction(1, 10**6)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VideoSettings:
    """Which frames are labelled.

    Attributes:
        every: Each so many frames, such as "5", or seconds, such as "0.5s"; all unless given.
        topic: Of a ROS bag; needed where it has several with pictures.
        steady: Whether the frames before one count in its answer.
    """

    every: str | None = None
    topic: str | None = None
    steady: bool = False


@dataclass(frozen=True)
class Frame(NewPicture):
    """A frame to be labelled.

    Attributes:
        shots: All frames.
        index: Which.
        content: Name of its content.
    """

    shots: Shots
    index: int
    content: str

    @property
    def name(self) -> str:
        """Its file and number."""
        return f"{self.path}@{self.number:06d}"

    @property
    def footage(self) -> Footage:
        """What it belongs to."""
        return self.shots.footages[self.shots.frames[self.index][0]]

    @property
    def number(self) -> int:
        """Its number there."""
        return self.shots.frames[self.index][1]

    def fingerprint(self) -> str:
        """Name of its content."""
        return self.content

    def read(self) -> UInt8[np.ndarray, "h w 3"]:
        """Its pixels, RGB."""
        return self.shots.picture(self.index)


def video_input(paths: Sequence[Path]) -> bool:
    """Whether all inputs are videos or ROS bags.

    Raises:
        ValueError: If some are, and others are not.
    """
    found = [path for path in paths if is_footage(path)]
    if found and len(found) < len(paths):
        other = next(path for path in paths if path not in found)
        raise ValueError(f"expected videos alone, or pictures alone; got {found[0]} and {other}: give two commands")
    return bool(found)


def overlay_output(path: Path) -> bool:
    """Whether an --out names a video."""
    return path.suffix.lower() in OVERLAYS


def predict_video(
    folder: Path,
    videos: Sequence[Path],
    out: Path,
    settings: VideoSettings = VideoSettings(),
    formats: Sequence[str] = ("png",),
    progress: Progress | None = None,
    abstain: float | None = None,
    wings: Wings = NO_WINGS,
    device: str = "cpu",
) -> LabelledPictures:
    """Masks of the frames of videos, and timestamps.csv beside them; or one video with the masks over its frames.

    Args:
        folder: A finished run.
        videos: Videos and ROS bags.
        out: A folder; or, of one video, a video.
        settings: Which frames.
        formats: As in `saot.label.predict_pictures`, of those with one file a picture. A video of overlays has none.
        progress: Called with (what, done, total): frames of "predict" and of "overlay".
        abstain: As in `saot.label.predict_pictures`.
        wings: What the core does not know.
        device: Where networks run.

    Raises:
        ValueError: If a format is unknown, a video or the run is not as it should be, or an output is in the way.
        OSError: If an output cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"expected formats of frames among {', '.join(FORMATS)}; got {', '.join(unknown) or 'none'}")
    told = progress or (lambda what, done, total: None)
    twice = [name for name, count in Counter(path.name for path in videos).items() if count > 1]
    if twice:
        raise ValueError(f"expected videos of different names; several are called {twice[0]}: give a command for each")
    if out.suffix.lower() in ENDINGS and not overlay_output(out):
        raise ValueError(f"expected a video of overlays to end with {', '.join(OVERLAYS)}; got {out}")
    run, identity = open_abstaining(folder, abstain, wings, device)
    every = parse_every(settings.every or "1")
    frames = _frames(shots({path.name: path for path in videos}, every, settings.topic))
    if settings.steady:
        run, identity = _steadied(run, identity, frames)
    if overlay_output(out):
        if len(videos) > 1:
            raise ValueError(f"expected one video for --out {out}; of several --out is a folder")
        return _Overlay(run, identity, frames, out, abstain is not None).made(told)
    _check_times(out / TIMES)
    found = label_found(run, identity, frames, out, formats, abstain is not None, lambda *n: told("predict", *n))
    if found.sizes:
        kind = visible(formats)[0]
        write_atomic(out / TIMES, _times([frames[n] for n in sorted(found.sizes)], out, kind).encode())
    return found


def _frames(found: Shots) -> list[Frame]:
    seen, code = Fingerprints(), code_version("deploy")
    contents = {name: footage.content(seen) for name, footage in found.footages.items()}
    return [
        Frame(
            path=found.footages[name].path,
            key=f"{found.key(index)}.png",
            shots=found,
            index=index,
            content=identity_of(contents[name], number, code),
        )
        for index, (name, number) in enumerate(found.frames)
    ]


def _steadied(run: Labeller, identity: str, frames: Sequence[Frame]) -> tuple[Labeller, str]:
    """The run looking at earlier frames, too, and what its masks depend on.

    Raises:
        ValueError: If the run is of a kind that cannot.
    """
    if not isinstance(run, FinishedRun):
        raise ValueError("expected a run of `saot run` for --steady; networks of `saot adapt` label frames one by one")
    first = dict[Path, int]()
    begins = tuple(first.setdefault(one.path, one.index) for one in frames)
    sequence = tuple(Picture(one.name, one.read, one.content) for one in frames)
    parts = {part.name: getattr(run, part.name) for part in fields(run)}
    steady = SteadyRun(**parts, sequence=sequence, begins=begins)
    # a frame's mask depends on those before it
    about = [identity, steady.steady, [one.content for one in frames], code_version("match")]
    return steady, identity_of(*about)


def _check_times(place: Path) -> None:
    """Refuse to write over what is no earlier table of times.

    Raises:
        ValueError: If so.
    """
    if not (place.exists() or place.is_symlink()):
        return
    begun = ""
    if place.is_file():
        with open(place, errors="replace") as file:
            begun = file.readline(100).strip()
    if begun != ",".join(COLUMNS):
        raise ValueError(
            f"expected {place} to be missing or of an earlier `saot predict`; it is something else: move it, or choose "
            "another --out"
        )


def _times(frames: Sequence[Frame], out: Path, kind: str) -> str:
    """The table: each frame's file below `out`, its time in seconds to the nanosecond, and its time stamp."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for one in frames:
        seconds = one.footage.seconds(one.number)
        file = one.output(out, kind).relative_to(out).as_posix()
        rows.writerow([file, decimal(seconds), one.footage.pts[one.number]])
    return text.getvalue()


def decimal(seconds: Fraction) -> str:
    """A time to the nanosecond, of any size.

    Example:
        >>> decimal(Fraction(1, 3)), decimal(Fraction(-1, 2)), decimal(Fraction(10**18 + 1, 10**9))
        ('0.333333333', '-0.500000000', '1000000000.000000001')
    """
    nano = round(seconds * 10**9)
    return f"{'-' if nano < 0 else ''}{abs(nano) // 10**9}.{abs(nano) % 10**9:09d}"


@dataclass(frozen=True)
class _Overlay:
    """A video of overlays on its way.

    Attributes:
        run: Labels the frames.
        identity: Of everything that its masks depend on.
        frames: Of one footage.
        out: The video.
        abstains: Whether pixels may be left out.
    """

    run: Labeller
    identity: str
    frames: Sequence[Frame]
    out: Path
    abstains: bool

    @property
    def masks(self) -> Path:
        """Where the masks lie until the video is there."""
        return self.out.with_name(f".{self.out.name}.masks")

    def made(self, told: Progress) -> LabelledPictures:
        """Label what has no mask yet, and join it to a video, unless just this is there."""
        footage = self.frames[0].footage
        check_place(self.out.parent)
        if self.out.exists() and self.out.resolve() == footage.path.resolve():
            raise ValueError(f"expected an --out that leaves the video alone; got {self.out}: choose another --out")
        mark = f"saot {identity_of(self.identity, [one.content for one in self.frames])}"
        there = _mark_of(self.out) if self.out.exists() or self.out.is_symlink() else ""
        if there is None:
            raise ValueError(
                f"expected {self.out} to be missing or of an earlier `saot predict`; it is something else: move it, or "
                "choose another --out"
            )
        if there == mark:
            return LabelledPictures(self.frames, dict.fromkeys(range(len(self.frames)), (*footage.size, None)))
        pts, base = _clock(self.frames)
        found = label_found(
            self.run, self.identity, self.frames, self.masks, ("png",), self.abstains, lambda *n: told("predict", *n)
        )
        if found.sizes:
            numbers = sorted(found.sizes)
            pictures = self._pictures(numbers, lambda done: told("overlay", done, len(numbers)))
            mark = mark if len(numbers) == len(self.frames) else f"{mark} incomplete"
            write_video(self.out, pictures, [pts[n] for n in numbers], base, mark)
        if len(found.sizes) == len(self.frames):
            shutil.rmtree(self.masks)
        return replace(found, outputs=lambda number: {})

    def _pictures(self, numbers: Sequence[int], told: Callable[[int], None]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        classes: ClassSet = self.run.classes
        for done, number in enumerate(numbers):
            one = self.frames[number]
            mask = read_mask(one.output(self.masks, "png")).astype(np.uint8)
            yield overlay(one.read(), mask, classes.colors)
            told(done + 1)


def _clock(frames: Sequence[Frame]) -> tuple[list[int], Fraction]:
    """Time stamps of frames and their unit; those of a bag begin at 0, in microseconds.

    Raises:
        ValueError: If they do not grow.
    """
    footage = frames[0].footage
    pts, base = [footage.pts[one.number] for one in frames], footage.time_base
    if footage.topic:
        pts, base = [round((one - pts[0]) * base / MICROSECOND) for one in pts], MICROSECOND
    for before, after in pairwise(frames):
        if pts[after.index] <= pts[before.index]:
            raise ValueError(
                f"expected times that grow; {after.name} is not later than {before.name}: write masks into a folder"
            )
    return pts, base


def write_video(
    path: Path, pictures: Iterator[UInt8[np.ndarray, "h w 3"]], pts: Sequence[int], time_base: Fraction, mark: str
) -> None:
    """Write pictures of one size as H.264, each at its own time; the file is there in one step at the end.

    An odd side gets one more row or column, the last one again, as the colours of two pixels are kept together.

    Args:
        path: Ending with .mp4, .mov or .mkv; the last knows milliseconds alone.
        pictures: As many as there are time stamps.
        pts: Time stamps, growing.
        time_base: Seconds of one unit of them.
        mark: What `_mark_of` gives back.

    Raises:
        ValueError: If this FFmpeg cannot encode.
        OSError: If the file cannot be written.
    """
    av = av_module()
    if ENCODER not in av.codecs_available:
        raise ValueError(f"a video of overlays needs the encoder {ENCODER}, which this PyAV lacks: install its wheel")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with av.open(str(temporary), "w", format=OVERLAYS[path.suffix.lower()]) as container:
            container.metadata["comment"] = mark
            stream: Any = None
            for image, time in zip(pictures, pts, strict=True):
                if stream is None:
                    stream = _stream(container, image.shape[:2], pts, time_base)
                odd = [(0, side % 2) for side in image.shape[:2]]
                frame = av.VideoFrame.from_ndarray(np.pad(image, (*odd, (0, 0)), mode="edge"), format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
                frame.pts, frame.time_base = time, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # gone when all went well
            temporary.unlink()


def _stream(container: Any, size: tuple[int, int], pts: Sequence[int], time_base: Fraction) -> Any:
    span = (pts[-1] - pts[0]) * time_base
    rate = Fraction((len(pts) - 1) / span).limit_denominator(1000) if span else Fraction(1)
    stream = container.add_stream(ENCODER, rate=max(rate, Fraction(1, 1000)), options={"crf": QUALITY})
    stream.height, stream.width = (side + side % 2 for side in size)
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = time_base
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1  # BT.709, limited range
    return stream


def _mark_of(path: Path) -> str | None:
    """What a video says it was made of, by `write_video`; None of any other file."""
    av = av_module()
    try:
        with av.open(str(path)) as container:
            said = {name.lower(): words for name, words in container.metadata.items()}.get("comment", "")
    except (av.error.FFmpegError, OSError, UnicodeError):
        return None
    return said if said.startswith("saot ") else None
