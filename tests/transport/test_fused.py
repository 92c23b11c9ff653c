"""The fused problem: its objective falls, its end is stationary, its gradient passes through the last solve."""

import itertools
import math
import warnings

import pytest
import torch
from helpers.gromov import brute_gradient, brute_value, geometries
from helpers.transport import DOUBLE, objective, sample
from torch.testing import assert_close

from saot.transport import (
    FusedSettings,
    PointGeometry,
    SparseCost,
    Support,
    grid_points,
    solve_fused,
    solve_transport,
    structure_gradient,
)

SHARP = {"max_iter": 20000, "tol": 1e-14}


def _fused_objective(plan, s, ds, dt, alpha, tau, cost=None):
    return objective(plan, s.cost if cost is None else cost, s.a, s.b, 0.1, tau) + alpha * brute_value(plan, ds, dt)


@pytest.mark.parametrize("sparse", [False, True])
def test_alpha_zero_is_solve_transport(sparse):
    s = sample(3)
    source, target, *_ = geometries("points-points", 9, 7)
    cost = s.sparse if sparse else s.cost
    fused, plain = solve_fused(cost, source, target, 0, s.a, s.b), solve_transport(cost, s.a, s.b)
    assert torch.equal(fused.transport.plan_values, plain.plan_values)
    assert torch.equal(fused.transport.value, plain.value)
    assert torch.equal(fused.objective, plain.value[None])
    assert not bool(fused.structure_cost.any())
    assert bool(fused.converged) and int(fused.steps) == 0


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("tau", [0.3, math.inf])
@pytest.mark.parametrize("kind", ["points-points", "matrix-points"])
def test_the_end_is_stationary_and_the_objective_is_as_defined(sparse, tau, kind):
    s = sample(5, balanced=math.isinf(tau))
    source, target, ds, dt = geometries(kind, 9, 7, d=2, scale=0.4)
    settings = FusedSettings(tau=tau, steps=3000, structure_tol=1e-9, **SHARP)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "transport ended")  # 1e-14 is at the rounding
        fused = solve_fused(s.sparse if sparse else s.cost, source, target, 0.5, s.a, s.b, settings)
    plan = fused.transport.plan
    effective = s.cost + 0.5 * brute_gradient(plan, ds, dt)
    if sparse:
        effective = torch.where(s.masked.isfinite(), effective, math.inf)
    again = solve_transport(effective, s.a, s.b, tau=tau, max_iter=20000, tol=1e-12)
    assert_close(again.plan, plan, rtol=1e-6, atol=1e-10)  # structure_tol, over epsilon
    masked = s.masked if sparse else s.cost
    expected = _fused_objective(plan, s, ds, dt, 0.5, tau, masked)
    assert_close(fused.objective[-1], expected, rtol=1e-9, atol=0)
    start = solve_transport(s.sparse if sparse else s.cost, s.a, s.b, tau=tau, max_iter=20000, tol=1e-12).plan
    assert_close(fused.objective[0], _fused_objective(start, s, ds, dt, 0.5, tau, masked), rtol=1e-9, atol=0)
    assert float(fused.residual) <= 1e-9
    assert float(fused.objective[-1]) < float(fused.objective[0])


def _plain_repetition(cost, source, target, alpha, steps, tau):
    """The scheme as printed: objective before and after each step, and the last plan."""
    shift, record = torch.zeros_like(cost), []
    for _ in range(steps + 1):
        result = solve_transport(cost + shift, tau=tau, max_iter=5000, tol=1e-9)
        linear = alpha * structure_gradient(result.plan, source, target)
        regular = result.value - (shift * result.plan).sum()
        record.append(float(regular + (linear * result.plan).sum() / 2))
        shift = linear
    return record, result.plan


def _random_problem(seed, n=20, m=15):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(n, m, dtype=DOUBLE, generator=generator)
    points = (torch.rand(size, 2, dtype=DOUBLE, generator=generator) for size in (n, m))
    return cost, *(PointGeometry(p) for p in points)


