"""PCK against loops, the conventions of published tables told apart, and wrong input."""

import json
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.match.pairs.pairs import DenseFlow, Pair, PairSide
from saot.match.pck import FlowScores, KeyPointScores, flow_hits, point_hits

ALPHAS = (0.02, 0.1, 0.3)


def side(rng, count, box=True):
    size = (int(rng.integers(30, 80)), int(rng.integers(30, 80)))
    points = rng.uniform(0, 30, (count, 2))
    corner = rng.uniform(0, 10, 2)
    edges = (*corner.tolist(), *(corner + rng.uniform(5, 25, 2)).tolist()) if box else None
    return PairSide("s", size, points, rng.random(count) < 0.7, lambda: np.zeros((*size, 3), np.uint8), edges)


def random_pairs(seed=0, number=40, box=True):
    rng = np.random.default_rng(seed)
    pairs, answers = [], []
    for index in range(number):
        count = int(rng.integers(1, 9))
        pairs.append(
            Pair(
                key=str(index),
                category=str(rng.choice(["cat", "dog", "owl"])),
                source=side(rng, count, box),
                target=side(rng, count, box),
                names=tuple(str(row) for row in range(count)),
                groups=((0, 1, 2),) if count > 2 else (),
                attributes={"viewpoint": int(rng.integers(3)), "mirror": int(rng.integers(2))},
            )
        )
        # distances of every size, so that each threshold parts them
        answers.append(pairs[-1].target.points + rng.normal(0, 1, (count, 2)) * rng.choice([0.1, 2.0, 8.0], (count, 1)))
    return pairs, answers


def counted_by_loops(pairs, answers, alpha, threshold, geometry=False):
    """(hits, total) of each pair, one point at a time, as the definition says."""
    found = []
    for pair, answer in zip(pairs, answers, strict=True):
        hits = total = 0
        for row in range(len(pair.names)):
            if not (pair.source.visible[row] and pair.target.visible[row]):
                continue
            if geometry:
                group = [g for g in pair.groups if row in g]
                if not group or sum(bool(pair.target.visible[other]) for other in group[0]) < 2:
                    continue
            if threshold == "box":
                x1, y1, x2, y2 = pair.target.box
                limit = alpha * max(x2 - x1, y2 - y1)
            else:
                limit = alpha * max(pair.target.size)
            x, y = pair.target.points[row]
            hits += math.hypot(answer[row][0] - x, answer[row][1] - y) < limit
            total += 1
        found.append((hits, total))
    return found


@pytest.mark.parametrize("threshold", ["image", "box"])
@pytest.mark.parametrize("geometry", [False, True])
def test_all_averages_agree_with_loops(threshold, geometry):
    pairs, answers = random_pairs()
    scores = KeyPointScores(ALPHAS)
    for pair, answer in zip(pairs, answers, strict=True):
        scores.add(pair, answer)
    report = scores.result()
    table = getattr(report, f"{threshold}_geometry" if geometry else threshold)
    assert table.alphas == report.alphas == ALPHAS

    def figures(chosen, alpha):
        counted = counted_by_loops([pairs[i] for i in chosen], [answers[i] for i in chosen], alpha, threshold, geometry)
        shares = [hits / total for hits, total in counted if total]
        total = sum(total for _, total in counted)
        points = sum(hits for hits, _ in counted) / total if total else None
        return points, (sum(shares) / len(shares) if shares else None), total, len(shares)

    def check(found, chosen):
        for column, alpha in enumerate(ALPHAS):
            points, images, total, number = figures(chosen, alpha)
            assert (found.num_points, found.num_pairs) == (total, number)
            for ours, theirs in ((found.points[column], points), (found.images[column], images)):
                assert ours == theirs if theirs is None else math.isclose(ours, theirs, rel_tol=1e-12)

    everything = range(len(pairs))
    check(table.overall, everything)
    by_category = {}
    for name in ("cat", "dog", "owl"):
        chosen = [i for i in everything if pairs[i].category == name]
        check(table.by_category[name], chosen)
        by_category[name] = [figures(chosen, alpha)[:2] for alpha in ALPHAS]
    for column in range(len(ALPHAS)):
        for kind, mean in enumerate((table.categories, table.categories_of_images)):
            expected = sum(rows[column][kind] for rows in by_category.values()) / 3
            assert math.isclose(mean[column], expected, rel_tol=1e-12)
    for name in ("viewpoint", "mirror"):
        for value, found in table.by_attribute[name].items():
            check(found, [i for i in everything if pairs[i].attributes[name] == value])
    assert 0 < table.overall.points[0] < table.overall.points[1] < table.overall.points[2] <= 1


