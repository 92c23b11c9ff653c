"""The built-in street scenes: same bytes everywhere, exact labels that agree with one another, 19 classes."""

import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from saot.data import open_images
from saot.scenes import READERS
from saot.scenes import mesh as scene_mesh
from saot.scenes.cycles import park
from saot.scenes.paint import Camera, object_order, project
from saot.scenes.scene import SCENES_VERSION, SPLITS, Scene, load_mask, load_picture, render_scene
from saot.scenes.shade import open_pattern
from saot.scenes.site import occurs

SKY = 10
THINGS = range(11, 19)
SMALL = (126, 252)

DIGEST = """
import hashlib, sys
from saot.scenes.scene import render_scene
for style in ("street", "game"):
    scene = render_scene(style, "val", 7, 126, 252)
    for part in (scene.image, scene.labels, scene.instances, scene.depth):
        sys.stdout.write(hashlib.sha256(part.tobytes()).hexdigest())
    sys.stdout.write(repr([(k.instance, k.class_index, dict(k.points)) for k in scene.keypoints]))
"""


@cache
def small(style: str, split: str, index: int) -> Scene:
    return render_scene(style, split, index, *SMALL)


@cache
def large(style: str, index: int) -> Scene:
    return render_scene(style, "train", index, 504, 1008)


def count(style: str, index: int) -> np.ndarray:
    return np.bincount(small(style, "train", index).labels.ravel(), minlength=256)[:19]


@cache
def counts(style: str) -> np.ndarray:
    """Pixels of each class in the first 24 training pictures."""
    return np.sum([count(style, index) for index in range(24)], axis=0)


def run_digest(threads: str) -> str:
    root = Path(__file__).parents[2] / "src"
    env = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, env=env, check=True)
    return done.stdout


def test_same_bytes_in_every_process_and_with_any_thread_count():
    render_scene("street", "train", 3, 64, 128)  # what came before must not matter either
    namespace: dict[str, object] = {}
    here: list[str] = []
    code = DIGEST.replace("sys.stdout.write", "here.append")
    exec(code, {"here": here, **namespace})
    threads = "1" if os.environ.get("OMP_NUM_THREADS") == "3" else "3"
    assert run_digest(threads) == "".join(here)


def test_pictures_differ_between_index_split_and_style():
    seen = {
        hashlib.sha256(small(style, split, index).labels.tobytes()).hexdigest()
        for style in ("game", "street")
        for split in ("train", "val")
        for index in (0, 1)
    }
    assert len(seen) == 8


def test_version_and_usual_counts():
    assert SCENES_VERSION == "1"
    assert dict(SPLITS) == {"train": 200, "val": 50}
    assert small("game", "val", 100_000).labels.shape == SMALL


FROZEN = {  # class pixels of the first 24 training pictures of version 1 at 126x252, mean colour of the first
    "game": (
        [197402, 44110, 184217, 9693, 11361, 20578, 1446, 2666, 73480, 19550]
        + [132696, 3898, 1351, 23881, 13292, 7417, 8587, 1863, 2289],
        (100.3, 93.2, 85.6),
    ),
    "street": (
        [276000, 15649, 119665, 6462, 2887, 16046, 1652, 3260, 68892, 6791]
        + [83396, 5407, 2799, 90244, 16803, 11337, 18677, 1187, 2390],
        (108.7, 107.2, 90.6),
    ),
}


@pytest.mark.parametrize("style", ["game", "street"])
def test_version_1_is_frozen(style):
    """Any change of the world or its looks needs a new SCENES_VERSION and new numbers in docs/scenes.md."""
    pixels, color = FROZEN[style]
    np.testing.assert_allclose(counts(style), pixels, rtol=0.02)  # another Pillow may round outlines differently
    np.testing.assert_allclose(small(style, "train", 0).image.mean((0, 1)), color, atol=0.5)


def test_loaders_are_the_scene():
    scene = small("street", "val", 1)
    np.testing.assert_array_equal(load_picture("street", "val", 1, *SMALL), scene.image)
    np.testing.assert_array_equal(load_mask("street", "val", 1, *SMALL), scene.labels)


