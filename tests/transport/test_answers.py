"""Known answers, independent solvers, and limits."""

import math
import warnings

import pytest
import torch
from helpers.transport import DOUBLE, naive_plan, objective, sample, solve
from torch.testing import assert_close

from saot.transport import SparseCost, Support, TransportStatus, solve_transport


@pytest.mark.parametrize("reference", ["product", "counting"])
def test_one_by_one_in_closed_form(reference):
    c, a, b, epsilon, tau = 0.7, 0.4, 1.7, 0.2, 0.5
    result = solve(
        torch.tensor([[c]], dtype=DOUBLE),
        *(torch.tensor([w], dtype=DOUBLE) for w in (a, b)),
        epsilon,
        tau,
        reference=reference,
    )
    share = epsilon + tau if reference == "product" else tau
    expected = math.exp((-c + share * math.log(a * b)) / (epsilon + 2 * tau))
    assert_close(result.plan, torch.tensor([[expected]], dtype=DOUBLE), rtol=1e-12, atol=0)


def test_constant_cost_scales_the_product_plan():
    s = sample(3)
    a, b = s.a / s.a.sum(), s.b / s.b.sum()
    result = solve(torch.full_like(s.cost, 0.6), a, b, 0.1, 0.3)
    assert_close(result.plan, a[:, None] * b * math.exp(-0.6 / 0.7), rtol=1e-12, atol=0)


@pytest.mark.parametrize("form", ["dense", "masked", "sparse"])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 1.0])
def test_agrees_with_pot(form, reference, epsilon):
    unbalanced = pytest.importorskip("ot").unbalanced
    s = sample(5, 23, 17)
    cost = s.cost if form == "dense" else s.masked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = unbalanced.sinkhorn_unbalanced(
            s.a.numpy(),
            s.b.numpy(),
            cost.numpy(),
            epsilon,
            0.3,
            stopThr=1e-15,
            numItermax=20000,
            reg_type="kl" if reference == "product" else "entropy",
        )
    result = solve(s.sparse if form == "sparse" else cost, s.a, s.b, epsilon, 0.3, reference=reference)
    expected = torch.as_tensor(expected)
    assert_close(result.plan, expected, rtol=1e-9, atol=1e-9 * float(expected.max()))


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


@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("sparse", [False, True])
def test_value_dual_gap_and_the_value_identity(reference, sparse):
    s = sample(11)
    cost = s.masked if sparse else s.cost
    result = solve(s.sparse if sparse else cost, s.a, s.b, reference=reference)
    plan = result.plan
    assert_close(result.value, objective(plan, cost, s.a, s.b, 0.1, 0.3, reference), rtol=1e-12, atol=1e-12)
    finite = cost.isfinite()
    reach = ((s.a[:, None] * s.b) if reference == "product" else torch.ones_like(cost))[finite].sum()
    mass = plan.sum()
    identity = 0.1 * (reach - mass) + 0.3 * (s.a.sum() - mass) + 0.3 * (s.b.sum() - mass)
    assert_close(result.value, identity, rtol=1e-12, atol=1e-12)
    assert_close(result.mass, mass)
    assert_close(result.marginals, (plan.sum(1), plan.sum(0)))
    # far from the optimum the gap is what the two values differ by, and shrinks to nothing
    early = solve_transport(s.sparse if sparse else cost, s.a, s.b, reference=reference, max_iter=2, tol=0)
    f, g = early.potentials
    ra, rb = (s.a, s.b) if reference == "product" else (torch.ones_like(s.a), torch.ones_like(s.b))
    density = ((f[:, None] + g - cost) / 0.1).exp()
    dual = -0.3 * ((s.a * torch.expm1(-f / 0.3)).sum() + (s.b * torch.expm1(-g / 0.3)).sum())
    dual = dual - 0.1 * (ra[:, None] * rb * (density - 1))[finite].sum()
    assert_close(early.dual_value, dual, rtol=1e-11, atol=1e-11)
    assert_close(early.gap, early.value - early.dual_value, rtol=1e-9, atol=1e-11)
    assert float(early.gap) > 1e-4
    assert 0 <= float(result.gap) < 1e-20


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


def test_large_tau_tends_to_balanced_potentials_and_all():
    s = sample(17, balanced=True)
    for cost in (s.cost, s.sparse):
        balanced = solve(cost, s.a, s.b, 0.5, math.inf, tol=1e-13)
        previous = math.inf
        for tau in (10.0, 100.0):
            relaxed = solve(cost, s.a, s.b, 0.5, tau, max_iter=30000)
            distance = max(
                float((x - y).abs().max()) for x, y in zip(relaxed.potentials, balanced.potentials, strict=True)
            )
            assert distance < 0.2 * previous  # goes like 1 / tau
            previous = distance
        assert_close(relaxed.plan, balanced.plan, rtol=0, atol=2e-3)


