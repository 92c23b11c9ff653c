import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.testing import assert_close

from saot.match.losses import (
    current_plan,
    dense_loss,
    noise_deviation,
    noisy_places,
    row_shares,
    soft_contrastive_loss,
    soft_target,
)
from saot.transport import solve_transport

DOUBLE = torch.float64


def similarity_of(n=5, m=6) -> Tensor:
    source, target = (normalize(torch.randn(count, 8, dtype=DOUBLE), dim=1) for count in (n, m))
    return source @ target.T


def hard_of(n=5, m=6) -> Tensor:
    """Multi-hot with rows and columns that have nothing."""
    hard = torch.rand(n, m) < 0.4
    hard[1], hard[:, 2] = False, False
    hard[0, 0] = True
    return hard


def soft_by_loop(similarity, hard, current, scale, beta) -> float:
    """Eq. (10) of one direction, from Eq. (9) row by row."""
    n, m = similarity.shape
    total, rows = 0.0, 0
    for i in range(n):
        hits = sum(bool(hard[i, j]) for j in range(m))
        if not hits:
            continue
        rows += 1
        mass = sum(float(current[i, j]) for j in range(m))
        z = sum(math.exp(scale * float(similarity[i, j])) for j in range(m))
        for j in range(m):
            target = (1 - beta) * bool(hard[i, j]) / hits + beta * float(current[i, j]) / mass
            total -= target * (scale * float(similarity[i, j]) - math.log(z))
    return total / rows


def test_row_shares_leave_empty_rows():
    assert row_shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_soft_target_by_loop(beta):
    hard, current = hard_of(), torch.rand(5, 6, dtype=DOUBLE)
    target, kept = soft_target(hard, current, beta)
    assert kept.tolist() == hard.any(1).tolist()
    for i in range(5):
        hits = int(hard[i].sum())
        expected = [
            (1 - beta) * bool(hard[i, j]) / hits + beta * float(current[i, j] / current[i].sum()) if hits else 0.0
            for j in range(6)
        ]
        assert_close(target[i], torch.tensor(expected, dtype=DOUBLE))
    assert_close(target.sum(1), kept.to(DOUBLE))


@pytest.mark.parametrize("tau", [math.inf, 0.75])
def test_the_current_plan_is_transport_and_a_constant(tau):
    similarity = similarity_of().requires_grad_(True)
    plan = current_plan(similarity, 0.2, tau)
    assert not plan.requires_grad
    assert_close(plan, solve_transport(1 - similarity.detach(), epsilon=0.2, tau=tau).plan)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_soft_loss_by_loop(beta):
    similarity, hard, current = similarity_of(), hard_of(), torch.rand(5, 6, dtype=DOUBLE)
    scale = torch.tensor(3.0, dtype=DOUBLE)
    forward = soft_by_loop(similarity, hard, current, 3.0, beta)
    backward = soft_by_loop(similarity.T, hard.T, current.T, 3.0, beta)
    found = soft_contrastive_loss(similarity, hard, current, scale, beta)
    assert_close(found, torch.tensor((forward + backward) / 2, dtype=DOUBLE))
    assert_close(soft_contrastive_loss(similarity.T, hard.T, current.T, scale, beta), found)


def test_one_pair_a_token_is_the_usual_contrastive_loss():
    similarity, scale = similarity_of(6, 6), torch.tensor(4.0, dtype=DOUBLE)
    numbers = torch.arange(6)
    usual = [torch.nn.functional.cross_entropy(scale * one, numbers) for one in (similarity, similarity.T)]
    hard = torch.eye(6, dtype=torch.bool)
    assert_close(soft_contrastive_loss(similarity, hard, similarity.exp(), scale, beta=0.0), sum(usual) / 2)


def test_gradients_of_the_soft_loss():
    similarity, hard = similarity_of().requires_grad_(True), hard_of()
    scale = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    fixed = torch.rand(5, 6, dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda s, t: soft_contrastive_loss(s, hard, fixed, t), (similarity, scale))
    current = torch.rand(5, 6, dtype=DOUBLE, requires_grad=True)
    soft = hard.to(DOUBLE).requires_grad_(True)
    soft_contrastive_loss(similarity, soft, current, scale).backward()
    assert current.grad is None  # the target's plan is a constant
    assert similarity.grad is not None and scale.grad is not None


