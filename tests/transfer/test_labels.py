import math

import pytest
import torch
from torch.testing import assert_close

from saot.transfer import (
    LabelTransfer,
    aggregate_transfers,
    diversity_loss,
    entropy_loss,
    fill_uncovered,
    point_loss,
    sharpen,
    transfer_labels,
)
from saot.transport import SparseCost, Support, solve_transport


def test_identity_transfer_gives_each_target_its_own_source_label():
    cost = 5.0 * (1 - torch.eye(4, dtype=torch.float64))
    result = solve_transport(cost, epsilon=0.05, tau=1.0, max_iter=500, tol=1e-10)
    labels = torch.tensor([2, 0, 1, 2])
    transfer = transfer_labels(result, labels, 3)
    assert transfer.probs.argmax(-1).tolist() == labels.tolist()
    assert_close(transfer.probs.sum(-1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_equation_2_against_the_written_out_sum():
    generator = torch.Generator().manual_seed(3)
    result = solve_transport(torch.rand(5, 4, generator=generator, dtype=torch.float64), tol=1e-10)
    labels = torch.tensor([0, 1, 1, 2, 0])
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for j in range(4):
        for i in range(5):
            expected[j, labels[i]] += result.plan[i, j] / result.plan[:, j].sum()
    assert_close(transfer_labels(result, labels, 3).probs, expected, rtol=1e-12, atol=0)


def test_uncovered_target_gets_zero_not_nan():
    support = Support.from_pairs(torch.tensor([0, 1]), torch.tensor([0, 0]), (2, 2))
    result = solve_transport(SparseCost(torch.tensor([0.1, 0.2]), support))
    transfer = transfer_labels(result, torch.tensor([0, 1]), 2)
    assert transfer.covered.tolist() == [True, False]
    assert transfer.probs[1].tolist() == [0.0, 0.0]
    assert bool(torch.isfinite(transfer.probs).all())


def test_ignored_sources_carry_mass_but_no_label():
    result = solve_transport(torch.zeros(2, 1, dtype=torch.float64), tol=1e-10)
    transfer = transfer_labels(result, torch.tensor([255, 1]), 2)
    assert transfer.probs.tolist() == [[0.0, 1.0]]
    nothing = transfer_labels(result, torch.tensor([255, 255]), 2)
    assert nothing.covered.tolist() == [False]


def test_wrong_labels_are_named():
    result = solve_transport(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="one label for each source token"):
        transfer_labels(result, torch.tensor([0]), 2)
    with pytest.raises(ValueError, match=r"0\.\.1 or 255; got 7"):
        transfer_labels(result, torch.tensor([0, 7]), 2)


def test_labels_do_not_depend_on_the_reference_with_uniform_weights():
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(6, 7, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    both = [
        transfer_labels(solve_transport(cost, reference=r, max_iter=500, tol=1e-12), labels, 3).probs
        for r in ("product", "counting")
    ]
    assert_close(both[0], both[1], rtol=1e-9, atol=0)


def test_batches_transfer_as_single_problems_do():
    generator = torch.Generator().manual_seed(1)
    cost = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 1], [1, 0, 255]])
    together = transfer_labels(solve_transport(cost, max_iter=200, tol=1e-12), labels, 2).probs
    for number in range(2):
        alone = transfer_labels(solve_transport(cost[number], max_iter=200, tol=1e-12), labels[number], 2)
        assert_close(together[number], alone.probs, rtol=1e-9, atol=0)


def test_aggregation_leaves_out_sources_that_do_not_cover():
    a = LabelTransfer(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([True, False]))
    b = LabelTransfer(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([True, True]))
    joined = aggregate_transfers([a, b], torch.tensor([0.75, 0.25]))
    assert_close(joined.probs, torch.tensor([[0.75, 0.25], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="one weight for each transfer"):
        aggregate_transfers([a], torch.tensor([0.5, 0.5]))


def test_fill_uncovered_takes_the_nearest_labelled_source():
    transfer = LabelTransfer(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([True, False]))
    source, labels = torch.eye(2), torch.tensor([0, 255], dtype=torch.uint8)
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # the second is nearest to an ignored token
    filled = fill_uncovered(transfer, source, labels, target)
    assert filled.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert fill_uncovered(transfer, source, labels, target, "uniform")[1].tolist() == [0.5, 0.5]


def test_losses_against_hand_counts():
    transfer = LabelTransfer(torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([True, True, False]))
    assert_close(entropy_loss(transfer), torch.tensor(math.log(2) / 2))
    mean = torch.tensor([0.75, 0.25])
    assert_close(diversity_loss(transfer), math.log(2) + (mean * mean.log()).sum())


def test_losses_of_one_covered_token_are_its_own():
    transfer = LabelTransfer(torch.tensor([[0.75, 0.25], [0.0, 0.0]]), torch.tensor([True, False]))
    own = -(transfer.probs[0] * transfer.probs[0].log()).sum()
    assert_close(entropy_loss(transfer), own)
    assert_close(diversity_loss(transfer), math.log(2) - own)
    uncovered = LabelTransfer(transfer.probs[1:], transfer.covered[1:])
    assert entropy_loss(uncovered) == 0 and diversity_loss(uncovered) == 0


def test_unreachable_points_are_dropped_and_counted():
    probs = torch.tensor([[0.5, 0.5, 0.0]], requires_grad=True)
    tokens, classes = torch.tensor([0, 0]), torch.tensor([1, 2])
    loss, reached = point_loss(probs, tokens, classes)
    assert reached == 1
    assert_close(loss, torch.tensor(math.log(2)))
    loss.backward()
    assert probs.grad is not None and bool(torch.isfinite(probs.grad).all())
    clamped, counted = point_loss(probs.detach(), tokens, classes, absent="clamp")
    assert counted == 2 and float(clamped) > 40  # -log of the smallest normal number is 87, halved by the mean
    total, _ = point_loss(probs.detach(), tokens[:1].repeat(2), classes[:1].repeat(2), reduction="sum")
    assert_close(total, torch.tensor(2 * math.log(2)))
    mean, _ = point_loss(torch.tensor([[0.5, 0.5], [0.75, 0.25]]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert_close(mean, torch.tensor(math.log(8) / 2))  # of log 2 and log 4
    nothing, none = point_loss(probs, tokens[1:], classes[1:])
    assert none == 0 and float(nothing) == 0.0


def test_sharpen_keeps_zeros_and_ties():
    sharp = sharpen(torch.tensor([[0.5, 0.5, 0.0], [0.8, 0.2, 0.0]]), 0.5)
    assert_close(sharp, torch.tensor([[0.5, 0.5, 0.0], [16 / 17, 1 / 17, 0.0]]))
