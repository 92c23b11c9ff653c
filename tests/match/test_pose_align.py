"""Which of two poses is nearer, and what a mirror does to masks, points and their names."""

import pytest
import torch
from helpers.matching import random_side
from torch.testing import assert_close

from saot.match.pose_align import choose_pose, mirror_points, mirror_side, pose_distance
from saot.match.sides import MatchSide


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
    side = random_side((2, 3), mask=torch.tensor([False, True, True, True, True, True]))
    other = mirror_side(side, torch.randn(6, 24))
    assert other.mask.tolist() == [True, True, False, True, True, True]
    assert side.points is not None and other.points is not None
    assert_close(other.points[0], side.points[2] * torch.tensor([-1.0, 1.0, 1.0]))
    points = torch.tensor([[0.0, 1.0], [9.0, 2.0], [4.0, 3.0]])
    moved, origin = mirror_points(points, 10, [(0, 1)])
    again, _ = mirror_points(moved, 10, [(0, 1)])
    assert origin.tolist() == [1, 0, 2]
    assert_close(again, points)


def test_distance_by_loop_over_the_masks():
    torch.manual_seed(1)
    source, target = (random_side((3, 4), seed, mask=torch.rand(12) < 0.7) for seed in (5, 6))
    rows, columns = source.mask.nonzero()[:, 0].tolist(), target.mask.nonzero()[:, 0].tolist()
    apart = {(i, j): float((source.tokens[i] - target.tokens[j]).norm()) for i in rows for j in columns}
    forth = {i: min(columns, key=lambda j: apart[i, j]) for i in rows}
    back = {j: min(rows, key=lambda i: apart[i, j]) for j in columns}
    nearest = [apart[i, forth[i]] for i in rows]
    mutual = [apart[i, forth[i]] for i in rows if back[forth[i]] == i]
    assert 0 < len(mutual) < len(nearest)
    assert pose_distance(source, target) == pytest.approx(sum(nearest) / len(nearest), abs=1e-5)
    assert pose_distance(source, target, "mutual") == pytest.approx(sum(mutual) / len(mutual), abs=1e-5)


def test_the_source_stays_where_both_poses_are_as_near():
    side = random_side((2, 2))
    assert choose_pose(side, random_side((2, 2)), side) == (side, False)


def test_the_mirrored_side_has_its_own_tokens_and_the_same_distances():
    side, tokens = random_side((3, 5)), torch.randn(15, 24)
    other = mirror_side(side, tokens)
    assert_close(other.tokens, torch.nn.functional.normalize(tokens, dim=-1))
    assert other.shape == (3, 5) and side.points is not None and other.points is not None
    order = torch.arange(15).view(3, 5).flip(1).flatten()
    assert_close(torch.cdist(other.points, other.points), torch.cdist(side.points, side.points)[order][:, order])
    assert mirror_side(random_side((3, 5), points=False), tokens).points is None


def test_a_point_without_a_partner_keeps_its_name():
    points = torch.tensor([[2.0, 0.0], [3.0, 0.0], [5.0, 7.0]])
    moved, origin = mirror_points(points, 6, [(0, 1)])
    assert moved.tolist() == [[2.0, 0.0], [3.0, 0.0], [0.0, 7.0]] and origin.tolist() == [1, 0, 2]
    assert points.tolist() == [[2.0, 0.0], [3.0, 0.0], [5.0, 7.0]]
