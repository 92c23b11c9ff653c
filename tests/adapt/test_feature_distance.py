"""Pure cells and the feature distance against loops."""

import math

import pytest
import torch
from torch.testing import assert_close

from saot.adapt.feature_distance import THINGS, feature_distance, pure_labels

DOUBLE = torch.float64


def labels_of(seed=0) -> torch.Tensor:
    """Cells of 4 x 4 pixels, most of them nearly pure, some not, some ignored."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.tensor([0, 5, 6, 13, 18, 255])[torch.randint(6, (2, 3, 5), generator=generator)]
    labels = cells.repeat_interleave(4, 1).repeat_interleave(4, 2)
    noise = torch.rand(labels.shape, generator=generator) < 0.2
    return torch.where(noise, 2, labels)


def pure_by_loop(labels, side, purity) -> list:
    b, height, width = labels.shape
    made = []
    for i in range(b):
        for top in range(0, height, side):
            for left in range(0, width, side):
                pixels = labels[i, top : top + side, left : left + side].flatten().tolist()
                best = max(set(pixels), key=pixels.count)
                made.append(best if pixels.count(best) >= purity * len(pixels) else 255)
    return made


@pytest.mark.parametrize("purity", [0.5001, 0.75, 0.9, 1.0])
def test_pure_labels_by_loop(purity):
    labels = labels_of()
    found = pure_labels(labels, (3, 5), 19, purity)
    expected = pure_by_loop(labels, 4, purity)
    assert found.flatten().tolist() == expected
    assert purity == 1 or len(set(expected)) > 3
    assert torch.equal(pure_labels(labels.to(torch.uint8), (3, 5), 19, purity), found)


def test_exactly_three_quarters_is_pure_and_ignored_pixels_are_not():
    cells = torch.tensor([[[7, 7, 7, 7, 255, 255], [7, 3, 3, 7, 255, 7]]])
    assert pure_labels(cells, (1, 3), 19).tolist() == [[[7, 7, 255]]]
    assert pure_labels(cells, (1, 3), 19, 0.76).tolist() == [[[255, 255, 255]]]
    assert pure_labels(cells[:, :, 4:], (1, 1), 19).item() == 255  # three quarters are ignored


def distance_by_loop(features, reference, labels, things, purity=0.75) -> float:
    cells, values, (_, depth, height, width) = pure_by_loop(labels, 4, purity), [], features.shape
    for number, cell in enumerate(cells):
        if cell in things:
            i, row, column = number // (height * width), number // width % height, number % width
            steps = [float(features[i, k, row, column] - reference[i, k, row, column]) for k in range(depth)]
            values.append(math.sqrt(sum(step * step for step in steps)))
    return sum(values) / len(values)


@pytest.mark.parametrize("things", [THINGS, (6,), (0, 5)])
def test_distance_and_gradient_by_loop(things):
    features, reference = (torch.randn(2, 3, 3, 5, dtype=DOUBLE) for _ in range(2))
    labels, step = labels_of(), 1e-6
    free, frozen = features.clone().requires_grad_(True), reference.clone().requires_grad_(True)
    loss = feature_distance(free, frozen, labels, 19, things)
    loss.backward()
    assert_close(float(loss.detach()), distance_by_loop(features, reference, labels, things), rtol=1e-12, atol=0)
    assert free.grad is not None and frozen.grad is None
    places = [tuple(place) for place in torch.nonzero(torch.ones_like(features))[::7].tolist()]
    for place in places:
        sides = []
        for sign in (1, -1):
            moved = features.clone()
            moved[place] += sign * step
            sides.append(distance_by_loop(moved, reference, labels, things))
        assert_close(float(free.grad[place]), (sides[0] - sides[1]) / (2 * step), rtol=0, atol=1e-8)


def test_things_are_cityscapes_lights_signs_and_what_moves():
    assert THINGS == (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)


@pytest.mark.parametrize("labels", [torch.zeros(1, 4, 4, dtype=torch.long), torch.full((1, 4, 4), 255)])
def test_without_things_the_distance_is_zero(labels):
    features = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = feature_distance(features, torch.randn(1, 3, 2, 2), labels, 19)
    loss.backward()
    assert loss == 0 and features.grad is not None and (features.grad == 0).all()


def test_a_student_that_starts_from_imagenet_has_a_finite_gradient():
    reference = torch.randn(1, 3, 2, 2)
    features = reference.clone().requires_grad_(True)
    loss = feature_distance(features, reference, torch.full((1, 4, 4), 13), 19)
    loss.backward()
    assert loss == 0 and features.grad is not None and torch.isfinite(features.grad).all()


def test_one_pixel_and_half_precision():
    features, reference = torch.full((1, 4, 1, 1), 300.0).half(), torch.zeros(1, 4, 1, 1).half()
    loss = feature_distance(features, reference, torch.tensor([[[11]]]), 19)
    assert loss.dtype == torch.float32 and loss == 600  # 300^2 would overflow half precision
