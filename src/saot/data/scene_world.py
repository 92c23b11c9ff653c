"""Layout of one street: cross-section, ground, plots, traffic and people."""

import math
from dataclasses import dataclass

import numpy as np

from saot.data import scene_parts as parts
from saot.data.scene_mesh import (
    BICYCLE,
    BRICK,
    FACADE,
    FENCE,
    FLAT,
    GRASS,
    LEAVES,
    MOTORCYCLE,
    PAVING,
    ROAD,
    ROAD_CLASS,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
    WALL,
    Color,
    Look,
    Mesh,
    shaded,
)
from saot.data.scene_people import add_person, add_rider
from saot.data.scene_styles import Mix
from saot.data.scene_vehicles import add_bus, add_car, add_train, add_truck, park

KERB = 0.12  # metres
QUOTAS = ("rider", "truck", "bus", "train", "motorcycle", "bicycle", "wall", "fence", "light")


@dataclass(frozen=True)
class Plan:
    """Cross-section of the street and where it is crossed, metres."""

    surroundings: int  # 0 downtown, 1 houses with gardens, 2 park, 3 outskirts
    half: float  # half width of the carriageway
    lane: float  # x of the line between two lanes of one direction, 0 = one lane
    lines: int
    parking: bool
    verge: float  # width of the grass between kerb and pavement
    walk: float  # width of the pavement, verge included
    end: float  # where the street ends
    crossing: tuple[float, float]  # z of the crossing street; behind the end = none
    rails: float  # x of the middle of a track, 0 = none


@dataclass(frozen=True)
class Site:
    """What the functions of this file work on."""

    mesh: Mesh
    rng: np.random.Generator
    mix: Mix
    plan: Plan
    present: frozenset[str]

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < share)

    def pick(self, colors: tuple[Color, ...]) -> Color:
        """One of the colours, a little lighter or darker."""
        return shaded(colors[int(self.rng.integers(len(colors)))], self.between(0.85, 1.15))


def occurs(share: float, index: int, phase: float) -> bool:
    """Whether picture `index` is among the given share of all, evenly spread from `phase` on.

    Example:
        >>> [occurs(0.25, i, 0.5) for i in range(6)]
        [False, True, False, False, False, True]
    """
    return math.floor((index + 1) * share + phase) > math.floor(index * share + phase)


def draw_plan(rng: np.random.Generator, mix: Mix, present: frozenset[str]) -> Plan:
    """A random cross-section that has room for what must be present."""
    surroundings = int(rng.choice(4, p=mix.surroundings))
    parking = bool(rng.random() < (0.25, 0.75)[mix.parked_cars > 0.5]) and surroundings != 3
    train = "train" in present
    wide = train or bool(rng.random() < (0.25, 0.35, 0.4, 0.7)[surroundings] * (1.0 if not parking else 0.4))
    lane = 3.3 if wide else 0.0
    half = (6.7 if wide else 3.6) + (2.1 if parking else 0.0)
    end = float(rng.uniform(110, 230))
    start = float(rng.uniform(14, 55)) if rng.random() < 0.65 or "light" in present else 1e4
    side = -1.0 if rng.random() < 0.6 else 1.0
    verge = float(rng.uniform(1.2, 2.6)) if rng.random() < (0.08, 0.4, 0.4, 0.6)[surroundings] else 0.0
    return Plan(
        surroundings=surroundings,
        half=half,
        lane=lane,
        lines=1 if wide or rng.random() < 0.6 else 2 * int(rng.random() < 0.5),
        parking=parking,
        verge=verge,
        walk=verge + float(rng.uniform(*mix.pavement)),
        end=end,
        crossing=(start, start + float(rng.uniform(7, 12))),
        rails=side * 1.65 if train else 0.0,
    )


def build_world(site: Site) -> None:
    """Fill the mesh with a whole street."""
    _ground(site)
    _horizon(site)
    for side in (-1.0, 1.0):
        if site.plan.surroundings == 2 and side < 0:
            _park(site, side)
        else:
            _plots(site, side)
        _furniture(site, side)
    _signals(site)
    _parked(site)
    _traffic(site)
    _walkers(site)


