"""Ways to spoil a picture."""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spoil import Do, Spoil


def _saved(make: Callable[[Any, random.Random], tuple[Any, dict[str, Any]]], said: str) -> Do:
    def do(path: Path, draw: random.Random, _: Path) -> str:
        from PIL import Image

        with Image.open(path) as file:
            picture, options = make(file.convert("RGB"), draw)
        options.setdefault("format", "PNG")
        picture.save(path, **options)
        return said

    return do


def _mode(mode: str, file: str = "PNG") -> Spoil:
    return Spoil(f"{mode} as {file}", _saved(lambda p, _: (p.convert(mode), {"format": file}), mode))


def _turned(picture: Any, draw: random.Random) -> tuple[Any, dict[str, Any]]:
    from PIL import Image

    tags = Image.Exif()
    tags[274] = draw.choice((0, 2, 5, 6, 8, 9, 65535))
    return picture, {"exif": tags, "format": draw.choice(("PNG", "JPEG", "TIFF", "WEBP"))}


def _png_claims(width: int, height: int, colour: int = 2, depth: int = 8) -> Do:
    def do(path: Path, draw: random.Random, _: Path) -> str:
        import zlib

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
        pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b""))
        return f"a PNG that claims {width}x{height} and has 1,000 bytes"

    return do


def _png_text(path: Path, draw: random.Random, _: Path) -> str:
    import zlib

    data = path.read_bytes()
    kind = draw.choice((b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"iCCP"))
    packed = zlib.compress(bytes(200 << 20), 9)
    body = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}.get(kind, b"a\0") + packed
    length = draw.choice((len(body), 2**31 - 1))
    chunk = struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data[:33] + chunk + data[33:])
    return f"a chunk {kind.decode()} of {length} bytes that unpacks to 200 MB"


def _postscript(path: Path, draw: random.Random, canary: Path) -> str:
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n"
        + f"(%pipe%touch {canary}) (w) file closefile\n".encode()
        + b"showpage\n%%EOF\n"
    )
    return "PostScript, which Ghostscript would run"


def _frames(picture: Any, draw: random.Random) -> tuple[Any, dict[str, Any]]:
    others = [picture.rotate(90, expand=True), picture.convert("L")]
    return picture, {"format": draw.choice(("TIFF", "GIF", "WEBP")), "save_all": True, "append_images": others}


def _one_pixel(picture: Any, draw: random.Random) -> tuple[Any, dict[str, Any]]:
    return picture.resize(draw.choice(((1, 1), (1, 3000), (3000, 1), (2, 2)))), {}


def _sixteen(picture: Any, draw: random.Random) -> tuple[Any, dict[str, Any]]:
    import numpy as np
    from PIL import Image

    kind = draw.choice((np.uint16, np.int32, np.float32))
    pixels = np.asarray(picture.convert("L")).astype(kind) * draw.choice(
        (1, 250, -3) if kind != np.uint16 else (1, 250)
    )
    return Image.fromarray(pixels.astype(kind)), {"format": "TIFF"}


PICTURE = (
    _mode("1"), _mode("L"), _mode("LA"), _mode("P"), _mode("RGBA"), _mode("CMYK", "TIFF"), _mode("YCbCr", "JPEG"),
    _mode("LAB", "TIFF"), _mode("RGB", "BMP"), _mode("RGB", "PPM"), _mode("P", "GIF"), _mode("RGB", "ICO"),
    _mode("RGB", "PCX"), _mode("RGB", "TGA"), _mode("RGB", "SGI"), _mode("RGB", "PDF"), _mode("RGB", "EPS"),
    Spoil("16 and 32 bits", _saved(_sixteen, "a grey TIFF")),
    Spoil("turned by a tag", _saved(_turned, "an orientation")),
    Spoil("several frames", _saved(_frames, "three")),
    Spoil("one pixel or one line", _saved(_one_pixel, "smaller than a patch")),
    Spoil("claims 60,000 x 60,000", _png_claims(60_000, 60_000), breaks=True),
    Spoil("claims 13,000 x 13,000", _png_claims(13_000, 13_000), breaks=True),
    Spoil("claims no pixel", _png_claims(0, 7), breaks=True),
    Spoil("claims a colour of its own", _png_claims(9, 9, 5, 3), breaks=True),
    Spoil("a text of 200 MB", _png_text),
    Spoil("PostScript", _postscript, breaks=True),
)  # fmt: skip
