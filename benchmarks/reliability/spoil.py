"""Ways to spoil a file: each takes its path and a generator, and says in a phrase what it did.

`breaks` says that no reader may take the result for sound; without it a reader may refuse the file or use it.
"""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Do = Callable[[Path, random.Random, Path], str]  # the file, the draw, the canary: a file that must not come to be


@dataclass(frozen=True)
class Spoil:
    """One way to spoil a file.

    Attributes:
        name: As the list of mutations calls it.
        do: Does it and says what, such as "bit 17 of byte 4".
        breaks: Whether the result is certainly no file of its kind.
    """

    name: str
    do: Do
    breaks: bool = False


# Any file


def _flip(path: Path, draw: random.Random, _: Path) -> str:
    data = bytearray(path.read_bytes())
    places = [draw.randrange(len(data)) for _ in range(draw.choice((1, 1, 8, 64)))] if data else []
    for place in places:
        data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return f"bits of {len(places)} bytes, the first {places[0] if places else None} of {len(data)}"


def _flip_head(path: Path, draw: random.Random, _: Path) -> str:
    data = bytearray(path.read_bytes())
    places = sorted({draw.randrange(min(len(data), 64)) for _ in range(draw.choice((1, 2, 6)))}) if data else []
    for place in places:
        data[place] = draw.randrange(256)
    path.write_bytes(data)
    return f"bytes {places}"


def _cut(path: Path, draw: random.Random, _: Path) -> str:
    size = path.stat().st_size
    left = draw.randrange(max(size, 1))
    os.truncate(path, left)
    return f"{left} of {size} bytes left"


def _empty(path: Path, _: random.Random, __: Path) -> str:
    os.truncate(path, 0)
    return "no byte left"


def _more(path: Path, draw: random.Random, _: Path) -> str:
    count = draw.choice((1, 7, 1000))
    with path.open("ab") as file:
        file.write(draw.randbytes(count))
    return f"{count} bytes more at the end"


def _hole(path: Path, draw: random.Random, _: Path) -> str:
    data = bytearray(path.read_bytes())
    start = draw.randrange(max(len(data), 1))
    count = min(draw.choice((4, 64, 4096)), len(data) - start)
    data[start : start + count] = bytes(count)
    path.write_bytes(data)
    return f"{count} zeros at {start}"


def _lost(path: Path, draw: random.Random, _: Path) -> str:
    data = path.read_bytes()
    start = draw.randrange(max(len(data), 1))
    count = draw.choice((1, 5, 300))
    path.write_bytes(data[:start] + data[start + count :])
    return f"{count} bytes lost at {start}"


def _twice(path: Path, draw: random.Random, _: Path) -> str:
    data = path.read_bytes()
    start = draw.randrange(max(len(data), 1))
    count = draw.choice((2, 50, 900))
    path.write_bytes(data[: start + count] + data[start:])
    return f"{count} bytes at {start} twice"


def _noise(path: Path, draw: random.Random, _: Path) -> str:
    count = draw.choice((3, 100, 5000))
    path.write_bytes(draw.randbytes(count))
    return f"{count} random bytes"


def _missing(path: Path, _: random.Random, __: Path) -> str:
    path.unlink()
    return "removed"


def _folder(path: Path, _: random.Random, __: Path) -> str:
    path.unlink()
    path.mkdir()
    return "a folder of its name"


