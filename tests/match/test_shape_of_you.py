import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers.matching import DOUBLE, anchors_by_loop, side
from torch.testing import assert_close

from saot.match.anchors import intra_distances
from saot.match.shape_of_you import (
    ShapeOfYouSettings,
    cycle_consistent_pairs,
    fused_cost,
    nearest_label,
    normalize_cost,
    pseudo_label,
    semantic_cost,
    shape_of_you,
)
from saot.match.sides import MatchSide
from saot.transport import TransportStatus, solve_transport


def test_no_points_is_an_error_that_says_what_to_do():
    flat = side(points=False)
    with pytest.raises(ValueError, match="grid2d"):
        shape_of_you(flat, side())
    with pytest.raises(ValueError, match="grid2d"):
        shape_of_you(side(), flat)
    with pytest.raises(ValueError, match="no distances"):
        intra_distances(flat, "none")
    assert shape_of_you(flat, flat, ShapeOfYouSettings(structure="grid2d")).status == "refined"


def test_points_that_may_not_be_matched_need_not_be_finite():
    one = side(masked=0.4)
    assert one.points is not None
    broken = replace(one, points=torch.where(one.mask[:, None], one.points, math.nan))
    assert_close(shape_of_you(broken, one).plan, shape_of_you(one, one).plan)


# --- costs ---------------------------------------------------------------------------------------------------------


def test_normalised_costs_by_hand():
    cost = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert normalize_cost(cost, "none") is cost
    assert normalize_cost(cost, "minmax").tolist() == [[0.0, 1.0], [0.5, 0.5]]
    assert_close(normalize_cost(cost, "max"), cost / 3)
    assert_close(normalize_cost(cost, "mean"), cost / 2)
    for norm in ("minmax", "max", "mean"):
        assert bool(torch.isfinite(normalize_cost(torch.zeros(2, 2), norm)).all())
    assert normalize_cost(torch.ones(2, 2), "minmax").tolist() == [[0.0, 0.0]] * 2


def test_fused_cost_by_hand():
    semantic, geometric = torch.rand(3, 4), torch.rand(3, 4)
    assert_close(fused_cost(semantic, geometric, 0.3), 0.7 * semantic + 0.3 * geometric)
    assert_close(fused_cost(semantic, geometric, 0.0), semantic)


def test_semantic_cost_by_loop():
    one, other = side(masked=0.5), side((3, 4), masked=0.3)
    rows, columns = torch.nonzero(one.mask).flatten().tolist(), torch.nonzero(other.mask).flatten().tolist()
    expected = [[1 - float(one.tokens[i] @ other.tokens[j]) for j in columns] for i in rows]
    assert_close(semantic_cost(one, other), torch.tensor(expected, dtype=DOUBLE))


# --- the loop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbalanced", [True, False])
def test_the_loop_step_by_step(unbalanced):
    torch.manual_seed(1)  # here the anchors of the last round are not those of the first
    one, other = side(masked=0.3), side((3, 6), masked=0.2)
    cold = {"warm": False}  # as the solves below; test_machine_code holds warm ones to cold ones
    settings = ShapeOfYouSettings(anchors=5, refinements=3, alpha=0.4, epsilon=0.1, unbalanced=unbalanced, **cold)
    near, far = intra_distances(one, "points3d"), intra_distances(other, "points3d")
    cost = semantic_cost(one, other)
    tau = 0.75 if unbalanced else math.inf
    plan = solve_transport(cost, epsilon=0.1, tau=tau, tol=1e-5).plan
    scaled = (cost - cost.min()) / (cost.max() - cost.min())
    means, chosen, best = [], [], [plan.argmax(1)]
    for _ in range(3):
        pairs = anchors_by_loop(plan, near, far, 5, 0.5, "confidence", 1)
        chosen.append(sorted(pairs))
        geo = sum((near[:, a, None] - far[None, :, b]).abs() for a, b in pairs) / len(pairs)
        total = 0.6 * scaled + 0.4 * (geo - geo.min()) / (geo.max() - geo.min())
        plan = solve_transport(total, epsilon=0.1, tau=tau, tol=1e-5).plan
        means.append(float((plan * geo).sum() / plan.sum()))
        best.append(plan.argmax(1))
    assert chosen[0] != chosen[-1]  # anchors are taken anew of each plan, else this would not see it
    found = shape_of_you(one, other, settings)
    assert_close(found.plan, plan, rtol=1e-6, atol=0)  # roundings, through the solver
    assert [round(one.geometric, 6) for one in found.history[1:]] == [round(mean, 6) for mean in means]
    moved = [float((before != after).float().mean()) for before, after in pairwise(best)]
    assert [one.moved for one in found.history[1:]] == moved and 0 < moved[0] < 1
    assert found.status == "refined" and found.converged and len(found.history) == 4
    assert found.source_tokens.tolist() == torch.nonzero(one.mask).flatten().tolist()
    assert found.target_tokens.tolist() == torch.nonzero(other.mask).flatten().tolist()


