"""Sweeps by machine code against torch's: the same plans, statuses and counts, the same bytes with any threads."""

import math
import subprocess
import sys

import pytest
import torch
from helpers.transport import DOUBLE, clustered, quiet_solve, typed
from torch.testing import assert_close

from saot.transport import (
    SparseCost,
    Support,
    TransportStatus,
    block_diagonal,
    machine_code,
    passes,
    solve_transport,
    split_result,
    sweeps,
    updates,
)

pytestmark = pytest.mark.skipif(machine_code.torch_team() is None, reason="torch has no threads of GNU OpenMP here")


@pytest.fixture
def counted(monkeypatch):
    """Machine code for small problems too, in as many parts as there are threads; sweeps asked for and done."""
    pytest.importorskip("numba")
    monkeypatch.setattr(passes, "_LEAST", 0)
    monkeypatch.setattr(passes, "_ALONE", 1)
    monkeypatch.setattr(updates, "_MIN_PAIRS", 0)
    seen, run = [], sweeps.Sweeps.run

    def noted(self, v, count):
        found = run(self, v, count)
        seen.append((count, found[0]))
        return found

    monkeypatch.setattr(sweeps.Sweeps, "run", noted)
    return seen


def _by_torch(monkeypatch, solve):
    with monkeypatch.context() as patch:
        patch.setattr(passes, "_machine_code", lambda: None)
        return solve()


