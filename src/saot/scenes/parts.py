"""Standing parts of the street world: buildings, walls, fences, poles, lights, signs and plants."""

import math
from dataclasses import dataclass

import numpy as np

from saot.scenes.mesh import (
    BRICK,
    BUILDING,
    CLOTH,
    FACADE,
    FLAT,
    GLOW,
    LEAVES,
    POLE,
    ROOF,
    SLATS,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    VOID,
    WALL,
    Color,
    Look,
    Mesh,
    Vertex,
    end_rect,
    shaded,
    side_rect,
)

STEEL: Color = (0.42, 0.43, 0.44)


@dataclass(frozen=True)
class House:
    """A building beside the street: its plot, metres, and the look of its front."""

    side: float  # -1 left of the street, 1 right of it
    x: float  # of the front
    z0: float
    z1: float
    depth: float
    floors: int
    floor_height: float
    bay: float  # width from window to window
    style: int  # 0-3 window shapes; 4 no windows (warehouse)
    ground_floor: int  # 0 like the others with a door, 1 shops
    pitched: bool
    wall: Color
    roof: Color
    seed: float


def facade_look(house: House, blind: float = 0.0) -> Look:
    """Shader numbers of a front: packed window style and ground floor, floor height, bay width, seed."""
    style = 4 if blind else house.style
    return Look(FACADE, house.wall, style + 8 * house.ground_floor, house.floor_height, house.bay, house.seed)


def add_house(mesh: Mesh, rng: np.random.Generator, house: House) -> None:
    """A building with front, gables, roof and chimneys."""
    mesh.begin(BUILDING, (house.x, 0.0, house.z0), shadow=house.floors * house.floor_height)
    length, back = house.z1 - house.z0, house.side * house.depth
    top = house.floors * house.floor_height
    mesh.group(cull=True)
    mesh.polygon([(0, 0, 0), (0, 0, length), (0, top, length), (0, top, 0)], facade_look(house))
    mesh.group(cull=True)
    blind = float(rng.random() < 0.5)
    mesh.polygon([(0, 0, 0), (back, 0, 0), (back, top, 0), (0, top, 0)], facade_look(house, blind))
    if house.pitched:
        _pitched_roof(mesh, rng, house)
    else:  # a cornice along the flat roof
        mesh.group()
        rim = Look(FLAT, shaded(house.wall, 0.8))
        out = -0.25 * house.side
        mesh.polygon(side_rect(out, -0.1, length, top - 0.35, top + 0.1), rim)
        mesh.polygon(end_rect(-0.1, out, back, top - 0.35, top + 0.1), rim)
    if house.ground_floor == 1 and rng.random() < 0.6:
        _awning(mesh, rng, house, length)


def _pitched_roof(mesh: Mesh, rng: np.random.Generator, house: House) -> None:
    """Gable, the slope above the street, dormers and chimneys."""
    length, back = house.z1 - house.z0, house.side * house.depth
    top = house.floors * house.floor_height
    ridge = top + 0.32 * house.depth
    middle, eave = back / 2, -0.35 * house.side
    mesh.polygon([(0, top, 0), (back, top, 0), (middle, ridge, 0)], Look(BRICK, house.wall, 0.0))
    mesh.group(cull=True)
    low = [(eave, top - 0.15, -0.2), (eave, top - 0.15, length + 0.2)]
    mesh.polygon([*low, (middle, ridge, length + 0.2), (middle, ridge, -0.2)], Look(ROOF, house.roof, 0.35))
    if house.depth > 7 and rng.random() < 0.5:
        for z in np.arange(2.0, length - 2.5, 4.0).tolist():
            _dormer(mesh, house, z, top, middle)
    for _ in range(int(rng.integers(0, 3))):
        z = float(rng.uniform(0.5, length - 1.0))
        mesh.group()
        brick = Look(BRICK, (0.42, 0.24, 0.19), 1.0)
        x = middle * 0.8
        mesh.polygon(side_rect(x, z, z + 0.8, ridge - 1.2, ridge + 0.9), brick)
        mesh.polygon(end_rect(z, x, middle, ridge - 1.2, ridge + 0.9), brick)


