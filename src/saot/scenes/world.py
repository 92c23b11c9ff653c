"""Layout of one street: cross-section, ground, horizon, plots and street furniture."""

import math

import numpy as np

from saot.scenes import parts as parts
from saot.scenes.mesh import (
    BRICK,
    FACADE,
    FENCE,
    FLAT,
    GRASS,
    LEAVES,
    PAVING,
    ROAD,
    ROAD_CLASS,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
    WALL,
    Color,
    Look,
    end_rect,
    level_rect,
    shaded,
    side_rect,
)
from saot.scenes.site import KERB, Plan, Site, in_crossing
from saot.scenes.styles import Mix
from saot.scenes.traffic import fill_street


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
    fill_street(site)


def _ground(site: Site) -> None:
    """Terrain, pavements with kerbs, verges and the carriageway."""
    mesh, plan = site.mesh, site.plan
    road, walk, grass = (shaded(c, site.between(0.88, 1.12)) for c in site.mix.ground_colors)
    mesh.begin(TERRAIN, (0, 0, 0), layer=0)
    mesh.ground(level_rect((-400, 400), (-3, 900)), Look(GRASS, grass))
    paving = Look(PAVING, walk, 1.0)
    if site.chance(site.mix.smooth_walks):
        paving = Look(ROAD, shaded(road, site.between(1.0, 1.2)))
    asphalt = Look(ROAD, road, plan.half, plan.lines, plan.lane)
    if site.chance(site.mix.cobbles):
        asphalt = Look(PAVING, shaded(road, 1.05), 0.22)
    kerb = Look(FLAT, shaded(walk, 1.08))
    paved = 30.0 if plan.surroundings == 0 else 0.0  # downtown yards are paved
    z0, z1 = plan.crossing
    spans = [(-3.0, min(z0, plan.end))] + ([(z1, plan.end)] if z1 < plan.end else [])
    mesh.begin(SIDEWALK, (0, 0, 0), layer=0)
    for span in spans:
        for side in (-1.0, 1.0):
            near, far = side * plan.half, side * (plan.half + plan.walk + paved)
            mesh.ground(level_rect((near, far), span, KERB), paving)
            mesh.polygon(side_rect(near, *span, 0.0, KERB), kerb)
            if plan.verge:
                mesh.part(TERRAIN)
                strip = (near + side * 0.2, near + side * plan.verge)
                mesh.ground(level_rect(strip, span, KERB), Look(GRASS, shaded(grass, 0.95)))
                mesh.part(SIDEWALK)
    mesh.part(ROAD_CLASS)
    mesh.ground(level_rect((-plan.half, plan.half), (-3, plan.end)), asphalt)
    if z1 < plan.end:
        _crossing(site, road, paving, kerb)
    for x in (-plan.rails, plan.rails) if plan.rails else ():
        bed = Look(ROAD, shaded(road, 0.93), 0.0, 0.0, 0.0, x)
        mesh.ground(level_rect((x - 1.1, x + 1.1), (-3, plan.end)), bed)


def _crossing(site: Site, road: Color, paving: Look, kerb: Look) -> None:
    """The crossing street with its pavements, two zebras and a stop line."""
    mesh, plan = site.mesh, site.plan
    z0, z1 = plan.crossing
    mesh.part(SIDEWALK)
    for side in (-1.0, 1.0):
        near, far = side * plan.half, side * 150.0
        for span in ((z0 - 2.5, z0), (z1, z1 + 2.5)):
            mesh.ground(level_rect((near + side * plan.walk, far), span, KERB), paving)
        mesh.polygon(end_rect(z1, near, far, 0.0, KERB), kerb)
    mesh.part(ROAD_CLASS)
    mesh.ground(level_rect((-150, 150), plan.crossing), Look(ROAD, road))
    for z in (z0 - 4.0, z1 + 0.8):
        zebra = Look(ROAD, road, plan.half, -1.0)
        mesh.ground(level_rect((-plan.half, plan.half), (z, z + 3.2)), zebra)
    mesh.ground(level_rect((0.1, plan.half - 0.3), (z0 - 5.4, z0 - 5.0)), Look(FLAT, (0.84, 0.84, 0.81)))


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
                look = Look(
                    FACADE,
                    site.pick(site.mix.wall_colors),
                    float(site.rng.integers(4)),
                    3.1,
                    2.6,
                    site.between(0, 1),
                )
                parts.add_tower(mesh, (x, 0.0, z), (w, h), look)
            else:
                mesh.begin(VEGETATION, (x, 0.0, z + 1))
                for k in range(3):
                    r = site.between(3.5, 6.5)
                    look = Look(LEAVES, shaded(leaf, site.between(0.7, 1.0)), site.between(0, 1))
                    mesh.blob((w * (k + 0.5) / 3, r * 0.8, 0), r, int(site.rng.integers(32)), look)
            x += w


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
    stone = site.pick(site.mix.stone_colors)
    if "wall" in site.present and site.chance(0.55):
        tall = site.between(0.9, 2.6) if not gap else site.between(1.8, 3.4)
        parts.add_panels(
            site.mesh,
            WALL,
            x,
            span,
            tall,
            Look(BRICK, stone, float(site.rng.choice(3, p=site.mix.stonework))),
            KERB,
        )
    elif "fence" in site.present and site.chance(0.75):
        kind = int(site.rng.choice(3, p=site.mix.fences))
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
        if in_crossing(plan, z, 3.0):
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
        if in_crossing(plan, z, 1.0):
            continue
        parts.add_lamp_post(mesh, (kerb, KERB, z), side, 7.5, color)
        if trees:
            at = (kerb + side * 0.4, KERB, z + spacing * 0.5)
            if not in_crossing(plan, at[2], 2.5):
                parts.add_tree(mesh, rng, at, tall * site.between(0.85, 1.15), shaded(leaf, site.between(0.9, 1.1)))
    for _ in range(int(rng.poisson(2.2))):
        z = site.between(8, 85)
        heading = 0.0 if side > 0 or site.chance(0.3) else math.pi
        if not in_crossing(plan, z, 0.5):
            parts.add_sign(mesh, rng, (kerb, KERB, z), heading + site.between(-0.2, 0.2))
    if site.chance(0.25):
        for z in np.arange(site.between(4, 12), site.between(18, 40), 1.8).tolist():
            if not in_crossing(plan, z, 0.5):
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
        if not in_crossing(plan, at[2], 0.5):
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
