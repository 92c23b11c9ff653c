"""Distances within a picture, anchors and the cost against them: each by loops."""

import math

import pytest
import torch
from helpers.matching import DOUBLE, anchors_by_loop, anchors_of, distances, side
from torch.testing import assert_close

from saot.match.anchors import geometric_cost, intra_distances, scale_distances, select_anchors


@pytest.mark.parametrize("norm", ["max", "mean", "median"])
@pytest.mark.parametrize("structure", ["points3d", "grid2d", "semantic"])
def test_distances_by_loop(structure, norm):
    one = side(masked=0.4)
    kept = torch.nonzero(one.mask).flatten().tolist()
    assert one.points is not None

    def apart(i: int, k: int) -> float:
        if structure == "points3d":
            return float((one.points[i] - one.points[k]).norm())
        if structure == "grid2d":
            return math.hypot(i // 5 - k // 5, i % 5 - k % 5)
        return 1 - float(one.tokens[i] @ one.tokens[k])

    plain = torch.tensor([[apart(i, k) if i != k else 0.0 for k in kept] for i in kept], dtype=DOUBLE)
    pairs = torch.tensor([apart(i, k) for i in kept for k in kept if i != k], dtype=DOUBLE)
    scale = {"max": pairs.max(), "mean": pairs.mean(), "median": pairs.median()}[norm]
    found = intra_distances(one, structure, norm)
    assert_close(found, plain / scale)
    assert_close(found, found.T, rtol=0, atol=0)
    assert bool((found.diagonal() == 0).all())


def test_degenerate_distances_are_not_scaled():
    assert scale_distances(torch.zeros(1, 1), "median").tolist() == [[0.0]]
    assert scale_distances(torch.zeros(3, 3), "max").tolist() == [[0.0] * 3] * 3  # all in one place
    assert scale_distances(torch.tensor([[0.0, 4.0], [4.0, 0.0]]), "median").tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("rank", ["confidence", "confidence-distortion"])
@pytest.mark.parametrize(("count", "quantile"), [(4, 0.5), (4, 1.0), (100, 0.7), (1, 0.0)])
def test_anchors_by_loop(count, quantile, rank, power):
    plan, near, far = torch.rand(15, 12, dtype=DOUBLE), distances(15), distances(12)
    plan[3] = 0.0  # a source that sends nothing
    found = select_anchors(plan, near, far, count, quantile, rank, power)
    expected = anchors_by_loop(plan, near, far, count, quantile, rank, power)
    assert list(zip(found.source.tolist(), found.target.tolist(), strict=True)) == expected
    assert_close(found.confidence, plan[found.source, found.target])
    assert found.matched == 14 and found.survivors >= len(found)
    errors = near[found.source, plan.argmax(0)[found.target]]
    assert float(errors.max()) <= found.threshold


def test_fewer_survivors_than_anchors_asked_for():
    plan = torch.rand(9, 9, dtype=DOUBLE) * 0.1 + torch.eye(9, dtype=DOUBLE)
    found = select_anchors(plan, distances(9), distances(9), count=64)
    assert len(found) == found.survivors == found.matched == 9 and found.threshold == 0.0


def test_a_plan_without_mass_has_no_anchors():
    found = select_anchors(torch.zeros(3, 4), distances(3).float(), distances(4).float())
    assert len(found) == 0 and found.matched == 0
    with pytest.raises(ValueError, match="there is none"):
        geometric_cost(distances(3).float(), distances(4).float(), found)


@pytest.mark.parametrize("power", [1, 2])
def test_geometric_cost_by_loop(power):
    near, far = distances(7), distances(5)
    anchors = anchors_of((0, 1), (3, 4), (6, 0), (3, 3))
    pairs = list(zip(anchors.source.tolist(), anchors.target.tolist(), strict=True))
    expected = torch.tensor(
        [
            [sum(abs(float(near[i, a] - far[j, b])) ** power for a, b in pairs) / len(pairs) for j in range(5)]
            for i in range(7)
        ],
        dtype=DOUBLE,
    )
    assert_close(geometric_cost(near, far, anchors, power), expected)


def test_squares_by_moments_do_not_cancel_in_single_precision():
    near = distances(40)
    anchors = anchors_of(*((i, i) for i in range(40)))
    cost = geometric_cost(near.float(), near.float(), anchors, 2)
    assert_close(cost.double(), geometric_cost(near, near, anchors, 2), rtol=0, atol=1e-7)  # a few roundings of 1
    assert float(cost.min()) >= 0


def test_the_linear_form_is_the_quadratic_one_with_the_anchor_plan():
    """Eq. (6): <C_geo, pi> = sum_ijkl |D^A_ik - D^B_jl|^2 pi_ij pi^_kl, with pi^ uniform on the anchors."""
    near, far = distances(4), distances(5)
    anchors, plan = anchors_of((0, 4), (2, 1)), torch.rand(4, 5, dtype=DOUBLE)
    fixed = torch.zeros(4, 5, dtype=DOUBLE)
    fixed[anchors.source, anchors.target] = 1 / 2
    apart = (near[:, None, :, None] - far[None, :, None, :]) ** 2
    assert_close((geometric_cost(near, far, anchors, 2) * plan).sum(), torch.einsum("ijkl,ij,kl->", apart, plan, fixed))


def test_a_structure_that_is_not_there_says_what_to_do():
    with pytest.raises(ValueError, match='lift it to 3D first, or take structure="grid2d"'):
        intra_distances(side(points=False), "points3d")
    with pytest.raises(ValueError, match='take "points3d", "grid2d" or "semantic"'):
        intra_distances(side(), "none")
