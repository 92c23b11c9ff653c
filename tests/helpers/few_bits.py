"""Files that Pillow does not write: grey of fewer than 8 bits a pixel, and the parts of a PNG."""

import struct
import zlib

import numpy as np


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_head(width, height, bits=8, color=0):
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head)


def few_bits(path, values, bits, photometric=1):
    """A grey PNG, or TIFF (photometric 0: white is 0), of fewer than 8 bits a pixel."""
    packed = np.packbits((values[..., None] >> np.arange(bits)[::-1] & 1).reshape(len(values), -1).astype(np.uint8), 1)
    height, width = values.shape
    if path.suffix == ".png":
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
        path.write_bytes(png_head(width, height, bits) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b""))
        return path
    data = packed.tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(head + data + struct.pack("<H", len(tags)) + fields + bytes(4))
    return path