def _ground(site: Site) -> None:
    mesh, plan = site.mesh, site.plan
    road, walk, grass = (shaded(c, site.between(0.88, 1.12)) for c in site.mix.ground_colors)
    z0, z1 = plan.crossing
    outer = plan.half + plan.walk
    mesh.begin(TERRAIN, (0, 0, 0), layer=0)
    mesh.ground([(-400, 0, -3), (400, 0, -3), (400, 0, 900), (-400, 0, 900)], Look(GRASS, grass))
    paving = Look(PAVING, walk, 1.0)
    kerb = Look(FLAT, shaded(walk, 1.08))
    paved = 30.0 if plan.surroundings == 0 else 0.0  # downtown yards are paved
    spans = [(-3.0, min(z0, plan.end))] + ([(z1, plan.end)] if z1 < plan.end else [])
    mesh.begin(SIDEWALK, (0, 0, 0), layer=0)
    for a, b in spans:
        for side in (-1.0, 1.0):
            near, far = side * plan.half, side * (outer + paved)
            mesh.ground([(near, KERB, a), (far, KERB, a), (far, KERB, b), (near, KERB, b)], paving)
            mesh.polygon([(near, 0, a), (near, 0, b), (near, KERB, b), (near, KERB, a)], kerb)
    if plan.verge:
        mesh.part(TERRAIN)
        for a, b in spans:
            for side in (-1.0, 1.0):
                near, far = side * (plan.half + 0.2), side * (plan.half + plan.verge)
                strip = [(near, KERB, a), (far, KERB, a), (far, KERB, b), (near, KERB, b)]
                mesh.ground(strip, Look(GRASS, shaded(grass, 0.95)))
    mesh.part(ROAD_CLASS)
    asphalt = Look(ROAD, road, plan.half, plan.lines, plan.lane, 0.0)
    mesh.ground([(-plan.half, 0, -3), (plan.half, 0, -3), (plan.half, 0, plan.end), (-plan.half, 0, plan.end)], asphalt)
    plain = Look(ROAD, road)
    if z1 < plan.end:
        for side in (-1.0, 1.0):
            near, far = side * outer, side * 150.0
            mesh.part(SIDEWALK)
            for a, b in ((z0 - 2.5, z0), (z1, z1 + 2.5)):
                mesh.ground([(near, KERB, a), (far, KERB, a), (far, KERB, b), (near, KERB, b)], paving)
            mesh.polygon([(side * plan.half, 0, z1), (far, 0, z1), (far, KERB, z1), (side * plan.half, KERB, z1)], kerb)
        mesh.part(ROAD_CLASS)
        mesh.ground([(-150, 0, z0), (150, 0, z0), (150, 0, z1), (-150, 0, z1)], plain)
        for a in (z0 - 4.0, z1 + 0.8):
            zebra = Look(ROAD, road, plan.half, -1.0)
            mesh.ground([(-plan.half, 0, a), (plan.half, 0, a), (plan.half, 0, a + 3.2), (-plan.half, 0, a + 3.2)], zebra)
        white = Look(FLAT, (0.84, 0.84, 0.81))
        mesh.ground([(0.1, 0, z0 - 5.4), (plan.half - 0.3, 0, z0 - 5.4), (plan.half - 0.3, 0, z0 - 5.0), (0.1, 0, z0 - 5.0)], white)
    if plan.rails:
        for x in (-plan.rails, plan.rails):
            bed = Look(ROAD, shaded(road, 0.93), 0.0, 0.0, 0.0, x)
            mesh.ground([(x - 1.1, 0, -3), (x + 1.1, 0, -3), (x + 1.1, 0, plan.end), (x - 1.1, 0, plan.end)], bed)


def _horizon(site: Site) -> None:
    """Distant houses and trees that close the street and the views beside it."""
    plan, mesh = site.plan, site.mesh
    leaf = site.pick(site.mix.leaf_colors)
    for layer in range(2):
        z = plan.end + 90 - 60 * layer
        x = -260.0
        while x < 260:
            w = site.between(10, 30)
            built = site.chance((0.85, 0.5, 0.35, 0.3)[plan.surroundings])
            if built:
                h = site.between(9, 32 if plan.surroundings == 0 else 16) * (1.3 - 0.3 * layer)
                look = Look(FACADE, site.pick(site.mix.wall_colors), float(site.rng.integers(4)), 3.1, 2.6, site.between(0, 1))
                parts.add_tower(mesh, (x, 0.0, z), (w, h), look)
            else:
                mesh.begin(VEGETATION, (x, 0.0, z + 1))
                for k in range(3):
                    r = site.between(3.5, 6.5)
                    look = Look(LEAVES, shaded(leaf, site.between(0.7, 1.0)), site.between(0, 1))
                    mesh.blob((w * (k + 0.5) / 3, r * 0.8, 0), r, int(site.rng.integers(32)), look)
            x += w


