"""The loop: each iteration against the equations, what it tells, where it ends."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from helpers.transport import DOUBLE, infeasible, naive_plan, sample
from torch.testing import assert_close

from saot.transport import SolveSettings, TransportStatus, solve_transport
from saot.transport.loop import iterate
from saot.transport.newton import plan_error
from saot.transport.problem import build_problem
from saot.transport.updates import KernelUpdates, State


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_each_iteration_is_one_row_and_one_column_update(sparse, reference, tau):
    s = sample(7, balanced=True)
    for iterations in (1, 2, 9):
        result = solve_transport(s.sparse if sparse else s.cost, s.a, s.b, 0.1, tau, reference, iterations, tol=0)
        cost = s.masked if sparse else s.cost
        plan, f, g = naive_plan(cost, s.a, s.b, 0.1, tau, reference, iterations)
        assert int(result.iterations) == iterations
        assert_close(result.plan, plan, rtol=1e-11, atol=1e-14)
        if tau == 0.3:
            assert_close(result.potentials, (f, g), rtol=1e-11, atol=1e-13)


def test_out_of_iterations_is_told_once_and_not_with_tol_zero():
    cost = torch.rand(5, 4)
    with pytest.warns(UserWarning, match="MAX_ITER.*after 2 iterations.*raise max_iter") as caught:
        result = solve_transport(cost, max_iter=2)
    assert len(caught) == 1
    assert result.status == TransportStatus.MAX_ITER
    assert not bool(result.converged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = solve_transport(cost, max_iter=2, tol=0)
        solve_transport(infeasible("hall")[0], tau=math.inf, max_iter=2, tol=0)
    assert torch.equal(quiet.plan, result.plan)
    assert torch.equal(quiet.residual, result.residual)
    assert int(quiet.iterations) == 2


def test_overflow_is_a_status_with_the_last_finite_iterate():
    cost = torch.rand(5, 4)
    cost[1] = 1e38  # over epsilon it is inf
    with pytest.warns(UserWarning, match="NON_FINITE.*raise epsilon"):
        result = solve_transport(torch.stack([cost, torch.rand(5, 4)]), epsilon=1e-3)
    assert result.status.tolist()[0] == TransportStatus.NON_FINITE
    assert result.converged.tolist()[0] is False
    assert not any(bool(t.isnan().any()) for t in (*result.potentials, result.plan))


def test_an_overflow_that_no_check_saw_ends_with_finite_numbers():
    cost = torch.rand(5, 4)
    cost[1] = 1e38
    result = solve_transport(cost, epsilon=1e-3, max_iter=30, tol=0)
    assert result.status == TransportStatus.NON_FINITE
    assert not bool(result.converged)
    for t in (result.plan, result.value, result.dual_value, *result.potentials):
        assert bool(t.isfinite().all())


def _equations(problem, settings):
    """f, g, residual and iterations of one problem, few enough for no extrapolation: Eq. (8) and the residual.

    Nothing is frozen, accelerated or kept from one iteration to the next but f and g.
    """
    rows, cols, epsilon, pairs = problem.rows, problem.cols, problem.epsilon, problem.pairs
    p, mass_of_a = problem.damping, rows.weight.sum()
    strength, kernel = problem.damping * epsilon, problem.log_kernel()

    def row_update(g):
        lse = pairs.lse_rows(kernel, torch.where(cols.active, cols.log_reference + g / epsilon, -torch.inf))
        return strength * (rows.log_ratio - torch.where(rows.active, lse, 0.0))

    def col_update(f):
        x = torch.where(rows.active, rows.log_reference + f / epsilon, -torch.inf)
        lse = pairs.lse_cols(pairs.in_columns(kernel), x)
        return strength * (cols.log_ratio - torch.where(cols.active, lse, 0.0))

    f, g = torch.zeros_like(rows.weight), torch.zeros_like(cols.weight)
    iterations = 0
    while iterations < settings.max_iter:
        iterations += 1
        g_old = g
        f = row_update(g)
        g = col_update(f)
        if problem.balanced:  # the L1 error of the columns before their update
            error = torch.where(cols.active, cols.weight * torch.expm1(-(g - g_old) / epsilon).abs(), cols.weight)
            residual = (error.sum(-1) + torch.where(rows.active, 0.0, rows.weight).sum(-1)) / mass_of_a
            if settings.tol > 0 and bool(residual <= settings.tol):
                residual = torch.maximum(residual, plan_error(problem, f, g).distance / 100)
        else:  # the gap between primal and dual, and Pinsker's inequality
            q = torch.where(cols.active, (g_old - g) / (p * epsilon), 0.0)
            want, mass = cols.weight * (-g_old / problem.tau).exp(), (cols.weight * (-g / problem.tau).exp()).sum()
            gap = problem.tau * (want * (q * q.exp() - torch.expm1(q))).sum()
            residual = (2 * gap / (epsilon * mass)).sqrt()[0] / 100
        if settings.tol > 0 and bool(residual <= settings.tol):
            break
    if problem.balanced:  # the error of the rows that the last column update left
        change = torch.where(rows.active, row_update(g) - f, 0.0)
        error = torch.where(rows.active, rows.weight * torch.expm1(-change / epsilon).abs(), rows.weight)
        now = (error.sum(-1) + torch.where(cols.active, 0.0, cols.weight).sum(-1)) / mass_of_a
        done = settings.tol > 0 and bool(residual <= settings.tol)
        residual = torch.maximum(now, plan_error(problem, f, g).distance / 100) if done else now
    return f, g, residual, iterations


PINNED = {
    "stops at tol": SolveSettings(max_iter=200, tol=1e-4),
    "runs out": SolveSettings(max_iter=7, tol=1e-9),
    "tol=0": SolveSettings(max_iter=23, tol=0),
    "one": SolveSettings(max_iter=1, tol=0),
    "counting": SolveSettings("counting", 40, 1e-5),
    "differentiable": SolveSettings(max_iter=30, tol=1e-3, gradient="unrolled"),
    "differentiable, tol=0": SolveSettings(max_iter=9, tol=0, gradient="unrolled"),
}


@pytest.mark.parametrize("settings", PINNED.values(), ids=PINNED)
@pytest.mark.parametrize("form", ["dense", "masked", "sparse"])
@pytest.mark.parametrize("tau", [0.3, math.inf])
def test_every_iterate_is_bit_for_bit_that_of_the_equations(settings, form, tau):
    s = sample(71, balanced=True)
    cost = {"dense": s.cost, "masked": s.masked, "sparse": s.sparse}[form]
    problem = build_problem(cost, s.a, s.b, 0.1, tau, settings.reference)
    accelerated = math.isinf(tau) and settings.tol > 0 and settings.gradient != "unrolled"
    if accelerated:  # the first ten iterations are plain
        settings = replace(settings, max_iter=min(settings.max_iter, 10))
    end = iterate(problem, settings)
    f, g, residual, iterations = _equations(problem, settings)
    assert int(end.iterations) == iterations
    assert torch.equal(end.f, f) and torch.equal(end.g, g)
    assert_close(end.residual, residual, rtol=1e-7, atol=1e-16)
    assert not bool(end.non_finite)


@pytest.mark.parametrize("gradient", ["none", "unrolled"])
def test_members_that_stop_at_different_times_are_each_what_they_are_alone(gradient):
    s = sample(73)
    costs, epsilon = torch.stack([0.5 * s.cost, s.cost, 2 * s.cost]), torch.tensor([0.05, 0.1, 1.0], dtype=DOUBLE)
    settings = SolveSettings(max_iter=60, tol=1e-6, gradient=gradient)
    end = iterate(build_problem(costs, s.a, s.b, epsilon, 0.3, "product"), settings)
    assert end.iterations.tolist() == sorted(set(end.iterations.tolist()), reverse=True)
    for i, cost in enumerate(costs):
        f, g, residual, iterations = _equations(build_problem(cost, s.a, s.b, epsilon[i], 0.3, "product"), settings)
        assert int(end.iterations[i]) == iterations
        assert torch.equal(end.f[i], f) and torch.equal(end.g[i], g)
        assert_close(end.residual[i], residual, rtol=1e-7, atol=1e-16)


@pytest.mark.parametrize("kind", ["masses", "hall"])
@pytest.mark.parametrize("tol", [0, 1e-5])
def test_infeasible_balanced_iterates_are_those_of_the_equations(kind, tol):
    cost, a, b = infeasible(kind)
    settings = SolveSettings(max_iter=10, tol=tol)
    problem = build_problem(cost, a, b, 0.1, math.inf, "product")
    end = iterate(problem, settings)
    f, g, residual, iterations = _equations(problem, settings)
    assert int(end.iterations) == iterations == 10
    assert torch.equal(end.f, f) and torch.equal(end.g, g)
    assert_close(end.residual, residual, rtol=1e-7, atol=1e-16)
    assert float(end.residual) > 0.1


def test_a_sweep_through_the_stored_kernel_starts_where_the_last_one_ended():
    """The loop of the scaling form: the updates themselves, applied in turn."""
    cost = torch.rand(80, 70, dtype=DOUBLE)
    problem = build_problem(cost, None, None, 0.1, 0.3, "product")
    end = iterate(problem, SolveSettings(max_iter=17, tol=0))
    updates, y = KernelUpdates(problem), State(torch.zeros(70, dtype=DOUBLE))
    for _ in range(17):
        x = updates.rows(y)
        y = updates.cols(x)
    assert x.kernel is not None
    assert torch.equal(end.f, updates.f(x)) and torch.equal(end.g, updates.g(y))