def _dormer(mesh: Mesh, house: House, z: float, top: float, middle: float) -> None:
    slope = 0.32 * house.depth / abs(middle)
    x = middle * 0.3
    y = top + slope * abs(x)
    mesh.group()
    mesh.polygon(
        [(x, y - 0.1, z), (x, y - 0.1, z + 1.4), (x, y + 1.3, z + 1.4), (x, y + 1.3, z)],
        Look(FLAT, house.wall),
    )
    mesh.polygon(
        [(x, y + 0.15, z + 0.2), (x, y + 0.15, z + 1.2), (x, y + 1.1, z + 1.2), (x, y + 1.1, z + 0.2)],
        Look(FLAT, (0.16, 0.19, 0.23)),
    )
    mesh.polygon(
        [
            (x, y + 1.3, z - 0.1),
            (x, y + 1.3, z + 1.5),
            (x * 1.8, y + 1.6, z + 1.5),
            (x * 1.8, y + 1.6, z - 0.1),
        ],
        Look(ROOF, house.roof, 0.35),
    )
    mesh.polygon([(x, y - 0.1, z), (x * 1.8, y + 1.2, z), (x, y + 1.3, z)], Look(FLAT, shaded(house.wall, 0.8)))


def _awning(mesh: Mesh, rng: np.random.Generator, house: House, length: float) -> None:
    color = [(0.62, 0.14, 0.12), (0.13, 0.34, 0.24), (0.15, 0.2, 0.42), (0.78, 0.72, 0.6)][int(rng.integers(4))]
    width = float(rng.uniform(2.5, 5.0))
    z = float(rng.uniform(0.3, max(0.4, length - width - 0.3)))
    out = -1.3 * house.side
    mesh.group()
    mesh.polygon([(0, 3.0, z), (0, 3.0, z + width), (out, 2.45, z + width), (out, 2.45, z)], Look(CLOTH, color))
    mesh.polygon(
        [(out, 2.2, z), (out, 2.2, z + width), (out, 2.45, z + width), (out, 2.45, z)],
        Look(CLOTH, shaded(color, 0.8)),
    )
    mesh.polygon([(0, 3.0, z), (out, 2.45, z), (out, 2.2, z)], Look(CLOTH, shaded(color, 0.7)))


def add_tower(mesh: Mesh, at: Vertex, size: tuple[float, float], look: Look) -> None:
    """A distant building that faces the camera: width and height in metres."""
    w, h = size
    mesh.begin(BUILDING, at)
    mesh.polygon([(0, 0, 0), (w, 0, 0), (w, h, 0), (0, h, 0)], look)


def add_panels(
    mesh: Mesh,
    class_index: int,
    x: float,
    span: tuple[float, float],
    height: float,
    look: Look,
    base: float = 0.0,
) -> None:
    """A wall or fence along the street at `x` from z = span[0] to span[1], in pieces of at most 8 m."""
    pieces = max(1, math.ceil((span[1] - span[0]) / 8.0))
    step = (span[1] - span[0]) / pieces
    thick = 0.25 if class_index == WALL else 0.0
    away = thick if x > 0 else -thick
    for i in range(pieces):
        z = span[0] + i * step
        mesh.begin(class_index, (x, base, z), shadow=height * 0.8)
        if thick:
            cap = Look(FLAT, shaded(look.color, 1.15))
            mesh.polygon([(0, height, 0), (0, height, step), (away, height, step), (away, height, 0)], cap)
            mesh.polygon([(0, 0, 0), (away, 0, 0), (away, height, 0), (0, height, 0)], look)
        mesh.polygon([(0, 0, 0), (0, 0, step), (0, height, step), (0, height, 0)], look)
        if class_index == WALL:
            mesh.polygon(
                [(0, height - 0.12, 0), (0, height - 0.12, step), (0, height, step), (0, height, 0)],
                Look(FLAT, shaded(look.color, 1.1)),
            )
        else:
            mesh.stroke((0, 0, 0), (0, height * 1.05, 0), 0.05, Look(FLAT, shaded(look.color, 0.85)))


