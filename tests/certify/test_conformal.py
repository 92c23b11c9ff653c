import math

import pytest
import torch
from scipy import stats

from saot.certify import (
    binomial_p_value,
    bounded_mean_p_value,
    class_error_threshold,
    class_limits,
    clopper_pearson_upper,
    one_per_group,
    prediction_sets,
    selective_threshold,
)

LEVELS = torch.linspace(1.0, 0.0, 26)[1:]  # thresholds on scores that are uniform on [0, 1]
DRAWS = 300


def points(number, generator, hardness=0.0):
    """Scores uniform on [0, 1]; P(wrong | s) = 0.4 (1 - s), moved by the hardness of the picture."""
    scores = torch.rand(number, generator=generator, dtype=torch.float64)
    rate = 0.4 * (1 - scores) + hardness
    return scores, torch.rand(number, generator=generator, dtype=torch.float64) < rate.clamp(0, 1)


def true_risk(threshold):
    """P(wrong | s >= t) = 0.2 (1 - t) for `points` without hardness; 0 where nothing is labelled."""
    return 0.2 * (1 - threshold) if threshold < 1 else 0.0


def most_failures(draws, delta):
    """So many failures a procedure that fails with probability delta exceeds once in 10,000 times."""
    return int(stats.binom.ppf(1 - 1e-4, draws, delta))


@pytest.mark.parametrize(("errors", "trials", "alpha"), [(0, 1, 0.5), (3, 50, 0.1), (40, 400, 0.1), (7, 7, 0.3)])
def test_binomial_numbers_are_those_of_scipy(errors, trials, alpha):
    assert binomial_p_value(errors, trials, alpha) == pytest.approx(stats.binom.cdf(errors, trials, alpha), rel=1e-8)
    upper = 1.0 if errors == trials else stats.beta.ppf(1 - 0.05, errors + 1, trials - errors)
    assert clopper_pearson_upper(errors, trials, 0.05) == pytest.approx(upper, abs=1e-9)


def test_binomial_p_value_rejects_where_the_bound_lies_below():
    for errors in range(0, 30, 3):
        rejected = binomial_p_value(errors, 200, 0.1) <= 0.05
        assert rejected == (clopper_pearson_upper(errors, 200, 0.05) <= 0.1)
    assert binomial_p_value(0, 0, 0.1) == 1.0


def test_bounded_mean_p_value_is_valid_and_has_power():
    generator, rejected, found = torch.Generator().manual_seed(0), 0, 0
    for _ in range(DRAWS):
        # two-valued, as far out as the bound allows, with mean exactly 0.1: the hypothesis holds
        rejected += bounded_mean_p_value((torch.rand(80, generator=generator) < 0.1).double(), 0.1) <= 0.1
        found += bounded_mean_p_value(0.04 * torch.rand(80, generator=generator), 0.1) <= 0.1
    assert rejected <= most_failures(DRAWS, 0.1)
    assert found == DRAWS
    values = torch.rand(50, generator=generator) * 0.1
    assert bounded_mean_p_value(values, 0.1) == pytest.approx(bounded_mean_p_value(values.flip(0), 0.1), rel=1e-12)
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        bounded_mean_p_value(torch.tensor([1.5]), 0.1)


@pytest.mark.parametrize(("alpha", "delta"), [(0.1, 0.1), (0.05, 0.2)])
def test_error_among_labelled_is_as_promised_over_many_draws(alpha, delta):
    generator = torch.Generator().manual_seed(1)
    values = [selective_threshold(*points(2500, generator), LEVELS, alpha, delta).value for _ in range(DRAWS)]
    failures = sum(true_risk(value) > alpha + 1e-12 for value in values)
    assert failures <= most_failures(DRAWS, delta)
    labelled = sum(max(0.0, 1 - value) for value in values if value < math.inf) / DRAWS
    assert labelled > 0.35 * alpha / 0.2  # and it is of use: the best that exists labels alpha / 0.2


