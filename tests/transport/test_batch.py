"""Ragged batches of sparse problems as a block diagonal."""

import math

import pytest
import torch
from helpers.transport import DOUBLE, sample
from torch.testing import assert_close

from saot.transport import SparseCost, Support, TransportError, block_diagonal, solve_transport, split_result
from saot.transport.support import Support as PlainSupport

SIZES = ((9, 7), (1, 1), (80, 70), (4, 90))  # the third takes the fast path


def _members(dtype=DOUBLE):
    samples = [sample(seed, n, m) for seed, (n, m) in enumerate(SIZES)]
    return [SparseCost((1 + i) * s.sparse.values.to(dtype), s.support) for i, s in enumerate(samples)], samples


def _numbers(result):
    names = ("mass", "value", "dual_value", "gap", "converged", "status", "residual", "iterations", "covered")
    return [getattr(result, name) for name in names] + [*result.potentials, *result.marginals, result.plan_values]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("tau", [0.3, math.inf])
@pytest.mark.parametrize("tol", [0, 1e-4])
@pytest.mark.filterwarnings("ignore:transport ended")
def test_members_are_solved_as_if_alone_bit_for_bit(dtype, tau, tol):
    costs, samples = _members(dtype)
    for weights in (False, True):
        a = [s.a.to(dtype) if weights else None for s in samples]
        b = [s.b.to(dtype) if weights else None for s in samples]
        joined = [torch.cat(w) if weights else None for w in (a, b)]
        result = solve_transport(block_diagonal(costs), *joined, 0.1, tau, max_iter=40, tol=tol)
        assert result.mass.shape == (4,)
        for one, cost, a_i, b_i in zip(split_result(result), costs, a, b, strict=True):
            alone = solve_transport(cost, a_i, b_i, 0.1, tau, max_iter=40, tol=tol)
            for ours, theirs in zip(_numbers(one), _numbers(alone), strict=True):
                assert torch.equal(ours, theirs)


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
        assert torch.equal(v.grad, alone_v.grad)
        assert torch.equal(epsilon.grad[i], alone_e.grad)
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
