"""What a pair knows, mirrors, lenses, and what the types refuse."""

import numpy as np
import pytest

from saot.match.pairs.pairs import DenseFlow, Lens, Pair, PairSide, mirrored


def side(points, visible, size=(20, 40), **more):
    points = np.asarray(points, np.float64).reshape(-1, 2)
    return PairSide("one", size, points, np.asarray(visible, bool), lambda: np.zeros((*size, 3), np.uint8), **more)


def test_a_pair_knows_common_and_geometry_aware_points_and_its_mirror():
    places = np.arange(8.0).reshape(4, 2)
    source, target = side(places, [1, 1, 0, 1]), side(places + 1, [1, 0, 1, 1])
    pair = Pair("k", "cat", source, target, ("a", "b", "c", "d"), mirror=((0, 1), (2, 3)), groups=((0, 1), (2, 3)))
    assert pair.common.tolist() == [True, False, False, True]
    # row 0: the target does not show row 1; row 3: the target shows rows 2 and 3, the source need not
    assert pair.geometry_aware.tolist() == [False, False, False, True]
    assert pair.mirror_rows.tolist() == [1, 0, 3, 2]
    asked, answers = pair.common_points()
    assert asked.tolist() == [[0, 1], [6, 7]] and answers.tolist() == [[1, 2], [7, 8]]


def test_a_mirror_swaps_left_and_right_and_the_camera():
    lens = Lens(10.0, 10.0, 3.0, 9.5)
    depth = np.arange(1, 801, dtype=np.float32).reshape(20, 40)
    one = side([[1, 2], [5, 6], [0, 0]], [1, 0, 0], box=(0.0, 1.0, 9.0, 8.0), load_depth=lambda: depth, lens=lens)
    other = mirrored(one, ((0, 1),))
    assert other.points.tolist() == [[34, 6], [38, 2], [0, 0]]  # 39 - x; the place nobody knows stays
    assert other.visible.tolist() == [False, True, False]
    assert other.box == (30, 1, 39, 8)
    flipped = one.space()[:, ::-1] * [-1, 1, 1]
    np.testing.assert_allclose(other.space(), flipped, rtol=0, atol=1e-4)  # float32, hundreds of metres
    twice = mirrored(other, ((0, 1),))
    assert (twice.points == one.points).all() and (twice.depth() == depth).all()


def test_types_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"key point 1 of one is marked as seen at x=60, y=3, outside .* 40x20"):
        side([[1, 1], [60, 3]], [1, 1])
    side([[1, 1], [60, 3]], [1, 0])  # a hidden point may lie outside
    side([[-1.5, 21]], [1])  # two pixels are forgiven
    with pytest.raises(ValueError, match="not finite; mark it"):
        side([[np.nan, 1]], [0])
    with pytest.raises(ValueError, match=r"the box \(5.0, 5.0, 5.0, 9.0\)"):
        side([[1, 1]], [1], box=(5.0, 5.0, 5.0, 9.0))
    with pytest.raises(ValueError, match="names 2 key points, but its source has 1"):
        Pair("k", "cat", side([[1, 1]], [1]), side([[1, 1]], [1]), ("a", "b"))
    with pytest.raises(ValueError, match="name row 4"):
        Pair("k", "cat", side([[1, 1]], [1]), side([[1, 1]], [1]), ("a",), mirror=((0, 4),))
    bare = Pair("k", "cat", side([[1, 1]], [1]), side([[1, 1]], [1]), ("a",))
    for ask, text in ((bare.flow, "no dense flow"), (bare.source.mask, "without a mask"), (bare.source.space, "depth")):
        with pytest.raises(ValueError, match=text):
            ask()
    with pytest.raises(ValueError, match=r"the picture of one has 4x4 pixels .* says 40x20"):
        PairSide("one", (20, 40), np.zeros((0, 2)), np.zeros(0, bool), lambda: np.zeros((4, 4, 3), np.uint8)).image()
    with pytest.raises(ValueError, match="not finite"):
        DenseFlow(np.full((1, 1, 2), np.inf, np.float32), np.ones((1, 1), bool))


def test_a_lens_projects_what_it_unprojects():
    lens, depth = Lens(80.0, 90.0, 12.0, 7.0), np.random.default_rng(0).uniform(1, 50, (9, 11)).astype(np.float32)
    depth[0, 0] = np.inf
    points = lens.unproject(depth)
    rows, columns = np.indices(depth.shape)
    finite = np.isfinite(depth)
    places = lens.project(points[finite].astype(np.float64))
    # float32 keeps seven digits of points up to 50 away
    np.testing.assert_allclose(places, np.stack([columns, rows], -1)[finite], rtol=0, atol=1e-4)
    assert np.isinf(points[0, 0]).all()
