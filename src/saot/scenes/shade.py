"""Colours of the painted world: textures from plane coordinates, light, haze and the camera's own marks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from saot.scenes.mesh import (
    BRICK,
    CLOTH,
    FACADE,
    GLASS,
    GLOW,
    GRASS,
    LEAVES,
    PAINT,
    PAVING,
    ROAD,
    ROOF,
    SLATS,
    SPOKES,
    Color,
    Mesh,
)
from saot.scenes.paint import Painted, Surfaces

TILE = 512  # pixels along the noise tiles


@dataclass(frozen=True)
class Light:
    """Sun, sky and air of one picture."""

    toward_sun: tuple[float, float, float]  # unit
    sun: Color
    ambient: Color
    sky_top: Color
    sky_low: Color
    clouds: float  # 0 none, 1 overcast
    haze: float  # 1 / metres: the share of haze at z is 1 - exp(-haze z)
    texture: float  # strength of the noise textures
    shadow: float  # how dark shadows on the ground are, 0-1


@dataclass(frozen=True)
class Pixels:
    """The pixels of one kind: texture coordinates s and t (metres), depth, and their shader numbers."""

    s: Float32[np.ndarray, "n"]
    t: Float32[np.ndarray, "n"]
    z: Float32[np.ndarray, "n"]
    numbers: Float32[np.ndarray, "4 n"]
    footprint: Float32[np.ndarray, "n"]  # metres a pixel covers
    texture: float


@lru_cache(maxsize=32)
def noise_tile(power: float) -> Float32[np.ndarray, "512 512"]:
    """A seamless noise picture with spectrum 1/f^power, mean 0, standard deviation 1."""
    rng = np.random.default_rng(int(power * 100))
    f = np.fft.fftfreq(TILE) * TILE
    radius = np.sqrt(f[:, None] ** 2 + f[None, :TILE] ** 2)
    radius[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE))) / radius**power
    tile = np.fft.ifft2(spectrum).real
    return ((tile - tile.mean()) / tile.std()).astype(np.float32)


def _noise(
    s: Float32[np.ndarray, "n"], t: Float32[np.ndarray, "n"], scale: float, power: float
) -> Float32[np.ndarray, "n"]:
    rows = (t * scale).astype(np.int32) & (TILE - 1)
    columns = (s * scale).astype(np.int32) & (TILE - 1)
    return noise_tile(power)[rows, columns]


def _hash(a: Float32[np.ndarray, "n"], b: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """Reproducible number in [0, 1) for each cell (a, b) of a lattice."""
    return noise_white()[(b.astype(np.int32) * 37) & (TILE - 1), (a.astype(np.int32) * 101) & (TILE - 1)]


@lru_cache(maxsize=1)
def noise_white() -> Float32[np.ndarray, "512 512"]:
    """Uniform numbers in [0, 1)."""
    return np.random.default_rng(7).random((TILE, TILE), dtype=np.float32)


def _band(x: Float32[np.ndarray, "n"], half: float, footprint: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """Cover of |x| <= half by a pixel of the given footprint."""
    share = np.clip((half - np.abs(x)) / footprint + 0.5, 0.0, 1.0)
    return share * np.minimum(1.0, 2 * half / footprint)


def _wrap(x: Float32[np.ndarray, "n"], period: float) -> Float32[np.ndarray, "n"]:
    """Signed distance to the nearest multiple of the period."""
    return x - period * np.round(x / period)


def _mix(
    color: Float32[np.ndarray, "3 n"], other: Color, share: Float32[np.ndarray, "n"]
) -> Float32[np.ndarray, "3 n"]:
    return color + (np.asarray(other, np.float32)[:, None] - color) * share


def _road(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    """Asphalt and its marks; numbers: half width, lines, x of the inner lane line, x of a track (0 = none).

    Lines: 0 none, 1 a dashed middle, 2 a solid one, -1 the stripes of a zebra crossing.
    """
    half, lines, lane, rails = p.numbers
    fade = np.float32(p.texture) / (1 + p.z / 25)
    grain = _noise(p.s, p.t, 40.0, 0.6) * 0.07 + _noise(p.s, p.t, 14.0, 1.2) * 0.08
    worn = _noise(p.s, p.t * 0.15, 14.0, 1.5) * 0.07
    color = color * (1 + (grain * fade + worn * np.float32(p.texture)))
    along = p.footprint * np.maximum(1.0, p.z / 3)  # the ground is seen at a slant
    dash = np.clip((1.5 - np.abs(_wrap(p.t, 7.0))) / along + 0.5, 0, 1)
    paint = np.where(lines == 1, _band(p.s, 0.08, p.footprint) * dash, 0)
    twin = _band(p.s - 0.13, 0.06, p.footprint) + _band(p.s + 0.13, 0.06, p.footprint)
    paint = np.where(lines == 2, twin, paint)
    inner = _band(np.abs(p.s) - lane, 0.06, p.footprint) * dash
    paint = np.where((lines > 0) & (lane > 0), np.maximum(paint, inner), paint)
    paint = np.where(lines > 0, np.maximum(paint, _band(np.abs(p.s) - (half - 0.25), 0.06, p.footprint)), paint)
    stripes = np.clip((0.27 - np.abs(_wrap(p.s, 1.0))) / p.footprint + 0.5, 0, 1)
    paint = np.where(lines == -1, stripes, paint)
    rail = _band(np.abs(p.s - rails) - 0.72, 0.05, p.footprint)
    color = _mix(color, (0.20, 0.19, 0.19), np.where(rails != 0, rail, 0) * 0.9)
    wear = np.clip(0.85 - 0.2 * np.float32(p.texture) * (1 + worn * 6), 0, 1)
    return _mix(color, (0.86, 0.86, 0.83), np.clip(paint, 0, 1) * wear)


def _paving(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    """Slabs or cobbles; number 0: their size, metres."""
    size = p.numbers[0]
    s, t = p.s / size, p.t / size
    joint = np.maximum(
        _band(_wrap(s, 1.0) * size, 0.03, p.footprint), _band(_wrap(t, 1.0) * size, 0.03, p.footprint * 3)
    )
    slab = _hash(np.round(s), np.round(t)) - 0.5
    grain = _noise(p.s, p.t, 24.0, 1.1) * 0.10 + slab * 0.14
    return color * (1 + grain * p.texture / (1 + p.z / 30) - 0.22 * joint)


def _grass(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    blades = _noise(p.s, p.t, 35.0, 0.5) * 0.13 / (1 + p.z / 20) + _noise(p.s, p.t, 4.0, 1.6) * 0.12
    dry = np.clip(_noise(p.s, p.t, 2.0, 1.8) * 0.35 * p.texture, 0, 0.6)
    return _mix(color * (1 + blades * p.texture), (0.47, 0.42, 0.26), dry)


def _leaves(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    shift = p.numbers[0] * 97
    leaf = _noise(p.s + shift, p.t + shift, 26.0, 0.7) * 0.26 / (1 + p.z / 60)
    clump = _noise(p.s + shift, p.t, 11.0, 1.4) * 0.20
    return color * np.clip(1 + (leaf + clump) * (0.35 + 0.65 * p.texture) + 0.14 * np.clip(p.t, -1.2, 1.2), 0.3, 2)


def _brick(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    """Bricks or blocks; number 0: 0 plaster, 1 bricks, 2 large blocks."""
    style = p.numbers[0]
    tall = np.where(style == 2, 0.5, 0.16).astype(np.float32)
    row = np.floor(p.t / tall)
    shift = (row % 2) * np.float32(0.5)
    joints = np.maximum(
        _band(_wrap(p.t / tall, 1.0) * tall, 0.02, p.footprint),
        _band(_wrap(p.s / tall / 2 + shift, 1.0) * tall * 2, 0.02, p.footprint),
    )
    stone = _hash(np.round(p.s / tall / 2 + shift), row) - 0.5
    stain = _noise(p.s, p.t, 12.0, 1.2) * 0.15 * p.texture
    factor = 1 + stain + np.where(style > 0, stone * 0.2 / (1 + p.footprint / 0.06) - 0.25 * joints, 0)
    return color * factor


def _facade(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    """Windows, doors and shops; numbers: style + 8 * ground floor, floor height, bay width, seed."""
    packed, tall, wide, seed = p.numbers
    style, shops = packed % 8, packed >= 8
    t = np.maximum(p.t, 0)
    floor, bay = np.floor(t / tall), np.floor(p.s / wide)
    y, x = t - (floor + 0.5) * tall, p.s - (bay + 0.5) * wide
    ground = floor == 0
    blank = _noise(p.s + seed * 50, t, 12.0, 1.1) * 0.10 * p.texture
    streak = _noise(p.s, t * 0.12, 9.0, 1.2) * 0.07 * p.texture
    ledge = _band(_wrap(t, 1.0) * 0 + (t - floor * tall), 0.1, p.footprint) * (style != 1) * (floor > 0)
    soil = 0.22 * np.clip(1 - t / 0.8, 0, 1) * p.texture  # dirt and less sky light above the pavement
    color = color * (1 + blank + streak - 0.16 * ledge - soil)
    color = np.where((ground & shops & (style < 4)), color * np.float32(0.72), color)
    half_w = wide * np.choose(np.clip(style, 0, 4).astype(np.int32), [0.24, 0.34, 0.46, 0.20, 0.0]).astype(np.float32)
    half_h = tall * np.choose(np.clip(style, 0, 4).astype(np.int32), [0.29, 0.25, 0.22, 0.33, 0.0]).astype(np.float32)
    shop = ground & shops & (style < 4)
    half_w, half_h = np.where(shop, wide * 0.44, half_w), np.where(shop, tall * 0.33, half_h)
    pick = _hash(bay + np.floor(seed * 300), floor)
    door = ground & ~shops & (pick < 0.22) & (style < 4)
    half_w, half_h = np.where(door, 0.55, half_w), np.where(door, tall * 0.36, half_h)
    y = np.where(door, y + tall * 0.14, y)
    fp = p.footprint
    frame = np.clip((half_w + 0.1 - np.abs(x)) / fp + 0.5, 0, 1) * np.clip((half_h + 0.1 - np.abs(y)) / fp + 0.5, 0, 1)
    pane = np.clip((half_w - np.abs(x)) / fp + 0.5, 0, 1) * np.clip((half_h - np.abs(y)) / fp + 0.5, 0, 1)
    frame, pane = np.where(half_w > 0, frame, 0), np.where(half_w > 0, pane, 0)
    bars = np.maximum(_band(x, 0.035, fp), _band(y - half_h * 0.3, 0.03, fp)) * (style != 2) * ~door
    glass = 0.10 + 0.16 * pick + 0.10 * np.clip(y / half_h.clip(0.1), -1, 1) * (pick > 0.4)
    tint = np.stack([glass * 0.9, glass, glass * 1.12]).astype(np.float32)
    curtain = (pick > 0.75) & ~shop
    tint = np.where(curtain, tint * 0.5 + np.float32(0.28), tint)
    mirror = (
        np.clip(0.35 + _noise(p.s * 1.0 + pick * 60, t, 16.0, 1.8) * 0.35, 0, 0.8) * p.texture * 0.45
    )  # sky in the panes
    tint = tint + (np.float32(0.62) - tint) * mirror
    wood = np.stack([0.16 + 0.3 * seed, 0.12 + 0.1 * pick, 0.10 + 0.12 * (1 - seed)]).astype(np.float32)
    tint = np.where(door, wood, tint)
    bright = np.where((seed > 0.45), np.float32(0.78), color * np.float32(0.7))
    color = color + (bright - color) * (frame * 0.8)
    color = color + (tint - color) * (pane * (1 - 0.75 * bars))
    sign = shop & (t > tall * 0.86) & (_hash(np.floor(p.s / wide / 2), floor) > 0.35)
    board = np.stack([0.2 + 0.6 * _hash(np.floor(p.s / wide / 2), seed * 90 + k) for k in range(3)])
    return np.where(sign, board, color).astype(np.float32)


def _roof(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    rows = _band(_wrap(p.t / 0.35, 1.0) * 0.35, 0.05, p.footprint)
    stain = _noise(p.s, p.t, 10.0, 1.1) * 0.16 * p.texture
    return color * (1 - 0.22 * rows + stain)


def _paint(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    """Car paint: the street mirrors in it, dark below the waist and bright above."""
    mirror = 0.5 + 0.5 * np.clip((p.t - 0.35) * 6, -1, 1) + 0.25 * _noise(p.s, p.t, 30.0, 1.6)
    return color * (0.92 + 0.12 * p.texture * mirror) + 0.08 * p.texture * np.clip(mirror, 0, 1)


def _glass(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    sheen = np.clip(0.2 + 0.3 * p.t + 0.25 * _noise(p.s, p.t, 40.0, 1.6), 0, 0.6) * (0.2 + 0.8 * p.texture)
    return _mix(color, (0.68, 0.74, 0.80), sheen)


def _cloth(color: Float32[np.ndarray, "3 n"], p: Pixels) -> Float32[np.ndarray, "3 n"]:
    fold = _noise(p.s, p.t, 120.0, 1.3) * 0.17 * p.texture
    return color * (1 + fold - 0.6 * np.abs(p.s)).clip(0.4, 1.4)


SHADERS: dict[int, Callable[[Float32[np.ndarray, "3 n"], Pixels], Float32[np.ndarray, "3 n"]]] = {
    ROAD: _road,
    PAVING: _paving,
    GRASS: _grass,
    LEAVES: _leaves,
    BRICK: _brick,
    FACADE: _facade,
    ROOF: _roof,
    PAINT: _paint,
    GLASS: _glass,
    CLOTH: _cloth,
}


def open_pattern(
    kind: int, number: float, s: Float32[np.ndarray, "n"], t: Float32[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Where one looks through a fence or a wheel."""
    if kind == SPOKES:  # s and t run from a corner of the 14-sided rim along its edge
        radius = np.hypot(s - number * math.sin(math.pi / 14), np.abs(t) - number * math.cos(math.pi / 14))
        return (radius < number * 0.86) & (radius > number * 0.14)
    if kind != SLATS:
        raise ValueError(f"shading kind {kind} has no holes; only fences ({SLATS}) and wheels ({SPOKES}) have")
    if number == 0:  # pickets and two rails
        return (np.abs(_wrap(s, 0.16)) > 0.05) & (np.abs(t - 0.3) > 0.05) & (np.abs(t - 0.8) > 0.05)
    if number == 1:  # metal bars
        return (np.abs(_wrap(s, 0.14)) > 0.018) & (np.abs(t - 0.15) > 0.03) & (np.abs(t - 1.05) > 0.03)
    if number == 2:  # wire mesh
        return (np.abs(_wrap(s + t, 0.12)) > 0.012) & (np.abs(_wrap(s - t, 0.12)) > 0.012)
    return (np.abs(t - 0.6) > 0.16) & (np.abs(_wrap(s, 2.0)) > 0.07)  # guard rail on posts


