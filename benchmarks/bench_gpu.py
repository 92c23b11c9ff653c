"""Sparse transport on a CUDA device, three ways, alternating in one run on the same problems; ratios first.

    python benchmarks/bench_gpu.py [--repeats 9] [--sizes 2592:128 1000000:32] [--out gpu.json]

csr:     the scaling form by torch's CSR products (cuSPARSE)
triton:  the log domain by the fused kernels of saot.transport.triton_kernels
torch:   the log domain by index_select, segment_reduce and index_add

30 iterations in float32, without a tolerance. The support is synthetic: k random targets a source, some targets
far more often than others, so rows are even and columns ragged, and caches get no help from locality.
`bound` is 60 passes over 8 bytes a pair at the read bandwidth of memory, measured in the same run; pairs that
stay in a cache can beat it. The scaling form also waits for the device in each update, to see that its kernel
is still exact; the single passes listed last have no such waits.

    python benchmarks/bench_gpu.py --interpret-smoke

runs the same code on the CPU in Triton's interpreter at a tiny size. Its times mean nothing.

    python benchmarks/bench_gpu.py --job --device cuda [--source 1000 --target 1000]

runs the whole main job on random features of GTA5's sizes, with the memory of the device (`job_at_size.py`).
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from saot.transport import SparseCost, Support, implicit, loop, solve_transport
from saot.transport.pairs import SparsePairs
from saot.transport.products import csr, csr_transposed
from saot.transport.triton_kernels import has_triton, segment_logsumexp, segment_sum_product

SIZES = ("2592:128", "7200:64", "100000:32", "1000000:32")
ITERATIONS = 30
WAYS = ("csr", "triton", "torch")


def synthetic(tokens: int, k: int, device: torch.device) -> SparseCost:
    """Costs in [0, 2] on about k targets a source; the crowd of target j falls like j ** (-1/3)."""
    generator = torch.Generator(device).manual_seed(tokens)
    place = (tokens * torch.rand(tokens * k, generator=generator, device=device) ** 1.5).long().clamp(max=tokens - 1)
    cols = torch.randperm(tokens, generator=generator, device=device)[place]
    rows = torch.arange(tokens, device=device).repeat_interleave(k)
    support = Support.from_pairs(rows, cols, (tokens, tokens))
    return SparseCost(2 * torch.rand(support.nnz, generator=generator, device=device), support)


def torch_logsumexp(values: Tensor, offsets: Tensor, owner: Tensor, index: Tensor, vector: Tensor) -> Tensor:
    terms = values + vector.index_select(0, index)
    top = torch.segment_reduce(terms, "max", offsets=offsets, initial=-torch.inf)
    top = torch.where(top.isfinite(), top, 0.0)
    total = torch.zeros_like(top).index_add(0, owner, (terms - top.index_select(0, owner)).exp())
    return total.log() + top


def triton_lse_rows(pairs: SparsePairs, v: Tensor, y: Tensor) -> Tensor:
    return segment_logsumexp(v, pairs.support.crow, pairs.support.col, y)


def triton_lse_cols(pairs: SparsePairs, v: Tensor, x: Tensor) -> Tensor:
    return segment_logsumexp(v, pairs.support.ccol, pairs.support.trow, x)


def torch_lse_rows(pairs: SparsePairs, v: Tensor, y: Tensor) -> Tensor:
    s = pairs.support
    return torch_logsumexp(v, s.crow, s.row, s.col, y)


def torch_lse_cols(pairs: SparsePairs, v: Tensor, x: Tensor) -> Tensor:
    s = pairs.support
    return torch_logsumexp(v, s.ccol, s.tcol, s.trow, x)


def csr_maps(m: Tensor, pairs: Any) -> tuple[Any, Any]:
    by_row, by_col = csr(m, pairs.support), csr_transposed(m, pairs.support)
    return (lambda v: by_row @ v), (lambda u: by_col @ u)


def triton_maps(m: Tensor, pairs: Any) -> tuple[Any, Any]:
    s, m_cols = pairs.support, pairs.in_columns(m)
    return (
        lambda v: segment_sum_product(m, s.crow, s.col, v),
        lambda u: segment_sum_product(m_cols, s.ccol, s.trow, u),
    )


def torch_maps(m: Tensor, pairs: Any) -> tuple[Any, Any]:
    s = pairs.support
    return (
        lambda v: v.new_zeros(s.shape[0]).index_add(0, s.row, m * v.index_select(0, s.col)),
        lambda u: u.new_zeros(s.shape[1]).index_add(0, s.col, m * u.index_select(0, s.row)),
    )


@contextmanager
def solved_by(way: str) -> Iterator[None]:
    """The solver with this way of summing, whichever it would choose itself."""
    logsumexps = (torch_lse_rows, torch_lse_cols) if way == "torch" else (triton_lse_rows, triton_lse_cols)
    with ExitStack() as stack:
        stack.enter_context(patch.object(loop, "has_fast_path", lambda pairs: way == "csr"))
        stack.enter_context(patch.object(SparsePairs, "lse_rows", logsumexps[0]))
        stack.enter_context(patch.object(SparsePairs, "lse_cols", logsumexps[1]))
        maps = {"csr": csr_maps, "triton": triton_maps, "torch": torch_maps}[way]
        stack.enter_context(patch.object(implicit, "plan_maps", maps))
        yield


class Clock:
    """Milliseconds of work on a device: CUDA events, or the wall clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def measure(self, work: Callable[[], object], times: int = 1) -> float:
        """Of one call, the mean of `times` in a row."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            for _ in range(times):
                work()
            return 1e3 * (time.perf_counter() - began) / times
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        begin.record()
        for _ in range(times):
            work()
        end.record()
        torch.cuda.synchronize(self.device)
        return begin.elapsed_time(end) / times

    def median(self, work: Callable[[], object], repeats: int, times: int = 1) -> float:
        """After one call that is not counted."""
        work()
        return statistics.median(self.measure(work, times) for _ in range(repeats))


def bandwidths(clock: Clock, repeats: int, elements: int) -> dict[str, float]:
    """GB/s of reading (a sum) and of a triad a = b + 2 c, far beyond any cache."""
    a, b, c = (torch.ones(elements, device=clock.device) for _ in range(3))
    read = clock.median(lambda: b.sum(), repeats)
    triad = clock.median(lambda: torch.add(b, c, alpha=2.0, out=a), repeats)
    return {"read": 4e-6 * elements / read, "triad": 12e-6 * elements / triad}


def solve(cost: SparseCost) -> Any:
    return solve_transport(cost, max_iter=ITERATIONS, tol=0, gradient="none")


def plan_error(cost: SparseCost, way: str, reference: Tensor) -> float:
    """Largest difference to the float64 plan, relative to that plan's largest entry."""
    with solved_by(way):
        plan = solve(cost).plan_values
    return float((plan.double() - reference).abs().max() / reference.max())


