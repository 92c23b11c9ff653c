"""Warped pictures: known warps move points and pixels by exactly what they say; the same seed gives the same pair."""

import numpy as np
import pytest
from PIL import Image

from saot.match.pairs.readers import open_pairs
from saot.match.pairs.warps import (
    Projective,
    WarpSettings,
    change_light,
    projective_warp,
    random_warp,
    thin_plate_warp,
    warp_flow,
    warp_image,
    warp_pair,
)

SIZE = (60, 90)  # height, width


def smooth(size=SIZE):
    """A picture without edges, so that resampling twice loses little."""
    rows, columns = np.indices(size)
    waves = [np.sin(rows / 9 + k) + np.cos(columns / 11 - k) for k in range(3)]
    return (127 + 60 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8)


def shift(x, y):
    return Projective(np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]]))


def test_a_shift_moves_points_and_pixels_by_exactly_it():
    image = smooth()
    pair = warp_pair(image, 3, WarpSettings(points=50, light=False), warp=shift(7.0, -4.0))
    np.testing.assert_allclose(pair.source.points - pair.target.points, [[7.0, -4.0]] * 50, rtol=0, atol=1e-9)
    flow, target = pair.flow(), pair.target.image()
    assert flow.valid[4:, : 90 - 7].all() and not flow.valid[:4].any() and not flow.valid[:, 90 - 7 :].any()
    assert (flow.flow[flow.valid] == [7.0, -4.0]).all()
    assert (target[4:, :83] == image[:-4, 7:]).all() and (target[:4] == 0).all()
    for side in (pair.source, pair.target):  # marked by the frame and by nothing else
        inside = ((side.points >= 0) & (side.points <= [89, 59])).all(-1)
        assert (side.visible == inside).all() and 0 < inside.sum() < 50
    assert 10 < pair.common.sum() < min(pair.source.visible.sum(), pair.target.visible.sum())


@pytest.mark.parametrize("kind", ["tps", "projective"])
def test_the_warped_picture_agrees_with_the_truth(kind):
    image = smooth()
    pair = warp_pair(image, 11, WarpSettings(kind, points=200, light=False))
    flow, target = pair.flow(), pair.target.image().astype(float)
    asked, answers = pair.common_points()
    assert len(asked) > 60

    def at(picture, places):  # bilinear, by loops
        values = []
        for x, y in places:
            left, top = min(int(x), SIZE[1] - 2), min(int(y), SIZE[0] - 2)
            fx, fy = x - left, y - top
            block = picture[top : top + 2, left : left + 2].astype(float)
            values.append(np.einsum("i,j,ijc->c", [1 - fy, fy], [1 - fx, fx], block))
        return np.array(values)

    cells = np.floor(answers).astype(int)
    corners = [
        flow.valid[np.minimum(cells[:, 1] + b, 59), np.minimum(cells[:, 0] + a, 89)] for a in (0, 1) for b in (0, 1)
    ]
    whole = np.logical_and.reduce(corners)
    # colours of points that correspond: two bilinear readings and rounding of a picture with slopes of 7 a pixel
    assert np.abs(at(image, asked) - at(target, answers))[whole].max() < 4
    # the flow at key points, from its four pixels; a smooth warp is nearly linear between them
    assert np.abs(at(flow.flow, answers) - (asked - answers))[whole].max() < 0.05
    rows, columns = np.nonzero(flow.valid)
    some = np.random.default_rng(0).permutation(len(rows))[:200]
    places = flow.flow[rows, columns][some].astype(float) + np.stack([columns, rows], -1)[some]
    assert np.abs(at(image, places) - target[rows[some], columns[some]]).max() <= 0.51  # rounding


