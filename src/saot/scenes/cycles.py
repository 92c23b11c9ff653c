"""Two-wheelers of the street world: bicycles and motorcycles, built from rods and wheels.

Local frame as in scene_vehicles: +z is forward, +x the vehicle's right, y up.
"""

from saot.scenes.mesh import BICYCLE, FLAT, MOTORCYCLE, PAINT, SPOKES, Color, Look, Mesh, Vertex
from saot.scenes.vehicles import DARK, RED_LAMP, RIM, TYRE, WHITE_LAMP, wheel_ring


def add_bicycle(mesh: Mesh, color: Color) -> None:
    """The parts of a bicycle, in the object that was begun last."""
    wire, tube = Look(FLAT, (0.08, 0.08, 0.09)), Look(FLAT, color)
    for z in (-0.52, 0.52):
        mesh.group()
        mesh.polygon(wheel_ring(0.0, 0.34, z, 0.35, 14), Look(SPOKES, (0.12, 0.12, 0.13), 0.35))
    for start, end, look in (
        ((0.0, 0.34, -0.52), (0.0, 0.32, -0.05), tube),
        ((0.0, 0.32, -0.05), (0.0, 0.92, -0.22), tube),
        ((0.0, 0.34, -0.52), (0.0, 0.80, -0.19), tube),
        ((0.0, 0.32, -0.05), (0.0, 0.85, 0.36), tube),
        ((0.0, 0.82, -0.19), (0.0, 0.85, 0.36), tube),
        ((0.0, 0.34, 0.52), (0.0, 1.00, 0.34), tube),
        ((-0.28, 1.02, 0.32), (0.28, 1.02, 0.32), wire),
        ((0.0, 0.95, -0.34), (0.0, 0.95, -0.12), wire),
    ):
        mesh.group()
        mesh.stroke(start, end, 0.028 if look is tube else 0.035, look)
    for name, at in (
        ("front_wheel", (0.0, 0.34, 0.52)),
        ("rear_wheel", (0.0, 0.34, -0.52)),
        ("left_grip", (-0.27, 1.02, 0.32)),
        ("right_grip", (0.27, 1.02, 0.32)),
        ("saddle", (0.0, 0.95, -0.23)),
    ):
        mesh.point(name, at)


def add_motorcycle(mesh: Mesh, color: Color) -> None:
    """The parts of a motorcycle or scooter, in the object that was begun last."""
    paint = Look(PAINT, color)
    for z in (-0.65, 0.68):
        mesh.group()
        mesh.stroke((0.0, 0.08, z), (0.0, 0.58, z), 0.09, TYRE)
        mesh.polygon(wheel_ring(0.0, 0.32, z, 0.33), TYRE)
        mesh.polygon(wheel_ring(0.0, 0.32, z, 0.19, 8), RIM)
    for start, end, radius, look in (
        ((0.0, 0.42, -0.3), (0.0, 0.45, 0.35), 0.17, DARK),
        ((0.0, 0.62, -0.75), (0.0, 0.66, 0.25), 0.15, paint),
        ((0.0, 0.84, -0.65), (0.0, 0.80, 0.0), 0.09, DARK),
        ((0.0, 0.80, 0.12), (0.0, 0.86, 0.42), 0.15, paint),
        ((0.0, 0.32, 0.68), (0.0, 0.98, 0.45), 0.06, RIM),
        ((-0.36, 1.05, 0.36), (0.36, 1.05, 0.36), 0.035, DARK),
    ):
        mesh.group()
        mesh.stroke(start, end, radius, look)
    mesh.group()
    mesh.disc((0.0, 0.92, 0.58), 0.11, WHITE_LAMP)
    mesh.group()
    mesh.disc((0.0, 0.74, -0.88), 0.075, RED_LAMP)
    for name, at in (
        ("front_wheel", (0.0, 0.32, 0.68)),
        ("rear_wheel", (0.0, 0.32, -0.65)),
        ("left_grip", (-0.35, 1.05, 0.36)),
        ("right_grip", (0.35, 1.05, 0.36)),
        ("saddle", (0.0, 0.84, -0.35)),
    ):
        mesh.point(name, at)


def park(mesh: Mesh, class_index: int, at: Vertex, heading: float, color: Color) -> None:
    """A standing bicycle or motorcycle without rider."""
    mesh.begin(class_index, at, heading, thing=True, shadow=1.0)
    if class_index == BICYCLE:
        add_bicycle(mesh, color)
    elif class_index == MOTORCYCLE:
        add_motorcycle(mesh, color)
    else:
        raise ValueError(f"class {class_index} is no two-wheeler; use {BICYCLE} (bicycle) or {MOTORCYCLE} (motorcycle)")
