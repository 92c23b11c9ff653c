"""The built-in street scenes: a procedural street world, rendered as an old game or as a photograph.

The world holds the 19 Cityscapes classes with their long tail. Everything is known exactly: classes,
instances, depth and named key points. A picture depends on (version, style, split, index) alone, not on
threads or on what was rendered before; its size changes the sampling, never the layout.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from saot.scenes.mesh import VOID, Mesh
from saot.scenes.paint import Camera, Projected, paint, paint_order, project, surfaces
from saot.scenes.render import draw_light, game_camera, render_color, street_camera
from saot.scenes.site import QUOTAS, Site, occurs
from saot.scenes.styles import MIXES, Mix
from saot.scenes.world import build_world, draw_plan

SCENES_VERSION: str = "1"
SPLITS: Mapping[str, int] = MappingProxyType({"train": 200, "val": 50})  # pictures of a split, unless asked for more
SMALLEST, LARGEST = (64, 128), (1024, 2048)  # height, width
_SKY = 10


@dataclass(frozen=True)
class KeyPoints:
    """Named points of one instance: name -> (x, y, visible), pixels from the centre of the first pixel."""

    instance: int
    class_index: int
    points: Mapping[str, tuple[float, float, bool]]


@dataclass(frozen=True)
class Scene:
    """One rendered picture with all that is known about it."""

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]  # class index, 255 = none of the 19
    instances: Int32[np.ndarray, "h w"]  # 0 = no countable thing
    depth: Float32[np.ndarray, "h w"]  # metres along the camera's axis, inf in the sky
    keypoints: tuple[KeyPoints, ...]


def render_scene(style: str, split: str, index: int, height: int = 504, width: int = 1008) -> Scene:
    """One scene: the same bytes for the same arguments.

    Args:
        style: `"game"` or `"street"`.
        split: `"train"` or `"val"`.
        index: Number of the picture, 0 or more; `SPLITS` has the usual counts, any larger index works too.
        height: Rows, 64 to 1024.
        width: Columns, 128 to 2048. Pixels are square at twice the height; other widths stretch the picture.

    Returns:
        Picture, classes, instances, depth and key points.

    Raises:
        ValueError: If the style or split is unknown, the index negative or the size out of range.

    Example:
        >>> scene = render_scene("game", "train", 0, 64, 128)
        >>> scene.image.shape, scene.labels.shape
        ((64, 128, 3), (64, 128))
    """
    check_arguments(style, split, index, height, width)
    key = scene_key(style, split)
    world, view, light_seed, film = (np.random.default_rng(s) for s in np.random.SeedSequence([*key, index]).spawn(4))
    mix = MIXES[style]
    mesh = Mesh()
    present = rare_things(mix, key, index)
    plan = draw_plan(world, mix, present)
    camera = draw_camera(view, mix, plan.lane)
    build_world(Site(mesh, world, mix, plan, present))
    points = project(mesh, camera)
    table = surfaces(mesh, points, camera)
    painted = paint(mesh, points, paint_order(mesh, points, table, camera), camera, height, width)
    light = draw_light(style, light_seed)
    color, depth = render_color(mesh, points, painted, table, camera, light)
    classes = np.asarray([_SKY] + [p.class_index for p in mesh.primitives], np.uint8)
    numbers = np.asarray([0] + [p.instance for p in mesh.primitives], np.int32)
    labels, instances = classes[painted.surface], numbers[painted.surface]
    if view.random() < mix.hood:
        _hood(view, color, labels, instances, depth)
    image = game_camera(color) if style == "game" else street_camera(color, film)
    return Scene(image, labels, instances, depth, seen_keypoints(mesh, points, instances, depth))


def load_picture(
    style: str, split: str, index: int, height: int = 504, width: int = 1008
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of one scene; arguments as in `render_scene`."""
    return render_scene(style, split, index, height, width).image


def load_mask(style: str, split: str, index: int, height: int = 504, width: int = 1008) -> UInt8[np.ndarray, "h w"]:
    """The class indices of one scene, 255 for none of the 19; arguments as in `render_scene`."""
    return render_scene(style, split, index, height, width).labels


