"""How right second derivatives are: Hessian-vector products against differences of first gradients, in float64.

    python benchmarks/transport/second.py

prints a markdown table: for each output of `solve_transport`, mode and kind of cost, the largest error over seeded
random problems, relative to the largest entry of the product. A problem has 7 sources, 6 targets, costs up to 10 times
epsilon, weights of its own, and every second one the counting reference; the direction is random and goes through cost,
a, b, epsilon and tau together (balanced: with both masses kept). Differences are of fourth order, so that what is
left of their own error is rounding, some 1e-10. The mass of balanced transport is given, not solved for, and left out.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tables import table
from torch import Tensor

from saot.transport import SparseCost, Support, TransportResult, solve_transport

SHAPE = (7, 6)
EPSILON, TAU = 0.2, 0.3
STEP = 1e-4
STENCIL = {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12}
OUTPUTS = ("value", "mass", "plan", "plan_values", "potentials", "marginals", "apply", "apply_transpose")
WAYS = [(mode, sparse) for mode in ("implicit", "unrolled") for sparse in (False, True)]


@dataclass(frozen=True)
class Problem:
    """Cost, a, b, epsilon and, if not balanced, tau; a direction for each; and random numbers for the outputs."""

    values: list[Tensor]
    directions: list[Tensor]
    support: Support
    reference: str
    onto: Tensor  # (n, m)


def problem(seed: int, balanced: bool) -> Problem:
    """A random problem; its weights are the marginals of some plan on the support, so that all are feasible."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    n, m = SHAPE
    keep = (uniform(n, m) < 0.5) | torch.eye(n, m, dtype=torch.bool)
    keep[m:, 0] = True
    plan = keep * (uniform(n, m) + 0.1)
    a, b = plan.sum(1) / plan.sum(), plan.sum(0) / plan.sum() * (1.0 if balanced else 1.3)
    scales = [torch.tensor(x, dtype=torch.float64) for x in ((EPSILON,) if balanced else (EPSILON, TAU))]
    values = [10 * EPSILON * uniform(n, m), a, b, *scales]
    directions = [v * (2 * uniform(*v.shape) - 1) for v in values]  # no number changes by more than itself
    if balanced:
        directions[1:3] = [d - w * d.sum() / w.sum() for d, w in zip(directions[1:3], (a, b), strict=True)]
    support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), SHAPE)
    return Problem(values, directions, support, ("product", "counting")[seed % 2], 2 * uniform(n, m) - 1)


def numbers(result: TransportResult, onto: Tensor) -> dict[str, Tensor]:
    """One number of each output."""
    x, y = onto[:, :1], onto[:1].T
    (f, g), (r, c) = result.potentials, result.marginals
    found = (
        result.value,
        result.mass,
        (result.plan * onto).sum(),
        result.plan_values.square().sum(),
        (f * x[:, 0]).sum() + (g * y[:, 0]).sum(),
        (r * x[:, 0]).sum() + (c.square() * y[:, 0]).sum(),
        (result.apply(x) * y).sum(),
        result.apply_transpose(y).square().sum(),
    )
    return dict(zip(OUTPUTS, found, strict=True))


def gradients(
    of: Problem, values: Sequence[Tensor], mode: str, sparse: bool, again: bool
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The inputs, and for each output its gradients in all of them as one vector; with a graph if `again`."""
    inputs = [v.detach().clone().requires_grad_() for v in values]
    cost, a, b, epsilon, *rest = inputs
    pairs = SparseCost(cost[of.support.row.long(), of.support.col.long()], of.support)
    accuracy = {"max_iter": 20_000, "tol": 1e-14} if mode == "implicit" else {"max_iter": 2000, "tol": 1e-13}
    tau = rest[0] if rest else math.inf
    settings = {"reference": of.reference, "gradient": mode, **accuracy}
    result = solve_transport(pairs if sparse else pairs.dense(), a, b, epsilon, tau, **settings)
    found = {}
    for name, number in numbers(result, of.onto).items():
        each = torch.autograd.grad(number, inputs, retain_graph=True, create_graph=again, materialize_grads=True)
        found[name] = torch.cat([g.flatten() for g in each])
    return inputs, found


def errors(of: Problem) -> Iterator[tuple[str, tuple[str, bool], float]]:
    """Output, mode with kind of cost, and relative error of the second derivatives along the direction."""
    along = torch.cat([d.flatten() for d in of.directions])
    for sparse in (False, True):
        expected = dict.fromkeys(OUTPUTS, 0.0)
        for place, weight in STENCIL.items():
            moved = [v + place * STEP * d for v, d in zip(of.values, of.directions, strict=True)]
            _, first = gradients(of, moved, "implicit", sparse, again=False)
            expected = {name: expected[name] + weight / STEP * first[name] for name in OUTPUTS}
        for mode in ("implicit", "unrolled"):
            inputs, first = gradients(of, of.values, mode, sparse, again=True)
            for name in OUTPUTS:
                if name == "mass" and len(of.values) == 4:
                    continue
                slope = first[name] @ along
                product = torch.autograd.grad(slope, inputs, retain_graph=True, materialize_grads=True)
                exact = torch.as_tensor(expected[name])
                error = (torch.cat([p.flatten() for p in product]) - exact).abs().max() / exact.abs().max()
                yield name, (mode, sparse), float(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=24, help="how many, unbalanced and balanced each")
    count = parser.parse_args().problems
    worst = {(name, way): 0.0 for name in OUTPUTS for way in WAYS}
    for seed in range(count):
        for balanced in (False, True):
            for name, way, error in errors(problem(seed, balanced)):
                worst[name, way] = max(worst[name, way], error)
    head = ["second derivatives of", *(f"{mode}, {'sparse' if sparse else 'dense'}" for mode, sparse in WAYS)]
    rows = [[f"`{name}`", *(f"{worst[name, way]:.0e}" for way in WAYS)] for name in OUTPUTS]
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
