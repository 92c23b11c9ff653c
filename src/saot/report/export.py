"""Masks as files that other tools open: PNG of indices or colours, confidences; what files of many masks hold."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from saot.data import BROKEN, IGNORE_INDEX, ClassSet, mask_counts, open_atomic, strips

Put = Callable[[bytes], Any]  # of a file
Colors = Sequence[tuple[int, int, int]]
GREY, RGB, PALETTE = 0, 2, 3  # colour types of PNG
MARK = "saot"  # keyword of the text chunk in which a PNG says what it was made of
VOID_COLOR = (224, 224, 192)  # the cream that PASCAL VOC draws "ignore" in


def check_mask(mask: UInt8[np.ndarray, "h w"], num_classes: int) -> None:
    """Check that a mask holds class indices and 255 alone.

    Raises:
        ValueError: If it does not; names the values.
    """
    present = np.flatnonzero(mask_counts(mask))
    wrong = [int(value) for value in present if value >= num_classes and value != IGNORE_INDEX]
    if wrong:
        raise ValueError(
            f"mask must hold class indices below {num_classes} or {IGNORE_INDEX} for ignore, got "
            f"{wrong[:5]}; pass indices of this class set, not raw ids"
        )


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "mh mw"],
    colors: Sequence[tuple[int, int, int]],
    alpha: float = 0.55,
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with each pixel mixed with its class's colour; ignored pixels keep the picture.

    Args:
        image: RGB.
        mask: Class indices of the same size, 255 for ignore.
        colors: RGB 0-255, one a class.
        alpha: Share of the class colour, 0 to 1.

    Returns:
        RGB of the same size.

    Raises:
        ValueError: If the sizes differ, `alpha` is outside [0, 1], or the mask holds an unknown class.

    Example:
        >>> black, mask = np.zeros((1, 2, 3), np.uint8), np.array([[0, 255]], np.uint8)
        >>> overlay(black, mask, [(100, 0, 50)], 0.5).tolist()
        [[[50, 0, 25], [0, 0, 0]]]
    """
    _check_overlay(image, mask, colors, alpha)
    return np.concatenate(list(_overlaid(image, mask, colors, alpha)))


def _check_overlay(image: np.ndarray, mask: np.ndarray, colors: Colors, alpha: float) -> None:
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask is {mask.shape[0]} x {mask.shape[1]} but the picture is "
            f"{image.shape[0]} x {image.shape[1]}; upsample the mask to the picture"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    check_mask(mask, len(colors))


def _overlaid(
    image: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"], colors: Colors, alpha: float
) -> Iterator[UInt8[np.ndarray, "rows w 3"]]:
    """`overlay` in strips of rows."""
    table = np.zeros((256, 3), np.float32)
    table[: len(colors)] = colors
    for rows in strips(*mask.shape):
        mixed = image[rows] * np.float32(1 - alpha) + table[mask[rows]] * np.float32(alpha)
        yield np.where((mask[rows] == IGNORE_INDEX)[..., None], image[rows], np.rint(mixed)).astype(np.uint8)


def palette_png(
    mask: UInt8[np.ndarray, "h w"],
    colors: Sequence[tuple[int, int, int]],
    *,
    transparent_ignore: bool = False,
    mark: str = "",
) -> bytes:
    """A PNG whose pixel values are the class indices and whose palette holds the class colours.

    Args:
        mask: Class indices, 255 for ignore.
        colors: RGB 0-255, one a class.
        transparent_ignore: Whether 255 is see-through instead of cream.
        mark: What `png_mark` gives back.

    Returns:
        The file's bytes.

    Raises:
        ValueError: If the mask holds an unknown class.
    """
    buffer = io.BytesIO()
    _write_palette(buffer.write, mask, colors, transparent_ignore, mark)
    return buffer.getvalue()


def _write_palette(
    put: Put, mask: UInt8[np.ndarray, "h w"], colors: Colors, transparent_ignore: bool = False, mark: str = ""
) -> None:
    check_mask(mask, len(colors))
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    table[IGNORE_INDEX] = VOID_COLOR
    chunks = [(b"PLTE", table.tobytes())]
    if transparent_ignore:
        chunks.append((b"tRNS", b"\xff" * IGNORE_INDEX + b"\x00"))
    _write_png(put, mask.shape, (mask[rows] for rows in strips(*mask.shape)), PALETTE, mark, chunks)


def _write_png(
    put: Put,
    size: tuple[int, int],
    parts: Iterable[UInt8[np.ndarray, "..."]],
    color: int,
    mark: str = "",
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """A PNG of 8 bits a channel, written strip by strip: Pillow would hold the whole picture again.

    Rows of RGB are the differences from the row above, which is what photographs are small with.
    """

    def write(kind: bytes, data: bytes) -> None:
        check = zlib.crc32(data, zlib.crc32(kind))
        put(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check))

    put(b"\x89PNG\r\n\x1a\n")
    write(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, color, 0, 0, 0))
    if mark:
        write(b"tEXt", MARK.encode("latin-1") + b"\0" + mark.encode("latin-1"))
    for kind, data in chunks:
        write(kind, data)
    packer, above = zlib.compressobj(6), np.zeros((1, size[1] * (3 if color == RGB else 1)), np.uint8)
    for part in parts:
        rows = part.reshape(len(part), -1)
        difference = rows - np.concatenate([above, rows[:-1]]) if color == RGB else rows
        above = rows[-1:]
        kind = np.full((len(rows), 1), 2 if color == RGB else 0, np.uint8)
        if data := packer.compress(np.concatenate([kind, difference], axis=1).tobytes()):
            write(b"IDAT", data)
    write(b"IDAT", packer.flush())
    write(b"IEND", b"")


