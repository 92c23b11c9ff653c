"""Labels along a sequence: which frames are asked, what a token takes, and that what moves takes its label along."""

import pytest
import torch
from helpers.matching import random_side
from torch.testing import assert_close

from saot.match.matching import MatchSettings, match_sides
from saot.match.propagate import PropagationSettings, StepSettings, predict_labels, propagate_labels
from saot.match.sides import MatchSide
from saot.transport import solve_transport

NEAREST = MatchSettings("nn")


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
        assert float(one.confidence.max()) <= 1 + 1e-5  # a mean over the frames asked


def test_a_token_without_label_gives_none():
    side = random_side((2, 2))
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]])
    *_, last = propagate_labels([side, side], labels, PropagationSettings(MatchSettings("nn"), memory=0))
    assert last.probs.argmax(-1)[:2].tolist() == [0, 1]
    assert bool((last.probs.sum(-1) == 1).all())  # the two others take that of the labelled token most like them


def test_labels_go_where_their_tokens_go():
    first = random_side((4, 5))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    labels = torch.nn.functional.one_hot(torch.arange(20) % 3).float()
    moved = MatchSide(first.tokens[order], first.shape, first.mask)
    again = MatchSide(first.tokens[order][order], first.shape, first.mask)
    carried = list(propagate_labels([first, moved, again], labels, PropagationSettings(NEAREST)))
    assert_close(carried[1].probs, labels[order])
    assert_close(carried[2].probs, labels[order][order])
    assert carried[0].probs is labels and bool((carried[0].confidence == 1).all())


def test_the_memory_says_which_frames_are_asked(monkeypatch):
    """Frames 0 .. 4; the new one is the source of every match."""
    frames = [random_side((2, 2), seed) for seed in range(5)]
    asked = []

    def told(source, target, settings):
        asked.append(tuple(next(n for n, f in enumerate(frames) if f.tokens is s.tokens) for s in (source, target)))
        return match_sides(source, target, settings)

    monkeypatch.setattr("saot.match.propagate.match_sides", told)
    for first, memory, wanted in (
        (True, 0, [(1, 0), (2, 0), (3, 0), (4, 0)]),
        (True, 1, [(1, 0), (2, 0), (2, 1), (3, 0), (3, 2), (4, 0), (4, 3)]),
        (False, 1, [(1, 0), (2, 1), (3, 2), (4, 3)]),
        (True, 2, [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0), (4, 2), (4, 3)]),
        (False, 2, [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (4, 2), (4, 3)]),
    ):
        asked.clear()
        list(propagate_labels(frames, torch.eye(4), PropagationSettings(NEAREST, first=first, memory=memory)))
        assert asked == wanted, (first, memory)


def test_the_mean_is_that_of_the_plans_row():
    first, second = random_side((3, 3), 1), random_side((3, 3), 2)
    labels, match = torch.nn.functional.one_hot(torch.arange(9) % 4).float(), MatchSettings("uot")
    plan = match_sides(second, first, match).scores
    *_, mean = propagate_labels([first, second], labels, PropagationSettings(match, "mean", memory=0))
    assert_close(mean.probs, plan @ labels / plan.sum(1, keepdim=True))
    *_, best = propagate_labels([first, second], labels, PropagationSettings(match, "best", memory=0))
    assert_close(best.probs, labels[plan.argmax(1)])
    assert_close(best.confidence, match_sides(second, first, match).confidence)


def test_a_masked_token_gives_and_takes_no_label():
    mask = torch.tensor([True, True, False, True])
    frame, labels = random_side((2, 2), mask=mask), torch.eye(4)
    carried = list(propagate_labels([frame, frame], labels, PropagationSettings(NEAREST, memory=0)))
    assert_close(carried[1].probs, torch.where(mask[:, None], labels, 0.0))
    assert float(carried[1].confidence[2]) == 0


def test_wrong_sequence_input():
    with pytest.raises(ValueError, match="first frame's 4 tokens"):
        list(propagate_labels([random_side((2, 2))], torch.ones(3, 2)))
    with pytest.raises(ValueError, match="a frame to match with"):
        PropagationSettings(first=False, memory=0)