def _pipe(path: Path, _: random.Random, __: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return "a named pipe, which nobody writes to"


def _loop(path: Path, _: random.Random, __: Path) -> str:
    path.unlink()
    path.symlink_to(path.name)
    return "a link to itself"


def _dangling(path: Path, _: random.Random, __: Path) -> str:
    path.unlink()
    path.symlink_to("nothing-here")
    return "a link to nothing"


def _endless(path: Path, _: random.Random, __: Path) -> str:
    path.unlink()
    path.symlink_to("/dev/zero")
    return "a link to /dev/zero, which never ends"


def _sparse(path: Path, _: random.Random, __: Path) -> str:
    size = 2300 << 20  # more than may be resident, less than may be mapped
    os.truncate(path, size)
    return f"{size} bytes, all but the first a hole"


def _other(path: Path, draw: random.Random, _: Path) -> str:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("a", "b")
    kinds = {
        "a text": b"hello\n" * 9,
        "a zip": zipped.getvalue(),
        "HTML, as a failed download leaves": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n",
        "JSON": b'{"a": [1, 2]}',
        "a GIF": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    }
    name = draw.choice(sorted(kinds))
    path.write_bytes(kinds[name])
    return f"{name} in its place"


WRONG_PLACE = (
    Spoil("missing", _missing),
    Spoil("a folder in its place", _folder),
    Spoil("a pipe in its place", _pipe, breaks=True),
    Spoil("a link to itself", _loop, breaks=True),
    Spoil("a link to nothing", _dangling, breaks=True),
    Spoil("an endless file", _endless, breaks=True),
)
BYTES = (
    Spoil("bits flipped", _flip),
    Spoil("head changed", _flip_head),
    Spoil("cut short", _cut),
    Spoil("empty", _empty),
    Spoil("bytes more", _more),
    Spoil("zeros", _hole),
    Spoil("bytes lost", _lost),
    Spoil("bytes twice", _twice),
    Spoil("noise", _noise),
    Spoil("another kind of file", _other),
    Spoil("2.3 GB, sparse", _sparse),
)


# Text


def _text(change: Callable[[str, random.Random], tuple[str | bytes, str]]) -> Do:
    def do(path: Path, draw: random.Random, _: Path) -> str:
        text, said = change(path.read_bytes().decode("utf-8", "replace"), draw)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return said

    return do


def _some_line(text: str, draw: random.Random, line: str, said: str) -> tuple[str, str]:
    lines = text.splitlines()
    place = draw.randrange(len(lines) + 1)
    return "\n".join([*lines[:place], line, *lines[place:]]) + "\n", f"{said} as line {place + 1}"


def _cell(text: str, draw: random.Random) -> tuple[str, str]:
    words = ("", "nan", "inf", "-1", "1e400", "9" * 5000, "0x1F", "1_0", "٣", "../../etc/passwd", "/etc/passwd", "a\0b")
    words += ("=1+1", '"', "'", "1,5", " ", "{{7*7}}", "%s%n", "-0", "1e-400", "255", "\u202e", "0" * 100_000)
    lines = text.splitlines() or [""]
    row = draw.randrange(len(lines))
    cells = lines[row].split(",")
    column, word = draw.randrange(len(cells)), draw.choice(words)
    cells[column] = word
    lines[row] = ",".join(cells)
    return "\n".join(lines) + "\n", f"cell {column + 1} of line {row + 1} is {word[:20]!r}"


TEXT = (
    Spoil("line ends of Windows", _text(lambda t, _: (t.replace("\n", "\r\n"), "CR LF"))),
    Spoil("line ends of old Macs", _text(lambda t, _: (t.replace("\n", "\r"), "CR alone"))),
    Spoil("a byte order mark", _text(lambda t, _: (b"\xef\xbb\xbf" + t.encode(), "UTF-8 with a mark"))),
    Spoil("UTF-16", _text(lambda t, _: (t.encode("utf-16"), "UTF-16")), breaks=True),
    Spoil("Latin-1", _text(lambda t, d: (_some_line(t, d, "straße", "")[0].encode("latin-1"), "a Latin-1 line"))),
    Spoil("NUL bytes", _text(lambda t, d: _some_line(t, d, "a\0b", "a NUL"))),
    Spoil("a surrogate", _text(lambda t, d: _some_line(t, d, "\ud800", "half a character"))),
    Spoil("a line of 3 MB", _text(lambda t, d: _some_line(t, d, "x" * 3_000_000, "3 MB"))),
    Spoil("an empty line", _text(lambda t, d: _some_line(t, d, "", "nothing"))),
    Spoil("a line twice", _text(lambda t, d: _some_line(t, d, d.choice(t.splitlines() or [""]), "another line"))),
    Spoil("another line", _text(lambda t, d: _some_line(t, d, d.choice(("a b c d", "#", "../x.png", "/etc/passwd",
        ",,,",
          "nothing.png", '"', "a,b,c,d", "..", "x" * 300)), "a strange one"))),
    Spoil("no last line end", _text(lambda t, _: (t.rstrip("\n"), "none"))),
    Spoil("a line gone", _text(lambda t, d: ("\n".join((ls := t.splitlines())[: (p := d.randrange(max(len(ls), 1)))]
          + ls[p + 1 :]), f"line {p + 1}"))),
    Spoil("200,000 lines", _text(lambda t, _: (t + "".join(f"line {n}\n" for n in range(200_000)), "many more"))),
    Spoil("a strange cell", _text(_cell)),
)  # fmt: skip


# JSON: a file, or what a safetensors file says of itself

VALUES: Sequence[Any] = (
    None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), "", "x", "../../x", [], [[]], {}, [1, "a", None],
    {"a": {"b": 1}}, "9" * 5000, 2**31, 2**63, ["a"] * 3, "\ud800",
)  # fmt: skip
DEEP = "[" * 200_000


