"""Masks of one class as runs, as annotation tools write them: COCO's, CVAT's and Label Studio's.

Each tool counts in its own order. COCO goes down the columns of the whole picture, CVAT along the rows of a box, both
beginning with background. Label Studio packs whole pixels of four channels into a stream of bits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from saot.data import IGNORE_INDEX, mask_counts

MOST_PIXELS = 1 << 30  # of a mask that is read
SIZES = (3, 4, 8, 16)  # bits of Label Studio's run lengths
WORD = 8  # bits of its values


def run_lengths(values: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " r"]:
    """Lengths of the runs of equal values, background first: the first is 0 where the first value is set.

    Example:
        >>> run_lengths(np.array([True, True, False])).tolist(), run_lengths(np.array([False, True])).tolist()
        ([0, 2, 1], [1, 1])
    """
    if len(values) == 0:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(values[1:] != values[:-1]) + 1
    lengths = np.diff(ends, prepend=0, append=len(values))
    return np.concatenate([np.zeros(int(values[0]), np.int64), lengths])


def values_of_runs(lengths: Sequence[Any] | Int64[np.ndarray, " r"], total: int, what: str) -> Bool[np.ndarray, " n"]:
    """The reverse, checked before anything is made.

    Args:
        lengths: Of the runs, background first.
        total: How many values they must have together.
        what: Names the mask in errors.

    Raises:
        ValueError: If a length is negative, or they have another sum.
    """
    if total > MOST_PIXELS:
        raise ValueError(f"expected at most {MOST_PIXELS:,} pixels of {what}; got {total:,}: check its size")
    try:
        runs = np.asarray(lengths, dtype=np.int64)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"expected run lengths of {what} as whole numbers; got others: {error}") from error
    if (len(runs) and (int(runs.min()) < 0 or int(runs.max()) > total)) or int(runs.sum()) != total:
        raise ValueError(
            f"expected run lengths of {what} that add up to its {total:,} pixels; they add up to "
            f"{int(runs.astype(object).sum()):,}: the file is cut off, or of another size"
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


@dataclass(frozen=True)
class ColumnRuns:
    """Where a class stands in a picture, column by column.

    Attributes:
        size: Height and width of the picture.
        starts, ends: First pixel of each run, counted down the columns, and the one past its last.
    """

    size: tuple[int, int]
    starts: Int64[np.ndarray, " r"]
    ends: Int64[np.ndarray, " r"]

    @property
    def area(self) -> int:
        """Pixels."""
        return int((self.ends - self.starts).sum())

    @property
    def lengths(self) -> Int64[np.ndarray, " n"]:
        """Of the runs over the whole picture, background first; nothing past the last pixel."""
        total = self.size[0] * self.size[1]
        lengths = np.diff(np.stack([self.starts, self.ends], 1).ravel(), prepend=0, append=total)
        return lengths if lengths[-1] else lengths[:-1]

    @property
    def box(self) -> "Box":
        """The smallest box around them."""
        height = self.size[0]
        left, right = self.starts // height, (self.ends - 1) // height
        top, bottom = self.starts - left * height, self.ends - 1 - right * height
        inside = left == right
        return Box(
            int(left[0]),
            int(top.min()) if inside.all() else 0,
            int(right[-1]),
            int(bottom.max()) if inside.all() else height - 1,
        )


def column_runs(mask: UInt8[np.ndarray, "h w"]) -> dict[int, ColumnRuns]:
    """The runs of each class that a mask shows, found in one pass for all; 255 is none.

    Example:
        >>> {label: one.lengths.tolist() for label, one in column_runs(np.array([[2, 255], [7, 2]], np.uint8)).items()}
        {2: [0, 1, 2, 1], 7: [1, 1, 2]}
    """
    values = mask.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    ends, labels = np.append(starts[1:], len(values)), values[starts]
    of = {label: labels == label for label in np.unique(labels).tolist() if label != IGNORE_INDEX}
    return {label: ColumnRuns(mask.shape, starts[mine], ends[mine]) for label, mine in of.items()}


def coco_counts(mask: Bool[np.ndarray, "h w"]) -> str:
    """COCO's compressed run lengths of a mask, column by column over the whole picture."""
    return compressed(run_lengths(mask.ravel(order="F")))


