"""Our contenders: the loop alone, whole calls, gradients, pairs, the training step; each a factory for `worker.py`."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from problems import CLASSES, EPSILON, ITERATIONS, TAU, load
from worker import Contender, memory_mib

import saot
from saot.recipes import CostRecipe, TransportRecipe
from saot.transfer.cost import Prototypes, SemanticCost, class_prototypes
from saot.transfer.fit import TargetExample, pair_loss
from saot.transfer.labels import diversity_loss, entropy_loss, point_loss, transfer_labels
from saot.transfer.supports import pair_support
from saot.transport import SolveSettings, SparseCost, Support, solve_transport, topk_candidates
from saot.transport.loop import iterate
from saot.transport.problem import build_problem
from saot.transport.updates import KernelUpdates, State

VERSIONS = {"saot": getattr(saot, "__version__", "here"), "torch": torch.__version__}
Gradient = Literal["implicit", "unrolled"]


def ours_loop(cost: SparseCost, iterations: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """The solver's loop alone on a checked problem, to its potentials f, g: what training repeats.

    The one place that knows how the library's inside is called.
    """
    problem = build_problem(cost, None, None, EPSILON, TAU, "product").detach()
    settings = SolveSettings(max_iter=iterations, tol=0, gradient="none")

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            end = iterate(problem, settings)
        return end.f, end.g

    return run


def ours_updates(cost: SparseCost, iterations: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """The row and column updates by themselves: the stored kernel is ready as well."""
    problem = build_problem(cost, None, None, EPSILON, TAU, "product").detach()
    updates, start = KernelUpdates(problem), State(torch.zeros_like(problem.cols.weight))

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            x, y = updates.sweeps(start, iterations)
            return updates.f(x), updates.g(y)

    return run


def folder_cost(folder: str) -> SparseCost:
    """The folder's cost on its support."""
    row, col, values, cost = load(folder, "row", "col", "values", "cost")
    support = Support.from_pairs(torch.from_numpy(row), torch.from_numpy(col), cost.shape)
    return SparseCost(torch.from_numpy(values), support)


def random_cost(tokens: int, k: int) -> SparseCost:
    """An unkind support: k targets of each source drawn evenly from all, costs even in [0, 2]."""
    generator = torch.Generator().manual_seed(0)
    col = torch.randint(tokens, (tokens * k,), generator=generator, dtype=torch.int32)
    row = torch.arange(tokens, dtype=torch.int32).repeat_interleave(k)
    support = Support.from_pairs(row, col, (tokens, tokens))
    return SparseCost(2 * torch.rand(support.nnz, generator=generator), support)


def plan_from(cost: SparseCost, f: torch.Tensor, g: torch.Tensor) -> np.ndarray:
    """The plan of potentials, Eq. (1), in float64."""
    n, m = cost.shape
    exponent = f.double()[cost.support.row.long()] + g.double()[cost.support.col.long()] - cost.values.double()
    return (exponent / EPSILON).exp().div(n * m).numpy()


def loop(folder: str) -> Contender:
    """Support, transpose and checked problem ready."""
    cost = folder_cost(folder)
    return Contender(
        ours_loop(cost, ITERATIONS), lambda ends: plan_from(cost, *ends), VERSIONS, {"pairs": cost.values.numel()}
    )


def updates(folder: str) -> Contender:
    """Support, transpose and checked problem ready."""
    cost = folder_cost(folder)
    return Contender(
        ours_updates(cost, ITERATIONS), lambda ends: plan_from(cost, *ends), VERSIONS, {"pairs": cost.values.numel()}
    )


def whole(folder: str) -> Contender:
    """`solve_transport`, from cost to plan, values and certificates."""
    cost = folder_cost(folder)

    def run() -> saot.TransportResult:
        return solve_transport(cost, epsilon=EPSILON, tau=TAU, max_iter=ITERATIONS, tol=0, gradient="none")

    return Contender(run, lambda result: result.plan_values.numpy(), VERSIONS)


def gradient(how: Gradient, folder: str = "", tokens: int = 0, k: int = 0) -> Contender:
    """Solve and gradient of sum(w * plan) with respect to the cost, on a folder's problem or a random support."""
    if folder:
        cost = folder_cost(folder)
        row, col, w = load(folder, "row", "col", "w")
        weights = torch.from_numpy(w[row, col])
    else:
        cost = random_cost(tokens, k)
        weights = torch.randn(cost.values.numel(), generator=torch.Generator().manual_seed(1))

    def run(iterations: int = ITERATIONS) -> torch.Tensor:
        values = cost.values.clone().requires_grad_()
        sparse = SparseCost(values, cost.support)
        result = solve_transport(sparse, epsilon=EPSILON, tau=TAU, max_iter=iterations, tol=0, gradient=how)
        (weights * result.plan_values).sum().backward()
        assert values.grad is not None
        return values.grad

    saved = {}
    if folder:
        for iterations in (10, 30, 300):
            with counted_saves() as count:
                run(iterations)
            saved[str(iterations)] = count
    return Contender(run, lambda grad: grad.numpy(), VERSIONS, {"saved": saved})