def _in_crossing(plan: Plan, z: float, margin: float) -> bool:
    return plan.crossing[0] - margin < z < plan.crossing[1] + margin


def _plots(site: Site, side: float) -> None:
    plan = site.plan
    kind = 0 if plan.surroundings == 2 else plan.surroundings
    line = side * (plan.half + plan.walk)
    setback = (0.0, site.between(3.0, 7.0), 0.0, site.between(4.0, 14.0))[kind]
    floors = int(site.rng.integers(3, 7))
    z = -9.0
    while z < min(plan.end, 190.0):
        length = site.between(*((9, 22), (8, 14), (9, 22), (16, 36))[kind])
        stop = z + length
        if z < plan.crossing[1] + 2.5 and stop > plan.crossing[0] - 2.5:
            if plan.crossing[0] - 2.5 - z > 6.0:
                stop = plan.crossing[0] - 2.5
            else:
                z = plan.crossing[1] + 2.5
                continue
        rare = len(site.present & {"wall", "fence"})
        gap = site.chance((0.06, 0.12, 0.06, 0.40)[kind] + 0.13 * rare)
        if gap:
            _garden(site, side, (z, stop), setback + 9.0)
        else:
            _house(site, side, (z, stop - (0.0, 2.5, 0.0, 2.0)[kind]), line + side * setback, floors)
        if kind in (1, 3) or gap:
            _boundary(site, line + side * 0.15, (z, stop - 0.5), gap)
        if kind == 1 and setback > 3.5 and site.chance(0.6):
            at = (line + side * site.between(1.2, setback - 1.0), KERB, z + site.between(1, length - 1))
            parts.add_tree(site.mesh, site.rng, at, site.between(3.5, 7.5), site.pick(site.mix.leaf_colors))
        z = stop + (0.0, site.between(0.5, 4.0), 0.0, site.between(0.0, 12.0))[kind]


def _house(site: Site, side: float, span: tuple[float, float], x: float, floors: int) -> None:
    kind = 0 if site.plan.surroundings == 2 else site.plan.surroundings
    height = site.between(2.8, 3.5)
    if kind == 1:
        levels, style, shops = int(site.rng.integers(1, 4)), int(site.rng.integers(2)), 0
    elif kind == 3:
        levels, style, shops = int(site.rng.integers(2, 4)), 4 if site.chance(0.5) else 2, 0
    else:
        levels, style = max(2, floors + int(site.rng.integers(-1, 2))), int(site.rng.integers(4))
        shops = int(site.chance(0.55))
    parts.add_house(
        site.mesh,
        site.rng,
        parts.House(
            side=side,
            x=x,
            z0=span[0],
            z1=span[1],
            depth=site.between(8, 12),
            floors=levels,
            floor_height=height,
            bay=site.between(2.2, 3.4),
            style=style,
            ground_floor=shops,
            pitched=site.chance((0.45, 0.9, 0.4, 0.15)[kind]),
            wall=site.pick(site.mix.wall_colors),
            roof=site.pick(site.mix.roof_colors),
            seed=site.between(0, 1),
        ),
    )


def _boundary(site: Site, x: float, span: tuple[float, float], gap: bool) -> None:
    """Wall, fence, hedge or nothing between pavement and plot."""
    stone = site.pick(((0.62, 0.58, 0.52), (0.55, 0.36, 0.28), (0.60, 0.60, 0.60)))
    if "wall" in site.present and site.chance(0.55):
        tall = site.between(0.9, 2.6) if not gap else site.between(1.8, 3.4)
        parts.add_panels(site.mesh, WALL, x, span, tall, Look(BRICK, stone, float(site.rng.integers(3))), KERB)
    elif "fence" in site.present and site.chance(0.75):
        kind = int(site.rng.integers(3))
        color = ((0.55, 0.42, 0.28), (0.13, 0.15, 0.14), (0.35, 0.40, 0.36))[kind]
        look = parts.fence_look(kind, shaded(color, site.between(0.8, 1.3)))
        parts.add_panels(site.mesh, FENCE, x, span, site.between(1.1, 1.9), look, KERB)
    elif site.chance(0.4):
        parts.add_hedge(site.mesh, x, span, site.between(0.8, 1.9), site.pick(site.mix.leaf_colors))


