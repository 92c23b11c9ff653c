"""Pictures of a topic of a ROS bag, of ROS 1 or 2, read without ROS."""

import io
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from saot.data import BROKEN, how_to_install, rgb_of
from saot.deploy.footage import Footage

BAGS = (".bag", ".mcap", ".db3")
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4}
BLUE_FIRST = ("bgr8", "bgra8", "8UC3", "8UC4")  # encodings without names for their channels are OpenCV's
SKIPPED = 64  # messages that are passed over rather than sought behind
METADATA = "metadata.yaml"
NANOSECOND = Fraction(1, 10**9)


@dataclass(frozen=True)
class _Index:
    """Messages of a topic, in the order in which they were recorded.

    Attributes:
        recorded: When, ns.
        stamps: When they were taken, ns: that of their header, or when they were recorded where it has none.
        size: Height and width of the first picture.
    """

    recorded: tuple[int, ...]
    stamps: tuple[int, ...]
    size: tuple[int, int]


def is_bag(path: Path) -> bool:
    """Whether a path is that of a bag: a file of ROS 1 or 2, or a folder of ROS 2."""
    if not path.is_dir():
        return path.suffix.lower() in BAGS
    about = path / METADATA
    return about.is_file() and b"rosbag2_bagfile_information" in about.read_bytes()


def open_bag(path: Path, topic: str | None = None) -> Footage:
    """The pictures of a topic of a bag.

    Args:
        path: A .bag, .mcap or .db3 file, or a folder with a metadata.yaml.
        topic: Of sensor_msgs/Image or CompressedImage; may be left out where there is one alone.

    Raises:
        ValueError: If it is missing, damaged, has no such topic, or several and none was asked for.
    """
    if not path.exists():
        raise ValueError(f"expected a ROS bag; {path} is missing: check the path")
    files = tuple(sorted(one for one in path.iterdir() if one.is_file())) if path.is_dir() else (path,)
    reader = _opened(path)
    try:
        topic = _topic(path, reader, topic)
    finally:
        reader.close()
    state = tuple((one.stat().st_size, one.stat().st_mtime_ns) for one in files)
    index = _index(path, topic, state)
    messages = _Messages(path, topic, index)
    return Footage(path, files, topic, index.stamps, NANOSECOND, index.size, messages.read, messages.close)


def rosbags_module() -> Any:
    """The modules of rosbags, or one sentence on how to get them.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import rosbags.highlevel
        import rosbags.serde
        import rosbags.typesys
    except ImportError as error:
        raise ValueError(f"ROS bags need rosbags, which is not installed; {how_to_install('video')}") from error
    return rosbags


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Whatever the library stumbles over in a bag as one sentence.

    Raises:
        ValueError: In place of its errors.
    """
    import apsw

    ros = rosbags_module()
    known = (
        *ros.highlevel.anyreader.ReaderErrors,
        ros.highlevel.AnyReaderError,
        ros.serde.SerdeError,
        ros.typesys.TypesysError,
        apsw.Error,
        RuntimeError,  # of the libraries that unpack chunks
        AssertionError,
        *BROKEN,
    )
    try:
        yield
    except known as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(
            f"{path} cannot be read as a ROS bag ({reason}): copy it again, or `ros2 bag reindex`"
        ) from error


def _opened(path: Path) -> Any:
    """An open reader."""
    ros = rosbags_module()
    with _understood(path):
        # what pictures are made of is the same in all of ROS 2, so it does not matter which one a bag is of
        types = ros.typesys.get_typestore(ros.typesys.Stores.ROS2_HUMBLE)
        reader = ros.highlevel.AnyReader([path], default_typestore=types)
        reader.open()
    return reader


def _topic(path: Path, reader: Any, asked: str | None) -> str:
    """The topic that was asked for, or the only one that has pictures."""
    found = sorted({one.topic for one in reader.connections if one.msgtype in (IMAGE, COMPRESSED)})
    if asked is None and len(found) == 1:
        return found[0]
    if asked in found:
        return str(asked)
    if not found:
        raise ValueError(
            f"expected a topic of sensor_msgs/Image or CompressedImage in {path}; it has "
            f"{', '.join(sorted({one.topic for one in reader.connections})) or 'no topic'}"
        )
    got = "none was chosen" if asked is None else f"{asked} is not among them"
    raise ValueError(f"{path} has pictures in {', '.join(found)}; {got}: choose one, such as topic={found[0]}")


