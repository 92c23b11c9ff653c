"""Sweeps of the scaling form as machine code: imported by `sweeps` alone, and only where numba is installed.

A pass over a CSR matrix K makes scalings u_i = alpha_i (sum_j K_ij v_j)^-p. Each row's sum is added up alike whichever
thread does it, so results do not depend on the number of threads.
"""

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import binding
from numba import types

from .machine_code import compiled, torch_team

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
_TINY, _MAX = 1.1754943508222875e-38, 3.4028234663852886e38  # normal numbers of float32


def _exact(function: Callable[..., Any]) -> Any:
    """Machine code whose every operation is rounded as written: the vectors of a loop and what remains agree."""
    return compiled(function)


def _sum(function: Callable[..., Any]) -> Any:
    """Machine code that adds up in whatever order is quickest, the same for every row of a length."""
    return compiled(function, fastmath=True)


@_sum
def _sums(offsets: Any, index: Any, values: Any, v: Any, out: Any):
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
def _update(side: Any, v: Any, out: Any, limit: Any, parts: Any):
    """This thread's share of one update, from the other side's scalings v; how many leave the range."""
    edges, offsets, index, values, log_alpha, power = side
    wrong = 0
    for part in range(_thread(), parts, _threads()):
        first, last = edges[part], edges[part + 1]
        _sums(offsets[first : last + 1], index, values, v, out[first:last])
        wrong += _scale(out[first:last], log_alpha[first:last], power[first:last], limit)
    return wrong


@_exact
def _sweeps(sizes: Any, limit: Any, rows: Any, cols: Any, u: Any, v: Any, left: Any):
    """Up to sizes[0] sweeps, of which sizes[5] says how many were done; v (2, m) holds the last two, the first in v[0].

    A sweep with a scaling out of range does not count. `left` is the phase in which a thread saw one: all threads
    compare it with the phase that they come from, so that none is misled by one that runs ahead.
    """
    count, parts, phase, done = sizes[0], sizes[1], 0, 0
    while done < count:
        phase += 1
        if _update(rows, v[done % 2], u, limit, parts) > 0:
            left[_thread()] = phase
        _barrier()
        if (left == phase).any():
            break
        phase += 1
        if _update(cols, u, v[(done + 1) % 2], limit, parts) > 0:
            left[_thread()] = phase
        _barrier()
        if (left == phase).any():
            break
        done += 1
    if _thread() == 0:
        sizes[5] = done


@_exact
def _side(pointers: Any, at: Any, size: Any, pairs: Any, parts: Any):
    """One side's arrays: edges of the parts, offsets, indices, kernel values, log alpha, power."""
    return (
        _carray(pointers[at], (parts + 1,)).view(np.int32),
        _carray(pointers[at + 1], (size + 1,)).view(np.int32),
        _carray(pointers[at + 2], (pairs,)).view(np.uint32),
        _carray(pointers[at + 3], (pairs,)),
        _carray(pointers[at + 4], (size,)),
        _carray(pointers[at + 5], (size,)),
    )


def _enter(pointers: Any):
    """What a thread is started with: addresses of 4-byte arrays, in the order of `sweeps.Sweeps`."""
    sizes = _carray(pointers[0], (6,)).view(np.int32)
    parts, n, m, pairs = sizes[1], sizes[2], sizes[3], sizes[4]
    limit = np.float64(_carray(pointers[1], (1,))[0])
    u, v = _carray(pointers[2], (n,)), _carray(pointers[3], (2, m))
    left = _carray(pointers[4], (parts,)).view(np.int32)
    _sweeps(sizes, limit, _side(pointers, 5, n, pairs, parts), _side(pointers, 11, m, pairs, parts), u, v, left)


_signature = types.void(types.CPointer(types.CPointer(types.float32)))
try:
    _entry = numba.cfunc(_signature, cache=True)(inspect.unwrap(_enter))
except RuntimeError:  # no folder for it
    _entry = numba.cfunc(_signature)(inspect.unwrap(_enter))
assert _entry.address is not None
ADDRESS: int = _entry.address