def test_the_whole_plan_is_zero_outside_the_masks():
    one, other = side(masked=0.3), side((3, 6), masked=0.5)
    found = shape_of_you(one, other)
    whole = found.on_grid()
    assert whole.shape == (20, 18)
    assert_close(whole[one.mask][:, other.mask], found.plan)
    assert_close(whole.sum(), found.plan.sum())


def test_masked_tokens_change_nothing():
    one, other = side(masked=0.4), side((3, 6), masked=0.4)
    noise = side(tokens=torch.randn(20, 6, dtype=DOUBLE))
    louder = replace(one, tokens=torch.where(one.mask[:, None], one.tokens, noise.tokens))
    assert_close(shape_of_you(louder, other).plan, shape_of_you(one, other).plan)


def test_shape_tells_twins_apart():
    """Every part occurs twice, told apart by nothing but where it is; a few single parts are the anchors."""
    features = torch.eye(16, dtype=DOUBLE)[torch.tensor([*range(8), *range(8), *range(8, 16)])]
    points = torch.randn(24, 3, dtype=DOUBLE)
    order = torch.randperm(24)
    one = MatchSide(features, (4, 6), torch.ones(24, dtype=torch.bool), points)
    other = MatchSide(features[order], (4, 6), torch.ones(24, dtype=torch.bool), 3.0 * points[order])
    truth = order.argsort()
    alone = shape_of_you(one, other, ShapeOfYouSettings(structure="none")).plan.argmax(1)
    assert float((alone == truth).double().mean()) < 0.9
    shaped = shape_of_you(one, other, ShapeOfYouSettings(anchors=8)).plan.argmax(1)
    assert shaped.tolist() == truth.tolist()


@pytest.mark.parametrize("norm", ["max", "mean", "median"])
def test_rigid_motion_and_scale_of_the_points_change_nothing(norm):
    one, other = side(), side((3, 6))
    assert one.points is not None
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE))
    moved = replace(one, points=7.0 * one.points @ turn + 100.0)
    settings = ShapeOfYouSettings(distance_norm=norm)
    before, after = shape_of_you(one, other, settings), shape_of_you(moved, other, settings)
    assert_close(after.plan, before.plan, rtol=1e-9, atol=0)
    bent = replace(one, points=one.points * torch.tensor([1.0, 1.0, 3.0], dtype=DOUBLE))
    assert float((shape_of_you(bent, other, settings).plan - before.plan).abs().max()) > 1e-6


def test_order_of_tokens_does_not_matter():
    one, other, order = side(), side(), torch.randperm(20)
    assert one.points is not None
    shuffled = MatchSide(one.tokens[order], (4, 5), one.mask[order], one.points[order])
    assert_close(shape_of_you(shuffled, other).plan, shape_of_you(one, other).plan[order], rtol=1e-6, atol=0)


def test_without_refinement_the_plan_is_semantic():
    one, other = side(), side()
    plan = solve_transport(semantic_cost(one, other), epsilon=1.0, tau=0.75).plan
    for settings in (ShapeOfYouSettings(structure="none"), ShapeOfYouSettings(refinements=0)):
        found = shape_of_you(replace(one, points=None), replace(other, points=None), settings)
        assert found.status == "semantic" and len(found.history) == 1
        assert_close(found.plan, plan, rtol=1e-9, atol=0)


def test_no_anchor_left_keeps_the_semantic_plan_and_says_so():
    one = MatchSide(torch.tensor([[1.0, 0.0]]), (1, 1), torch.ones(1, dtype=torch.bool), torch.zeros(1, 3))
    other = MatchSide(torch.tensor([[-1.0, 0.0]]), (1, 1), torch.ones(1, dtype=torch.bool), torch.zeros(1, 3))
    settings = ShapeOfYouSettings(epsilon=1e-3, tau=1e-3)  # mass exp(-2 / 0.003): nothing in float32
    found = shape_of_you(one, other, settings)
    assert found.status == "no anchors" and len(found.history) == 1 and float(found.plan.sum()) == 0.0
    assert len(pseudo_label(found, settings)) == 0


