"""Ragged batches of sparse problems as a block diagonal."""

import math

import pytest
import torch
from helpers.iterations import counted
from helpers.transport import DOUBLE, clustered, sample
from torch.testing import assert_close

from saot.transport import (
    SparseCost,
    Support,
    TransportError,
    TransportStatus,
    batch,
    block_diagonal,
    solve_transport,
    split_result,
)
from saot.transport.accelerate import PLAIN
from saot.transport.support import Support as PlainSupport

SIZES = ((9, 7), (1, 1), (80, 70), (4, 90))  # the third takes the fast path

_ROUNDING = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, DOUBLE: {"rtol": 1e-7, "atol": 1e-9}}
_MISSED = 100.0  # a residual is a hundredth of how far a plan is from the solution, in L1 over its mass


def _members(dtype=DOUBLE, balanced=False):
    samples = [sample(seed, n, m, balanced) for seed, (n, m) in enumerate(SIZES)]
    return [SparseCost((1 + i) * s.sparse.values.to(dtype), s.support) for i, s in enumerate(samples)], samples


def _numbers(result, but=""):
    names = ("mass", "value", "dual_value", "gap", "converged", "status", "residual", "iterations", "covered")
    return [getattr(result, name) for name in names if name != but] + [
        *result.potentials,
        *result.marginals,
        result.plan_values,
    ]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("tau", [0.3, math.inf])
