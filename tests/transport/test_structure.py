"""The structure term against its definition and POT, its memory, and the descent of the fused problem."""

import itertools
import math
import warnings

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transport_problems import DOUBLE, objective, sample

from saot.transport import SparseCost, Support, solve_transport
from saot.transport.fused import FusedSettings, solve_fused
from saot.transport.structure import (
    DistanceGeometry,
    PointGeometry,
    grid_points,
    structure_gradient,
    structure_value,
)

KINDS = ["points-points", "matrix-matrix", "points-matrix", "matrix-points"]
EXACT = {"rtol": 1e-12, "atol": 1e-13}  # sums of some hundred terms of size 1 in float64
SHARP = {"max_iter": 20000, "tol": 1e-14}


def geometries(kind, n=7, m=5, d=3, scale=1.0):
    """Both geometries and their matrices of distances."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for one, size in zip(kind.split("-"), (n, m), strict=True):
        if one == "points":
            points = scale * torch.randn(size, d, dtype=DOUBLE, generator=generator)
            made.append((PointGeometry(points), torch.cdist(points, points).square()))
        else:
            half = scale * torch.rand(size, size, dtype=DOUBLE, generator=generator)
            made.append((DistanceGeometry(half + half.T), half + half.T))
    (source, ds), (target, dt) = made
    return source, target, ds, dt


def plans(n=7, m=5):
    """A sparse plan with an empty row and an empty column: values, support and the dense matrix; mass not 1."""
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(n, m, generator=generator) < 0.6
    keep[2], keep[:, 1] = False, False
    support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (n, m))
    dense = torch.rand(n, m, dtype=DOUBLE, generator=generator) * keep
    assert abs(float(dense.sum()) - 1) > 0.3
    return dense[keep], support, dense


def brute_value(plan, ds, dt):
    """Q as printed, over the four indices."""
    loss = (ds[:, :, None, None] - dt[None, None]).square()
    return torch.einsum("ikjl,ij,kl->", loss, plan, plan)


def brute_gradient(plan, ds, dt):
    """Eq. (13) as printed, with its factor 2."""
    loss = (ds[:, :, None, None] - dt[None, None]).square()
    return 2 * torch.einsum("ikjl,kl->ij", loss, plan)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_sum_over_four_indices(kind):
    source, target, ds, dt = geometries(kind)
    values, support, dense = plans()
    expected, q = brute_gradient(dense, ds, dt), brute_value(dense, ds, dt)
    assert_close(structure_gradient(dense, source, target), expected, **EXACT)
    on_pairs = structure_gradient(values, source, target, support)
    assert on_pairs.support is support
    assert_close(on_pairs.values, expected[support.row.long(), support.col.long()], **EXACT)
    assert_close(structure_value(dense, source, target), q, **EXACT)
    assert_close(structure_value(values, source, target, support), q, **EXACT)


@pytest.mark.parametrize("kind", ["points-points", "matrix-matrix"])
def test_equals_pot(kind):
    gromov = pytest.importorskip("ot.gromov")
    source, target, ds, dt = geometries(kind, 9, 6)
    plan = torch.rand(9, 6, dtype=DOUBLE)
    plan = plan / plan.sum()
    parts = gromov.init_matrix(ds.numpy(), dt.numpy(), plan.sum(1).numpy(), plan.sum(0).numpy(), "square_loss")
    gradient = torch.from_numpy(gromov.gwggrad(*parts, plan.numpy()))
    assert_close(structure_gradient(plan, source, target), gradient, **EXACT)
    value = torch.tensor(gromov.gwloss(*parts, plan.numpy()))
    assert_close(structure_value(plan, source, target), value, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_value(kind):
    source, target, ds, dt = geometries(kind)
    values, support, dense = plans()
    for plan, pairs in ((dense, None), (values, support)):
        plan = plan.clone().requires_grad_()
        gradient = structure_gradient(plan, source, target, pairs)
        gradient = gradient if pairs is None else gradient.values
        (by_autograd,) = torch.autograd.grad(structure_value(plan, source, target, pairs), plan)
        assert_close(by_autograd, gradient.detach(), **EXACT)
        # finite differences know nothing of our adjoint
        assert torch.autograd.gradcheck(lambda x, p=pairs: structure_value(x, source, target, p), plan)
        assert torch.autograd.gradgradcheck(lambda x, p=pairs: structure_value(x, source, target, p), plan)
    dense = dense.clone().requires_grad_()
    (by_definition,) = torch.autograd.grad(brute_value(dense, ds, dt), dense)
    assert_close(structure_gradient(dense.detach(), source, target), by_definition, **EXACT)


def test_moving_or_turning_the_points_changes_nothing():
    source, target, *_ = geometries("points-points")
    values, support, dense = plans()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE)).Q
    moved = PointGeometry(source.points @ turn + 1000.0)
    for plan, pairs in ((dense, None), (values, support)):
        before, after = (structure_gradient(plan, s, target, pairs) for s in (source, moved))
        before, after = (x if pairs is None else x.values for x in (before, after))
        assert_close(after, before, rtol=1e-11, atol=1e-11)  # coordinates of 1000 are rounded to 1e-13
    scaled = [PointGeometry(3 * g.points) for g in (source, target)]
    assert_close(structure_value(dense, *scaled), 81 * structure_value(dense, source, target), **EXACT)


def test_a_shift_of_the_grid_costs_nothing_and_its_sides_are_interchangeable():
    grid = PointGeometry(grid_points(4, 6, dtype=DOUBLE))
    shift = torch.zeros(4, 6, 4, 6, dtype=DOUBLE)  # each token to its neighbour on the right; one column leaves
    for y in range(4):
        for x in range(5):
            shift[y, x, y, x + 1] = 0.05
    shift = shift.view(24, 24)
    assert_close(structure_value(shift, grid, grid), torch.zeros((), dtype=DOUBLE), rtol=0, atol=1e-15)
    assert float(structure_value(shift.roll(9, 1), grid, grid)) > 1e-3
    source, target, *_ = geometries("points-matrix")
    dense = plans()[2]
    assert_close(structure_gradient(dense.T, target, source), structure_gradient(dense, source, target).T, **EXACT)


def test_grid_points_are_row_by_row_in_units_of_the_longer_side():
    points = grid_points(3, 5, dtype=DOUBLE)
    assert points.shape == (15, 2)
    assert_close(points[7], torch.tensor([0.3, 0.5], dtype=DOUBLE))  # row 1, column 2
    assert float(torch.cdist(points, points).square().max()) < 2
    assert grid_points(1, 1).tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="at least one token a side, but is 0 x 5"):
        grid_points(0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_token_and_no_pairs(kind):
    for n, m in ((1, 1), (1, 4), (4, 1)):
        source, target, ds, dt = geometries(kind, n, m)
        plan = torch.full((n, m), 0.7, dtype=DOUBLE)
        expected = brute_gradient(plan, ds, dt)
        assert_close(structure_gradient(plan, source, target), expected, **EXACT)
        on_pairs = structure_gradient(plan.flatten(), source, target, Support.full(n, m))
        assert_close(on_pairs.values, expected.flatten(), **EXACT)
    none = torch.zeros(0, dtype=torch.int64)
    source, target, *_ = geometries(kind)
    empty = Support.from_pairs(none, none, (7, 5))
    assert structure_gradient(torch.zeros(0, dtype=DOUBLE), source, target, empty).values.shape == (0,)
    assert float(structure_value(torch.zeros(0, dtype=DOUBLE), source, target, empty)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_members(kind):
    source, target, *_ = geometries(kind)
    batch = torch.rand(2, 3, 7, 5, dtype=DOUBLE)
    together, values = structure_gradient(batch, source, target), structure_value(batch, source, target)
    assert values.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert_close(together[i, j], structure_gradient(batch[i, j], source, target), **EXACT)
            assert_close(values[i, j], structure_value(batch[i, j], source, target), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_types_follow_the_plan(kind):
    source, target, ds, dt = geometries(kind)
    dense = plans()[2]
    expected = brute_gradient(dense, ds, dt)
    single = structure_gradient(dense.float(), source, target)
    assert single.dtype == torch.float32
    assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)
    half = structure_gradient(dense.half(), source, target)
    assert half.dtype == torch.float32
    assert_close(half.double(), brute_gradient(dense.half().double(), ds, dt), rtol=1e-5, atol=1e-5)
    points = PointGeometry(source.table[:, :3].bfloat16())
    exact = PointGeometry(points.points.double())
    assert_close(structure_gradient(dense, points, target), structure_gradient(dense, exact, target), rtol=1e-6, atol=0)


def _banded(n, width):
    rows = torch.arange(n).repeat_interleave(width)
    cols = (rows + torch.arange(width).repeat(n) * 7) % n
    return Support.from_pairs(rows, cols, (n, n))


class _Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns, memory given from outside left out."""

    def __init__(self, *given):
        super().__init__()
        self.given = {t.untyped_storage().data_ptr() for t in given}
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            dense = isinstance(t, torch.Tensor) and t.layout == torch.strided
            if dense and t.untyped_storage().data_ptr() not in self.given:
                self.largest = max(self.largest, t.numel())
        return out