def png_mark(path: Path) -> str | None:
    """What a PNG of ours was marked with; None where a file is something else."""
    from PIL import Image

    if not path.is_file():
        return None  # opened, a pipe would wait for a writer
    try:
        with Image.open(path) as picture:
            mark = picture.info.get(MARK)
            return mark if picture.format == "PNG" and isinstance(mark, str) else None
    except BROKEN:
        return None


def grey_png(values: UInt8[np.ndarray, "h w"]) -> bytes:
    """A PNG of one grey channel with these values."""
    buffer = io.BytesIO()
    _write_png(buffer.write, values.shape, (values[rows] for rows in strips(*values.shape)), GREY)
    return buffer.getvalue()


def write_index_png(path: Path, mask: UInt8[np.ndarray, "h w"], classes: ClassSet, mark: str = "") -> None:
    """Writes the mask as a PNG of one grey channel, whose values are class indices or 255.

    Every reader gives these numbers back. A palette would look better and be lost on many: OpenCV reads its colours.

    Args:
        path: Of the file.
        mask: Class indices, 255 for ignore.
        classes: What they mean.
        mark: What `png_mark` gives back.

    Raises:
        ValueError: If the mask holds a class that `classes` does not have.
    """
    check_mask(mask, len(classes.colors))
    with open_atomic(Path(path)) as file:
        _write_png(file.write, mask.shape, (mask[rows] for rows in strips(*mask.shape)), GREY, mark)


def write_palette_png(path: Path, mask: UInt8[np.ndarray, "h w"], classes: ClassSet, mark: str = "") -> None:
    """The same values with the colours of the classes as a palette, for looking at and for PASCAL VOC's readers.

    Args:
        path: Of the file.
        mask: Class indices, 255 for ignore, which is drawn cream.
        classes: What they mean.
        mark: What `png_mark` gives back.

    Raises:
        ValueError: If the mask holds a class that `classes` does not have.
    """
    with open_atomic(Path(path)) as file:
        _write_palette(file.write, mask, classes.colors, mark=mark)


def write_confidence_png(path: Path, confidence: Float[np.ndarray, "h w"], mark: str = "") -> None:
    """Writes confidences as a grey PNG of 8 bits: 255 is 1.

    Args:
        path: Of the file.
        confidence: Of each pixel, 0 to 1.
        mark: What `png_mark` gives back.

    Raises:
        ValueError: If one is not a number from 0 to 1.
    """
    if confidence.size and not (float(confidence.min()) >= 0 and float(confidence.max()) <= 1):
        raise ValueError(
            f"expected confidences from 0 to 1; got {float(confidence.min()):g} to {float(confidence.max()):g}: pass "
            "probabilities, not logits"
        )
    with open_atomic(Path(path)) as file:
        rows = (np.rint(255 * confidence[part]).astype(np.uint8) for part in strips(*confidence.shape))
        _write_png(file.write, confidence.shape, rows, GREY, mark)


def write_color_overlay(
    path: Path,
    image: UInt8[np.ndarray, "h w 3"],
    mask: UInt8[np.ndarray, "mh mw"],
    classes: ClassSet,
    alpha: float = 0.55,
    mark: str = "",
) -> None:
    """Writes the picture under its coloured mask as an RGB PNG, for looking at; see `overlay` and `png_mark`."""
    _check_overlay(image, mask, classes.colors, alpha)
    with open_atomic(Path(path)) as file:
        _write_png(file.write, mask.shape, _overlaid(image, mask, classes.colors, alpha), RGB, mark)


@dataclass(frozen=True)
class MaskItem:
    """One picture for a file that holds the masks of many.

    Attributes:
        file_name: As it is named in the file, with "/".
        mask: Class indices, 255 for ignore.
        scores: Class index to how sure its pixels are, 0 to 1; a class without one has no score.
        picture: Its file, for formats that show it or lead to it.
    """

    file_name: str
    mask: UInt8[np.ndarray, "h w"]
    scores: Mapping[int, float] = field(default_factory=dict)
    picture: Path | None = None


def begins_with(path: Path, begin: bytes) -> bool:
    """Whether a file can be read and begins so."""
    try:
        with open(path, "rb") as file:
            return file.read(len(begin)) == begin
    except OSError:
        return False


@dataclass(frozen=True)
class JoinedFormat:
    """A format that holds the masks of all pictures in one file or folder of its own.

    Attributes:
        place: Of the file or folder, below the folder of masks.
        ours: Whether what lies there is an earlier answer, so that it may be written again.
        write: Writes it, each file whole or not at all; pictures are read once.
    """

    place: str
    ours: Callable[[Path], bool]
    write: Callable[[Path, Iterable[MaskItem], ClassSet], None]
