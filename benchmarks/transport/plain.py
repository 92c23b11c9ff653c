"""What one would write in plain torch: the log-domain loop by gather and scatter, and autograd through it."""

import math
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import torch
from ours import folder_cost, random_cost
from problems import EPSILON, ITERATIONS, TAU, load
from worker import Contender

from saot.transport import SparseCost

_VERSIONS = {"torch": metadata.version("torch")}


@dataclass(frozen=True)
class _Pairs:
    """Source and target of each pair, 64-bit as torch's gather wants them; `even` if all sources have as many."""

    rows: torch.Tensor
    cols: torch.Tensor
    shape: tuple[int, int]
    even: bool


def _pairs(cost: SparseCost) -> _Pairs:
    support = cost.support
    counts = support.crow.diff()
    return _Pairs(support.row.long(), support.col.long(), cost.shape, bool(counts.min() == counts.max()))


def _log_sum_exp(terms: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
    top = torch.full((size,), -torch.inf).scatter_reduce(0, index, terms.detach(), "amax")
    top = torch.where(top.isfinite(), top, 0.0)
    return torch.zeros(size).scatter_add(0, index, (terms - top[index]).exp()).log() + top


def _loop(values: torch.Tensor, pairs: _Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Potentials over epsilon; a target without candidates gets 0, and touches nothing."""
    (n, m), damping = pairs.shape, TAU / (TAU + EPSILON)
    log_kernel = -values / EPSILON
    to_rows, to_cols = log_kernel - math.log(m), log_kernel - math.log(n)
    g = torch.zeros(m)
    f = torch.zeros(n)
    for _ in range(ITERATIONS):
        terms = to_rows + g[pairs.cols]
        f = -damping * (terms.view(n, -1).logsumexp(1) if pairs.even else _log_sum_exp(terms, pairs.rows, n))
        lse = _log_sum_exp(to_cols + f[pairs.rows], pairs.cols, m)
        g = -damping * torch.where(lse.isfinite(), lse, 0.0)
    return f, g


def _plan(values: torch.Tensor, pairs: _Pairs, f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    n, m = pairs.shape
    return (f[pairs.rows] + g[pairs.cols] - values / EPSILON).exp() / (n * m)


def gather_scatter(folder: str) -> Contender:
    """The loop alone, index tensors ready."""
    cost = folder_cost(folder)
    pairs = _pairs(cost)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return _loop(cost.values, pairs)

    def answer(ends: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
        return _plan(cost.values.double(), pairs, *(end.double() for end in ends)).numpy()

    return Contender(run, answer, _VERSIONS)


def unrolled(folder: str = "", tokens: int = 0, k: int = 0) -> Contender:
    """Solve and gradient of sum(w * plan) by autograd through the loop."""
    if folder:
        cost = folder_cost(folder)
        row, col, w = load(folder, "row", "col", "w")
        weights = torch.from_numpy(w[row, col])
    else:
        cost = random_cost(tokens, k)
        weights = torch.randn(cost.values.numel(), generator=torch.Generator().manual_seed(1))
    pairs = _pairs(cost)

    def run() -> torch.Tensor:
        values = cost.values.clone().requires_grad_()
        (weights * _plan(values, pairs, *_loop(values, pairs))).sum().backward()
        assert values.grad is not None
        return values.grad

    return Contender(run, lambda grad: grad.numpy(), _VERSIONS)
