"""The k largest entries of each row of a block of similarities, exactly: by plain sorting, torch or numba.

All three answer alike. Of equal entries the one with the lower column index wins, and columns come back in
ascending order. `plain_select` is the definition. The other two read a block twice instead of sorting it: the
k-th largest maximum over groups of columns is a lower bound of the k-th largest entry, so only what reaches it,
about 1.2 k entries a row, is looked at again.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from .machine_code import compiled

_GROUPS_PER_ENTRY = 2.5  # column groups for each entry wanted: fewer leave more survivors, more cost more to sort
_PLAIN_ELEMENTS = 2**16  # blocks up to here are sorted
_PARTS_PER_THREAD = 6  # torch's own threads may keep a core for a while after a product: the others then do more

Selection = tuple[Int32[Tensor, "rows k"], Float[Tensor, "rows k"]]


@contextmanager
def row_selector(k: int, elements: int, device: torch.device) -> Iterator[Callable[[Tensor], Selection]]:
    """A function from a (rows, m) block to its k largest entries a row, the quickest for this much work.

    Args:
        k: Entries a row, at most m.
        elements: Similarities to come in all blocks together.
        device: Where the blocks live.
    """
    if elements <= _PLAIN_ELEMENTS:
        yield lambda block: plain_select(block, k)
    elif device.type != "cpu" or elements < 2**20 or not has_numba():  # compiling costs more than it saves
        yield lambda block: torch_select(block, k)
    else:
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(max(threads - 1, 1)) as pool:
            yield lambda block: numba_select(block, k, pool, threads)


def plain_select(similarity: Float[Tensor, "rows m"], k: int) -> Selection:
    """Columns, ascending, and values of the k largest entries of each row: the readable twin of the others.

    Example:
        >>> plain_select(torch.tensor([[0.5, 0.9, 0.9, 0.1]]), 1)
        (tensor([[1]], dtype=torch.int32), tensor([[0.9000]]))
    """
    order = similarity.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    return order.int(), similarity.gather(1, order)


def torch_select(similarity: Float[Tensor, "rows m"], k: int) -> Selection:
    """The same by a provable threshold, with torch alone."""
    rows = similarity.shape[0]
    bound = similarity.new_full((rows, 1), -torch.inf)
    groups = _group_count(similarity.shape[1], k)
    if groups > 1:
        width = similarity.shape[1] // groups
        tops = similarity[:, : groups * width].reshape(rows, groups, width).amax(1)
        bound = tops.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    row, col = (similarity >= bound).nonzero().T.contiguous()
    values = similarity.reshape(-1).index_select(0, row * similarity.shape[1] + col)
    count = torch.bincount(row, minlength=rows)
    first = count.cumsum(0) - count
    widest = int(count.max())
    place = (_range(rows, row) * widest - first).index_select(0, row) + _range(row.numel(), row)
    padded = similarity.new_full((rows * widest,), -torch.inf).index_copy_(0, place, values).view(rows, widest)
    least = padded.topk(k, dim=1, sorted=False).values.amin(1).index_select(0, row)
    keep = values >= least
    if int(keep.sum()) > rows * k:
        keep = _first_of_equal(values, least, row, first, k)
    return col[keep].view(rows, k).int(), values[keep].view(rows, k)


def _group_count(m: int, k: int) -> int:
    return max(1, int(m / (_GROUPS_PER_ENTRY * k)))


def _range(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)


def _first_of_equal(values: Tensor, least: Tensor, row: Tensor, first: Tensor, k: int) -> Tensor:
    """Which survivors are among their row's k largest, of those equal to the least one the first."""
    above, equal = values > least, values == least
    room = k - torch.bincount(row[above], minlength=first.numel())
    seen = equal.cumsum(0)
    before = (seen - equal.long()).index_select(0, first)  # equal ones in the rows before
    return above | (equal & (seen - before.index_select(0, row) <= room.index_select(0, row)))


def has_numba() -> bool:
    """Whether the extra `fast` is installed."""
    return _compiled() is not None


def numba_select(similarity: Float[Tensor, "rows m"], k: int, pool: ThreadPoolExecutor, threads: int) -> Selection:
    """The same on the CPU by numba, the rows shared out among this thread and those of the pool.

    Plain threads, not numba's own: a second team of spinning threads would fight with torch's for the cores.
    """
    kernel = _compiled()
    assert kernel is not None
    rows, m = similarity.shape
    col, values = torch.empty(rows, k, dtype=torch.int32), similarity.new_empty(rows, k)
    block, groups = similarity.contiguous(), _group_count(m, k)
    step = max(1, -(-rows // (_PARTS_PER_THREAD * threads)))
    parts = deque(slice(start, start + step) for start in range(0, rows, step))

    def work() -> None:
        scratch = (block.new_empty(m), torch.empty(m, dtype=torch.int32), torch.empty(256, dtype=torch.int32))
        with suppress(IndexError):  # until there are no more
            while True:
                part = parts.popleft()
                kernel(*(x.numpy() for x in (block[part], col[part], values[part], *scratch)), k, groups)

    others = [pool.submit(work) for _ in range(1, threads)]
    work()
    for other in others:
        other.result()
    return col, values


@functools.cache
def _compiled() -> Callable[..., Any] | None:
    """`_select_rows` as machine code; None without numba."""
    return compiled(_select_rows, _kth_largest)


def _kth_largest(values: Any, count: Any, k: Any, bins: Any):
    """The k-th largest of values[:count], which it overwrites: histograms, each within one bin of the last."""
    while count > 16:
        low = high = values[0]
        for i in range(count):
            low, high = min(low, values[i]), max(high, values[i])
        scale = (bins.shape[0] - 1) / (high - low) if high > low else 0.0
        if scale == 0 or scale > 1e30:  # equal, or too close for bins
            break
        bins[:] = 0
        for i in range(count):
            bins[int((values[i] - low) * scale)] += 1
        chosen = bins.shape[0] - 1
        while bins[chosen] < k:
            k -= bins[chosen]
            chosen -= 1
        kept = 0
        for i in range(count):
            value = values[i]
            values[kept] = value
            kept += int((value - low) * scale) == chosen
        count = kept
    for i in range(1, count):  # insertion, largest first
        value, j = values[i], i
        while j > 0 and values[j - 1] < value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    return values[k - 1]


def _select_rows(similarity: Any, col: Any, out: Any, values: Any, place: Any, bins: Any, k: Any, groups: Any):
    """The k largest of each row of similarity, to col and out; values, place and bins are scratch."""
    m = similarity.shape[1]
    width = m // groups
    for i in range(similarity.shape[0]):
        row = similarity[i]
        values[:width] = row[:width]
        for group in range(1, groups):
            part = row[group * width : (group + 1) * width]
            for j in range(width):
                values[j] = part[j] if part[j] > values[j] else values[j]
        bound = _kth_largest(values, width, k, bins)
        count = 0
        for j in range(m):  # without a branch: the next survivor overwrites what did not survive
            place[count] = j
            count += row[j] >= bound
        for j in range(count):
            values[j] = row[place[j]]
        least = _kth_largest(values, count, k, bins)
        room = k
        for j in range(count):
            room -= row[place[j]] > least
        kept = 0
        for j in range(count):
            value = row[place[j]]
            if value > least or (value == least and room > 0):
                room -= value == least
                col[i, kept], out[i, kept] = place[j], value
                kept += 1