def test_the_plan_of_the_moment_adds_no_gradient():
    """Differences with the plan held fixed, not with the plan moving along."""
    similarity, hard = similarity_of().requires_grad_(True), hard_of()
    scale = torch.tensor(5.0, dtype=DOUBLE)
    soft_contrastive_loss(similarity, hard, current_plan(similarity, 0.1), scale).backward()
    assert similarity.grad is not None
    fixed, step, values = current_plan(similarity, 0.1), 1e-6, similarity.detach()
    for i, j in ((0, 0), (2, 3), (4, 5)):
        bump = torch.zeros_like(values)
        bump[i, j] = step
        up, down = (soft_contrastive_loss(values + s * bump, hard, fixed, scale) for s in (1, -1))
        assert float(similarity.grad[i, j]) == pytest.approx(float(up - down) / (2 * step), rel=1e-6, abs=1e-9)


def test_rows_without_a_label_have_no_pull_of_their_own():
    similarity, hard = similarity_of(3, 3).requires_grad_(True), torch.zeros(3, 3, dtype=torch.bool)
    hard[0, 0] = True
    soft_contrastive_loss(similarity, hard, torch.ones(3, 3, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE)).backward()
    assert similarity.grad is not None
    assert bool((similarity.grad[1:, 1:] == 0).all()) and bool((similarity.grad[0] != 0).all())


def test_without_labels_the_losses_are_zero():
    similarity = similarity_of().requires_grad_(True)
    hard, ones = torch.zeros(5, 6, dtype=torch.bool), torch.ones(5, 6, dtype=DOUBLE)
    soft = soft_contrastive_loss(similarity, hard, ones, torch.tensor(1.0, dtype=DOUBLE))
    dense = dense_loss(similarity[:0], torch.zeros(0, 2, dtype=DOUBLE), (2, 3))
    assert float(soft.detach()) == 0.0 and float(dense.detach()) == 0.0
    (soft + dense).backward()
    assert similarity.grad is not None and bool((similarity.grad == 0).all())


@pytest.mark.parametrize("masked", [False, True])
def test_dense_loss_by_loop(masked):
    similarity, places = similarity_of(4, 6), 2 * torch.rand(4, 2, dtype=DOUBLE)
    mask = torch.tensor([True, False, True, True, False, True]) if masked else torch.ones(6, dtype=torch.bool)
    total = 0.0
    for row, place in zip(similarity, places, strict=True):
        weights = [math.exp(float(row[j]) / 0.5) * bool(mask[j]) for j in range(6)]
        found = [sum(w * divmod(j, 3)[axis] for j, w in enumerate(weights)) / sum(weights) for axis in (0, 1)]
        total += math.dist(found, place.tolist())
    found = dense_loss(similarity, places, (2, 3), 0.5, mask if masked else None)
    assert_close(found, torch.tensor(total / 4, dtype=DOUBLE))


def test_the_dense_loss_of_one_pair_is_its_distance():
    even, place = torch.zeros(1, 6, dtype=DOUBLE), torch.tensor([[3.5, 5.0]], dtype=DOUBLE)
    assert_close(dense_loss(even, place, (2, 3)), torch.tensor(5.0, dtype=DOUBLE))  # from the middle, (0.5, 1)


def test_gradients_of_the_dense_loss():
    similarity, places = similarity_of(4, 6).requires_grad_(True), 2 * torch.rand(4, 2, dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda s: dense_loss(s, places, (2, 3), 0.5), (similarity,))
    exact = torch.tensor([[0.0, 0.0]], dtype=DOUBLE, requires_grad=True)  # on the spot: no NaN
    dense_loss(exact, torch.tensor([[0.0, 0.5]], dtype=DOUBLE), (1, 2)).backward()
    assert exact.grad is not None and exact.grad.tolist() == [[0.0, 0.0]]


def test_noise_has_the_deviation_asked_for():
    places = torch.full((4000, 2), 3.0)
    moved = noisy_places(places, 0.5, torch.Generator().manual_seed(1))
    assert_close(moved.mean(0), torch.tensor([3.0, 3.0]), rtol=0, atol=0.04)  # five standard errors
    assert_close(moved.std(0), torch.tensor([0.5, 0.5]), rtol=0.06, atol=0)
    assert_close(noisy_places(places, 0.0, torch.Generator()), places)
    again = noisy_places(places, 0.5, torch.Generator().manual_seed(1))
    assert_close(again, moved, rtol=0, atol=0)


def test_noise_follows_the_longer_side_of_the_object():
    mask = torch.zeros(5, 8, dtype=torch.bool)
    mask[1, 3] = mask[4, 4] = True  # rows 1 to 4, columns 3 to 4
    assert noise_deviation(mask.flatten(), (5, 8)) == pytest.approx(0.1 * 4 / 2)
    mask[2, 7] = True
    assert noise_deviation(mask.flatten(), (5, 8), 0.2) == pytest.approx(0.2 * 5 / 2)
    assert noise_deviation(torch.ones(1, dtype=torch.bool), (1, 1)) == pytest.approx(0.05)
