import math

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from saot.certify import Calibration, ScoreHistogram, class_shares, fit_logistic, fit_temperature, log_odds
from saot.certify.calibration import SCORE_BINS, SCORE_LIMIT
from saot.data.patches import PatchGrid
from saot.evaluate import scores_at, upsample_scores


def labelled(number=20_000, classes=4, temperature=1.0, seed=0):
    """Logits, and labels drawn from softmax(logits / temperature): calibrated at that temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(number, classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator).squeeze(1)
    return logits, labels


def measured(logits, labels, parts=1, bins=15):
    calibration = Calibration(logits.shape[1], bins)
    for some, classes in zip(logits.chunk(parts), labels.chunk(parts), strict=True):
        calibration.update(some.softmax(-1), classes)
    return calibration.scores()


def test_numbers_by_hand():
    calibration = Calibration(2, bins=2)
    calibration.update(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [1.0, 0.0]]), torch.tensor([0, 1, 1, 1]))
    found = calibration.scores()
    assert (found.pixels, found.accuracy, found.impossible) == (4, 0.5, 0.25)
    assert found.confidence == pytest.approx(0.85)
    assert found.equal_width.error() == pytest.approx(0.35)  # all four lie in (1/2, 1]
    assert found.nll == pytest.approx(-(math.log(0.9) + math.log(0.2) + math.log(0.7)) / 3)
    assert found.brier == pytest.approx((0.02 + 1.28 + 0.18 + 2.0) / 4)
    # class 0: bins [0, 1/2) {0.3} and [1/2, 1] {0.9, 0.8, 1.0}: |0 - 0.3| + |1 - 2.7| over 4, likewise class 1
    assert found.classwise_ece == pytest.approx(0.5)


def test_agrees_with_scikit_learn_and_a_direct_count():
    logits, labels = labelled()
    probs = logits.softmax(-1)
    found = measured(logits, labels)
    assert found.nll == pytest.approx(log_loss(labels, probs), rel=1e-6)
    brier = sum(brier_score_loss((labels == c).long(), probs[:, c]) for c in range(4))
    assert found.brier == pytest.approx(brier, rel=1e-6)
    confidence, right = probs.amax(-1), probs.argmax(-1) == labels
    direct = 0.0
    for k in range(15):
        inside = (confidence >= k / 15) & (confidence < (k + 1) / 15)
        if bool(inside.any()):
            gap = right[inside].double().mean() - confidence[inside].mean()
            direct += float(inside.double().mean() * gap.abs())
    assert found.equal_width.error() == pytest.approx(direct, rel=1e-9)
    assert found.risk_coverage.auroc == pytest.approx(roc_auc_score(right, confidence), abs=1e-4)  # ties in a bin


def test_streaming_changes_nothing():
    logits, labels = labelled(3000)
    whole, parts = measured(logits, labels), measured(logits, labels, parts=7)
    assert whole.risk_coverage.aurc == parts.risk_coverage.aurc
    for name in ("nll", "brier", "classwise_ece", "confidence"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), rel=1e-12)


def test_a_calibrated_network_has_no_error_and_an_overconfident_one_has():
    logits, labels = labelled(60_000)
    calibrated, sure = measured(logits, labels), measured(3 * logits, labels)
    assert calibrated.equal_width.error() < 0.01 and calibrated.equal_mass.error() < 0.01  # noise: ~ sqrt(15 / n)
    assert sure.equal_width.error() > 0.1 and sure.confidence - sure.accuracy > 0.1
    assert sure.accuracy == calibrated.accuracy


def test_equal_mass_bins_have_about_equal_mass():
    logits, labels = labelled(30_000)
    shares = measured(logits, labels, bins=10).equal_mass.share
    assert shares.tolist() == pytest.approx([0.1] * 10, abs=0.01)


def test_temperature_is_found_again():
    for temperature in (0.4, 1.0, 2.5):
        logits, labels = labelled(40_000, temperature=temperature)
        assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_temperature_lowers_the_loss_and_never_the_choice():
    logits, labels = labelled(5000, temperature=3.0)
    found = fit_temperature(logits, labels)
    best = measured(logits / found, labels)
    assert best.nll < measured(logits, labels).nll
    for other in (0.97, 1.03):
        assert best.nll < measured(logits / (other * found), labels).nll
    assert best.accuracy == measured(logits, labels).accuracy


def test_temperature_obeys_weights_and_passes_over_forbidden_classes():
    first, second = labelled(20_000, temperature=0.5), labelled(20_000, temperature=2.0, seed=1)
    logits, labels = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    weights = torch.cat([torch.ones(20_000), torch.zeros(20_000)])
    assert fit_temperature(logits, labels, weights) == pytest.approx(0.5, rel=0.03)
    forbidden = first[0].clone()
    forbidden[:100, :] = -torch.inf
    forbidden[range(100), (first[1][:100] + 1) % 4] = 0.0
    assert fit_temperature(forbidden, first[1]) == pytest.approx(0.5, rel=0.03)
    with pytest.raises(ValueError, match="hold out more"):
        fit_temperature(torch.full((2, 3), -torch.inf), torch.tensor([0, 1]))


def brute_aurc(scores, wrong):
    order = scores.argsort(descending=True)
    risks = wrong[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
    return float(risks.mean())


def test_risk_coverage_is_that_of_sorting():
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(30_000, generator=generator)
    wrong = torch.rand(30_000, generator=generator) > torch.sigmoid(scores)
    histogram = ScoreHistogram()
    for part in range(0, 30_000, 7000):
        histogram.update(scores[part : part + 7000], wrong[part : part + 7000])
    curve = histogram.risk_coverage()
    assert curve.aurc == pytest.approx(brute_aurc(scores, wrong), abs=2e-4)  # one bin holds 4e-4 of the pixels
    assert curve.risk[-1] == pytest.approx(float(wrong.double().mean()))
    assert curve.best_aurc == pytest.approx(brute_aurc(-wrong.double(), wrong), abs=1e-4)
    assert curve.best_aurc < curve.aurc < curve.risk[-1]
    at = curve.coverage_at(0.05)
    assert brute_risk(scores, wrong, at) <= 0.0501 < brute_risk(scores, wrong, min(1.0, at + 0.02))


def brute_risk(scores, wrong, coverage):
    chosen = scores.argsort(descending=True)[: round(coverage * len(scores))]
    return float(wrong[chosen].double().mean())


def test_ties_are_taken_in_random_order():
    histogram = ScoreHistogram()
    histogram.update(torch.zeros(100), torch.arange(100) < 30)
    curve = histogram.risk_coverage()
    assert (curve.aurc, curve.auroc) == (pytest.approx(0.3), 0.5)
    assert curve.coverage_at(0.2) == 0.0


def test_perfect_and_hopeless_predictions():
    for wrong, risk in ((False, 0.0), (True, 1.0)):
        histogram = ScoreHistogram()
        histogram.update(torch.tensor([0.0, 1.0]), torch.tensor([wrong, wrong]))
        curve = histogram.risk_coverage()
        assert (curve.aurc, curve.best_aurc) == (risk, risk) and math.isnan(curve.auroc)


def test_quantiles_leave_the_share_above():
    histogram, scores = ScoreHistogram(), torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    histogram.update(scores, torch.zeros(10_000, dtype=torch.bool))
    found = histogram.quantiles(10)
    above = [(scores >= value).double().mean().item() for value in found]
    assert above == pytest.approx([k / 10 for k in range(1, 11)], abs=0.01)
    assert all(share >= k / 10 for k, share in enumerate(above, start=1))
    assert found[-1] == -SCORE_LIMIT


def test_scores_at_the_ends_are_kept():
    histogram = ScoreHistogram()
    histogram.update(torch.tensor([math.inf, -math.inf, 40.0]), torch.tensor([False, True, False]))
    assert (int(histogram.counts[0]), int(histogram.counts[SCORE_BINS - 1])) == (1, 2)
    assert log_odds(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-SCORE_LIMIT, 0.0, SCORE_LIMIT]


def test_logistic_weighs_what_tells_and_not_what_does_not():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20_000, 2, generator=generator) * torch.tensor([1.0, 10.0])
    right = torch.rand(20_000, generator=generator) < torch.sigmoid(2 * features[:, 0] + 1)
    found = fit_logistic(features, right, torch.ones(20_000))
    assert found.tolist() == [pytest.approx(2.0, rel=0.05), pytest.approx(0.0, abs=0.02)]
    always = fit_logistic(features, torch.ones(20_000, dtype=torch.bool), torch.ones(20_000))
    assert bool(always.isfinite().all())


@pytest.mark.parametrize(
    "grid",
    [
        PatchGrid(97, 61, 56, 35, 7, 8, 5),
        PatchGrid(200, 200, 100, 100, 14, 8, 8),
        PatchGrid(20, 20, 20, 20, 8, 2, 2),
        PatchGrid(5, 7, 5, 7, 14, 1, 1),
    ],
)
def test_single_pixels_are_those_of_the_whole_picture(grid):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(grid.height * grid.width, 3, generator=generator, dtype=torch.float64)
    rows = torch.arange(grid.image_height).repeat_interleave(grid.image_width)
    columns = torch.arange(grid.image_width).repeat(grid.image_height)
    whole = upsample_scores(scores, grid)[:, rows, columns].T
    torch.testing.assert_close(scores_at(scores, grid, rows, columns), whole, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="rows in"):
        scores_at(scores, grid, torch.tensor([grid.image_height]), torch.tensor([0]))


def test_wrong_input_is_refused():
    calibration = Calibration(2)
    with pytest.raises(ValueError, match="at least one pixel"):
        calibration.scores()
    with pytest.raises(ValueError, match="sum to 1"):
        calibration.update(torch.tensor([[2.0, -1.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="true classes"):
        calibration.update(torch.tensor([[0.5, 0.5]]), torch.tensor([255]))
    with pytest.raises(ValueError, match="shape"):
        calibration.update(torch.tensor([[0.5, 0.5]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="NaN"):
        ScoreHistogram().update(torch.tensor([math.nan]), torch.tensor([True]))
    with pytest.raises(ValueError, match="at least one class"):
        Calibration(0)


def test_class_shares_are_found_behind_a_biased_prediction():
    truth = torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64)
    rates = torch.tensor([[0.9, 0.1, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0], [0.3, 0.0, 0.7, 0.0], [0.0, 0.0, 0.5, 0.5]])
    predicted = truth @ rates.double()
    assert predicted[0] > 0.7  # class 0 is called too often
    everywhere = torch.ones(4, dtype=torch.bool)
    assert class_shares(predicted, rates * 20, everywhere).tolist() == pytest.approx(truth.tolist(), abs=2e-3)
    known = class_shares(predicted, rates * 20, torch.tensor([True, True, False, True]))
    assert known[2] == 0.0 and float(known.sum()) == pytest.approx(1.0)
    unseen = rates.clone()
    unseen[2] = 0.0  # a class without points
    assert class_shares(predicted, unseen, everywhere)[2] == 0.0
    assert class_shares(torch.zeros(4), rates, everywhere).tolist() == [0.25] * 4
    with pytest.raises(ValueError, match="at least one class"):
        class_shares(predicted, rates * 0, everywhere)
