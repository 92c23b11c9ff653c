"""Machine code and torch's operations: the same sums. And warm starts of the two loops, counted in iterations."""

import sys
from dataclasses import replace

import pytest
import torch
from helpers.iterations import counted
from torch.testing import assert_close

from saot.match import machine_code
from saot.match.gwot import GwotSettings, solve_gwot
from saot.match.machine_code import best_rows, l1_distances, near_and_far
from saot.match.neighbours import LocalStructure
from saot.match.shape_of_you import ShapeOfYouSettings, shape_of_you
from saot.match.sides import MatchSide

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
ROUNDING = {torch.float32: {"rtol": 1e-4, "atol": 1e-4}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


@pytest.fixture
def compiled(monkeypatch):
    """Machine code for small matrices too; which of it was called."""
    pytest.importorskip("numba")
    monkeypatch.setattr(machine_code, "_LEAST", 0)
    names, plain = [], machine_code._compiled

    def noted(name):
        names.append(name)
        return plain(name)

    monkeypatch.setattr(machine_code, "_compiled", noted)
    return names


def _random(*shape, dtype=torch.float64, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@TYPES
@pytest.mark.parametrize("threads", [1, 3])
def test_l1_distances_are_those_of_the_definition(compiled, dtype, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, y = _random(7, 5, dtype=dtype), _random(300, 5, dtype=dtype, seed=1)  # more than two blocks of targets
    assert_close(l1_distances(x, y), (x[:, None] - y).abs().sum(-1), **ROUNDING[dtype])
    assert compiled == ["_l1_distances"]


@TYPES
def test_best_rows_hold_the_largest_entries(compiled, dtype):
    scores = _random(9, 40, dtype=dtype)
    assert torch.equal(best_rows(scores), scores.argmax(0))
    assert torch.equal(best_rows(scores.T.contiguous().T), scores.argmax(0))
    assert compiled == ["_best_rows"] * 2


@TYPES
@pytest.mark.parametrize("near", [1.5, 3.0, 3.7])
@pytest.mark.parametrize("far", [0.0, 1.0, 4.2])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_over_disks_are_the_products_with_the_matrices(compiled, dtype, near, far, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(machine_code, "_TILE", 17)
    local = LocalStructure((5, 7), (6, 9), near, far)
    plan = _random(1, 35, 54, dtype=dtype)
    here, there = local.matrices(dtype)
    assert_close(local.multiply(plan), here @ plan @ there, **ROUNDING[dtype])
    assert set(compiled) == {"_near_and_far"}


def test_torch_takes_over_where_machine_code_does_not_reach(compiled, monkeypatch):
    local = LocalStructure((5, 7), (6, 9))
    grid = local.on_grid(_random(1, 35, 54))
    disks = local.near_disk.half_widths, local.far_disk.half_widths
    assert near_and_far(grid, (0, 5), *disks, (6, 9), True) is not None
    assert near_and_far(grid, (0, 5), *disks, (6, 9), False) is None  # a source that is not its own neighbour
    assert near_and_far(grid.expand(2, -1, -1, -1), (0, 5), *disks, (6, 9), True) is None
    assert near_and_far(grid.half(), (0, 5), *disks, (6, 9), True) is None
    assert near_and_far(grid.clone().requires_grad_(), (0, 5), *disks, (6, 9), True) is None
    x, y = _random(4, 3), _random(5, 3)
    found, best = l1_distances(x, y), best_rows(x)
    monkeypatch.setattr(machine_code, "_compiled", lambda name: None)
    assert near_and_far(grid, (0, 5), *disks, (6, 9), True) is None
    assert_close(l1_distances(x, y), found)
    assert torch.equal(best_rows(x), best)


def test_without_numba_there_is_no_machine_code(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert machine_code._compiled.__wrapped__("_best_rows") is None


@pytest.mark.parametrize("marginals", ["semi-relaxed", "balanced"])
def test_gwot_takes_the_same_steps_by_machine_code(compiled, marginals, monkeypatch):
    cost, settings = _random(1, 48, 63, dtype=torch.float32), GwotSettings(steps=6, marginals=marginals)
    fast = solve_gwot(cost, (6, 8), (7, 9), settings)
    monkeypatch.setattr(machine_code, "_compiled", lambda name: None)
    plain = solve_gwot(cost, (6, 8), (7, 9), settings)
    assert compiled
    assert_close(fast.plan, plain.plan, rtol=0, atol=1e-6)
    assert_close(fast.objective, plain.objective, rtol=1e-5, atol=1e-7)


def test_balanced_gwot_takes_fewer_iterations_to_the_same_plan():
    cost = _random(2, 36, 36)
    settings, found = GwotSettings(steps=20, marginals="balanced"), {}
    for warm in (False, True):
        with counted() as iterations:
            result = solve_gwot(cost, (6, 6), (6, 6), replace(settings, warm=warm))
        found[warm] = result, sum(iterations)
        assert len(iterations) == 2 * 20
    assert 10 * found[True][1] <= 7 * found[False][1]
    assert_close(found[True][0].plan, found[False][0].plan, rtol=0, atol=1e-5)
    assert_close(found[True][0].objective, found[False][0].objective, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("unbalanced", [True, False])
def test_shape_of_you_takes_fewer_iterations_to_the_same_plan(unbalanced):
    sides = [
        MatchSide.of(_random(36, 16, seed=seed), (6, 6), points=_random(36, 3, seed=10 + seed)) for seed in range(2)
    ]
    settings, found = ShapeOfYouSettings(epsilon=0.1, unbalanced=unbalanced, anchors=8, max_iter=500, tol=1e-7), {}
    for warm in (False, True):
        with counted() as iterations:
            match = shape_of_you(*sides, replace(settings, warm=warm))
        found[warm] = match, sum(iterations)
        assert match.converged
        assert [one.sweeps for one in match.history] == iterations
    assert found[True][1] < found[False][1]
    assert_close(found[True][0].plan, found[False][0].plan, rtol=0, atol=1e-5)
    cold = replace(settings, tol=0, max_iter=3)
    assert torch.equal(shape_of_you(*sides, cold).plan, shape_of_you(*sides, replace(cold, warm=False)).plan)


def test_a_row_whose_mass_lies_far_above_its_least_gradient_keeps_its_mass():
    """Where a step's exponent has a wide range, entries without mass must not take a row's mass with them."""
    cost = torch.full((1, 4, 4), 500.0)
    cost[0].fill_diagonal_(-500.0)
    mask = torch.ones(1, 4, dtype=torch.bool)
    off = mask.clone()
    off[0, 0] = False
    result = solve_gwot(cost, (2, 2), (2, 2), GwotSettings(steps=4, near=2, far=1), (mask, off))
    assert_close(result.plan.sum(-1), torch.full((1, 4), 0.25))
    assert float(result.plan[0, :, 0].sum()) == 0