def _connections(reader: Any, topic: str) -> list[Any]:
    return [one for one in reader.connections if one.topic == topic and one.msgtype in (IMAGE, COMPRESSED)]


@lru_cache(maxsize=64)
def _index(path: Path, topic: str, state: tuple[tuple[int, int], ...]) -> _Index:
    """All messages of a topic; each is read once."""
    recorded, stamps, first = list[int](), list[int](), None
    reader = _opened(path)
    try:
        with _understood(path):
            for connection, time, raw in reader.messages(connections=_connections(reader, topic)):
                message = reader.deserialize(raw, connection.msgtype)
                stamp = message.header.stamp
                recorded.append(time)
                stamps.append(stamp.sec * 10**9 + stamp.nanosec or time)
                first = message if first is None else first
    finally:
        reader.close()
    if not recorded:
        raise ValueError(f"expected pictures in {topic} of {path}; it has no message: check the topic")
    height, width = _picture(first, f"message 0 of {topic} in {path}").shape[:2]
    return _Index(tuple(recorded), tuple(stamps), (height, width))


class _Messages:
    """An open bag, and which message of a topic comes next.

    Args:
        path: Of the bag.
        topic: The topic.
        index: Its messages.
    """

    def __init__(self, path: Path, topic: str, index: _Index) -> None:
        self.path, self.topic, self.index = path, topic, index
        self._lock = Lock()
        self._reader: Any = None
        self._left: Iterator[Any] = iter(())
        self._next = 0

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """A picture as RGB.

        Raises:
            ValueError: If it is damaged, of an encoding that is not known, or of another size than the first.
        """
        with self._lock:
            message = self._message(number)
        image = _picture(message, f"message {number} of {self.topic} in {self.path}")
        if image.shape[:2] != self.index.size:
            height, width = self.index.size
            raise ValueError(
                f"message {number} of {self.topic} in {self.path} has {image.shape[1]}x{image.shape[0]} pixels but the "
                f"first one {width}x{height}: cut the bag where the size changes"
            )
        return image

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None

    def _message(self, number: int) -> Any:
        if self._reader is None or not self._next <= number < self._next + SKIPPED:
            if self._reader is None:
                self._reader = _opened(self.path)
            start = self.index.recorded[number]
            self._left = self._reader.messages(connections=_connections(self._reader, self.topic), start=start)
            self._next = bisect_left(self.index.recorded, start)
        with _understood(self.path):
            for connection, _, raw in self._left:
                self._next += 1
                if self._next > number:
                    return self._reader.deserialize(raw, connection.msgtype)
        raise ValueError(f"message {number} of {self.topic} in {self.path} is gone: the bag was changed meanwhile")


def _picture(message: Any, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """A message as RGB."""
    if message.__msgtype__ == COMPRESSED:
        try:
            with Image.open(io.BytesIO(bytes(message.data))) as picture:
                return rgb_of(picture, name)
        except BROKEN as error:
            raise ValueError(
                f"{name} is damaged, or its format {message.format!r} is no picture that Pillow reads"
            ) from error
    channels, height, width = CHANNELS.get(message.encoding), message.height, message.width
    if channels is None:
        raise ValueError(
            f"{name} has the encoding {message.encoding!r}, but known are {', '.join(CHANNELS)}: convert the topic"
        )
    data = np.frombuffer(message.data, np.uint8)
    if 0 in (height, width) or message.step < width * channels or len(data) < height * message.step:
        raise ValueError(f"{name} is damaged: {len(data)} bytes for {width}x{height} pixels of {message.encoding}")
    rows = data[: height * message.step].reshape(height, message.step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)[:, :, :3]
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, ::-1] if message.encoding in BLUE_FIRST else pixels)
