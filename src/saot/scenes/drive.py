"""A drive through a built-in street at ten frames a second: pictures, masks and the exact motion between them.

World, light, textures and camera settings are drawn once a drive; only the place of the camera, the places of what
moves and the grain of the sensor differ between its frames. A frame depends on (version, style, split, drive, number)
alone, and its size changes the sampling, never the layout.
"""

import copy
import math
import zlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from saot.scenes.mesh import BICYCLE, BUS, CAR, MOTORCYCLE, PERSON, RIDER, SKY, TRAIN, TRUCK, Mesh
from saot.scenes.paint import Camera, Painted, Projected, Surfaces, paint, paint_order, project, rotate, surfaces
from saot.scenes.paint import to_camera as seen_from
from saot.scenes.render import draw_light, game_camera, rays_of, render_color, street_camera
from saot.scenes.scene import SCENES_VERSION, check_arguments, draw_camera, rare_things
from saot.scenes.shade import Light, depth_of
from saot.scenes.site import Plan, Site
from saot.scenes.styles import MIXES
from saot.scenes.world import build_world, draw_plan

FRAMES_A_SECOND = 10
LONGEST = 51  # frames of a drive: five seconds, 40 metres
SPEED = 8.0  # metres a second, of the camera and of all that drives
_RIDING, _WALKING = 5.0, 1.4  # metres a second
_SWAY = 0.02  # largest turn of the camera about where it looks, radians
_PERIOD = 4.0  # seconds a sway takes
_OWN = np.array([[-1.1, 1.1], [-1.0, 3.0]])  # about the camera, metres along x and z: where nothing else may come


@dataclass(frozen=True)
class Frame:
    """One frame of a drive with all that is known about it.

    Attributes:
        image: RGB.
        labels: Class index, 255 for none of the 19.
        depth: Metres along the camera's axis, infinite in the sky.
        motion: (row, column), pixels, of where the point that a pixel shows was in the frame before: exact places
            from depth, both cameras and what moved between. NaN where it was hidden or outside, and in a first frame.
        camera: That took it.
    """

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w"]
    motion: Float64[np.ndarray, "h w 2"]
    camera: Camera


@dataclass(frozen=True, eq=False)
class _Street:
    """What all frames of a drive share."""

    mesh: Mesh
    camera: Camera
    light: Light
    velocity: Float64[np.ndarray, "o 2"]  # metres a second along x and z, of each object
    phase: float  # of the sway, radians
    film: int  # what the camera's settings are drawn from
    grain: int


@dataclass(frozen=True, eq=False)
class _View:
    """The street as it stands and is painted at one moment."""

    mesh: Mesh
    camera: Camera
    points: Projected
    table: Surfaces
    painted: Painted


def render_frame(style: str, split: str, drive: int, number: int, height: int = 252, width: int = 504) -> Frame:
    """One frame of a drive: the same bytes for the same arguments.

    The camera goes down its lane at 8 m/s and sways a little; what drives, rides and walks goes on as it heads.
    Things that would drive into the camera are left out, and so is the own car's hood. Game cameras have no grain.

    Args:
        style: `"game"` or `"street"`.
        split: `"train"` or `"val"`: drives of their own.
        drive: Number of the drive, 0 or more.
        number: Of the frame, 0 to 50, a tenth of a second each.
        height: Rows, 64 to 1024.
        width: Columns, 128 to 2048; pixels are square at twice the height.

    Returns:
        Picture, classes, depth and motion. Rods and balls count as flat figures that face the camera, as they are
        painted; their motion lacks what they would turn between two frames.

    Raises:
        ValueError: If the style or split is unknown, or a number or the size out of range.

    Example:
        >>> frame = render_frame("game", "train", 0, 1, 64, 128)
        >>> frame.image.shape, frame.motion.shape, bool(np.isfinite(frame.motion).mean() > 0.8)
        ((64, 128, 3), (64, 128, 2), True)
    """
    check_arguments(style, split, drive, height, width)
    if not 0 <= number < LONGEST:
        raise ValueError(f"a drive has frames 0 to {LONGEST - 1}, but {number} came; choose one of these")
    street = _street(style, split, drive)
    view = _view(style, split, drive, number, height, width)
    color, depth = render_color(view.mesh, view.points, view.painted, view.table, view.camera, street.light)
    classes = np.asarray([SKY] + [p.class_index for p in view.mesh.primitives], np.uint8)
    if style == "game":
        image = game_camera(color)
    else:
        sensor = np.random.default_rng([street.grain, number])
        image = street_camera(color, np.random.default_rng(street.film), sensor)
    if number == 0:
        motion = np.full((height, width, 2), np.nan)
    else:
        motion = _motion(view, _view(style, split, drive, number - 1, height, width))
    return Frame(image, classes[view.painted.surface], depth, motion, view.camera)