@pytest.mark.parametrize("alpha", [0.3, 10.0])
def test_balanced_steps_are_the_papers_and_never_rise(alpha):
    cost, source, target = _random_problem(11)
    record, plan = _plain_repetition(cost, source, target, alpha, 6, math.inf)
    assert all(later <= earlier + 1e-7 for earlier, later in itertools.pairwise(record))
    settings = FusedSettings(steps=6, structure_tol=0, tau=math.inf, max_iter=5000, tol=1e-9)
    fused = solve_fused(cost, source, target, alpha, settings=settings)
    assert int(fused.steps) == 6
    assert_close(fused.objective, torch.tensor(record, dtype=DOUBLE), rtol=1e-9, atol=0)
    assert_close(fused.transport.plan, plan, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("alpha", [10.0, 100.0])
def test_relaxed_marginals_need_the_shorter_steps(alpha):
    cost, source, target = _random_problem(12)
    record, _ = _plain_repetition(cost, source, target, alpha, 12, 0.3)
    assert any(later > earlier + 1e-3 for earlier, later in itertools.pairwise(record))
    fused = solve_fused(
        cost, source, target, alpha, settings=FusedSettings(steps=400, structure_tol=1e-6, max_iter=5000, tol=1e-10)
    )
    assert float(fused.objective.diff().max()) <= 1e-12
    assert bool(fused.converged)
    assert float(fused.objective[-1]) <= min(record) + 1e-9


def test_balanced_end_is_that_of_pot():
    gromov = pytest.importorskip("ot.gromov")
    cost, source, target = _random_problem(13, 8, 6)
    settings = FusedSettings(tau=math.inf, steps=2000, structure_tol=1e-10, max_iter=20000, tol=1e-13)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "transport ended")
        fused = solve_fused(cost, source, target, 1.0, settings=settings)
    start = solve_transport(cost, tau=math.inf, max_iter=20000, tol=1e-12).plan
    ds, dt = (torch.cdist(g.points, g.points).square().numpy() for g in (source, target))
    # POT weighs (1 - alpha) cost + alpha Gromov: half of ours throughout
    plan = gromov.entropic_fused_gromov_wasserstein(
        cost.numpy(), ds, dt, epsilon=0.05, alpha=0.5, G0=start.numpy(), max_iter=2000, tol=1e-12, numItermax=20000,
        stopThr=1e-13,
    )  # fmt: skip
    assert_close(fused.transport.plan, torch.from_numpy(plan), rtol=1e-6, atol=1e-10)


def test_structure_decides_where_appearance_does_not():
    grid = PointGeometry(grid_points(4, 5, dtype=DOUBLE))
    generator = torch.Generator().manual_seed(4)
    look = torch.rand(20, 3, dtype=DOUBLE, generator=generator)
    look[7] = look[12]  # two tokens that look the same
    cost = torch.cdist(look, look).square()
    plain, fused = (
        solve_transport(cost, epsilon=0.01),
        solve_fused(cost, grid, grid, 2.0, settings=FusedSettings(epsilon=0.01)),
    )
    assert_close(plain.plan[7, 7], plain.plan[7, 12], rtol=1e-4, atol=0)
    assert float(fused.transport.plan[7, 7]) > 2 * float(fused.transport.plan[7, 12])


@pytest.mark.parametrize("kind", ["points-points", "matrix-points"])
def test_fused_full_support_is_dense_and_a_batch_is_its_members(kind):
    s, other = sample(21), sample(22, scale=3.0)
    source, target, *_ = geometries(kind, 9, 7, d=2, scale=0.4)
    settings = FusedSettings(steps=5, structure_tol=1e-3, max_iter=500, tol=1e-10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the structure term ended")
        dense = solve_fused(s.cost, source, target, 0.3, s.a, s.b, settings)
        full = solve_fused(SparseCost(s.cost.flatten(), Support.full(9, 7)), source, target, 0.3, s.a, s.b, settings)
        batch = solve_fused(torch.stack([s.cost, other.cost]), source, target, 0.3, s.a, s.b, settings)
        second = solve_fused(other.cost, source, target, 0.3, s.a, s.b, settings)
    assert_close(full.transport.plan, dense.transport.plan, rtol=1e-8, atol=1e-14)
    assert_close(full.objective, dense.objective, rtol=1e-10, atol=0)
    for i, alone in enumerate((dense, second)):
        assert int(batch.steps[i]) == int(alone.steps)
        assert bool(batch.converged[i]) == bool(alone.converged)
        assert_close(batch.transport.plan[i], alone.transport.plan, rtol=1e-8, atol=1e-14)
        assert_close(batch.objective[-1, i], alone.objective[-1], rtol=1e-10, atol=0)


def test_padding_changes_nothing():
    s = sample(31)
    source, target, *_ = geometries("points-points", 9, 7, d=2, scale=0.4)
    far = PointGeometry(torch.cat([source.points, torch.full((1, 2), 5.0, dtype=DOUBLE)]))
    cost, a = torch.nn.functional.pad(s.cost, (0, 0, 0, 1)), torch.nn.functional.pad(s.a, (0, 1))
    settings = FusedSettings(steps=100, structure_tol=1e-6, tol=1e-12, max_iter=1000)
    alone = solve_fused(s.cost, source, target, 0.3, s.a, s.b, settings)
    padded = solve_fused(cost, far, target, 0.3, a, s.b, settings)
    assert int(padded.steps) == int(alone.steps)
    assert_close(padded.transport.plan[:9], alone.transport.plan, rtol=1e-6, atol=1e-12)  # structure_tol
    assert not bool(padded.transport.plan[9].any())


def test_gradients_pass_through_the_last_solve():
    s = sample(41)
    source, target, *_ = geometries("points-points", 9, 7, d=2, scale=0.4)
    settings = FusedSettings(steps=300, structure_tol=1e-10, tol=1e-13, max_iter=5000)
    cost = s.cost.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "transport ended")
        fused = solve_fused(cost, source, target, 0.2, s.a, s.b, settings)
    assert not fused.objective.requires_grad and not fused.structure_cost.requires_grad
    (by_value,) = torch.autograd.grad(fused.transport.value, cost, retain_graph=True)
    assert_close(by_value, fused.transport.plan.detach(), rtol=1e-9, atol=1e-14)
    weights = torch.rand_like(s.cost)
    (by_plan,) = torch.autograd.grad((fused.transport.plan * weights).sum(), cost)
    again = s.cost.clone().requires_grad_()
    held = solve_transport(again + fused.structure_cost, s.a, s.b, max_iter=5000, tol=1e-12)
    (expected,) = torch.autograd.grad((held.plan * weights).sum(), again)
    assert_close(by_plan, expected, rtol=1e-7, atol=1e-12)
    # the whole objective's gradient in the cost is the plan: finite differences along a random direction
    step = 1e-5 * weights
    up, down = (solve_fused(s.cost + h, source, target, 0.2, s.a, s.b, settings).objective[-1] for h in (step, -step))
    assert_close(up - down, 2 * (step * by_value).sum(), rtol=1e-5, atol=0)
    none = solve_fused(cost, source, target, 0.2, s.a, s.b, FusedSettings(gradient="none", structure_tol=0.1))
    assert not none.transport.plan.requires_grad


