"""The loop: each iteration against the equations, what it tells, where it ends."""

import math
import warnings

import pytest
import torch
from helpers.transport import DOUBLE, infeasible, naive_plan, sample
from torch.testing import assert_close

from saot.transport import TransportStatus, solve_transport


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


def test_residual_is_the_change_over_the_largest_potential():
    cost = torch.rand(5, 4, dtype=DOUBLE)
    two, three = (solve_transport(cost, max_iter=k, tol=0) for k in (2, 3))
    change = max(float((x - y).abs().max()) for x, y in zip(two.potentials, three.potentials, strict=True))
    largest = max(float(x.abs().max()) for x in three.potentials)
    assert_close(float(three.residual), change / (0.1 + largest), rtol=1e-9, atol=0)


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
