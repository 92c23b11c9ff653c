"""The whole call: known answers, independent solvers, limits, and tokens that take no part."""

import math
import warnings

import pytest
import torch
from helpers.transport import DOUBLE, clustered, sample, solve, typed
from torch.testing import assert_close

from saot.transport import SparseCost, Support, cosine_cost, solve_transport, topk_support


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


def _with_empty_column(sparse):
    s = sample(67)
    keep = torch.ones(9, 7, dtype=torch.bool)
    keep[:, 3], keep[5] = False, False
    if sparse:
        support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (9, 7))
        return s, keep, SparseCost(s.cost[keep], support)
    return s, keep, s.cost.masked_fill(~keep, math.inf)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
def test_tokens_without_candidates_pay_tau_and_leave_the_rest_alone(sparse, reference):
    s, keep, cost = _with_empty_column(sparse)
    result = solve(cost, s.a, s.b, reference=reference)
    rows, cols = keep.any(1), keep.any(0)
    rest = solve(s.cost[rows][:, cols], s.a[rows], s.b[cols], reference=reference)
    assert result.covered.tolist() == cols.tolist()
    f, g = result.potentials
    assert float(f[5]) == float(g[3]) == math.inf
    assert_close((f[rows], g[cols]), rest.potentials, rtol=1e-11, atol=1e-13)
    assert_close(result.plan[rows][:, cols], rest.plan, rtol=1e-11, atol=0)
    paid = 0.3 * (s.a[5] + s.b[3])
    assert_close(result.value, rest.value + paid, rtol=1e-12, atol=1e-12)
    assert_close(result.dual_value, rest.dual_value + paid, rtol=1e-12, atol=1e-12)
    assert_close(result.gap, rest.gap, rtol=0, atol=1e-15)
    assert bool(result.converged)


@pytest.mark.parametrize("sparse", [False, True])
def test_covered_is_structural_not_underflow(sparse):
    cost = torch.tensor([[0.0, 1e4], [0.0, 1e4]])
    problem = SparseCost(cost.flatten(), Support.full(2, 2)) if sparse else cost
    result = solve_transport(problem, epsilon=0.1, max_iter=500)
    assert result.covered.tolist() == [True, True]
    assert bool(result.plan.isfinite().all())
    a = torch.tensor([1.0, 0.0])
    only_zero = cost.clone()
    only_zero[0, 1] = math.inf  # target 1 has a candidate, but of weight zero
    problem = SparseCost(only_zero.flatten(), Support.full(2, 2)) if sparse else only_zero
    result = solve_transport(problem, a, epsilon=0.1, max_iter=500)
    assert result.covered.tolist() == [True, False]
    assert float(result.potentials[1][1]) == math.inf
    assert not bool(result.plan.isnan().any())


def test_nothing_at_all_to_carry():
    none = torch.zeros(0, dtype=torch.int64)
    empty = SparseCost(torch.zeros(0, dtype=DOUBLE), Support.from_pairs(none, none, (3, 2)))
    for cost in (empty, torch.full((3, 2), math.inf, dtype=DOUBLE)):
        result = solve(cost)
        assert_close(result.value, torch.tensor(0.6, dtype=DOUBLE))
        assert_close(result.dual_value, result.value)
        assert float(result.mass) == 0
        assert not bool(result.covered.any())
        assert result.plan.tolist() == [[0, 0]] * 3
        assert result.apply(torch.ones(3, 2, dtype=DOUBLE)).tolist() == [[0, 0]] * 2
    zero = solve(torch.rand(3, 2, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE), None)
    assert_close(zero.value, torch.tensor(0.3, dtype=DOUBLE))
    assert not bool(zero.plan.any())


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (6, 1)])
def test_one_row_one_column(shape):
    cost = torch.rand(*shape, dtype=DOUBLE, requires_grad=True)
    for problem in (cost, SparseCost(cost.flatten(), Support.full(*shape))):
        for tau in (0.3, math.inf):
            result = solve(problem, tau=tau, tol=1e-12)
            assert bool(result.converged)
            result.plan.square().sum().backward()
            assert bool(cost.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_through_the_whole_room(dtype):
    x = torch.randn(20, 16).to(dtype)
    y = torch.randn(15, 16).to(dtype)
    support = topk_support(x, y, k=5, cover=2)
    result = solve_transport(cosine_cost(x, y, support=support))
    exact = solve_transport(cosine_cost(x.double(), y.double(), support=support), tol=1e-12)
    assert result.plan_values.dtype == torch.float32
    assert_close(result.plan_values.double(), exact.plan_values, rtol=1e-3, atol=1e-8)
    assert result.mass.shape == result.status.shape == ()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
def test_whatever_stands_in_padding_changes_no_number_and_no_gradient(dtype, gradient, sparse, reference):
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(6, 5, dtype=dtype, generator=generator)
    wild = 1000 * torch.randn(8, 7, dtype=dtype, generator=generator)
    wild[:6, :5] = cost

    def solved(values, n, m):
        a, b = torch.zeros(n, dtype=dtype), torch.zeros(m, dtype=dtype)
        a[:6], b[:5] = 1 / 6, 1 / 5
        inputs = [values.clone().requires_grad_(), a.requires_grad_(), b.requires_grad_()]
        given = SparseCost(inputs[0].reshape(-1), Support.full(n, m)) if sparse else inputs[0]
        result = solve_transport(given, *inputs[1:], 0.1, 0.3, reference, max_iter=40, tol=0, gradient=gradient)
        numbers = [result.plan[:6, :5], result.value, result.dual_value, result.gap, result.mass]
        (result.plan[:6, :5].square().sum() + result.value).backward()
        grads = [inputs[0].grad[:6, :5], inputs[1].grad[:6], inputs[2].grad[:5]]
        assert all(bool(x.grad.isfinite().all()) for x in inputs)
        return numbers, grads

    alone, padded = solved(cost, 6, 5), solved(wild, 8, 7)
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype == DOUBLE else {"rtol": 2e-4, "atol": 1e-6}
    for ours, theirs in zip(padded[0] + padded[1], alone[0] + alone[1], strict=True):
        assert_close(ours, theirs, **close)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_float32(dtype):
    cost = clustered()
    for half, single in (
        (typed(cost, dtype), typed(typed(cost, dtype), torch.float32)),
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