@pytest.mark.parametrize("style", ["game", "street"])
def test_every_class_occurs_in_the_first_40_training_pictures(style):
    found, index = counts(style).copy(), 24
    while (found <= 20).any() and index < 40:
        found += count(style, index)
        index += 1
    assert (found > 20).all(), found


def test_class_frequencies_differ_between_styles():
    game, street = counts("game") / counts("game").sum(), counts("street") / counts("street").sum()
    assert 0.5 * np.abs(game - street).sum() > 0.08  # total variation
    ratio = street / game
    assert (ratio > 1.5).sum() >= 3
    assert (ratio < 1 / 1.5).sum() >= 3


@pytest.mark.parametrize("style", ["game", "street"])
def test_long_tail(style):
    share = np.sort(counts(style) / counts(style).sum())
    assert share[-3:].sum() > 0.5
    assert (share < 0.01).sum() >= 4


@pytest.mark.parametrize("style", ["game", "street"])
def test_types_and_ranges(style):
    scene = small(style, "train", 4)
    assert scene.image.shape == (*SMALL, 3)
    dtypes = [part.dtype for part in (scene.image, scene.labels, scene.instances, scene.depth)]
    assert dtypes == [np.uint8, np.uint8, np.int32, np.float32]
    assert set(np.unique(scene.labels)) <= set(range(19)) | {255}
    assert scene.instances.min() == 0
    assert 20 < scene.image.mean() < 235
    assert scene.image.std() > 20


@pytest.mark.parametrize("style", ["game", "street"])
@pytest.mark.parametrize("index", range(6))
def test_labels_instances_and_depth_agree(style, index):
    scene = small(style, "train", index)
    np.testing.assert_array_equal(np.isinf(scene.depth), scene.labels == SKY)
    assert scene.depth.min() > 0
    for number in np.unique(scene.instances[scene.instances > 0]):
        assert len(np.unique(scene.labels[scene.instances == number])) == 1, number
    countable = np.isin(scene.labels, list(THINGS))
    assert (scene.instances[countable] > 0).all()
    assert set(np.unique(scene.labels[scene.instances > 0])) <= set(THINGS) | {6, 7}


