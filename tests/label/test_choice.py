import torch

from saot.label.scoring import _Judged, adjustment_trials

FREQUENCIES = torch.tensor([0.9, 0.1], dtype=torch.float64)


def gain(predicted, behind) -> float:
    """Of strength 0.5, which raises class 1, where ten of its twenty points and two of class 0 lie near the border."""
    logits = [[2.0, 0.0]] * 18 + [[0.5, 0.0]] * 2 + [[0.5, 0.0]] * 10 + [[-2.0, 0.0]] * 10
    classes = torch.tensor([0] * 20 + [1] * 20)
    judged = _Judged(torch.tensor(logits), classes, torch.tensor(predicted), torch.tensor(behind))
    none, raised = adjustment_trials(judged, FREQUENCIES, (0.0, 0.5))
    assert none["gain"] == 0.0
    return raised["gain"]


def test_a_strength_counts_by_its_lesser_gain():
    even, lopsided = [50.0, 50.0], [1000.0, 1.0]
    assert gain(even, even) > 0
    assert gain(lopsided, lopsided) < 0, "where class 1 hardly occurs, the two points of class 0 weigh more"
    assert gain(even, lopsided) == gain(lopsided, even) == gain(lopsided, lopsided)
