"""Functions as machine code, with the extra `fast` (numba), on a CPU; where it is missing torch does their work."""

import ctypes
import functools
import inspect
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

_TEAM = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")

FUSED = frozenset({"contract"})  # a product and a sum may be rounded once
IN_ANY_ORDER = frozenset({"reassoc", "contract", "nsz"})  # of sums; NaN and infinity keep their meaning


def compiled(
    function: Callable[..., Any], *parts: Callable[..., Any], freely: frozenset[str] = frozenset()
) -> Callable[..., Any] | None:
    """The function as machine code, kept on disk for the next process where that can be; None without numba.

    Args:
        function: One of a module's own functions.
        parts: Functions of that module which it calls; their names there come to stand for machine code too.
        freely: What LLVM may do to floating-point operations, by its names for it: `IN_ANY_ORDER` or `FUSED`.
    """
    try:
        import numba
    except ImportError:
        return None
    # divisions by zero as IEEE has them: a branch to raise an error would keep a loop from being vectorised
    how = {"nogil": True, "error_model": "numpy", "fastmath": set(freely) or False}

    def compile_one(plain: Callable[..., Any]) -> Callable[..., Any]:
        plain = inspect.unwrap(plain)  # a run-time type checker may stand around it
        try:
            return numba.njit(cache=True, **how)(plain)
        except RuntimeError:  # no folder for it
            return numba.njit(**how)(plain)

    for part in parts:
        inspect.unwrap(function).__globals__[part.__name__] = compile_one(part)
    return compile_one(function)


def share_out(count: int, work: Callable[[slice], object]) -> None:
    """Do the work for slices of 0 .. count, in as many threads as torch has; plain threads that sleep when done."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        work(slice(0, count))
        return
    edges = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [slice(*pair) for pair in itertools.pairwise(edges)]))


class Team:
    """Torch's own threads (GNU OpenMP's), for machine code that needs barriers.

    Threads of another kind would have to fight for the cores with these, which spin for a while after each product.
    """

    def __init__(self, library: Any) -> None:
        self._parallel = library.GOMP_parallel
        self.symbols = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _TEAM[1:]}

    def run(self, address: int, pointers: Any, threads: int) -> None:
        """Have up to `threads` threads call the function at an address, each with the same array of pointers."""
        self._parallel(ctypes.c_void_p(address), pointers, ctypes.c_uint(threads), ctypes.c_uint(0))


@functools.cache
def torch_team() -> Team | None:
    """The threads of this build of torch, if it has them of GNU OpenMP, as its wheels for Linux do."""
    for name in ("libtorch_cpu.so", "libtorch.so"):
        library = Path(torch.__file__).parent / "lib" / name
        try:
            return Team(ctypes.CDLL(str(library)))  # its symbols, and those of the libraries that it loads
        except (OSError, AttributeError):
            continue
    return None
