"""Vehicles of the street world: cars, trucks, buses and trams, built from faces.

Local frame: +z is forward, +x the vehicle's right, y up, the origin on the ground below the middle.
"""

import math
from dataclasses import dataclass

import numpy as np

from saot.scenes.mesh import (
    BUS,
    CAR,
    FLAT,
    GLASS,
    GLOW,
    PAINT,
    TRAIN,
    TRUCK,
    Color,
    Look,
    Mesh,
    Vertex,
    end_rect,
    shaded,
    side_rect,
)

TYRE = Look(FLAT, (0.07, 0.07, 0.075))
RIM = Look(FLAT, (0.55, 0.56, 0.58))
DARK = Look(FLAT, (0.10, 0.10, 0.11))
PLATE = Look(FLAT, (0.85, 0.85, 0.80))
PANE = Look(GLASS, (0.13, 0.17, 0.21))
RED_LAMP = Look(GLOW, (0.72, 0.06, 0.05))
WHITE_LAMP = Look(GLOW, (0.93, 0.93, 0.86))
AMBER_LAMP = Look(GLOW, (0.95, 0.55, 0.10))


@dataclass(frozen=True)
class CarShape:
    """Measures of a car, metres; the cabin is given by where its windows start and end along the length."""

    length: float
    width: float
    height: float
    waist: float  # height of the lower edge of the windows
    hood: float  # height of the nose
    cabin: tuple[float, float, float, float]  # rear foot, rear roof, front roof, front foot; shares of length


CAR_SHAPES = (
    CarShape(4.5, 1.78, 1.45, 0.92, 0.74, (-0.36, -0.22, 0.10, 0.26)),  # saloon
    CarShape(4.0, 1.74, 1.50, 0.95, 0.76, (-0.49, -0.40, 0.10, 0.28)),  # hatchback
    CarShape(4.7, 1.80, 1.48, 0.94, 0.75, (-0.49, -0.43, 0.08, 0.25)),  # estate
    CarShape(4.6, 1.90, 1.75, 1.08, 0.98, (-0.49, -0.43, 0.08, 0.24)),  # sport utility
    CarShape(5.0, 1.95, 2.00, 1.10, 0.95, (-0.495, -0.47, 0.22, 0.36)),  # van
)


def wheel_ring(x: float, y: float, z: float, radius: float, count: int = 12) -> list[Vertex]:
    """A circle about the x axis."""
    step = 2 * math.pi / count
    return [(x, y + radius * math.sin(i * step), z + radius * math.cos(i * step)) for i in range(count)]


def _wheel(mesh: Mesh, x: float, z: float, radius: float) -> None:
    mesh.polygon(wheel_ring(x, radius, z, radius), TYRE)
    mesh.polygon(wheel_ring(x, radius, z, radius * 0.6, 8), RIM)


def _car_side(mesh: Mesh, shape: CarShape, side: float, body: Look) -> None:
    half, x = shape.length / 2, side * shape.width / 2
    xt = x * 0.82  # the roof is narrower than the body
    rear, roof_rear, roof_front, front = (share * shape.length for share in shape.cabin)
    mesh.group(cull=True)
    profile = [
        (x, 0.24, -half + 0.05),
        (x, 0.24, half - 0.05),
        (x, 0.50, half),
        (x, shape.hood, half - 0.12),
        (x, shape.waist, front),
        (x, shape.waist, -half + 0.06),
        (x, 0.5, -half),
    ]
    mesh.polygon(profile, body)
    mesh.polygon(side_rect(x, -half + 0.1, half - 0.1, 0.20, 0.33), DARK)
    axle = shape.length * 0.31
    wheel = 0.31 + 0.04 * (shape.height > 1.6)
    for z in (-axle, axle):
        mesh.polygon(wheel_ring(x, wheel, z, wheel * 1.18), DARK)
        _wheel(mesh, x, z, wheel)
    mesh.polygon(side_rect(x, half - 0.35, half - 0.06, shape.hood - 0.2, shape.hood - 0.06), WHITE_LAMP)
    mesh.polygon(side_rect(x, -half + 0.03, -half + 0.22, shape.waist - 0.26, shape.waist - 0.06), RED_LAMP)
    mesh.group(cull=True)
    cabin = [(x, shape.waist, rear), (x, shape.waist, front)]
    cabin += [(xt, shape.height, roof_front), (xt, shape.height, roof_rear)]
    mesh.polygon(cabin, body)
    low, high = shape.waist + 0.03, shape.height - 0.09
    lean = x + (xt - x) * 0.84
    middle = (roof_front + roof_rear) / 2 + 0.1
    mesh.polygon(
        [
            (x, low, middle + 0.05),
            (x, low, front - 0.18),
            (lean, high, roof_front - 0.02),
            (lean, high, middle + 0.05),
        ],
        PANE,
    )
    mesh.polygon(
        [
            (x, low, rear + 0.22),
            (x, low, middle - 0.05),
            (lean, high, middle - 0.05),
            (lean, high, roof_rear + 0.1),
        ],
        PANE,
    )