def add_cross_panels(
    mesh: Mesh, class_index: int, z: float, span: tuple[float, float], height: float, look: Look
) -> None:
    """A wall or fence across the view at distance `z` from x = span[0] to span[1]."""
    mesh.begin(class_index, (span[0], 0.0, z), shadow=height * 0.8)
    w = span[1] - span[0]
    mesh.polygon([(0, 0, 0), (w, 0, 0), (w, height, 0), (0, height, 0)], look)


def fence_look(kind: int, color: Color) -> Look:
    """Wooden pickets (0), metal bars (1), wire mesh (2) or a guard rail (3)."""
    return Look(SLATS, color, float(kind))


def add_lamp_post(mesh: Mesh, at: Vertex, side: float, height: float, color: Color) -> None:
    """A street lamp whose arm reaches over the road."""
    mesh.begin(POLE, at, shadow=0.0)
    look = Look(FLAT, color)
    mesh.stroke((0, 0, 0), (0, height, 0), 0.10, look, 0.06)
    mesh.group()
    mesh.stroke((0, height, 0), (-side * 1.6, height + 0.35, 0), 0.05, look)
    mesh.stroke((-side * 1.3, height + 0.3, 0), (-side * 2.0, height + 0.36, 0), 0.11, Look(FLAT, shaded(color, 0.8)))


def add_pole(mesh: Mesh, at: Vertex, height: float, radius: float, color: Color) -> None:
    """A plain pole or bollard."""
    mesh.begin(POLE, at)
    mesh.stroke((0, 0, 0), (0, height, 0), radius, Look(FLAT, color))


def _light_box(mesh: Mesh, x: float, y: float, lit: int, face: float) -> None:
    mesh.part(TRAFFIC_LIGHT, thing=True)
    case = Look(FLAT, (0.06, 0.065, 0.06))
    mesh.polygon([(x - 0.17, y, 0), (x + 0.17, y, 0), (x + 0.17, y + 0.95, 0), (x - 0.17, y + 0.95, 0)], case)
    mesh.point("bottom", (x, y + 0.08, 0.0))
    mesh.point("top", (x, y + 0.87, 0.0))
    colors: tuple[Color, ...] = ((0.1, 0.85, 0.45), (0.98, 0.72, 0.1), (0.95, 0.1, 0.08))
    for i in range(3):
        color = colors[i] if i == lit and face > 0 else (0.16, 0.15, 0.14)
        mesh.disc((x, y + 0.18 + 0.29 * i, 0.0), 0.115, Look(GLOW if i == lit else FLAT, color))


def add_traffic_light(mesh: Mesh, rng: np.random.Generator, at: Vertex, side: float, arm: bool) -> None:
    """A signal on a pole, with a second one on an arm over the road when `arm`; some show their back."""
    lit, face = int(rng.integers(3)), 1.0 if rng.random() < 0.85 else -1.0
    mesh.begin(POLE, at)
    look = Look(FLAT, shaded(STEEL, 0.8))
    height = 5.6 if arm else 3.4
    mesh.stroke((0, 0, 0), (0, height, 0), 0.08, look)
    if arm:
        mesh.stroke((0, height, 0), (-side * 4.2, height + 0.2, 0), 0.06, look)
        _light_box(mesh, -side * 3.9, height - 0.65, lit, face)
    _light_box(mesh, -side * 0.22, 2.35, lit, face)