def test_points_on_a_support_take_memory_of_the_pairs():
    n = 5000
    support = _banded(n, 32)
    plan = (torch.rand(support.nnz) / support.nnz).requires_grad_()
    with _Largest() as memory:
        source, target = PointGeometry(torch.rand(n, 2)), PointGeometry(torch.rand(n, 2))
        structure_gradient(plan, source, target, support)
        structure_value(plan, source, target, support).backward()
    assert support.nnz <= memory.largest <= 2 * support.nnz < n * n / 4
    # the solve as well, on a cost that does not favour the answer
    cost = SparseCost(torch.rand(support.nnz), support)
    with _Largest() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solve_fused(cost, source, target, 1.0, settings=FusedSettings(steps=2))
    assert memory.largest < n * n / 4


@pytest.mark.parametrize("mixed", [False, True])
def test_matrices_on_a_support_are_taken_in_blocks(mixed):
    n = 900
    support = _banded(n, 12)
    plan = (torch.rand(support.nnz) / support.nnz).requires_grad_()
    points = torch.rand(n, 2)
    matrix = torch.cdist(points, points)
    with _Largest(matrix) as memory:
        target = DistanceGeometry(matrix)
        source = PointGeometry(points) if mixed else target
        structure_value(plan, source, target, support).backward()
    assert support.nnz <= memory.largest < n * n / 4
    source_matrix = matrix.square() if mixed else matrix
    expected = structure_gradient(plan.detach().double(), DistanceGeometry(source_matrix.double()), target, support)
    assert_close(plan.grad.double(), expected.values, rtol=1e-4, atol=1e-6)  # float32 sums of 900 terms