def _car_end(mesh: Mesh, shape: CarShape, forward: float, body: Look) -> None:
    half, w = shape.length / 2, shape.width / 2
    top = shape.hood if forward > 0 else shape.waist
    z = forward * half
    mesh.group(cull=True)
    mesh.polygon(end_rect(z, -w, w, 0.24, top), body)
    mesh.polygon(end_rect(z, -w, w, 0.20, 0.40), Look(PAINT, shaded(body.color, 0.62)))
    for side in (-1.0, 1.0):
        mesh.polygon(end_rect(z, side * w * 0.98, side * (w - 0.22), 0.02, 0.24), TYRE)
        lamp, y = (WHITE_LAMP, top - 0.10) if forward > 0 else (RED_LAMP, top - 0.12)
        mesh.polygon(end_rect(z, side * w * 0.97, side * (w - 0.36), y - 0.13, y + 0.03), lamp)
    if forward > 0:
        mesh.polygon(end_rect(z, -0.5 * w, 0.5 * w, top - 0.26, top - 0.10), DARK)
    mesh.polygon(end_rect(z, -0.26, 0.26, 0.42, 0.53), PLATE)


def _car_top(mesh: Mesh, shape: CarShape, body: Look) -> None:
    half, w = shape.length / 2, shape.width / 2
    wt = w * 0.82
    rear, roof_rear, roof_front, front = (share * shape.length for share in shape.cabin)
    roof = Look(PAINT, shaded(body.color, 1.12))
    for a, b, xa, xb, ya, yb, look in (
        (front, half - 0.12, w, w, shape.waist, shape.hood, roof),
        (-half + 0.05, rear, w, w, shape.waist, shape.waist, roof),
        (roof_rear, roof_front, wt, wt, shape.height, shape.height, roof),
        (front, roof_front, w, wt, shape.waist, shape.height, body),
        (rear, roof_rear, w, wt, shape.waist, shape.height, body),
    ):
        mesh.group(cull=True)
        mesh.polygon([(-xa, ya, a), (xa, ya, a), (xb, yb, b), (-xb, yb, b)], look)
        if ya < yb:  # the windscreens: panes inside a frame
            mesh.polygon(
                [
                    (0.9 * p, ya + f * (yb - ya), a + f * (b - a))
                    for p, f in ((-xa, 0.08), (xa, 0.08), (xb, 0.9), (-xb, 0.9))
                ],
                PANE,
            )


def add_car(
    mesh: Mesh, rng: np.random.Generator, shares: tuple[float, ...], at: Vertex, heading: float, color: Color
) -> None:
    """A car of a random shape; `shares` are those of CAR_SHAPES."""
    shape = CAR_SHAPES[int(rng.choice(len(CAR_SHAPES), p=shares))]
    body = Look(PAINT, color)
    mesh.begin(CAR, at, heading, thing=True, shadow=shape.height)
    half, w = shape.length / 2, shape.width / 2
    for side in (-1.0, 1.0):
        _car_side(mesh, shape, side, body)
    for forward in (-1.0, 1.0):
        _car_end(mesh, shape, forward, body)
    _car_top(mesh, shape, body)
    axle = shape.length * 0.31
    for name, x in (("left", -w), ("right", w)):
        mesh.point(f"front_{name}_wheel", (x, 0.31, axle))
        mesh.point(f"rear_{name}_wheel", (x, 0.31, -axle))
        mesh.point(f"front_{name}_light", (x * 0.8, shape.hood - 0.13, half))
        mesh.point(f"rear_{name}_light", (x * 0.8, shape.waist - 0.16, -half))
    mesh.point("roof", (0.0, shape.height, -0.1 * shape.length))
    mesh.point("windscreen", (0.0, (shape.waist + shape.height) / 2, 0.5 * shape.length * sum(shape.cabin[2:])))


