import pytest
import torch
from helpers.runs import TINY, evaluate_run, opened, run_job, tiny_settings
from torch.testing import assert_close

from saot.label.scoring import UNADJUSTED, Adjustment, _Judged, adjustment_trials, decided
from saot.recipes import with_words

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


@pytest.mark.training
def test_every_network_answers_for_expected_iou_where_asked(tmp_path):
    settings = tiny_settings(recipe=with_words(TINY, ["scores.decision=expected_iou"]))
    outcome = run_job(settings, tmp_path / "run", compare="all")
    said = outcome.run["adjustment"]
    names = outcome.metrics["classes"]
    for method in ("saot_decoder", "mlp", "mlp_points", "linear_probe", "linear_probe_points"):
        assert set(said[method]["expected_iou"]) == set(names), method
    moved = torch.tensor([said["saot_decoder"]["expected_iou"][name] for name in names])
    assert float(moved.abs().max()) > 0.05 and len(outcome.run["decoder_bias"]) == len(names)
    assert "expected_iou" not in said.get("saot", {}), "shares of a plan are no posterior"
    again = evaluate_run(tmp_path / "run", settings.eval)
    assert again["methods"]["saot_decoder"] == outcome.metrics["methods"]["saot_decoder"]
    likeliest = run_job(tiny_settings(), tmp_path / "likeliest", compare="none")
    assert all("expected_iou" not in one for one in likeliest.run["adjustment"].values())


@pytest.mark.training
def test_a_decision_is_added_to_the_adjustment_and_needs_no_point(tmp_path):
    with opened(tiny_settings(recipe=with_words(TINY, ["scores.decision=expected_iou"])), tmp_path) as contest:
        bench, data = contest.bench, contest.data
        network = contest.decoder().decoder
        plain, strong = UNADJUSTED, Adjustment(torch.full((data.num_classes,), 0.5), {"chosen": 1.0})
        alone, beside = (decided(bench, data, network, one) for one in (plain, strong))
        assert alone.bias is not None and beside.bias is not None
        assert_close(beside.bias, alone.bias + 0.5)  # equal for all classes, so the same answers
        assert beside.facts["chosen"] == 1.0 and beside.facts["expected_iou"] == alone.facts["expected_iou"]
        logits = torch.cat([data.target.logits(network, n) for n in range(len(data.target))]).log_softmax(-1)

        def expected(bias):
            probs, said = logits.exp(), (logits + bias).argmax(-1)
            hits = torch.zeros(data.num_classes).index_add_(0, said, probs.gather(1, said[:, None]).squeeze(1))
            return (hits / (torch.bincount(said, minlength=data.num_classes) + probs.sum(0) - hits).clamp_min(1)).mean()

        assert expected(alone.bias) > expected(torch.zeros(data.num_classes))