def compressed(lengths: Int64[np.ndarray, " r"]) -> str:
    """Run lengths as COCO writes them.

    From the third run on a length is written as the difference to the one two before; of each number five bits a
    character, the lowest first, a sixth for "more follows".

    Example:
        >>> compressed(np.array([0, 1, 2, 1]))
        '0120'
    """
    numbers = lengths.copy()
    numbers[3:] -= lengths[1:-2]
    return _characters(numbers)


def _characters(numbers: Int64[np.ndarray, " r"]) -> str:
    rest, alive, found = numbers.copy(), np.ones(len(numbers), bool), []
    while alive.any():
        low = rest & 31
        rest = rest >> 5
        more = np.where(low & 16, rest != -1, rest != 0) & alive
        found.append(np.where(alive, (low | (more << 5)) + 48, 0))
        alive = more
    if not found:
        return ""
    table = np.stack(found, axis=1).astype(np.uint8)
    return table[table > 0].tobytes().decode("ascii")


def mask_of_coco(size: Sequence[Any], counts: str | bytes | Sequence[Any], what: str) -> Bool[np.ndarray, "h w"]:
    """A mask from COCO's run lengths, compressed or not; those that do not fill their picture are refused.

    Args:
        size: Height and width.
        counts: Characters, or numbers.
        what: Names the mask in errors.

    Raises:
        ValueError: If they are not run lengths of such a picture.
    """
    height, width = checked_size(size, what)
    packed = counts.encode() if isinstance(counts, str) else counts
    values = values_of_runs(_numbers(packed, what) if isinstance(packed, bytes) else packed, height * width, what)
    return np.ascontiguousarray(values.reshape(width, height).T)


def _numbers(text: bytes, what: str) -> Int64[np.ndarray, " r"]:
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if len(codes) and (int(codes.min()) < 0 or int(codes.max()) > 63):
        raise ValueError(f"expected COCO's compressed run lengths of {what}; got other characters: check the file")
    last = (codes & 32) == 0
    if len(codes) and not last[-1]:
        raise ValueError(f"expected whole run lengths of {what}; the last one is cut off: check the file")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]])) if len(codes) else np.zeros(0, np.int64)
    number = np.cumsum(np.concatenate([[0], last[:-1].astype(np.int64)])) if len(codes) else np.zeros(0, np.int64)
    place = np.arange(len(codes)) - starts[number] if len(codes) else number
    if len(place) and int(place.max()) > 6:  # 7 characters hold 35 bits
        raise ValueError(f"expected run lengths of {what} below {1 << 34:,}; got a larger one: check the file")
    numbers = np.zeros(len(starts), np.int64)
    np.add.at(numbers, number, (codes & 31) << (5 * place))
    if len(codes):
        length = place[last] + 1
        negative = (codes[last] & 16) != 0
        numbers[negative] -= np.int64(1) << (5 * length[negative])
    for first in (1, 2):  # a difference to the one two before
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


@dataclass(frozen=True)
class Box:
    """The smallest box around what a mask shows; right and bottom belong to it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top + 1, self.right - self.left + 1


def box_of(mask: Bool[np.ndarray, "h w"]) -> Box | None:
    """The smallest box around a mask; None where it is empty.

    Example:
        >>> box_of(np.array([[False, True], [False, True]]))
        Box(left=1, top=0, right=1, bottom=1)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))


def runs_in_box(mask: Bool[np.ndarray, "h w"]) -> tuple[Box, list[int]]:
    """CVAT's form of a mask that shows something: its box, and the run lengths in there, background first.

    Example:
        >>> runs_in_box(np.array([[False, False], [False, True], [True, True]]))
        (Box(left=0, top=1, right=1, bottom=2), [1, 3])
    """
    box = box_of(mask)
    assert box is not None, "a class that is shown has pixels"
    return box, run_lengths(mask[box.top : box.bottom + 1, box.left : box.right + 1].ravel()).tolist()