def _box(mesh: Mesh, x: float, y0: float, y1: float, z0: float, z1: float, look: Look) -> None:
    """Side, end and top faces without decals, each in a group of its own."""
    for points in (
        side_rect(-x, z0, z1, y0, y1),
        side_rect(x, z0, z1, y0, y1),
        end_rect(z0, -x, x, y0, y1),
        end_rect(z1, -x, x, y0, y1),
        [(-x, y1, z0), (x, y1, z0), (x, y1, z1), (-x, y1, z1)],
    ):
        mesh.group(cull=True)
        mesh.polygon(points, look)


def add_truck(mesh: Mesh, rng: np.random.Generator, at: Vertex, heading: float, color: Color) -> None:
    """A lorry: cab, box or flat bed, big wheels."""
    length, w = float(rng.uniform(6.5, 11.0)), 1.25
    top = float(rng.uniform(2.8, 3.9))
    cargo_gray = float(rng.uniform(0.55, 0.92))
    cargo = Look(PAINT, (cargo_gray, cargo_gray, cargo_gray * 0.96) if rng.random() < 0.6 else shaded(color, 0.9))
    half, cab = length / 2, 1.9
    mesh.begin(TRUCK, at, heading, thing=True, shadow=top)
    _box(mesh, w * 0.9, 0.5, 1.0, -half, half - 0.2, DARK)
    for side in (-1.0, 1.0):
        x = side * w
        mesh.group(cull=True)
        mesh.polygon(side_rect(x, -half, half - cab - 0.2, 0.95, top), cargo)
        mesh.polygon(side_rect(x, -half, half - cab - 0.2, 0.95, 1.1), Look(FLAT, shaded(cargo.color, 0.55)))
        mesh.group(cull=True)
        mesh.polygon(side_rect(x, half - cab, half, 0.55, 2.6), Look(PAINT, color))
        mesh.polygon(side_rect(x, half - cab + 0.5, half - 0.12, 1.55, 2.35), PANE)
        for z in (-half + 1.2, -half + 2.3, half - 1.1):
            _wheel(mesh, x, z, 0.5)
    for z, y0, y1, look in ((-half, 0.95, top, cargo), (half, 0.55, 2.6, Look(PAINT, color))):
        mesh.group(cull=True)
        mesh.polygon(end_rect(z, -w, w, y0, y1), look)
        lamp = WHITE_LAMP if z > 0 else RED_LAMP
        if z > 0:
            mesh.polygon(end_rect(z, -w * 0.9, w * 0.9, 1.5, 2.4), PANE)
            mesh.polygon(end_rect(z, -w * 0.6, w * 0.6, 0.8, 1.3), DARK)
        else:
            mesh.polygon(end_rect(z, -w, w, 0.5, 0.95), DARK)
            mesh.polygon(end_rect(z, -0.03, 0.03, 1.0, top - 0.05), Look(FLAT, shaded(look.color, 0.5)))
            mesh.polygon(end_rect(z, -w * 0.9, w * 0.9, top - 0.25, top - 0.18), Look(FLAT, shaded(look.color, 0.6)))
        for side in (-1.0, 1.0):
            mesh.polygon(end_rect(z, side * w, side * (w - 0.4), 0.02, 0.6), TYRE)
            mesh.polygon(end_rect(z, side * w * 0.98, side * (w - 0.3), 0.68, 0.85), lamp)
    mesh.group(cull=True)
    mesh.polygon([(-w, top, -half), (w, top, -half), (w, top, half - cab - 0.2), (-w, top, half - cab - 0.2)], cargo)
    _named_corners(mesh, w, half, top, 0.5, half - 1.1, -half + 1.2)


def _named_corners(mesh: Mesh, w: float, half: float, top: float, wheel: float, front: float, rear: float) -> None:
    for name, x in (("left", -w), ("right", w)):
        mesh.point(f"front_{name}_wheel", (x, wheel, front))
        mesh.point(f"rear_{name}_wheel", (x, wheel, rear))
        mesh.point(f"front_{name}_light", (x * 0.85, 0.77, half))
        mesh.point(f"rear_{name}_light", (x * 0.85, 0.77, -half))
        mesh.point(f"rear_{name}_top", (x * 0.97, top - 0.05, -half))


