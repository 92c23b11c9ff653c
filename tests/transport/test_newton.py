"""How far a plan is from the solution, against solutions that a second solver found."""

import math

import numpy as np
import pytest
import torch
from helpers.reference import reference_plan
from helpers.transport import clustered, sample
from torch.testing import assert_close

from saot.transport import SparseCost, balanced, solve_transport
from saot.transport.newton import plan_error
from saot.transport.problem import build_problem


def _distance(plan, reference) -> float:
    return float(np.abs(plan.double().numpy() - reference.plan).sum() / reference.mass)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("reference", ["product", "counting"])
@pytest.mark.parametrize("tau", [0.3, 50.0, math.inf])
def test_after_a_few_sweeps_it_is_the_distance_to_the_solution(sparse, reference, tau):
    s = sample(5, 30, 20, balanced=True)
    cost = s.sparse if sparse else s.cost
    second = reference_plan((s.masked if sparse else s.cost).numpy(), s.a.numpy(), s.b.numpy(), 0.05, tau, reference)
    assert second.error < 1e-9
    problem = build_problem(cost, s.a, s.b, 0.05, tau, reference)
    for sweeps in (8, 16, 32):
        rough = solve_transport(cost, s.a, s.b, 0.05, tau, reference, sweeps, tol=0)
        exact = _distance(rough.plan, second)
        assert_close(float(plan_error(problem, *rough.potentials).distance), exact, rtol=5 * exact + 1e-3, atol=1e-9)


def test_a_constant_moved_between_the_potentials_changes_nothing():
    s = sample(6, balanced=True)
    rough = solve_transport(s.cost, s.a, s.b, 0.05, math.inf, max_iter=4, tol=0)
    problem = build_problem(s.cost, s.a, s.b, 0.05, math.inf, "product")
    f, g = rough.potentials
    one, two = plan_error(problem, f, g).distance, plan_error(problem, f + 1e3, g - 1e3).distance
    assert float(one) > 1e-3
    assert_close(one, two, rtol=1e-8, atol=0)


def test_it_holds_what_rounding_did_to_the_plan():
    cost = clustered(60, 50).dense().clamp(max=3.0)
    single = (cost + 3e4).float()  # a constant that float32 can hold, but not beside epsilon
    result = solve_transport(single, epsilon=0.1, tau=math.inf, max_iter=50, tol=0)
    a, b, epsilon = np.full(60, 1 / 60), np.full(50, 1 / 50), float(np.float32(0.1))
    second = reference_plan(single.double().numpy(), a, b, epsilon, math.inf)
    exact = _distance(result.plan, second)
    assert exact > 1e-3
    problem = build_problem(single, None, None, 0.1, math.inf, "product")
    found = plan_error(problem, *result.potentials)
    assert exact / 3 < float(found.distance) < 3 * exact
    assert exact / 30 < float(found.rounding) < 30 * exact


def test_members_of_a_batch_are_each_what_they_are_alone_and_one_without_pairs_is_solved():
    s = sample(7)
    none = torch.full_like(s.cost, math.inf)
    batch = build_problem(torch.stack([s.cost, none, 2 * s.cost]), s.a, s.b, 0.1, 5.0, "product")
    results = solve_transport(torch.stack([s.cost, none, 2 * s.cost]), s.a, s.b, 0.1, 5.0, max_iter=3, tol=0)
    f, g = (torch.where(p.isfinite(), p, 0.0) for p in results.potentials)
    found = plan_error(batch, f, g).distance
    assert float(found[1]) == 0
    for i, cost in ((0, s.cost), (2, 2 * s.cost)):
        alone = plan_error(build_problem(cost, s.a, s.b, 0.1, 5.0, "product"), f[i], g[i]).distance
        assert_close(found[i], alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("tau", [50.0, math.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_bound_does_where_it_is_enough_and_is_no_less_than_the_distance(sparse, tau, kind):
    s = sample(5, 30, 20, balanced=True)
    cost = SparseCost(s.sparse.values.to(kind), s.sparse.support) if sparse else s.cost.to(kind)
    a, b = s.a.to(kind), s.b.to(kind)
    problem = build_problem(cost, a, b, 0.05, tau, "product")
    taken = 0
    for sweeps in (4, 16, 64, 256):
        potentials = solve_transport(cost, a, b, 0.05, tau, "product", sweeps, tol=0).potentials
        f, g = (v + shift for v, shift in zip(potentials, (10.0, -10.0), strict=True))  # a gauge does not enter
        exact, bound = plan_error(problem, f, g).distance, plan_error(problem, f, g, enough=0.5).distance
        assert float(bound) >= float(exact) and (float(bound) <= 0.5 or float(bound) == float(exact))
        assert float(plan_error(problem, f, g, enough=float(bound) / 2).distance) <= float(bound)
        taken += int(float(bound) > float(exact))
    assert taken


def test_tokens_of_dense_finite_costs_are_one_part_as_the_search_says(monkeypatch):
    s = sample(8)
    a, b = s.a.clone(), s.b.clone()
    a[[0, -1]], b[1] = 0, 0  # no part of the plan, but of the potentials
    for weights in ((a, b), (s.a, s.b), (torch.zeros_like(a), b)):
        problem = build_problem(torch.stack([s.cost, 2 * s.cost]), *weights, 0.1, math.inf, "product")
        at_once = balanced.connected_parts(problem)
        with monkeypatch.context() as patch:
            patch.setattr(balanced, "_one_part", lambda problem: None)
            searched = balanced.connected_parts(problem)
        for one, other in zip(vars(at_once).values(), vars(searched).values(), strict=True):
            assert torch.equal(one.expand_as(other), other)
    assert balanced._one_part(build_problem(s.masked, s.a, s.b, 0.1, math.inf, "product")) is None
