"""Candidates by the learned cost: the cheapest pairs, all of them."""

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from saot.recipes import CostRecipe, TransportRecipe
from saot.transfer import SemanticCost, class_prototypes, pair_support, solve_pair, supports
from saot.transport import hierarchical_support, region_cost, topk_support


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def problem(lambda_sem: float = 0.1, head: Any = "shared"):
    source, target = unit(60, 12), unit(80, 12, seed=1)
    labels = (torch.arange(60) % 4).to(torch.uint8)
    labels[[3, 17]] = 255
    torch.manual_seed(5)
    config = CostRecipe(dim=6, support_space="projected", lambda_sem=lambda_sem, head=head)
    cost = SemanticCost(12, config, class_prototypes(source, labels, 6)).eval()
    with torch.no_grad():  # lengths differ in the projection
        for weight in cost.appearance.parameters():
            weight.mul_(torch.rand(6, 1) * 4)
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


def _share(support, exact):
    """Of the exact pairs."""
    keys = [pairs.row.long() * pairs.shape[1] + pairs.col for pairs in (support, exact)]
    return float(torch.isin(keys[1], keys[0]).double().mean())


def clustered(count, seed):
    """Tokens of twelve clusters, as an approximate search needs them."""
    centres = unit(12, 12, seed=99)
    return torch.nn.functional.normalize(centres[torch.arange(count) % 12] + 0.3 * unit(count, 12, seed=seed), dim=1)


@pytest.mark.parametrize("search", ["fast", "multiscale", "faiss"])
@pytest.mark.parametrize("space", ["raw", "projected"])
def test_an_approximate_search_finds_about_the_recall_that_is_asked_for(search, space):
    if search == "faiss":
        pytest.importorskip("faiss")
    source, target, labels = clustered(900, 1), clustered(1100, 2), (torch.arange(900) % 4).to(torch.uint8)
    config = CostRecipe(dim=6, support_space=space)
    cost = SemanticCost(12, config, class_prototypes(source, labels, 4)).eval()
    exact = pair_support(source, target, TransportRecipe(k=10), cost, labels)
    recipe = TransportRecipe(k=10, search=search, recall=0.9)
    found = pair_support(source, target, recipe, cost, labels)
    assert found.row_length == 10 and _share(found, exact) >= 0.88
    whole = TransportRecipe(k=10, cover=1, search=search, probes=10**6)
    assert _share(pair_support(source, target, whole, cost, labels), exact) > 0.99  # fast: bfloat16
    if search == "fast":
        return
    few = TransportRecipe(k=10, search=search, clusters=60, probes=1)
    narrow = _share(pair_support(source, target, few, cost, labels), exact)
    assert narrow < 0.9 and narrow < _share(found, exact)  # each setting has a say
    rough = pair_support(source, target, replace(recipe, recall=0.3), cost, labels)
    assert _share(rough, exact) < _share(found, exact)
    wide = pair_support(source, target, replace(few, clusters=2), cost, labels)
    assert _share(wide, exact) != narrow


@pytest.mark.parametrize("groups", [None, (0, 1, 1, 0)])
def test_regions_of_the_learned_cost_have_its_mean_cost(groups, monkeypatch):
    source, target, labels = clustered(300, 1), clustered(400, 2), (torch.arange(300) % 4).to(torch.uint8)
    config = CostRecipe(dim=6, support_space="projected")
    cost = SemanticCost(12, config, class_prototypes(source, labels, 4), groups).eval()
    seen = []

    def spied(*args, **options):
        seen.append((options["line"], hierarchical_support(*args, **options)))
        return seen[-1][1]

    monkeypatch.setattr(supports, "hierarchical_support", spied)
    recipe = TransportRecipe(k=10, cover=2, search="hierarchical", clusters=9)
    found = pair_support(source, target, recipe, cost, labels)
    ((line, regions),) = seen
    with torch.no_grad():
        dense = cost(source, labels, target)
    one = [torch.nn.functional.one_hot(side.label).float() for side in (regions.source, regions.target)]
    mean = (one[0] / one[0].sum(0)).T @ dense @ (one[1] / one[1].sum(0))
    assert_close(region_cost(regions.source, regions.target, line), mean, rtol=1e-3, atol=1e-3)
    assert _share(found, pair_support(source, target, TransportRecipe(k=10, cover=2), cost, labels)) > 0.8
    whole = pair_support(source, target, replace(recipe, region_share=1.0), cost, labels)
    assert _share(whole, pair_support(source, target, TransportRecipe(k=10, cover=2), cost, labels)) > 0.999


def test_a_search_that_is_not_installed_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        ValueError,
        match=r"search among those that are installed; got faiss, which is not; .* the extra 'ann' needs: ",
    ):
        pair_support(unit(5, 12), unit(6, 12), TransportRecipe(k=2, search="faiss"))
