"""Warm starts: the same solution, in fewer iterations. Iterations are counted, not seconds."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.iterations import counted
from helpers.transport import DOUBLE, clustered, naive_plan, sample
from torch.testing import assert_close

from saot.transport import (
    FusedSettings,
    PointGeometry,
    SparseCost,
    block_diagonal,
    residual,
    solve_fused,
    solve_transport,
    split_result,
)
from saot.transport.newton import plan_error

TAUS = (0.3, 3.0, 30.0, math.inf)  # plain; accelerated; the same, all but balanced; balanced


def _problem(form, large, seed=3):
    """Cost, a and b, of a plan on the support, so that a balanced one exists; large ones take the scaling form."""
    n, m = (90, 80) if large else (9, 7)
    s = sample(seed, n, m)
    plan = torch.where(s.masked.isfinite(), s.cost, 0.0) + 0.1 * s.masked.isfinite()
    plan = plan / plan.sum()
    return (s.sparse if form == "sparse" else s.cost), plan.sum(1), plan.sum(0)


def _changed(cost, change):
    return SparseCost(cost.values + change, cost.support) if isinstance(cost, SparseCost) else cost + change


def _noise(cost, seed):
    values = cost.values if isinstance(cost, SparseCost) else cost
    return torch.rand(values.shape, dtype=values.dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("reference", ["product", "counting"])
def test_the_solutions_own_potentials_are_where_it_ends(form, large, tau, reference):
    cost, a, b = _problem(form, large)
    cold = solve_transport(cost, a, b, 0.1, tau, reference, max_iter=2000, tol=1e-6)
    warm = solve_transport(cost, a, b, 0.1, tau, reference, max_iter=2000, tol=1e-6, init=cold.potentials)
    assert bool(cold.converged) and bool(warm.converged)
    assert int(warm.iterations) <= 2 < int(cold.iterations)
    assert_close(warm.plan_values, cold.plan_values, rtol=0, atol=1e-4 * float(cold.mass))  # SHARE of tol, in L1


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("tau", TAUS)
def test_slowly_changing_costs_take_half_the_iterations(form, tau):
    cost, a, b = _problem(form, large=True)
    totals, init = {"cold": 0, "warm": 0}, None
    for step in range(6):
        moved = _changed(cost, 2e-4 * step * _noise(cost, 1))
        cold = solve_transport(moved, a, b, 0.1, tau, max_iter=2000, tol=1e-6)
        warm = solve_transport(moved, a, b, 0.1, tau, max_iter=2000, tol=1e-6, init=init)
        init = warm.potentials
        totals["cold"] += int(cold.iterations)
        totals["warm"] += int(warm.iterations)
        assert bool(warm.converged)
        assert float((warm.plan_values - cold.plan_values).abs().sum()) <= 2e-4 * float(cold.mass)
    assert 2 * totals["warm"] <= totals["cold"]


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_warm_start_that_a_few_sweeps_end_takes_no_newton_step(form, monkeypatch):
    """One costs as much as dozens of sweeps, on dense costs."""
    cost, a, b = _problem(form, large=True)
    cold = solve_transport(cost, a, b, 0.1, 1.0, max_iter=2000)
    taken = []
    monkeypatch.setattr(residual, "plan_error", lambda *problem: taken.append(problem) or plan_error(*problem))
    changed = _changed(cost, 0.001 * _noise(cost, 1))
    warm = solve_transport(changed, a, b, 0.1, 1.0, max_iter=2000, init=cold.potentials)
    assert bool(warm.converged) and 1 < int(warm.iterations) <= 5 and not taken
    solve_transport(changed, a, b, 0.1, math.inf, max_iter=2000, init=cold.potentials)
    assert taken


@pytest.mark.parametrize("tau", TAUS)
def test_a_start_far_away_changes_no_solution(tau):
    cost, a, b = _problem("sparse", large=True)
    far = solve_transport(_changed(cost, 3 * _noise(cost, 2)), a, b, 0.02, 0.1, max_iter=2000).potentials
    cold = solve_transport(cost, a, b, 0.1, tau, max_iter=5000, tol=1e-9)
    warm = solve_transport(cost, a, b, 0.1, tau, max_iter=5000, tol=1e-9, init=far)
    assert bool(warm.converged)
    assert_close(warm.plan_values, cold.plan_values, rtol=0, atol=1e-7 * float(cold.mass))


@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_with_tol_zero_the_iterations_are_those_from_there(tau):
    cost, a, b = _problem("dense", large=False)
    init = solve_transport(cost, a, b, 0.1, tau, max_iter=3, tol=0).potentials
    on = solve_transport(cost, a, b, 0.1, tau, max_iter=4, tol=0, init=init)
    plan, _, _ = naive_plan(cost, a, b, 0.1, tau, "product", 7)
    assert int(on.iterations) == 4
    assert_close(on.plan, plan, rtol=1e-11, atol=1e-14)


def test_the_stored_kernel_is_made_where_the_potentials_are():
    """Potentials beyond the range of the first kernel: no update in the log domain, the same solution."""
    cost = clustered()
    shifted = SparseCost(cost.values + 300, cost.support)  # exponents of 3000
    cold = solve_transport(shifted, tau=0.3, tol=1e-9)
    warm = solve_transport(shifted, tau=0.3, tol=1e-9, init=cold.potentials)
    assert float(cold.potentials[0].abs().min()) > 40 * 0.1
    assert int(warm.iterations) <= 2
    assert_close(warm.plan_values, cold.plan_values, rtol=1e-8, atol=0)


def test_the_implicit_gradient_does_not_feel_it_and_the_unrolled_one_takes_it_as_constant():
    cost, a, b = _problem("dense", large=False)
    near = solve_transport(cost + 0.01 * _noise(cost, 4), a, b).potentials
    grads = {}
    for name, init in (("cold", None), ("warm", near)):
        held = cost.clone().requires_grad_()
        solve_transport(held, a, b, tol=1e-13, max_iter=500, init=init).plan.square().sum().backward()
        grads[name] = held.grad
    assert_close(grads["warm"], grads["cold"], rtol=1e-9, atol=1e-12)

    held = cost.clone().requires_grad_()
    f, g = (v.clone().requires_grad_() for v in near)
    one = solve_transport(held, a, b, 0.1, 0.3, max_iter=1, tol=0, gradient="unrolled", init=(f, g))
    one.potentials[0].sum().backward()
    again = cost.clone().requires_grad_()
    (-0.75 * 0.1 * torch.logsumexp(b.log() + (near[1] - again) / 0.1, 1)).sum().backward()
    assert_close(held.grad, again.grad, rtol=1e-11, atol=1e-14)
    assert f.grad is None and g.grad is None


def test_tokens_that_take_no_part_may_have_infinite_potentials():
    s = sample(5)
    cost = s.masked.clone()
    cost[2], cost[:, 3] = math.inf, math.inf
    a = s.a.clone()
    a[4] = 0
    for reference in ("product", "counting"):
        cold = solve_transport(cost, a, s.b, reference=reference)
        assert not bool(cold.potentials[0].isfinite().all())
        warm = solve_transport(cost, a, s.b, reference=reference, init=cold.potentials)
        assert int(warm.iterations) <= 2
        assert_close(warm.plan, cold.plan, rtol=0, atol=1e-4)
        for now, then in zip(warm.potentials, cold.potentials, strict=True):
            assert torch.equal(now.isinf(), then.isinf())


@pytest.mark.parametrize("large", [False, True])
def test_members_of_a_batch_start_each_at_its_own(large):
    cost, a, b = _problem("dense", large)
    costs = torch.stack([cost, 0.5 * cost, cost + 0.1 * _noise(cost, 6)]).view(3, 1, *cost.shape)
    cold = solve_transport(costs, a, b)
    warm = solve_transport(costs, a, b, init=cold.potentials)
    assert warm.iterations.shape == (3, 1) and int(warm.iterations.max()) <= 2
    assert_close(warm.plan, cold.plan, rtol=0, atol=1e-4)
    shared = solve_transport(costs, a, b, init=tuple(v[0, 0] for v in cold.potentials))
    assert int(shared.iterations[0]) <= 2 < int(shared.iterations[1])


def test_members_of_a_block_diagonal_start_each_at_its_own():
    costs = [sample(seed, n, m).sparse for seed, (n, m) in enumerate([(9, 7), (90, 80), (1, 1), (80, 90)])]
    joint = block_diagonal(costs)
    cold = solve_transport(joint)
    warm = solve_transport(joint, init=cold.potentials)
    assert warm.iterations.tolist() == [1] * 4
    for one, cost, start in zip(split_result(warm), costs, split_result(cold), strict=True):
        alone = solve_transport(cost, init=start.potentials)
        assert_close(one.plan_values, alone.plan_values, rtol=0, atol=1e-6 * float(alone.mass))


def test_wrong_starts_are_refused_in_one_sentence():
    cost, a, b = _problem("dense", large=False)
    f, g = solve_transport(cost, a, b).potentials

    def refused(init, match, given=cost):
        with pytest.raises(ValueError, match=match) as caught:
            solve_transport(given, init=init)
        assert "\n" not in str(caught.value)

    refused((f[:-1], g), r"init f must have shape \(9,\), one number for each of the 9 sources, but has \(8,\)")
    refused((f, g.expand(2, 7)), r"init g must have shape \(7,\)")
    refused((f, g[0]), r"init g must have shape")
    refused((f.float(), g), r"in torch.float64 but init f is torch.float32; convert it with f.to\(torch.float64\)")
    refused((f, g.long()), "init g is torch.int64")
    refused((f.to("meta"), g), "on cpu but init f on meta")
    refused((f, torch.where(g == g[2], math.nan, g)), r"must be finite for tokens that take part, but g\[2\] is nan")
    refused((f, torch.where(g == g[2], math.inf, g)), r"g\[2\] is inf; pass the potentials of a result of the same")
    refused((f, g, g), r"must be the two potentials \(f, g\) of a result, but is tuple")
    members = [sample(0).sparse, sample(1).sparse]
    joint, one = block_diagonal(members), (torch.zeros(18, dtype=DOUBLE), torch.zeros(14, dtype=DOUBLE))
    refused((one[0][1:], one[1]), r"init f must have shape \(18,\), the members' potentials one after another", joint)
    refused((one[0], one[1].index_fill(0, torch.tensor([9]), math.nan)), r"member 1: .*g\[2\] is nan", joint)
    refused((one[0],), r"must be the two potentials", joint)


@pytest.mark.parametrize("tau", [0.3, math.inf])
@pytest.mark.parametrize("follow", [False, True])
def test_a_fused_solve_takes_half_the_iterations_to_the_same_plan(tau, follow):
    generator = torch.Generator().manual_seed(8)
    source, target = (PointGeometry(torch.rand(40, 2, dtype=DOUBLE, generator=generator)) for _ in range(2))
    cost = torch.rand(40, 40, dtype=DOUBLE, generator=generator)
    found = {}
    for warm in (False, True):
        held = cost.clone().requires_grad_()
        fine = FusedSettings(tau=tau, tol=1e-8, max_iter=2000, structure_tol=1e-7, steps=200)
        settings = replace(fine, follow=follow, warm=warm)
        with counted() as iterations:
            result = solve_fused(held, source, target, 0.1, settings=settings)
        assert bool(result.converged)
        (grad,) = torch.autograd.grad(result.transport.plan.square().sum(), held)
        found[warm] = result.transport.plan.detach(), grad, sum(iterations)
    assert 2 * found[True][2] <= found[False][2]
    assert_close(found[True][0], found[False][0], rtol=0, atol=1e-6)
    assert_close(found[True][1], found[False][1], rtol=0, atol=1e-4 * float(found[False][1].abs().max()))


def test_a_fused_solve_stays_cold_where_iterations_are_counted_or_differentiated():
    generator = torch.Generator().manual_seed(9)
    points = PointGeometry(torch.rand(12, 2, dtype=DOUBLE, generator=generator))
    cost = torch.rand(12, 12, dtype=DOUBLE, generator=generator).requires_grad_()
    counting = FusedSettings(steps=3, structure_tol=0, tol=0, max_iter=5)
    plans = [
        solve_fused(cost, points, points, 0.05, settings=replace(counting, warm=warm)).transport.plan
        for warm in (False, True)
    ]
    assert torch.equal(*plans)
    with counted() as iterations:
        solve_fused(cost, points, points, 0.05, settings=FusedSettings(gradient="unrolled"))
    assert iterations[-1] > 2 >= iterations[-2]
