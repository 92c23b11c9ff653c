"""People of the street world: jointed figures that walk, stand or ride."""

import math

import numpy as np

from saot.scenes.cycles import add_bicycle, add_motorcycle
from saot.scenes.mesh import BICYCLE, CLOTH, FLAT, MOTORCYCLE, PERSON, RIDER, Color, Look, Mesh, Vertex, shaded

SKINS: tuple[Color, ...] = ((0.87, 0.68, 0.56), (0.76, 0.56, 0.44), (0.55, 0.38, 0.28), (0.36, 0.25, 0.19))
HAIRS: tuple[Color, ...] = ((0.10, 0.08, 0.07), (0.28, 0.18, 0.10), (0.55, 0.42, 0.24), (0.5, 0.5, 0.5))


def _limb(mesh: Mesh, joints: list[Vertex], radius: float, looks: tuple[Look, Look]) -> None:
    """Two rods through three joints; the end of the second tapers."""
    mesh.group()
    mesh.stroke(joints[0], joints[1], radius, looks[0], radius * 0.85)
    mesh.stroke(joints[1], joints[2], radius * 0.85, looks[1], radius * 0.65)


def _head(mesh: Mesh, at: Vertex, radius: float, skin: Look, hair: Look) -> None:
    x, y, z = at
    mesh.group()
    mesh.stroke((x, y - 1.6 * radius, z), (x, y, z), radius * 0.5, skin)
    mesh.disc(at, radius, skin)
    mesh.disc((x, y + 0.35 * radius, z - 0.45 * radius), radius * 0.98, hair)
    mesh.group()
    mesh.disc((x, y - 0.1 * radius, z + 0.25 * radius), radius * 0.86, skin)


def add_person(mesh: Mesh, rng: np.random.Generator, at: Vertex, heading: float, clothes: tuple[Color, Color]) -> None:
    """A standing or walking person of random height, pose and dress."""
    child = rng.random() < 0.12
    tall = float(rng.uniform(1.1, 1.4) if child else rng.uniform(1.56, 1.9))
    stride = float(rng.uniform(0.05, 0.2)) * (1 if rng.random() < 0.5 else -1) * tall
    skin = Look(CLOTH, SKINS[int(rng.integers(len(SKINS)))])
    hair = Look(CLOTH, HAIRS[int(rng.integers(len(HAIRS)))])
    top, trousers, shoe = Look(CLOTH, clothes[0]), Look(CLOTH, clothes[1]), Look(FLAT, (0.09, 0.08, 0.08))
    dress = float(rng.random())
    broad = float(rng.uniform(0.9, 1.2))
    bag = float(rng.random())
    mesh.begin(PERSON, at, heading, thing=True, shadow=tall)
    hip, shoulder = 0.52 * tall, 0.81 * tall
    for name, side in (("left", -1.0), ("right", 1.0)):
        swing = side * stride
        x = side * 0.055 * tall
        knee = (x, 0.28 * tall, swing * 0.55 + 0.03 * tall)
        foot = (x, 0.04 * tall, swing - (0.03 * tall if swing < 0 else 0.0))
        bare = skin if dress > 0.85 else trousers
        _limb(mesh, [(x, hip, 0.0), knee, foot], 0.052 * tall * broad, (trousers, bare))
        mesh.stroke(foot, (x, 0.02 * tall, foot[2] + 0.09 * tall), 0.026 * tall, shoe)
        mesh.point(f"{name}_foot", foot)
        mesh.point(f"{name}_knee", knee)
        a = side * 0.125 * tall * broad
        elbow = (a * 1.25, 0.63 * tall, -swing * 0.35)
        hand = (a * 1.25, 0.48 * tall, -swing * 0.8 + 0.04 * tall)
        _limb(mesh, [(a, shoulder - 0.02 * tall, 0.0), elbow, hand], 0.036 * tall * broad, (top, top))
        mesh.disc(hand, 0.028 * tall, skin)
        mesh.point(f"{name}_hand", hand)
        mesh.point(f"{name}_shoulder", (a, shoulder - 0.02 * tall, 0.0))
    mesh.group()
    low = 0.36 * tall if dress < 0.25 else hip - 0.03 * tall  # a coat reaches to the knees
    mesh.stroke((0, low, 0), (0, shoulder - 0.05 * tall, 0), 0.092 * tall * broad, top)
    mesh.polygon(
        [
            (-0.10 * tall * broad, low, 0.0),
            (0.10 * tall * broad, low, 0.0),
            (0.135 * tall * broad, shoulder, 0.0),
            (-0.135 * tall * broad, shoulder, 0.0),
        ],
        top,
    )
    if bag < 0.25:
        mesh.group()
        pack = Look(CLOTH, shaded(clothes[1], 0.8))
        mesh.stroke((0, 0.58 * tall, -0.11 * tall), (0, 0.76 * tall, -0.11 * tall), 0.075 * tall, pack)
    _head(mesh, (0.0, 0.925 * tall, 0.01 * tall), 0.07 * tall if child else 0.062 * tall, skin, hair)
    mesh.point("head", (0.0, 0.925 * tall, 0.0))


