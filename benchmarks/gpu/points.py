"""Two clouds of unit vectors with the cost |x - y|^2: ours on each source's k nearest targets, peers on all pairs.

These are two problems, not one. On all pairs every contender does as many iterations of Eq. (8), and plans and
potentials are compared with ours in float64, where a matrix of them fits; there ours runs on all pairs too.
flash-sinkhorn starts as ours does; POT and OTT start elsewhere, which is forgotten after 30 iterations (p^60 = 3e-8).
"""

import functools
import importlib
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from gpu.clock import Clock
from peers import ott_plan, pot_settings
from problems import EPSILON, TAU, planted
from torch import Tensor

from saot.transport import Reference, SparseCost, Support, TransportResult, solve_transport, topk_candidates

DENSE = 7200  # tokens a side up to which matrices of all pairs are made
POT_TOKENS = 2592  # and up to which POT and OTT run on them


class Clouds:
    """Unit vectors (n, d) and (m, d) on the device, and the float64 solutions on all pairs."""

    def __init__(self, tokens: int, dim: int, iterations: int, device: torch.device) -> None:
        data = planted(tokens, dim=dim)  # as the transport benchmark has them
        self.source, self.target = (
            torch.nn.functional.normalize(torch.from_numpy(v).to(device)) for v in (data.source, data.target)
        )
        self.iterations, self.is_small = iterations, tokens <= DENSE

    @property
    def cost(self) -> Tensor:
        """|x - y|^2 of all pairs, (n, m)."""
        return squared_distances(self.source, self.target)

    def solve(self, cost: Tensor | SparseCost, reference: Reference = "product") -> TransportResult:
        """Ours on this cost, as many iterations as everybody's."""
        return solve_transport(cost, None, None, EPSILON, TAU, reference, self.iterations, tol=0, gradient="none")

    @functools.cached_property
    def exact_cost(self) -> Tensor:
        """The same in float64."""
        return squared_distances(self.source.double(), self.target.double())

    def exact(self, reference: Reference) -> TransportResult:
        """Eq. (1), or what Eq. (8) solves as printed, which OTT does: "counting"."""
        return self.solve(self.exact_cost, reference)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return (x.square().sum(-1, keepdim=True) + y.square().sum(-1) - 2 * x @ y.mT).clamp(min=0)


def plan_error(plan: Tensor, reference: Tensor) -> float:
    """L1 over the mass of the float64 plan."""
    return float((plan.double() - reference).abs().sum() / reference.sum())


def errors(found: Any, held: Clouds, reference: Reference) -> dict[str, float]:
    """What a contender's potentials (f, g) or plan miss of the float64 solution of all pairs."""
    if not held.is_small:
        return {}
    exact = held.exact(reference)
    if not isinstance(found, tuple):
        return {"plan_error": plan_error(found, exact.plan)}
    f, g = (v.double() for v in found)
    plan = ((f[:, None] + g - held.exact_cost) / EPSILON).exp() / held.exact_cost.numel()
    return {"potential_error": potential_error(found, exact), "plan_error": plan_error(plan, exact.plan)}


def potential_error(found: tuple[Tensor, ...], exact: TransportResult) -> float:
    """Largest difference of the potentials that are finite."""
    pairs = zip(found, exact.potentials, strict=True)
    return max(float((v.double() - right)[right.isfinite()].abs().max()) for v, right in pairs)


def flash_sinkhorn(held: Clouds, tf32: bool) -> Callable[[], Any]:
    """flash-sinkhorn's alternating solver, which starts and iterates as ours; `tf32` is its default."""
    if not held.source.is_cuda:
        raise LeftOut("flash-sinkhorn refuses tensors that are not on CUDA")
    loss = imported("flash_sinkhorn").SamplesLoss(
        "sinkhorn",
        backend="alternating",
        use_epsilon_scaling=False,
        eps=EPSILON,
        n_iters=held.iterations,
        reach=math.sqrt(TAU),  # its tau is reach^2
        potentials=True,
        allow_tf32=tf32,  # off, coordinates are not rounded either
    )
    return lambda: loss(held.source, held.target)


def pot(held: Clouds, method: str) -> Callable[[], Any]:
    """POT's torch backend, where the tensors are."""
    if len(held.source) > POT_TOKENS:
        raise LeftOut(f"a matrix of all pairs, tried up to {POT_TOKENS} tokens")
    ot, cost = imported("ot"), held.cost
    a, b = (cost.new_full((size,), 1 / size) for size in cost.shape)
    settings = {**pot_settings(method), "numItermax": held.iterations}
    return lambda: ot.unbalanced.sinkhorn_unbalanced(a, b, cost, EPSILON, TAU, **settings)