def add_bus(mesh: Mesh, rng: np.random.Generator, at: Vertex, heading: float, color: Color) -> None:
    """A city bus: a long box with a band of windows, doors on its right."""
    length, w, top = float(rng.uniform(10.0, 13.0)), 1.28, 3.1
    half, body = length / 2, Look(PAINT, color)
    trim = Look(PAINT, shaded(color, 0.6))
    mesh.begin(BUS, at, heading, thing=True, shadow=top)
    for side in (-1.0, 1.0):
        x = side * w
        mesh.group(cull=True)
        mesh.polygon(side_rect(x, -half, half, 0.3, top), body)
        mesh.polygon(side_rect(x, -half, half, 0.3, 0.6), trim)
        panes = 7
        for i in range(panes):
            z0 = -half + 0.35 + i * (length - 0.6) / panes
            mesh.polygon(side_rect(x, z0, z0 + (length - 0.6) / panes - 0.14, 1.35, 2.55), PANE)
        if side > 0:
            for z0 in (half - 1.7, -0.6):
                mesh.polygon(side_rect(x, z0, z0 + 1.2, 0.35, 2.6), PANE)
                mesh.polygon(side_rect(x, z0 + 0.56, z0 + 0.64, 0.35, 2.6), trim)
        for z in (-half + 2.6, half - 2.5):
            _wheel(mesh, x, z, 0.48)
    for forward in (-1.0, 1.0):
        z = forward * half
        mesh.group(cull=True)
        mesh.polygon(end_rect(z, -w, w, 0.3, top), body)
        mesh.polygon(end_rect(z, -w * 0.93, w * 0.93, 1.2 if forward > 0 else 1.6, 2.55), PANE)
        mesh.polygon(end_rect(z, -w * 0.7, w * 0.7, 2.65, 2.95), DARK)
        mesh.polygon(end_rect(z, -w * 0.45, w * 0.45, 2.7, 2.9), AMBER_LAMP)
        for side in (-1.0, 1.0):
            lamp = WHITE_LAMP if forward > 0 else RED_LAMP
            mesh.polygon(end_rect(z, side * w * 0.96, side * (w - 0.35), 0.7, 0.9), lamp)
            mesh.polygon(end_rect(z, side * w, side * (w - 0.3), 0.02, 0.3), TYRE)
    mesh.group(cull=True)
    mesh.polygon([(-w, top, -half), (w, top, -half), (w, top, half), (-w, top, half)], body)
    _named_corners(mesh, w, half, top, 0.48, half - 2.5, -half + 2.6)


def add_train(mesh: Mesh, rng: np.random.Generator, at: Vertex, heading: float, color: Color) -> None:
    """A tram of two or three cars with a pantograph."""
    cars, car, w, top = int(rng.integers(2, 4)), 8.6, 1.3, 3.4
    half = cars * car / 2
    body, trim = Look(PAINT, color), Look(PAINT, (0.86, 0.85, 0.80))
    mesh.begin(TRAIN, at, heading, thing=True, shadow=top)
    for side in (-1.0, 1.0):
        x = side * w
        mesh.group(cull=True)
        mesh.polygon(side_rect(x, -half, half, 0.25, top), trim)
        mesh.polygon(side_rect(x, -half, half, 0.25, 1.35), body)
        mesh.polygon(side_rect(x, -half, half, top - 0.35, top), body)
        for i in range(cars):
            z0 = -half + i * car
            for k in range(4):
                a = z0 + 0.4 + k * 2.0
                door = k == 2
                mesh.polygon(side_rect(x, a, a + 1.7, 0.5 if door else 1.45, 2.75), PANE)
            if i:
                mesh.polygon(side_rect(x, z0 - 0.3, z0 + 0.3, 0.25, top), DARK)
        mesh.polygon(side_rect(x, -half + 0.5, half - 0.5, 0.05, 0.4), DARK)
    for forward in (-1.0, 1.0):
        z = forward * half
        mesh.group(cull=True)
        mesh.polygon(end_rect(z, -w, w, 0.25, top), body)
        mesh.polygon(end_rect(z, -w * 0.9, w * 0.9, 1.4, 2.7), PANE)
        mesh.polygon(end_rect(z, -w * 0.5, w * 0.5, 2.85, 3.15), AMBER_LAMP)
        for side in (-1.0, 1.0):
            lamp = WHITE_LAMP if forward > 0 else RED_LAMP
            mesh.polygon(end_rect(z, side * w * 0.85, side * w * 0.5, 0.85, 1.05), lamp)
    mesh.group(cull=True)
    mesh.polygon([(-w, top, -half), (w, top, -half), (w, top, half), (-w, top, half)], trim)
    mesh.group()
    mesh.stroke((0.0, top, -0.6), (0.0, top + 0.9, 0.5), 0.04, DARK)
    mesh.stroke((0.0, top + 0.9, 0.5), (0.0, top + 1.5, -0.3), 0.04, DARK)
    mesh.stroke((-0.8, top + 1.5, -0.3), (0.8, top + 1.5, -0.3), 0.04, DARK)
    _named_corners(mesh, w, half, top, 0.35, half - 2.0, -half + 2.0)
