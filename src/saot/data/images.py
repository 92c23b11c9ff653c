"""Reading pictures and masks from files, whatever way they are stored."""

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow's readers let all of these through for broken files of one format or another.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

ORIENTATION = 274  # EXIF tag; 1 is upright, 5 to 8 swap width and height

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
        upright = picture if _orientation(picture) == 1 else ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            return _from_sixteen_bits(upright, path)
        if upright.mode == "F":
            raise ValueError(f"{path} holds floating-point numbers, not colours; save it with 8 bits a channel")
        if upright.mode in ("P", "PA", "La", "RGBa"):
            upright = upright.convert("RGBA")
        return np.array(upright.convert("RGB"))


def read_mask(path: str | Path) -> Integer[np.ndarray, "h w"]:
    """A mask as the number stored in each pixel: palette index, 8-bit or 16-bit grey value.

    Masks are taken as they lie in the file; a rotation tag is not applied (Pillow itself applies it to TIFF).

    Args:
        path: File with one channel, such as PNG.

    Returns:
        Numbers (h, w), as they stand in the file.

    Raises:
        ValueError: If the file is missing, broken, a colour picture, or compressed with loss.
    """
    with _opened(path, "mask") as picture:
        if picture.format == "JPEG":
            raise ValueError(f"mask {path} is a JPEG file, which does not keep class indices; save it as PNG")
        if picture.mode not in ("P", "L", "1") and not picture.mode.startswith("I"):
            raise ValueError(
                f"mask {path} is a colour picture (mode {picture.mode}), but one number a pixel is needed: "
                "replace each colour by its class index (255 for ignore), saved as grey or palette PNG"
            )
        pixels = np.array(picture)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8)
    return pixels.astype(pixels.dtype.newbyteorder("="))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a picture in pixels, upright as `read_image` returns it, from the head of its file.

    Raises:
        ValueError: If the file is missing, broken or no picture.
    """
    with _opened(path, "picture", load=False) as picture:
        if picture.format == "TIFF":  # when its size is turned depends on the version of Pillow
            height, width, _ = read_image(path).shape
            return height, width
        width, height = picture.size
        # Pillow decodes a whole PNG to look for tags behind the pixels; most have none anywhere
        plain = picture.format == "PNG" and not _png_has_tags(path)
        turned = not plain and _orientation(picture) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def stored_size(path: str | Path) -> tuple[int, int]:
    """Height and width of a mask in pixels, as `read_mask` returns it, from the head of its file.

    Raises:
        ValueError: If the file is missing, broken or no picture.
    """
    with _opened(path, "mask", load=False) as picture:
        if picture.format != "TIFF":
            return picture.height, picture.width
    height, width = read_mask(path).shape  # when its size is turned depends on the version of Pillow
    return height, width


def _png_has_tags(path: str | Path) -> bool:
    """Whether a PNG may hold an orientation; the chunks of pixels are stepped over, not read."""
    with open(path, "rb", buffering=0) as file:
        place, size = 8, os.fstat(file.fileno()).st_size
        while place + 8 <= size:
            length, kind = struct.unpack(">I4s", os.pread(file.fileno(), 8, place))
            said = os.pread(file.fileno(), length, place + 8) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
            if any(tag in kind + said for tag in PNG_TAGS):
                return True
            place += length + 12  # length, kind and check sum
    return False


@contextmanager
def _opened(path: str | Path, what: str, load: bool = True) -> Iterator[Image.Image]:
    """The opened (and decoded) file; every way in which that fails becomes one sentence."""
    if not os.path.isfile(path):
        raise ValueError(f"{what} {path} is missing or not a file; check the path")
    try:
        with warnings.catch_warnings():
            # a warning from 89 megapixels; the error from twice as many stands
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
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
        if load:
            try:
                picture.load()
            except BROKEN as error:
                raise _broken(path, what, error) from error
        yield picture


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none, or where the tags themselves cannot be read."""
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except BROKEN:
        return 1


def _broken(path: str | Path, what: str, error: BaseException) -> ValueError:
    reason = str(error).strip().rstrip(".")
    return ValueError(f"{what} {path} is broken or cut off ({reason}); copy or download it again, or remove it")


def _from_sixteen_bits(picture: Image.Image, path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB from 16-bit grey, 65535 becoming 255."""
    grey = np.array(picture).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(f"{path} has grey values from {grey.min()} to {grey.max()}; save it with 8 or 16 bits a pixel")
    return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
