"""The whole range of epsilon and tau: finite, exact, and in few iterations."""

import math
import warnings

import pytest
import torch
from helpers.transport import DOUBLE
from torch.testing import assert_close

from saot.transport import (
    SparseCost,
    Support,
    TransportStatus,
    cosine_cost,
    loop,
    solve_transport,
    topk_support,
)


def _clustered(n=150, m=130, k=20, seed=0):
    """A support of weakly linked clusters; big enough for the fast path."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(8, 24, generator=generator, dtype=DOUBLE)

    def side(count):
        label = torch.randint(0, 8, (count,), generator=generator)
        return centres[label] + 0.8 * torch.randn(count, 24, generator=generator, dtype=DOUBLE)

    x, y = side(n), side(m)
    support = topk_support(x, y, k, cover=2)
    return SparseCost(2 * cosine_cost(x, y, support).values, support)


def _typed(cost, dtype):
    return SparseCost(cost.values.to(dtype), cost.support)


def _solve(cost, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return solve_transport(cost, **settings)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("epsilon", [20.0, 2.0, 0.1, 1e-2, 2e-3, 2e-4])  # the costs reach from 0.1 to 2
@pytest.mark.parametrize("tau", [1e-3, 0.3, 30.0, 1e4, math.inf])
def test_every_epsilon_and_tau_is_finite_and_the_log_domain_s(dtype, form, epsilon, tau, monkeypatch):
    exact = _clustered()
    exact = exact.dense() if form == "dense" else exact
    cost = exact.to(dtype) if form == "dense" else _typed(exact, dtype)
    result = _solve(cost, epsilon=epsilon, tau=tau, max_iter=30, tol=0)
    for t in (result.plan_values, result.value, result.dual_value, result.gap, *result.potentials):
        assert bool(t.isfinite().all())
    with monkeypatch.context() as patch:
        patch.setattr(loop, "has_fast_path", lambda pairs: False)
        slow = _solve(exact, epsilon=epsilon, tau=tau, max_iter=30, tol=0)
    unit = 1e-13 if dtype == DOUBLE else 3e-7
    scale = max(float(p.abs().max()) for p in slow.potentials) + epsilon + 2
    for ours, theirs in zip(result.potentials, slow.potentials, strict=True):
        assert_close(ours.to(DOUBLE), theirs, rtol=0, atol=60 * unit * scale)  # 60 updates' rounding
    # exp((f + g - C) / epsilon) turns an error d of the exponent into a relative one; the sum tells what is lost
    assert_close(result.mass.to(DOUBLE), slow.mass, rtol=min(0.5, 200 * unit * scale / epsilon), atol=1e-30)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("ratio", [10, 100, 1000])
@pytest.mark.parametrize("reference", ["product", "counting"])
def test_large_tau_takes_a_fifth_of_the_plain_iterations(sparse, ratio, reference):
    cost = _clustered()
    epsilon, tau = 0.1, 0.1 * ratio
    given = cost if sparse else cost.dense()
    result = solve_transport(given, epsilon=epsilon, tau=tau, reference=reference, max_iter=1000, tol=1e-9)
    assert bool(result.converged)
    needed = int(math.log(1e-9) / (2 * math.log(tau / (tau + epsilon))))  # the plain contraction p^2
    assert int(result.iterations) < max(40, needed / 5)
    plain = _solve(given, epsilon=epsilon, tau=tau, reference=reference, max_iter=2 * needed, tol=0)
    assert float((result.plan - plain.plan).abs().sum() / plain.mass) < 1e-6
    rows, cols = result.marginals
    f, g = result.potentials
    assert_close(rows, (-f / tau).exp() / 150, rtol=1e-7, atol=0)
    assert_close(cols, (-g / tau).exp() / 130, rtol=1e-7, atol=0)


def test_the_first_ten_iterations_are_plain_whatever_the_tol():
    cost = _clustered()
    for count in (1, 5, 10):
        fixed = _solve(cost, tau=10.0, max_iter=count, tol=0)
        stopped = _solve(cost, tau=10.0, max_iter=count, tol=1e-9)
        assert torch.equal(fixed.plan_values, stopped.plan_values)
        assert torch.equal(fixed.residual, stopped.residual)
    assert not torch.equal(*(_solve(cost, tau=10.0, max_iter=13, tol=t).plan_values for t in (0, 1e-9)))


def test_balanced_transport_is_accelerated_too():
    cost = _clustered().dense().clamp(max=3.0)  # every pair allowed, most at the same high cost
    result = solve_transport(cost, epsilon=0.05, tau=math.inf, max_iter=2000, tol=1e-9)
    assert bool(result.converged)
    plain = _solve(cost, epsilon=0.05, tau=math.inf, max_iter=int(result.iterations), tol=0)
    assert float(plain.residual) > 1e-6
    rows, cols = result.marginals
    assert_close(float((rows - 1 / 150).abs().sum() + (cols - 1 / 130).abs().sum()), float(result.residual))


def test_the_solution_does_not_depend_on_the_extrapolation(monkeypatch):
    """A proposal far off is thrown away: the dual would fall."""
    from saot.transport import accelerate

    cost = _clustered()
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
def test_a_tol_below_rounding_ends_with_max_iter_and_a_good_plan(tol):
    cost = _typed(_clustered(), torch.float32)
    exact = solve_transport(_clustered(), tau=10.0, max_iter=2000, tol=1e-12)
    result = _solve(cost, tau=10.0, max_iter=600, tol=tol)
    assert result.status in (TransportStatus.CONVERGED, TransportStatus.MAX_ITER)
    assert float((result.plan_values - exact.plan_values).abs().sum() / exact.mass) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_float32(dtype):
    cost = _clustered()
    for half, single in (
        (_typed(cost, dtype), _typed(_typed(cost, dtype), torch.float32)),
        (cost.dense().to(dtype), cost.dense().to(dtype).float()),
    ):
        ours, theirs = solve_transport(half), solve_transport(single)
        assert ours.plan_values.dtype == torch.float32
        assert torch.equal(ours.plan_values, theirs.plan_values)


def test_identical_inputs_stay_symmetric():
    same = torch.zeros(70, 70)
    result = solve_transport(same, epsilon=1e-4)
    assert_close(result.plan, torch.full((70, 70), 1 / 4900), rtol=1e-5, atol=0)
    n = torch.arange(70)
    diagonal = SparseCost(torch.zeros(70), Support.from_pairs(n, n, (70, 70)))
    values = solve_transport(diagonal, epsilon=1e-4).plan_values
    assert_close(values, values[:1].expand(70), rtol=1e-5, atol=0)
