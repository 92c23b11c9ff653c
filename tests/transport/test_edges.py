"""What can go wrong, and is told instead of hidden."""

import math
import warnings

import pytest
import torch
from helpers.transport import DOUBLE, sample, solve
from torch.testing import assert_close

from saot.transport import (
    SolveSettings,
    SparseCost,
    Support,
    TransportError,
    TransportStatus,
    cosine_cost,
    solve_transport,
    topk_support,
)


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


def _infeasible(kind):
    """Cost, a and b of a balanced problem without solution."""
    cost = torch.rand(6, 5, dtype=DOUBLE)
    a, b = torch.full((6,), 1 / 6, dtype=DOUBLE), torch.full((5,), 1 / 5, dtype=DOUBLE)
    if kind == "masses":
        b = b * 1.5
    elif kind == "row":
        cost[2] = math.inf
    elif kind == "column":
        cost[:, 2] = math.inf
    else:  # three sources share one target: 1/2 must fit into 1/5
        cost[:3, 1:] = math.inf
    return cost, a, b


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("kind", ["masses", "row", "column", "hall"])
def test_infeasible_balanced_is_told_once_and_finite(sparse, kind, reference):
    cost, a, b = _infeasible(kind)
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
    (gradient,) = torch.autograd.grad(result.plan.square().sum(), cost)
    assert bool(gradient.isfinite().all())


def test_infeasible_member_leaves_its_batch_alone():
    bad, a, b = _infeasible("hall")
    good = torch.rand(6, 5, dtype=DOUBLE)
    with pytest.warns(UserWarning, match=r"in 1 of 2 problems, the first at \[\(1,\)\]"):
        result = solve_transport(torch.stack([good, bad]), a, b, tau=math.inf, max_iter=500, tol=1e-8)
    assert result.status.tolist() == [TransportStatus.CONVERGED, TransportStatus.INFEASIBLE]
    assert torch.equal(result.plan[0], solve_transport(good, a, b, tau=math.inf, max_iter=500, tol=1e-8).plan)


def test_tight_but_feasible_support_is_not_called_infeasible():
    cost = torch.full((3, 3), math.inf, dtype=DOUBLE)
    cost[0, 0] = cost[1, 0] = cost[1, 1] = cost[2, 1] = cost[2, 2] = cost[0, 2] = 1.0
    cost[0, 2] = math.inf  # triangular: the identity is the only plan, and the iteration creeps towards it
    with pytest.warns(UserWarning, match="MAX_ITER"):
        result = solve_transport(cost, epsilon=0.1, tau=math.inf, max_iter=50, tol=1e-6)
    assert result.status == TransportStatus.MAX_ITER


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
        solve_transport(_infeasible("hall")[0], tau=math.inf, max_iter=2, tol=0)
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


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_non_finite_input_raises_with_its_place(value):
    cost = torch.rand(2, 3, 4)
    cost[1, 2, 0] = value
    with pytest.raises(TransportError, match=r"cost\[1, 2, 0\] is (nan|-inf)") as caught:
        solve_transport(cost)
    assert caught.value.status == TransportStatus.NON_FINITE
    assert caught.value.indices == ((1,),)
    sparse = SparseCost(cost[1].flatten(), Support.full(3, 4))
    with pytest.raises(TransportError, match=r"cost.values\[8\] \(source 2, target 0\) is (nan|-inf)"):
        solve_transport(sparse)
    weights = torch.tensor([0.5, value, 0.5])
    with pytest.raises(TransportError, match=r"weights must be finite, but a\[1\] is"):
        solve_transport(torch.rand(3, 4), weights)


def _checked(name, value):
    """Settings with a value that the run-time type checker of the tests would stop at the door."""
    settings = SolveSettings()
    object.__setattr__(settings, name, value)
    settings.__post_init__()


def test_errors_say_what_was_expected_and_what_to_do():
    cost = torch.rand(2, 3)
    cases = {
        r"cost has 3 targets but b has 2 weights; pass b=None": lambda: solve_transport(cost, None, torch.ones(2)),
        r"a must have shape \(2,\) or \(2,\)": lambda: solve_transport(cost, torch.ones(4, 2)),
        r"must not be negative, but a\[1\] is -1": lambda: solve_transport(cost, torch.tensor([1.0, -1.0])),
        r"epsilon must be above 0 and finite, but is 0": lambda: solve_transport(cost, epsilon=0.0),
        r"epsilon must be above 0 and finite, but is inf": lambda: solve_transport(cost, epsilon=math.inf),
        r"tau must be above 0, or math.inf": lambda: solve_transport(cost, tau=-1.0),
        r"at least one source and one target": lambda: solve_transport(torch.zeros(0, 3)),
        r"max_iter must be at least 1": lambda: solve_transport(cost, max_iter=0),
        r"tol must be 0 or above": lambda: solve_transport(cost, tol=math.nan),
        r"finite for the whole batch": lambda: solve_transport(torch.rand(2, 2, 3), tau=torch.tensor([0.3, math.inf])),
        r'reference must be "product"': lambda: _checked("reference", "lebesgue"),
        r'gradient must be "implicit"': lambda: _checked("gradient", "magic"),
    }
    for text, call in cases.items():
        with pytest.raises(ValueError, match=text):
            call()


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


def test_an_overflow_that_no_check_saw_ends_with_finite_numbers():
    cost = torch.rand(5, 4)
    cost[1] = 1e38
    result = solve_transport(cost, epsilon=1e-3, max_iter=30, tol=0)
    assert result.status == TransportStatus.NON_FINITE
    assert not bool(result.converged)
    for t in (result.plan, result.value, result.dual_value, *result.potentials):
        assert bool(t.isfinite().all())


def test_the_tau_that_is_wrong_is_shown():
    with pytest.raises(ValueError, match=r"tau must be above 0, or math.inf.*but is -1.0"):
        solve_transport(torch.rand(2, 3, 3), tau=torch.tensor([math.inf, -1.0]))
