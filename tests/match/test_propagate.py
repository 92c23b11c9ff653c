"""Labels along a sequence: which frames are asked, what a token takes, and that what moves takes its label along."""

import pytest
import torch
from helpers.matching import random_side
from torch.testing import assert_close

from saot.match.matching import MatchSettings, match_sides
from saot.match.propagate import PropagationSettings, propagate_labels
from saot.match.sides import MatchSide

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
