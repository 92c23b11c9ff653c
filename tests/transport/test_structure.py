"""The structure term against its definition and POT, and its memory."""

import math
import warnings

import pytest
import torch
from helpers.gromov import brute_gradient, brute_value, geometries
from helpers.transport import DOUBLE
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saot.transport import (
    DistanceGeometry,
    FusedSettings,
    PointGeometry,
    SparseCost,
    Support,
    block_diagonal,
    grid_points,
    solve_fused,
    solve_transport,
    structure_gradient,
    structure_value,
)

KINDS = ["points-points", "matrix-matrix", "points-matrix", "matrix-points"]
EXACT = {"rtol": 1e-12, "atol": 1e-13}  # sums of some hundred terms of size 1 in float64


def plans(n=7, m=5):
    """A sparse plan with an empty row and an empty column: values, support and the dense matrix; mass not 1."""
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(n, m, generator=generator) < 0.6
    keep[2], keep[:, 1] = False, False
    support = Support.from_pairs(*torch.nonzero(keep, as_tuple=True), (n, m))
    dense = torch.rand(n, m, dtype=DOUBLE, generator=generator) * keep
    assert abs(float(dense.sum()) - 1) > 0.3
    return dense[keep], support, dense


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
    one = SparseCost(values, support)
    for call, message in (
        (lambda: structure_gradient(dense.T, source, target), "source geometry has 7 tokens but the problem has 5"),
        (lambda: structure_gradient(dense[:, :4], source, target), "target geometry has 5 tokens.*has 4 targets"),
        (lambda: structure_gradient(values[1:], source, target, support), r"CSR order"),
        (lambda: structure_value(values, source, target), r"shape \(..., n, m\)"),
        (lambda: structure_gradient(dense / 0, source, target), r"plan_values\[0, 0\] is (nan|inf)"),
        (lambda: solve_fused(dense, source, target, -1.0), "alpha must be 0 or above"),
        (lambda: solve_fused(dense, source, target, math.inf), "alpha must be 0 or above and finite"),
        (lambda: solve_fused(dense.T, source, target, 1.0), "source geometry has 7 tokens"),
        (lambda: solve_fused(block_diagonal([one, one]), source, target, 1.0), "block diagonal of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
