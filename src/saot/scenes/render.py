"""The two renderings of a street world: `game`, clean and flat, and `street`, like a photograph."""

import math

import numpy as np
from jaxtyping import Float32, Int, UInt8

from saot.scenes.mesh import GROUND, Mesh
from saot.scenes.paint import Camera, Painted, Projected, Surfaces, shadow_map
from saot.scenes.shade import (
    SHADERS,
    TILE,
    Light,
    Pixels,
    base_colors,
    depth_of,
    look_through,
    noise_tile,
    texture_axis,
)

Ray = Float32[np.ndarray, "h w"]


def rays_of(camera: Camera, height: int, width: int) -> tuple[Ray, Ray]:
    """Direction (x, y, 1) of every pixel's centre in the camera's frame."""
    x = ((np.arange(width) + 0.5) / width - 0.5) / camera.focal
    y = (camera.horizon - (np.arange(height) + 0.5) / height) / (2 * camera.focal)
    rx = np.broadcast_to(x.astype(np.float32), (height, width)).copy()
    ry = np.broadcast_to(y.astype(np.float32)[:, None], (height, width)).copy()
    return rx, ry


def draw_light(style: str, rng: np.random.Generator) -> Light:
    """The weather of one picture: a clear flat day in the game, anything from sun to haze in the street."""
    if style == "game":
        turn, high = float(rng.uniform(-2.6, 2.6)), float(rng.uniform(0.6, 1.1))
        sun = (math.sin(turn) * math.cos(high), math.sin(high), -math.cos(turn) * math.cos(high))
        return Light(
            sun,
            (0.42, 0.42, 0.42),
            (0.68, 0.68, 0.68),
            (0.30, 0.52, 0.86),
            (0.66, 0.82, 0.96),
            0.15,
            0.0009,
            0.12,
            0.35,
        )
    turn, high = float(rng.uniform(-math.pi, math.pi)), float(rng.uniform(0.35, 0.9))
    sun = (math.sin(turn) * math.cos(high), math.sin(high), -math.cos(turn) * math.cos(high))
    cover = float(rng.beta(0.7, 1.0))
    strength, warm = 0.95 * (1 - cover) + 0.12, float(rng.uniform(0.0, 0.16))
    sky = 0.55 + 0.3 * cover
    return Light(
        toward_sun=sun,
        sun=(strength * (1 + warm), strength, strength * (1 - 1.3 * warm)),
        ambient=(0.40 + 0.28 * cover, 0.42 + 0.28 * cover, 0.45 + 0.28 * cover),
        sky_top=(sky - 0.28 * (1 - cover), sky - 0.10 * (1 - cover), sky + 0.08),
        sky_low=(0.80 + 0.08 * cover, 0.83 + 0.05 * cover, 0.86),
        clouds=cover,
        haze=float(rng.uniform(0.001, 0.005)) * (0.5 + 0.7 * cover),
        texture=1.0,
        shadow=0.25 + 0.35 * (1 - cover),
    )


def render_color(
    mesh: Mesh,
    points: Projected,
    painted: Painted,
    table: Surfaces,
    camera: Camera,
    light: Light,
) -> tuple[Float32[np.ndarray, "3 h w"], Float32[np.ndarray, "h w"]]:
    """Linear-looking colours 0-1 and the depth of the labelled surfaces (inf in the sky)."""
    height, width = painted.surface.shape
    rays = rays_of(camera, height, width)
    seen = look_through(painted, mesh, table, rays)
    rx, ry, number = rays[0].ravel(), rays[1].ravel(), seen.ravel()
    z = depth_of(table, number, rx, ry)
    palette = base_colors(mesh, table, light)
    color = np.stack([channel[number] for channel in palette])
    kinds = np.asarray([255] + [p.look.kind for p in mesh.primitives], np.uint8)
    numbers = np.asarray([(0.0,) * 4] + [p.look[2:] for p in mesh.primitives], np.float32).T.copy()
    kind_of = kinds[number]
    for kind, shader in SHADERS.items():
        index = np.flatnonzero(kind_of == kind)
        if not len(index):
            continue
        own, x, y, zk = number[index], rx[index], ry[index], z[index]
        s, t = (texture_axis(axis, own, x, y, zk) for axis in (table.along, table.across))
        pixels = Pixels(s, t, zk, np.take(numbers, own, axis=1), zk / (camera.focal * width), light.texture)
        shaded = shader(np.stack([channel[index] for channel in color]), pixels)
        for channel, values in zip(color, shaded, strict=True):
            channel[index] = values
    _ground_shadow(color, mesh, shadow_map(mesh, points, camera, _slant(light), height, width), light, number)
    far = 1 - np.exp(-light.haze * z)
    for channel, air in zip(color, light.sky_low, strict=True):
        channel += (np.float32(air * 0.95) - channel) * far
    where = np.flatnonzero(number == 0)
    color[:, where] = sky_color(light, rx[where], ry[where], camera)
    depth = z.copy()
    through = np.flatnonzero(number != painted.surface.ravel())
    depth[through] = depth_of(table, painted.surface.ravel()[through], rx[through], ry[through])
    depth[painted.surface.ravel() == 0] = np.inf
    return color.reshape(3, height, width), depth.reshape(height, width)