def test_a_plain_choice_by_the_held_out_error_would_break_the_promise():
    generator, failures = torch.Generator().manual_seed(1), 0
    for _ in range(DRAWS):
        scores, wrong = points(600, generator)
        fine = [float(t) for t in LEVELS if bool((scores >= t).any()) and wrong[scores >= t].double().mean() <= 0.1]
        failures += true_risk(min(fine, default=1.0)) > 0.1
    assert failures > most_failures(DRAWS, 0.1)


def clustered(pictures, each, generator):
    """Pictures of which 15 % are hard: there every point is wrong with probability 0.6, elsewhere 0.02."""
    hard = torch.rand(pictures, generator=generator) < 0.15
    rate = torch.where(hard, 0.6, 0.02).repeat_interleave(each)
    scores = torch.rand(pictures * each, generator=generator)
    return (
        scores,
        torch.rand(pictures * each, generator=generator) < rate,
        torch.arange(pictures).repeat_interleave(each),
    )


def test_points_of_one_picture_need_groups():
    # true error 0.15 * 0.6 + 0.85 * 0.02 = 0.107 at every threshold: nothing may be labelled at 0.1
    generator, single, grouped = torch.Generator().manual_seed(2), 0, 0
    for _ in range(DRAWS):
        scores, wrong, groups = clustered(40, 20, generator)
        single += selective_threshold(scores, wrong, LEVELS, 0.1, 0.1).found
        grouped += selective_threshold(scores, wrong, LEVELS, 0.1, 0.1, groups=groups).found
    assert single > most_failures(DRAWS, 0.1)  # the binomial test takes them for independent, and is wrong
    assert grouped <= most_failures(DRAWS, 0.1)


def test_groups_find_a_threshold_where_there_is_one():
    generator = torch.Generator().manual_seed(3)
    scores, _, groups = clustered(200, 20, generator)
    wrong = torch.rand(len(scores), generator=generator) < 0.02
    found = selective_threshold(scores, wrong, LEVELS, 0.1, 0.1, groups=groups)
    assert found.tested == 200 and found.value == 0.0 and found.error < 0.03 and found.labelled == 1.0


def test_weights_move_the_promise_to_other_shares_of_classes():
    # class 0 is always right, class 1 wrong in 30 %: balanced error 0.15, but 0.015 where class 1 has 5 % of pixels
    generator = torch.Generator().manual_seed(4)
    classes = torch.arange(2000) % 2
    scores = torch.rand(2000, generator=generator)
    wrong = (classes == 1) & (torch.rand(2000, generator=generator) < 0.3)
    assert not selective_threshold(scores, wrong, LEVELS, 0.1, 0.1).found
    weights = torch.where(classes == 0, 0.95, 0.05)
    found = selective_threshold(scores, wrong, LEVELS, 0.1, 0.1, weights=weights)
    assert found.found and found.error < 0.03
    rare = torch.where(classes == 0, 0.05, 0.95)
    assert not selective_threshold(scores, wrong, LEVELS, 0.1, 0.1, weights=rare).found


def test_weighted_promise_holds_over_many_draws():
    # wrong with 0.25 in class 1, 0.08 in class 0; with weights 0.3 and 0.7 the error is 0.131 everywhere
    generator, found = torch.Generator().manual_seed(5), 0
    classes = torch.arange(400) % 2
    for _ in range(DRAWS):
        rate = torch.where(classes == 1, 0.25, 0.08)
        wrong = torch.rand(400, generator=generator) < rate
        weights = torch.where(classes == 1, 0.3, 0.7)
        scores = torch.rand(400, generator=generator)
        found += selective_threshold(scores, wrong, LEVELS, 0.13, 0.1, weights=weights).found
    assert found <= most_failures(DRAWS, 0.1)


def test_class_error_is_as_promised_over_many_draws():
    # P(s >= t and wrong) = 0.2 (1 - t)^2 for `points`
    generator, failures, labelled = torch.Generator().manual_seed(6), 0, 0.0
    for _ in range(DRAWS):
        value = class_error_threshold(*points(150, generator), LEVELS, 0.1, 0.1).value
        failures += value < math.inf and 0.2 * (1 - value) ** 2 > 0.1
        labelled += max(0.0, 1 - value) / DRAWS
    assert failures <= most_failures(DRAWS, 0.1)
    assert labelled > 0.35  # the best that exists labels 0.71