def _garden(site: Site, side: float, span: tuple[float, float], depth: float) -> None:
    line = site.plan.half + site.plan.walk + 0.5
    for _ in range(max(2, int((span[1] - span[0]) / 4))):
        at = (side * (line + site.between(1.0, depth)), 0.0, site.between(*span))
        if site.chance(0.7):
            parts.add_tree(site.mesh, site.rng, at, site.between(4, 9), site.pick(site.mix.leaf_colors))
        else:
            parts.add_bush(site.mesh, site.rng, at, site.between(0.9, 1.8), site.pick(site.mix.leaf_colors))


def _park(site: Site, side: float) -> None:
    plan = site.plan
    line = plan.half + plan.walk
    for z in np.arange(2.0, 130.0, 7.0).tolist():
        if _in_crossing(plan, z, 3.0):
            continue
        for _ in range(2):
            at = (side * (line + site.between(1.5, 28.0)), 0.0, z + site.between(-3, 3))
            parts.add_tree(site.mesh, site.rng, at, site.between(6, 12), site.pick(site.mix.leaf_colors))
        if site.chance(0.3):
            at = (side * (line + site.between(1.0, 8.0)), 0.0, z)
            parts.add_bush(site.mesh, site.rng, at, site.between(0.8, 1.6), site.pick(site.mix.leaf_colors))
    edge = site.rng.random()
    stop = min(plan.crossing[0] - 3.0, 90.0)
    x = side * (line + 0.2)
    if "fence" in site.present and edge < 0.7:
        parts.add_panels(site.mesh, FENCE, x, (-2.0, stop), 1.1, parts.fence_look(1, (0.12, 0.14, 0.13)), KERB)
    elif "wall" in site.present:
        parts.add_panels(site.mesh, WALL, x, (-2.0, stop), 1.0, Look(BRICK, (0.58, 0.55, 0.5), 2.0), KERB)


def _furniture(site: Site, side: float) -> None:
    """Lamp posts, signs, street trees, bollards and bins along the kerb."""
    plan, mesh, rng = site.plan, site.mesh, site.rng
    kerb = side * (plan.half + 0.45)
    spacing, start = site.between(18, 30), site.between(5, 20)
    color = shaded((0.36, 0.38, 0.38), site.between(0.6, 1.3))
    trees = site.chance(0.65 if plan.walk > 2.8 else 0.3)
    leaf, tall = site.pick(site.mix.leaf_colors), site.between(5.5, 9.5)
    for z in np.arange(start, 110.0, spacing).tolist():
        if _in_crossing(plan, z, 1.0):
            continue
        parts.add_lamp_post(mesh, (kerb, KERB, z), side, 7.5, color)
        if trees:
            at = (kerb + side * 0.4, KERB, z + spacing * 0.5)
            if not _in_crossing(plan, at[2], 2.5):
                parts.add_tree(mesh, rng, at, tall * site.between(0.85, 1.15), shaded(leaf, site.between(0.9, 1.1)))
    for _ in range(int(rng.poisson(2.2))):
        z = site.between(8, 55)
        heading = 0.0 if side > 0 or site.chance(0.3) else math.pi
        if not _in_crossing(plan, z, 0.5):
            parts.add_sign(mesh, rng, (kerb, KERB, z), heading + site.between(-0.2, 0.2))
    if site.chance(0.25):
        for z in np.arange(site.between(4, 12), site.between(18, 40), 1.8).tolist():
            if not _in_crossing(plan, z, 0.5):
                parts.add_pole(mesh, (kerb, KERB, z), 0.95, 0.07, (0.25, 0.25, 0.26))
    if "fence" in site.present and site.chance(0.4):  # a railing along the kerb
        z = site.between(5, 14)
        color = ((0.30, 0.32, 0.33), (0.16, 0.30, 0.22), (0.55, 0.56, 0.56))[int(rng.integers(3))]
        span = (z, min(z + site.between(8, 22), plan.crossing[0] - 1.0))
        if span[1] > z + 3:
            kind = 1 if site.chance(0.6) else 3
            parts.add_panels(mesh, FENCE, kerb - side * 0.2, span, 1.15, parts.fence_look(kind, color), KERB)
    for _ in range(int(rng.integers(0, 3))):
        at = (side * (plan.half + plan.walk - 0.5), KERB, site.between(7, 45))
        if not _in_crossing(plan, at[2], 0.5):
            parts.add_bin(mesh, at, site.pick(((0.2, 0.3, 0.2), (0.45, 0.45, 0.45), (0.7, 0.35, 0.1))))