def _places(value: Any, before: tuple = ()) -> list[tuple]:
    """The way to every value within a value."""
    found = [before] if before else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        found += _places(one, (*before, key))
    return found


def changed(value: Any, draw: random.Random) -> tuple[Any, str]:
    """A JSON value with one of the values in it changed or removed, and what was done."""
    places = _places(value)
    if not places or draw.random() < 0.1:
        other = draw.choice(VALUES)
        return other, f"the whole is {other!r:.30}"
    value = json.loads(json.dumps(value))
    # settings have hundreds of values: choose the depth first, then the place
    depth = draw.choice(sorted({len(place) for place in places}))
    *way, last = draw.choice([place for place in places if len(place) == depth])
    inside = value
    for key in way:
        inside = inside[key]
    name = ".".join(map(str, (*way, last)))
    if draw.random() < 0.3:
        del inside[last]
        return value, f"without {name}"
    inside[last] = draw.choice(VALUES)
    return value, f"{name} is {inside[last]!r:.30}"


def _json(path: Path, draw: random.Random, _: Path) -> str:
    value, said = changed(json.loads(path.read_text()), draw)
    path.write_text(json.dumps(value))
    return said


def _deep(path: Path, _: random.Random, __: Path) -> str:
    path.write_text('{"a": ' + DEEP)
    return "200,000 lists in each other"


JSON = (
    Spoil("another value", _json),
    Spoil("another value (2)", _json),
    Spoil("deep lists", _deep, breaks=True),
    Spoil("no UTF-8", lambda p, d, _: (p.write_bytes(b'{"a": "\xff\xfe"}'), "a stray byte")[1], breaks=True),
    Spoil("a list", lambda p, d, _: (p.write_text("[1]"), "[1]")[1], breaks=True),
    Spoil("null", lambda p, d, _: (p.write_text("null"), "null")[1], breaks=True),
)


def _head(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _write_head(path: Path, head: Any, payload: bytes) -> None:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)


def _tensor_head(path: Path, draw: random.Random, _: Path) -> str:
    head, payload = _head(path)
    head, said = changed(head, draw)
    _write_head(path, head, payload)
    return said


def _said_of_itself(path: Path, draw: random.Random, _: Path) -> str:
    head, payload = _head(path)
    about = json.loads(head.get("__metadata__", {}).get("saot", "{}"))
    about, said = changed(about, draw)
    head["__metadata__"] = {"saot": json.dumps(about)}
    _write_head(path, head, payload)
    return said


def _tensors(path: Path, draw: random.Random, _: Path) -> str:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors, said = changed_tensors(tensors, draw)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return said


def changed_tensors(tensors: dict[str, Any], draw: random.Random) -> tuple[dict[str, Any], str]:
    """Tensors by name, one of them changed, removed or added; and what was done."""
    import torch

    names = sorted(name for name, value in tensors.items() if value.ndim)
    name = draw.choice(names) if names else ""
    ways = ["more"] if not names else ["gone", "more", "shape", "empty", "flat", "whole", "half", "nan", "inf", "huge"]
    way = draw.choice(ways)
    tensors = dict(tensors)
    if way == "gone":
        del tensors[name]
    elif way == "more":
        tensors["stranger.weight"] = torch.zeros(2, 3)
    else:
        old = tensors[name]
        tensors[name] = {
            "shape": lambda: torch.cat([old, old[:1]]),
            "empty": lambda: old[:0],
            "flat": lambda: old.reshape(-1),
            "whole": lambda: torch.ones(old.shape, dtype=torch.int64),
            "half": lambda: old.to(torch.float32 if old.dtype == torch.float16 else torch.float16),
            "nan": lambda: torch.full(old.shape, float("nan")),
            "inf": lambda: torch.full(old.shape, float("inf")),
            "huge": lambda: torch.full(old.shape, 1e30),
        }[way]()
    return tensors, f"{way}: {name}"


def _huge_head(path: Path, draw: random.Random, _: Path) -> str:
    data = path.read_bytes()
    length = draw.choice((2**63, 2**40, 10**9, len(data), 99_999_999))
    path.write_bytes(struct.pack("<Q", length) + data[8:])
    return f"a header of {length} bytes"