def test_running_out_of_steps_is_told_once():
    s = sample(51)
    source, target, *_ = geometries("points-points", 9, 7, d=2, scale=0.4)
    with pytest.warns(UserWarning, match="structure term ended at a residual of .* after 1 steps") as seen:
        fused = solve_fused(s.cost, source, target, 0.5, s.a, s.b, FusedSettings(steps=1))
    assert len(seen) == 1
    assert not bool(fused.converged)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent = solve_fused(s.cost, source, target, 0.5, s.a, s.b, FusedSettings(steps=1, structure_tol=0))
    assert int(silent.steps) == 1
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        rough = solve_fused(
            s.cost, source, target, 0.5, s.a, s.b, FusedSettings(steps=6, structure_tol=0, max_iter=1, tol=1e-12)
        )
    # of the solves only the first and the last speak
    assert len([w for w in seen if "transport ended with MAX_ITER" in str(w.message)]) == 2
    assert int(rough.steps) == 6 and not bool(rough.converged)


def test_half_precision_cost_and_forbidden_pairs():
    s = sample(61)
    source, target, *_ = geometries("points-points", 9, 7, d=2, scale=0.4)
    settings = FusedSettings(steps=100, structure_tol=1e-3)
    half = solve_fused(s.cost.half(), source, target, 0.2, settings=settings)
    single = solve_fused(s.cost.half().float(), source, target, 0.2, settings=settings)
    assert torch.equal(half.transport.plan, single.transport.plan)
    dense, sparse = (solve_fused(c, source, target, 0.2, settings=settings) for c in (s.masked, s.sparse))
    assert bool(dense.objective.isfinite().all())
    assert not bool(dense.transport.plan[s.masked.isinf()].any())
    assert_close(dense.transport.plan, sparse.transport.plan, rtol=1e-6, atol=1e-10)


def test_a_second_derivative_is_refused_and_without_structure_right():
    line = PointGeometry(torch.arange(4, dtype=torch.float64)[:, None])
    cost = torch.rand(4, 4, dtype=torch.float64, requires_grad=True)
    for name in ("value", "mass"):
        result = solve_fused(cost, line, line, alpha=0.05).transport
        (first,) = torch.autograd.grad(getattr(result, name), cost, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivatives, for its structure cost is held fixed"):
            first.sum().backward()
    (first,) = torch.autograd.grad(solve_fused(cost, line, line, alpha=0).transport.mass, cost, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), cost)
    assert float(second.abs().max()) > 1e-3


FINE = {"steps": 400, "structure_tol": 1e-11, "tol": 1e-13, "max_iter": 5000}