def test_the_order_of_pairs_does_not_matter():
    pairs, answers = random_pairs()
    reports = []
    for order in (1, -1):
        scores = KeyPointScores(ALPHAS)
        for pair, answer in list(zip(pairs, answers, strict=True))[::order]:
            scores.add(pair, torch.from_numpy(answer))
        reports.append(scores.result())
    assert reports[0] == reports[1]


def one_pair(distance, size=(10, 20), box=(0.0, 0.0, 8.0, 4.0), key="0", category="cat"):
    points = np.array([[2.0, 2.0], [3.0, 3.0]])
    whole = PairSide("s", size, points, np.array([True, True]), lambda: np.zeros((*size, 3), np.uint8), box)
    return Pair(key, category, whole, whole, ("a", "b")), points + [distance, 0.0]


def test_a_distance_equal_to_the_threshold_is_wrong():
    pair, answer = one_pair(2.0)
    assert point_hits(answer, pair, (0.25, 0.2500001)).tolist() == [[False] * 2, [True] * 2]  # 2 of 8
    assert point_hits(answer, pair, (0.1, 0.1000001), "image").tolist() == [[False] * 2, [True] * 2]  # 2 of 20
    pair, answer = one_pair(0.0)
    assert point_hits(answer, pair, (1e-9,)).all()


def test_frames_take_the_side_they_are_named_after():
    pair, _ = one_pair(0.0)
    other = PairSide("t", (40, 30), pair.target.points, pair.target.visible, pair.target.load)
    pair = Pair("0", "cat", pair.source, other, pair.names)  # source 10 x 20, target 40 x 30 (height x width)
    answer = other.points + [3.125, 0.0]
    expected = {"target": (0.078125, 0.0782), "source": (0.15625, 0.1563), "square": (0.1041, 0.1042)}  # of 40, 20, 30
    for frame, (below, above) in expected.items():
        assert point_hits(answer, pair, (below, above), "image", frame).tolist() == [[False] * 2, [True] * 2]
    down = other.points + [0.0, 3.125]  # the square shrinks the height of 40
    assert point_hits(down, pair, (0.078125, 0.0782), "image", "square").tolist() == [[False] * 2, [True] * 2]
    report = KeyPointScores((0.1,), frame="source")
    report.add(pair, answer)
    assert report.result().image.overall.points == (0.0,) and report.result().frame == "source"


def test_weightings_differ_and_are_labelled():
    """Four points right in one pair of cats, none of two in two pairs of dogs."""
    scores = KeyPointScores((0.1,))
    many = PairSide("m", (10, 10), np.full((4, 2), 5.0), np.ones(4, bool), lambda: np.zeros((10, 10, 3), np.uint8))
    scores.add(Pair("cats", "cat", many, many, tuple("abcd")), many.points)
    for key in ("1", "2"):
        pair, answer = one_pair(9.0, key=key, category="dog")
        scores.add(pair, answer, counted=np.array([True, False]))
    table = scores.result().to_dict()["image"]["all"]
    assert table["weighted_by"] == {
        "points": {"0.1": 4 / 6},
        "images": {"0.1": 1 / 3},
        "categories": {"0.1": 1 / 2},
        "categories_of_images": {"0.1": 1 / 2},
    }
    assert (table["num_points"], table["num_pairs"]) == (6, 3)
    assert table["by_category"]["dog"]["weighted_by"]["points"] == {"0.1": 0.0}


def test_what_never_occurred_is_none_and_json():
    empty = KeyPointScores((0.1, 0.2)).result()
    assert empty.image.overall.points == empty.box.categories == (None, None)
    pairs, answers = random_pairs(box=False, number=5)
    scores = KeyPointScores((0.1, 0.2))
    blind = PairSide("b", (9, 9), np.zeros((1, 2)), np.zeros(1, bool), lambda: np.zeros((9, 9, 3), np.uint8))
    scores.add(Pair("blind", "mole", blind, blind, ("a",)), np.full((1, 2), np.nan))  # nothing to answer
    for pair, answer in zip(pairs, answers, strict=True):
        scores.add(pair, answer)
    report = scores.result()
    assert report.image.by_category["mole"].points == (None, None) and report.box.overall.num_pairs == 0
    assert report.image.categories[0] is not None  # moles are left out of the mean
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["box"]["all"]["weighted_by"]["points"] == {"0.1": None, "0.2": None}