def base_colors(mesh: Mesh, table: Surfaces, light: Light) -> Float32[np.ndarray, "3 s"]:
    """Lit colour of each surface by Lambert's law; lamps shine by themselves."""
    color = np.asarray([(0.0, 0.0, 0.0)] + [p.look.color for p in mesh.primitives], np.float32)
    glow = np.asarray([False] + [p.look.kind == GLOW for p in mesh.primitives])
    facing = table.normal @ np.asarray(light.toward_sun, np.float32)
    facing = np.where(table.bumped, 0.55, np.maximum(facing, 0.0)).astype(np.float32)
    lit = np.asarray(light.ambient, np.float32) + facing[:, None] * np.asarray(light.sun, np.float32)
    return np.where(glow[:, None], color, color * lit).astype(np.float32).T.copy()


def look_through(
    painted: Painted,
    mesh: Mesh,
    table: Surfaces,
    rays: tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]],
) -> Int32[np.ndarray, "h w"]:
    """Surface numbers of the colours: in the openings of fences and wheels, what was painted before them."""
    seen = painted.surface.copy()
    for number, (left, top, right, bottom), behind in reversed(painted.holes):
        box = seen[top:bottom, left:right]
        rows, columns = np.nonzero(box == number)
        if not len(rows):
            continue
        rx, ry = (
            rays[0][top:bottom, left:right][rows, columns],
            rays[1][top:bottom, left:right][rows, columns],
        )
        same = np.full(len(rows), number)
        z = depth_of(table, same, rx, ry)
        s, t = (texture_axis(axis, same, rx, ry, z) for axis in (table.along, table.across))
        look = mesh.primitives[number - 1].look
        through = open_pattern(look.kind, look.a, s, t)
        box[rows[through], columns[through]] = behind[rows[through], columns[through]]
    return seen


def depth_of(
    table: Surfaces,
    number: Int[np.ndarray, "n"],
    rx: Float32[np.ndarray, "n"],
    ry: Float32[np.ndarray, "n"],
) -> Float32[np.ndarray, "n"]:
    """Distance along the camera's axis, metres, inside the limits of each surface."""
    inverse = table.inverse_depth[0][number] * rx
    inverse += table.inverse_depth[1][number] * ry
    inverse += table.inverse_depth[2][number]
    np.maximum(inverse, table.inverse_limits[0][number], out=inverse)
    np.minimum(inverse, table.inverse_limits[1][number], out=inverse)
    return np.divide(1, inverse, out=inverse)


def texture_axis(
    axis: Float32[np.ndarray, "4 s"],
    number: Int[np.ndarray, "n"],
    rx: Float32[np.ndarray, "n"],
    ry: Float32[np.ndarray, "n"],
    z: Float32[np.ndarray, "n"],
) -> Float32[np.ndarray, "n"]:
    """Texture coordinate along one axis, metres."""
    out = axis[0][number] * rx
    out += axis[1][number] * ry
    out += axis[2][number]
    out *= z
    out += axis[3][number]
    return out
