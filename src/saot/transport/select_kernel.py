"""`select.torch_select` as machine code; importing this file needs numba, the extra `fast`."""

import inspect
from collections.abc import Callable
from typing import Any

import numba


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code, kept on disk for the next process where a folder for it can be written."""
    function = inspect.unwrap(function)  # a run-time type checker may stand around it
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no such folder
        return numba.njit(nogil=True)(function)


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


kth_largest = _compile(_kth_largest)


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
        bound = kth_largest(values, width, k, bins)
        count = 0
        for j in range(m):  # without a branch: the next survivor overwrites what did not survive
            place[count] = j
            count += row[j] >= bound
        for j in range(count):
            values[j] = row[place[j]]
        least = kth_largest(values, count, k, bins)
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


select_rows = _compile(_select_rows)
