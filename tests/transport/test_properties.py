"""Laws that hold for every problem."""

import math

import torch
from helpers.transport import DOUBLE, objective, sample, solve
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from saot.transport import SparseCost, Support, solve_transport

seeds = st.integers(0, 10**6)
sizes = st.integers(1, 8)
epsilons, taus = st.floats(0.03, 2.0), st.floats(0.05, 2.0)
few = settings(max_examples=25, deadline=None, derandomize=True)


@few
@given(seed=seeds, n=sizes, m=sizes, epsilon=epsilons, tau=taus, sparse=st.booleans(), counting=st.booleans())
def test_potentials_meet_the_marginals(seed, n, m, epsilon, tau, sparse, counting):
    s = sample(seed, n, m, scale=2.0)
    reference = "counting" if counting else "product"
    result = solve(s.sparse if sparse else s.cost, s.a, s.b, epsilon, tau, reference=reference)
    f, g = result.potentials
    rows, cols = result.marginals
    assert_close(f, -tau * (rows / s.a).log(), rtol=1e-9, atol=1e-11)
    assert_close(g, -tau * (cols / s.b).log(), rtol=1e-9, atol=1e-11)
    assert bool(result.converged)


@few
@given(seed=seeds, epsilon=epsilons, tau=taus)
def test_no_perturbation_lowers_the_objective(seed, epsilon, tau):
    s = sample(seed)
    result = solve(s.sparse, s.a, s.b, epsilon, tau)
    factor = 1 + 0.1 * (torch.rand(9, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)) - 0.5)
    best = objective(result.plan, s.masked, s.a, s.b, epsilon, tau)
    assert float(objective(result.plan * factor, s.masked, s.a, s.b, epsilon, tau)) > float(best)


@few
@given(seed=seeds, tau=st.sampled_from([0.3, math.inf]), counting=st.booleans())
def test_transpose_permutation_and_scale(seed, tau, counting):
    s = sample(seed, balanced=True)
    reference = "counting" if counting else "product"
    settings_ = {"reference": reference, "tol": 1e-13, "max_iter": 20000}
    plan = solve(s.cost, s.a, s.b, 0.1, tau, **settings_).plan
    close = {"rtol": 1e-8, "atol": 1e-11}
    assert_close(solve(s.cost.T, s.b, s.a, 0.1, tau, **settings_).plan.T, plan, **close)
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randperm(9, generator=generator), torch.randperm(7, generator=generator)
    assert_close(solve(s.cost[p][:, q], s.a[p], s.b[q], 0.1, tau, **settings_).plan, plan[p][:, q], **close)
    assert_close(solve(7 * s.cost, s.a, s.b, 0.7, 7 * tau, **settings_).plan, plan, **close)


@few
@given(seed=seeds, tau=st.sampled_from([0.3, math.inf]), counting=st.booleans())
def test_padding_is_absent_and_full_support_is_dense(seed, tau, counting):
    s = sample(seed, balanced=True)
    reference = "counting" if counting else "product"
    alone = solve(s.cost, s.a, s.b, 0.1, tau, reference=reference, tol=1e-12)
    early = s.cost, (s.a, s.b)
    wide = torch.cat([s.cost, 50 * torch.randn(2, 7, dtype=DOUBLE)])  # anything may stand in the padding
    wide = torch.cat([wide, 50 * torch.randn(11, 3, dtype=DOUBLE)], 1)
    a, b = torch.cat([s.a, s.a.new_zeros(2)]), torch.cat([s.b, s.b.new_zeros(3)])
    full = SparseCost(wide.reshape(-1), Support.full(11, 10))
    for cost in (wide, full):
        padded = solve(cost, a, b, 0.1, tau, reference=reference, tol=1e-12)
        assert_close(padded.plan[:9, :7], alone.plan, rtol=1e-9, atol=1e-15)  # a residual of 1e-12, amplified
        assert float(padded.plan[9:].sum() + padded.plan[:, 7:].sum()) == 0
        assert_close(padded.potentials[0][:9], alone.potentials[0], rtol=1e-10, atol=1e-12)
        for name in ("value", "dual_value", "mass"):
            assert_close(getattr(padded, name), getattr(alone, name), rtol=1e-11, atol=1e-12)
        counts = [solve(c, *w, 0.1, tau, reference=reference, tol=1e-7).iterations for c, w in ((cost, (a, b)), early)]
        assert torch.equal(*counts)  # not at 1e-12, where rounding decides
        assert padded.covered.tolist() == [True] * 7 + [False] * 3
        assert not bool(torch.stack([t.isnan().any() for t in (*padded.potentials, padded.value)]).any())


@few
@given(seed=seeds, sparse=st.booleans())
def test_masked_dense_is_sparse(seed, sparse):
    s = sample(seed)
    s.a[0] = 0.0
    for tau in (0.3, math.inf):
        one, two = (solve_transport(c, s.a, s.b, 0.1, tau, max_iter=50, tol=0) for c in (s.sparse, s.masked))
        assert_close(one.plan, two.plan, rtol=1e-11, atol=1e-14)
        assert_close(one.value, two.value, rtol=1e-11, atol=1e-12)
        assert_close(one.potentials, two.potentials, rtol=1e-10, atol=1e-12)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=seeds, single=st.booleans(), tau=st.sampled_from([0.3, math.inf]))
