"""The structure term of appendix D where labels are carried and the cost is trained."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.gromov import brute_gradient
from torch.testing import assert_close

from saot.recipes import CostRecipe, TransportRecipe
from saot.transfer import (
    PairData,
    SemanticCost,
    TargetExample,
    class_prototypes,
    fit_cost,
    pair_support,
    solve_pair,
    transfer_pair,
)
from saot.transfer.fit import pair_loss
from saot.transport import grid_points, solve_transport, squared_euclidean_cost

EXACT = TransportRecipe(
    k=6, cover=2, alpha=0.5, structure_steps=100, max_iter=300, tol=1e-9, epsilon=0.1, tau=1.0, structure="grid"
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def problem(n=12, m=15):
    source, target = unit(n, 5), unit(m, 5, seed=1)
    labels = torch.arange(n) % 3
    places = grid_points(3, 4, dtype=torch.float64), grid_points(3, 5, dtype=torch.float64)
    return source, target, labels.to(torch.uint8), places


@pytest.mark.parametrize("tau", [1.0, math.inf])
@pytest.mark.parametrize("structure", ["grid", "features"])
def test_the_plan_solves_its_own_linearisation(structure, tau):
    """Eq. (13) written out over the four indices, on a support."""
    source, target, labels, places = problem()
    k = 15 if math.isinf(tau) else 6  # a balanced plan needs all pairs
    alpha = 2.0 if structure == "grid" else 0.3  # distances of features are larger
    recipe = replace(EXACT, structure=structure, tau=tau, alpha=alpha, k=k, tol=1e-7)
    with torch.no_grad():
        result = solve_pair(source, labels, target, None, recipe, places=places)
        points = places if structure == "grid" else (source, target)
        linear = alpha * brute_gradient(result.plan, *(torch.cdist(p, p).square() for p in points))
        support = pair_support(source, target, recipe)
        cost = squared_euclidean_cost(source, target, support=support)
        shifted = replace(cost, values=cost.values + linear[support.row.long(), support.col.long()])
        again = solve_transport(shifted, epsilon=0.1, tau=tau, max_iter=3000, tol=1e-9)
        plain = solve_pair(source, labels, target, None, replace(recipe, alpha=0.0))
    assert bool(result.converged)
    assert_close(again.plan, result.plan, rtol=1e-2, atol=1e-6)  # structure_tol 1e-4 of the cost, over epsilon
    assert float((plain.plan - result.plan).abs().sum() / result.mass) > 0.05


def test_alpha_zero_asks_for_no_places_and_changes_no_byte():
    source, target, labels, places = problem()
    off = replace(EXACT, alpha=0.0)
    one, other = solve_pair(source, labels, target, None, off), solve_pair(
        source, labels, target, None, off, places=places
    )  # fmt: skip
    assert torch.equal(one.plan_values, other.plan_values)
    with pytest.raises(ValueError, match="expected the places of the tokens of both pictures"):
        solve_pair(source, labels, target, None, EXACT)
    assert bool(solve_pair(source, labels, target, None, replace(EXACT, structure="features")).converged)


def test_too_few_steps_are_told():
    source, target, labels, places = problem()
    with pytest.warns(UserWarning, match=r"did not settle in transport.structure_steps=1 .* lower transport.alpha=5.0"):
        result = solve_pair(source, labels, target, None, replace(EXACT, alpha=5.0, structure_steps=1), places=places)
    assert not bool(result.converged) and "MAX_ITER" in repr(result)


@pytest.mark.parametrize("tau", [1.0, math.inf])
@pytest.mark.parametrize("structure", ["grid", "features"])
def test_the_gradient_of_equation_9_with_structure_is_that_of_finite_differences(structure, tau, monkeypatch):
    """What trains the cost; a held structure cost would be off."""
    from saot.transfer import fit

    source, target, labels, places = problem()
    example = TargetExample(target, torch.tensor([0, 3, 8, 11]), torch.tensor([1, 0, 2, 2]), places[1])
    cost = SemanticCost(5, CostRecipe(dim=4, spectral_norm=False, lambda_sem=0.3), class_prototypes(source, labels, 3))
    cost = cost.double()
    k = 15 if math.isinf(tau) else 6
    recipe = replace(EXACT, structure=structure, tau=tau, alpha=1.0 if structure == "grid" else 0.2, k=k, tol=1e-11)
    settings = fit.FusedSettings
    monkeypatch.setattr(fit, "FusedSettings", lambda **how: settings(**how, structure_tol=1e-10))

    def loss():
        return pair_loss(cost, source, labels, example, 3, recipe, places=places[0])[0]

    def gradients():
        cost.zero_grad()
        loss().backward()
        weights = (cost.appearance.weight, cost.semantic.weight)
        return [w.grad.clone() for w in weights if w.grad is not None]

    found = gradients()
    monkeypatch.setattr(fit, "FusedSettings", lambda **how: settings(**{**how, "follow": False}, structure_tol=1e-10))
    held = gradients()
    assert float((found[0] - held[0]).norm() / found[0].norm()) > 0.02
    for weight, gradient in zip((cost.appearance.weight, cost.semantic.weight), found, strict=True):
        direction = unit(*weight.shape, seed=4)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * 1e-5 * direction
                ends.append(float(loss()))
                weight -= sign * 1e-5 * direction
        # central differences in float64: 1e-10 of structure_tol over 2e-5
        assert_close(float((gradient * direction).sum()), (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-7)


@pytest.mark.training
@pytest.mark.parametrize("structure", ["grid", "features"])
def test_a_cost_is_trained_through_the_structure_term(structure):
    source, target, labels, places = problem()
    source, target = source.float(), target.float()
    chosen = torch.arange(0, 15, 2)
    asked = []

    def source_places(number):
        asked.append(number)
        return places[0].float()

    data = PairData(
        1,
        1,
        lambda _: (source, labels),
        lambda _i, _g: TargetExample(target, chosen, chosen % 3, places[1].float()),
        source_places,
    )
    config = CostRecipe(dim=4, steps=12, learning_rate=3e-2)
    alpha = 0.3 if structure == "grid" else 0.05
    recipe = TransportRecipe(k=8, cover=2, alpha=alpha, structure=structure)
    cost = SemanticCost(5, config, class_prototypes(source, labels, 3))
    fit = fit_cost(cost, data, 3, recipe)
    assert fit.history[-1]["points"] < fit.history[0]["points"]
    assert asked == [0] * 12 and all(record["converged"] == 1 for record in fit.history)
    transfer = transfer_pair(source, labels, target, 3, fit.cost, recipe, (places[0].float(), places[1].float()))
    assert bool(transfer.covered.all())