def _head_only(text: bytes) -> Do:
    return lambda path, draw, canary: (_write_head(path, text, b""), repr(text[:60]))[1]


HUGE_TENSOR = b'{"a": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 8]}}'
SAFETENSORS = (
    Spoil("another word in the header", _tensor_head),
    Spoil("another word about itself", _said_of_itself),
    Spoil("another word about itself (2)", _said_of_itself),
    Spoil("other tensors", _tensors),
    Spoil("other tensors (2)", _tensors),
    Spoil("a header too long", _huge_head),
    Spoil("deep lists", _head_only(b'{"a": ' + DEEP.encode()), breaks=True),
    Spoil("a tensor of 4 EB", _head_only(HUGE_TENSOR), breaks=True),
    Spoil("no tensor", _head_only(b"{}")),
)  # fmt: skip


# Files of torch


class _Canary:
    """Runs a command where somebody unpickles it."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def _pickled(path: Path, draw: random.Random, canary: Path) -> str:
    import torch

    way = draw.choice(("pickle", "torch", "torch, in a tensor's place", "old torch"))
    if way == "pickle":
        path.write_bytes(pickle.dumps(_Canary(canary)))
    elif way == "torch":
        torch.save(_Canary(canary), path)
    elif way == "old torch":
        torch.save({"a": _Canary(canary)}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"image_encoder.neck.0.weight": torch.zeros(2), "b": _Canary(canary)}, path)
    return f"code, by {way}"


def _torch(path: Path, draw: random.Random, _: Path) -> str:
    import torch

    state = torch.load(path, weights_only=True)
    if draw.random() < 0.3 or not isinstance(state, dict):
        others = {"a tensor": torch.zeros(3), "a list": [1], "None": None, "a number": 3, "a dict in a dict": {"a": {}}}
        name = draw.choice(sorted(others))
        torch.save(others[name], path)
        return name
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if tensors:
        found, said = changed_tensors(tensors, draw)
        rest = {name: value for name, value in state.items() if name not in tensors}
        torch.save({**rest, **found}, path)
        return said
    name = draw.choice(sorted(state))
    state[name] = draw.choice((None, 3, [], {}, {"a": torch.zeros(2)}, "x"))
    torch.save(state, path)
    return f"{name} is {state[name]!r:.30}"


def _zipped(path: Path, draw: random.Random, _: Path) -> str:
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = draw.choice(sorted(members))
    way = draw.choice(("gone", "cut", "noise"))
    if way == "gone":
        del members[name]
    else:
        members[name] = members[name][: len(members[name]) // 2] if way == "cut" else draw.randbytes(len(members[name]))
    with zipfile.ZipFile(path, "w") as file:
        for one, data in members.items():
            file.writestr(one, data)
    return f"{name} {way}"


def _bomb(path: Path, _: random.Random, __: Path) -> str:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open("archive/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(3000):
            member.write(bytes(1 << 20))
    return "3 GB of zeros in 3 MB"


TORCH = (
    Spoil("code in a pickle", _pickled, breaks=True),
    Spoil("code in a pickle (2)", _pickled, breaks=True),
    Spoil("other tensors", _torch),
    Spoil("other tensors (2)", _torch),
    Spoil("another member", _zipped),
    Spoil("another member (2)", _zipped),
    Spoil("a zip bomb", _bomb, breaks=True),
)


def _npz_code(path: Path, _: random.Random, canary: Path) -> str:
    import numpy as np

    np.savez(path.open("wb"), features=np.array([_Canary(canary)], object))
    return "an array of objects that run code"


def _npz(path: Path, draw: random.Random, _: Path) -> str:
    import numpy as np

    with np.load(path) as file:
        old = file["features"]
    others = {
        "flat": old.reshape(-1), "none": old[:0], "nan": old * np.nan, "words": old.astype(str), "complex": old * 1j,
        "another name": old, "huge": old * 1e30, "numbers": np.float32(3), "whole": old.astype(int),
    }  # fmt: skip
    name = draw.choice(sorted(others))
    np.savez(path.open("wb"), **{"other" if name == "another name" else "features": others[name]})
    return name


def _npz_huge(path: Path, draw: random.Random, _: Path) -> str:
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 3), }"
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("features.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64))
    return "2.4 TB by its header"


NPZ = (
    Spoil("code in a pickle", _npz_code, breaks=True),
    Spoil("another array", _npz),
    Spoil("another array (2)", _npz),
    Spoil("a header that promises 2.4 TB", _npz_huge, breaks=True),
)