SIGN_RED: Color = (0.75, 0.07, 0.09)
SIGN_BLUE: Color = (0.08, 0.25, 0.62)
SIGN_WHITE: Color = (0.93, 0.93, 0.92)
SIGN_YELLOW: Color = (0.95, 0.76, 0.12)


def _plate(sides: int, radius: float, y: float, turn: float) -> list[Vertex]:
    angles = [turn + 2 * math.pi * i / sides for i in range(sides)]
    return [(radius * math.cos(a), y + radius * math.sin(a), 0.0) for a in angles]


def add_sign(mesh: Mesh, rng: np.random.Generator, at: Vertex, heading: float) -> None:
    """One or two plates on a pole: warning, prohibition, stop, direction, priority or a street name."""
    kind = int(rng.integers(7))
    y = float(rng.uniform(2.2, 2.9))
    mesh.begin(POLE, at, heading)
    mesh.stroke((0, 0, 0), (0, y + 0.3, 0), 0.045, Look(FLAT, STEEL))
    mesh.part(TRAFFIC_SIGN, thing=True)
    r = 0.38
    if kind == 0:
        shapes = [
            (_plate(3, r * 1.25, y, math.pi / 2), SIGN_RED),
            (_plate(3, r * 0.8, y, math.pi / 2), SIGN_WHITE),
        ]
    elif kind == 1:
        shapes = [(_plate(14, r, y, 0), SIGN_RED), (_plate(14, r * 0.72, y, 0), SIGN_WHITE)]
    elif kind == 2:
        shapes = [(_plate(8, r, y, math.pi / 8), SIGN_RED), (_rect(0.26, y, 0.07), SIGN_WHITE)]
    elif kind == 3:
        shapes = [(_plate(14, r, y, 0), SIGN_BLUE), (_rect(0.05, y, 0.2), SIGN_WHITE)]
    elif kind == 4:
        shapes = [(_plate(4, r * 1.2, y, 0), SIGN_WHITE), (_plate(4, r * 0.85, y, 0), SIGN_YELLOW)]
    elif kind == 5:
        shapes = [(_rect(0.36, y, 0.36), SIGN_BLUE), (_rect(0.18, y, 0.22), SIGN_WHITE)]
    else:
        shapes = [
            (_rect(0.75, y, 0.3), SIGN_YELLOW if rng.random() < 0.5 else SIGN_BLUE),
            (_rect(0.5, y, 0.06), SIGN_WHITE),
        ]
    for points, color in shapes:
        mesh.polygon(points, Look(FLAT, color))
    if rng.random() < 0.3:
        mesh.polygon(_rect(0.32, y - 0.6, 0.14), Look(FLAT, SIGN_WHITE))
        mesh.polygon(_rect(0.22, y - 0.6, 0.04), Look(FLAT, (0.15, 0.15, 0.15)))
    mesh.point("top", (0.0, y + 0.25, 0.0))
    mesh.point("center", (0.0, y, 0.0))


def _rect(half_width: float, y: float, half_height: float) -> list[Vertex]:
    return end_rect(0.0, -half_width, half_width, y - half_height, y + half_height)