def peak_mib(cost: SparseCost, way: str) -> float | None:
    """Memory of a solve beyond what was held before."""
    device = cost.values.device
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    with solved_by(way):
        solve(cost)
    return (torch.cuda.max_memory_allocated(device) - held) / 2**20


def gradient_ms(cost: SparseCost, way: str, clock: Clock) -> float:
    """The backward of a random weighting of the plan alone."""
    values = cost.values.clone().requires_grad_()
    with solved_by(way):
        result = solve_transport(SparseCost(values, cost.support), max_iter=ITERATIONS, tol=0)
        loss = (result.plan_values * cost.values).sum() * len(cost.support.crow)
        return clock.measure(lambda: loss.backward())


def passes(cost: SparseCost, clock: Clock, repeats: int) -> dict[str, float]:
    """Milliseconds of single passes over the pairs, 20 in a row."""
    s, values = cost.support, -cost.values
    in_cols = values.index_select(0, s.perm)
    y, x = torch.rand_like(values[: s.shape[1]]), torch.rand_like(values[: s.shape[0]])
    by_row, by_col = csr(values, s), csr_transposed(values, s)
    works = {
        "torch CSR product, rows": lambda: by_row @ y,
        "torch CSR product, columns": lambda: by_col @ x,
        "Triton product, rows": lambda: segment_sum_product(values, s.crow, s.col, y),
        "Triton product, columns": lambda: segment_sum_product(in_cols, s.ccol, s.trow, x),
        "Triton log-sum-exp, rows": lambda: segment_logsumexp(values, s.crow, s.col, y),
        "Triton log-sum-exp, columns": lambda: segment_logsumexp(in_cols, s.ccol, s.trow, x),
        "torch log-sum-exp, rows": lambda: torch_logsumexp(values, s.crow, s.row, s.col, y),
        "torch log-sum-exp, columns": lambda: torch_logsumexp(in_cols, s.ccol, s.tcol, s.trow, x),
    }
    return {
        name: clock.median(work, repeats, times=20 if clock.device.type == "cuda" else 1)
        for name, work in works.items()
    }


