"""Pairs of two instances that are turned towards the camera by any angle, each alone in an empty street.

In the scenes nearly everything is aligned with the road. Here the angle between the headings of source and target is
uniform from 0 to 180 degrees, as far as `FEWEST` common key points are seen: cars share too few beyond some 150.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from saot.match.pairs.cuts import (
    FEWEST,
    SCOUT,
    TRIES,
    Cut,
    ScenePairSettings,
    box_of,
    covered,
    joined,
    named,
    points_on,
    scene_lens,
)
from saot.match.pairs.pairs import Lens, Pair
from saot.scenes import (
    BICYCLE,
    MIXES,
    MOTORCYCLE,
    PERSON,
    SCENES_VERSION,
    Camera,
    Mesh,
    Painted,
    Plan,
    Projected,
    Site,
    Surfaces,
    Vertex,
    add_bus,
    add_car,
    add_person,
    add_rider,
    add_train,
    add_truck,
    build_world,
    depth_of,
    draw_camera,
    draw_light,
    draw_plan,
    game_camera,
    paint,
    paint_order,
    park,
    project,
    rays_of,
    render_color,
    seen_keypoints,
    street_camera,
    surfaces,
)

SHARES = (0.3, 0.8)  # longer side of an instance, in heights of the scene's picture
FARTHEST = 75.0  # metres to the nearest part, unless the picture cannot hold it there
TALLEST = 2048  # rows of a scene that is rendered for a cut
BASES = 24  # headings of the source that an angle is tried with
PATIENCE = 4  # times an angle is tried before another is drawn
_BESIDE = 1.5  # metres of free road beside an instance
_NOWHERE = (1e4, 1e4 + 9.0)  # a crossing behind the end of every street


@dataclass(frozen=True)
class Actor:
    """An instance and its scene, drawn but for the heading.

    Attributes:
        category: Its class.
        look: Style of its scene, "game" or "street".
        seed: Of its shape and colours, the street, the light and the film.
        camera: Of the scene.
        plan: The street before it is made wide enough.
        share: Longer side in the picture, in heights of the picture.
        across: Where on the road it stands, -1 (left) to 1.
    """

    category: str
    look: str
    seed: int
    camera: Camera
    plan: Plan
    share: float
    across: float

    def dice(self) -> list[np.random.Generator]:
        """Generators of the body, the street, the light and the film: the same numbers at each call."""
        return [np.random.default_rng(child) for child in np.random.SeedSequence(self.seed).spawn(4)]


@dataclass(frozen=True)
class View:
    """An actor that stands before its camera at a heading.

    Attributes:
        actor: Who.
        heading: Radians from the direction in which the camera sees it; 0 = seen from behind.
        at: Place on the ground of the world, metres.
        radius: Of its footprint, metres.
        box: First column and row, and those after the last, in a picture of `SCOUT` rows.
        seen: Names of the key points that are seen there.
    """

    actor: Actor
    heading: float
    at: Vertex
    radius: float
    box: tuple[int, int, int, int]
    seen: frozenset[str]


def turned_pair(settings: ScenePairSettings, keys: Sequence[str], categories: Sequence[str], index: int) -> Pair:
    """One pair of the style "turned"; depends on (version, split, seed, index) and the settings.

    The side of a pair is called turned/SPLIT/SEED/INDEX/source/LOOK/HEADING, heading in degrees before any mirror.

    Raises:
        ValueError: If no two views with enough common points are found.
    """
    key = [zlib.crc32(t.encode()) for t in (f"pairs-{SCENES_VERSION}", settings.style, settings.split)]
    rng = np.random.default_rng(np.random.SeedSequence([*key, settings.seed, index]))
    category = categories[index]
    flipped = int(rng.integers(2)) if rng.random() < settings.mirror else None
    angle = 0.0
    for attempt in range(TRIES):
        if attempt % PATIENCE == 0:
            angle = float(rng.uniform(-math.pi, math.pi))
        views = turned_views(category, settings.looks, angle, flipped, rng)
        if views is None:
            continue
        cuts = [_side_cut(settings, view, rng) for view in views]
        sides = [
            f"{keys[index]}/{role}/{view.actor.look}/{round(math.degrees(view.heading))}"
            for role, view in zip(("source", "target"), views, strict=True)
        ]
        drawn = joined(category, sides, cuts, [view.heading for view in views], flipped)
        if drawn is not None:
            return Pair(keys[index], category, *drawn[:2], *named(category), drawn[2])
    raise ValueError(f"no two views of {category} with {FEWEST} common points were found; choose another class or seed")


def turned_views(
    category: str, looks: str, angle: float, flipped: int | None, rng: np.random.Generator
) -> tuple[View, View] | None:
    """Two actors whose headings differ by an angle in the pictures, and share enough key points.

    Args:
        category: Class of both.
        looks: "street", "game", or "both": drawn for either side.
        angle: Heading of the target minus that of the source, radians, as the pictures show them after the mirror.
        flipped: Side that will be mirrored.
        rng: Draws actors and headings.

    Returns:
        Source and target, or None if no heading of the source was found.
    """
    names, mirror, _ = named(category)
    swapped = {names[a]: names[b] for pair in mirror for a, b in (pair, pair[::-1])}
    actors = [draw_actor(category, looks, rng) for _ in range(2)]
    for _ in range(BASES):
        base = float(rng.uniform(-math.pi, math.pi))
        views: list[View] = []
        common = frozenset(names)
        for k, (actor, heading) in enumerate(zip(actors, (base, base + angle), strict=True)):
            views.append(look_at(actor, math.remainder(-heading if flipped == k else heading, 2 * math.pi)))
            common &= {swapped.get(name, name) if flipped == k else name for name in views[-1].seen}
            if len(common) < FEWEST:
                break
        else:
            return views[0], views[1]
    return None


def draw_actor(category: str, looks: str, rng: np.random.Generator) -> Actor:
    """An instance, its street and its camera: as the scenes of that look draw them."""
    look = ("street", "game")[int(rng.integers(2))] if looks == "both" else looks
    mix = MIXES[look]
    present = frozenset(name for name in ("wall", "fence") if rng.random() < getattr(mix, name))
    plan = replace(draw_plan(rng, mix, present), crossing=_NOWHERE)
    return Actor(
        category=category,
        look=look,
        seed=int(rng.integers(2**62)),
        camera=draw_camera(rng, mix, plan.lane),
        plan=plan,
        share=float(np.exp(rng.uniform(*np.log(SHARES)))),
        across=float(rng.uniform(-1, 1)),
    )


# One actor at one heading


def add_actor(mesh: Mesh, actor: Actor, at: Vertex, heading: float) -> int:
    """Put the actor into a mesh; its number there."""
    rng, mix = actor.dice()[0], MIXES[actor.look]
    pick = Site(mesh, rng, mix, actor.plan, frozenset()).pick
    match actor.category:
        case "car":
            add_car(mesh, rng, mix.car_shapes, at, heading, pick(mix.car_colors))
        case "truck":
            add_truck(mesh, rng, at, heading, pick(mix.livery_colors))
        case "bus":
            add_bus(mesh, rng, at, heading, pick(mix.livery_colors))
        case "train":
            add_train(mesh, rng, at, heading, pick(mix.tram_colors))
        case "person":
            add_person(mesh, rng, at, heading, (pick(mix.cloth_colors), pick(mix.cloth_colors)))
        case "rider":
            mount = MOTORCYCLE if rng.random() < mix.motorcycle / (1 + mix.motorcycle) else BICYCLE
            colors = (pick(mix.car_colors), pick(mix.cloth_colors), pick(mix.cloth_colors))
            add_rider(mesh, rng, at, heading, mount, colors)
        case _:
            park(
                mesh, {"bicycle": BICYCLE, "motorcycle": MOTORCYCLE}[actor.category], at, heading, pick(mix.car_colors)
            )
    return mesh.instances


def _stand(actor: Actor, heading: float) -> tuple[Vertex, float]:
    """Where the actor stands so that the picture holds all of it at its share; and the radius of its footprint."""
    camera, mesh = actor.camera, Mesh()
    add_actor(mesh, actor, (camera.x, 0.0, 0.0), heading + camera.yaw)
    x, y, z = project(mesh, camera).camera.T
    rod = 0.15  # half of the thickest limb, metres
    wide, deep, top = np.abs(x).max() + rod, np.abs(z).max() + rod, y.max() + rod
    unit = 2 * camera.focal
    near = min(FARTHEST, unit * max(2 * wide, top + camera.height) / actor.share)
    near = max(near, unit * camera.height / (0.97 - camera.horizon), unit * top / (camera.horizon - 0.02))
    near = max(near, wide * camera.focal / 0.48)
    away, room = near + deep, 0.48 * near / camera.focal - wide
    cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
    side = (actor.across * min(actor.plan.half, 4.0) - camera.x) * cos - away * sin
    side = min(max(side, -room), room)
    at = (float(camera.x + side * cos + away * sin), 0.0, float(away * cos - side * sin))
    return at, float(np.hypot(x, z).max() + rod)


def _turned_by(actor: Actor, at: Vertex, heading: float) -> float:
    """The heading in the world of who is seen from behind at 0."""
    return heading + math.atan2(at[0] - actor.camera.x, at[2])


def look_at(actor: Actor, heading: float) -> View:
    """The actor at a heading: where it stands, and what is seen of it in a small picture without the street."""
    at, radius = _stand(actor, heading)
    mesh = Mesh()
    own = add_actor(mesh, actor, at, _turned_by(actor, at, heading))
    points, table, painted = _painted(mesh, actor.camera, SCOUT)
    numbers = painted.surface.ravel()
    rays = (ray.ravel() for ray in rays_of(actor.camera, SCOUT, 2 * SCOUT))
    depth = np.where(numbers > 0, depth_of(table, numbers, *rays), np.inf).astype(np.float32)
    instances = _instances(mesh, painted)
    known = seen_keypoints(mesh, points, instances, depth.reshape(instances.shape))
    names = frozenset(named(actor.category)[0])
    seen = {n for item in known if item.instance == own for n, (_, _, visible) in item.points.items() if visible}
    return View(actor, heading, at, radius, box_of(instances == own), names & seen)


def _painted(mesh: Mesh, camera: Camera, height: int) -> tuple[Projected, Surfaces, Painted]:
    points = project(mesh, camera)
    table = surfaces(mesh, points, camera)
    return points, table, paint(mesh, points, paint_order(mesh, points, table, camera), camera, height, 2 * height)


def _instances(mesh: Mesh, painted: Painted) -> Int32[np.ndarray, "h w"]:
    return np.asarray([0] + [p.instance for p in mesh.primitives], np.int32)[painted.surface]


# The picture


@dataclass(frozen=True, eq=False)
class Rendered:
    """The street with the actor in it."""

    image: UInt8[np.ndarray, "h w 3"]
    whole: Bool[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w"]
    points: dict[str, tuple[float, float, bool]]


def _render(view: View, height: int) -> Rendered:
    actor, camera = view.actor, view.actor.camera
    _, street, light, film = actor.dice()
    mesh = Mesh()
    own = add_actor(mesh, actor, view.at, _turned_by(actor, view.at, view.heading))
    _add_street(mesh, view, street)
    points, table, painted = _painted(mesh, camera, height)
    color, depth = render_color(mesh, points, painted, table, camera, draw_light(actor.look, light))
    image = game_camera(color) if actor.look == "game" else street_camera(color, film)
    instances = _instances(mesh, painted)
    known = {item.instance: item.points for item in seen_keypoints(mesh, points, instances, depth)}
    return Rendered(image, instances == own, depth, dict(known.get(own, {})))


def _add_street(mesh: Mesh, view: View, rng: np.random.Generator) -> None:
    """A street of the scenes, wide enough for the actor; nobody else is there."""
    actor, own = view.actor, mesh.instances
    mix = replace(MIXES[actor.look], people=0.0, parked_cars=0.0, driving_cars=0.0)
    half = max(actor.plan.half, abs(view.at[0]) + view.radius + _BESIDE)
    plan = replace(actor.plan, half=half, end=max(actor.plan.end, view.at[2] + view.radius + 20.0))
    build_world(Site(mesh, rng, mix, plan, frozenset()))
    others = {p.owner for p in mesh.primitives if p.instance > own and PERSON <= p.class_index <= BICYCLE}
    mesh.primitives = [p for p in mesh.primitives if p.owner not in others]  # each street has a walker at least
    mesh.named = [point for point in mesh.named if point.instance <= own]
    for owner in others:
        mesh.placements[owner] = mesh.placements[owner]._replace(shadow=0.0)


def cut_view(view: View, size: int, rng: np.random.Generator) -> Cut:
    """The instance with a margin of 1.1 to 2.2 of its longer side, anywhere inside that margin.

    The scene is rendered at the height at which the cut has its size, so nothing is resampled.
    """
    box = np.array(view.box) / SCOUT
    longer = float((box[2:] - box[:2]).max())
    side = longer * float(np.exp(rng.uniform(np.log(1.1), np.log(2.2))))
    height = round(size / min(max(side, size / TALLEST), 1.0))
    room = np.maximum(size - (box[2:] - box[:2]) * height, 0) / 2
    middle = (box[:2] + box[2:]) / 2 * height + rng.uniform(-0.8, 0.8, 2) * room
    x, y = np.clip(np.rint(middle - size / 2), 0, [2 * height - size, height - size]).astype(int).tolist()
    scene = _render(view, height)
    window = np.s_[y : y + size, x : x + size]
    mask = scene.whole[window].copy()
    names = named(view.actor.category)[0]
    points, visible = np.zeros((len(names), 2)), np.zeros(len(names), bool)
    for row, name in enumerate(names):
        if name in scene.points:
            px, py, visible[row] = scene.points[name]
            points[row] = px - x, py - y
    edges = np.array(box_of(scene.whole))
    inner = np.clip(edges - (x, y, x, y), 0, size)
    x1, y1, x2, y2 = (inner - 0.5).tolist()
    lens = scene_lens(view.actor.camera, height, 2 * height)
    return Cut(
        image=scene.image[window].copy(),
        mask=mask,
        depth=scene.depth[window].copy(),
        points=points,
        visible=visible & points_on(points, mask),
        box=(x1, y1, x2, y2),
        lens=Lens(lens.fx, lens.fy, lens.cx - x, lens.cy - y),
        truncated=bool((inner != edges - (x, y, x, y)).any() or (edges[:2] == 0).any()),
    )


def _side_cut(settings: ScenePairSettings, view: View, rng: np.random.Generator) -> Cut:
    cut = cut_view(view, settings.size, rng)
    if rng.random() >= settings.occlusion:
        return cut
    other = None
    if rng.random() < 0.5:
        category = settings.classes[int(rng.integers(len(settings.classes)))]
        front = look_at(draw_actor(category, view.actor.look, rng), float(rng.uniform(-math.pi, math.pi)))
        other = cut_view(front, settings.size, rng)
    return covered(cut, rng, other)
