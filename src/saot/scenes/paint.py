"""From the shapes of a world to pixels: which surface is seen where, in which order, at which depth."""

import heapq
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from saot.scenes.mesh import BLOB, DISC, GROUND, LOOP, POLYGON, SLATS, SPOKES, STROKE, Mesh

NEAR = 0.4  # metres in front of the camera where shapes are cut off


@dataclass(frozen=True)
class Camera:
    """A level camera at (x, height, z) of the world.

    A point at x, y, z of the camera's frame falls on u = 1/2 + focal x / z, v = horizon - 2 focal y / z, as
    shares of the picture's width and height: a picture twice as wide as high has square pixels, any other is
    that one resized.
    """

    x: float
    height: float
    yaw: float  # radians, positive to the right
    focal: float  # in picture widths
    horizon: float  # share of the picture's height
    z: float = 0.0  # metres along the street; a picture alone is taken from its beginning


@dataclass(frozen=True)
class Surfaces:
    """One entry for each primitive, in the camera's frame; entry 0 is the sky."""

    inverse_depth: Float32[np.ndarray, "3 s"]  # 1/z = column . (ray x, ray y, 1)
    inverse_limits: Float32[np.ndarray, "2 s"]  # smallest and largest 1/z
    along: Float32[np.ndarray, "4 s"]  # texture coordinate s = z * (column[:3] . ray) + column[3], metres
    across: Float32[np.ndarray, "4 s"]  # texture coordinate t
    normal: Float32[np.ndarray, "s 3"]  # unit, world frame, on the visible side
    bumped: Bool[np.ndarray, "s"]  # strokes, discs and blobs: their normal faces the camera


@dataclass(frozen=True)
class Painted:
    """The painted picture: surface numbers (0 = sky) and the numbers seen through see-through patterns."""

    surface: Int32[np.ndarray, "h w"]
    holes: tuple[tuple[int, tuple[int, int, int, int], Int32[np.ndarray, "_ _"]], ...]  # number, box, what was behind


@dataclass(frozen=True)
class Projected:
    """Vertices in the world's and the camera's frame and on the picture (shares of width and height)."""

    world: Float64[np.ndarray, "v 3"]
    camera: Float64[np.ndarray, "v 3"]
    uv: Float64[np.ndarray, "v 2"]


@lru_cache(maxsize=1)
def blob_outlines() -> Float64[np.ndarray, "32 48 2"]:
    """32 leafy closed outlines about a unit circle: coarse lobes and fine teeth."""
    rng = np.random.default_rng(20250)
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    lobes = np.repeat(rng.uniform(-0.16, 0.16, (32, 12)), 4, axis=1)
    radius = 1.0 + lobes + rng.uniform(-0.14, 0.14, (32, 48))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


def project(mesh: Mesh, camera: Camera) -> Projected:
    """All vertices of the mesh, placed in the world and seen by the camera."""
    local = np.asarray(mesh.vertices, np.float64)
    place = np.asarray([p[:5] for p in mesh.placements], np.float64)[np.asarray(mesh.owners)]
    x, y, z, cos, sin = place.T
    world = np.stack(
        [
            x + local[:, 0] * cos + local[:, 2] * sin,
            y + local[:, 1],
            z - local[:, 0] * sin + local[:, 2] * cos,
        ],
        -1,
    )
    seen = to_camera(world, camera)
    depth = np.where(np.abs(seen[:, 2]) < 1e-6, 1e-6, seen[:, 2])
    u = 0.5 + camera.focal * seen[:, 0] / depth
    v = camera.horizon - 2 * camera.focal * seen[:, 1] / depth
    return Projected(world, seen, np.stack([u, v], -1))


def to_camera(world: Float64[np.ndarray, "v 3"], camera: Camera) -> Float64[np.ndarray, "v 3"]:
    """World positions in the camera's frame: x right, y up, z forward."""
    cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
    x, z = world[:, 0] - camera.x, world[:, 2] - camera.z
    return np.stack([x * cos - z * sin, world[:, 1] - camera.height, x * sin + z * cos], -1)


