"""Reading pictures and masks from files, whatever way they are stored."""

import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow's readers let all of these through for broken files of one format or another.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)

STRIP = 1 << 20  # pixels that are worked on at a time where a whole picture would be too much

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

ORIENTATION = 274  # EXIF tag; 1 is upright, 5 to 8 swap width and height

PAGE_KIND, PART_OF_A_PAGE = 254, 5  # TIFF tag; bits of a page that is a smaller copy or a mask of another

TRANSPARENT = ("LA", "PA", "RGBA", "La", "RGBa")

LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000"}

DARKEST = 4096  # a 16-bit grey picture without a value from here on holds 12 bits or fewer

PNG_TAGS = (b"eXIf", b"Raw profile type", b"adobe.xmp")  # where a PNG may keep an orientation


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as 8-bit RGB, the way up that viewers show it.

    EXIF rotation is applied. Grey, palette, CMYK and 16-bit grey pictures become RGB (16 bits are scaled to
    8); an alpha channel is dropped. Of several frames the first one counts.

    Args:
        path: File of any format Pillow reads.

    Returns:
        Pixels (h, w, 3), 0-255.

    Raises:
        ValueError: If the file is missing, broken, no picture, empty or suspiciously large.
    """
    with _opened(path, "picture") as picture:
        _check_picture(picture, path)
        _load(picture, path, "picture")
        return rgb_of(picture, path)


def rgb_of(picture: Image.Image, name: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """An opened picture as `read_image` gives it; made strip by strip, so that it is never held a third time.

    Args:
        picture: Of any mode.
        name: What it is called, for errors.

    Raises:
        ValueError: If it holds floating-point numbers or grey values that 8 bits cannot show.
    """
    if picture.mode == "F":
        raise ValueError(f"{name} holds floating-point numbers, not colours; save it with 8 bits a channel")
    upright = picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        return _from_sixteen_bits(upright, name)
    if upright.mode in ("P", "PA", "La", "RGBa"):
        upright = upright.convert("RGBA")
    pixels = np.empty((upright.height, upright.width, 3), np.uint8)
    for rows in strips(upright.height, upright.width):
        strip = upright.crop((0, rows.start, upright.width, rows.stop))
        pixels[rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows of a picture in strips of at most `STRIP` pixels (or one row).

    Example:
        >>> [(rows.start, rows.stop) for rows in strips(3, STRIP // 2)]
        [(0, 2), (2, 3)]
    """
    step = max(1, STRIP // max(width, 1))
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def mask_counts(mask: UInt8[np.ndarray, "h w"]) -> Int64[np.ndarray, "256"]:
    """How many pixels have each value.

    Example:
        >>> mask_counts(np.array([[0, 255, 255]], np.uint8))[[0, 1, 255]]
        array([1, 0, 2])
    """
    counts = np.zeros(256, np.int64)
    for rows in strips(*mask.shape):
        counts += np.bincount(mask[rows].ravel(), minlength=256)  # takes eight bytes a pixel
    return counts


def read_mask(path: str | Path) -> Integer[np.ndarray, "h w"]:
    """A mask as the number stored in each pixel: palette index, or grey value of 1 to 16 bits.

    Masks are taken as they lie in the file: grey of fewer than 8 bits is not scaled, white that is stored as 0 is 0,
    and a rotation tag is not applied (Pillow itself applies it to TIFF).

    Args:
        path: File with one channel, such as PNG.

    Returns:
        Numbers (h, w), as they stand in the file.

    Raises:
        ValueError: If the file is missing, broken, a colour picture, of several pages, or compressed with loss.
    """
    with _opened(path, "mask") as picture:
        _check_mask(picture, path)
        return _numbers(picture, path)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a picture in pixels, upright as `read_image` returns it, from the head of its file.

    Raises:
        ValueError: If the file is missing, broken or no picture.
    """
    with _opened(path, "picture") as picture:
        _check_picture(picture, path)
        if picture.format == "TIFF":  # when its size is turned depends on the version of Pillow
            _load(picture, path, "picture")
        width, height = picture.size
        # Pillow decodes a whole PNG to look for tags behind the pixels; most have none anywhere
        plain = picture.format == "PNG" and not _png_has_tags(path)
        turned = not plain and _orientation(picture) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def read_mask_colours(path: str | Path, palette: bool = False) -> Integer[np.ndarray, "h w *channels"]:
    """A mask whose classes may be colours: numbers (h, w) as `read_mask` gives them, or channels (h, w, 3 or 4), 0-255.

    Args:
        path: File of any format that keeps each pixel.
        palette: Whether the colours of a palette count, not their indices.

    Raises:
        ValueError: If the file is missing, broken, of several pages, or compressed with loss.
    """
    with _opened(path, "mask") as picture:
        _check_lossless(picture, path)
        if _one_channel(picture) and not (palette and picture.mode == "P"):
            return _numbers(picture, path)
        _load(picture, path, "mask")
        return np.array(
            picture.convert("RGBA" if picture.mode in TRANSPARENT or "transparency" in picture.info else "RGB")
        )


def mask_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a mask in pixels, as `read_mask` returns it, from the head of its file.

    What else the head gives away is told: a mask that `read_mask` would refuse for its format is refused here.

    Raises:
        ValueError: If the file is missing, broken, no picture, or no mask by its format.
    """
    with _opened(path, "mask") as picture:
        _check_mask(picture, path)
        return _stored_size(picture, path)


def colour_mask_size(path: str | Path) -> tuple[int, int]:
    """The same where a mask may have several channels.

    Raises:
        ValueError: If the file is missing, broken, no picture, of several pages, or compressed with loss.
    """
    with _opened(path, "mask") as picture:
        _check_lossless(picture, path)
        return _stored_size(picture, path)


def _stored_size(picture: Image.Image, path: str | Path) -> tuple[int, int]:
    if picture.format == "TIFF":  # when its size is turned depends on the version of Pillow
        _load(picture, path, "mask")
    return picture.height, picture.width


def _check_picture(picture: Image.Image, path: str | Path) -> None:
    """Refuse what the head of a file says is no single picture in colours."""
    _check_whole(picture, path, "picture")
    if picture.mode == "F":
        raise ValueError(f"{path} holds floating-point numbers, not colours; save it with 8 bits a channel")


def _check_mask(picture: Image.Image, path: str | Path) -> None:
    """Refuse what the head of a file says is no mask."""
    _check_lossless(picture, path)
    if not _one_channel(picture):
        raise ValueError(
            f"mask {path} is a colour picture (mode {picture.mode}), but one number a pixel is needed: "
            "replace each colour by its class index (255 for ignore), saved as grey or palette PNG"
        )


def _one_channel(picture: Image.Image) -> bool:
    return picture.mode in ("P", "L", "1") or picture.mode.startswith("I")


def _check_lossless(picture: Image.Image, path: str | Path) -> None:
    lossy = LOSSY.get(picture.format or "")
    if lossy is None and picture.format == "TIFF" and "jpeg" in str(picture.info.get("compression", "")):
        lossy = "TIFF compressed as JPEG"
    if lossy is not None:
        raise ValueError(f"mask {path} is a {lossy} file, which does not keep class indices; save it as PNG")
    _check_whole(picture, path, "mask")


def _check_whole(picture: Image.Image, path: str | Path, what: str) -> None:
    """Refuse a PNG that is cut off, and a TIFF of several pages; copies and masks of the first page may lie in it."""
    file = getattr(picture, "fp", None)
    if picture.format == "PNG" and file is not None and not _png_ends(file.fileno()):
        raise _broken(path, what, EOFError("its end is missing"))
    if picture.format != "TIFF":
        return
    try:
        pages = getattr(picture, "n_frames", 1)
        for page in range(1, pages):
            picture.seek(page)
            if not int(getattr(picture, "tag_v2", {}).get(PAGE_KIND, 0)) & PART_OF_A_PAGE:
                raise ValueError(
                    f"{what} {path} is a TIFF of {pages} pages, but one picture a file is expected; save each page "
                    "as a file of its own"
                )
        if pages > 1:
            picture.seek(0)
    except BROKEN as error:
        if "pages" in str(error):
            raise
        raise _broken(path, what, error) from error


def _numbers(picture: Image.Image, path: str | Path) -> Integer[np.ndarray, "h w"]:
    """The pixels of one channel as they stand in the file; Pillow stretches grey of few bits over 0 to 255."""
    tiles = getattr(picture, "tile", None)  # gone once the pixels are loaded
    tile = tiles[0] if tiles else None
    _load(picture, path, "mask")
    pixels = np.array(picture)
    pixels = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels.astype(pixels.dtype.newbyteorder("="))
    if tile is None:
        return pixels
    raw, *rest = (tile[3],) if isinstance(tile[3], str) else tile[3] or ("",)
    top = 1 if picture.mode == "1" else 65535 if picture.mode.startswith("I") else 255
    if rest and str(tile[0]).startswith("ppm"):
        return np.rint(pixels * (rest[0] / top)).astype(pixels.dtype)
    kind = re.fullmatch(r"[1L](?:;([24])?(I)?R?)?", str(raw))
    bits, inverted = kind.groups() if kind is not None else (None, None)
    pixels = top - pixels if inverted else pixels
    return pixels // (255 // (2 ** int(bits) - 1)) if bits else pixels


def _png_ends(file: int) -> bool:
    """Whether the last chunk of a PNG is there; what lies behind it does not count."""
    last = os.pread(file, 8, max(os.fstat(file).st_size - 12, 0))
    return last == b"\0\0\0\0IEND" or any(kind == b"IEND" for kind, _ in _png_chunks(file))


def _png_has_tags(path: str | Path) -> bool:
    """Whether a PNG may hold an orientation."""
    with open(path, "rb", buffering=0) as file:
        return any(tag in kind + said for kind, said in _png_chunks(file.fileno()) for tag in PNG_TAGS)


def _png_chunks(file: int) -> Iterator[tuple[bytes, bytes]]:
    """Name of each whole chunk of an opened PNG, and its content if it is a text; pixels are stepped over.

    It ends at the end or at what is no chunk: what follows may have gigabytes.
    """
    place, size = 8, os.fstat(file).st_size
    while place + 12 <= size:
        length, kind = struct.unpack(">I4s", os.pread(file, 8, place))
        if not kind.isalpha():
            return
        said = os.pread(file, length, place + 8) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
        place += length + 12  # length, kind and check sum
        if place <= size:
            yield kind, said
        if kind == b"IEND":
            return


@contextmanager
def _opened(path: str | Path, what: str) -> Iterator[Image.Image]:
    """The opened file; every way in which that fails becomes one sentence."""
    if not os.path.isfile(path):
        raise ValueError(f"{what} {path} is missing or not a file; check the path")
    try:
        with warnings.catch_warnings():
            # a warning from 89 megapixels; the error from twice as many stands
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=_formats())
    except Image.DecompressionBombError as error:
        raise ValueError(f"{what} {path} has too many pixels to be decoded safely; cut or shrink it") from error
    except PermissionError as error:
        raise ValueError(f"{what} {path} may not be read by this user; change its permissions") from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{what} {path} is no picture that can be read ({os.path.getsize(path)} bytes of an unknown or "
            "broken format); save it again as PNG or JPEG, or remove it"
        ) from error
    except BROKEN as error:
        raise _broken(path, what, error) from error
    with picture:
        if 0 in picture.size:
            raise ValueError(f"{what} {path} has no pixels ({picture.size[0]}x{picture.size[1]}); remove it")
        yield picture