@lru_cache(maxsize=2)
def _street(style: str, split: str, drive: int) -> _Street:
    key = [zlib.crc32(text.encode()) for text in (f"drives-{SCENES_VERSION}", style, split)]
    seeds = np.random.SeedSequence([*key, drive]).spawn(4)
    world, view, light, film = (np.random.default_rng(seed) for seed in seeds)
    mix, mesh = MIXES[style], Mesh()
    present = rare_things(mix, key, drive)
    plan = draw_plan(world, mix, present)
    camera = draw_camera(view, mix, plan.lane)
    build_world(Site(mesh, world, mix, plan, present))
    street = _Street(
        mesh,
        camera,
        draw_light(style, light),
        _velocities(mesh, plan),
        float(view.uniform(0, 2 * math.pi)),
        *(int(number) for number in film.integers(2**32, size=2)),
    )
    _clear_the_way(street)
    return street


def _velocities(mesh: Mesh, plan: Plan) -> Float64[np.ndarray, "o 2"]:
    """Of each object, along the axis of the street nearest to its heading; parked ones and buildings stand."""
    classes: list[set[int]] = [set() for _ in mesh.placements]
    for item in mesh.primitives:
        classes[item.owner].add(item.class_index)
    velocity = np.zeros((len(mesh.placements), 2))
    for number, (place, shown) in enumerate(zip(mesh.placements, classes, strict=True)):
        parked = plan.parking and abs(abs(place.x) - (plan.half - 1.05)) < 0.13 and abs(place.sin) < 0.01
        if shown & {CAR, TRUCK, BUS, TRAIN} and not parked:
            speed = SPEED
        elif RIDER in shown and shown & {BICYCLE, MOTORCYCLE}:
            speed = _RIDING
        else:
            speed = _WALKING if PERSON in shown else 0.0
        velocity[number] = speed * np.round([place.sin, place.cos]) if speed else 0.0
    return velocity


def _clear_the_way(street: _Street) -> None:
    """Put far behind the camera, in place, what moves and would come upon it during the longest drive."""
    world, owners = project(street.mesh, street.camera).world, np.asarray(street.mesh.owners)
    low, high = np.full(street.velocity.shape, np.inf), np.full(street.velocity.shape, -np.inf)
    np.minimum.at(low, owners, world[:, [0, 2]])
    np.maximum.at(high, owners, world[:, [0, 2]])
    met = np.zeros(len(low), bool)
    for number in range(LONGEST):
        camera, gone = _camera(street, number), street.velocity * number / FRAMES_A_SECOND
        own = np.array([[camera.x], [camera.z]]) + _OWN
        met |= ((low + gone < own[:, 1]) & (high + gone > own[:, 0])).all(-1)
    for number in np.flatnonzero(met & street.velocity.any(-1)).tolist():
        street.mesh.placements[number] = street.mesh.placements[number]._replace(z=-1000.0)
        street.velocity[number] = 0


def _camera(street: _Street, number: int) -> Camera:
    """At one moment: on along the lane, turned by its sway."""
    seconds = number / FRAMES_A_SECOND
    sway = _SWAY * math.sin(street.phase + 2 * math.pi * seconds / _PERIOD)
    return replace(street.camera, yaw=street.camera.yaw + sway, z=SPEED * seconds)


@lru_cache(maxsize=2)
def _view(style: str, split: str, drive: int, number: int, height: int, width: int) -> _View:
    street = _street(style, split, drive)
    mesh, camera = copy.copy(street.mesh), _camera(street, number)
    gone = street.velocity * number / FRAMES_A_SECOND
    mesh.placements = [
        place._replace(x=place.x + x, z=place.z + z)
        for place, (x, z) in zip(street.mesh.placements, gone.tolist(), strict=True)
    ]
    points = project(mesh, camera)
    table = surfaces(mesh, points, camera)
    painted = paint(mesh, points, paint_order(mesh, points, table, camera), camera, height, width)
    return _View(mesh, camera, points, table, painted)


def _motion(now: _View, before: _View) -> Float64[np.ndarray, "h w 2"]:
    """Where each pixel's point was in the picture before; NaN unless that picture shows the same surface there.

    A pixel's point is ray * depth in the camera's frame. It goes to the world, back by what its object has moved
    since, and into the camera before.
    """
    height, width = now.painted.surface.shape
    number = now.painted.surface.ravel()
    rx, ry = (ray.ravel() for ray in rays_of(now.camera, height, width))
    z = depth_of(now.table, number, rx, ry).astype(np.float64)
    world = rotate(np.stack([rx * z, ry * z, z], -1), -now.camera.yaw)
    world += [now.camera.x, now.camera.height, now.camera.z]
    owner = np.asarray([0] + [p.owner for p in now.mesh.primitives])[number]
    places = (np.asarray([(p.x, p.y, p.z) for p in view.mesh.placements]) for view in (before, now))
    back = np.subtract(*places)[owner]
    world += np.where(number[:, None] > 0, back, 0.0)  # the sky stays
    x, y, z = seen_from(world, before.camera).T
    safe = np.where(z > 0, z, 1.0)
    row = (before.camera.horizon - 2 * before.camera.focal * y / safe) * height - 0.5
    column = (0.5 + before.camera.focal * x / safe) * width - 0.5
    nearest = np.stack([np.rint(row), np.rint(column)]).clip(-1, max(height, width)).astype(np.int64)
    inside = (z > 0) & (nearest >= 0).all(0) & (nearest < [[height], [width]]).all(0)
    there = before.painted.surface[tuple(np.where(inside, nearest, 0))]
    found = np.where(inside & (there == number), np.stack([row, column]), np.nan)
    return found.T.reshape(height, width, 2)