def test_alone_is_in_a_batch_bit_for_bit(seed, single, tau):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if single else DOUBLE
    for n, m in ((5, 7), (33, 31), (70, 65)):  # the last takes the fast path
        cost = torch.rand(2, 3, n, m, dtype=dtype, generator=generator)
        cost = cost * torch.linspace(0.2, 8, 6, dtype=dtype).view(2, 3, 1, 1)  # some converge early
        cost[1, 1, 0, 0] = math.inf
        weight = torch.randn(n, m, dtype=dtype, generator=generator)
        batch_cost = cost.clone().requires_grad_()
        batch = solve_transport(batch_cost, None, None, 0.1, tau, tol=1e-4, max_iter=2000)
        ((batch.plan * weight).sum() + batch.value.sum()).backward()
        for i in range(2):
            for j in range(3):
                one_cost = cost[i, j].clone().requires_grad_()
                one = solve_transport(one_cost, None, None, 0.1, tau, tol=1e-4, max_iter=2000)
                ((one.plan * weight).sum() + one.value).backward()
                for name in ("plan", "value", "mass", "gap", "residual", "iterations", "status", "converged"):
                    assert torch.equal(getattr(batch, name)[i, j], getattr(one, name)), name
                assert torch.equal(batch.potentials[0][i, j], one.potentials[0])
                scale = float(one_cost.grad.abs().max())
                close = 1e-5 if single else 1e-12  # of products whose blocks lie elsewhere in memory
                assert_close(batch_cost.grad[i, j], one_cost.grad, rtol=0, atol=close * scale)


def test_a_member_that_needs_no_acceleration_gets_none_for_its_company():
    cost = torch.rand(2, 12, 9, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    tau = torch.tensor([0.3, 30.0], dtype=DOUBLE)
    batch = solve_transport(cost, epsilon=0.1, tau=tau, tol=1e-8, max_iter=500)
    for i in range(2):
        alone = solve_transport(cost[i], epsilon=0.1, tau=float(tau[i]), tol=1e-8, max_iter=500)
        for name in ("plan", "residual", "iterations", "value"):
            assert torch.equal(getattr(batch, name)[i], getattr(alone, name)), name
    plain = solve_transport(cost[0], epsilon=0.1, tau=0.3, tol=0, max_iter=int(batch.iterations[0]))
    assert torch.equal(batch.plan[0], plain.plan)


@few
@given(seed=seeds, epsilon=epsilons, tau=taus, size=st.floats(0.01, 2.0))
def test_plan_is_lipschitz_in_the_cost(seed, epsilon, tau, size):
    """|plan - plan'|_1 <= (larger mass / epsilon) |C - C'|_inf, for costs >= 0: the tight form of Lemma 1."""
    s = sample(seed)
    other = (s.cost + size * (torch.rand(9, 7, dtype=DOUBLE) - 0.5)).clamp(min=0)
    one, two = (solve(c, s.a, s.b, epsilon, tau) for c in (s.cost, other))
    top = (epsilon * s.a.sum() * s.b.sum() + tau * (s.a.sum() + s.b.sum())) / (epsilon + 2 * tau)  # of any mass
    bound = float(top / epsilon * (s.cost - other).abs().max())
    assert float((one.plan - two.plan).abs().sum()) <= bound * (1 + 1e-9)
    assert float(one.mass) <= float(top) * (1 + 1e-12)


@few
@given(seed=seeds, sparse=st.booleans())
def test_theorem_1(seed, sparse):
    """Barycentric transfer, target by target: |P_j - P'_j|_1 <= 2 / c_j |plan_j - plan'_j|_1, SAOT Eq. (11)."""
    s = sample(seed)
    labels = torch.nn.functional.one_hot(torch.arange(9) % 3, 3).to(DOUBLE)
    shifted = s.cost + 0.2 * torch.rand(9, 7, dtype=DOUBLE)
    plans = []
    for cost in (s.cost, shifted):
        values = SparseCost(cost[s.support.row.long(), s.support.col.long()], s.support)
        plans.append(solve(values if sparse else cost, s.a, s.b))
    one, two = (r.apply(labels) / r.marginals[1][:, None] for r in plans)
    moved = (plans[0].plan - plans[1].plan).abs().sum(0)
    assert bool(((one - two).abs().sum(1) <= 2 * moved / plans[0].marginals[1] + 1e-12).all())


@few
@given(seed=seeds, epsilon=epsilons, tau=taus, share=st.floats(0.05, 0.95))
def test_proposition_1(seed, epsilon, tau, share):
    """The objective is strictly convex, so its minimiser is one; and it is positive on every pair."""
    s = sample(seed)
    result = solve(s.sparse, s.a, s.b, epsilon, tau)
    finite = s.masked.isfinite()
    assert bool((result.plan[finite] > 0).all())
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.rand(9, 7, dtype=DOUBLE, generator=generator) * finite for _ in range(2))
    values = [objective(p, s.masked, s.a, s.b, epsilon, tau) for p in (one, two, share * one + (1 - share) * two)]
    assert float(values[2]) < float(share * values[0] + (1 - share) * values[1])
    for other in (one, two):  # the plan is the least on the way from any other
        near = objective(0.999 * result.plan + 0.001 * other, s.masked, s.a, s.b, epsilon, tau)
        assert float(near) > float(result.value)