@pytest.mark.parametrize("tol", [0, 1e-4])
@pytest.mark.filterwarnings("ignore:transport ended")
def test_members_are_solved_as_if_alone(dtype, tau, tol):
    """In float64 the same sweeps; in float32 extrapolation makes 1e4 units of one, and the same solution is left."""
    costs, samples = _members(dtype, balanced=math.isinf(tau))
    for weights in (False, True):
        a = [s.a.to(dtype) if weights else None for s in samples]
        b = [s.b.to(dtype) if weights else None for s in samples]
        joined = [torch.cat(w) if weights else None for w in (a, b)]
        max_iter = 400 if tol else 40
        result = solve_transport(block_diagonal(costs), *joined, 0.1, tau, max_iter=max_iter, tol=tol)
        assert result.mass.shape == (4,)
        assert tol == 0 or bool(result.converged.all())
        for one, cost, a_i, b_i in zip(split_result(result), costs, a, b, strict=True):
            alone = solve_transport(cost, a_i, b_i, 0.1, tau, max_iter=max_iter, tol=tol)
            if dtype == torch.float32 and tol > 0 and math.isinf(tau):
                assert one.status == alone.status
                most = _MISSED * (one.residual + alone.residual) + 1e-5
                assert (one.plan_values - alone.plan_values).abs().sum() <= most * alone.mass
            else:
                assert_close(one.residual, alone.residual, rtol=0.2, atol=1e-6)  # Newton's step is solved to 1e-3
                assert_close(_numbers(one, but="residual"), _numbers(alone, but="residual"), **_ROUNDING[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("tau", [30.0, math.inf])
def test_extrapolation_of_a_member_remembers_nothing_of_its_neighbours(dtype, tau):
    costs, _ = _members(dtype, balanced=True)
    other = SparseCost(1.7 * costs[2].values + 0.01, costs[2].support)
    with counted() as loops:
        first, second = (
            split_result(solve_transport(block_diagonal([neighbour, costs[3]]), tau=tau, tol=1e-4))[1]
            for neighbour in (costs[2], other)
        )
    assert len(loops) == 2  # each time both together
    assert int(first.iterations) > PLAIN + 2  # some of them extrapolated
    for one, same in zip(_numbers(first), _numbers(second), strict=True):
        assert torch.equal(one, same)


def test_block_diagonal_is_the_support_of_its_pairs():
    costs, _ = _members()
    joint = block_diagonal(costs)
    plain = PlainSupport.from_pairs(joint.support.row, joint.support.col, joint.shape)
    for name in ("crow", "col", "row", "ccol", "trow", "tcol", "perm"):
        assert torch.equal(getattr(joint.support, name), getattr(plain, name)), name
    dense = torch.block_diag(*[c.dense().masked_fill(c.dense().isinf(), -1) for c in costs])
    assert_close(joint.dense().masked_fill(joint.dense().isinf(), 0), dense.clamp(min=0))


def test_scales_a_member_gradients_and_apply():
    costs, _ = _members()
    values = [c.values.clone().requires_grad_() for c in costs]
    joint = block_diagonal([SparseCost(v, c.support) for v, c in zip(values, costs, strict=True)])
    epsilon = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE, requires_grad=True)
    result = solve_transport(joint, epsilon=epsilon, tau=0.5, tol=1e-12, max_iter=500)
    result.plan_values.square().sum().backward()
    for i, (cost, v) in enumerate(zip(costs, values, strict=True)):
        alone_v, alone_e = cost.values.clone().requires_grad_(), epsilon[i].detach().clone().requires_grad_()
        alone = solve_transport(SparseCost(alone_v, cost.support), epsilon=alone_e, tau=0.5, tol=1e-12, max_iter=500)
        alone.plan_values.square().sum().backward()
        assert_close(v.grad, alone_v.grad, rtol=1e-8, atol=1e-12)
        assert_close(epsilon.grad[i], alone_e.grad, rtol=1e-8, atol=1e-12)
    x = torch.randn(joint.shape[0], 3, dtype=DOUBLE)
    assert_close(result.apply(x), result.plan.T @ x)
    assert "batch=(4,)" in repr(result)


def test_one_warning_for_all_members():
    costs, _ = _members()
    with pytest.warns(UserWarning, match=r"in \d of 4 problems") as caught:
        solve_transport(block_diagonal(costs), max_iter=2, tol=1e-9)
    assert len(caught) == 1


def test_wrong_input_is_named():
    costs, _ = _members()
    with pytest.raises(ValueError, match="needs one cost or more"):
        block_diagonal([])
    with pytest.raises(ValueError, match=r"costs\[1\] is a block diagonal itself"):
        block_diagonal([costs[0], block_diagonal(costs)])
    with pytest.raises(ValueError, match=r"costs\[1\] is torch.float32 on cpu but costs\[0\] is torch.float64"):
        block_diagonal([costs[0], SparseCost(torch.zeros(1), Support.full(1, 1))])
    with pytest.raises(ValueError, match=r"a must have shape \(94,\), the members' weights one after another"):
        solve_transport(block_diagonal(costs), torch.ones(3))
    with pytest.raises(ValueError, match=r"tau must be one number or have shape \(4,\)"):
        solve_transport(block_diagonal(costs), tau=torch.ones(3))
    bad = SparseCost(costs[0].values.clone(), costs[0].support)
    bad.values[3] = math.nan
    with pytest.raises(TransportError, match=r"member 2: .*cost.values\[3\]") as caught:
        solve_transport(block_diagonal([costs[0], costs[1], bad]))
    assert caught.value.indices == ((2,),)
    with pytest.raises(ValueError, match="takes the result of a block diagonal"):
        split_result(solve_transport(costs[0]))


def _clusters(count, seed=0):
    """Problems of one size, large enough together for the scaling form, each slower than the one before."""
    return [clustered(60, 50, 12, seed + i) for i in range(count)]


@pytest.mark.parametrize("tau", [0.3, 3.0, math.inf])
@pytest.mark.parametrize("reference", ["product", "counting"])
def test_many_small_problems_are_one_loop_and_each_its_own(tau, reference):
    costs = _clusters(8)
    epsilon = torch.linspace(0.05, 0.4, 8, dtype=DOUBLE)
    with counted() as loops:
        result = solve_transport(block_diagonal(costs), None, None, epsilon, tau, reference, max_iter=2000)
    assert len(loops) == 1
    assert len(set(result.iterations.tolist())) > 1  # each stops by itself
    for i, (one, cost) in enumerate(zip(split_result(result), costs, strict=True)):
        alone = solve_transport(cost, None, None, float(epsilon[i]), tau, reference, max_iter=2000)
        assert one.status == alone.status and abs(int(one.iterations) - int(alone.iterations)) <= 1
        assert float((one.plan_values - alone.plan_values).abs().sum()) <= 1e-6 * float(alone.mass)
        assert_close(one.gap, alone.gap, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("count", [4, 8])  # the log domain; the scaling form
def test_what_has_converged_stays_bit_for_bit_whatever_its_neighbours_do(count):
    epsilon = torch.full((count,), 1.0, dtype=DOUBLE)
    epsilon[2] = 0.05
    joint, others = block_diagonal(_clusters(count)), [i for i in range(count) if i != 2]
    with pytest.warns(UserWarning, match=f"MAX_ITER in 1 of {count} problems, the first at .*2"):
        short = solve_transport(joint, epsilon=epsilon, tau=0.5, max_iter=8)
    long = solve_transport(joint, epsilon=epsilon, tau=0.5, max_iter=500)
    assert int(long.iterations[2]) > 12 and int(long.iterations[others].max()) < 8
    for i in others:
        first, second = split_result(short)[i], split_result(long)[i]
        for one, other in zip(_numbers(first), _numbers(second), strict=True):
            assert torch.equal(one, other)
    alike = solve_transport(joint, epsilon=1.0, tau=0.5)  # another neighbour: the same up to rounding
    for i in others:
        first, second = split_result(alike)[i], split_result(long)[i]
        assert_close(first.plan_values, second.plan_values, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize(("gradient", "tau"), [("implicit", 0.3), ("implicit", 3.0), ("unrolled", 0.3)])
def test_gradients_of_many_are_those_of_each(gradient, tau):
    costs = [*_clusters(3), sample(4, 50, 40).sparse, sample(5, 55, 60).sparse]  # padded: sizes differ
    held = [SparseCost(c.values.clone().requires_grad_(), c.support) for c in costs]
    a = torch.cat([torch.rand(c.shape[0], dtype=DOUBLE) + 0.1 for c in costs]).requires_grad_()
    scale = torch.tensor(tau, dtype=DOUBLE, requires_grad=True)
    result = solve_transport(block_diagonal(held), a, tau=scale, tol=1e-9, max_iter=100, gradient=gradient)
    (result.plan_values.square().sum() + result.value.sum() + result.potentials[1].sum()).backward()
    parts, total = a.detach().split([c.shape[0] for c in costs]), 0.0
    for cost, ours, part, a_grad in zip(costs, held, parts, a.grad.split([len(p) for p in parts]), strict=True):
        values, weights, own = (t.detach().clone().requires_grad_() for t in (cost.values, part, scale))
        alone = solve_transport(
            SparseCost(values, cost.support), weights, tau=own, tol=1e-9, max_iter=100, gradient=gradient
        )
        (alone.plan_values.square().sum() + alone.value + alone.potentials[1].sum()).backward()
        assert_close(ours.values.grad, values.grad, rtol=1e-5, atol=1e-7)
        assert_close(a_grad, weights.grad, rtol=1e-5, atol=1e-7)
        total += own.grad
    assert_close(scale.grad, total, rtol=1e-5, atol=1e-7)


def test_one_without_a_plan_has_no_gradient_and_its_neighbours_have():
    """Balanced: three sources of the second share one target."""
    keep = torch.ones(6, 5, dtype=torch.bool)
    keep[:3, 1:] = False
    bad = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (6, 5))
    held = [
        SparseCost(torch.rand(s.nnz, dtype=DOUBLE).requires_grad_(), s)
        for s in (Support.full(6, 5), bad, Support.full(5, 5))
    ]
    with pytest.warns(UserWarning, match="INFEASIBLE in 1 of 3 problems"):
        result = solve_transport(block_diagonal(held), tau=math.inf)
    assert [TransportStatus(int(s)).name for s in result.status] == ["CONVERGED", "INFEASIBLE", "CONVERGED"]
    parts = split_result(result)
    (grad,) = torch.autograd.grad(parts[2].plan_values.square().sum(), held[2].values, retain_graph=True)
    alone = held[2].values.detach().clone().requires_grad_()
    solve_transport(SparseCost(alone, held[2].support), tau=math.inf).plan_values.square().sum().backward()
    assert_close(grad, alone.grad, rtol=1e-9, atol=1e-12)
    with pytest.raises(TransportError, match=r"a balanced problem without a plan.*problems \[\(1,\)\]") as caught:
        parts[1].plan_values.square().sum().backward()
    assert caught.value.indices == ((1,),)


def test_groups_are_alike_in_size_and_kind_and_not_too_large(monkeypatch):
    costs = _clusters(3) + [sample(0, 3, 3).sparse] * 2 + [clustered(150, 130, 20)]
    with counted() as loops:
        solve_transport(block_diagonal(costs))
    assert len(loops) == 2  # the two of 3 tokens, the four others
    tau = torch.tensor([0.3, math.inf, 0.3, 0.3, math.inf, 0.3], dtype=DOUBLE)
    mixed = solve_transport(block_diagonal(costs), tau=tau, max_iter=500)
    for i, (one, cost) in enumerate(zip(split_result(mixed), costs, strict=True)):
        alone = solve_transport(cost, tau=float(tau[i]), max_iter=500)
        assert_close(one.plan_values, alone.plan_values, rtol=0, atol=1e-9)
        assert int(one.iterations) == int(alone.iterations)
    monkeypatch.setattr(batch, "_TOGETHER", costs[0].support.nnz + 1)
    with counted() as loops:
        solve_transport(block_diagonal(costs[:3]))
    assert len(loops) == 3


def test_forbidden_pairs_and_empty_members():
    costs = _clusters(3)
    for cost in costs[:2]:
        cost.values[::7] = math.inf
    none = torch.zeros(0, dtype=torch.long)
    empty = SparseCost(torch.zeros(0, dtype=DOUBLE), Support.from_pairs(none, none, (55, 52)))
    result = solve_transport(block_diagonal([costs[0], empty, *costs[1:]]))
    assert float(result.mass[1]) == 0
    for one, cost in zip(split_result(result), [costs[0], empty, *costs[1:]], strict=True):
        alone = solve_transport(cost)
        assert_close(_numbers(one), _numbers(alone), rtol=1e-9, atol=1e-12)