def _slant(light: Light) -> tuple[float, float]:
    """Where a shadow falls: metres along x and z for each metre of height."""
    x, y, z = light.toward_sun
    return -x / y, -z / y


def _ground_shadow(
    color: Float32[np.ndarray, "3 n"],
    mesh: Mesh,
    sunlit: Float32[np.ndarray, "h w"],
    light: Light,
    number: Int[np.ndarray, "n"],
) -> None:
    """Darken, in place, the ground where objects stand in the sun's way."""
    level = np.asarray([False] + [p.shape == GROUND for p in mesh.primitives])
    where = np.flatnonzero(level[number])
    factor = 1 - light.shadow * (1 - sunlit.ravel()[where]) / 0.6
    for channel in color:
        channel[where] *= factor


def sky_color(
    light: Light, rx: Float32[np.ndarray, "n"], ry: Float32[np.ndarray, "n"], camera: Camera
) -> Float32[np.ndarray, "3 n"]:
    """A gradient from horizon to zenith with clouds on a level plane."""
    up = np.clip(ry, 0.0, None)
    share = np.clip(up / 0.35, 0, 1) ** 0.7
    low, top = np.asarray(light.sky_low, np.float32), np.asarray(light.sky_top, np.float32)
    color = low[:, None] + (top - low)[:, None] * share
    flat = 60.0 / (up + 0.12)
    tile = noise_tile(1.9)
    turn = camera.yaw * 300
    cloud = tile[(flat.astype(np.int32) * 1) & 511, (rx * flat * 1.5 + turn + 4096).astype(np.int32) & 511]
    cover = np.clip((cloud + 2.2 * light.clouds - 1.0) * 0.7, 0, 1) * np.float32(0.85)
    white = np.float32(0.93) - 0.10 * np.clip(cloud, 0, 1) * light.clouds
    return (color + (white - color) * cover).astype(np.float32)


def game_camera(color: Float32[np.ndarray, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Saturated colours on 40 levels, as an old game draws them."""
    gray = (color[0] + color[1] + color[2]) / 3
    vivid = np.clip(gray + (color - gray) * np.float32(1.1), 0, 1)
    return _pixels(np.round(vivid * 40) * np.float32(1 / 40))


def street_camera(
    color: Float32[np.ndarray, "3 h w"], rng: np.random.Generator, sensor: np.random.Generator | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour cast, weak saturation, contrast curve, dark corners, soft focus, grain; overwrites `color`.

    The grain is drawn from `sensor`; from `rng`, behind the camera's settings, where there is none.
    """
    height, width = color.shape[1:]
    cast = rng.uniform((0.95, 0.97, 0.90), (1.05, 1.03, 1.03)).astype(np.float32)
    aim, fade = float(rng.uniform(0.34, 0.48)), np.float32(rng.uniform(0.70, 1.0))
    blur, grain = float(rng.uniform(0.4, 1.0)), float(rng.uniform(0.014, 0.026))
    gray = (color[0] + color[1] + color[2]) / 3
    exposure = np.float32(aim / max(0.05, float(np.median(gray[::8, ::8]))))
    x = np.linspace(-1, 1, width, dtype=np.float32) ** 2
    y = np.linspace(-1, 1, height, dtype=np.float32) ** 2
    corners = 1 - np.float32(0.13) * (y[:, None] + x)
    for channel, gain in zip(color, cast * exposure, strict=True):
        channel -= gray
        channel *= fade
        channel += gray
        channel *= gain * corners
        np.clip(channel, 0, 1.6, out=channel)
        channel *= (1 + channel * np.float32(0.9)) / (1 + channel * channel * np.float32(1.05))  # film-like
        channel *= np.float32(0.97)
        channel += np.float32(0.02)
        np.clip(channel, 0, 1, out=channel)
        for _ in range(2):
            soften(channel, blur * width / 1008)
    rng = rng if sensor is None else sensor
    noise = rng.standard_normal((height, width), dtype=np.float32) * np.float32(0.5 * grain)
    noise += coarse_grain(rng, height, width) * np.float32(0.9 * grain)
    extra = coarse_grain(rng, height, width) * np.float32(0.2 * grain)
    color[0] += noise + extra
    color[1] += noise
    color[2] += noise - extra
    return _pixels(np.clip(color, 0, 1))


def _pixels(color: Float32[np.ndarray, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    image = np.empty((*color.shape[1:], 3), np.uint8)
    for i, channel in enumerate(color):
        image[..., i] = channel * np.float32(255) + np.float32(0.5)
    return image


def coarse_grain(rng: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "h w"]:
    """A cut-out of the soft noise tile at a random place: grain wider than a pixel."""
    top, left = (int(v) for v in rng.integers(0, TILE, 2))
    tile = np.roll(noise_tile(0.6), (-top, -left), (0, 1))
    return np.tile(tile, (-(-height // TILE), -(-width // TILE)))[:height, :width]


def soften(channel: Float32[np.ndarray, "h w"], amount: float) -> None:
    """Blur in place over three pixels, down and then sideways, by the given share; the border stays."""
    side = np.float32(0.25 * min(1.0, amount))
    for view in (channel, channel.T):
        spread = view[:-2] + view[2:]
        spread -= 2 * view[1:-1]
        spread *= side
        view[1:-1] += spread
