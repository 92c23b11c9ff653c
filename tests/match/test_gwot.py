"""GWOT: every term against loops, the descent, its options and its edges."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from saot.match.gwot import GWOT_SPAIR, GwotSettings, match_gwot, objective, solve_gwot
from saot.match.sides import MatchSide

SOURCE, TARGET = (4, 5), (5, 4)
N = M = 20
PAIRS = [torch.tensor([[0, 3], [6, 9]]), torch.tensor([[4, 1], [4, 12], [19, 15]])]


def costs(batch=2, seed=0, dtype=torch.float64):
    return torch.rand(batch, N, M, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def place(token, shape):
    return divmod(token, shape[1])


def brute_force(plan, cost, settings, pairs):
    """Eq. (4) by loops, with C^p averaged over its neighbours."""
    total = settings.cost * float((cost * plan).sum())
    far_apart = {
        (j, other)
        for j, other in itertools.product(range(M), range(M))
        if sum((a - b) ** 2 for a, b in zip(place(j, TARGET), place(other, TARGET), strict=True)) > settings.far**2
    }
    taps = 25 if settings.near == 3 else 9
    for i, k in itertools.product(range(N), range(N)):
        if sum((a - b) ** 2 for a, b in zip(place(i, SOURCE), place(k, SOURCE), strict=True)) < settings.near**2:
            pairs_of_targets = sum(float(plan[i, j] * plan[k, other]) for j, other in far_apart)
            total += settings.structure * N / taps * pairs_of_targets

    def sign(x):
        return (x > 0) - (x < 0)

    for i, k in pairs.tolist():
        for j, other in itertools.product(range(M), range(M)):
            s = sign(place(i, SOURCE)[1] - place(k, SOURCE)[1]) * sign(place(j, TARGET)[1] - place(other, TARGET)[1])
            total -= settings.symmetry * N * s * float(plan[i, j] * plan[k, other])
    for share in plan.sum(0).tolist():
        total += settings.marginal * (share * math.log(share * M) - share + 1 / M)
    return total


def test_objective_equals_loops():
    settings = GwotSettings(near=2, far=2, symmetry=0.3)
    plan = torch.rand(2, N, M, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plan /= N * plan.sum(-1, keepdim=True)
    found = objective(plan, costs(), SOURCE, TARGET, settings, PAIRS)
    for number in range(2):
        assert float(found[number]) == pytest.approx(
            brute_force(plan[number], costs()[number], settings, PAIRS[number]), abs=1e-12
        )


@pytest.mark.parametrize(
    "settings",
    [
        GwotSettings(),
        GWOT_SPAIR,
        GwotSettings(symmetry=0.4, near=2, far=1.5),
        GwotSettings(scale="raw"),
        GwotSettings(scale="row_mass_one"),
        GwotSettings(epsilon=0.07),
        GwotSettings(factor_two=False, centre=False),
        GwotSettings(marginals="balanced"),
        GwotSettings(marginals="balanced", epsilon=0.05),
        GwotSettings(step="auto"),
        GwotSettings(step=1e4),
    ],
)
def test_objective_never_rises_and_is_the_one_written_down(settings):
    result = solve_gwot(costs(), SOURCE, TARGET, settings, None, PAIRS)
    rises = (result.objective[1:] - result.objective[:-1]).amax()
    assert float(rises) <= 1e-9  # the balanced projection is solved to 1e-6 of a marginal
    twin = objective(result.plan, costs(), SOURCE, TARGET, settings, PAIRS if settings.symmetry else None)
    assert_close(result.objective[-1], twin, rtol=1e-9, atol=1e-12)
    assert float(result.objective[-1][0]) < float(result.objective[0][0])
    assert_close(result.plan.sum(-1), torch.full((2, N), 1 / N, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_step_is_the_gradients():
    settings = GwotSettings(steps=1, symmetry=0.2)
    cost = costs()
    plan = torch.full((2, N, M), 1 / (N * M), dtype=torch.float64, requires_grad=True)
    objective(plan, cost, SOURCE, TARGET, settings, PAIRS).sum().backward()
    result = solve_gwot(cost, SOURCE, TARGET, settings, None, PAIRS)
    eta = result.step[:, None, None]
    want = torch.softmax(plan.detach().log() - eta * plan.grad, -1) / N
    assert_close(result.plan, want, rtol=1e-9, atol=0)


def test_longer_steps_can_raise_the_objective_which_is_told():
    loose = GwotSettings(structure=5.0, scale="row_mass_one", step=1e3, safeguard=False, steps=5)
    with pytest.warns(UserWarning, match="above the objective it began with"):
        result = solve_gwot(costs(), SOURCE, TARGET, loose)
    with pytest.warns(UserWarning, match="above the objective it began with"):
        best = solve_gwot(costs(), SOURCE, TARGET, replace(loose, keep="best"))
    value = objective(best.plan, costs(), SOURCE, TARGET, loose)
    assert_close(value, result.objective.amin(0), rtol=1e-9, atol=1e-12)


def test_unbalanced_leaves_the_sources_free():
    loose = GwotSettings(marginals="unbalanced", step=0.5, cost=1.0)
    result = solve_gwot(costs(), SOURCE, TARGET, loose)
    assert float((result.plan.sum(-1) - 1 / N).abs().max()) > 1e-3
    assert float(result.objective[-1][0]) < float(result.objective[0][0])
    with pytest.raises(ValueError, match="give step as a number"):
        solve_gwot(costs(), SOURCE, TARGET, GwotSettings(marginals="unbalanced"))
    with pytest.raises(FloatingPointError, match="give a smaller number as step"):
        solve_gwot(costs(), SOURCE, TARGET, replace(loose, structure=5.0, step=50.0, steps=5))


@pytest.mark.parametrize("settings", [{}, {"epsilon": 0.07}, {"structure": 0.0, "symmetry": 0.2}])
def test_an_unbalanced_step_is_the_gradients(settings):
    """No constant of it may be lost: rows are free, so that each changes the mass of the plan."""
    loose = GwotSettings(marginals="unbalanced", step=0.3, steps=1, **settings)
    cost = costs()
    plan = torch.full((2, N, M), 1 / (N * M), dtype=torch.float64, requires_grad=True)
    objective(plan, cost, SOURCE, TARGET, loose, PAIRS if loose.symmetry else None).sum().backward()
    assert plan.grad is not None
    result = solve_gwot(cost, SOURCE, TARGET, loose, None, PAIRS)
    assert_close(result.plan, plan.detach() * torch.exp(-0.3 * plan.grad), rtol=1e-9, atol=0)


def test_masked_tokens_take_no_part():
    cost = costs(1)
    source, target = torch.ones(1, N, dtype=torch.bool), torch.ones(1, M, dtype=torch.bool)
    source[0, :5], target[0, 16:] = False, False  # whole rows of the grids, so that the rest is a grid too
    settings = GwotSettings(symmetry=0.2)
    masked = solve_gwot(cost, SOURCE, TARGET, settings, (source, target), [torch.tensor([[7, 9]])])
    alone = solve_gwot(cost[:, 5:, :16], (3, 5), (4, 4), settings, None, [torch.tensor([[2, 4]])])
    assert float(masked.plan[0, :5].abs().max()) == 0 == float(masked.plan[0, :, 16:].abs().max())
    assert_close(masked.plan[:, 5:, :16], alone.plan, rtol=1e-9, atol=1e-15)
    assert_close(masked.objective, alone.objective, rtol=1e-9, atol=1e-12)


def test_rows_keep_their_mass_where_a_masked_target_is_cheapest():
    cost = costs(1)
    target = torch.ones(1, M, dtype=torch.bool)
    target[0, 0] = False
    cost[0, :, 0] = -50.0
    long_steps = GwotSettings(structure=0.0, marginal=0.0)
    plan = solve_gwot(cost, SOURCE, TARGET, long_steps, (torch.ones(1, N, dtype=torch.bool), target)).plan
    assert_close(plan.sum(-1), torch.full((1, N), 1 / N, dtype=torch.float64))
    assert plan[0].argmax(-1).tolist() == cost[0, :, 1:].argmin(-1).add(1).tolist()


def test_a_batch_is_its_singles():
    together = solve_gwot(costs(3), SOURCE, TARGET, GwotSettings(symmetry=0.1), None, [*PAIRS, PAIRS[0]])
    for number, pairs in enumerate([*PAIRS, PAIRS[0]]):
        alone = solve_gwot(costs(3)[number : number + 1], SOURCE, TARGET, GwotSettings(symmetry=0.1), None, [pairs])
        assert_close(together.plan[number], alone.plan[0], rtol=0, atol=0)


def test_two_pictures_are_matched_on_their_own_grids_and_masks():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.nn.functional.normalize(torch.randn(N + 12, 6, generator=generator, dtype=torch.float64), dim=-1)
    masks = torch.arange(N) >= 5, torch.arange(12) < 9
    source, target = MatchSide(tokens[:N], SOURCE, masks[0]), MatchSide(tokens[N:], (3, 4), masks[1])
    cost = 1 - tokens[:N] @ tokens[N:].T
    wanted = solve_gwot(cost[None], SOURCE, (3, 4), masks=(masks[0][None], masks[1][None]))
    found = match_gwot(source, target)
    assert_close(found.plan, wanted.plan[0], rtol=1e-9, atol=0)
    assert_close(found.objective, wanted.objective[:, 0], rtol=1e-9, atol=0)
    assert torch.equal(found.plan > 0, masks[0].unsqueeze(1) & masks[1])


def test_structure_mends_a_wrong_feature():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.nn.functional.normalize(torch.randn(100, 16, generator=generator), dim=-1)
    damaged = tokens.clone()
    damaged[[33, 57, 81]] = tokens[[90, 3, 12]]  # three tokens look like others far away
    source, target = MatchSide.of(damaged, (10, 10)), MatchSide.of(tokens, (10, 10))
    nearest = (source.tokens @ target.tokens.T).argmax(-1)
    found = match_gwot(source, target).plan.argmax(-1)
    rows = torch.stack([found // 10, found % 10], -1).float()
    truth = torch.cartesian_prod(torch.arange(10), torch.arange(10)).float()
    assert int((nearest != torch.arange(100)).sum()) == 3
    assert float((rows - truth)[[33, 57, 81]].norm(dim=-1).max()) <= 5


def test_one_token_and_wrong_input():
    assert float(solve_gwot(torch.zeros(1, 1, 1), (1, 1), (1, 1)).plan) == 1
    with pytest.raises(ValueError, match="plans of shape"):
        solve_gwot(torch.zeros(1, 4, 4), (2, 2), (2, 3))
    with pytest.raises(ValueError, match="not finite"):
        solve_gwot(torch.full((1, 1, 1), torch.nan), (1, 1), (1, 1))
    empty = torch.zeros(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="no token to match"):
        solve_gwot(torch.zeros(1, 1, 1), (1, 1), (1, 1), masks=(empty, ~empty))
    with pytest.raises(ValueError, match="step must be"):
        GwotSettings(step=-1.0)
    with pytest.raises(ValueError, match="marginal must be"):
        GwotSettings(marginal=-1.0)
