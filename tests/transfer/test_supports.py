"""Candidates by the learned cost: the cheapest pairs, all of them."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from saot.recipes import CostRecipe, TransportRecipe
from saot.transfer import SemanticCost, class_prototypes, pair_support, solve_pair
from saot.transport import topk_support


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def problem(lambda_sem=0.1, head="shared"):
    source, target = unit(60, 12), unit(80, 12, seed=1)
    labels = (torch.arange(60) % 4).to(torch.uint8)
    labels[[3, 17]] = 255
    torch.manual_seed(5)
    config = CostRecipe(dim=6, support_space="projected", lambda_sem=lambda_sem, head=head)
    cost = SemanticCost(12, config, class_prototypes(source, labels, 6)).eval()
    with torch.no_grad():  # lengths differ in the projection
        cost.appearance.parametrizations.weight.original.mul_(torch.rand(6, 1) * 4)
    return source, target, labels, cost


@pytest.mark.parametrize("lambda_sem", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("head", ["shared", "full", "free"])
def test_the_cosine_of_the_search_vectors_falls_as_the_cost_rises(lambda_sem, head):
    source, target, labels, cost = problem(lambda_sem, head)
    cost = cost.double()
    x, y = cost.search_vectors(source.double(), labels, target.double())
    with torch.no_grad():
        dense = cost(source.double(), labels, target.double())
    assert_close(-(x @ y.T), dense, rtol=1e-9, atol=1e-9)
    for side in (x, y):  # equal lengths: the cosine is the inner product over one number
        assert_close(side.norm(dim=1), side.norm(dim=1).max().expand(len(side)), rtol=1e-9, atol=0)
    assert not x.requires_grad and not y.requires_grad


@pytest.mark.parametrize("lambda_sem", [0.0, 0.1, 2.0])
def test_a_projected_support_holds_all_of_the_cheapest_pairs(lambda_sem):
    source, target, labels, cost = problem(lambda_sem)
    recipe = TransportRecipe(k=9, cover=2)
    support = pair_support(source, target, recipe, cost, labels)
    with torch.no_grad():
        dense = cost(source, labels, target)
    held = torch.zeros(60, 80, dtype=torch.bool)
    held[support.row.long(), support.col.long()] = True
    cheapest = dense.topk(9, dim=1, largest=False).indices
    assert float(held.gather(1, cheapest).float().mean()) == 1.0
    for_targets = dense.topk(2, dim=0, largest=False).indices
    assert float(held.gather(0, for_targets).float().mean()) == 1.0
    assert support.nnz <= 60 * 9 + 80 * 2
    by_cosine = topk_support(cost.project(source), cost.project(target), 9)  # what cosine would find
    other = torch.zeros(60, 80, dtype=torch.bool)
    other[by_cosine.row.long(), by_cosine.col.long()] = True
    assert float(other.gather(1, cheapest).float().mean()) < 0.9


def test_the_plan_is_solved_on_the_cheapest_pairs():
    source, target, labels, cost = problem()
    labelled = labels != 255
    recipe = TransportRecipe(k=9)
    with torch.no_grad():
        result = solve_pair(source[labelled], labels[labelled], target, cost, recipe)
    expected = pair_support(source[labelled], target, recipe, cost, labels[labelled])
    assert result.support is not None and torch.equal(result.support.col, expected.col)
    raw = SemanticCost(12, replace(cost.config, support_space="raw"), cost.prototypes())
    assert torch.equal(pair_support(source, target, recipe, raw).col, topk_support(source, target, 9).col)
    with pytest.raises(ValueError, match="expected labels of the source tokens"):
        pair_support(source, target, recipe, cost)
