"""Pairs cut from the scenes: points on their objects, truth in space, mirrors, covers, and the same bytes again."""

from functools import cache

import numpy as np
import pytest

from saot.match.pairs import cuts as pair_cuts
from saot.match.pairs.cuts import POINTS, ScenePairSettings, scene_camera, scene_lens
from saot.match.pairs.generated import scene_pairs
from saot.match.pairs.pairs import Pair
from saot.match.pairs.readers import open_pairs
from saot.scenes.paint import project
from saot.scenes.scene import render_scene

CLASSES = ("car", "person", "bicycle")


@cache
def drawn(count=6, **changes) -> list[Pair]:
    return list(
        scene_pairs(
            ScenePairSettings("game-street", "val", CLASSES, **({"mirror": 0.4, "occlusion": 0.0} | changes)), count
        )
    )


def sides(pairs):
    return [side for pair in pairs for side in (pair.source, pair.target)]


def test_points_lie_on_their_object_and_three_are_common():
    pairs = drawn()
    assert [pair.category for pair in pairs] == list(CLASSES) * 2
    for pair in pairs:
        assert pair.common.sum() >= 3 and pair.names == POINTS[pair.category]
        assert pair.source.name.startswith("game/val/") and pair.target.name.startswith("street/val/")
    for side in sides(pairs):
        mask, box = side.mask(), side.box
        columns, rows = np.rint(side.points[side.visible]).astype(int).T
        assert mask[rows, columns].all()
        assert side.image().shape == (240, 240, 3) and side.image().dtype == np.uint8
        ys, xs = np.nonzero(mask)
        inside = box[0] - 1 <= xs.min() <= xs.max() <= box[2] + 1 and box[1] - 1 <= ys.min() <= ys.max() <= box[3] + 1
        assert inside and box[0] >= -0.5 and box[2] <= 239.5


def test_points_in_space_fall_on_their_pixels_and_the_road_is_level():
    for side in sides(drawn()):
        depth, space = side.depth(), side.space()
        finite = np.isfinite(depth)
        rows, columns = np.indices(depth.shape)
        places = side.lens.project(space[finite].astype(np.float64))
        # float32 keeps seven digits of points up to some hundred metres away
        np.testing.assert_allclose(places, np.stack([columns, rows], -1)[finite], rtol=0, atol=2e-3)
        assert np.isfinite(space[side.mask()]).all() and (space[finite][:, 2] == depth[finite]).all()


def test_the_camera_is_the_one_that_rendered_the_scene():
    for style, index in (("game", 3), ("street", 14)):
        scene, camera = render_scene(style, "val", index, 252, 504), scene_camera(style, "val", index)
        space = scene_lens(camera, 252, 504).unproject(scene.depth)
        road = space[(scene.labels == 0) & (scene.depth < 25)]
        # the ground is level, so all of the road lies as far below the camera as the camera stands above it
        np.testing.assert_allclose(road[:, 1], -camera.height, rtol=0, atol=0.02 * camera.height)
        points = project(pair_cuts._world(style, "val", index)[1], camera)
        mesh = pair_cuts._world(style, "val", index)[1]
        known = {(item.instance, name): place for item in scene.keypoints for name, place in item.points.items()}
        checked = 0
        for named in mesh.named:
            place = known.get((named.instance, named.name))
            if place is not None:
                np.testing.assert_allclose(place[:2], points.uv[named.vertex] * [504, 252] - 0.5, rtol=0, atol=1e-6)
                vertex = points.camera[named.vertex]
                np.testing.assert_allclose(scene_lens(camera, 252, 504).project(vertex), place[:2], rtol=0, atol=1e-6)
                checked += 1
        assert checked > 20


def test_a_common_point_has_the_depth_of_its_vertex():
    """The same point in space, found through the picture's depth and through the mesh; half a metre of body between."""
    for pair, side in [(p, s) for p in drawn() for s in (p.source, p.target) if not s.name.endswith("mirrored")]:
        style, split, scene, instance = side.name.split("/")
        camera, mesh = pair_cuts._world(style, split, int(scene))
        seen = project(mesh, camera).camera
        places = {point.name: seen[point.vertex] for point in mesh.named if point.instance == int(instance)}
        for row in np.flatnonzero(side.visible):
            x, y = np.rint(side.points[row]).astype(int)
            vertex = places[pair.names[row]]
            assert np.linalg.norm(side.space()[y, x] - vertex) < 0.5
            np.testing.assert_allclose(side.lens.project(vertex), side.points[row], rtol=0, atol=1e-6)