def test_one_token_on_either_side():
    one, other = side((1, 1)), side((3, 4))
    for pair, shape in (((one, other), (1, 12)), ((other, one), (12, 1)), ((one, one), (1, 1))):
        found = shape_of_you(*pair)
        assert found.plan.shape == shape and bool(torch.isfinite(found.plan).all()) and found.status == "refined"
    mask = torch.arange(12) == 5
    found = shape_of_you(replace(other, mask=mask), other)
    assert found.plan.shape == (1, 12) and found.source_tokens.tolist() == [5]


def test_history_says_what_happened():
    one = side()
    found = shape_of_you(one, one, ShapeOfYouSettings(refinements=2))
    first, second, _ = found.history
    assert len(first.anchors) == 0 and first.geometric == 0.0 and first.moved == 0.0
    assert len(second.anchors) == 20 and second.status == TransportStatus.CONVERGED
    assert 0 < first.mass < 1 and second.sweeps > 0
    plan = solve_transport(semantic_cost(one, one), epsilon=1.0, tau=0.75).plan
    assert first.semantic == pytest.approx(float((plan * semantic_cost(one, one)).sum() / plan.sum()))


def test_settings_out_of_range():
    for wrong in ({"anchors": 0}, {"refinements": -1}, {"alpha": 1.2}, {"topk": 0}, {"anchor_quantile": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ShapeOfYouSettings(**wrong)


# --- pseudo-labels -------------------------------------------------------------------------------------------------


def survivors_by_loop(scores, source_places, target_places, topk, radius) -> list[tuple[int, int]]:
    n, m = scores.shape
    kept = []
    for i in range(n):
        ranked = sorted(range(m), key=lambda j: -float(scores[i, j]))
        for j in ranked[:topk]:
            back = max(range(n), key=lambda k: float(scores[k, j]))
            there = math.dist(source_places[back].tolist(), source_places[i].tolist())
            here = math.dist(target_places[ranked[0]].tolist(), target_places[j].tolist())
            if scores[i, j] > 0 and there <= radius and here <= radius:
                kept.append((i, j))
    return kept


@pytest.mark.parametrize("topk", [1, 3, 50])
@pytest.mark.parametrize("radius", [0.0, 1.0, 2.0, math.inf])
def test_cycles_by_loop(topk, radius):
    scores = torch.rand(20, 18, dtype=DOUBLE)
    scores[4] = 0.0
    places = [torch.cartesian_prod(torch.arange(a), torch.arange(b)).double() for a, b in ((4, 5), (3, 6))]
    rows, columns = cycle_consistent_pairs(scores, *places, topk, radius)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == survivors_by_loop(scores, *places, topk, radius)
    assert 4 not in rows.tolist()


def test_strict_cycles_are_mutual_best_matches():
    one, other = side(), side((3, 6))
    settings = ShapeOfYouSettings(cycle="strict")
    found = shape_of_you(one, other, settings)
    label = pseudo_label(found, settings)
    mutual = [(i, int(j)) for i, j in enumerate(found.plan.argmax(1)) if int(found.plan[:, j].argmax()) == i]
    assert list(zip(label.source.tolist(), label.target.tolist(), strict=True)) == mutual
    assert len(pseudo_label(found, replace(settings, cycle="none"))) == 20 * 3
    relaxed = pseudo_label(found, replace(settings, cycle="relaxed"))
    assert len(mutual) < len(relaxed) < 60


def test_labels_speak_of_tokens_of_the_whole_grid():
    one, other = side(masked=0.4), side((3, 6), masked=0.3)
    found = shape_of_you(one, other)
    label = pseudo_label(found)
    assert len(label) > 0
    hot = label.multi_hot()
    assert hot.shape == (20, 18) and int(hot.sum()) == len(label)
    assert not bool(hot[~one.mask].any()) and not bool(hot[:, ~other.mask].any())
    assert_close(label.confidence, found.on_grid()[label.source, label.target])
    rows, columns = found.source_tokens, found.target_tokens
    places = [torch.stack([t // width, t % width], -1).double() for t, width in ((rows, 5), (columns, 6))]
    expected = survivors_by_loop(found.plan, *places, 3, 2.0)
    assert [(int(rows[i]), int(columns[j])) for i, j in expected] == list(
        zip(label.source.tolist(), label.target.tolist(), strict=True)
    )


def test_nearest_neighbour_labels():
    one = side(masked=0.4)
    label = nearest_label(one, one, ShapeOfYouSettings(topk=1, cycle="strict"))
    assert label.source.tolist() == label.target.tolist() == torch.nonzero(one.mask).flatten().tolist()
    assert_close(label.confidence, torch.full((len(label),), math.e, dtype=DOUBLE))
    away = replace(one, tokens=-one.tokens)  # cosines below 0 are scores too
    assert len(nearest_label(one, away, ShapeOfYouSettings(cycle="none"))) == 3 * int(one.mask.sum())