def _problem(seed, n, m, share=0.4):
    """Random costs on random pairs; some tokens have no pair, some no weight."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(n, m, generator=generator) < share
    keep[:, m // 2] = False
    keep[n // 2] = False
    support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (n, m))
    a = torch.rand(n, generator=generator)
    a[0] = 0
    return SparseCost(torch.rand(support.nnz, generator=generator), support), a / n


@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (40, 130), (300, 30)])
@pytest.mark.parametrize("epsilon", [2.0, 0.1, 0.02])
@pytest.mark.parametrize("tau", [0.01, 0.3, math.inf])
def test_plans_are_torch_s(shape, epsilon, tau, counted, monkeypatch):
    for seed in range(3):
        cost, a = _problem(seed, *shape, share=1.0 if shape == (1, 1) else 0.4)

        def solve(cost=cost, a=a):
            return quiet_solve(cost, a=a, epsilon=epsilon, tau=tau, max_iter=15, tol=0)

        ours, theirs = solve(), _by_torch(monkeypatch, solve)
        scale = max(1.0, float(theirs.plan_values.max()) if cost.support.nnz else 1.0) / epsilon
        assert_close(ours.plan_values, theirs.plan_values, rtol=1e-6 * max(10, scale), atol=1e-30)
        assert torch.equal(ours.status, theirs.status) and torch.equal(ours.iterations, theirs.iterations)
        assert torch.equal(ours.covered, theirs.covered)
        assert_close(ours.potentials, theirs.potentials, rtol=1e-5, atol=1e-5)
    assert any(done > 0 for _, done in counted)


def test_a_plan_is_torch_s_within_1e_6_of_its_mass(counted, monkeypatch):
    cost = typed(clustered(400, 350, 60), torch.float32)
    ours = quiet_solve(cost, max_iter=30, tol=0).plan_values
    theirs = _by_torch(monkeypatch, lambda: quiet_solve(cost, max_iter=30, tol=0).plan_values)
    exact = quiet_solve(typed(cost, DOUBLE), max_iter=30, tol=0).plan_values
    assert float((ours - theirs).abs().sum() / theirs.sum()) < 1e-6
    assert float((ours - exact).abs().sum() / exact.sum()) < 1e-6
    assert counted == [(29, 29), (1, 1)]  # float64 is torch's


@pytest.mark.parametrize("epsilon", [0.1, 2e-3])
def test_the_same_bytes_with_one_thread_two_or_three(epsilon, counted):
    cost, a = _problem(3, 200, 90)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append(quiet_solve(cost, a=a, epsilon=epsilon, max_iter=40).potentials)
    finally:
        torch.set_num_threads(threads)
    assert counted
    for f, g in found[1:]:
        assert torch.equal(f, found[0][0]) and torch.equal(g, found[0][1])


def test_a_scaling_that_leaves_its_range_is_absorbed(counted, monkeypatch):
    """Costs of a thousand epsilon: no kernel holds the whole way from 0 to the solution."""
    cost = typed(clustered(), torch.float32)

    def solve():
        return quiet_solve(cost, epsilon=2e-3, max_iter=60, tol=0)

    ours = solve()
    assert any(done < count for count, done in counted)  # a sweep was out of range
    assert any(done > 0 for _, done in counted)
    theirs = _by_torch(monkeypatch, solve)
    exact = quiet_solve(clustered(), epsilon=2e-3, max_iter=60, tol=0)
    mass = exact.plan_values.sum()
    distances = [float((one.plan_values.double() - exact.plan_values).abs().sum() / mass) for one in (ours, theirs)]
    assert distances[0] < max(2 * distances[1], 1e-4)


def test_a_solve_that_ends_by_tol_ends_as_torch_s(counted, monkeypatch):
    cost, a = _problem(5, 120, 100)
    for tau in (0.3, 3.0):  # plain sweeps, and from extrapolated starts
        ours = solve_transport(cost, a, tau=tau)
        theirs = _by_torch(monkeypatch, lambda tau=tau: solve_transport(cost, a, tau=tau))
        assert ours.status == TransportStatus.CONVERGED and int(ours.iterations) == int(theirs.iterations)
        assert_close(ours.plan_values, theirs.plan_values, rtol=1e-4, atol=1e-12)


def test_members_of_a_block_diagonal_with_their_own_epsilon(counted, monkeypatch):
    costs = [_problem(seed, 30 + seed, 25 + seed)[0] for seed in range(4)]
    epsilon, tau = torch.tensor([0.1, 0.2, 0.05, 0.4]), torch.tensor([0.3, 0.1, 1.0, 0.3])

    def solve():
        return split_result(solve_transport(block_diagonal(costs), epsilon=epsilon, tau=tau, max_iter=20, tol=0))

    ours, theirs = solve(), _by_torch(monkeypatch, solve)
    assert counted
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.plan_values, other.plan_values, rtol=3e-5, atol=1e-30)


def test_what_is_not_for_machine_code_is_left_to_torch(counted, monkeypatch):
    cost, a = _problem(7, 40, 30)
    quiet_solve(cost.dense(), a=a)
    quiet_solve(typed(cost, DOUBLE), a=a.double())
    assert not counted
    monkeypatch.setattr(passes, "_LEAST", cost.support.nnz + 1)
    quiet_solve(cost, a=a)
    assert not counted
    monkeypatch.setattr(passes, "_LEAST", cost.support.nnz)
    quiet_solve(cost, a=a)
    assert counted


def test_without_numba_or_torch_s_threads_there_is_none(monkeypatch):
    assert passes._machine_code.__wrapped__() is not None or "numba" not in sys.modules
    monkeypatch.setitem(sys.modules, "saot.transport.pass_code", None)
    assert passes._machine_code.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setattr(passes, "torch_team", lambda: None)
    assert passes._machine_code.__wrapped__() is None
    monkeypatch.setitem(sys.modules, "numba", None)
    assert machine_code.compiled(test_without_numba_or_torch_s_threads_there_is_none) is None


def test_a_library_without_the_functions_is_no_team(monkeypatch):
    monkeypatch.setattr(machine_code, "_TEAM", ("GOMP_parallel", "no_such_function"))
    assert machine_code.torch_team.__wrapped__() is None


def test_a_small_solve_does_not_load_numba():
    code = (
        "import sys, torch, saot.transport as t\n"
        "found = t.topk_candidates(torch.randn(100, 8), torch.randn(100, 8), k=50)\n"
        "t.solve_transport(found.squared_euclidean_cost())\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("y", [-57.7, -0.5, -1e-9, 0.0, 0.49999, 0.5, 31.25, 57.7])
def test_powers_are_exact_to_float32(y, counted):
    pytest.importorskip("numba")
    from saot.transport import pass_code

    x = 2.0**y
    assert math.isclose(float(pass_code._exp2(y)), x, rel_tol=1.2e-7)
    short = float(torch.tensor(x))
    assert math.isclose(float(pass_code._log2(short)), math.log2(short), rel_tol=1e-10, abs_tol=1e-10)


def test_sums_and_scalings_out_of_range_are_counted():
    pytest.importorskip("numba")
    from saot.transport import pass_code

    sums = torch.tensor([1.0, 16.0, math.inf, math.nan, 0.0, 1e-40, 1.0, 1.0, 7.0])
    log_alpha = torch.tensor([0.0, 0.0, 60.0, 0.0, 0.0, 0.0, 41.0, -41.0, -math.inf])
    power = torch.full_like(sums, -0.75)
    assert pass_code._scale(sums.numpy(), log_alpha.numpy(), power.numpy(), 40.0) == 6
    assert sums[[0, 1, 8]].tolist() == [1.0, 0.125, 0.0]
    assert bool(sums.isfinite().all())


def test_sweeps_in_the_log_domain_are_counted_one_by_one(monkeypatch):
    cost = typed(clustered(), torch.float32)
    log_update, calls = updates.KernelUpdates._log_update, []
    monkeypatch.setattr(updates.KernelUpdates, "_enter", lambda self, *args: None)
    monkeypatch.setattr(updates, "_MIN_PAIRS", 0)
    monkeypatch.setattr(
        updates.KernelUpdates, "_log_update", lambda self, *args, **kw: calls.append(1) or log_update(self, *args, **kw)
    )
    quiet_solve(cost, max_iter=7, tol=0)
    assert len(calls) == 14
