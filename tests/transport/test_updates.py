"""The scaling form against the log domain, over the whole range of epsilon and tau."""

import math

import pytest
import torch
from helpers.transport import (
    DOUBLE,
    clustered,
    quiet_solve,
    typed,
)
from torch.testing import assert_close

from saot.transport import SparseCost, Support, loop, solve_transport, updates


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


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("epsilon", [20.0, 2.0, 0.1, 1e-2, 2e-3, 2e-4])  # the costs reach from 0.1 to 2
@pytest.mark.parametrize("tau", [1e-3, 0.3, 30.0, 1e4, math.inf])
def test_every_epsilon_and_tau_is_finite_and_the_log_domain_s(dtype, form, epsilon, tau, monkeypatch):
    exact = clustered()
    exact = exact.dense() if form == "dense" else exact
    cost = exact.to(dtype) if form == "dense" else typed(exact, dtype)
    result = quiet_solve(cost, epsilon=epsilon, tau=tau, max_iter=30, tol=0)
    for t in (result.plan_values, result.value, result.dual_value, result.gap, *result.potentials):
        assert bool(t.isfinite().all())
    with monkeypatch.context() as patch:
        patch.setattr(loop, "has_fast_path", lambda pairs: False)
        slow = quiet_solve(exact, epsilon=epsilon, tau=tau, max_iter=30, tol=0)
    unit = 1e-13 if dtype == DOUBLE else 3e-7
    scale = max(float(p.abs().max()) for p in slow.potentials) + epsilon + 2
    for ours, theirs in zip(result.potentials, slow.potentials, strict=True):
        assert_close(ours.to(DOUBLE), theirs, rtol=0, atol=60 * unit * scale)  # 60 updates' rounding
    # exp((f + g - C) / epsilon) turns an error d of the exponent into a relative one; the sum tells what is lost
    assert_close(result.mass.to(DOUBLE), slow.mass, rtol=min(0.5, 200 * unit * scale / epsilon), atol=1e-30)
