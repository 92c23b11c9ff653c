"""Solve, gradient, memory and single passes on a synthetic support, all ways taking turns."""

import statistics
from typing import Any

import torch
from gpu.clock import Clock
from gpu.ways import WAYS, solved_by, torch_logsumexp
from torch import Tensor

from saot.transport import SparseCost, Support, TransportResult, solve_transport
from saot.transport.gpu_updates import TritonUpdates
from saot.transport.problem import build_problem
from saot.transport.products import csr, csr_transposed
from saot.transport.triton_kernels import segment_logsumexp, segment_sum_product
from saot.transport.updates import State


def synthetic(tokens: int, k: int, device: torch.device) -> SparseCost:
    """Costs in [0, 2] on about k targets a source; the crowd of target j falls like j ** (-1/3)."""
    generator = torch.Generator(device).manual_seed(tokens)
    place = (tokens * torch.rand(tokens * k, generator=generator, device=device) ** 1.5).long().clamp(max=tokens - 1)
    cols = torch.randperm(tokens, generator=generator, device=device)[place]
    rows = torch.arange(tokens, device=device).repeat_interleave(k)
    support = Support.from_pairs(rows, cols, (tokens, tokens))
    return SparseCost(2 * torch.rand(support.nnz, generator=generator, device=device), support)


def solve(cost: SparseCost, iterations: int) -> TransportResult:
    return solve_transport(cost, max_iter=iterations, tol=0, gradient="none")


def largest_plan_error(cost: SparseCost, way: str, iterations: int, reference: Tensor) -> float:
    """Largest difference to the float64 plan, relative to that plan's largest entry."""
    with solved_by(way):
        plan = solve(cost, iterations).plan_values
    return float((plan.double() - reference).abs().max() / reference.max())


def peak_mib(cost: SparseCost, way: str, iterations: int) -> float | None:
    """Memory of a solve beyond what was held before."""
    device = cost.values.device
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    with solved_by(way):
        solve(cost, iterations)
    return (torch.cuda.max_memory_allocated(device) - held) / 2**20


def gradient_ms(cost: SparseCost, way: str, iterations: int, clock: Clock) -> float:
    """The backward of a random weighting of the plan alone."""
    values = cost.values.clone().requires_grad_()
    with solved_by(way):
        result = solve_transport(SparseCost(values, cost.support), max_iter=iterations, tol=0)
        loss = (result.plan_values * cost.values).sum() * len(cost.support.crow)
        return clock.measure(lambda: loss.backward())


def passes(cost: SparseCost, clock: Clock, repeats: int) -> dict[str, float]:
    """Milliseconds of single passes over the pairs, 20 in a row."""
    s, values = cost.support, -cost.values
    in_cols = values.index_select(0, s.perm)
    y, x = torch.rand_like(values[: s.shape[1]]), torch.rand_like(values[: s.shape[0]])
    by_row, by_col = csr(values, s), csr_transposed(values, s)
    times = 20 if clock.device.type == "cuda" else 1
    updates, start = TritonUpdates(build_problem(cost, None, None, 0.1, 0.3, "product")), State(torch.zeros_like(y))
    sweeps = clock.median(lambda: updates.sweeps(start, times), repeats)
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
    found = {"fused update": sweeps / (2 * times)}
    return found | {name: clock.median(work, repeats, times) for name, work in works.items()}


def race(tokens: int, k: int, iterations: int, clock: Clock, repeats: int, read: float) -> dict[str, Any]:
    """Everything about one size; the ways take turns."""
    cost = synthetic(tokens, k, clock.device)
    with solved_by("torch"):
        reference = solve(SparseCost(cost.values.double(), cost.support), iterations).plan_values
    # also the first call of each, which is not counted
    errors = {way: largest_plan_error(cost, way, iterations, reference) for way in WAYS}
    del reference
    solves: dict[str, list[float]] = {way: [] for way in WAYS}
    gradients: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(repeats + 1):
        for way in WAYS:
            with solved_by(way):
                took = clock.measure(lambda: solve(cost, iterations))
            back = gradient_ms(cost, way, iterations, clock)
            if turn:
                solves[way].append(took)
                gradients[way].append(back)
    work = 2 * iterations * cost.support.nnz * 8
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
        "peak_mib": {way: peak_mib(cost, way, iterations) for way in WAYS},
        "pass_ms": passes(cost, clock, repeats),
    }
