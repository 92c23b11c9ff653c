"""What the machine can do at best: how fast it streams arrays, and its fastest float32 matrix product.

The stream is a C loop where a compiler is at hand (its passes run in one parallel region, as a fused solver's could),
else `torch.dot`. Both read two arrays of 4 bytes an element: a value and an index a pair.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from problems import load
from worker import Contender

_C = """
#include <omp.h>
#include <stdint.h>
float stream(const float *x, const int32_t *index, int64_t count, int64_t passes) {
  float total = 0;
  #pragma omp parallel reduction(+ : total)
  {
    int64_t first = count * omp_get_thread_num() / omp_get_num_threads();
    int64_t last = count * (omp_get_thread_num() + 1) / omp_get_num_threads();
    for (int64_t pass = 0; pass < passes; ++pass) {
      float sum = 0;
      for (int64_t i = first; i < last; ++i) sum += x[i] * (float)index[i];
      total += sum;
      __asm__ volatile("" ::: "memory");
    }
  }
  return total;
}
"""


def build_stream(folder: Path) -> str:
    """The path of the compiled loop; empty where no compiler is at hand."""
    library, source = folder / "stream.so", folder / "stream.c"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if library.exists() or compiler is None:
        return str(library) if library.exists() else ""
    source.write_text(_C)
    flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
    made = subprocess.run([compiler, *flags, str(source), "-o", str(library)], capture_output=True)
    return str(library) if made.returncode == 0 else ""


def stream(pairs: int, passes: int, library: str = "") -> Contender:
    """Reads a float32 and an int32 array of this many elements, `passes` times."""
    x, index = np.ones(pairs, np.float32), np.ones(pairs, np.int32)
    notes = {"bytes": 8 * pairs * passes, "with": "C" if library else "torch.dot"}
    if not library:
        values, other = torch.from_numpy(x), torch.from_numpy(index).view(torch.float32)

        def with_torch() -> None:
            for _ in range(passes):
                torch.dot(values, other)

        return Contender(with_torch, notes=notes)
    function = ctypes.CDLL(library).stream
    function.restype = ctypes.c_float
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (x, index)]

    def with_c() -> None:
        assert x.size == index.size == pairs  # keeps the arrays alive
        function(*pointers, ctypes.c_int64(pairs), ctypes.c_int64(passes))

    return Contender(with_c, notes=notes)


def product(folder: str, how: str) -> Contender:
    """All similarities of the folder's features, by "torch", "numpy" or "onednn" (a private operator of torch)."""
    source, target = load(folder, "source", "target")
    x, y = torch.from_numpy(source), torch.from_numpy(target)
    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: x @ y.T,
        "numpy": lambda: source @ target.T,
        "onednn": lambda: torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], ""),
    }
    flops = 2 * source.shape[0] * target.shape[0] * source.shape[1]
    return Contender(ways[how], notes={"flops": flops}, versions={"torch": torch.__version__, "numpy": np.__version__})


def description() -> dict[str, object]:
    """Processor, its instructions that torch uses, and memory of this machine, for the record."""
    model, memory = platform.processor() or platform.machine(), 0.0
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
    }
