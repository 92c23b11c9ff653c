from types import SimpleNamespace

import torch

from saot.pipeline import choice
from saot.pipeline.choice import _Judged, chosen_adjustment


def chosen(monkeypatch, predicted, behind) -> float:
    """The strength chosen where class 0 is frequent in the source and half of class 1 is taken for it."""
    logits = torch.tensor([[2.0, 0.0]] * 18 + [[-0.5, 0.0]] * 2 + [[0.5, 0.0]] * 10 + [[-2.0, 0.0]] * 10)
    judged = _Judged(logits, torch.tensor([0] * 20 + [1] * 20), torch.tensor(predicted), torch.tensor(behind))
    facts = {}
    monkeypatch.setattr(choice, "_judged", lambda job, decoder: judged)
    monkeypatch.setattr(choice, "merge_facts", lambda space, name, values: facts.update(values))
    job = SimpleNamespace(source_labels=[torch.tensor([0] * 9 + [1], dtype=torch.uint8)], num_classes=2, space=None)
    bias = chosen_adjustment(job, lambda tokens: tokens, "net", (0.0, -0.5, 0.5))  # type: ignore[arg-type]
    assert (bias is None) == (facts["net"]["chosen"] == 0.0)
    return facts["net"]["chosen"]


def test_an_adjustment_that_gains_under_both_estimates_is_taken(monkeypatch):
    assert chosen(monkeypatch, [50.0, 50.0], [40.0, 60.0]) == 0.5


def test_one_that_gains_under_one_estimate_alone_is_not(monkeypatch):
    assert chosen(monkeypatch, [1000.0, 1.0], [50.0, 50.0]) == 0.0
    assert chosen(monkeypatch, [50.0, 50.0], [1000.0, 1.0]) == 0.0
