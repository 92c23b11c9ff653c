"""The peers on the dense problem: POT, OTT and geomloss. (A plain torch loop on the sparse one is in `plain.py`.)

Settings map as follows; each contender's plan is checked against the float64 solution of the problem it solves.
POT: reg, reg_m = epsilon, tau with reg_type "kl". OTT: tau_a = tau_b = tau / (tau + epsilon), counting reference.
geomloss: reg, unbalanced = epsilon, tau; it anneals epsilon and averages updates, so that 30 iterations are not exact.
"""

import importlib
from importlib import metadata
from typing import Any

import numpy as np
import torch
from problems import EPSILON, ITERATIONS, TAU, load
from worker import Contender


def _versions(*names: str) -> dict[str, str]:
    return {name: metadata.version(name) for name in names}


def _imported(name: str) -> Any:
    """A peer's module; a peer that is not installed shows as "not run" with this reason."""
    return importlib.import_module(name)


def _uniform(n: int) -> np.ndarray:
    return np.full(n, 1 / n, dtype=np.float32)


def pot(folder: str, method: str) -> Contender:
    """POT's `sinkhorn_unbalanced` on numpy arrays: "sinkhorn", "sinkhorn_stabilized", ..."""
    ot = _imported("ot")
    (cost,) = load(folder, "cost")
    a, b = _uniform(cost.shape[0]), _uniform(cost.shape[1])

    def run() -> np.ndarray:
        return ot.unbalanced.sinkhorn_unbalanced(a, b, cost, EPSILON, TAU, **pot_settings(method))

    return Contender(run, lambda plan: plan, _versions("POT", "numpy"))


def pot_torch(folder: str, method: str) -> Contender:
    """The same on torch tensors, without gradients."""
    ot = _imported("ot")
    cost = torch.from_numpy(load(folder, "cost")[0])
    a, b = (torch.from_numpy(_uniform(n)) for n in cost.shape)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return ot.unbalanced.sinkhorn_unbalanced(a, b, cost, EPSILON, TAU, **pot_settings(method))

    return Contender(run, lambda plan: plan.numpy(), _versions("POT", "torch"))


def pot_gradient(folder: str, method: str = "sinkhorn") -> Contender:
    """POT's torch backend: autograd through its iterations."""
    ot = _imported("ot")
    cost, w = (torch.from_numpy(array) for array in load(folder, "cost", "w"))
    a, b = (torch.from_numpy(_uniform(n)) for n in cost.shape)

    def run() -> torch.Tensor:
        leaf = cost.clone().requires_grad_()
        plan = ot.unbalanced.sinkhorn_unbalanced(a, b, leaf, EPSILON, TAU, **pot_settings(method))
        (w * plan).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    return Contender(run, lambda grad: grad.numpy(), _versions("POT", "torch"))


def pot_settings(method: str) -> dict[str, Any]:
    """POT's arguments for 30 iterations without a tolerance."""
    return {"method": method, "reg_type": "kl", "numItermax": ITERATIONS, "stopThr": 0.0, "warn": False}


def ott_plan(lse: bool, implicit: bool, iterations: int = ITERATIONS) -> Any:
    """Cost to plan by OTT; one error check, at the end, since a number of iterations is asked for."""
    linear = _imported("ott.solvers.linear.sinkhorn")
    problem = _imported("ott.problems.linear.linear_problem")
    geometry = _imported("ott.geometry.geometry")
    differentiation = _imported("ott.solvers.linear.implicit_differentiation")
    damping = TAU / (TAU + EPSILON)
    solver = linear.Sinkhorn(
        lse_mode=lse,
        threshold=0.0,
        inner_iterations=iterations,
        min_iterations=iterations,
        max_iterations=iterations,
        implicit_diff=differentiation.ImplicitDiff() if implicit else None,
    )

    def plan(cost: Any) -> Any:
        geom = geometry.Geometry(cost_matrix=cost, epsilon=EPSILON, relative_epsilon=None)
        return solver(problem.LinearProblem(geom, tau_a=damping, tau_b=damping)).matrix

    return plan


def ott(folder: str, lse: bool) -> Contender:
    """OTT on the dense cost, compiled: in the log domain, or its scaling ("kernel") mode."""
    jax = _imported("jax")
    cost = jax.numpy.asarray(load(folder, "cost")[0])
    solve = jax.jit(ott_plan(lse, implicit=True))
    return Contender(lambda: solve(cost).block_until_ready(), np.asarray, _versions("ott-jax", "jax"))


def ott_gradient(folder: str, lse: bool, implicit: bool) -> Contender:
    """OTT: `jax.grad` of the loss on the plan, by implicit differentiation or through the iterations; compiled."""
    jax = _imported("jax")
    cost, w = (jax.numpy.asarray(array) for array in load(folder, "cost", "w"))
    plan = ott_plan(lse, implicit)
    grad = jax.jit(jax.grad(lambda c: jax.numpy.sum(w * plan(c))))
    return Contender(lambda: grad(cost).block_until_ready(), np.asarray, _versions("ott-jax", "jax"))


def geomloss(folder: str, iterations: int = ITERATIONS) -> Contender:
    """geomloss's `ot.solve` on the dense cost."""
    ot = _imported("geomloss.ot")
    cost = torch.from_numpy(load(folder, "cost")[0])

    def run() -> torch.Tensor:
        with torch.no_grad():
            return ot.solve(cost, reg=EPSILON, unbalanced=TAU, max_iter=iterations).plan

    return Contender(run, lambda plan: plan.numpy(), _versions("geomloss", "torch"))


def geomloss_gradient(folder: str, iterations: int = ITERATIONS) -> Contender:
    """The same with the gradient of the loss on its plan."""
    ot = _imported("geomloss.ot")
    cost, w = (torch.from_numpy(array) for array in load(folder, "cost", "w"))

    def run() -> torch.Tensor:
        leaf = cost.clone().requires_grad_()
        (w * ot.solve(leaf, reg=EPSILON, unbalanced=TAU, max_iter=iterations).plan).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    return Contender(run, lambda grad: grad.numpy(), _versions("geomloss", "torch"))
