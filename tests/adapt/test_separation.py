import math

import pytest
import torch
from torch.testing import assert_close

from saot.adapt import (
    ClassMoments,
    ClassSample,
    PixelDiscrimination,
    center_similarity,
    class_center_distance,
    sample_per_class,
    separation,
)

CLASSES, DIM = 5, 6


def stream(count=120, seed=0, absent=3, dtype=torch.float64):
    """Features nowhere negative, as after a ReLU, of all classes but one, with ignored ones between."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    labels[labels == absent] = 255
    features = (torch.randn(count, DIM, generator=generator, dtype=torch.float64) + labels[:, None] % 7).relu()
    features[labels == 255] = math.nan  # ignored, whatever it is
    return features.to(dtype), labels


def moments_of(features, labels, classes=CLASSES):
    moments = ClassMoments(classes, features.shape[1])
    moments.update(features, labels)
    return moments


def pixels_of(features, labels, centers):
    pixels = PixelDiscrimination(centers)
    pixels.update(features, labels)
    return pixels


def by_class(features, labels):
    return {c: [x for x, y in zip(features, labels.tolist(), strict=True) if y == c] for c in set(labels.tolist())}


def slow_measures(features, labels):
    """Eqs. (14) and (15) by their letters, one feature at a time."""
    groups = {c: xs for c, xs in by_class(features, labels).items() if c != 255}
    mu = {c: sum(xs) / len(xs) for c, xs in groups.items()}
    ccd, pdd = [math.nan] * CLASSES, [math.nan] * CLASSES
    for i, xs in groups.items():
        compact = sum(float((x - mu[i]) @ (x - mu[i])) for x in xs) / len(xs)
        others = [j for j in groups if j != i]
        ccd[i] = sum(compact / float((mu[i] - mu[j]) @ (mu[i] - mu[j])) for j in others) / len(others)
        ratios = [cosine(x, mu[i]) / sum(cosine(x, mu[j]) for j in others) for x in xs]
        pdd[i] = 1 - sum(ratios) / len(ratios)
    return torch.tensor(ccd, dtype=torch.float64), torch.tensor(pdd, dtype=torch.float64)


def cosine(x, y):
    return float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))


def test_measures_equal_slow_loops():
    features, labels = stream()
    moments = moments_of(features, labels)
    pixels = pixels_of(features, labels, moments.centers)
    ccd, pdd = slow_measures(features, labels)
    assert pixels.skipped.sum() == pixels.negative.sum() == 0
    assert_close(class_center_distance(moments), ccd, rtol=1e-12, atol=0, equal_nan=True)
    assert_close(pixels.values, pdd, rtol=1e-12, atol=0, equal_nan=True)
    assert math.isnan(ccd[3])
    assert moments.present.tolist() == [True, True, True, False, True]


def test_pieces_equal_the_whole(monkeypatch):
    features, labels = stream(dtype=torch.float32)
    whole = moments_of(features, labels)
    pixels = pixels_of(features, labels, whole.centers)
    monkeypatch.setattr(separation, "CHUNK", 7)
    parts, pieces = ClassMoments(CLASSES, DIM), PixelDiscrimination(whole.centers)
    for start, stop in ((0, 1), (1, 1), (1, 50), (50, 120)):
        parts.update(features[start:stop], labels[start:stop])
        pieces.update(features[start:stop], labels[start:stop])
    assert torch.equal(parts.counts, whole.counts)
    for part, all_at_once in (
        (parts.centers, whole.centers),
        (parts.compactness, whole.compactness),
        (class_center_distance(parts), class_center_distance(whole)),
        (pieces.values, pixels.values),
    ):
        assert_close(part, all_at_once, rtol=1e-12, atol=1e-14, equal_nan=True)  # rounding of float64 alone


def test_a_tight_class_far_from_zero_keeps_its_spread():
    features = torch.tensor([[1e8 - 1e-4], [1e8 + 1e-4]], dtype=torch.float64)
    moments = ClassMoments(1, 1)
    for feature in features:
        moments.update(feature[None], torch.tensor([0]))
    spread = float(features[1, 0] - features[0, 0]) / 2
    assert float(moments.compactness) == pytest.approx(spread**2, rel=1e-3)  # 1e8 is known to 1.5e-8 alone


def test_equal_centres_are_infinitely_close():
    moments = moments_of(torch.tensor([[0.0], [2.0], [1.0], [1.0], [3.0]]), torch.tensor([0, 0, 1, 2, 3]), classes=4)
    ccd = class_center_distance(moments)
    assert ccd[:3].tolist() == [math.inf] * 3  # classes 1 and 2 are single points at one place: 0 / 0
    assert ccd[3] == 0.0
    assert class_center_distance(moments_of(torch.ones(3, 2), torch.zeros(3, dtype=torch.uint8))).isnan().all()


def test_features_without_a_ratio_are_skipped_and_counted():
    centers = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [math.nan] * 3])
    features = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [3.0, 4.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])
    pixels = pixels_of(features, torch.tensor([0, 0, 0, 0, 2]), centers)
    assert pixels.skipped.tolist() == [2, 0, 1, 0]  # a zero, one at right angles to class 1; class 2 has no direction
    assert pixels.counts.tolist() == [2, 0, 0, 0]
    assert pixels.negative.tolist() == [1, 0, 0, 0]
    assert float(pixels.values[0]) == pytest.approx(1 - (3 / 4 - 1) / 2)
    assert pixels.values[1:].isnan().all()
    with pytest.raises(ValueError, match=r"\[3\] have features but no centre"):
        pixels.update(features[:1], torch.tensor([3]))


def test_similarity_of_centres():
    source = moments_of(torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 0.0], [4.0, 4.0]]), torch.tensor([0, 0, 1, 2]), 4)
    target = moments_of(torch.tensor([[5.0, 0.0], [1.0, 1.0], [7.0, 7.0]]), torch.tensor([0, 1, 3]), 4)
    found = center_similarity(source, target)
    assert float(found[0]) == pytest.approx(math.sqrt(0.5))
    assert found[1:].isnan().all()  # a zero centre, and classes of one domain alone
    assert center_similarity(source, source)[[0, 2]].tolist() == [pytest.approx(1.0)] * 2
    with pytest.raises(ValueError, match="classes and channels"):
        center_similarity(source, ClassMoments(4, 3))


def test_what_does_not_fit_is_refused_and_changes_nothing():
    features, labels = stream(20)
    moments, sample = moments_of(features, labels), ClassSample(CLASSES, torch.Generator(), 4)
    sample.update(features, labels)
    pixels = pixels_of(features, labels, moments.centers)
    counts, kept = moments.counts.clone(), sample.labels.clone()
    wrong = [
        (features, labels[:-1], "n labels"),
        (features[:, :-1], labels, "n labels"),
        (features, labels.where(labels != 0, CLASSES), r"labels must lie in \[0, 5\)"),
        (features.where(labels[:, None] != 0, math.inf), labels, "infinite or NaN"),
    ]
    for some, classes, words in wrong:
        for taker in (moments, pixels, sample):
            with pytest.raises(ValueError, match=words):
                taker.update(some, classes)
    assert torch.equal(moments.counts, counts)
    assert torch.equal(sample.labels, kept)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least one class and one channel"):
        ClassMoments(0, 3)
    with pytest.raises(ValueError, match="one feature of each"):
        ClassSample(3, torch.Generator(), 0)
    with pytest.raises(ValueError, match="none were offered"):
        sample_per_class([], 3, torch.Generator())


def numbered(count=400):
    """Features that are their own number, three of them of class 1, a tenth ignored."""
    labels = torch.zeros(count, dtype=torch.long)
    labels[::10] = 255
    labels[[50, 150, 250]] = 1
    return torch.arange(count, dtype=torch.float32)[:, None], labels


def test_sample_does_not_depend_on_pieces_and_keeps_rare_classes():
    features, labels = numbered()
    whole = sample_per_class([(features, labels)], 3, torch.Generator().manual_seed(1), 20)
    pieces = zip(features.split(23), labels.split(23), strict=True)
    parts = sample_per_class(pieces, 3, torch.Generator().manual_seed(1), 20)
    for first, second in zip(whole, parts, strict=True):
        assert torch.equal(first, second)
    assert whole[1].bincount().tolist() == [20, 3]
    assert torch.equal(labels[whole[0][:, 0].long()], whole[1])
    assert len(whole[0].unique()) == 23
    other = sample_per_class([(features, labels)], 3, torch.Generator().manual_seed(2), 20)
    assert not torch.equal(whole[0], other[0])


def test_every_feature_is_as_likely():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.arange(20.0)[:, None], torch.zeros(20, dtype=torch.long)
    hits = torch.zeros(20)
    for _ in range(400):
        pieces = zip(features.split(6), labels.split(6), strict=True)
        hits[sample_per_class(pieces, 1, generator, 5)[0][:, 0].long()] += 1
    assert (hits - 100).abs().max() < 4 * math.sqrt(400 * 0.25 * 0.75)  # four standard deviations