def race(tokens: int, k: int, clock: Clock, repeats: int, read: float) -> dict[str, Any]:
    """Everything about one size; the ways take turns."""
    cost = synthetic(tokens, k, clock.device)
    with solved_by("torch"):
        reference = solve(SparseCost(cost.values.double(), cost.support)).plan_values
    errors = {way: plan_error(cost, way, reference) for way in WAYS}  # also the first, uncounted call
    del reference
    solves: dict[str, list[float]] = {way: [] for way in WAYS}
    gradients: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(repeats + 1):
        for way in WAYS:
            with solved_by(way):
                took = clock.measure(lambda: solve(cost))
            back = gradient_ms(cost, way, clock)
            if turn:
                solves[way].append(took)
                gradients[way].append(back)
    work = 2 * ITERATIONS * cost.support.nnz * 8
    medians = {way: statistics.median(times) for way, times in solves.items()}
    return {
        "tokens": tokens,
        "k": k,
        "pairs": cost.support.nnz,
        "longest_column": int(cost.support.ccol.diff().max()),
        "bound_ms": work / read / 1e6,
        "solve_ms": medians,
        "solve_ms_all": solves,
        "reached_gb_per_s": {way: work / ms / 1e6 for way, ms in medians.items()},
        "gradient_ms": {way: statistics.median(times) for way, times in gradients.items()},
        "gradient_ms_all": gradients,
        "plan_error": errors,
        "peak_mib": {way: peak_mib(cost, way) for way in WAYS},
        "pass_ms": passes(cost, clock, repeats),
    }


def report(results: dict[str, Any]) -> None:
    rows = results["sizes"]
    print("Ratios of median times of 30 iterations (above 1: Triton is faster); last: Triton's time over the bound")
    print("  tokens    k csr/triton torch/triton csr/triton, gradient over bound")
    for r in rows:
        ms, back = r["solve_ms"], r["gradient_ms"]
        print(
            f"{r['tokens']:>8} {r['k']:>4} {ms['csr'] / ms['triton']:>10.2f} {ms['torch'] / ms['triton']:>12.2f} "
            f"{back['csr'] / back['triton']:>20.2f} {ms['triton'] / r['bound_ms']:>10.2f}"
        )
    bandwidth = results["bandwidth_gb_per_s"]
    print(f"\n{results['device']}: read {bandwidth['read']:.0f} GB/s, triad {bandwidth['triad']:.0f} GB/s")
    print(f"host: {results['instructions']}, {results['threads']} threads")
    for r in rows:
        print(f"\nn = m = {r['tokens']}, k = {r['k']}: {r['pairs']} pairs, longest column {r['longest_column']}")
        print(f"{'':>8} {'solve ms':>9} {'GB/s':>7} {'gradient ms':>11} {'plan error':>11} {'peak MiB':>9}")
        for way in WAYS:
            peak = r["peak_mib"][way]
            print(
                f"{way:>8} {r['solve_ms'][way]:>9.3f} {r['reached_gb_per_s'][way]:>7.0f} {r['gradient_ms'][way]:>11.3f}"
                f" {r['plan_error'][way]:>11.1e} {'-' if peak is None else f'{peak:.0f}':>9}"
            )
        for name, ms in r["pass_ms"].items():
            print(f"    {name:<28} {1e3 * ms:>9.1f} us {r['pairs'] * 8 / ms / 1e6:>7.0f} GB/s")


def machine(device: torch.device) -> dict[str, Any]:
    import triton

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()}), interpreted"
    return {
        "device": name,
        "capability": list(torch.cuda.get_device_capability(device)) if device.type == "cuda" else None,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def main() -> int:
    if "--job" in sys.argv:
        from job_at_size import main as whole_job

        sys.argv.remove("--job")
        whole_job()
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="tokens:k")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="a JSON file for every number")
    parser.add_argument("--interpret-smoke", action="store_true", help="only see whether this script runs, on the CPU")
    options = parser.parse_args()
    if options.interpret_smoke:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton's first import
        options.sizes, options.repeats = ["40:4"], 1
    elif not torch.cuda.is_available():
        print(
            "bench_gpu needs a CUDA device, but torch finds none here; --interpret-smoke runs without", file=sys.stderr
        )
        return 2
    device = torch.device("cpu") if options.interpret_smoke else torch.device("cuda", torch.cuda.current_device())
    if not has_triton(device):
        print(f"Triton does not serve {device} here; install a torch build that brings triton", file=sys.stderr)
        return 2
    clock = Clock(device)
    results: dict[str, Any] = machine(device)
    results["iterations"], results["repeats"] = ITERATIONS, options.repeats
    bandwidth = bandwidths(clock, options.repeats, 2**16 if options.interpret_smoke else 2**28)
    results["bandwidth_gb_per_s"] = bandwidth
    sizes = [tuple(int(part) for part in size.split(":")) for size in options.sizes]
    results["sizes"] = [race(tokens, k, clock, options.repeats, bandwidth["read"]) for tokens, k in sizes]
    if options.interpret_smoke:
        print("Smoke run in Triton's interpreter on the CPU: the times below mean nothing.\n")
    report(results)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"\nevery number: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
