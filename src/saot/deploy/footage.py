"""Footage: pictures in an order of time, of a video or of a ROS bag, and which of them are taken."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from saot.data import Fingerprints


@dataclass(frozen=True)
class Footage:
    """Frames that are read when they are asked for, in any order.

    Attributes:
        path: Of the video or the bag.
        files: What its content lies in.
        topic: Of a bag.
        pts: Time stamp of each frame, in the order of the footage.
        time_base: Seconds of one unit of them.
        size: Height and width of all frames, pixels.
        read: Number of a frame -> RGB, 0 to 255, the way up that players show it.
        close: Lets go of the file until the next frame is read.
    """

    path: Path
    files: tuple[Path, ...]
    topic: str
    pts: tuple[int, ...]
    time_base: Fraction
    size: tuple[int, int]
    read: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    close: Callable[[], None]

    def seconds(self, number: int) -> Fraction:
        """Time of a frame, by the footage's own clock."""
        return self.pts[number] * self.time_base

    def content(self, seen: Fingerprints) -> list[str]:
        """What the pictures depend on: the contents of the files, and the topic."""
        return [*(seen.sha256(file) for file in self.files), self.topic]


@dataclass(frozen=True)
class Every:
    """Which frames are taken.

    Attributes:
        step: 5 takes each fifth frame; of seconds, the first frame of each stretch of so many.
        unit: What is counted.
    """

    step: Fraction = Fraction(1)
    unit: Literal["frames", "seconds"] = "frames"


def parse_every(text: str) -> Every:
    """Each so many frames, or each so many seconds.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_every("5"), parse_every("0.5s").unit
        (Every(step=Fraction(5, 1), unit='frames'), 'seconds')
    """
    number = re.fullmatch(r"([0-9]{1,9}|[0-9]{0,9}\.[0-9]{1,9}s|[0-9]{1,9}s)", text.strip())
    step = Fraction(0) if number is None else Fraction(number[1].removesuffix("s"))
    if step <= 0:
        raise ValueError(f"expected every so many frames, such as 5, or seconds, such as 0.5s; got {text!r}")
    return Every(step, "seconds" if text.strip().endswith("s") else "frames")


def taken(footage: Footage, every: Every) -> tuple[int, ...]:
    """Numbers of the frames that are taken, from the first one on.

    Of seconds, the time since the first frame is cut into stretches, and a frame is taken where a new one begins. So
    where frames are further apart than a stretch is long, each is taken.
    """
    if every.unit == "frames":
        return tuple(range(0, len(footage.pts), int(every.step)))
    found, latest = list[int](), -1
    for number in range(len(footage.pts)):
        stretch = (footage.seconds(number) - footage.seconds(0)) // every.step
        if stretch > latest:
            found.append(number)
            latest = stretch
    return tuple(found)


def turned(image: UInt8[np.ndarray, "h w 3"], matrix: Sequence[int]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A picture as a display matrix has it shown: turned by a right angle, mirrored, or both.

    Args:
        image: As it was recorded.
        matrix: Nine numbers a, b, u, c, d, v, x, y, w: what was recorded in (column, row) is shown in
            (a column + c row, b column + d row). Other angles are taken as the nearest right one.

    Example:
        A phone held upright records lying pictures, and asks for a quarter turn clockwise:

        >>> image = np.zeros((1, 2, 3), np.uint8)
        >>> image[0, 0] = 255
        >>> turned(image, (0, 1, 0, -1, 0, 0, 0, 0, 1))[:, :, 0].tolist()
        [[255], [0]]
    """
    a, b, _, c, d, *_ = matrix
    if abs(b) > abs(a):
        image, right, down = image.transpose(1, 0, 2), c, b
    else:
        right, down = a, d
    image = image[:, ::-1] if right < 0 else image
    return np.ascontiguousarray(image[::-1] if down < 0 else image)