def _load(picture: Image.Image, path: str | Path, what: str) -> None:
    try:
        picture.load()
    except BROKEN as error:
        raise _broken(path, what, error) from error


@cache
def _formats() -> list[str]:
    """What Pillow reads by itself; it hands PostScript to Ghostscript, which runs what stands in the file."""
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none, or where the tags themselves cannot be read."""
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except BROKEN:
        return 1


def _broken(path: str | Path, what: str, error: BaseException) -> ValueError:
    reason = str(error).strip().rstrip(".")
    return ValueError(f"{what} {path} is broken or cut off ({reason}); copy or download it again, or remove it")


def deep_grey_range(path: str | Path) -> tuple[int, int] | None:
    """The lowest and the highest value of a grey picture of more than 8 bits; None for any other.

    Raises:
        ValueError: If the file is missing, broken or no picture.
    """
    with _opened(path, "picture") as picture:
        if not picture.mode.startswith("I"):
            return None
        _load(picture, path, "picture")
        grey = np.array(picture)
        return int(grey.min()), int(grey.max())


def _from_sixteen_bits(picture: Image.Image, path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB from 16-bit grey, 65535 becoming 255: one stretch, whatever the picture."""
    grey = np.array(picture).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"{path} has grey values from {grey.min()} to {grey.max()}; save it with 8 or 16 bits a pixel")
    if 0 < grey.max() < DARKEST:
        raise ValueError(
            f"{path} has 16-bit grey values up to {grey.max()} of 65535, which would come out nearly black; multiply "
            "all pictures of the set by one number (`saot check` names it) and save them again"
        )
    return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
