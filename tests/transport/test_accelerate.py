"""Large tau in few iterations, to the same solution."""

import math

import pytest
import torch
from helpers.transport import (
    clustered,
    quiet_solve,
    typed,
)
from torch.testing import assert_close

from saot.transport import TransportStatus, accelerate, solve_transport


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("ratio", [10, 100, 1000])
@pytest.mark.parametrize("reference", ["product", "counting"])
def test_large_tau_takes_a_fifth_of_the_plain_iterations(sparse, ratio, reference):
    cost = clustered()
    epsilon, tau = 0.1, 0.1 * ratio
    given = cost if sparse else cost.dense()
    result = solve_transport(given, epsilon=epsilon, tau=tau, reference=reference, max_iter=1000, tol=1e-9)
    assert bool(result.converged)
    needed = int(math.log(1e-9) / (2 * math.log(tau / (tau + epsilon))))  # the plain contraction p^2
    assert int(result.iterations) < max(40, needed / 5)
    plain = quiet_solve(given, epsilon=epsilon, tau=tau, reference=reference, max_iter=2 * needed, tol=0)
    assert float((result.plan - plain.plan).abs().sum() / plain.mass) < 1e-6
    rows, cols = result.marginals
    f, g = result.potentials
    assert_close(rows, (-f / tau).exp() / 150, rtol=1e-7, atol=0)
    assert_close(cols, (-g / tau).exp() / 130, rtol=1e-7, atol=0)


def test_the_first_ten_iterations_are_plain_whatever_the_tol():
    cost = clustered()
    for count in (1, 5, 10):
        fixed = quiet_solve(cost, tau=10.0, max_iter=count, tol=0)
        stopped = quiet_solve(cost, tau=10.0, max_iter=count, tol=1e-9)
        assert torch.equal(fixed.plan_values, stopped.plan_values)
        assert torch.equal(fixed.residual, stopped.residual)
    assert not torch.equal(*(quiet_solve(cost, tau=10.0, max_iter=13, tol=t).plan_values for t in (0, 1e-9)))


def test_balanced_transport_is_accelerated_too():
    cost = clustered().dense().clamp(max=3.0)  # every pair allowed, most at the same high cost
    result = solve_transport(cost, epsilon=0.05, tau=math.inf, max_iter=2000, tol=1e-9)
    assert bool(result.converged)
    plain = quiet_solve(cost, epsilon=0.05, tau=math.inf, max_iter=int(result.iterations), tol=0)
    assert float(plain.residual) > 1e-6
    rows, cols = result.marginals
    assert_close(float((rows - 1 / 150).abs().sum() + (cols - 1 / 130).abs().sum()), float(result.residual))


def test_the_solution_does_not_depend_on_the_extrapolation(monkeypatch):
    """A proposal far off is thrown away: the dual would fall."""

    cost = clustered()
    expected = solve_transport(cost, tau=5.0, max_iter=2000, tol=1e-10)
    wrong = torch.Generator().manual_seed(0)
    jump = accelerate.Accelerator._extrapolation
    monkeypatch.setattr(
        accelerate.Accelerator,
        "_extrapolation",
        lambda self, r: jump(self, r) + torch.randn(r.shape, generator=wrong, dtype=r.dtype),
    )
    result = solve_transport(cost, tau=5.0, max_iter=5000, tol=1e-10)
    assert bool(result.converged)
    assert_close(result.plan_values, expected.plan_values, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("tol", [1e-7, 1e-15])
def test_a_tol_below_rounding_ends_early_and_with_a_good_plan(tol):
    cost = typed(clustered(), torch.float32)
    exact = solve_transport(clustered(), tau=10.0, max_iter=2000, tol=1e-12)
    result = quiet_solve(cost, tau=10.0, max_iter=600, tol=tol)
    assert result.status == (TransportStatus.CONVERGED if tol == 1e-7 else TransportStatus.ROUNDING)
    assert int(result.iterations) < 600  # it knows when to stop
    assert float((result.plan_values - exact.plan_values).abs().sum() / exact.mass) < 1e-3