def test_mirrored_sides_keep_left_on_the_objects_left():
    assert {pair.attributes["mirror"] for pair in drawn()} == {0, 1}
    for pair in drawn(3, mirror=1.0, occlusion=0.0):
        assert pair.attributes["mirror"] == 1
        (side,) = [s for s in (pair.source, pair.target) if s.name.endswith("mirrored")]
        style, split, scene, instance = side.name.removesuffix(" mirrored").split("/")
        camera, mesh = pair_cuts._world(style, split, int(scene))
        seen = project(mesh, camera).camera
        for named in mesh.named:
            if named.instance != int(instance):
                continue
            # a mirror swaps names with left and right, and x in space; the mirrored lens puts it where it is marked
            name = named.name.replace("left", "?").replace("right", "left").replace("?", "right")
            if name in pair.names:
                row = pair.names.index(name)
                place = side.lens.project(seen[named.vertex] * [-1, 1, 1])
                np.testing.assert_allclose(place, side.points[row], rtol=0, atol=1e-6)
        assert side.lens.fx > 0


def test_names_make_mirror_pairs_and_groups():
    car, person, bicycle = drawn()[:3]
    named = lambda pair, rows: {pair.names[row] for row in rows}  # noqa: E731
    assert len(car.mirror) == 4 and named(car, car.mirror[0]) == {"front_left_light", "front_right_light"}
    wheels = {f"{end}_{side}_wheel" for end in ("front", "rear") for side in ("left", "right")}
    assert wheels in [named(car, group) for group in car.groups] and len(car.groups) == 2
    assert len(person.mirror) == len(person.groups) == 4
    assert [named(bicycle, group) for group in bicycle.groups] == [{"left_grip", "right_grip"}]
    assert any(pair.geometry_aware.any() for pair in drawn())


def test_covered_points_are_not_visible_and_the_cover_is_in_front():
    assert {pair.attributes["occlusion"] for pair in drawn()} == {0}
    for pair in drawn(3, occlusion=1.0):
        assert pair.attributes["occlusion"] == 3
        for side in (pair.source, pair.target):
            mask, depth = side.mask(), side.depth()
            front = depth < depth[mask].min() - 0.2  # the cover stands 0.3 m before the object
            assert front.any() and not (front & mask).any()
            columns, rows = np.rint(side.points[side.visible]).astype(int).T
            assert mask[rows, columns].all() and not front[rows, columns].any()


def test_scales_and_attributes_vary():
    pairs = drawn()
    for pair in pairs:
        longer = [max(s.box[2] - s.box[0], s.box[3] - s.box[1]) for s in (pair.source, pair.target)]
        ratio = max(longer) / min(longer)
        assert pair.attributes["scale"] == (ratio > 1.25) + (ratio > 1.6)
        assert set(pair.attributes) == {"viewpoint", "scale", "truncation", "occlusion", "mirror"}
    assert len({pair.attributes["scale"] for pair in pairs}) > 1
    assert len({pair.attributes["viewpoint"] for pair in pairs}) > 1


def test_pairs_depend_on_their_index_and_seed_alone():
    pairs = open_pairs("scenes-pairs:game-street:val,count=6,mirror=0.4,occlusion=0.0,classes=car+person+bicycle")
    assert len(pairs) == 6 and pairs.spec.startswith("scenes-pairs:game-street:val,")
    one, again = pairs[4], drawn()[4]
    assert one.key == again.key and (one.source.image() == again.source.image()).all()
    assert (one.target.points == again.target.points).all() and one.attributes == again.attributes
    other = open_pairs("scenes-pairs:game-street:val,count=6,seed=1,classes=car+person+bicycle")[4]
    assert other.key != one.key and other.source.name + other.target.name != one.source.name + one.target.name
    held_out = open_pairs("scenes-pairs:street:train,count=5,classes=truck+rider")
    assert set(held_out.categories) == {"truck", "rider"}
    small = scene_pairs(ScenePairSettings("game-street", "val", CLASSES, size=120), 2)[1]
    assert small.source.image().shape == (120, 120, 3) and small.category == "person"


def test_wrong_settings_are_refused():
    for spec, match in (
        ("scenes-pairs:photo", "styles game, street, game-street, street-game"),
        ("scenes-pairs:game:test", "splits train and val"),
        ("scenes-pairs:game:val,classes=car+dog", "classes are some of person, rider, car"),
        ("scenes-pairs:game:val,classes=car+car", "each once"),
        ("scenes-pairs:game:val,size=8", "size goes from 32 to 1024"),
        ("scenes-pairs:game:val,count=0", "expected one pair or more, but count=0 came"),
        ("scenes-pairs:game:val,mirror=2.0", "shares, 0 to 1"),
        ("scenes-pairs:game:val,width=8", "'width=8' is no option here"),
    ):
        with pytest.raises(ValueError, match=match):
            open_pairs(spec)