def ott(held: Clouds, lse: bool) -> Callable[[], Any]:
    """OTT on jax's CUDA device, compiled."""
    if len(held.source) > POT_TOKENS:
        raise LeftOut(f"a matrix of all pairs, tried up to {POT_TOKENS} tokens")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else it takes most of the device's memory
    jax = imported("jax")
    imported("ott")
    if not held.source.is_cuda or jax.default_backend() != "gpu":
        raise LeftOut(f"jax has no CUDA device here, but {jax.default_backend()}")
    cost = jax.numpy.asarray(held.cost.cpu().numpy())
    plan = jax.jit(ott_plan(lse, implicit=True, iterations=held.iterations))
    return lambda: plan(cost).block_until_ready()


class LeftOut(Exception):
    """Why a contender does not run here."""


def imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise LeftOut("not installed here (benchmarks/transport/peers.txt has the versions)") from None


def contenders(held: Clouds) -> dict[str, Callable[[], Callable[[], Any]]]:
    """All that run on all pairs, by name; each makes its call, or raises `LeftOut`."""
    n, m = len(held.source), len(held.target)

    def ours(support: bool) -> Callable[[], Any]:
        if not held.is_small:
            raise LeftOut(f"a matrix of all pairs, tried up to {DENSE} tokens")
        cost = held.cost
        given = SparseCost(cost.flatten(), Support.full(n, m, cost.device)) if support else cost
        return lambda: held.solve(given).potentials

    return {
        "saot, all pairs as a support": lambda: ours(True),
        "saot, all pairs as a matrix": lambda: ours(False),
        "flash-sinkhorn, TF32 on": lambda: flash_sinkhorn(held, True),
        "flash-sinkhorn, TF32 off": lambda: flash_sinkhorn(held, False),
        "POT, sinkhorn": lambda: pot(held, "sinkhorn"),
        "POT, sinkhorn_stabilized": lambda: pot(held, "sinkhorn_stabilized"),
        "OTT, log domain": lambda: ott(held, True),
        "OTT, scaling": lambda: ott(held, False),
    }


def all_pairs(held: Clouds, clock: Clock, repeats: int) -> dict[str, dict[str, Any]]:
    """Milliseconds and errors of each contender on all pairs; or why it was left out."""
    found: dict[str, dict[str, Any]] = {}
    for name, make in contenders(held).items():
        try:
            run = make()
        except LeftOut as reason:
            found[name] = {"left_out": str(reason)}
            continue
        jax = name.startswith("OTT")
        with torch.no_grad():
            milliseconds = (clock.wall_median if jax else clock.median)(run, repeats)
            answer = run()
        if jax:
            answer = torch.from_numpy(importlib.import_module("numpy").asarray(answer)).to(held.source.device)
        found[name] = {"ms": milliseconds, **errors(answer, held, "counting" if jax else "product")}
    return found


def nearest(held: Clouds, k: int, clock: Clock, repeats: int) -> dict[str, Any]:
    """Ours on each source's k nearest targets: the search, the solve, and how near that problem is to all pairs."""
    found = topk_candidates(held.source, held.target, k)
    cost = found.squared_euclidean_cost()
    exact = held.solve(SparseCost(cost.values.double(), cost.support))
    result = held.solve(cost)
    row = {
        "search_ms": clock.median(lambda: topk_candidates(held.source, held.target, k), repeats),
        "ms": clock.median(lambda: held.solve(cost), repeats),
        "potential_error": potential_error(result.potentials, exact),
        "plan_error": plan_error(result.plan_values, exact.plan_values),
    }
    if held.is_small:
        plan, s = held.exact("product").plan, cost.support
        row["mass_of_all_pairs_on_these"] = float(plan[s.row.long(), s.col.long()].sum() / plan.sum())
    return row


def points(tokens: int, k: int, dim: int, iterations: int, clock: Clock, repeats: int) -> dict[str, Any]:
    """Everything about one size."""
    held = Clouds(tokens, dim, iterations, clock.device)
    ours = nearest(held, k, clock, repeats)
    return {"tokens": tokens, "k": k, "dim": dim, "nearest": ours, "all_pairs": all_pairs(held, clock, repeats)}
