"""Passes over the pairs of a support as machine code: imported by `passes` alone, and only where numba is installed.

All are for float32, with 32-bit offsets and indices. A thread takes whole rows, and each row is added up alike
whichever thread does it, so results do not depend on the number of threads. A sweep of the scaling form is two passes
over a CSR matrix K that make scalings u_i = alpha_i (sum_j K_ij v_j)^-p.
"""

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import binding
from numba import types

from .machine_code import FUSED, IN_ANY_ORDER, compiled, torch_team

np: Any = importlib.import_module("numpy")  # in whose words numba is told of types
_team = torch_team()
assert _team is not None
for _name, _address in _team.symbols.items():
    binding.add_symbol(f"saot_{_name}", _address)
_barrier = types.ExternalFunction("saot_GOMP_barrier", types.void())
_thread = types.ExternalFunction("saot_omp_get_thread_num", types.int32())
_threads = types.ExternalFunction("saot_omp_get_num_threads", types.int32())

_carray: Any = numba.carray  # pyright: ignore[reportPrivateImportUsage]  # public by its reference
_LOG2_E = 1.4426950408889634
_LEAST, _MOST = -87.3, 88.72  # between them exp is a normal float32
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.1219444005469058e-4  # ln 2: the first of few digits, for exact products
_ROUND = 12582912.0  # 1.5 * 2^23: added to a float32 and taken off again, it rounds to an integer
_TINY, _MAX = 1.1754943508222875e-38, 3.4028234663852886e38  # normal numbers of float32


def _exact(function: Callable[..., Any]) -> Any:
    """Machine code whose every operation is rounded as written: the vectors of a loop and what remains agree."""
    return compiled(function)


def _sum(function: Callable[..., Any]) -> Any:
    """Machine code that adds up in whatever order is quickest, the same for every row of a length."""
    return compiled(function, freely=IN_ANY_ORDER)


def _fused(function: Callable[..., Any]) -> Any:
    """Machine code that may round a product and a sum once."""
    return compiled(function, freely=FUSED)


@_sum
def _products(offsets: Any, index: Any, values: Any, v: Any, out: Any):
    """out_i = sum_j K_ij v_j for the rows of these offsets."""
    for i in range(out.shape[0]):
        kernel, col = values[offsets[i] : offsets[i + 1]], index[offsets[i] : offsets[i + 1]]
        total = np.float32(0)
        for e in range(kernel.shape[0]):
            total += kernel[e] * v[np.uint64(col[e])]
        out[i] = total


@_exact
def _log2(x: Any):
    """Of a normal float32, in float64, to 1e-11: of x = m 2^e by the series of artanh((m - 1) / (m + 1))."""
    bits = np.float32(x).view(np.int32)
    e = np.float64(np.int32(bits >> 23) - 127)
    m = np.float64(np.int32((bits & 0x7FFFFF) | 0x3F800000).view(np.float32))
    upper = m > 1.4142135623730951
    m, e = (0.5 * m if upper else m), (e + 1.0 if upper else e)
    z = (m - 1.0) / (m + 1.0)
    q = z * z
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11)))))
    return e + 2 * _LOG2_E * z * series


@_exact
def _exp2(y: Any):
    """Of a float64 within +-126, to float32: 2 to the nearest integer, times Taylor's series of the rest, to 1e-8."""
    whole = np.int32(y + 127.5) - 127
    r = (y - np.float64(whole)) / _LOG2_E
    series = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r * (1 / 5040)))))))
    return np.float32(series) * np.int32((whole + 127) << 23).view(np.float32)


@_exact
def _scale(sums: Any, log_alpha: Any, power: Any, limit: Any):
    """Sums to scalings alpha_i sum_i^power, in place; how many of them are not within exp(+-limit).

    Tokens that take no part have log_alpha = -inf and get 0.
    """
    wrong = 0
    for i in range(sums.shape[0]):
        total, log = sums[i], np.float64(log_alpha[i])
        log2 = _LOG2_E * log + np.float64(power[i]) * _log2(total)
        idle = log == -math.inf
        fits = (abs(log2) <= limit * _LOG2_E) & (total >= _TINY) & (total <= _MAX)  # False for NaN
        wrong += 0 if fits | idle else 1
        sums[i] = np.float32(0) if idle else _exp2(log2 if fits else 0.0)
    return wrong


@_exact
def _row_at(offsets: Any, rows: Any, place: Any):
    """The first row that begins at this pair or behind it."""
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] < place:
            low = middle + 1
        else:
            high = middle
    return low


