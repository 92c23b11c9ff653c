import pytest
import torch

from saot.evaluate import ConfusionMatrix
from saot.tables.bootstrap import bootstrap_interval, paired_bootstrap, picture_weights


def pictures(number, skill, seed=0, classes=3, pixels=400):
    """Counts of a method that is right with probability `skill`, on the same truth for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(number, classes, classes, dtype=torch.int64)
    for n in range(number):
        truth = torch.randint(classes, (pixels,), generator=generator)
        other = torch.randint(classes, (pixels,), generator=generator)
        right = torch.rand(pixels, generator=generator) < skill
        counts[n] = torch.bincount(truth * classes + torch.where(right, truth, other), minlength=classes**2).view(3, 3)
    return counts


def mean_iou(counts):
    return ConfusionMatrix.from_list(counts.sum(0).tolist()).mean_iou()


def test_difference_is_that_of_the_summed_counts_and_changes_sign():
    better, worse = pictures(20, 0.8), pictures(20, 0.7)
    found, turned = paired_bootstrap(better, worse), paired_bootstrap(worse, better)
    assert found.difference == pytest.approx(mean_iou(better) - mean_iou(worse), abs=1e-12)
    assert 0 < found.low < found.difference < found.high
    assert (turned.low, turned.high) == (pytest.approx(-found.high), pytest.approx(-found.low))
    assert found.probability == 1.0 and turned.probability == 0.0
    assert found == paired_bootstrap(better, worse) != paired_bootstrap(better, worse, seed=1)


def test_a_method_does_not_differ_from_itself():
    same = paired_bootstrap(pictures(10, 0.8), pictures(10, 0.8))
    assert (same.low, same.difference, same.high, same.probability) == (0.0, 0.0, 0.0, 0.5)


def test_resamples_by_hand():
    # two pictures: a resample is both (half the time), the first twice or the second twice
    counts = torch.tensor([[[4, 0], [0, 4]], [[0, 4], [4, 0]]])
    found = bootstrap_interval(counts, samples=4000, level=0.9)
    assert (found.value, found.low, found.high) == (pytest.approx(1 / 3), 0.0, 1.0)
    inner = bootstrap_interval(counts, samples=4000, level=0.4)
    assert (inner.low, inner.high) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_a_class_that_a_resample_misses_keeps_its_value_and_nothing_is_nan():
    counts = torch.zeros(6, 2, 2, dtype=torch.int64)
    counts[:, 0, 0] = 10
    counts[0, 1, 1], counts[0, 1, 0] = 6, 2  # class 1 in one picture of six
    found = bootstrap_interval(counts, samples=500)
    # class 1 has IoU 6/8 in every resample; class 0 loses at most in those that draw the first picture
    assert found.low > 0.75 and found.high == pytest.approx((1.0 + 0.75) / 2)


def test_pictures_without_labels_change_nothing():
    counts = pictures(8, 0.7)
    padded = torch.cat([counts[:3], torch.zeros(4, 3, 3, dtype=torch.int64), counts[3:]])
    assert bootstrap_interval(padded) == bootstrap_interval(counts)


def test_intervals_cover_at_their_level():
    population = pictures(3000, 0.7, seed=5, pixels=60), pictures(3000, 0.65, seed=5, pixels=60)
    truth = mean_iou(population[0]) - mean_iou(population[1])
    generator, covered = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        chosen = torch.randint(3000, (40,), generator=generator)
        found = paired_bootstrap(population[0][chosen], population[1][chosen], samples=200, level=0.9)
        covered += found.low <= truth <= found.high
    assert 160 <= covered <= 197  # binomial(200, 0.9) +- 4 standard errors, lower end eased for n = 40


def test_blocks_take_runs_and_all_pictures_equally_often():
    weights = picture_weights(10, 4000, 5, torch.Generator().manual_seed(0))
    assert bool((weights.sum(1) == 10).all())
    assert bool((weights.max(1).values <= 2).all())  # two runs of five different pictures
    assert weights.mean(0).tolist() == pytest.approx([1.0] * 10, abs=0.1)
    ups = (weights.diff(dim=1) != 0).sum(1).double().mean()
    assert ups < 5  # two runs have at most four ends


def test_blocks_widen_the_interval_of_frames_that_resemble_each_other():
    scenes = pictures(12, 0.7, pixels=30)
    video = scenes.repeat_interleave(10, dim=0)  # ten equal frames of each scene
    single, blocks = bootstrap_interval(video), bootstrap_interval(video, block=10)
    honest = bootstrap_interval(scenes)
    assert single.high - single.low < 0.6 * (honest.high - honest.low)
    assert blocks.high - blocks.low > 0.7 * (honest.high - honest.low)


def test_wrong_input_is_refused():
    counts = pictures(4, 0.7)
    other = counts.clone()
    other[0, 0, 0] += 1
    with pytest.raises(ValueError, match="same pictures"):
        paired_bootstrap(counts, other)
    with pytest.raises(ValueError, match="block of 1 to"):
        bootstrap_interval(counts, block=5)
    with pytest.raises(ValueError, match="level between 0 and 1"):
        bootstrap_interval(counts, level=95)
    for nothing in (counts * 0, counts[:0]):
        with pytest.raises(ValueError, match=r"expected .*labelled|none of those"):
            bootstrap_interval(nothing)
    with pytest.raises(ValueError, match="none of those"):
        bootstrap_interval(torch.tensor([[[1, 0], [0, 0]]]), classes=[1])
