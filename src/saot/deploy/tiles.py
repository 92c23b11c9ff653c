"""How a raster is cut into tiles, and how the scores of tiles that overlap are joined without a seam."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Axis:
    """Tiles along one side of a raster. Neighbours share `overlap` pixels or more, and are blended over `overlap`.

    Attributes:
        length: Pixels of the raster's side.
        tile: Pixels of a tile; a shorter raster has one tile, which reaches beyond it.
        overlap: Pixels over which one tile's weight falls and the next one's rises.
        starts: First pixel of each tile.
    """

    length: int
    tile: int
    overlap: int
    starts: tuple[int, ...]

    def join(self, number: int) -> int:
        """The first pixel at which tile `number` gives way to the next one: the middle of what they share."""
        start, end = self.starts[number + 1], self.starts[number] + self.tile
        return start + (end - start - self.overlap) // 2

    def used(self, number: int) -> slice:
        """The pixels at which tile `number` counts."""
        last = number == len(self.starts) - 1
        begin = 0 if number == 0 else self.join(number - 1)
        return slice(begin, self.length if last else self.join(number) + self.overlap)

    def done(self, number: int) -> slice:
        """The pixels that no tile after `number` counts at, and that were not done before it."""
        used = self.used(number)
        return used if number == len(self.starts) - 1 else slice(used.start, used.stop - self.overlap)


def axis_of(length: int, tile: int, overlap: int) -> Axis:
    """Tiles spread evenly, as few as share `overlap` pixels.

    Args:
        length: Pixels of the raster's side.
        tile: Pixels of a tile.
        overlap: Pixels to be blended over; less than a third of the tile.

    Raises:
        ValueError: If the overlap is a third or more.

    Example:
        >>> axis_of(20, 8, 1).starts, [axis_of(20, 8, 1).done(n) for n in (0, 1)]
        ((0, 6, 12), [slice(0, 6, None), slice(6, 12, None)])
    """
    if not 0 <= 3 * overlap < tile - 2:
        raise ValueError(
            f"expected an overlap of 0 to {max(0, (tile - 3) // 3)} pixels, less than a third of a tile of {tile}; "
            f"got {overlap}"
        )
    if length <= tile:
        return Axis(length, tile, overlap, (0,))
    count = math.ceil((length - overlap) / (tile - overlap))
    return Axis(length, tile, overlap, tuple(round(n * (length - tile) / (count - 1)) for n in range(count)))


def parse_tile(text: str) -> tuple[int, int]:
    """Height and width of a tile, pixels.

    Raises:
        ValueError: If it is no size, or smaller than 16 pixels.

    Example:
        >>> parse_tile("512"), parse_tile("336x672")
        ((512, 512), (336, 672))
    """
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text.strip())
    if found is None or min(int(found[1]), int(found[2] or found[1])) < 16:
        raise ValueError(f"expected a tile as SIDE or HEIGHTxWIDTH in pixels, at least 16; got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def rising(overlap: int) -> Float32[np.ndarray, " overlap"]:
    """A raised cosine from 0 to 1, at the centres of pixels; with its mirror image it makes 1 everywhere.

    Example:
        >>> (100 * rising(2)).round().tolist()
        [15.0, 85.0]
    """
    return (0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / max(overlap, 1))).astype(np.float32)


class Blend:
    """Joins scores tile by tile, left to right and top to bottom; in memory is only what still waits for the next tile.

    Args:
        down, across: The tiles along both sides.
        num_classes: Numbers a pixel.
    """

    def __init__(self, down: Axis, across: Axis, num_classes: int) -> None:
        self.down, self.across = down, across
        rows = down.overlap if len(down.starts) > 1 else 0
        self._below = np.zeros((num_classes, rows, across.length), np.float32)

    def row(
        self, number: int, tiles: Iterable[Float32[np.ndarray, "K th tw"] | None]
    ) -> Iterator[tuple[slice, Float32[np.ndarray, "K h w"]]]:
        """Columns and finished scores of a row of tiles, at the rows `down.done(number)`.

        Args:
            number: Of the row of tiles; they come in order.
            tiles: Scores of each of its tiles; None where no pixel counts.
        """
        rows, waiting = self.down.used(number), None
        for column, scores in enumerate(tiles):
            used, done = self.across.used(column), self.across.done(column)
            part = self._part(scores, number, column)
            part = _joined(part, waiting, self.across.overlap, column > 0)
            width = done.stop - done.start
            waiting = None
            if used.stop > done.stop:
                waiting = part[:, :, width:] * rising(self.across.overlap)[::-1]
            yield done, self._over(part[:, :, :width], done, number, rows.stop - rows.start)

    def _part(
        self, scores: Float32[np.ndarray, "K th tw"] | None, row: int, column: int
    ) -> Float32[np.ndarray, "K h w"]:
        """What counts of a tile, a copy."""
        rows, columns = self.down.used(row), self.across.used(column)
        if scores is None:
            return np.zeros((len(self._below), rows.stop - rows.start, columns.stop - columns.start), np.float32)
        top, left = self.down.starts[row], self.across.starts[column]
        return scores[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left].copy()

    def _over(
        self, part: Float32[np.ndarray, "K h w"], columns: slice, row: int, height: int
    ) -> Float32[np.ndarray, "K rows w"]:
        """The part joined with what the tiles above left; what the tiles below are joined with is kept."""
        above = self._below[:, :, columns] if row > 0 else None
        part = _joined(part.swapaxes(1, 2), None if above is None else above.swapaxes(1, 2), self.down.overlap, row > 0)
        part = part.swapaxes(1, 2)
        done = self.down.done(row)
        kept = done.stop - done.start
        if kept < height:
            self._below[:, :, columns] = part[:, kept:] * rising(self.down.overlap)[::-1][:, None]
        return part[:, :kept]


def _joined(
    part: Float32[np.ndarray, "K a b"], before: Float32[np.ndarray, "K a o"] | None, overlap: int, follows: bool
) -> Float32[np.ndarray, "K a b"]:
    """A part whose first `overlap` columns rise from what came before it; changed in place."""
    if follows and overlap:
        assert before is not None, "its neighbour left it"
        part[:, :, :overlap] *= rising(overlap)
        part[:, :, :overlap] += before
    return part