@pytest.mark.parametrize("style", ["game", "street"])
def test_road_depth_follows_the_ground_plane(style):
    """On a level road the inverse depth is linear in the row: (row - horizon) / (focal x camera height)."""
    scene = small(style, "train", 2)
    rows, inverse = [], []
    for row in range(SMALL[0] // 2, SMALL[0]):
        road = (scene.labels[row] == 0) & (scene.depth[row] > 3)
        if road.sum() > 10:
            rows.append(row)
            inverse.append(1 / float(np.median(scene.depth[row][road])))
    fit = np.polyfit(rows, inverse, 1)
    assert fit[0] > 0
    np.testing.assert_allclose(np.polyval(fit, rows), inverse, atol=2e-3)  # 2e-3 / m: float32 and the curb's 12 cm


@pytest.mark.parametrize("style", ["game", "street"])
def test_some_instances_are_smaller_than_a_patch(style):
    found = 0
    for index in range(4):
        scene = large(style, index)
        for number in np.unique(scene.instances[scene.instances > 0]):
            rows, columns = np.nonzero(scene.instances == number)
            found += int(np.ptp(rows) < 16 and np.ptp(columns) < 16 and len(rows) >= 8)
    assert found >= 3


@pytest.mark.parametrize("style", ["game", "street"])
@pytest.mark.parametrize("index", range(3))
def test_visible_key_points_lie_on_their_instance(style, index):
    scene = large(style, index)
    seen = 0
    for key in scene.keypoints:
        rows, columns = np.nonzero(scene.instances == key.instance)
        assert len(rows), "key points of an instance that is not in the picture"
        assert set(np.unique(scene.labels[rows, columns])) == {key.class_index}
        for x, y, visible in key.points.values():
            if visible:
                seen += 1
                assert columns.min() <= round(x) <= columns.max()
                assert rows.min() <= round(y) <= rows.max()
                assert scene.instances[round(y), round(x)] == key.instance
    assert seen >= 5


def test_left_is_right_of_the_picture_for_who_faces_us():
    """A walker or car that comes towards the camera has its left side on the right of the picture."""
    for heading, sign in ((0.0, -1), (np.pi, 1)):
        mesh = scene_mesh.Mesh()
        park(mesh, scene_mesh.BICYCLE, (0.0, 0.0, 10.0), heading, (0.5, 0.5, 0.5))
        camera = Camera(0.0, 1.4, 0.0, 1.0, 0.45)
        u = project(mesh, camera).uv[:, 0]
        at = {point.name: u[point.vertex] for point in mesh.named}
        assert np.sign(at["left_grip"] - at["right_grip"]) == sign


@pytest.mark.parametrize("style", ["game", "street"])
def test_any_size_has_the_same_layout(style):
    """The large mask, sampled at the small one's pixel centres, is the small mask but for outlines."""
    for size, least in (((64, 128), 0.85), ((252, 504), 0.97), ((504, 504), 0.975)):
        scene = render_scene(style, "train", 1, *size)
        rows = ((np.arange(size[0]) + 0.5) * 504 / size[0]).astype(int)
        columns = ((np.arange(size[1]) + 0.5) * 1008 / size[1]).astype(int)
        same = large(style, 1).labels[rows[:, None], columns] == scene.labels
        assert same.mean() > least, (size, same.mean())


def test_largest_size_works():
    scene = render_scene("street", "val", 0, 1024, 2048)
    assert scene.image.shape == (1024, 2048, 3)
    rows, columns = np.arange(126) * 1024 // 126 + 4, np.arange(252) * 2048 // 252 + 4
    assert (scene.labels[rows[:, None], columns] == small("street", "val", 0).labels).mean() > 0.85


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("photo", "train", 0, 64, 128), "style is one of game, street"),
        (("game", "test", 0, 64, 128), "split is one of train, val"),
        (("game", "train", -1, 64, 128), "0 or more"),
        (("game", "train", 0, 63, 128), "64x128 to 1024x2048"),
        (("game", "train", 0, 504, 2049), "504x2049 came"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        render_scene(*arguments)
    assert "\n" not in str(error.value)


def test_occurs_spreads_a_share_evenly():
    hits = [occurs(0.2, i, 0.3) for i in range(100)]
    assert sum(hits) == 20
    assert np.diff(np.flatnonzero(hits)).tolist() == [5] * 19


def test_an_object_behind_another_is_painted_first():
    """Footprints decide, not centres: a person beside a long bus is in front of it or behind it by x."""
    mesh = scene_mesh.Mesh()
    look = scene_mesh.Look(scene_mesh.FLAT, (1.0, 1.0, 1.0))
    spans = ((2.0, 4.0, 5.0, 25.0), (0.8, 1.2, 22.0, 22.4), (4.5, 5.0, 8.0, 8.4))  # bus, before it, behind it
    for x0, x1, z0, z1 in spans:
        mesh.begin(0, (0.0, 0.0, 0.0))
        mesh.ground([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], look)
    camera = Camera(0.0, 1.4, 0.0, 1.0, 0.45)
    rank = object_order(mesh, project(mesh, camera), camera)
    assert rank[2] < rank[0] < rank[1]


def test_one_looks_through_a_wheel_but_not_through_its_rim():
    radius, n = 0.35, 14
    s, t = radius * np.sin(np.pi / n), radius * np.cos(np.pi / n)  # the hub, seen from a corner of the rim
    s_values = np.array([s, s + 0.5 * radius, s + 0.97 * radius], np.float32)
    t_values = np.full(3, t, np.float32)
    assert open_pattern(scene_mesh.SPOKES, radius, s_values, t_values).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("count=1000001", "count= of at most 1,000,000"),
        ("count=1,height=8193", "height= of at most 8,192"),
        ("drives=1,first=99999999999", "first= of at most 1,000,000"),
    ],
)
def test_more_than_anyone_wants_is_refused_before_its_names_are_made(options, said):
    with pytest.raises(ValueError, match=said):
        open_images(f"scenes:game:train,{options}", readers=READERS)