def add_tree(mesh: Mesh, rng: np.random.Generator, at: Vertex, height: float, color: Color) -> None:
    """A tree with a forked trunk and a crown of irregular clumps, brighter at the top."""
    conifer = rng.random() < 0.15
    crown = height * (0.20 if conifer else float(rng.uniform(0.26, 0.34)))
    trunk = height * (0.18 if conifer else 0.34)
    mesh.begin(VEGETATION, at, shadow=height)
    bark = Look(FLAT, shaded((0.33, 0.26, 0.20), float(rng.uniform(0.7, 1.2))))
    base = 0.02 * height + 0.04
    mesh.stroke((0, 0, 0), (0, trunk * 1.4, 0), base, bark, base * 0.7)
    for side in (-1.0, 1.0):
        mesh.stroke((0, trunk * 1.1, 0), (side * crown * 0.6, trunk * 1.9, 0), base * 0.5, bark, base * 0.3)
    clumps = 26 if at[2] < 60 else 12
    for i in range(clumps):
        up = (i + 0.5) / clumps
        if conifer:
            reach = crown * (1.05 - up)
            y, radius = trunk + up * (height - trunk), crown * (0.75 - 0.55 * up)
        else:
            reach = crown * 1.05 * math.sqrt(max(0.0, 1 - (2 * up - 0.9) ** 2 / 1.4))
            y, radius = (
                trunk * 1.25 + up * (height - crown * 0.3 - trunk * 1.25),
                crown * float(rng.uniform(0.26, 0.52)),
            )
            reach *= 1.3 - 0.9 * radius / crown
        turn = float(rng.uniform(0, 2 * math.pi))
        reach *= math.sqrt(float(rng.uniform(0.1, 1.0)))
        light = 0.72 + 0.45 * up + float(rng.uniform(-0.10, 0.10))
        look = Look(LEAVES, shaded(color, light), float(rng.random()))
        center = (reach * math.cos(turn), y, reach * math.sin(turn))
        mesh.blob(center, radius, int(rng.integers(32)), look)


def add_bush(mesh: Mesh, rng: np.random.Generator, at: Vertex, height: float, color: Color) -> None:
    """A low bush: three to five clumps."""
    mesh.begin(VEGETATION, at, shadow=height)
    for _ in range(int(rng.integers(3, 6))):
        x, z = float(rng.uniform(-0.7, 0.7)) * height, float(rng.uniform(-0.5, 0.5)) * height
        look = Look(LEAVES, shaded(color, float(rng.uniform(0.75, 1.1))), float(rng.random()))
        mesh.blob((x, height * float(rng.uniform(0.35, 0.6)), z), height * 0.45, int(rng.integers(32)), look)


def add_hedge(mesh: Mesh, x: float, span: tuple[float, float], height: float, color: Color) -> None:
    """A cut hedge along the street."""
    away = 0.9 if x > 0 else -0.9
    pieces = max(1, math.ceil((span[1] - span[0]) / 8.0))
    step = (span[1] - span[0]) / pieces
    for i in range(pieces):
        mesh.begin(VEGETATION, (x, 0.1, span[0] + i * step), shadow=height)
        front, top = Look(LEAVES, shaded(color, 0.85), 0.3), Look(LEAVES, shaded(color, 1.15), 0.6)
        mesh.polygon([(0, height, 0), (0, height, step), (away, height, step), (away, height, 0)], top)
        mesh.polygon([(0, 0, 0), (away, 0, 0), (away, height, 0), (0, height, 0)], front)
        mesh.polygon([(0, 0, 0), (0, 0, step), (0, height, step), (0, height, 0)], front)


def add_bin(mesh: Mesh, at: Vertex, color: Color) -> None:
    """A litter bin or distribution box: none of the 19 classes."""
    mesh.begin(VOID, at, shadow=1.0)
    for points, factor in (
        ([(-0.3, 0, -0.3), (0.3, 0, -0.3), (0.3, 1.05, -0.3), (-0.3, 1.05, -0.3)], 1.0),
        ([(-0.3, 0, -0.3), (-0.3, 0, 0.3), (-0.3, 1.05, 0.3), (-0.3, 1.05, -0.3)], 0.8),
        ([(0.3, 0, -0.3), (0.3, 0, 0.3), (0.3, 1.05, 0.3), (0.3, 1.05, -0.3)], 0.8),
        ([(-0.3, 1.05, -0.3), (0.3, 1.05, -0.3), (0.3, 1.05, 0.3), (-0.3, 1.05, 0.3)], 1.2),
    ):
        mesh.group(cull=True)
        mesh.polygon([(float(a), float(b), float(c)) for a, b, c in points], Look(FLAT, shaded(color, factor)))