def test_small_epsilon_tends_to_the_best_assignment():
    optimize = pytest.importorskip("scipy").optimize
    cost = torch.rand(8, 8, dtype=DOUBLE)
    rows, cols = optimize.linear_sum_assignment(cost.numpy())
    result = solve(cost, None, None, 0.002, math.inf, tol=0, max_iter=3000)
    expected = torch.zeros(8, 8, dtype=DOUBLE)
    expected[rows, cols] = 1 / 8
    assert_close(result.plan, expected, rtol=0, atol=1e-3)  # exp(-0.01 / epsilon) of 1/8


def test_counting_plan_is_proportional_for_uniform_weights_only():
    s = sample(19, 12, 8)
    for cost in (s.cost, s.sparse):
        product, counting = solve(cost), solve(cost, reference="counting")
        factor = (12 * 8) ** (0.1 / (0.1 + 2 * 0.3))
        assert_close(counting.plan, factor * product.plan, rtol=1e-11, atol=0)
        product, counting = solve(cost, s.a, s.b), solve(cost, s.a, s.b, reference="counting")
        ratio = counting.plan_values / product.plan_values
        assert float(ratio.max() / ratio.min()) > 1.5


def test_fast_path_equals_the_log_domain(monkeypatch):
    from saot.transport import loop

    generator = torch.Generator().manual_seed(1)
    n, m = 130, 110
    cost = torch.rand(n, m, dtype=DOUBLE, generator=generator)
    a = torch.rand(n, dtype=DOUBLE, generator=generator)
    a[3] = 0
    keep = torch.rand(n, m, generator=generator) < 0.5
    keep[:, 5] = False
    support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (n, m))
    sparse = SparseCost(cost[support.row.long(), support.col.long()], support)
    for problem in (cost, sparse):
        for epsilon in (1e-3, 1e-2, 0.1):
            for dtype, tol in ((DOUBLE, 1e-11), (torch.float32, 1e-4)):
                typed = SparseCost(sparse.values.to(dtype), support) if problem is sparse else cost.to(dtype)
                fast = solve_transport(typed, a, None, epsilon, max_iter=40, tol=0)
                with monkeypatch.context() as patch:
                    patch.setattr(loop, "has_fast_path", lambda pairs: False)
                    slow = solve_transport(typed, a, None, epsilon, max_iter=40, tol=0)
                assert_close(fast.plan, slow.plan, rtol=tol / min(1, 10 * epsilon), atol=1e-30)
                assert_close(fast.potentials, slow.potentials, rtol=tol, atol=tol)


def test_kernel_is_used_and_absorbed_anew_when_potentials_move_far(monkeypatch):
    from saot.transport import updates

    built, logs = [], []
    absorb, log_update = updates.KernelUpdates._absorb, updates.KernelUpdates._log_update
    monkeypatch.setattr(updates.KernelUpdates, "_absorb", lambda self: built.append(absorb(self)) or built[-1])
    monkeypatch.setattr(
        updates.KernelUpdates, "_log_update", lambda self, *args: logs.append(1) or log_update(self, *args)
    )
    cost = torch.rand(100, 100)
    solve_transport(cost, max_iter=20, tol=0)
    assert len(built) == 1 and built[0] is not None and not logs  # one kernel for 40 updates
    built.clear()
    solve_transport(cost, epsilon=2e-3, max_iter=20, tol=0)
    assert 2 < len([kernel for kernel in built if kernel is not None]) < 20
    assert len(logs) < 20


def test_plan_apply_and_repr():
    s = sample(23)
    x, y = torch.randn(9, 4, dtype=DOUBLE), torch.randn(7, 4, dtype=DOUBLE)
    for cost in (s.cost, s.sparse):
        result = solve(cost, s.a, s.b)
        assert_close(result.apply(x), result.plan.T @ x)
        assert_close(result.apply_transpose(y), result.plan @ y)
        assert_close(result.apply(torch.stack([x, 2 * x])), torch.stack([result.apply(x), 2 * result.apply(x)]))
        assert "converged=True" in repr(result)
        assert result.status == TransportStatus.CONVERGED
        with pytest.raises(ValueError, match="the plan has 9 sources but x has shape"):
            result.apply(y)