def test_class_error_with_groups_withstands_clusters():
    # wrong in 0.107 of the points, whatever the score: the highest threshold that labels a share x errs in 0.107 x
    generator, failures = torch.Generator().manual_seed(7), 0
    for _ in range(DRAWS):
        scores, wrong, groups = clustered(40, 10, generator)
        value = class_error_threshold(scores, wrong, LEVELS, 0.05, 0.1, groups=groups).value
        failures += 0.107 * max(0.0, 1 - value) > 0.05
    assert failures <= most_failures(DRAWS, 0.1)


def test_too_few_points_show_nothing():
    scores, wrong = torch.ones(21), torch.zeros(21, dtype=torch.bool)
    assert not class_error_threshold(scores, wrong, LEVELS, 0.1, 0.1).found  # 0.9^21 = 0.109
    more = torch.ones(22), torch.zeros(22, dtype=torch.bool)
    assert class_error_threshold(*more, LEVELS, 0.1, 0.1).value == 0.0
    none = selective_threshold(torch.zeros(0), torch.zeros(0, dtype=torch.bool), LEVELS, 0.1)
    assert (none.found, none.tested, none.labelled) == (False, 0, 0.0) and math.isnan(none.error)


def three_classes(number, generator):
    """Class probabilities and classes drawn from them, then distorted: overconfident."""
    logits = 1.5 * torch.randn(number, 3, generator=generator, dtype=torch.float64)
    classes = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return (4 * logits).softmax(-1), classes


def test_sets_hold_the_true_class_as_often_as_promised_class_by_class():
    generator, covered = torch.Generator().manual_seed(8), torch.zeros(3, dtype=torch.float64)
    test_probs, test_classes = three_classes(4000, generator)
    for _ in range(DRAWS):
        limits = class_limits(*three_classes(90, generator), 0.1)
        inside = prediction_sets(test_probs, limits).gather(1, test_classes.unsqueeze(1)).squeeze(1)
        covered += torch.stack([inside[test_classes == c].double().mean() for c in range(3)]) / DRAWS
    # between 1 - alpha and 1 - alpha + 1 / (n_c + 1), n_c about 30; 4 standard errors of test set and draws: 0.025
    assert bool((covered >= 0.9 - 0.025).all()) and bool((covered <= 0.9 + 1 / 25 + 0.025).all())


def test_a_class_with_few_points_is_in_every_set():
    limits = class_limits(torch.tensor([[0.9, 0.1]] * 8), torch.zeros(8, dtype=torch.int64), 0.1)
    assert limits.tolist() == [-math.inf, -math.inf]
    assert bool(prediction_sets(torch.tensor([[0.0, 1.0]]), limits).all())
    limits = class_limits(torch.tensor([[0.9, 0.1]] * 9), torch.zeros(9, dtype=torch.int64), 0.1)
    assert prediction_sets(torch.tensor([[0.8, 0.2]]), limits).tolist() == [[False, True]]


def test_one_point_a_class_and_picture():
    groups, classes = torch.tensor([4, 4, 4, 7, 7, 7]), torch.tensor([0, 0, 1, 0, 1, 1])
    drawn = {tuple(one_per_group(groups, classes, torch.Generator().manual_seed(s)).tolist()) for s in range(60)}
    assert drawn == {(a, 2, 3, b) for a in (0, 1) for b in (4, 5)}


def test_wrong_input_is_refused():
    scores, wrong = torch.rand(3), torch.zeros(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="alpha and delta"):
        selective_threshold(scores, wrong, LEVELS, 5.0)
    with pytest.raises(ValueError, match="one score for each"):
        selective_threshold(scores[:2], wrong, LEVELS, 0.1)
    with pytest.raises(ValueError, match="at least one threshold"):
        class_error_threshold(scores, wrong, LEVELS[:0], 0.1)
    with pytest.raises(ValueError, match="alpha in"):
        class_limits(torch.rand(2, 2), torch.tensor([0, 1]), 0.0)
