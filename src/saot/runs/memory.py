"""What a stage takes of the host's memory and of a device's."""

import ctypes
import resource
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch


def give_back() -> None:
    """Hand memory that is free inside this process to the system, where its C library can.

    glibc keeps what the threads of one training have freed in heaps of their own, where the threads of the next do not
    look, so that what a run holds would grow from stage to stage.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None


def reset_peak() -> None:
    """Begin to watch the peak of resident memory anew, where the system can, and that of CUDA devices in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def device_peak_bytes() -> int:
    """Peak memory of tensors on a CUDA device since the last reset, bytes, of the one with most; 0 if unused."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return 0
    return max(torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count()))


def peak_bytes() -> int:
    """Peak resident memory since the last reset, bytes (of the whole process where it cannot be reset)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