def add_rider(
    mesh: Mesh,
    rng: np.random.Generator,
    at: Vertex,
    heading: float,
    mount: int,
    colors: tuple[Color, Color, Color],
) -> None:
    """A rider on a bicycle or motorcycle; colours of the machine, the jacket and the trousers."""
    if mount not in (BICYCLE, MOTORCYCLE):
        raise ValueError(f"class {mount} carries no rider; use {BICYCLE} (bicycle) or {MOTORCYCLE} (motorcycle)")
    turn = float(rng.uniform(0, 2 * math.pi))
    skin = Look(CLOTH, SKINS[int(rng.integers(len(SKINS)))])
    helmet = rng.random() < (0.35 if mount == BICYCLE else 1.0)
    cap = Look(CLOTH, shaded(colors[0], 1.1) if helmet else HAIRS[int(rng.integers(len(HAIRS)))])
    jacket, trousers = Look(CLOTH, colors[1]), Look(CLOTH, colors[2])
    mesh.begin(mount, at, heading, thing=True, shadow=1.6)
    if mount == BICYCLE:
        add_bicycle(mesh, colors[0])
        seat, grips, pedal = (0.0, 0.98, -0.2), (0.27, 1.04, 0.30), 0.16
        axis = (0.30, -0.05)
    else:
        add_motorcycle(mesh, colors[0])
        seat, grips, pedal = (0.0, 0.90, -0.25), (0.35, 1.07, 0.34), 0.0
        axis = (0.30, 0.1)
    mesh.part(RIDER, thing=True)
    lift = seat[1]
    neck = (0.0, lift + 0.52, 0.08)
    for name, side in (("left", -1.0), ("right", 1.0)):
        angle = turn + (math.pi if side > 0 else 0.0)
        foot = (side * 0.12, axis[0] + pedal * math.sin(angle), axis[1] + pedal * math.cos(angle))
        knee = (side * 0.15, (foot[1] + lift) / 2 + 0.14, 0.22 + 0.4 * (foot[2] - axis[1]))
        _limb(mesh, [(side * 0.09, lift, seat[2]), knee, foot], 0.085, (trousers, trousers))
        mesh.stroke(foot, (foot[0], foot[1] - 0.03, foot[2] + 0.15), 0.045, Look(FLAT, (0.08, 0.08, 0.08)))
        mesh.point(f"{name}_foot", foot)
        mesh.point(f"{name}_knee", knee)
        hand = (side * grips[0], grips[1], grips[2])
        elbow = (side * 0.30, (neck[1] + hand[1]) / 2 - 0.1, 0.12)
        _limb(mesh, [(side * 0.2, neck[1] - 0.04, neck[2] - 0.02), elbow, hand], 0.058, (jacket, jacket))
        mesh.disc(hand, 0.05, skin)
        mesh.point(f"{name}_hand", hand)
        mesh.point(f"{name}_shoulder", (side * 0.2, neck[1] - 0.04, neck[2] - 0.02))
    mesh.group()
    mesh.stroke((0.0, lift, seat[2]), (0.0, neck[1] - 0.08, neck[2] - 0.02), 0.16, jacket, 0.17)
    mesh.polygon(
        [(-0.15, lift, seat[2]), (0.15, lift, seat[2]), (0.23, neck[1], neck[2]), (-0.23, neck[1], neck[2])],
        jacket,
    )
    head = (0.0, neck[1] + 0.19, neck[2] + 0.05)
    _head(mesh, head, 0.125 if helmet else 0.11, skin, cap)
    mesh.point("head", head)