def _by_plan(cost, source, target, alpha, a, b, settings, weights, inputs):
    """The gradient of <weights, plan> in the inputs; the plan's sums come in as well, by the potentials."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "transport ended|the structure term ended")  # 1e-13 is at the rounding
        result = solve_fused(cost, source, target, alpha, a, b, settings).transport
    f, g = result.potentials
    loss = (result.plan_values * weights).sum() + 0.1 * (f.square().sum() + g.mean())
    return torch.autograd.grad(loss, tuple(inputs.values())), float(loss.detach())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("kind", ["points-points", "matrix-points"])
def test_the_gradient_that_follows_is_that_of_finite_differences(kind, sparse):
    s = sample(71)
    source, target, *_ = geometries(kind, 9, 7, d=2, scale=0.4)
    alpha, epsilon = 1.0, torch.tensor(0.1, dtype=DOUBLE, requires_grad=True)
    values = (s.sparse.values if sparse else s.cost).clone().requires_grad_()
    a = s.a.clone().requires_grad_()
    weights = torch.rand(values.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))

    def cost_of(values):
        return SparseCost(values, s.sparse.support) if sparse else values

    inputs = {"values": values, "a": a, "epsilon": epsilon}
    settings = FusedSettings(epsilon=epsilon, follow=True, **FINE)
    found, _ = _by_plan(cost_of(values), source, target, alpha, a, s.b, settings, weights, inputs)
    held = FusedSettings(epsilon=epsilon, **FINE)
    fixed, _ = _by_plan(cost_of(values), source, target, alpha, a, s.b, held, weights, inputs)
    assert float((found[0] - fixed[0]).norm() / found[0].norm()) > 0.02  # there is something to follow
    for (name, value), gradient in zip(inputs.items(), found, strict=True):
        direction = torch.rand(value.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(5)) - 0.3
        ends = []
        for sign in (1, -1):
            moved = {n: v.detach().clone().requires_grad_() for n, v in inputs.items()}
            moved[name] = (value.detach() + sign * 1e-5 * direction).requires_grad_()
            how = FusedSettings(epsilon=moved["epsilon"], **FINE)
            ends.append(
                _by_plan(cost_of(moved["values"]), source, target, alpha, moved["a"], s.b, how, weights, moved)[1]
            )
        # central differences: their own error is 1e-10 over 2e-5 from where the scheme stops
        assert_close((gradient * direction).sum().item(), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("tau", [0.3, math.inf])
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_the_gradient_that_follows_is_that_of_the_repetition(tau, gradient):
    """The twin: the scheme as printed, differentiated step by step."""
    cost, source, target = _random_problem(14, 8, 6)
    weights = torch.rand(8, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    plain = cost.clone().requires_grad_()
    shift, plan = torch.zeros_like(cost), cost
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "transport ended")
        for _ in range(40):
            plan = solve_transport(plain + shift, tau=tau, max_iter=2000, tol=1e-13).plan
            shift = 0.3 * structure_gradient(plan, source, target)
        (expected,) = torch.autograd.grad((plan * weights).sum(), plain)
        followed = cost.clone().requires_grad_()
        how = FusedSettings(
            steps=100, structure_tol=1e-11, tau=tau, max_iter=400, tol=1e-13, gradient=gradient, follow=True
        )
        result = solve_fused(followed, source, target, 0.3, settings=how).transport
    (found,) = torch.autograd.grad((result.plan * weights).sum(), followed)
    assert_close(result.plan, plan, rtol=1e-7, atol=1e-12)
    assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_following_members_of_a_batch_do_not_see_each_other():
    one, other = sample(81), sample(82, scale=3.0)
    source, target, *_ = geometries("points-points", 9, 7, d=2, scale=0.4)
    weights = torch.rand(2, 9, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    settings = FusedSettings(follow=True, **FINE)
    costs = torch.stack([one.cost, other.cost]).requires_grad_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "transport ended|the structure term ended")
        together = solve_fused(costs, source, target, 0.5, settings=settings).transport
        (found,) = torch.autograd.grad((together.plan * weights).sum(), costs)
        for i, s in enumerate((one, other)):
            cost = s.cost.clone().requires_grad_()
            alone = solve_fused(cost, source, target, 0.5, settings=settings).transport
            (expected,) = torch.autograd.grad((alone.plan * weights[i]).sum(), cost)
            assert_close(found[i], expected, rtol=1e-7, atol=1e-11)
    once = one.cost.clone().requires_grad_()
    plan = solve_fused(
        once, source, target, 0.1, settings=FusedSettings(follow=True, structure_tol=0.01)
    ).transport.plan
    (first,) = torch.autograd.grad((plan * weights[0]).sum(), once, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        first.sum().backward()