@contextmanager
def counted_saves() -> Iterator[dict[str, float]]:
    """Number of tensors that autograd saves, and their MiB, each storage counted once."""
    count, seen = {"tensors": 0, "mib": 0.0}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        count["tensors"] += 1
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = tensor  # kept, so that no address is used twice
            count["mib"] += storage.nbytes() / 2**20
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield count


class _Clock:
    """Seconds of the parts of one call, by name."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._began = self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.parts[name], self._last = now - self._last, now

    def stop(self) -> dict[str, float]:
        return {**self.parts, "total": self._last - self._began}


def _features(folder: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    names = ("source", "target", "source_labels", "target_labels")
    source, target, labels, truth = (torch.from_numpy(array) for array in load(folder, *names))
    return source, target, labels, truth


def learned_cost(source: torch.Tensor, labels: torch.Tensor) -> tuple[SemanticCost, Prototypes]:
    """A new ground cost, Eq. (3), and the prototypes it looks at."""
    prototypes = class_prototypes(source, labels, CLASSES)
    torch.manual_seed(0)
    return SemanticCost(source.shape[-1], CostRecipe(), prototypes), prototypes


def pair(folder: str, k: int, learned: bool) -> Contender:
    """One pair, candidates to labels: with the learned cost (256-d, semantic prior) or the fixed |x - y|^2."""
    source, target, labels, truth = _features(folder)
    cost = learned_cost(source, labels)[0].eval() if learned else None
    recipe = TransportRecipe(k=k, max_iter=ITERATIONS, tol=0)

    def run() -> dict[str, float]:
        with torch.no_grad():
            clock = _Clock()
            found = topk_candidates(source, target, recipe.k)
            clock.mark("candidates")
            if cost is None:
                values = found.squared_euclidean_cost()  # 2 - 2 cos of the similarities found
            else:
                values = cost(source, labels, target, support=found.support)
            clock.mark("cost")
            result = solve_transport(
                values, epsilon=EPSILON, tau=TAU, max_iter=recipe.max_iter, tol=recipe.tol, gradient="none"
            )
            clock.mark("solve")
            probs = transfer_labels(result, labels, CLASSES).probs
            clock.mark("labels")
            assert float((probs.argmax(-1) == truth).float().mean()) > 2 / CLASSES
            return clock.stop()

    return Contender(run, versions=VERSIONS)


def step(folder: str) -> Contender:
    """One training step of Algorithm 1, by part; "as called" is the same through `pair_loss`."""
    source, target, labels, truth = _features(folder)
    cost, _ = learned_cost(source, labels)
    recipe = replace(TransportRecipe(), epsilon=EPSILON, tau=TAU, max_iter=ITERATIONS)
    optimizer = torch.optim.AdamW(cost.train().parameters(), lr=cost.config.learning_rate)
    example = declared_points(target, truth, cost.config.points_per_class)

    def by_part() -> dict[str, float]:
        clock = _Clock()
        support = pair_support(source, target, recipe, cost)
        clock.mark("candidates")
        values = cost(source, labels, target, support=support)
        clock.mark("cost")
        result = solve_transport(
            values, epsilon=recipe.epsilon, tau=recipe.tau, max_iter=recipe.max_iter, tol=recipe.tol
        )
        clock.mark("solve")
        transfer = transfer_labels(result, labels, CLASSES)
        clock.mark("transfer")
        points, _ = point_loss(transfer.probs, example.point_tokens, example.point_classes)
        loss = points + 0.1 * entropy_loss(transfer) + 0.05 * diversity_loss(transfer)
        clock.mark("losses")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clock.mark("backward")
        optimizer.step()
        clock.mark("update")
        return clock.stop()

    def as_called() -> float:
        began = time.perf_counter()
        loss, _ = pair_loss(cost, source, labels, example, CLASSES, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return time.perf_counter() - began

    return Contender(lambda: {**by_part(), "as called": as_called()}, versions=VERSIONS)


def declared_points(target: torch.Tensor, truth: torch.Tensor, each: int) -> TargetExample:
    """The first `each` tokens of every class as declared points."""
    chosen = torch.cat([(truth == c).nonzero().squeeze(-1)[:each] for c in range(CLASSES)])
    return TargetExample(target, chosen, truth[chosen].long())


def growth(tokens: int, k: int, parts: str = "loop,whole") -> Contender:
    """The loop alone and the whole call on a random support that is given."""
    began = time.perf_counter()
    cost = random_cost(tokens, k)
    notes = {"pairs": cost.values.numel(), "support_seconds": time.perf_counter() - began}
    notes["support_peak_mib"] = memory_mib("VmHWM")
    calls: dict[str, Callable[[], Any]] = {}
    if "loop" in parts:
        calls["loop"] = ours_loop(cost, ITERATIONS)
    if "whole" in parts:
        calls["whole"] = lambda: solve_transport(
            cost, epsilon=EPSILON, tau=TAU, max_iter=ITERATIONS, tol=0, gradient="none"
        )

    def run() -> dict[str, float]:
        seconds = {}
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name] = time.perf_counter() - began
        return seconds

    return Contender(run, versions=VERSIONS, notes=notes)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning of a solve that was cut short on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