def check_arguments(style: str, split: str, index: int, height: int, width: int) -> None:
    """Refuse what is no picture of the scenes.

    Raises:
        ValueError: If the style or split is unknown, the index negative or the size out of range.
    """
    if style not in MIXES:
        raise ValueError(f"style is one of {', '.join(MIXES)}, but {style!r} came; choose one of these")
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, but {split!r} came; choose one of these")
    if index < 0:
        raise ValueError(f"index counts pictures from 0, but {index} came; give 0 or more")
    if not (SMALLEST[0] <= height <= LARGEST[0] and SMALLEST[1] <= width <= LARGEST[1]):
        raise ValueError(
            f"scenes go from {SMALLEST[0]}x{SMALLEST[1]} to {LARGEST[0]}x{LARGEST[1]} (height x width), "
            f"but {height}x{width} came; choose a size between them"
        )


def scene_key(style: str, split: str) -> list[int]:
    """What the dice of all pictures of a split start from; the picture's index comes behind it."""
    return [zlib.crc32(text.encode()) for text in (f"scenes-{SCENES_VERSION}", style, split)]


def rare_things(mix: Mix, key: list[int], index: int) -> frozenset[str]:
    """The rare things that picture `index` must show: each in its share of all pictures, evenly spread."""
    phases = np.random.default_rng(key).random(len(QUOTAS))
    return frozenset(
        n for n, phase in zip(QUOTAS, phases.tolist(), strict=True) if occurs(getattr(mix, n), index, phase)
    )


def draw_camera(rng: np.random.Generator, mix: Mix, lane: float) -> Camera:
    """A camera of a style, in the lane, or now and then in the next one."""
    x = 1.7 if not lane or rng.random() < 0.6 else 5.0
    return Camera(
        x=x + float(rng.uniform(-0.4, 0.4)),
        height=float(rng.uniform(*mix.camera_height)),
        yaw=float(rng.uniform(-mix.yaw, mix.yaw)),
        focal=float(rng.uniform(*mix.focal)),
        horizon=float(rng.uniform(*mix.horizon)),
    )


def _hood(
    rng: np.random.Generator,
    color: Float32[np.ndarray, "3 h w"],
    labels: UInt8[np.ndarray, "h w"],
    instances: Int32[np.ndarray, "h w"],
    depth: Float32[np.ndarray, "h w"],
) -> None:
    """Draw, in place, the own car's hood along the lower edge; it belongs to no class."""
    height, width = labels.shape
    edge = float(rng.uniform(0.90, 0.96))
    u = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1
    v = (np.arange(height, dtype=np.float32) + 0.5) / height
    above = v[:, None] - (edge + 0.06 * u**2)
    inside: Bool[np.ndarray, "h w"] = above > 0
    tone = np.float32(rng.uniform(0.05, 0.3)) + np.float32(1.6) * np.clip(0.05 - above, 0, 0.05)
    color[:, inside] = tone[inside]
    labels[inside], instances[inside], depth[inside] = VOID, 0, 1.5


def seen_keypoints(
    mesh: Mesh, points: Projected, instances: Int32[np.ndarray, "h w"], depth: Float32[np.ndarray, "h w"]
) -> tuple[KeyPoints, ...]:
    """The named points of all instances that are seen; visible = its own surface shows there."""
    height, width = instances.shape
    seen = set(np.flatnonzero(np.bincount(instances.ravel())).tolist())
    found: dict[int, dict[str, tuple[float, float, bool]]] = {}
    classes: dict[int, int] = {}
    for named in mesh.named:
        z = float(points.camera[named.vertex, 2])
        if named.instance not in seen or z < 0.5:
            continue
        u, v = points.uv[named.vertex].tolist()
        x, y = u * width - 0.5, v * height - 0.5
        column, row = round(x), round(y)
        visible = 0 <= column < width and 0 <= row < height
        visible = visible and int(instances[row, column]) == named.instance
        visible = visible and float(depth[row, column]) > z - 0.35
        points_of = found.setdefault(named.instance, {})
        name = named.name if named.name not in points_of else f"{named.name}_2"
        points_of[name] = (x, y, visible)
        classes[named.instance] = named.class_index
    return tuple(KeyPoints(i, classes[i], MappingProxyType(p)) for i, p in sorted(found.items()))
