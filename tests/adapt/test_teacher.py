"""The teacher's update and the weights of its labels, Eqs. (1), (S1) and (S2), against loops."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from saot.adapt.teacher import TeacherSettings, momentum, pseudo_labels, update_ema, weighted_cross_entropy

DOUBLE = torch.float64
ALL_ROWS = TeacherSettings(ignore_top=0, ignore_bottom=0, threshold=0.6)


def network() -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()
    for part in made.parameters():
        nn.init.normal_(part)
    return made


def test_momentum_by_hand():
    assert [momentum(step) for step in (0, 1, 3, 998, 999, 10**6)] == [0, 0.5, 0.75, 1 - 1 / 999, 0.999, 0.999]
    assert momentum(50, 0.9) == 0.9


@pytest.mark.parametrize("step", [0, 1, 5, 4000])
def test_the_update_by_loop(step):
    teacher, student = network(), network()
    student(torch.randn(5, 3, 2, 2, dtype=DOUBLE))  # moves its running statistics
    before = [part.detach().clone() for part in teacher.parameters()]
    buffers = {name: value.clone() for name, value in teacher.named_buffers()}
    update_ema(teacher, student, step)
    eta = min(1 - 1 / (step + 1), 0.999)
    for old, new, mine in zip(before, teacher.parameters(), student.parameters(), strict=True):
        assert_close(new.detach(), eta * old + (1 - eta) * mine.detach(), rtol=1e-12, atol=1e-15)
        assert new.grad_fn is None  # no graph is kept
    assert all(torch.equal(value, buffers[name]) for name, value in teacher.named_buffers())


def probabilities(logits) -> list:
    """Softmax over classes, pixel by pixel: [b][row][column] -> list of K."""
    b, classes, height, width = logits.shape

    def pixel(i, r, c):
        powers = [math.exp(float(logits[i, k, r, c])) for k in range(classes)]
        return [power / sum(powers) for power in powers]

    return [[[pixel(i, r, c) for c in range(width)] for r in range(height)] for i in range(b)]


@pytest.mark.parametrize("share_of", ["batch", "picture"])
@pytest.mark.parametrize(("top", "bottom"), [(0, 0), (1, 2), (0, 1), (3, 0), (9, 0), (0, 9)])
def test_pseudo_labels_by_loop(share_of, top, bottom):
    logits = torch.randn(2, 4, 5, 3, dtype=DOUBLE) * 2
    settings = TeacherSettings(threshold=0.7, share_of=share_of, ignore_top=top, ignore_bottom=bottom)
    made, probs = pseudo_labels(logits, settings), probabilities(logits)
    sure = [sum(max(p) >= 0.7 for row in picture for p in row) for picture in probs]
    shares = [count / 15 for count in sure] if share_of == "picture" else [sum(sure) / 30] * 2
    assert 0 < sum(sure) < 30 and sure[0] != sure[1]
    assert_close(made.share, torch.tensor(shares, dtype=DOUBLE))
    for i in range(2):
        for r in range(5):
            for c in range(3):
                p = probs[i][r][c]
                assert made.labels[i, r, c] == p.index(max(p))
                assert_close(float(made.confidence[i, r, c]), max(p))
                weight = 0.0 if r < top or r >= 5 - bottom else shares[i]
                assert_close(float(made.weights[i, r, c]), weight)


def test_columns_of_either_side_are_left_out_where_wanted():
    logits = 9 * torch.nn.functional.one_hot(torch.zeros(1, 2, 5, dtype=torch.long), 3).permute(0, 3, 1, 2).double()
    for sides, row in ((0, [1, 1, 1, 1, 1]), (1, [0, 1, 1, 1, 0]), (2, [0, 0, 1, 0, 0]), (9, [0] * 5)):
        settings = TeacherSettings(threshold=0.9, ignore_top=0, ignore_bottom=0, ignore_sides=sides)
        assert pseudo_labels(logits, settings).weights.tolist() == [[row, row]]


def test_the_threshold_itself_is_sure():
    logits = torch.zeros(1, 2, 1, 1)  # p = 0.5 exactly
    assert pseudo_labels(logits, TeacherSettings(threshold=0.5, ignore_top=0, ignore_bottom=0)).share == 1
    assert pseudo_labels(logits, ALL_ROWS).share == 0


def test_labels_carry_no_gradient_and_half_precision_is_widened():
    logits = (torch.randn(1, 3, 2, 2) * 3).half().requires_grad_(True)
    made = pseudo_labels(logits, ALL_ROWS)
    assert not made.confidence.requires_grad and not made.weights.requires_grad
    assert made.confidence.dtype == torch.float32
    assert torch.equal(made.labels, logits.argmax(1))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_by_loop(reduction, weighted):
    """Eq. (S1); with weights of 1, Eq. (1)."""
    logits, labels = torch.randn(2, 4, 2, 3, dtype=DOUBLE), torch.randint(4, (2, 2, 3))
    labels[0, 0, 1] = 255
    weights = torch.rand(2, 2, 3, dtype=DOUBLE) if weighted else torch.ones(2, 2, 3, dtype=DOUBLE)
    probs, total = probabilities(logits), 0.0
    for i in range(2):
        for r in range(2):
            for c in range(3):
                if labels[i, r, c] != 255:
                    total -= float(weights[i, r, c]) * math.log(probs[i][r][c][int(labels[i, r, c])])
    expected = total / 12 if reduction == "mean" else total
    assert_close(float(weighted_cross_entropy(logits, labels, weights, reduction)), expected)
    free = logits.clone().requires_grad_(True)
    weighted_cross_entropy(free, labels.to(torch.uint8), weights, reduction).backward()
    assert free.grad is not None
    for place in ((0, 1, 0, 0), (1, 3, 1, 2), (0, 2, 0, 1)):
        sides = []
        for sign in (1, -1):
            moved = logits.clone()
            moved[place] += sign * 1e-6
            sides.append(float(weighted_cross_entropy(moved, labels, weights, reduction)))
        assert_close(float(free.grad[place]), (sides[0] - sides[1]) / 2e-6, rtol=0, atol=1e-8)  # rounding / step
    assert (free.grad[0, :, 0, 1] == 0).all()  # ignored


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_all_ignored_gives_zero(reduction):
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((1, 2, 2), 255), torch.ones(1, 2, 2), reduction)
    loss.backward()
    assert loss == 0 and logits.grad is not None and (logits.grad == 0).all()


def test_settings_are_checked():
    for wrong in ({"decay": 1.1}, {"threshold": -0.1}, {"ignore_top": -1}):
        with pytest.raises(ValueError, match="expected decay and threshold"):
            dataclasses.replace(TeacherSettings(), **wrong)
