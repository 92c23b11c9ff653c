"""Videos: any frame of a file, by its time stamp and not by a rate, turned as players turn it."""

import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import UInt8

from saot.data import how_to_install
from saot.deploy.footage import Footage, turned

ENDINGS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv",
    ".3gp",
)  # fmt: skip
RECENT = 4  # decoded frames that are kept, for readers that ask a little out of order
HIDING = ("vp8",)  # codecs whose packets may hold frames that are not shown


@dataclass(frozen=True)
class _Index:
    """Frames of a file.

    Attributes:
        pts: Of each, in the order in which they are shown.
        keys: Of those at which decoding can begin, the first one always among them.
        time_base: Seconds of one unit.
        size: Height and width as they are shown.
    """

    pts: tuple[int, ...]
    keys: tuple[int, ...]
    time_base: Fraction
    size: tuple[int, int]


def av_module() -> Any:
    """The module av, or one sentence on how to get it.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(f"videos need PyAV, which is not installed; {how_to_install('video')}") from error
    return av


def open_video(path: Path) -> Footage:
    """The frames of a video file.

    Raises:
        ValueError: If it is missing, no video, or no frame of it can be decoded, or its frames have no time stamps.
    """
    av_module()
    if not path.is_file():
        raise ValueError(f"expected a video; {path} is {'no file' if path.exists() else 'missing'}: check the path")
    state = path.stat()
    index = _index(path, (state.st_size, state.st_mtime_ns))
    decoder = _Decoder(path, index)
    return Footage(path, (path,), "", index.pts, index.time_base, index.size, decoder.read, decoder.close)


def _opened(path: Path) -> tuple[Any, Any]:
    """A container, and the stream in it that players show.

    Raises:
        ValueError: If there is none.
    """
    av = av_module()
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, UnicodeError) as error:
        raise ValueError(
            f"expected a video; {path} cannot be read as one: it is damaged, cut off or of another kind: copy it again"
        ) from error
    stream = container.streams.best("video")
    if stream is None:
        container.close()
        raise ValueError(f"expected a video; {path} has no video stream, only sound or other data: check the path")
    return container, stream


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """What the file holds of a stream, up to where it is cut off, then what lets the decoder give its last frames."""
    broken = av_module().error.FFmpegError
    try:
        yield from container.demux(stream)
    except broken:
        return


def _decoded(packets: Iterator[Any]) -> Iterator[Any]:
    """Frames in the order in which they are shown; those of a damaged packet are left out."""
    broken = av_module().error.FFmpegError
    for packet in packets:
        try:
            frames = packet.decode()
        except broken:
            continue
        yield from frames


@lru_cache(maxsize=64)
def _index(path: Path, state: tuple[int, int]) -> _Index:
    """Frames by what the file says of its packets; where that does not say enough, by decoding all of them."""
    container, stream = _opened(path)
    with container:
        packets = [(one.pts, one.is_keyframe) for one in _packets(container, stream) if one.size and not one.is_discard]
        base, codec = Fraction(stream.time_base), stream.codec_context.name
    container, stream = _opened(path)
    with container:
        frames = _decoded(_packets(container, stream))
        first = next(frames, None)
        if first is None:
            raise ValueError(f"no frame of {path} can be decoded; it is damaged, or empty: copy it again")
        size = _picture(first).shape[:2]
        listed = {pts for pts, _ in packets}
        if codec in HIDING or first.pts not in listed or None in listed or len(listed) < len(packets):
            packets = [(one.pts, one.key_frame) for one in chain((first,), frames)]
            listed = {pts for pts, _ in packets}
    if None in listed or len(listed) < len(packets):
        raise ValueError(
            f"expected frames with a time stamp each; {path} has some without, or two with the same: write it anew, "
            f"such as ffmpeg -i {path.name} -c:v libx264 {path.stem}-new.mp4"
        )
    # frames that are shown before the first one that can be decoded need what was cut off before it
    pts = tuple(sorted(one for one in listed if one >= first.pts))
    keys = sorted({pts[0], *(one for one, key in packets if key and one >= first.pts)})
    return _Index(pts, tuple(keys), base, (size[0], size[1]))


def _picture(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    """A frame as RGB, the way up that players show it."""
    image = frame.to_ndarray(format="rgb24")
    try:
        matrix = struct.unpack("<9i", bytes(frame.side_data["DISPLAYMATRIX"]))
    except KeyError:
        return image
    return turned(image, matrix)


class _Decoder:
    """An open file, and where in it decoding has come to; goes forwards where it can, else back to a key frame.

    Args:
        path: The file.
        index: Its frames.
    """

    def __init__(self, path: Path, index: _Index) -> None:
        self.path, self.index = path, index
        self._lock = Lock()
        self._container: Any = None
        self._stream: Any = None
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None  # pts of the frame decoded last
        self._clean = 0  # frames shown before may lack what they were made from
        self._recent: deque[Any] = deque(maxlen=RECENT)

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """A frame as RGB.

        Raises:
            ValueError: If it is damaged, or of another size than the first.
        """
        pts = self.index.pts[number]
        with self._lock:
            frame = self._at(pts)
            if frame is None or frame.is_corrupt:
                raise ValueError(
                    f"frame {number} of {self.path}, at {float(pts * self.index.time_base):.3f} s, cannot be decoded: "
                    "the file is damaged there"
                )
            image = _picture(frame)
        if image.shape[:2] != self.index.size:
            height, width = self.index.size
            raise ValueError(
                f"frame {number} of {self.path} has {image.shape[1]}x{image.shape[0]} pixels but its first frame "
                f"{width}x{height}: cut the video where its size changes"
            )
        return image

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._container is not None:
                self._container.close()
            self._container, self._frames, self._last = None, iter(()), None
            self._recent.clear()

    def _at(self, pts: int) -> Any:
        """The frame of a time stamp; None if it does not come."""
        for frame in self._recent:
            if frame.pts == pts:
                return frame
        keys = self.index.keys
        key = bisect_right(keys, pts) - 1
        if self._last is not None and self._last < pts and key - bisect_right(keys, self._last) < 1:
            return self._forwards(pts)
        landed = False
        for begin in (key, key - 1):  # one before: where a key frame needs some frames until it is whole
            if begin > 0 and self._seek(keys[begin]):
                landed = True
                frame = self._forwards(pts)
                if frame is not None:
                    return frame
        if landed and key > 1:
            return None
        self._restart()
        return self._forwards(pts)

    def _restart(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container, self._stream = _opened(self.path)
        self._begin(_packets(self._container, self._stream), self.index.pts[0])

    def _begin(self, packets: Iterator[Any], clean: int) -> None:
        self._frames, self._last, self._clean = _decoded(packets), None, clean
        self._recent.clear()

    def _seek(self, key: int) -> bool:
        """Go to a key frame or to one before it; False where the file leads behind it, as some do."""
        if self._container is None:
            self._container, self._stream = _opened(self.path)
        try:
            self._container.seek(key, stream=self._stream)
        except av_module().error.FFmpegError:
            return False
        packets = _packets(self._container, self._stream)
        for packet in packets:
            if packet.is_keyframe and packet.size:
                if packet.pts is None or packet.pts > key:
                    return False
                self._begin(chain((packet,), packets), packet.pts)
                return True
        return False

    def _forwards(self, pts: int) -> Any:
        """The frame of a time stamp, from where decoding has come to; None if it does not come."""
        for frame in self._frames:
            if frame.pts is None or frame.pts < self._clean:
                continue
            self._last = frame.pts
            self._recent.append(frame)
            if frame.pts >= pts:
                return frame if frame.pts == pts else None
        self._last = None
        return None