def brush_rle(mask: Bool[np.ndarray, "h w"]) -> bytes:
    """Label Studio's brush: a stream of bits for the RGBA pixels of a mask, row by row; 255 is set, 0 is not.

    32 bits say how many values there are, 5 bits how many bits a value has (less one), four times 4 bits how many bits
    a length may have (less one). Then for each run: a set bit, two bits for which of those sizes, the length less
    one, the value. All four channels of a pixel are equal, so every part is a run.
    """
    runs, total = run_lengths(mask.ravel()), 4 * mask.size
    value = (np.arange(len(runs)) % 2 * 255).astype(np.int64)
    lengths, value = 4 * runs[runs > 0], value[runs > 0]
    longest = 1 << SIZES[-1]
    pieces = -(-lengths // longest)
    value = np.repeat(value, pieces)
    last = np.cumsum(pieces) - 1
    length = np.full(int(pieces.sum()), longest, np.int64)
    length[last] = lengths - (pieces - 1) * longest
    which = np.searchsorted([1 << bits for bits in SIZES], length)
    bits = np.array(SIZES)[which]
    word = ((4 | which) << (bits + WORD)) | ((length - 1) << WORD) | value
    head = [(total, 32), (WORD - 1, 5), *((size - 1, 4) for size in SIZES)]
    words = np.concatenate([np.array([word for word, _ in head], np.int64), word])
    widths = np.concatenate([np.array([width for _, width in head], np.int64), 3 + bits + WORD])
    return _packed(words, widths)


def _packed(words: Int64[np.ndarray, " n"], widths: Int64[np.ndarray, " n"]) -> bytes:
    """The lowest `width` bits of each word, one after the other, highest first; the last byte is filled with zeros."""
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]), np.uint8)
    for place in range(int(widths.max())):  # from the lowest bit up
        mine = widths > place
        bits[ends[mine] - 1 - place] = (words[mine] >> place) & 1
    return np.packbits(bits).tobytes()


def mask_of_brush(rle: Iterable[Any] | bytes, size: Sequence[Any], what: str) -> Bool[np.ndarray, "h w"]:
    """A mask from Label Studio's brush; a pixel is set where its alpha is above 127.

    Args:
        rle: Bytes, or numbers from 0 to 255.
        size: Height and width of the picture as it was labelled (`original_height`, `original_width`).
        what: Names the mask in errors.

    Raises:
        ValueError: If it is cut off, or of another size.
    """
    height, width = checked_size(size, what)
    try:
        stream = bytes(rle)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected the brush of {what} as numbers from 0 to 255; got others: {error}") from error
    bits = _Bits(stream, what)
    total, word = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    if total != 4 * height * width:
        raise ValueError(
            f"expected a brush of {what} with {4 * height * width:,} values, 4 for each of its {height} x {width} "
            f"pixels; it has {total:,}: it is of a picture of another size"
        )
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        run, length = bits.read(1), bits.read(sizes[bits.read(2)]) + 1
        if done + length > total:
            raise ValueError(f"expected a brush of {what} that ends with its picture; it goes on: check the file")
        if run:
            values[done : done + length] = _byte(bits.read(word), word)
        else:
            values[done : done + length] = [_byte(bits.read(word), word) for _ in range(length)]
        done += length
    return values[3::4].reshape(height, width) > 127


def _byte(value: int, word: int) -> int:
    return value if word == WORD else min(value, 255) if word > WORD else value << (WORD - word)


class _Bits:
    """A stream of bits, highest first."""

    def __init__(self, stream: bytes, what: str) -> None:
        self.stream, self.what, self.place = stream, what, 0

    def read(self, count: int) -> int:
        first, past = self.place >> 3, (self.place + count + 7) >> 3
        if past > len(self.stream):
            raise ValueError(f"expected the whole brush of {self.what}; it is cut off: check the file")
        found = int.from_bytes(self.stream[first:past], "big") >> (8 * past - self.place - count)
        self.place += count
        return found & ((1 << count) - 1)


def checked_size(size: Sequence[Any], what: str) -> tuple[int, int]:
    """Height and width, as whole numbers of a size that can be made.

    Raises:
        ValueError: If they are none.
    """
    if len(size) != 2 or any(isinstance(one, bool) or not isinstance(one, int) or one < 1 for one in size):
        raise ValueError(f"expected height and width of {what} as whole numbers above 0; got {list(size)!r}")
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"expected at most {MOST_PIXELS:,} pixels of {what}; got {size[0]} x {size[1]}: check its size"
        )
    return size[0], size[1]


def shown(mask: UInt8[np.ndarray, "h w"]) -> list[tuple[int, Bool[np.ndarray, "h w"]]]:
    """Each class that a mask shows, with its pixels; 255 is none.

    Example:
        >>> shown(np.array([[2, 255]], np.uint8))
        [(2, array([[ True, False]]))]
    """
    return [(label, mask == label) for label in np.flatnonzero(mask_counts(mask)[:IGNORE_INDEX]).tolist()]