def test_float32_holds_at_the_size_of_a_picture():
    generator = torch.Generator().manual_seed(0)
    points = grid_points(36, 72, dtype=DOUBLE)
    n = points.shape[0]
    x = torch.randn(n, 16, generator=generator)
    support = _banded(n, 32)
    cost = (x[support.row.long()] - x[support.col.long()]).square().mean(-1)
    plan = solve_transport(SparseCost(cost, support), gradient="none").plan_values
    exact = structure_gradient(plan.double(), PointGeometry(points), PointGeometry(points), support).values
    grid = PointGeometry(points.float())
    single = structure_gradient(plan, grid, grid, support).values
    assert_close(single.double(), exact, rtol=0, atol=8e-6 * float(exact.max()))  # measured 4e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PointGeometry(torch.tensor([[0.0, 1.0], [2.0, math.nan]])), r"points\[1, 1\] is nan"),
        (lambda: PointGeometry(torch.zeros(0, 2)), "at least one"),
        (lambda: DistanceGeometry(torch.zeros(2, 3)), r"square.*\(2, 3\)"),
        (lambda: DistanceGeometry(torch.tensor([[0.0, math.inf], [math.inf, 0.0]])), r"matrix\[0, 1\] is inf"),
        (lambda: DistanceGeometry(torch.tensor([[0.0, 1.0], [2.0, 0.0]])), "symmetric, but differs.*by up to 1"),
        (lambda: FusedSettings(steps=0), "steps must be at least 1"),
        (lambda: FusedSettings(structure_tol=math.nan), "structure_tol must be 0 or above"),
    ],
)
def test_wrong_geometries_and_settings_are_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_plans_are_told():
    source, target, *_ = geometries("points-matrix")
    values, support, dense = plans()
    for call, message in (
        (lambda: structure_gradient(dense.T, source, target), "source geometry has 7 tokens but the problem has 5"),
        (lambda: structure_gradient(dense[:, :4], source, target), "target geometry has 5 tokens.*has 4 targets"),
        (lambda: structure_gradient(values[1:], source, target, support), r"CSR order"),
        (lambda: structure_value(values, source, target), r"shape \(..., n, m\)"),
        (lambda: structure_gradient(dense / 0, source, target), r"plan_values\[0, 0\] is (nan|inf)"),
        (lambda: solve_fused(dense, source, target, -1.0), "alpha must be 0 or above"),
        (lambda: solve_fused(dense, source, target, math.inf), "alpha must be 0 or above and finite"),
        (lambda: solve_fused(dense.T, source, target, 1.0), "source geometry has 7 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# ------------------------------------------------------------------ the fused problem


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
