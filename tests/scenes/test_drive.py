"""A drive through a built-in street: exact motion, one world, a sensor that is new in every frame."""

import numpy as np
import pytest

from saot.data import open_labelled
from saot.scenes import READERS
from saot.scenes import drive as drives
from saot.scenes.drive import render_frame

SIZE = (126, 252)


def pair(style: str, drive: int, number: int):
    return (render_frame(style, "train", drive, n, *SIZE) for n in (number - 1, number))


@pytest.mark.parametrize("style", ["game", "street"])
@pytest.mark.parametrize(("drive", "number"), [(0, 1), (1, 17), (3, 30)])
def test_the_picture_before_has_the_same_where_the_motion_points(style, drive, number):
    before, now = pair(style, drive, number)
    seen = np.isfinite(now.motion).all(-1)
    assert seen.mean() > 0.85  # a tenth of a second hides little
    row, column = np.rint(now.motion[seen]).astype(int).T
    np.testing.assert_array_equal(before.labels[row, column], now.labels[seen])
    moved, stayed = (
        np.abs(now.image[seen].astype(float) - there).mean()
        for there in (before.image[row, column], before.image[seen])
    )
    assert moved < 0.75 * stayed  # what is left is the grain, and what lies between two pixels


def world(frame, row, column, depth):
    """Metres, from the pinhole alone."""
    height, width = SIZE
    camera = frame.camera
    x = ((column + 0.5) / width - 0.5) / camera.focal * depth
    y = (camera.horizon - (row + 0.5) / height) / (2 * camera.focal) * depth
    cos, sin = np.cos(camera.yaw), np.sin(camera.yaw)
    return np.stack([camera.x + x * cos + depth * sin, camera.height + y, camera.z + depth * cos - x * sin], -1)


def test_a_point_on_the_road_keeps_its_place_in_the_world():
    """Followed through six frames, each time from the exact place; on the road y = 0 gives the depth there."""
    frames = [render_frame("street", "train", 2, number, *SIZE) for number in range(10, 16)]
    last = frames[-1]
    rows, columns = np.nonzero((last.labels == 0) & (last.depth < 25) & np.isfinite(last.motion).all(-1))
    assert len(rows) > 500
    place = world(last, rows, columns, last.depth[rows, columns])
    np.testing.assert_allclose(place[:, 1], 0, atol=2e-3)  # float32 depth
    for before, now in zip(frames[-2::-1], frames[:0:-1], strict=True):
        row, column = now.motion[rows, columns].T
        keep = np.isfinite(row)
        row, column, place = row[keep], column[keep], place[keep]
        below = (row + 0.5) / SIZE[0] - before.camera.horizon
        there = world(before, row, column, 2 * before.camera.focal * before.camera.height / below)
        rows, columns = np.rint(row).astype(int), np.rint(column).astype(int)
        here = world(before, rows, columns, before.depth[rows, columns])  # the pixel's own point: goes on from here
        assert np.median(np.abs(there - place).max(-1)) < 5e-3 and np.abs(there - place).max() < 0.2
        place = here


def test_one_world_one_light_and_a_new_grain():
    first, second = (render_frame("street", "val", 1, 4, *SIZE) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    street = drives._street("street", "val", 1)
    assert drives._street("street", "val", 1) is street
    settled = drives._view("street", "val", 1, 4, *SIZE)
    color, _ = drives.render_color(
        settled.mesh, settled.points, settled.painted, settled.table, settled.camera, street.light
    )
    grainy = [
        drives.street_camera(color.copy(), np.random.default_rng(street.film), np.random.default_rng([street.grain, n]))
        for n in (4, 5)
    ]
    np.testing.assert_array_equal(grainy[0], first.image)
    assert 1 < np.abs(grainy[0].astype(float) - grainy[1]).mean() < 12
    np.testing.assert_allclose(grainy[0].mean((0, 1)), grainy[1].mean((0, 1)), atol=1)  # the same cast and exposure


def test_camera_goes_on_and_others_too():
    frames = [render_frame("game", "train", 5, number, *SIZE) for number in (0, 10)]
    assert frames[1].camera.z - frames[0].camera.z == pytest.approx(8.0)
    assert frames[1].camera.x == frames[0].camera.x and frames[1].camera.yaw != frames[0].camera.yaw
    assert np.isnan(frames[0].motion).all()
    speeds = np.concatenate([np.abs(drives._street("game", "train", d).velocity).max(-1) for d in range(6)])
    assert set(np.unique(speeds)) == {0.0, 1.4, 5.0, 8.0}


def test_nothing_that_moves_comes_upon_the_camera():
    for drive in range(8):
        for number in (10, 25, 45):
            depth = render_frame("street", "train", drive, number, 64, 128).depth
            assert np.median(depth[30:50, 54:74]) > 2.5, (drive, number)


def test_drives_as_a_data_set():
    found = open_labelled("scenes:street:val,drives=2,frames=3,first=4,height=64,width=128", None, READERS)
    assert found.images.keys[0] == "street/val/drive004/00000" and len(found) == 6
    assert found.images.keys[4] == "street/val/drive005/00001"
    frame = render_frame("street", "val", 5, 1, 64, 128)
    np.testing.assert_array_equal(found.images.image(4), frame.image)
    np.testing.assert_array_equal(found.mask(4), frame.labels)
    assert len({found.images.fingerprint(n) for n in range(6)}) == 6
    for wrong, said in (
        ("drives=2,count=3", "not both"),
        ("frames=3", "not both"),
        ("drives=0", "at least 1"),
        ("drives=1,frames=52", "at most 51 frames"),
    ):
        with pytest.raises(ValueError, match=said):
            open_labelled(f"scenes:street:val,{wrong}", None, READERS)
    with pytest.raises(ValueError, match="frames 0 to 50"):
        render_frame("game", "train", 0, 51)
