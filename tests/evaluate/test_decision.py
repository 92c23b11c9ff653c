import pytest
import torch
from torch.testing import assert_close

from saot.evaluate import ConfusionMatrix, expected_iou_bias
from saot.evaluate.decision import LEAST, REACH, STEP


def posteriors(pixels=4_000, classes=5, seed=0, spread=1.5):
    """Rare classes at the end, none of them ever sure."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(pixels, classes, generator=generator) - 1.2 * torch.arange(classes)
    return logits.log_softmax(-1)


def expected_miou(logs, bias):
    """Pixel by pixel, as the definition reads."""
    probs, said = logs.double().exp(), (logs.double() + bias.double()).argmax(-1)
    ious = []
    for label in range(logs.shape[1]):
        chosen = said == label
        hits = float(probs[chosen, label].sum())
        ious.append(hits / max(int(chosen.sum()) + float(probs[:, label].sum()) - hits, 1e-12))
    return sum(ious) / len(ious)


@pytest.mark.parametrize("seed", range(3))
def test_no_class_can_be_moved_to_more(seed):
    logs = posteriors(600, 4, seed)
    bias = expected_iou_bias(logs)
    best = expected_miou(logs, bias)
    assert best > expected_miou(logs, torch.zeros(4)) + 0.01
    for label in range(4):
        for step in range(-20, 21):
            moved = bias.clone()
            moved[label] += step * STEP + 1e-4  # off the edge at which a pixel changes sides
            assert expected_miou(logs, moved) < best + 0.003


def test_answers_drawn_from_the_posterior_are_scored_better():
    logs = posteriors(40_000, 6)
    truth = torch.multinomial(logs.exp(), 1, generator=torch.Generator().manual_seed(1)).squeeze(1)

    def miou(bias):
        matrix = ConfusionMatrix(6)
        matrix.update((logs + bias).argmax(-1), truth)
        return matrix.mean_iou()

    assert miou(expected_iou_bias(logs)) > miou(torch.zeros(6)) + 0.02


def test_where_all_is_sure_nothing_is_moved():
    logs = torch.full((30, 3), -50.0)
    logs[torch.arange(30), torch.arange(30) % 3] = 0.0
    assert_close(expected_iou_bias(logs), torch.zeros(3))


def test_an_offset_of_a_pixel_changes_nothing_and_the_bias_has_mean_zero_and_bounds():
    logs = posteriors()
    bias = expected_iou_bias(logs)
    assert_close(expected_iou_bias(logs + torch.randn(len(logs), 1)), bias)
    assert abs(float(bias.mean())) < 1e-6 and float(bias.max() - bias.min()) <= 2 * REACH + 1e-6


def test_a_class_that_does_not_occur_is_left_alone():
    logs = torch.cat([posteriors(), torch.full((4_000, 1), -30.0)], dim=1)
    without = expected_iou_bias(posteriors())
    bias = expected_iou_bias(logs)
    assert_close(bias[:-1] - bias[0], without - without[0])
    assert not bool(((logs + bias).argmax(-1) == 5).any())


@pytest.mark.parametrize("shape", [(0, 3), (5, 1)])
def test_nothing_to_decide(shape):
    assert_close(expected_iou_bias(torch.zeros(shape)), torch.zeros(shape[1]))
    assert LEAST > 0
