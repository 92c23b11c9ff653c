"""`video:` as a data set: the frames of videos and of ROS bags, each of them a picture without labels."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from saot.data import DataSpec, Fingerprints, ImageSet, LabelledSet, OpenSet, SetReader, files_below
from saot.deploy.bag import BAGS, is_bag, open_bag
from saot.deploy.footage import Every, Footage, parse_every, taken
from saot.deploy.video import ENDINGS, open_video

OPTIONS = ("every", "topic")


@dataclass(frozen=True)
class Shots:
    """Frames that are taken of several footages; one file is open at a time.

    Attributes:
        footages: By name.
        frames: Name of the footage and number in it, of each frame that is taken.
    """

    footages: Mapping[str, Footage]
    frames: tuple[tuple[str, int], ...]
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    _latest: list[Footage] = field(default_factory=list, repr=False, compare=False)

    def key(self, index: int) -> str:
        """Name of a frame: that of its file, and its number."""
        name, number = self.frames[index]
        return f"{name}@{number:06d}"

    def picture(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """A frame as RGB.

        Raises:
            ValueError: If it cannot be decoded.
        """
        name, number = self.frames[index]
        footage = self.footages[name]
        with self._lock:
            if self._latest and self._latest[0] is not footage:
                self._latest.pop().close()
            if not self._latest:
                self._latest.append(footage)
            return footage.read(number)

    def fingerprint(self, index: int, seen: Fingerprints) -> str:
        """Name of a frame's content: of its file and its number."""
        name, number = self.frames[index]
        return hashlib.sha256(repr([*self.footages[name].content(seen), number]).encode()).hexdigest()


def is_footage(path: Path) -> bool:
    """Whether a path is that of a video or a ROS bag, by its name."""
    return path.suffix.lower() in ENDINGS or is_bag(path)


def open_footage(path: Path, topic: str | None = None) -> Footage:
    """A video or a ROS bag.

    Raises:
        ValueError: If it cannot be read, or a topic is given for a video.
    """
    if is_bag(path):
        return open_bag(path, topic)
    if topic is not None:
        raise ValueError(f"expected a ROS bag for topic {topic}; {path} is a video: leave the topic out")
    return open_video(path)


def shots(paths: Mapping[str, Path], every: Every, topic: str | None) -> Shots:
    """The frames that are taken of each file, in order.

    Raises:
        ValueError: If a file cannot be read.
    """
    footages = {name: open_footage(path, topic) for name, path in paths.items()}
    frames = tuple((name, number) for name, footage in footages.items() for number in taken(footage, every))
    return Shots(footages, frames)


def _open(spec: str, parts: DataSpec) -> ImageSet:
    """The frames of "video:PATH" or "video:PATH:every=5,topic=/camera/image".

    Raises:
        ValueError: If an option is unknown, or there is no video.
    """
    options = dict(_option(one) for one in (parts.split or "").split(",") if one.strip())
    path = Path(os.path.expanduser(parts.path))
    paths = {path.name: path}
    if path.is_dir() and not is_bag(path):
        paths = files_below(path, (*ENDINGS, *BAGS))
        if not paths:
            raise ValueError(f"expected videos ({', '.join(ENDINGS[:5])} ...) or ROS bags in {path}; found none")
    found = shots(paths, parse_every(options.get("every", "1")), options.get("topic"))
    seen = parts.seen or Fingerprints()
    return ImageSet(
        spec=spec,
        classes=None,
        keys=tuple(map(found.key, range(len(found.frames)))),
        load=found.picture,
        fingerprint=lambda index: found.fingerprint(index, seen),
        measure=lambda index: found.footages[found.frames[index][0]].size,
    )


def _option(text: str) -> tuple[str, str]:
    name, _, value = (part.strip() for part in text.partition("="))
    if name not in OPTIONS or not value:
        raise ValueError(f"video: takes every=5 or every=0.5s, and topic=/camera/image of a ROS bag; got {text!r}")
    return name, value


def _labelled(spec: str, parts: DataSpec) -> LabelledSet:
    raise ValueError(f"{spec} has no masks, as no video has: give it as --target, or labelled pictures as a folder:")


READERS: Mapping[str, OpenSet] = MappingProxyType({"video": SetReader(labelled=_labelled, images=_open)})
