"""The estimate of IoU without masks: the truth lies in its interval as often as it says."""

import math

import torch
from torch.testing import assert_close

from saot.certify import between, estimate_quality


def _world(generator, classes=8):
    """Shares of the classes, and how often each is taken for which."""
    shares = torch.rand(classes, generator=generator, dtype=torch.float64).square() + 0.01
    right = 0.5 + 0.5 * torch.rand(classes, 1, generator=generator, dtype=torch.float64)
    other = torch.rand(classes, classes, generator=generator, dtype=torch.float64).fill_diagonal_(0)
    rates = (1 - right) * other / other.sum(1, keepdim=True)
    return shares / shares.sum(), rates + torch.diag(right.squeeze(1))


def _iou(pixels):
    hits = pixels.diagonal()
    return hits / (pixels.sum(0) + pixels.sum(1) - hits)


def _points(generator, rates, count, pictures):
    counts = torch.zeros(pictures, *rates.shape, dtype=torch.int64)
    for c, row in enumerate(rates):
        said = torch.multinomial(row, count, True, generator=generator)
        where = torch.randint(0, pictures, (count,), generator=generator)
        for picture, k in zip(where.tolist(), said.tolist(), strict=True):
            counts[picture, c, k] += 1
    return counts


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    for count, widest in ((5, 0.45), (40, 0.3)):
        inside, widths = 0, []
        for seed in range(60):
            shares, rates = _world(generator)
            pixels = shares[:, None] * rates
            found = estimate_quality(_points(generator, rates, count, 20), 1e6 * pixels.sum(0), seed=seed)
            inside += found.low <= float(_iou(pixels).mean()) <= found.high
            widths.append(found.high - found.low)
        assert inside >= 48, count  # 80 % of 60; 90 % are meant
        assert sum(widths) / len(widths) < widest


def test_with_many_points_only_the_shares_are_uncertain():
    shares, rates = _world(torch.Generator().manual_seed(3), 5)
    pixels = shares[:, None] * rates
    counts = (1e5 * rates).round().long()[None].expand(10, -1, -1)
    found = estimate_quality(counts, pixels.sum(0))
    truth = _iou(pixels)
    assert bool(((found.iou_low - 1e-3 <= truth) & (truth <= found.iou_high + 1e-3)).all())
    assert found.low - 1e-3 <= float(truth.mean()) <= found.high + 1e-3
    assert_close(found.low, float(truth.mean()), rtol=1e-2, atol=0)  # the likeliest shares are the true ones here
    assert found.pictures == 10 and found.points == int(counts.sum())


def test_points_of_one_picture_count_as_one_witness():
    """Twenty pictures of ten points that say the same, and two hundred of one: the same rates, another certainty."""
    kinds = torch.eye(4, dtype=torch.int64).view(4, 2, 2)
    apart = torch.cat([kinds[k].expand(10 * n, 2, 2) for k, n in enumerate((9, 1, 1, 9))])
    together = torch.cat([10 * kinds[k].expand(n, 2, 2) for k, n in enumerate((9, 1, 1, 9))])
    predicted = torch.tensor([50.0, 50.0])
    few, many = estimate_quality(together, predicted), estimate_quality(apart, predicted)
    assert_close(few.miou, many.miou, rtol=1e-9, atol=0)
    assert few.high - few.low > 2 * (many.high - many.low)


def test_classes_without_points_are_left_out_and_no_points_give_nothing():
    counts = torch.tensor([[[9, 1, 0], [0, 0, 0], [1, 0, 9]]])
    found = estimate_quality(counts, torch.tensor([40.0, 20.0, 40.0]))
    assert math.isnan(float(found.iou[1])) and math.isnan(float(found.iou_low[1]))
    assert_close(found.miou, float(found.iou[[0, 2]].mean()))
    assert estimate_quality(torch.zeros(2, 3, 3, dtype=torch.int64), torch.ones(3)) is None


def test_the_rule_between_two_errors_by_hand():
    cross, own = torch.tensor([[[3, 1], [2, 2]], [[4, 0], [0, 4]]]), torch.tensor([[[4, 0], [1, 3]], [[4, 0], [0, 4]]])
    error, own_error, guess = 3 / 16, 1 / 16, 1 - (8 / 16 * 9 / 16 + 8 / 16 * 7 / 16)
    weight = 0.632 / (1 - 0.368 * (error - own_error) / (guess - own_error))
    assert_close(between(cross, own), (weight * cross + (1 - weight) * own).double())
    assert_close(between(own, own), own.double())
    hopeless = torch.tensor([[[0, 8], [8, 0]]])
    assert_close(between(hopeless, own.sum(0)[None]), hopeless.double())  # worse than a guess: the cross-fit alone
