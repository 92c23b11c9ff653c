"""The methods behind one function, Pose-Align, and labels along a sequence."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from saot.match import (
    METHODS,
    MatchSettings,
    MatchSide,
    PropagationSettings,
    Readout,
    ShapeOfYouSettings,
    UotSettings,
    match_sides,
    propagate_labels,
)
from saot.match.matching import plan_confidence
from saot.match.pose_align import choose_pose, mirror_points, mirror_side, pose_distance
from saot.match.readout import READOUTS


def random_side(shape, seed=0, dim=24, mask=None, points=True):
    generator = torch.Generator().manual_seed(seed)
    count = shape[0] * shape[1]
    space = torch.randn(count, 3, generator=generator) if points else None
    return MatchSide.of(torch.randn(count, dim, generator=generator), shape, mask, space)


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_matches_itself(method):
    side = random_side((5, 6))
    found = match_sides(side, side, MatchSettings(method))
    places = torch.cartesian_prod(torch.arange(5.0), torch.arange(6.0))
    assert_close(found.positions, places)
    assert found.is_plan == (method not in ("nn", "mutual-nn"))
    assert bool((found.confidence >= 0).all() and (found.confidence <= 1).all())


@pytest.mark.parametrize("method", METHODS)
def test_masked_tokens_are_never_matched(method):
    mask = torch.zeros(30, dtype=torch.bool)
    mask[7:20] = True
    source, target = random_side((5, 6), 1, mask=mask), random_side((5, 6), 2, mask=mask)
    found = match_sides(source, target, MatchSettings(method))
    tokens = (found.positions[mask] @ torch.tensor([6.0, 1.0])).long()
    assert bool(mask[tokens].all())
    assert float(found.confidence[~mask].abs().max()) == 0


def test_mutual_neighbours_carry_the_others_along():
    tokens = torch.eye(6)
    source = tokens.clone()
    source[3] = tokens[0] + 0.1 * tokens[3]  # looks like the first, which the first itself claims
    one, other = MatchSide.of(source, (1, 6)), MatchSide.of(tokens.roll(0, 0), (1, 6))
    plain = match_sides(one, other, MatchSettings("nn")).positions[:, 1]
    mutual = match_sides(one, other, MatchSettings("mutual-nn"))
    assert plain.tolist() == [0, 1, 2, 0, 4, 5]
    assert mutual.positions[:, 1].tolist() == [0, 1, 2, 3, 4, 5]
    assert float(mutual.confidence[3]) == 0


def test_confidence_is_the_mass_about_the_best_token():
    plan = torch.zeros(1, 25)
    plan[0, [0, 1, 5, 12]] = torch.tensor([0.4, 0.1, 0.2, 0.3])
    sure = plan_confidence(plan, (5, 5), torch.ones(1, dtype=torch.bool))
    assert_close(sure, torch.tensor([0.7]))  # 12 is two rows and columns away
    assert float(plan_confidence(torch.zeros(1, 25), (5, 5), torch.ones(1, dtype=torch.bool))) == 0


def test_features_of_another_network_are_refused():
    with pytest.raises(ValueError, match="24 and 8 numbers"):
        match_sides(random_side((2, 2)), random_side((2, 2), dim=8))
    with pytest.raises(ValueError, match="method among"):
        MatchSettings.named("best")


def test_pose_align_takes_the_mirror_image_where_it_is_nearer():
    target = random_side((4, 5), 3)
    turned = MatchSide.of(target.tokens.view(4, 5, -1).flip(1).flatten(0, 1), (4, 5))
    lonely = random_side((4, 5), 4)
    assert pose_distance(target, target) < 1e-3  # the root of rounding
    chosen, mirrored = choose_pose(lonely, target, target)
    assert mirrored and chosen is target
    assert choose_pose(target, lonely, target)[1] is False
    assert pose_distance(turned, target, "mutual") == pytest.approx(0, abs=1e-3)


def test_mirrored_side_and_points():
    side = random_side((2, 3), mask=torch.tensor([True, False, True, True, True, True]))
    other = mirror_side(side, torch.randn(6, 24))
    assert other.mask.tolist() == [True, False, True, True, True, True]
    assert side.points is not None and other.points is not None
    assert_close(other.points[0], side.points[2] * torch.tensor([-1.0, 1.0, 1.0]))
    points = torch.tensor([[0.0, 1.0], [9.0, 2.0], [4.0, 3.0]])
    moved, origin = mirror_points(points, 10, [(0, 1)])
    again, _ = mirror_points(moved, 10, [(0, 1)])
    assert origin.tolist() == [1, 0, 2]
    assert_close(again, points)


@pytest.mark.parametrize("method", ["nn", "uot", "gwot"])
@pytest.mark.parametrize("take", ["best", "mean"])
@pytest.mark.parametrize(("first", "memory"), [(True, 0), (True, 1), (False, 1), (True, 3)])
def test_labels_stay_where_nothing_moves(method, first, memory, take):
    side = random_side((5, 5))
    labels = torch.nn.functional.one_hot(torch.arange(25) % 3).float()
    settings = PropagationSettings(MatchSettings(method), take, first, memory)
    carried = list(propagate_labels([side] * 4, labels, settings))
    assert len(carried) == 4
    for one in carried:
        assert one.probs.argmax(-1).tolist() == labels.argmax(-1).tolist()
        assert_close(one.probs.sum(-1), torch.ones(25))


def test_a_token_without_label_gives_none():
    side = random_side((2, 2))
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]])
    *_, last = propagate_labels([side, side], labels, PropagationSettings(MatchSettings("nn"), memory=0))
    assert last.probs.argmax(-1)[:2].tolist() == [0, 1]
    assert bool((last.probs.sum(-1) == 1).all())  # the two others take that of the labelled token most like them


def test_wrong_sequence_input():
    with pytest.raises(ValueError, match="first frame's 4 tokens"):
        list(propagate_labels([random_side((2, 2))], torch.ones(3, 2)))
    with pytest.raises(ValueError, match="a frame to match with"):
        PropagationSettings(first=False, memory=0)
    with pytest.raises(ValueError, match="leaves no token"):
        MatchSide.of(torch.eye(4), (2, 2), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="2 x 3 grid"):
        MatchSide.of(torch.eye(4), (2, 3))


def test_readout_is_that_of_the_settings():
    side = random_side((5, 6))
    soft = match_sides(side, side, MatchSettings("nn", Readout("soft", temperature=10.0)))
    assert_close(soft.positions, torch.tensor([2.0, 2.5]).expand(30, 2), rtol=0, atol=0.2)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("method", ["nn", "uot", "gwot", "shape-of-you"])
def test_every_read_out_stays_near_where_a_picture_matches_itself(method, readout):
    if (method, readout) == ("nn", "mass"):
        pytest.skip("a centre of mass needs scores of one sign")
    side = random_side((7, 8), dim=48)
    settings = replace(
        MatchSettings.named(method, readout), shape_of_you=ShapeOfYouSettings(epsilon=0.02), uot=UotSettings(0.02)
    )
    places = torch.cartesian_prod(torch.arange(7.0), torch.arange(8.0))
    away = (match_sides(side, side, settings).positions - places).norm(dim=-1)
    assert float(away.max()) < 0.75


def test_numbers_under_the_mask_do_not_matter():
    mask = torch.ones(20, dtype=torch.bool)
    mask[3] = False
    tokens = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    broken = tokens.clone()
    broken[3] = torch.nan
    one, other = MatchSide.of(tokens, (4, 5), mask), MatchSide.of(broken, (4, 5), mask)
    assert_close(match_sides(one, one).positions[mask], match_sides(other, other).positions[mask])
