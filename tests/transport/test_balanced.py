"""Balanced transport: marginals, and proofs that there is none."""

import math

import pytest
import torch
from helpers.transport import (
    DOUBLE,
    infeasible,
    objective,
    sample,
    solve,
)
from torch.testing import assert_close

from saot.transport import SparseCost, Support, TransportError, TransportStatus, solve_transport


def test_balanced_values_and_marginals():
    s = sample(13, balanced=True)
    for cost, dense in ((s.cost, s.cost), (s.sparse, s.masked)):
        result = solve(cost, s.a, s.b, 0.1, math.inf, tol=1e-13)
        assert bool(result.converged)
        assert_close(result.marginals, (s.a, s.b), rtol=1e-11, atol=0)
        assert_close(result.value, objective(result.plan, dense, s.a, s.b, 0.1, math.inf), rtol=1e-12, atol=0)
        assert_close(result.dual_value, result.value, rtol=1e-11, atol=0)
        f, g = result.potentials
        assert_close((s.a * f).sum(), (s.b * g).sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("kind", ["masses", "row", "column", "hall"])
def test_infeasible_balanced_is_told_once_and_finite(sparse, kind, reference):
    cost, a, b = infeasible(kind)
    cost.requires_grad_()
    problem = cost
    if sparse:
        rows, cols = torch.nonzero(cost.isfinite(), as_tuple=True)
        problem = SparseCost(cost[rows, cols], Support.from_pairs(rows, cols, (6, 5)))
    with pytest.warns(UserWarning, match="INFEASIBLE.*use a finite tau") as caught:
        result = solve_transport(problem, a, b, tau=math.inf, reference=reference)
    assert len(caught) == 1
    assert result.status == TransportStatus.INFEASIBLE
    assert not bool(result.converged)
    for t in (result.plan, result.value, result.dual_value, result.gap, result.mass, result.residual):
        assert bool(t.isfinite().all())
    assert not any(bool(p.isnan().any()) for p in result.potentials)
    rows, cols = result.marginals
    assert_close(result.residual, (rows - a).abs().sum() + (cols - b).abs().sum(), rtol=1e-9, atol=1e-12)
    for field in (result.plan, result.value, result.mass, result.potentials[0]):
        with pytest.raises(TransportError, match=r"has no gradient of its solution.*unrolled") as refused:
            torch.autograd.grad(torch.where(field.isfinite(), field, 0.0).square().sum(), cost, retain_graph=True)
        assert refused.value.status == TransportStatus.INFEASIBLE


def test_infeasible_member_leaves_its_batch_alone():
    bad, a, b = infeasible("hall")
    good = torch.rand(6, 5, dtype=DOUBLE)
    with pytest.warns(UserWarning, match=r"in 1 of 2 problems, the first at \[\(1,\)\]"):
        result = solve_transport(torch.stack([good, bad]), a, b, tau=math.inf, max_iter=500, tol=1e-8)
    assert result.status.tolist() == [TransportStatus.CONVERGED, TransportStatus.INFEASIBLE]
    assert torch.equal(result.plan[0], solve_transport(good, a, b, tau=math.inf, max_iter=500, tol=1e-8).plan)


def test_a_member_without_a_plan_may_be_left_out_of_a_loss():
    bad, a, b = infeasible("hall")
    good = torch.rand(6, 5, dtype=DOUBLE, requires_grad=True)
    batch = torch.stack([good, bad])
    with pytest.warns(UserWarning, match="INFEASIBLE"):
        result = solve_transport(batch, a, b, tau=math.inf, tol=1e-9)
    (gradient,) = torch.autograd.grad(result.plan[result.converged].square().sum(), good, retain_graph=True)
    alone = solve_transport(good, a, b, tau=math.inf, tol=1e-9)
    assert_close(gradient, torch.autograd.grad(alone.plan.square().sum(), good)[0], rtol=1e-9, atol=1e-12)
    with pytest.raises(TransportError, match=r"problems \[\(1,\)\]") as refused:
        result.value.sum().backward()
    assert refused.value.indices == ((1,),)


def test_the_gradient_of_sweeps_that_miss_the_marginals_is_told_and_that_of_the_sweeps_right():
    cost = torch.full((3, 3), math.inf, dtype=DOUBLE)
    cost[0, 0] = cost[1, 0] = cost[1, 1] = cost[2, 1] = cost[2, 2] = 1.0  # a plan exists, but sweeps creep
    cost.requires_grad_()
    settings = {"epsilon": 0.1, "tau": math.inf, "max_iter": 20, "tol": 0}
    with pytest.warns(UserWarning, match="misses its marginals by .* not that of its sweeps.*unrolled"):
        torch.autograd.grad(solve_transport(cost, **settings).plan.square().sum(), cost)
    (unrolled,) = torch.autograd.grad(solve_transport(cost, **settings, gradient="unrolled").plan.square().sum(), cost)
    step = torch.zeros_like(cost)
    step[1, 0] = 1e-6
    up, down = (solve_transport(cost.detach() + s * step, **settings).plan.square().sum() for s in (1, -1))
    assert_close(unrolled[1, 0], (up - down) / 2e-6, rtol=1e-6, atol=0)


def test_tight_but_feasible_support_is_not_called_infeasible():
    cost = torch.full((3, 3), math.inf, dtype=DOUBLE)
    cost[0, 0] = cost[1, 0] = cost[1, 1] = cost[2, 1] = cost[2, 2] = cost[0, 2] = 1.0
    cost[0, 2] = math.inf  # triangular: the identity is the only plan, and the iteration creeps towards it
    with pytest.warns(UserWarning, match="MAX_ITER"):
        result = solve_transport(cost, epsilon=0.1, tau=math.inf, max_iter=50, tol=1e-6)
    assert result.status == TransportStatus.MAX_ITER


def test_the_gauge_has_the_slope_of_a_first_grain_of_weight():
    """One-sided differences: balanced potentials as a token of weight zero gets some, and its partner as much."""
    s = sample(47, balanced=True)
    a, b, step = s.a.clone(), s.b.clone(), 1e-5
    a[2] = 0
    b = b * a.sum() / b.sum()

    def potentials(grain):
        one, two = a.clone(), b.clone()
        one[2], two[1] = one[2] + grain, two[1] + grain
        inputs = [one.requires_grad_(), two.requires_grad_()]
        result = solve(s.cost, *inputs, 0.2, math.inf)
        return inputs, (result.potentials[0] * torch.arange(9)).sum() + (result.potentials[1] * torch.arange(7)).sum()

    inputs, number = potentials(0.0)
    gradient = torch.autograd.grad(number, inputs)
    values = [float(potentials(i * step)[1].detach()) for i in range(3)]
    slope = (4 * values[1] - 3 * values[0] - values[2]) / (2 * step)
    assert_close(float(gradient[0][2] + gradient[1][1]), slope, rtol=1e-4, atol=1e-6)
