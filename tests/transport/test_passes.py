"""Passes by machine code against torch's, and what is made of them."""

import math

import pytest
import torch
from helpers.transport import DOUBLE, clustered, quiet_solve, typed
from torch.testing import assert_close

from saot.transport import SparseCost, Support, machine_code, passes, updates

pytestmark = pytest.mark.skipif(machine_code.torch_team() is None, reason="torch has no threads of GNU OpenMP here")


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    """Machine code for small problems, in as many parts as there are threads."""
    pytest.importorskip("numba")
    monkeypatch.setattr(passes, "_LEAST", 0)
    monkeypatch.setattr(passes, "_ALONE", 1)
    monkeypatch.setattr(updates, "_MIN_PAIRS", 0)


def _support(seed, n, m):
    """Random pairs; the first and the last source, and a target, have none."""
    keep = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.4
    keep[:, m // 2] = keep[0] = keep[-1] = False
    return Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (n, m))


@pytest.mark.parametrize("shape", [(3, 3), (9, 70), (200, 31)])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_passes_are_torch_s(shape, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed in range(3):
            support = _support(seed, *shape)
            v, x, y = torch.randn(support.nnz), torch.randn(shape[0]), torch.randn(shape[1])
            row, col = support.row.long(), support.col.long()
            assert torch.equal(passes.take(v, support.perm), v[support.perm.long()])
            by_row = v.new_zeros(shape[0]).index_add(0, row, v)
            by_col = v.new_zeros(shape[1]).index_add(0, col, v)
            assert_close(passes.segment_sums(v, support.crow), by_row, rtol=1e-5, atol=1e-5)
            assert_close(passes.segment_sums(v, support.ccol, support.perm), by_col, rtol=1e-5, atol=1e-5)
            assert_close(passes.weighted(v, x, y, support), v * (x[row] + y[col]), rtol=1e-6, atol=0)
            found = passes.exponentials(v, torch.tensor([-0.3]), x, y, support)
            exact = (v.double() / -0.3 + x[row] + y[col]).exp()
            assert_close(found.double(), exact, rtol=2e-6, atol=0)
    finally:
        torch.set_num_threads(before)


def test_sums_have_the_same_bytes_with_any_threads():
    support, before, found = _support(5, 300, 120), torch.get_num_threads(), []
    v = torch.randn(support.nnz)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((passes.segment_sums(v, support.crow), passes.segment_sums(v, support.ccol, support.perm)))
    finally:
        torch.set_num_threads(before)
    for rows, cols in found[1:]:
        assert torch.equal(rows, found[0][0]) and torch.equal(cols, found[0][1])


def test_an_exponential_is_exact_to_a_unit_and_a_half():
    support = Support.full(300, 300)
    y = torch.linspace(-87.2, 88.7, support.nnz)
    zero = torch.zeros(300)
    found = passes.exponentials(y, torch.ones(1), zero, zero, support).double()
    exact = y.double().exp()
    assert float(((found - exact) / exact).abs().max()) < 1.5 * 2**-23


def test_an_exponential_out_of_range():
    support, zero = Support.full(1, 7), torch.zeros(1)
    y = torch.tensor([-math.inf, -1e30, -88.0, 0.0, 88.8, math.inf, math.nan])
    found = passes.exponentials(y, torch.ones(1), zero, torch.zeros(7), support)
    assert found[:6].tolist() == [0.0, 0.0, 0.0, 1.0, math.inf, math.inf] and bool(found[6].isnan())


@pytest.mark.parametrize("tau", [0.3, math.inf])
@pytest.mark.parametrize("reference", ["product", "counting"])
def test_solves_and_gradients_are_torch_s(tau, reference, monkeypatch):
    cost = clustered()
    weights = torch.randn(cost.support.nnz, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def solve(dtype):
        values = cost.values.to(dtype, copy=True).requires_grad_()
        result = quiet_solve(SparseCost(values, cost.support), tau=tau, reference=reference, max_iter=60, tol=0)
        (result.plan_values * weights.to(dtype)).sum().backward()
        return result, values.grad

    (ours, our_grad), calls, plain = solve(torch.float32), [], passes._run
    monkeypatch.setattr(passes, "_run", lambda name, *args: calls.append(name) or plain(name, *args))
    solve(torch.float32)
    assert set(calls) == {"take", "sums", "sums_at", "exponentials", "weighted"}
    monkeypatch.setattr(passes, "_machine_code", lambda: None)
    (theirs, their_grad), (exact, exact_grad) = solve(torch.float32), solve(torch.float64)
    plans = [one.plan_values.detach().double() for one in (ours, theirs, exact)]
    for *ones, right in (plans, [our_grad.double(), their_grad.double(), exact_grad]):
        distance, other = (float((one - right).abs().max() / right.abs().max()) for one in ones)
        assert distance < max(2 * other, 1e-5)
    for name in ("mass", "value", "dual_value"):
        assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.status, theirs.status) and torch.equal(ours.covered, theirs.covered)


def test_other_types_are_torch_s():
    assert passes.serves(torch.zeros(3)) and not passes.serves(torch.zeros(3, dtype=DOUBLE))
    assert not passes.serves(torch.zeros(3, device="meta"))


def test_pairs_that_are_forbidden_carry_nothing():
    cost = typed(clustered(), torch.float32)
    values = cost.values.clone()
    values[::5] = math.inf
    plan = quiet_solve(SparseCost(values, cost.support), max_iter=50).plan_values
    assert bool((plan[::5] == 0).all()) and bool((plan >= 0).all()) and float(plan.sum()) > 0