def test_consistency_is_a_cost_on_other_labels_than_the_plan_before_predicts():
    """C' = C - gamma <q, y>, with q from the plan between the last two frames."""
    frames = [random_side((3, 3), seed) for seed in range(3)]
    labels = torch.nn.functional.one_hot(torch.arange(9) % 4).float()
    match = MatchSettings("uot")
    settings = PropagationSettings(match, "mean", memory=0, consistency=0.3)
    _, one, two = propagate_labels(frames, labels, settings)
    for frame, before, known, got in ((frames[1], frames[0], labels, one), (frames[2], frames[1], one.probs, two)):
        predicted = predict_labels(frame, before, known)
        cost = 1 - frame.tokens @ frames[0].tokens.T + 0.3 * (1 - predicted @ labels.T)
        plan = solve_transport(cost, epsilon=0.1, tau=0.3, max_iter=500, tol=1e-6).plan
        want = plan @ labels / plan.sum(1, keepdim=True)
        assert_close(got.probs, want, atol=1e-3, rtol=1e-3)  # two solves; a constant moves mass, and no label
    off = list(propagate_labels(frames, labels, PropagationSettings(match, "mean", memory=0)))
    assert (off[2].probs - two.probs).abs().max() > 0.01


@pytest.mark.parametrize("method", ["nn", "mutual-nn", "uot", "gwot"])
def test_with_enough_consistency_every_label_is_the_predicted_one(method):
    """Features say that all moved on by one token; a plan between frames that is local says that nothing moved."""
    first = random_side((4, 4), 1)
    labels = torch.nn.functional.one_hot(torch.arange(16) % 3).float()
    moved = MatchSide(first.tokens.roll(1, 0), first.shape, first.mask)
    for consistency, wanted in ((0.0, labels.roll(1, 0)), (20.0, labels)):
        between = StepSettings(0.01, 5.0)
        settings = PropagationSettings(MatchSettings(method), memory=0, consistency=consistency, between=between)
        *_, last = propagate_labels([first, moved], labels, settings)
        assert last.probs.argmax(-1).tolist() == wanted.argmax(-1).tolist()


def test_a_flip_of_features_alone_changes_no_label():
    """One damaged token looks a little more like another class; the frame before knows better."""
    first = MatchSide.of(torch.eye(4), (1, 4))
    labels = torch.eye(4)
    tokens = torch.eye(4)
    tokens[2] = torch.tensor([0.75, 0.0, 0.7, 0.0])
    damaged = MatchSide.of(tokens, (1, 4))
    for consistency, wanted in ((0.0, [0, 1, 0, 3]), (0.2, [0, 1, 2, 3])):
        settings = PropagationSettings(NEAREST, memory=0, consistency=consistency)
        *_, last = propagate_labels([first, damaged], labels, settings)
        assert last.probs.argmax(-1).tolist() == wanted


def test_the_plan_between_frames_is_local_and_leaves_out_what_has_no_label():
    tokens = torch.ones(6, 2)
    frame = MatchSide.of(tokens, (2, 3))
    labels = torch.eye(6)
    near = predict_labels(frame, frame, labels, StepSettings(0.1, 0.1))
    assert_close(near[0, 1] / near[0, 0], torch.tensor(-1.0).exp())  # one token away: locality / epsilon
    assert_close(near[0, 5] / near[0, 0], torch.tensor(-5.0).exp())
    assert_close(near.sum(-1), torch.ones(6))
    labels[0] = 0
    assert float(predict_labels(frame, frame, labels)[:, 0].abs().max()) == 0
    assert float(predict_labels(frame, frame, torch.zeros(6, 2)).abs().max()) == 0
    wide = MatchSide.of(torch.ones(24, 2), (4, 6))  # the same picture on a grid twice as fine
    assert predict_labels(wide, frame, torch.eye(6), StepSettings(0.1, 0.5)).argmax(-1).tolist() == [
        *[0, 0, 1, 1, 2, 2] * 2,
        *[3, 3, 4, 4, 5, 5] * 2,
    ]


def test_wrong_consistency():
    with pytest.raises(ValueError, match="finite consistency"):
        PropagationSettings(consistency=-1.0)
    with pytest.raises(ValueError, match="epsilon above 0"):
        StepSettings(0.0)
    side = random_side((2, 2))
    with pytest.raises(ValueError, match="takes no agreement"):
        match_sides(side, side, MatchSettings("shape-of-you"), agreement=torch.zeros(4, 4))
