"""Small videos whose frames show their number."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")

MS = Fraction(1, 1000)
UNEVEN = [0, 40, 50, 200, 210, 300, 400, 1000, 1001, 1100, 1200, 1500, 1510, 2600]  # ms
REORDERED = {"x264-params": "bframes=2:b-adapt=0:keyint=6:min-keyint=6:scenecut=0"}
OPEN = {"x264-params": "bframes=2:b-adapt=0:keyint=6:min-keyint=6:scenecut=0:open-gop=1"}


def numbered(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture that shows its number, as six bars below of which the white ones are bits; red above on the left."""
    image = np.full((height, width, 3), 128, np.uint8)
    image[: height // 3, : width // 3] = (220, 20, 20)
    for bit in range(6):
        image[height // 2 :, bit * width // 6 : (bit + 1) * width // 6] = 255 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    height, width, _ = image.shape
    return sum(int(image[3 * height // 4, (2 * bit + 1) * width // 12].mean() > 128) << bit for bit in range(6))


def film(
    path: Path, pts=range(20), base=Fraction(1, 25), codec="libx264", options=None, size=(48, 64), **about
) -> Path:
    """A video of numbered pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = about.get("format", "yuv420p")
        stream.time_base = stream.codec_context.time_base = base
        if "rotation" in about:
            stream.set_display_rotation(about["rotation"])
        for number, time in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")
            frame.pts, frame.time_base = time, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return sorted(frame.time for frame in container.decode(video=0))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


def killed_after(count: int, stage: str):
    """Progress that ends a command when so many frames are done."""

    def progress(what: str, done: int, total: int) -> None:
        if what == stage and done == count:
            raise KeyboardInterrupt

    return progress
