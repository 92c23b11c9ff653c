"""Regions first, then tokens: the support of SAOT appendix P."""

import pytest
import torch
from torch.testing import assert_close

from saot.transport import hierarchical_support, solve_transport, squared_euclidean_cost, topk_support
from saot.transport.cells import make_cells
from saot.transport.hierarchical import region_cost, region_plan, regions_of


def clustered(count: int, seed: int, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Unit features about twelve directions, which are the same for every seed."""
    directions = torch.randn(12, 24, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.ones(12) if weights is None else weights
    which = torch.multinomial(weights, count, replacement=True, generator=generator)
    noise = 0.6 * torch.randn(count, 24, generator=generator)
    return torch.nn.functional.normalize(directions[which] + noise, dim=1)


def test_the_region_problem_is_that_of_tokens_on_plans_that_are_even_within_regions():
    x, y = (torch.nn.functional.normalize(clustered(*how).double(), dim=1) for how in ((60, 1), (80, 2)))
    generator = torch.Generator().manual_seed(0)
    first, second = (make_cells(each, 6, generator) for each in (x, y))
    source, target = regions_of(x, first), regions_of(y, second)
    cost = squared_euclidean_cost(x, y)
    mean = torch.stack(
        [
            torch.stack([cost[first.label == r][:, second.label == s].mean() for s in range(len(second.sizes))])
            for r in range(len(first.sizes))
        ]
    )
    assert_close(region_cost(source, target), mean, rtol=1e-12, atol=1e-12)

    plan = region_plan(source, target, epsilon=0.1, tau=0.3)
    a, b = (torch.full((count,), 1 / count, dtype=torch.float64) for count in (60, 80))
    even = (plan / (source.weights[:, None] * target.weights))[first.label][:, second.label] * a[:, None] * b

    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p * (p / q).log()).sum() - p.sum() + q.sum()

    def objective(p: torch.Tensor, c: torch.Tensor, of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return (p * c).sum() + 0.1 * kl(p, of[:, None] * to) + 0.3 * (kl(p.sum(1), of) + kl(p.sum(0), to))

    whole = objective(even, cost, a, b)
    assert_close(whole, objective(plan, mean, source.weights, target.weights), rtol=1e-10, atol=1e-12)
    finest = solve_transport(cost, tol=1e-9, max_iter=2000)
    assert float(finest.value) < float(whole)
    exact = solve_transport(mean, source.weights, target.weights, tol=1e-9, max_iter=2000).plan
    assert_close(plan, exact, rtol=1e-3, atol=1e-6)


def test_all_of_the_mass_is_an_exact_search():
    x, y = clustered(300, 1), clustered(400, 2)
    found, exact = hierarchical_support(x, y, 8, cover=2, share=1.0), topk_support(x, y, 8, cover=2)
    assert torch.equal(found.support.col, exact.col) and torch.equal(found.support.row, exact.row)
    assert found.scanned == pytest.approx(1) and bool(found.kept.all()) and found.recall.share == 1


def test_tokens_meet_within_regions_that_exchange_mass_alone():
    x, y = clustered(500, 1), clustered(600, 2)
    found = hierarchical_support(x, y, 10, cover=3)
    rows, cols = found.support.row.long(), found.support.col.long()
    assert bool(found.kept[found.source.label[rows], found.target.label[cols]].all())
    similar = (x @ y.T).masked_fill(~found.kept[found.source.label][:, found.target.label], -torch.inf)
    best = similar.topk(10, dim=1).indices
    here = torch.zeros(500, 600, dtype=torch.bool)
    here[rows, cols] = True
    assert bool(here.gather(1, best).all())
    assert bool(here.gather(0, similar.topk(3, dim=0).indices).all())
    assert here.sum() <= 500 * 10 + 600 * 3
    assert found.scanned < 0.3 and found.recall.share > 0.95
    assert found.scanned == pytest.approx(float(similar.isfinite().float().mean()))


def test_the_kept_pairs_hold_the_share_of_each_side_and_enough_tokens():
    x, y = clustered(500, 1), clustered(600, 2)
    for share in (0.5, 0.9, 0.99):
        found = hierarchical_support(x, y, 40, share=share)
        held = found.plan * found.kept
        assert bool((held.sum(1) >= (share - 1e-6) * found.plan.sum(1)).all())
        assert bool((held.sum(0) >= (share - 1e-6) * found.plan.sum(0)).all())
        assert bool((found.kept.float() @ (found.target.weights * 600) >= 40 - 1e-3).all())
        assert found.support.row_length == 40
        regions = found.source.label[found.support.row.long()], found.target.label[found.support.col.long()]
        assert bool(found.kept[regions].all())


def test_mass_decides_where_similarity_alone_would_not():
    """Sources that all look to one target region are sent on to its neighbour, once tau asks for the marginals."""
    generator = torch.Generator().manual_seed(0)
    near = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]]), dim=1)
    x = near[0] + 0.01 * torch.randn(100, 3, generator=generator)
    y = torch.cat([near[0] + 0.01 * torch.randn(20, 3, generator=generator), near[1] + torch.zeros(80, 3)])
    y[20:] += 0.01 * torch.randn(80, 3, generator=generator)
    free = hierarchical_support(x, y, 5, tau=0.01, regions=2, share=0.6)
    held = hierarchical_support(x, y, 5, tau=100.0, regions=2, share=0.6)
    close = int(free.target.label[0])
    assert float(free.plan[:, close].sum() / free.plan.sum()) > 0.5
    assert float(held.plan[:, close].sum() / held.plan.sum()) < 0.3


def test_equal_features_give_equal_supports():
    x, y = clustered(200, 1), clustered(150, 2)
    one, two = (hierarchical_support(x, y, 5) for _ in range(2))
    assert torch.equal(one.support.col, two.support.col)


@pytest.mark.parametrize(
    ("options", "said"), [({"share": 0.0}, "share must lie"), ({"regions": 0}, "regions must be"), ({"k": 0}, "k")]
)
def test_wrong_input_is_refused(options, said):
    x = clustered(20, 1)
    with pytest.raises(ValueError, match=said):
        hierarchical_support(x, x, **{"k": 3, **options})


def test_few_tokens_are_all_compared():
    x, y = clustered(3, 1), clustered(2, 2)
    assert hierarchical_support(x, y, 9, cover=9).support.nnz == 6