def _signals(site: Site) -> None:
    plan = site.plan
    if "light" not in site.present or plan.crossing[1] > plan.end:
        return
    near, far = plan.crossing[0] - 0.8, plan.crossing[1] + 0.9
    for side in (-1.0, 1.0):
        x = side * (plan.half + 0.5)
        parts.add_traffic_light(site.mesh, site.rng, (x, KERB, near), side, side > 0 and site.chance(0.5))
        parts.add_traffic_light(site.mesh, site.rng, (x, KERB, far), side, False)


def _parked(site: Site) -> None:
    plan = site.plan
    kerb = plan.half - 1.05
    if plan.parking:
        for side in (-1.0, 1.0):
            z = site.between(3.0, 8.0)
            while z < 85:
                if site.chance(site.mix.parked_cars) and not _in_crossing(plan, z, 7.5):
                    heading = 0.0 if side > 0 or site.chance(0.3) else math.pi
                    at = (side * kerb + site.between(-0.12, 0.12), 0.0, z)
                    add_car(site.mesh, site.rng, at, heading, site.pick(site.mix.car_colors))
                z += site.between(5.3, 6.4)
    for name, class_index in (("bicycle", BICYCLE), ("motorcycle", MOTORCYCLE)):
        if name in site.present and (name == "bicycle" or "rider" not in site.present or site.chance(0.5)):
            _stands(site, class_index)


def _stands(site: Site, class_index: int) -> None:
    """One or more places where two-wheelers stand on the pavement."""
    plan = site.plan
    number = 1 + int(site.rng.poisson(site.mix.parked_bicycles if class_index == BICYCLE else 0.3))
    for _ in range(number):
        side = -1.0 if site.chance(0.4) else 1.0
        z, turned = site.between(7, 30), site.chance(0.5)
        for k in range(int(site.rng.integers(1, 5))):
            x = side * (plan.half + (0.6 if turned else 1.1))
            at = (x, KERB, z + k * (2.1 if turned else 0.75))
            heading = 0.0 if turned else math.pi / 2 * (1 if site.chance(0.5) else -1) + site.between(-0.3, 0.3)
            if not _in_crossing(plan, at[2], 1.0):
                park(site.mesh, class_index, at, heading, site.pick(site.mix.car_colors))