@_exact
def _share(offsets: Any, rows: Any):
    """The rows, from first to last, that are this thread's: those of about as many pairs as another's."""
    one, all_, pairs = _thread(), _threads(), np.int64(offsets[rows])
    last = rows if one + 1 == all_ else _row_at(offsets, rows, pairs * (one + 1) // all_)
    return _row_at(offsets, rows, pairs * one // all_), last


@_exact
def _update(side: Any, v: Any, out: Any, limit: Any):
    """This thread's share of one update, from the other side's scalings v; how many leave the range."""
    offsets, index, values, log_alpha, power = side
    first, last = _share(offsets, out.shape[0])
    _products(offsets[first : last + 1], index, values, v, out[first:last])
    return _scale(out[first:last], log_alpha[first:last], power[first:last], limit)


@_exact
def _sweeps(sizes: Any, limit: Any, rows: Any, cols: Any, u: Any, v: Any, left: Any):
    """Up to sizes[3] sweeps, of which sizes[4] says how many were done; v (2, m) holds the last two, the first in v[0].

    A sweep with a scaling out of range does not count. `left` is the phase in which a thread saw one: all threads
    compare it with the phase that they come from, so that none is misled by one that runs ahead.
    """
    count, phase, done = sizes[3], 0, 0
    while done < count:
        phase += 1
        if _update(rows, v[done % 2], u, limit) > 0:
            left[_thread()] = phase
        _barrier()
        if (left == phase).any():
            break
        phase += 1
        if _update(cols, u, v[(done + 1) % 2], limit) > 0:
            left[_thread()] = phase
        _barrier()
        if (left == phase).any():
            break
        done += 1
    if _thread() == 0:
        sizes[4] = done


@_fused
def _exp(y: Any):
    """Of a float32, to a unit in its last place: 2 to an integer, times Taylor's series; 0 for subnormals."""
    c = y if y > np.float32(_LEAST) else np.float32(_LEAST)
    c = c if c < np.float32(_MOST) else np.float32(_MOST)
    shifted = c * np.float32(_LOG2_E) + np.float32(_ROUND)
    whole = shifted - np.float32(_ROUND)
    r = (c - whole * np.float32(_LN2_HIGH)) - whole * np.float32(_LN2_LOW)
    series = np.float32(1 / 120) + r * (np.float32(1 / 720) + r * np.float32(1 / 5040))
    series = np.float32(1 / 24) + r * series
    series = np.float32(1 / 2) + r * (np.float32(1 / 6) + r * series)
    series = np.float32(1) + (r + r * r * series)
    power = np.float32(shifted).view(np.int32) << 23  # of the integer, to where a float32 has its exponent
    found = np.int32(np.float32(series).view(np.int32) + power).view(np.float32)
    found = found if y > np.float32(_LEAST) else np.float32(0)
    return found if y <= np.float32(_MOST) else y * np.float32(math.inf)  # NaN of NaN


@_exact
def _gather(values: Any, index: Any, out: Any):
    """out_e = values at index_e."""
    for e in range(out.shape[0]):
        out[e] = values[np.uint64(index[e])]


@_fused
def _exponentials(cost: Any, divisor: Any, x: Any, out: Any):
    """exp(cost_e / divisor + x + out_e), in place."""
    for e in range(out.shape[0]):
        out[e] = _exp(cost[e] / divisor + x + out[e])


@_exact
def _weigh(values: Any, x: Any, out: Any):
    """values_e (x + out_e), in place."""
    for e in range(out.shape[0]):
        out[e] = values[e] * (x + out[e])


@_sum
def _sum_of(values: Any):
    """Of all of them."""
    total = np.float32(0)
    for e in range(values.shape[0]):
        total += values[e]
    return total


@_sum
def _sum_at(values: Any, index: Any):
    """Of those at the places."""
    total = np.float32(0)
    for e in range(index.shape[0]):
        total += values[np.uint64(index[e])]
    return total


@_exact
def _floats(pointers: Any, at: Any, count: Any):
    """An array of float32."""
    return _carray(pointers[at], (count,))


@_exact
def _ints(pointers: Any, at: Any, count: Any):
    """An array of int32."""
    return _carray(pointers[at], (count,)).view(np.int32)


@_exact
def _places(pointers: Any, at: Any, count: Any):
    """An array of int32, none of them negative."""
    return _carray(pointers[at], (count,)).view(np.uint32)


# What a thread is started with: addresses of arrays, in the order of `passes`. The first holds the numbers of rows,
# columns and pairs.


def _enter_sweeps(pointers: Any):
    """Whole sweeps from v[0] on, by the CSR matrix of the rows and that of the columns."""
    sizes = _ints(pointers, 0, 5)
    n, m, pairs = sizes[0], sizes[1], sizes[2]
    limit, u, v = np.float64(_floats(pointers, 1, 1)[0]), _floats(pointers, 2, n), _carray(pointers[3], (2, m))
    left = _ints(pointers, 4, _threads())
    rows = (
        _ints(pointers, 5, n + 1),
        _places(pointers, 6, pairs),
        _floats(pointers, 7, pairs),
        _floats(pointers, 8, n),
        _floats(pointers, 9, n),
    )
    cols = (
        _ints(pointers, 10, m + 1),
        _places(pointers, 11, pairs),
        _floats(pointers, 12, pairs),
        _floats(pointers, 13, m),
        _floats(pointers, 14, m),
    )
    _sweeps(sizes, limit, rows, cols, u, v, left)


def _enter_take(pointers: Any):
    """Values at the places of an index."""
    pairs = np.int64(_ints(pointers, 0, 3)[2])
    index, values, out = _places(pointers, 1, pairs), _floats(pointers, 2, pairs), _floats(pointers, 3, pairs)
    first, last = pairs * _thread() // _threads(), pairs * (_thread() + 1) // _threads()
    _gather(values, index[first:last], out[first:last])


def _enter_sums(pointers: Any):
    """Of the pairs of each row."""
    sizes = _ints(pointers, 0, 3)
    n, pairs = sizes[0], sizes[2]
    offsets, values, out = _ints(pointers, 1, n + 1), _floats(pointers, 2, pairs), _floats(pointers, 3, n)
    first, last = _share(offsets, n)
    for i in range(first, last):
        out[i] = _sum_of(values[offsets[i] : offsets[i + 1]])


def _enter_sums_at(pointers: Any):
    """Of the pairs of each row, which lie at the places of an index."""
    sizes = _ints(pointers, 0, 3)
    n, pairs = sizes[0], sizes[2]
    offsets, index = _ints(pointers, 1, n + 1), _places(pointers, 2, pairs)
    values, out = _floats(pointers, 3, pairs), _floats(pointers, 4, n)
    first, last = _share(offsets, n)
    for i in range(first, last):
        out[i] = _sum_at(values, index[offsets[i] : offsets[i + 1]])


@_exact
def _pairs_of(pointers: Any):
    """Row offsets, column indices and values of the pairs, x (n,) and y (m,) and what is written, (pairs,)."""
    sizes = _ints(pointers, 0, 3)
    n, m, pairs = sizes[0], sizes[1], sizes[2]
    offsets, index, values = _ints(pointers, 1, n + 1), _places(pointers, 2, pairs), _floats(pointers, 3, pairs)
    return offsets, index, values, _floats(pointers, 4, n), _floats(pointers, 5, m), _floats(pointers, 6, pairs)


def _enter_exponentials(pointers: Any):
    """exp(x_i + y_j + C_ij / divisor) on the pairs."""
    offsets, index, cost, x, y, out = _pairs_of(pointers)
    divisor = _floats(pointers, 7, 1)[0]
    first, last = _share(offsets, x.shape[0])
    for i in range(first, last):
        begin, end = offsets[i], offsets[i + 1]
        _gather(y, index[begin:end], out[begin:end])
        _exponentials(cost[begin:end], divisor, x[i], out[begin:end])


def _enter_weighted(pointers: Any):
    """values_ij (x_i + y_j) on the pairs."""
    offsets, index, values, x, y, out = _pairs_of(pointers)
    first, last = _share(offsets, x.shape[0])
    for i in range(first, last):
        begin, end = offsets[i], offsets[i + 1]
        _gather(y, index[begin:end], out[begin:end])
        _weigh(values[begin:end], x[i], out[begin:end])


def _entry(function: Any) -> Any:
    """What a thread can be started with, kept on disk where that can be."""
    signature = types.void(types.CPointer(types.CPointer(types.float32)))
    try:
        return numba.cfunc(signature, cache=True)(inspect.unwrap(function))
    except RuntimeError:  # no folder for it
        return numba.cfunc(signature)(inspect.unwrap(function))


_ENTRIES = {
    "sweeps": _entry(_enter_sweeps),
    "take": _entry(_enter_take),
    "sums": _entry(_enter_sums),
    "sums_at": _entry(_enter_sums_at),
    "exponentials": _entry(_enter_exponentials),
    "weighted": _entry(_enter_weighted),
}
ADDRESSES: dict[str, int] = {name: entry.address for name, entry in _ENTRIES.items()}