def rotate(vectors: Float64[np.ndarray, "v 3"], yaw: float) -> Float64[np.ndarray, "v 3"]:
    """Directions of the world in the camera's frame (or back, with -yaw)."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    x, y, z = vectors.T
    return np.stack([x * cos - z * sin, y, x * sin + z * cos], -1)


def _unit(vectors: Float64[np.ndarray, "s 3"]) -> Float64[np.ndarray, "s 3"]:
    length = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return vectors / np.maximum(length, 1e-9)


def surfaces(mesh: Mesh, points: Projected, camera: Camera) -> Surfaces:
    """Depth plane, texture axes and normal of every primitive."""
    shape = np.asarray([p.shape for p in mesh.primitives])
    first = np.asarray([p.first for p in mesh.primitives])
    count = np.asarray([p.corners for p in mesh.primitives])
    flat = (shape == POLYGON) | (shape == GROUND) | (shape == LOOP)
    level = shape == GROUND
    p0 = points.camera[first]
    p1 = points.camera[first + np.minimum(1, count - 1)]
    p2 = points.camera[first + np.minimum(2, count - 1)]
    middle = np.where(flat[:, None], p0, (p0 + p1) / 2)
    along = _unit(p1 - p0)
    normal = _unit(np.cross(p1 - p0, p2 - p0))
    across = np.cross(normal, along)
    across *= np.where((across[:, 1] < -1e-6) | ((np.abs(across[:, 1]) <= 1e-6) & (across[:, 2] < 0)), -1.0, 1.0)[
        :, None
    ]
    axes = rotate(np.eye(3), camera.yaw)
    along = np.where(flat[:, None], along, axes[0])
    across = np.where(flat[:, None], across, axes[1])
    along, across = np.where(level[:, None], axes[0], along), np.where(level[:, None], axes[2], across)
    normal = np.where(flat[:, None], normal, np.array([0.0, 0.0, 1.0]))
    reach = (normal * middle).sum(-1)
    normal *= np.where(reach > 0, -1.0, 1.0)[:, None]
    reach = -np.abs(reach)
    reach = np.where(np.abs(reach) < 1e-3, -1e-3, reach)
    world_origin = np.array([0.0, -camera.height, 0.0]) - camera.x * axes[0] - camera.z * axes[2]
    origin = np.where(level[:, None], world_origin, middle)
    radius = np.asarray([max(p.radius, 0.0) if p.shape in (STROKE, DISC) else 0.0 for p in mesh.primitives])
    z = points.camera[:, 2]
    ends = first + count
    spans = list(zip(first.tolist(), ends.tolist(), strict=True))
    low = np.asarray([z[a:b].min() for a, b in spans]) - radius
    high = np.asarray([z[a:b].max() for a, b in spans]) + radius

    def columns(vector: Float64[np.ndarray, "s 3"], offset: Float64[np.ndarray, "s"]) -> Float32[np.ndarray, "4 s1"]:
        table = np.concatenate([vector, offset[:, None]], -1)
        return np.concatenate([np.zeros((1, 4)), table]).T.astype(np.float32)

    limits = 1 / np.stack([np.maximum(high, NEAR), np.maximum(low, NEAR)])
    return Surfaces(
        inverse_depth=columns(normal / reach[:, None], 0 * reach)[:3],
        inverse_limits=np.concatenate([np.full((2, 1), 1e-6), limits], -1).astype(np.float32),
        along=columns(along, -(along * origin).sum(-1)),
        across=columns(across, -(across * origin).sum(-1)),
        normal=columns(rotate(normal, -camera.yaw), 0 * reach)[:3].T,
        bumped=np.concatenate([[False], ~flat]),
    )


def object_order(mesh: Mesh, points: Projected, camera: Camera) -> Int64[np.ndarray, "o"]:
    """Rank of every object, farthest first, by planes between footprints.

    An object cannot hide another when a plane of constant x or z has the other and the camera on one side and
    it on the other side. What this leaves open goes by distance.
    """
    owners = np.asarray(mesh.owners)
    number = len(mesh.placements)
    low, high = np.full((number, 2), np.inf), np.full((number, 2), -np.inf)
    np.minimum.at(low, owners, points.world[:, [0, 2]])
    np.maximum.at(high, owners, points.world[:, [0, 2]])
    layer = np.asarray([p.layer for p in mesh.placements])
    middle = (low + high) / 2
    distance = np.hypot(middle[:, 0] - camera.x, middle[:, 1] - camera.z)
    eps = 0.02
    harmless = low[:, None, 1] >= high[None, :, 1] - eps  # [j, i]: j cannot hide i
    harmless |= (low[:, None, 0] >= high[None, :, 0] - eps) & (low[:, None, 0] >= camera.x)
    harmless |= (high[:, None, 0] <= low[None, :, 0] + eps) & (high[:, None, 0] <= camera.x)
    before = harmless & ~harmless.T & (layer[:, None] == layer[None, :])  # [i, j]: i is painted before j
    waiting = before.sum(0).tolist()
    followers = [np.flatnonzero(row).tolist() for row in before]
    key = np.where(layer == 0, np.arange(number) - 1e6, -distance).tolist()
    heap = [(key[i], i) for i in range(number) if waiting[i] == 0]
    heapq.heapify(heap)
    rank = np.full(number, number, np.int64)
    done = 0
    while heap:
        _, i = heapq.heappop(heap)
        rank[i] = done
        done += 1
        for j in followers[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                heapq.heappush(heap, (key[j], j))
    return rank


def paint_order(mesh: Mesh, points: Projected, table: Surfaces, camera: Camera) -> list[int]:
    """Indices of the primitives that may be seen, in painting order."""
    first = np.asarray([p.first for p in mesh.primitives])
    count = np.asarray([p.corners for p in mesh.primitives])
    owner = np.asarray([p.owner for p in mesh.primitives])
    group = np.asarray([p.group for p in mesh.primitives])
    leader = np.ones(len(group), bool)
    leader[1:] = group[1:] != group[:-1]
    starts = np.flatnonzero(leader)
    block = np.cumsum(leader) - 1
    # A culled group shows only when the side turned away from the object's middle faces the camera.
    total = np.zeros((len(mesh.placements), 3))
    np.add.at(total, np.asarray(mesh.owners), points.camera)
    center = total / np.maximum(np.bincount(np.asarray(mesh.owners), minlength=len(total)), 1)[:, None]
    lead_first = first[starts]
    facing = rotate(table.normal[1:][starts].astype(np.float64), camera.yaw)
    corner = points.camera[lead_first]
    outward = (facing * (corner - center[owner[starts]])).sum(-1)
    hidden = np.asarray(mesh.culled)[group[starts]] & (outward < 0)
    last = lead_first + np.minimum(2, count[starts] - 1)
    reach = np.linalg.norm((corner + points.camera[last]) / 2, axis=-1)
    layer = np.asarray([p.layer for p in mesh.placements])[owner[starts]]
    reach = np.where(layer == 0, 0.0, reach)
    rank = object_order(mesh, points, camera)[owner]
    order = np.lexsort((np.arange(len(group)), group, -reach[block], rank))
    visible = ~hidden[block] & (table.inverse_limits[0, 1:] < 1 / NEAR - 1e-6)
    return order[visible[order]].tolist()


def _clip(vertices: Float64[np.ndarray, "n 3"]) -> list[list[float]]:
    """The polygon's part beyond the near plane (Sutherland and Hodgman's rule for one plane)."""
    out: list[list[float]] = []
    previous = vertices[-1].tolist()
    for current in vertices.tolist():
        if (current[2] >= NEAR) != (previous[2] >= NEAR):
            f = (NEAR - previous[2]) / (current[2] - previous[2])
            out.append([p + f * (c - p) for p, c in zip(previous, current, strict=True)])
        if current[2] >= NEAR:
            out.append(current)
        previous = current
    return out


def paint(mesh: Mesh, points: Projected, order: list[int], camera: Camera, height: int, width: int) -> Painted:
    """Rasterise the primitives in the given order; pixel values are primitive number + 1."""
    from PIL import Image, ImageDraw

    canvas = Image.new("I", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    scale = np.array([width, height])
    xy = points.uv * scale - 0.5
    flat, depth = xy.ravel().tolist(), points.camera[:, 2].tolist()
    fx, fy = camera.focal * width, 2 * camera.focal * height
    outlines = blob_outlines()
    holes: list[tuple[int, tuple[int, int, int, int], Int32[np.ndarray, "_ _"]]] = []
    for k in order:
        item = mesh.primitives[k]
        a, b = item.first, item.first + item.corners
        z = depth[a]
        if item.shape in (POLYGON, GROUND):
            whole = min(depth[a:b]) >= NEAR
            corners = flat[2 * a : 2 * b] if whole else _cut(points.camera[a:b], camera, width, height)
            if len(corners) < 6 or _outside(corners, width, height):
                continue
            if item.look.kind in (SLATS, SPOKES):
                box = _box_of(corners, width, height)
                holes.append((k + 1, box, np.asarray(canvas.crop(box), np.int32)))
            draw.polygon(corners, fill=k + 1)
        elif min(depth[a:b]) < NEAR:
            continue
        elif item.shape == STROKE:
            _rod(
                draw,
                xy[a].tolist(),
                xy[a + 1].tolist(),
                (fx * item.radius / z, fx * item.end_radius / depth[a + 1]),
                k + 1,
            )
        elif item.shape == LOOP:
            line = flat[2 * a : 2 * b] + flat[2 * a : 2 * a + 2]
            draw.line(line, fill=k + 1, width=max(1, round(2 * fx * item.radius / z)))
        else:
            x, y = flat[2 * a], flat[2 * a + 1]
            rx, ry = fx * item.radius / z, fy * item.radius / z
            if x + 1.3 * rx < 0 or x - 1.3 * rx > width or y + 1.3 * ry < 0 or y - 1.3 * ry > height:
                continue
            if item.shape == DISC:
                draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=k + 1)
            elif item.shape == BLOB:
                draw.polygon((outlines[int(item.end_radius)] * (rx, ry) + (x, y)).ravel().tolist(), fill=k + 1)
    return Painted(np.asarray(canvas, np.int32).copy(), tuple(holes))


def _cut(vertices: Float64[np.ndarray, "n 3"], camera: Camera, width: int, height: int) -> list[float]:
    corners: list[float] = []
    for x, y, z in _clip(vertices):
        corners.append((0.5 + camera.focal * x / z) * width - 0.5)
        corners.append((camera.horizon - 2 * camera.focal * y / z) * height - 0.5)
    return corners


def _outside(corners: list[float], width: int, height: int) -> bool:
    xs, ys = corners[0::2], corners[1::2]
    return max(xs) < 0 or min(xs) > width or max(ys) < 0 or min(ys) > height


def _box_of(corners: list[float], width: int, height: int) -> tuple[int, int, int, int]:
    xs, ys = corners[0::2], corners[1::2]
    left, top = max(0, math.floor(min(xs)) - 1), max(0, math.floor(min(ys)) - 1)
    return (
        left,
        top,
        max(left + 1, min(width, math.ceil(max(xs)) + 2)),
        max(top + 1, min(height, math.ceil(max(ys)) + 2)),
    )


def _rod(
    draw: "ImageDraw.ImageDraw", start: list[float], end: list[float], radii: tuple[float, float], fill: int
) -> None:
    """A tapered quadrilateral with round ends where they are wide enough to be seen."""
    (x0, y0), (x1, y1), (r0, r1) = start, end, radii
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy)
    if length > 1e-6:
        nx, ny = -dy / length, dx / length
        quad = (
            x0 + nx * r0,
            y0 + ny * r0,
            x1 + nx * r1,
            y1 + ny * r1,
            x1 - nx * r1,
            y1 - ny * r1,
            x0 - nx * r0,
            y0 - ny * r0,
        )
        if max(r0, r1) < 0.7:
            draw.line((x0, y0, x1, y1), fill=fill)
        else:
            draw.polygon(quad, fill=fill)
    for x, y, r in ((x0, y0, r0), (x1, y1, r1)):
        if r > 1.5:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def shadow_map(
    mesh: Mesh, points: Projected, camera: Camera, light: tuple[float, float], height: int, width: int
) -> Float32[np.ndarray, "h w"]:
    """Share of sunlight (1 = full) on the ground: shadows along `light` = (x, z) m per m of height."""
    from PIL import Image, ImageDraw, ImageFilter

    canvas = Image.new("L", (width // 2, height // 2), 255)
    draw = ImageDraw.Draw(canvas)
    owners = np.asarray(mesh.owners)
    number = len(mesh.placements)
    low, high = np.full((number, 3), np.inf), np.full((number, 3), -np.inf)
    np.minimum.at(low, owners, points.world)
    np.maximum.at(high, owners, points.world)
    for i, place in enumerate(mesh.placements):
        if place.shadow <= 0 or high[i, 2] - camera.z < 1.0 or low[i, 2] - camera.z > 90:
            continue
        (x0, _, z0), (x1, _, z1) = low[i].tolist(), high[i].tolist()
        for h, tone in ((place.shadow, 110), (0.0, 60)):
            hull = _hull(
                [(x + f * h * light[0], z + f * h * light[1]) for f in (0.0, 1.0) for x in (x0, x1) for z in (z0, z1)]
            )
            seen = to_camera(np.array([(x, 0.0, z) for x, z in hull]), camera)
            corners = _cut(seen, camera, width // 2, height // 2)
            if len(corners) >= 6 and not _outside(corners, width // 2, height // 2):
                draw.polygon(corners, fill=tone)
    soft = canvas.filter(ImageFilter.GaussianBlur(width / 500)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(soft, np.float32) / 255


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Convex hull, by Andrew's monotone chains."""
    chain: list[tuple[float, float]] = []
    ordered = sorted(set(points))
    for sweep in (ordered, ordered[::-1]):
        part: list[tuple[float, float]] = []
        for p in sweep:
            while len(part) > 1 and (part[-1][0] - part[-2][0]) * (p[1] - part[-2][1]) <= (
                part[-1][1] - part[-2][1]
            ) * (p[0] - part[-2][0]):
                part.pop()
            part.append(p)
        chain += part[:-1]
    return chain
