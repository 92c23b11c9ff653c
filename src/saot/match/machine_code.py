"""Sums over pairs of tokens as machine code, with the extra `fast` (numba), on a CPU; torch has each of them too.

Each goes over a matrix of the size of a plan once, where torch's own operations go over it many times.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.transport import compiled, share_out

_LEAST = 2**20  # entries from which it pays: compiling, or reading what was compiled, takes as long as some of torch's

_TILE = 512  # targets whose sums are held at a time


def l1_distances(x: Float[Tensor, "n k"], y: Float[Tensor, "m k"]) -> Float[Tensor, "n m"]:
    """sum_k |x_ik - y_jk|.

    Example:
        >>> l1_distances(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0], [0.0, 0.0]])).tolist()
        [[2.0, 1.0]]
    """
    kernel = _kernel("_l1_distances", x, len(x) * len(y))
    if kernel is None or y.dtype != x.dtype:
        return torch.cdist(x, y, p=1.0)
    out, columns = x.new_empty(len(x), len(y)), y.T.contiguous().numpy()
    share_out(len(x), lambda rows: kernel(x[rows].contiguous().numpy(), columns, out[rows].numpy()))
    return out


def best_rows(scores: Float[Tensor, "n m"]) -> Int64[Tensor, " m"]:
    """The row of the largest entry of each column; of equal ones one of them."""
    kernel = _kernel("_best_rows", scores, scores.numel())
    if kernel is None:
        return scores.argmax(0)
    best, out = scores[0].clone(), torch.zeros(scores.shape[1], dtype=torch.int64)
    kernel(scores.contiguous().numpy(), best.numpy(), out.numpy())
    return out


def near_and_far(
    plan: Float[Tensor, "... rows columns m"],
    block: tuple[int, int],
    near: tuple[int, ...],
    far: tuple[int, ...],
    target: tuple[int, int],
    centre: bool,
) -> Float[Tensor, "... block columns m"] | None:
    """C^p T C^q of Eq. (5) of GWOT for some rows of the source's grid, with disks as half widths.

    None where torch has to do it: without numba, on an accelerator, for a small plan or for several.

    Args:
        plan: Of one pair of pictures, (1, rows, columns, m).
        block: The first of the rows, and the one after the last.
        near: Half widths of the disk around a source, row by row.
        far: Of the disk around a target.
        target: Rows and columns of the target's grid.
        centre: Whether a source is in its own disk.
    """
    if plan.ndim != 4 or len(plan) != 1 or not centre:
        return None
    kernel = _kernel("_near_and_far", plan, plan.numel())
    if kernel is None:
        return None
    _, rows, columns, m = plan.shape
    held = plan.detach().reshape(rows, columns, m).numpy()
    out = plan.new_empty(1, block[1] - block[0], columns, m)
    widths = [torch.tensor(disk, dtype=torch.int64).numpy() for disk in (near, far)]
    written = out[0].numpy()

    def work(part: slice) -> None:
        above = torch.empty(columns, min(m, _TILE), dtype=plan.dtype).numpy()
        side = max(far)
        grids = torch.empty(3, (target[0] + len(far)) * (target[1] + side) + side, dtype=plan.dtype).numpy()
        kernel(held, part.start + block[0], written[part], *widths, target[0], target[1], above, grids)

    share_out(block[1] - block[0], work)
    return out


def _kernel(name: str, like: Tensor, entries: int) -> Callable[..., Any] | None:
    """The function as machine code; None where it is not to be had, or torch is as quick."""
    plain = like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
    return _compiled(name) if plain and entries >= _LEAST and not like.requires_grad else None


@functools.cache
def _compiled(name: str) -> Callable[..., Any] | None:
    parts = (_sum_near, _take_from_far) if name == "_near_and_far" else ()
    return compiled(globals()[name], *parts)


def _l1_distances(x: Any, columns: Any, out: Any) -> None:
    """Blocks of targets that the innermost cache holds; columns is (k, m)."""
    for begin in range(0, columns.shape[1], 128):
        for i in range(x.shape[0]):
            row = out[i, begin : begin + 128]
            row[:] = 0
            for k in range(x.shape[1]):
                place, others = x[i, k], columns[k, begin : begin + 128]
                for j in range(row.shape[0]):
                    row[j] += abs(place - others[j])


def _best_rows(scores: Any, best: Any, out: Any) -> None:
    """The largest so far and its row, column by column."""
    for i in range(1, scores.shape[0]):
        row = scores[i]
        for j in range(row.shape[0]):
            if row[j] > best[j]:
                best[j] = row[j]
                out[j] = i


def _near_and_far(
    plan: Any, start: Any, out: Any, near: Any, far: Any, height: Any, width: Any, above: Any, grids: Any
) -> None:
    """Source by source: its disk's sum A, then A's own sum less the sum over the disk about each target."""
    for i in range(out.shape[0]):
        _sum_near(plan, start + i, out[i], near, above)
        for column in range(out.shape[1]):
            _take_from_far(out[i, column], far, height, width, grids)


def _sum_near(plan: Any, row: Any, out: Any, near: Any, above: Any) -> None:
    """A of one row of the source's grid, some targets at a time, as many as a core's cache holds.

    Rows of the plan that reach a half width are added up once, in `above`.
    """
    rows, columns, m = plan.shape
    reach, tile = near.shape[0] // 2, above.shape[1]
    for begin in range(0, m, tile):
        end = min(begin + tile, m)
        size = end - begin
        out[:, begin:end] = 0
        above[:] = 0
        for span in range(near.max(), -1, -1):
            for offset in range(-reach, reach + 1):
                if near[offset + reach] == span and 0 <= row + offset < rows:
                    for column in range(columns):
                        into, add = above[column, :size], plan[row + offset, column, begin:end]
                        for j in range(size):
                            into[j] += add[j]
            for side in range(2 if span > 0 else 1):
                shift = span if side == 0 else -span
                for column in range(max(0, -shift), min(columns, columns - shift)):
                    into, add = out[column, begin:end], above[column + shift, :size]
                    for j in range(size):
                        into[j] += add[j]


def _take_from_far(token: Any, far: Any, height: Any, width: Any, grids: Any) -> None:
    """One row of A to its sum less the sum over the disk about each target.

    The grid lies line by line with zeros around it, which the end of one line and the begin of the next share.
    """
    reach, side = far.shape[0] // 2, far.max()
    line = width + side
    begin, count = reach * line, height * line
    held, above, total = grids[0], grids[1], grids[2]
    held[:] = 0
    above[:] = 0
    total[:] = 0
    sums = total[:width]
    for r in range(height):
        row, place = token[r * width : (r + 1) * width], held[begin + side + r * line : begin + (r + 1) * line]
        for c in range(width):
            place[c] = row[c]
            sums[c] += row[c]
    mass = sums.sum()
    sums[:] = 0
    whole = above[begin : begin + count + side]
    inner = total[begin + side : begin + count]
    for span in range(side, -1, -1):
        for offset in range(-reach, reach + 1):
            if far[offset + reach] == span:
                shifted = held[begin + offset * line : begin + offset * line + count + side]
                for j in range(whole.shape[0]):
                    whole[j] += shifted[j]
        for each in range(2 if span > 0 else 1):
            shift = span if each == 0 else -span
            shifted = above[begin + side + shift : begin + count + shift]
            for j in range(inner.shape[0]):
                inner[j] += shifted[j]
    for r in range(height):
        row, place = token[r * width : (r + 1) * width], total[begin + side + r * line : begin + (r + 1) * line]
        for c in range(width):
            row[c] = mass - place[c]