def test_predictions_that_do_not_fit_are_refused_and_nothing_is_added():
    scores = KeyPointScores((0.1,))
    pair, answer = one_pair(1.0)
    with pytest.raises(
        ValueError, match=r"has 2 key points, so predictions of shape \(2, 2\) are expected, but \(1, 2\)"
    ):
        scores.add(pair, answer[:1])
    with pytest.raises(ValueError, match="not finite; every common point needs an answer"):
        scores.add(pair, answer * np.nan)
    with pytest.raises(ValueError, match="counted has 3 flags"):
        scores.add(pair, answer, np.ones(3, bool))
    assert scores.result().image.overall.num_points == 0
    scores.add(pair, answer)
    with pytest.raises(ValueError, match="pair 0 was added before"):
        scores.add(pair, answer)
    with pytest.raises(ValueError, match="has no box; use the image threshold"):
        point_hits(answer, one_pair(1.0, box=None)[0])
    for alphas in ((), (0.1, 0.0), (math.nan,)):
        with pytest.raises(ValueError, match="alphas are shares of a side above 0"):
            KeyPointScores(alphas)


# --- dense


def flow_pair(key, category, size, source, valid, flow):
    sides = [
        PairSide(name, shape, np.zeros((0, 2)), np.zeros(0, bool), lambda shape=shape: np.zeros((*shape, 3), np.uint8))
        for name, shape in (("s", source), ("t", size))
    ]
    return Pair(key, category, *sides, (), load_flow=lambda: DenseFlow(np.where(valid[..., None], flow, 0), valid))


def test_dense_pck_agrees_with_loops_and_averages_as_tss_does():
    rng = np.random.default_rng(1)
    scores, by_subset = FlowScores(ALPHAS), {}
    for index in range(12):
        size, source = (int(rng.integers(5, 9)), int(rng.integers(5, 9))), (int(rng.integers(20, 40)), 30)
        valid, flow = rng.random(size) < 0.5, rng.normal(0, 3, (*size, 2)).astype(np.float32)
        answer = flow + rng.normal(0, 2, (*size, 2)).astype(np.float32)
        subset = ("FG3DCar", "JODS", "JODS", "PASCAL")[index % 4]
        scores.add(flow_pair(str(index), subset, size, source, valid, flow), torch.from_numpy(answer))
        shares = []
        for alpha in ALPHAS:
            errors = [
                math.dist(answer[y, x].tolist(), flow[y, x].tolist())
                for y in range(size[0])
                for x in range(size[1])
                if valid[y, x]
            ]
            shares.append(sum(error < alpha * max(source) for error in errors) / len(errors))
        by_subset.setdefault(subset, []).append(shares)
    table = scores.result()
    images = np.concatenate([np.array(rows) for rows in by_subset.values()]).mean(0)
    subsets = np.mean([np.mean(rows, 0) for rows in by_subset.values()], 0)
    assert_close(np.array(table.overall.images), images, rtol=1e-12, atol=0)  # weighted by images
    assert_close(np.array(table.categories_of_images), subsets, rtol=1e-12, atol=0)  # unweighted over the subsets
    assert not np.allclose(images, subsets, rtol=1e-4, atol=0)
    for name, rows in by_subset.items():
        assert_close(np.array(table.by_category[name].images), np.mean(rows, 0), rtol=1e-12, atol=0)
        assert table.by_category[name].num_pairs == len(rows)


def test_dense_pck_is_strict_and_refuses_what_does_not_fit():
    valid = np.zeros((4, 6), bool)
    valid[1, 2:5] = True
    pair = flow_pair("k", "JODS", (4, 6), (8, 20), valid, np.zeros((4, 6, 2), np.float32))
    answer = np.full((4, 6, 2), np.nan, np.float32)  # outside the mask nobody asks
    answer[1, 2:5] = [[2.0, 0.0], [0.0, 1.9], [1.9, 1.9]]
    hits, pixels = flow_hits(answer, pair, (0.1,))  # < 0.1 x 20
    assert hits.tolist() == [1] and pixels == 3
    with pytest.raises(ValueError, match=r"target of 6x4 pixels .* but \(4, 5, 2\) came"):
        flow_hits(answer[:, :5], pair)
    with pytest.raises(ValueError, match="not finite in a pixel that counts"):
        flow_hits(answer * np.nan, pair)
    scores = FlowScores((0.1,))
    scores.add(pair, answer)
    with pytest.raises(ValueError, match="was added before"):
        scores.add(pair, answer)
    nothing = flow_pair("n", "FG3DCar", (4, 6), (8, 20), np.zeros((4, 6), bool), np.zeros((4, 6, 2), np.float32))
    scores.add(nothing, answer)
    table = scores.result()
    assert table.by_category["FG3DCar"].points == (None,) and table.categories == (1 / 3,)
    with pytest.raises(ValueError, match="no dense flow"):
        flow_hits(answer, one_pair(0.0)[0])
