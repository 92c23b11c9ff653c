"""Shapes of the built-in street world before they are painted: polygons, rods, balls and blobs, metres."""

import math
from typing import Literal, NamedTuple

Vertex = tuple[float, float, float]
Color = tuple[float, float, float]

# How a surface is shaded (scene_shade.py has one function for each that is not plain).
FLAT, FACADE, ROAD, PAVING, GRASS, LEAVES, BRICK, SLATS, SPOKES, PAINT, GLASS, CLOTH, GLOW, ROOF = range(14)
# How a primitive is rasterised.
POLYGON, GROUND, STROKE, DISC, BLOB, LOOP = range(6)

# The 19 Cityscapes classes in their usual order.
(
    ROAD_CLASS,
    SIDEWALK,
    BUILDING,
    WALL,
    FENCE,
    POLE,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    TERRAIN,
    SKY,
    PERSON,
    RIDER,
    CAR,
    TRUCK,
    BUS,
    TRAIN,
    MOTORCYCLE,
    BICYCLE,
) = range(19)
VOID = 255


class Look(NamedTuple):
    """Material of a surface: how it is shaded, its colour (0-1) and up to four numbers of the shader."""

    kind: int
    color: Color
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0


class Primitive(NamedTuple):
    """One painted shape; `corners` vertices from `first` on; `group` orders it in its object."""

    shape: int
    first: int
    corners: int
    radius: float
    end_radius: float
    owner: int
    group: int
    class_index: int
    instance: int
    look: Look


class Placement(NamedTuple):
    """Where an object stands: world position of its origin, heading, and its part in the picture."""

    x: float
    y: float
    z: float
    cos: float
    sin: float
    layer: int  # 0 ground, 1 everything that stands on it
    shadow: float  # height that throws a shadow, metres; 0 = none


class NamedPoint(NamedTuple):
    """A key point: the vertex it sits on, its instance and class."""

    name: str
    vertex: int
    instance: int
    class_index: int


class Mesh:
    """Accumulates the shapes of one world; x right, y up, z along the street, local to the current object."""

    def __init__(self) -> None:
        self.vertices: list[Vertex] = []
        self.owners: list[int] = []
        self.primitives: list[Primitive] = []
        self.placements: list[Placement] = []
        self.culled: list[bool] = []
        self.named: list[NamedPoint] = []
        self.instances = 0
        self.class_index = VOID
        self.instance = 0

    def begin(
        self,
        class_index: int,
        at: Vertex,
        heading: float = 0.0,
        *,
        thing: bool = False,
        layer: Literal[0, 1] = 1,
        shadow: float = 0.0,
    ) -> None:
        """Start an object whose local +z looks along `heading`: 0 down the street, pi towards the camera."""
        self.placements.append(Placement(*at, math.cos(heading), math.sin(heading), layer, shadow))
        self.part(class_index, thing=thing)
        self.group()

    def part(self, class_index: int, *, thing: bool = False) -> None:
        """Go on in the same object with another class and, for a thing, another instance."""
        self.class_index = class_index
        if thing:
            self.instances += 1
        self.instance = self.instances if thing else 0

    def group(self, *, cull: bool = False) -> None:
        """Start shapes that are painted in the given order, as one, dropped together when they face away."""
        self.culled.append(cull)

    def polygon(self, points: list[Vertex], look: Look) -> None:
        """A flat polygon; its texture runs along the first edge."""
        self._add(POLYGON, points, look)

    def ground(self, points: list[Vertex], look: Look) -> None:
        """A level polygon whose texture coordinates are the world's x and z."""
        self._add(GROUND, points, look)

    def stroke(self, start: Vertex, end: Vertex, radius: float, look: Look, end_radius: float = 0.0) -> None:
        """A round rod from `start` to `end`."""
        self._add(STROKE, [start, end], look, radius, end_radius or radius)

    def disc(self, center: Vertex, radius: float, look: Look) -> None:
        """A ball."""
        self._add(DISC, [center], look, radius)

    def blob(self, center: Vertex, radius: float, outline: int, look: Look) -> None:
        """A ball with an irregular outline, number `outline` of the table in scene_paint."""
        self._add(BLOB, [center], look, radius, float(outline))

    def loop(self, points: list[Vertex], radius: float, look: Look) -> None:
        """A closed wire through the points."""
        self._add(LOOP, points, look, radius)

    def point(self, name: str, at: Vertex) -> None:
        """Name a point of the current instance."""
        self.named.append(NamedPoint(name, len(self.vertices), self.instance, self.class_index))
        self.vertices.append(at)
        self.owners.append(len(self.placements) - 1)

    def _add(self, shape: int, points: list[Vertex], look: Look, radius: float = 0.0, end_radius: float = 0.0) -> None:
        owner = len(self.placements) - 1
        group = len(self.culled) - 1
        first = len(self.vertices)
        self.vertices.extend(points)
        self.owners.extend([owner] * len(points))
        self.primitives.append(
            Primitive(
                shape,
                first,
                len(points),
                radius,
                end_radius,
                owner,
                group,
                self.class_index,
                self.instance,
                look,
            )
        )


def side_rect(x: float, z0: float, z1: float, y0: float, y1: float) -> list[Vertex]:
    """A rectangle on a plane of constant x."""
    return [(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)]


def end_rect(z: float, x0: float, x1: float, y0: float, y1: float) -> list[Vertex]:
    """A rectangle on a plane of constant z."""
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


def level_rect(x: tuple[float, float], z: tuple[float, float], y: float = 0.0) -> list[Vertex]:
    """A rectangle on a plane of constant y."""
    return [(x[0], y, z[0]), (x[1], y, z[0]), (x[1], y, z[1]), (x[0], y, z[1])]


def shaded(color: Color, factor: float) -> Color:
    """The colour times a factor, at most 1.

    Example:
        >>> shaded((0.5, 0.25, 1.0), 2.0)
        (1.0, 0.5, 1.0)
    """
    return (min(1.0, color[0] * factor), min(1.0, color[1] * factor), min(1.0, color[2] * factor))