def test_warps_take_handles_to_their_places_and_never_fold():
    rng = np.random.default_rng(5)
    handles = rng.uniform(0, 90, (9, 2))
    places = handles + rng.normal(0, 3, (9, 2))
    np.testing.assert_allclose(thin_plate_warp(handles, places)(handles), places, rtol=0, atol=1e-8)
    affine = thin_plate_warp(handles, handles @ [[1.1, 0.2], [-0.1, 0.9]] + [3, 4])  # no bump is needed
    elsewhere = rng.uniform(-50, 150, (20, 2))
    np.testing.assert_allclose(affine(elsewhere), elsewhere @ [[1.1, 0.2], [-0.1, 0.9]] + [3, 4], rtol=0, atol=1e-7)
    square = np.array([[0.0, 0], [89, 0], [89, 59], [0, 59]])
    moved = square + rng.uniform(-8, 8, (4, 2))
    np.testing.assert_allclose(projective_warp(square, moved)(square), moved, rtol=0, atol=1e-8)
    for kind in ("tps", "projective"):
        for seed in range(6):
            flow = warp_flow(random_warp(np.random.default_rng(seed), SIZE, kind, 0.3), SIZE, (10**6, 10**6))
            places = flow.flow + np.stack(np.meshgrid(np.arange(90), np.arange(60)), -1)
            rows, columns = np.diff(places, axis=0)[:, :-1], np.diff(places, axis=1)[:-1]
            inner = flow.valid[1:, 1:] & flow.valid[:-1, :-1] & flow.valid[1:, :-1] & flow.valid[:-1, 1:]
            assert ((columns[..., 0] * rows[..., 1] - columns[..., 1] * rows[..., 0]) > 0)[inner].all()


def test_light_changes_the_target_alone():
    image = smooth()
    plain, lit = (warp_pair(image, 2, WarpSettings(light=light)) for light in (False, True))
    assert (plain.source.points == lit.source.points).all() and (lit.source.image() == image).all()
    assert np.abs(plain.target.image().astype(int) - lit.target.image()).mean() > 3
    grey = np.full((40, 40, 3), 100, np.uint8)
    means = np.array([change_light(grey, np.random.default_rng(seed)).mean((0, 1)) for seed in range(20)])
    assert np.ptp(means.mean(1)) > 20 and np.ptp(means / means.mean(1, keepdims=True)) > 0.05  # light and cast


def test_the_same_seed_gives_the_same_pair():
    image = smooth()
    one, again, other = (warp_pair(image, seed) for seed in (4, 4, 5))
    assert (one.target.image() == again.target.image()).all() and (one.flow().flow == again.flow().flow).all()
    assert (one.source.points == again.source.points).all() and not (one.source.points == other.source.points).all()


def test_folders_of_pictures_are_opened(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("b", "a"):
        Image.fromarray(smooth((30, 40))).save(tmp_path / "images" / f"{name}.png")
    pairs = open_pairs(f"warps:{tmp_path}:projective,count=2,points=7,seed=1")
    assert pairs.keys == ("a.png:projective:0", "a.png:projective:1", "b.png:projective:0", "b.png:projective:1")
    first, second, third, _ = pairs
    assert first.key == pairs.keys[0] and len(first.names) == 7 and first.flow().valid.shape == (30, 40)
    assert not (first.source.points == second.source.points).all()  # copies differ, and so do pictures
    assert not (first.source.points == third.source.points).all()
    assert (pairs[0].target.image() == first.target.image()).all()
    for split, match in (
        ("affine", "warps are tps or projective"),
        ("tps,count=0", "count of 1 or more"),
        ("tps,strength=0.5", "strength above 0"),
        ("tps,points=0", "expected one key point or more"),
    ):
        with pytest.raises(ValueError, match=match):
            open_pairs(f"warps:{tmp_path}:{split}")


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="cannot be warped"):
        warp_pair(np.zeros((1, 9, 3), np.uint8), 0)
    with pytest.raises(ValueError, match="strength above 0 and at most"):
        random_warp(np.random.default_rng(0), SIZE, "tps", 0.31)
    with pytest.raises(ValueError, match="three of the four corners lie on a line"):
        projective_warp(np.array([[0.0, 0], [1, 1], [2, 2], [0, 1]]), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="the 3 handles coincide or lie on one line"):
        thin_plate_warp(np.array([[0.0, 0], [1, 1], [2, 2]]), np.zeros((3, 2)))
    thin = np.zeros((2, 3, 3), np.uint8)
    assert warp_image(thin, warp_flow(shift(0.0, 0.0), (2, 3), (2, 3))).shape == (2, 3, 3)
