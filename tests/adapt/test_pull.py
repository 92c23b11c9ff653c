"""The pull loss against loops that spell out Eqs. (2) to (13), its gradient by finite differences, its edges."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torch.testing import assert_close

from saot.adapt import pull
from saot.adapt.pull import PullBatch, PullSettings, class_weights, pull_loss, query_counts, source_prototypes
from saot.transfer import Prototypes

DOUBLE = torch.float64
CLASSES, WIDTH = 5, 3
LABELS = [0, 0, 0, 0, 0, 1, 1, 3, 3, 3, 255, 255]  # class 2 is absent everywhere, class 4 from the source
PSEUDO = [0, 1, 1, 3, 4, 4, 255, 0, 3, 1]  # pseudo-labels know class 4
CONFIDENCE = [0.9, 0.35, 0.6, 0.5, 0.95, 0.4, 0.1, 0.3, 0.8, 0.45]
GAMMA = 0.5  # the middle of the nine that are not ignored
SMALL = PullSettings(base_queries=2, negatives=7, temperature=0.3)
WEIGHTS = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15], dtype=DOUBLE)


def dice(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(labels=LABELS, pseudo=PSEUDO, confidence=CONFIDENCE, seed=0) -> PullBatch:
    generator = dice(seed)
    sizes = (len(labels), len(labels), len(pseudo))
    queries, source, target = (torch.randn(size, WIDTH, dtype=DOUBLE, generator=generator) for size in sizes)
    classes, guesses = (torch.tensor(each, dtype=torch.long) for each in (labels, pseudo))
    return PullBatch(queries, source, classes, target, guesses, torch.tensor(confidence, dtype=DOUBLE))


def run(batch, seed=0, positives=None, **options):
    return pull_loss(batch, WEIGHTS, dataclasses.replace(SMALL, **options), dice(seed), positives)


def unit(vector) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector] if length else list(vector)


def dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def mean_of(vectors) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def prototype_by_loop(source, labels, label, form):
    """Eqs. (5) and (6), or line 32 of Algorithm 1."""
    members = [vector for vector, each in zip(source, labels, strict=True) if each == label]
    return mean_of([unit(v) for v in members]) if form == "unit_then_mean" else unit(mean_of(members))


def draw_by_loop(pool, count, generator):
    return [pool[i] for i in torch.randint(len(pool), (count,), generator=generator).tolist()] if pool else []


def negatives_by_loop(batch, label, settings, generator):
    """Eqs. (7) to (10): [(domain, pixel), ...] drawn for one class."""
    labels, pseudo, confidence = (x.tolist() for x in (batch.labels, batch.pseudo_labels, batch.confidence))
    kept = [c for c, each in zip(confidence, pseudo, strict=True) if each != 255]
    gamma = np.percentile(kept, 100 * settings.unreliable) if kept else 0.0
    source = [("s", j) for j, each in enumerate(labels) if each not in (label, 255)]
    target = [("t", j) for j, each in enumerate(pseudo) if each not in (label, 255) and confidence[j] < gamma]
    m = settings.negatives
    if settings.negative_sampling == "pooled":
        return draw_by_loop(source + target, m, generator)
    if not source or not target or settings.negative_sampling == "source":
        return draw_by_loop(source or target, m, generator)
    return draw_by_loop(source, m - m // 2, generator) + draw_by_loop(target, m // 2, generator)


def loss_by_loop(batch, weights, settings, generator):
    """Eq. (3) with plain numbers; the draws in the documented order: class by class, queries, source, target."""
    rows = {"q": batch.queries.tolist(), "s": batch.source.tolist(), "t": batch.target.tolist()}
    labels, total, each_class = batch.labels.tolist(), 0.0, [0.0] * CLASSES
    labelled = sum(each != 255 for each in labels)
    for label in range(CLASSES):
        pixels = [j for j, each in enumerate(labels) if each == label]
        if not pixels:
            continue
        count = settings.base_queries
        if settings.query_sampling == "balanced":
            count = math.ceil(CLASSES * len(pixels) / labelled * settings.base_queries - 1e-9)
        queries = [unit(rows["q"][j]) for j in draw_by_loop(pixels, count, generator)]
        key = prototype_by_loop(rows["s"], labels, label, settings.prototypes)
        losses = []
        if settings.loss == "mse":
            losses = [sum((x - y) ** 2 for x, y in zip(query, key, strict=True)) for query in queries]
        else:
            negatives = [unit(rows[where][j]) for where, j in negatives_by_loop(batch, label, settings, generator)]
            for query in queries:
                up = math.exp(dot(query, key) / settings.temperature)
                down = sum(math.exp(dot(query, negative) / settings.temperature) for negative in negatives)
                losses.append(-math.log(up / (up + down)))
        each_class[label] = sum(losses) / len(losses)
        part = each_class[label] if settings.pairs == "mean" else sum(losses)
        total += float(weights[label]) * part / (CLASSES if settings.classes == "mean" else 1)
    return total, each_class


VARIANTS = [{}, {"loss": "mse"}, {"prototypes": "unit_then_mean"}, {"pairs": "sum"}, {"classes": "mean"}]
VARIANTS += [{"pairs": "sum", "classes": "mean", "loss": "mse", "prototypes": "unit_then_mean"}]
VARIANTS += [{"query_sampling": "equalized"}, {"negative_sampling": "pooled"}, {"negative_sampling": "source"}]
VARIANTS += [{"unreliable": 0.9, "negatives": 10}]


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_by_loop(options, seed):
    batch = make_batch(seed=seed)
    result = run(batch, seed, **options)
    total, each_class = loss_by_loop(batch, WEIGHTS, dataclasses.replace(SMALL, **options), dice(seed))
    assert_close(float(result.loss), total, rtol=1e-12, atol=0)  # sums in another order
    assert_close(result.class_losses, torch.tensor(each_class, dtype=DOUBLE), rtol=1e-12, atol=0)
    assert (result.weights == WEIGHTS).all()


@pytest.mark.parametrize("options", VARIANTS[:6])
def test_gradient_by_finite_differences(options):
    settings, batch, step = dataclasses.replace(SMALL, **options), make_batch(), 1e-6
    queries = batch.queries.clone().requires_grad_(True)
    pull_loss(dataclasses.replace(batch, queries=queries), WEIGHTS, settings, dice()).loss.backward()
    assert queries.grad is not None
    found = torch.zeros_like(queries)
    for place in np.ndindex(*queries.shape):
        sides = []
        for sign in (1, -1):
            moved = batch.queries.clone()
            moved[place] += sign * step
            sides.append(loss_by_loop(dataclasses.replace(batch, queries=moved), WEIGHTS, settings, dice())[0])
        found[place] = (sides[0] - sides[1]) / (2 * step)
    assert_close(queries.grad, found, rtol=0, atol=1e-7)  # the differences' own error: step^2 and rounding / step
    assert (queries.grad[10:] == 0).all()  # ignored pixels are no queries


def test_only_the_student_gets_a_gradient():
    batch = make_batch()
    parts = {name: getattr(batch, name).clone().requires_grad_(True) for name in ("queries", "source", "target")}
    weights = WEIGHTS.clone().requires_grad_(True)
    result = pull_loss(dataclasses.replace(batch, **parts), weights, SMALL, dice())
    result.loss.backward()
    assert not result.class_losses.requires_grad  # told, not trained on
    assert parts["queries"].grad is not None and parts["queries"].grad.abs().sum() > 0
    assert parts["source"].grad is None and parts["target"].grad is None and weights.grad is None


def test_info_nce_and_squared_distance_by_loop():
    queries, key, negatives = (torch.randn(*size, dtype=DOUBLE) for size in ((4, 3), (3,), (6, 3)))
    for tau in (0.1, 1.0):
        ups = [math.exp(dot(q, key.tolist()) / tau) for q in queries.tolist()]
        downs = [sum(math.exp(dot(q, k) / tau) for k in negatives.tolist()) for q in queries.tolist()]
        expected = [-math.log(up / (up + down)) for up, down in zip(ups, downs, strict=True)]
        assert_close(pull.info_nce(queries, key, negatives, tau), torch.tensor(expected, dtype=DOUBLE))
    assert (pull.info_nce(queries, key, negatives[:0], 0.2) == 0).all()
    expected = [sum((x - y) ** 2 for x, y in zip(q, key.tolist(), strict=True)) for q in queries.tolist()]
    assert_close(pull.squared_distance(queries, key), torch.tensor(expected, dtype=DOUBLE))


@pytest.mark.parametrize("form", ["mean_then_unit", "unit_then_mean"])
def test_prototypes_by_loop(form):
    batch = make_batch()
    made = source_prototypes(batch.source, batch.labels, CLASSES, form)
    assert made.present.tolist() == [True, True, False, True, False]
    for label in (0, 1, 3):
        expected = prototype_by_loop(batch.source.tolist(), LABELS, label, form)
        assert_close(made.means[label], torch.tensor(expected, dtype=DOUBLE))
    assert (made.means[[2, 4]] == 0).all()
    alone = source_prototypes(batch.source[:1], torch.tensor([4]), CLASSES, form).means[4]  # of one pixel: itself
    assert_close(alone, torch.tensor(unit(batch.source[0].tolist()), dtype=DOUBLE))
    # a mean of unit vectors is shorter than 1, and is not scaled again
    assert ((made.means[[0, 1, 3]].norm(dim=1) < 1 - 1e-9) == (form == "unit_then_mean")).all()


@pytest.mark.parametrize("base", [1, 3, 128])
def test_query_counts_by_loop(base):
    counts = query_counts(torch.tensor(LABELS), CLASSES, base)
    for label in range(CLASSES):
        share = LABELS.count(label) / (len(LABELS) - LABELS.count(255))  # Eq. (11)
        assert counts[label] == math.ceil(round(CLASSES * share * base, 9))
    assert CLASSES * base <= counts.sum() <= CLASSES * base + CLASSES
    equal = query_counts(torch.tensor(LABELS, dtype=torch.uint8), CLASSES, base, "equalized")
    assert equal.tolist() == [base, base, 0, base, 0]
    assert math.ceil(19 * (21 / 38) * 64) == 673  # what floating point makes of 672
    assert query_counts(torch.tensor([0] * 21 + [1] * 17), 19, 64).tolist()[:2] == [672, 544]


@pytest.mark.parametrize("unreliable", [0.0, 0.1, 0.5, 0.73, 1.0])
def test_the_threshold_is_a_percentile(unreliable):
    confidence = torch.rand(41, dtype=DOUBLE)
    gamma = pull.confidence_threshold(confidence, unreliable)
    assert_close(float(gamma), float(np.percentile(confidence.numpy(), 100 * unreliable)), rtol=1e-12, atol=0)
    below = int((confidence < gamma).sum())  # Eq. (9), to within a pixel
    assert abs(below - unreliable * 41) <= 1
    assert pull.confidence_threshold(torch.zeros(0), unreliable) == 0


def confidences_by_loop() -> tuple[list[float], list[int]]:
    mine = [[c for c, each in zip(CONFIDENCE, PSEUDO, strict=True) if each == label] for label in range(CLASSES)]
    return [sum(each) / max(len(each), 1) for each in mine], [len(each) for each in mine]


def test_class_confidence_by_loop():
    confidence, pseudo = torch.tensor(CONFIDENCE, dtype=DOUBLE), torch.tensor(PSEUDO)
    means, counts = confidences_by_loop()
    for shape in ((10,), (1, 2, 5)):  # flat or as maps
        found = pull.class_confidence(confidence.view(shape), pseudo.view(shape), CLASSES)
        assert_close(found[0], torch.tensor(means, dtype=DOUBLE))
        assert found[1].tolist() == counts


@pytest.mark.parametrize("absent", ["max", "skip"])
@pytest.mark.parametrize("divisor", ["max", "min"])
@pytest.mark.parametrize("form", ["power", "product"])
@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_weights_by_loop(absent, divisor, form, beta):
    means, counts = confidences_by_loop()
    settings = PullSettings(weight_power=beta, weight_form=form, weight_divisor=divisor, absent_class=absent)
    made = class_weights(torch.tensor(means, dtype=DOUBLE), torch.tensor(counts), settings)
    seen = [label for label in range(CLASSES) if counts[label]]
    scale = (max if divisor == "max" else min)(1 - means[label] for label in seen)
    raw = dict.fromkeys(range(CLASSES), 0.0)
    for label in seen:
        ratio = (1 - means[label]) / scale
        raw[label] = ratio**beta if form == "power" else ratio * beta
    if absent == "max":
        raw[2] = max(raw.values())
    if (divisor, form) == ("max", "power") and absent == "max":
        assert raw[2] == 1  # the weight of FACTS T-11
    expected = torch.tensor([raw[label] / sum(raw.values()) for label in range(CLASSES)], dtype=DOUBLE)
    assert_close(made, expected, rtol=1e-12, atol=0)


def test_what_cancels_in_the_weights():
    """The divisor, and beta as a factor: Algorithm 1 comes to weights proportional to 1 - conf(c)."""
    means, plain = torch.tensor([[0.9, 0.5, 0.7], [1 / 9, 5 / 9, 3 / 9]], dtype=DOUBLE)
    counts = torch.tensor([3, 1, 2])
    for beta in (0.5, 2.0):
        settings = PullSettings(weight_power=beta, weight_form="product", weight_divisor="min")
        assert_close(class_weights(means, counts, settings), plain)
    for divisor, power in (("max", 0.5), ("min", 0.5), ("max", 0.0), ("min", 0.0)):  # power 0 turns them off
        made = class_weights(means, counts, dataclasses.replace(SMALL, weight_divisor=divisor, weight_power=power))
        assert_close(made, plain**power / (plain**power).sum())
    off = PullSettings(weight_power=0.0, weight_form="product")  # a factor of 0 leaves nothing to scale: uniform
    assert_close(class_weights(means, counts, off), torch.full_like(means, 1 / 3))


@pytest.mark.parametrize("absent", ["max", "skip"])
@pytest.mark.parametrize("divisor", ["max", "min"])
def test_weights_where_nothing_or_everything_is_sure(absent, divisor):
    settings = PullSettings(absent_class=absent, weight_divisor=divisor)
    third = [1 / 3] * 3
    assert_close(class_weights(torch.zeros(3), torch.tensor([0, 0, 0]), settings), torch.tensor(third))
    assert_close(class_weights(torch.ones(3), torch.tensor([2, 5, 1]), settings), torch.tensor(third))
    some = class_weights(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([2, 0, 1]), settings)
    assert some.tolist() == ([0.5, 0.0, 0.5] if absent == "skip" else pytest.approx(third))
    one = class_weights(torch.tensor([1.0, 0.75, 0.0]), torch.tensor([2, 1, 0]), settings)  # the divisor min is 0
    assert one.tolist() == ([0.0, 1.0, 0.0] if absent == "skip" else [0.0, 0.5, 0.5])


def test_forbidden_keys_are_never_drawn():
    """NaN in a feature reaches the loss if its pixel is ever drawn."""
    batch = make_batch()
    keys = source_prototypes(batch.source, batch.labels, CLASSES)
    for label in (0, 1, 3):
        source, target = batch.source.clone(), batch.target.clone()
        source[(batch.labels == label) | (batch.labels == 255)] = torch.nan
        sure = (batch.confidence >= GAMMA) | (batch.pseudo_labels == label) | (batch.pseudo_labels == 255)
        target[sure] = torch.nan
        spoiled = dataclasses.replace(batch, source=source, target=target)
        result = run(spoiled, positives=keys, negatives=200)
        assert torch.isfinite(result.class_losses[label])
        others = [other for other in (0, 1, 3) if other != label]
        assert torch.isnan(result.class_losses[others]).all()  # and the same NaN is drawn for the others
    spoiled = dataclasses.replace(batch, queries=torch.where((batch.labels == 255)[:, None], torch.nan, batch.queries))
    assert torch.isfinite(run(spoiled).loss)


def test_what_was_used():
    result = run(make_batch())
    assert result.queries.tolist() == [5, 2, 0, 3, 0]  # 2 * 5 * (5, 2, 3) / 10
    assert result.source_negatives.tolist() == [4, 4, 0, 4, 0]
    assert result.target_negatives.tolist() == [3, 3, 0, 3, 0]
    assert_close(float(result.threshold), GAMMA)
    made = run(make_batch(), negative_sampling="pooled", negatives=7000)
    assert (made.source_negatives + made.target_negatives)[[0, 1, 3]].tolist() == [7000] * 3
    # class 0: 5 source pixels and 3 of low confidence (0.35, 0.4, 0.45), so 5/8 of 7000, sd 41
    assert abs(int(made.source_negatives[0]) - 4375) < 200


def test_all_randomness_is_the_generators():
    batch, state = make_batch(), torch.random.get_rng_state()
    first, again, other = (float(run(batch, seed).loss) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_given_positives_take_the_prototypes_place():
    batch = make_batch()
    keys = Prototypes(torch.eye(CLASSES, WIDTH, dtype=DOUBLE), torch.tensor([True, False, True, True, False]))
    result = run(batch, positives=keys, loss="mse", base_queries=500)
    assert result.queries.tolist() == [1250, 0, 0, 750, 0]  # class 1 has no key, class 2 no query
    own = batch.queries[:5] / batch.queries[:5].norm(dim=1, keepdim=True)
    assert_close(result.class_losses[0], (own - keys.means[0]).square().sum(1).mean(), rtol=0.1, atol=0)  # by drawing


@pytest.mark.parametrize("loss", ["infonce", "mse"])
def test_nothing_labelled_gives_zero(loss):
    batch = make_batch(labels=[255] * 4)
    queries = batch.queries.clone().requires_grad_(True)
    result = run(dataclasses.replace(batch, queries=queries), loss=loss)
    result.loss.backward()
    assert result.loss == 0 and (result.queries == 0).all() and (result.class_losses == 0).all()
    assert queries.grad is not None and (queries.grad == 0).all()


def test_one_pixel_has_no_negatives_and_no_infonce():
    batch = make_batch([3], [], [])
    result = run(batch)
    assert result.loss == 0 and result.queries.tolist() == [0, 0, 0, 10, 0]
    assert result.source_negatives.sum() == 0 and result.target_negatives.sum() == 0 and result.threshold == 0
    mse = run(batch, loss="mse")  # 2 - 2 cos of unit vectors
    expected = 2 - 2 * dot(unit(batch.queries[0].tolist()), unit(batch.source[0].tolist()))
    assert_close(float(mse.loss), 0.25 * expected)


NONE_LOW = [([], []), ([255] * 3, [0.1, 0.2, 0.3]), ([0, 1, 3], [0.7] * 3), (PSEUDO, [1.0] * 10)]


@pytest.mark.parametrize(("pseudo", "confidence"), NONE_LOW)
def test_a_domain_without_negatives_leaves_them_to_the_other(pseudo, confidence):
    result = run(make_batch(pseudo=pseudo, confidence=confidence))
    assert torch.isfinite(result.loss) and result.loss > 0
    assert result.source_negatives.tolist() == [7, 7, 0, 7, 0] and result.target_negatives.sum() == 0
    result = run(make_batch(labels=[0, 0, 255]))
    assert torch.isfinite(result.loss) and result.loss > 0
    assert result.source_negatives.sum() == 0 and result.target_negatives.tolist() == [7, 0, 0, 0, 0]


def test_zero_features_stay_finite():
    batch = make_batch()
    queries = torch.zeros_like(batch.queries).requires_grad_(True)
    spoiled = dataclasses.replace(batch, queries=queries, source=batch.source * 0, target=batch.target * 0)
    result = run(spoiled)
    result.loss.backward()
    assert_close(result.class_losses[0], torch.tensor(math.log(8), dtype=DOUBLE))  # eight equal logits
    assert queries.grad is not None and torch.isfinite(queries.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_computed_in_single(dtype):
    batch = make_batch()
    names = ("queries", "source", "target", "confidence")
    lower = dataclasses.replace(batch, **{name: getattr(batch, name).to(dtype) for name in names})
    exact = dataclasses.replace(batch, **{name: getattr(lower, name).double() for name in names})
    result = pull_loss(lower, WEIGHTS.float(), SMALL, dice())
    assert result.loss.dtype == torch.float32
    assert_close(result.loss.double(), pull_loss(exact, WEIGHTS, SMALL, dice()).loss, rtol=1e-5, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert pull_loss(lower, WEIGHTS.float(), SMALL, dice()).loss == result.loss


def test_nearest_is_torchs():
    maps = torch.rand(2, 3, 7, 10)
    for size in ((7, 10), (3, 4), (2, 5), (1, 1), (14, 11)):
        assert torch.equal(pull.nearest(maps, size), interpolate(maps, size=size, mode="nearest"))


def test_maps_become_pixels_in_one_order():
    queries, source = torch.randn(2, WIDTH, 2, 3), torch.randn(2, WIDTH, 2, 3)
    labels, target, probs = torch.randint(5, (2, 8, 6)), torch.randn(1, WIDTH, 2, 2), torch.rand(1, 5, 4, 8)
    made = pull.pull_batch(queries, source, labels, target, probs)
    place = 0
    for b in range(2):
        for row in range(2):
            for column in range(3):
                assert torch.equal(made.queries[place], queries[b, :, row, column])
                assert torch.equal(made.source[place], source[b, :, row, column])
                assert made.labels[place] == labels[b, row * 4, column * 2]
                place += 1
    for place, (row, column) in enumerate(np.ndindex(2, 2)):
        assert torch.equal(made.target[place], target[0, :, row, column])
        assert made.confidence[place] == probs[0, :, row * 2, column * 4].max()
        assert made.pseudo_labels[place] == probs[0, :, row * 2, column * 4].argmax()


def test_wrong_labels_and_settings():
    for labels, pseudo, what in (([0, 5], PSEUDO, "labels"), (LABELS, [-1] + PSEUDO[1:], "pseudo_labels")):
        with pytest.raises(ValueError, match=rf"^{what} has class (5|-1), but allowed are 0-4 and 255"):
            run(make_batch(labels=labels, pseudo=pseudo))
    for wrong in (
        {"temperature": 0.0},
        {"base_queries": 0},
        {"negatives": 0},
        {"unreliable": 1.1},
        {"weight_power": -1},
    ):
        with pytest.raises(ValueError, match="expected temperature above 0"):
            dataclasses.replace(SMALL, **wrong)