def _traffic(site: Site) -> None:
    """Everything that drives: the quota vehicles first, then cars where there is room."""
    plan, mesh, rng = site.plan, site.mesh, site.rng
    lanes = [(1.7, 0.0), (-1.7, math.pi)] + ([(5.0, 0.0), (-5.0, math.pi)] if plan.lane else [])
    taken: dict[float, list[tuple[float, float]]] = {x: [] for x, _ in lanes}

    def place(length: float, low: float, high: float, x: float | None = None) -> tuple[float, float, float] | None:
        for _ in range(8):
            lane = lanes[int(rng.integers(len(lanes)))] if x is None else (x, 0.0 if x > 0 else math.pi)
            z = site.between(low, high) + length / 2
            if all(z + length / 2 + 3 < a or z - length / 2 - 3 > b for a, b in taken[lane[0]]):
                taken[lane[0]].append((z - length / 2, z + length / 2))
                return lane[0], z, lane[1]
        return None

    if "train" in site.present:
        crossing = plan.crossing[1] < 60 and site.chance(0.3)
        color = site.pick(((0.75, 0.62, 0.12), (0.62, 0.12, 0.12), (0.15, 0.30, 0.55), (0.2, 0.45, 0.28)))
        if crossing:
            middle = (plan.crossing[0] + plan.crossing[1]) / 2
            add_train(mesh, rng, (site.between(-14, 14), 0.0, middle), math.pi / 2, color)
        else:
            x = 1.7 if site.chance(0.35) else -1.7
            spot = place(26.0, 12, 26, x)
            if spot is not None:
                add_train(mesh, rng, (spot[0], 0.0, spot[1]), spot[2], color)
    for name, build, length in (("bus", add_bus, 12.0), ("truck", add_truck, 9.0)):
        if name in site.present:
            spot = place(length, 11, 38)
            if spot is not None:
                build(mesh, rng, (spot[0], 0.0, spot[1]), spot[2] + site.between(-0.02, 0.02), site.pick(_LIVERIES))
    for _ in range(int(rng.poisson(site.mix.driving_cars))):
        spot = place(4.6, 8, 75)
        if spot is not None:
            at = (spot[0] + site.between(-0.3, 0.3), 0.0, spot[1])
            add_car(mesh, rng, at, spot[2] + site.between(-0.04, 0.04), site.pick(site.mix.car_colors))
    if plan.crossing[1] < plan.end and "train" not in site.present:
        for z, heading in ((plan.crossing[0] + 2.0, -math.pi / 2), (plan.crossing[1] - 2.0, math.pi / 2)):
            if site.chance(0.45):
                color = site.pick(site.mix.car_colors)
                add_car(mesh, rng, (site.between(-16, 16), 0.0, z), heading, color)
    _riders(site)


_LIVERIES: tuple[Color, ...] = (
    (0.70, 0.12, 0.12),
    (0.85, 0.68, 0.15),
    (0.88, 0.88, 0.86),
    (0.16, 0.30, 0.58),
    (0.22, 0.45, 0.30),
)


def _riders(site: Site) -> None:
    if "rider" not in site.present:
        return
    plan = site.plan
    edge = plan.half - (2.1 if plan.parking else 0.0) - 0.35
    for k in range(1 + int(site.rng.poisson(0.6))):
        motor = "motorcycle" in site.present and (k == 0 or site.chance(0.2))
        mount = MOTORCYCLE if motor else BICYCLE
        colors = (site.pick(site.mix.car_colors), site.pick(site.mix.cloth_colors), site.pick(site.mix.cloth_colors))
        if plan.crossing[1] < 40 and site.chance(0.3):
            at = (site.between(-5, 5), 0.0, plan.crossing[0] + site.between(0.0, 3.0))
            heading = math.pi / 2 * (1 if site.chance(0.5) else -1) + site.between(-0.3, 0.3)
        else:
            side = 1.0 if site.chance(0.65) else -1.0
            at = (side * (edge + site.between(-0.5, 0.2)), 0.0, site.between(6.5, 24))
            heading = (0.0 if side > 0 else math.pi) + site.between(-0.25, 0.25)
        add_rider(site.mesh, site.rng, at, heading, mount, colors)


def _walkers(site: Site) -> None:
    """People on the pavements, some in groups, some on the zebra crossing."""
    plan = site.plan
    for _ in range(1 + int(site.rng.poisson(site.mix.people))):
        side = 1.0 if site.chance(0.5) else -1.0
        x = side * (plan.half + site.between(min(plan.verge, 1.5) + 0.7, plan.walk - 0.4))
        z = site.between(6.0, 50.0)
        y, heading = KERB, (0.0 if site.chance(0.5) else math.pi) + site.between(-0.4, 0.4)
        if plan.crossing[1] < plan.end and site.chance(0.2):
            x, z, y = site.between(-plan.half, plan.half), plan.crossing[0] - site.between(1.2, 3.6), 0.0
            heading = math.pi / 2 * (1 if site.chance(0.5) else -1) + site.between(-0.2, 0.2)
        elif _in_crossing(plan, z, 0.3):
            continue
        for k in range(1 + int(site.chance(0.25))):
            clothes = (site.pick(site.mix.cloth_colors), site.pick(site.mix.cloth_colors))
            add_person(site.mesh, site.rng, (x + 0.65 * k * -side, y, z + 0.1 * k), heading, clothes)
