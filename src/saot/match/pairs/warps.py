"""A picture and a warped copy of it in another light: pairs whose truth is known in every pixel.

A warp says where in the source a pixel of the target comes from. That is what resampling needs, and it is exact:
key points are drawn in the target and looked up in the source. Places are (x, y) in pixels, (0, 0) the centre of the
first pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from saot.data import read_image, walk
from saot.match.pairs.files import options
from saot.match.pairs.pairs import DenseFlow, Pair, PairSet, PairSide

Kind = Literal["tps", "projective"]
Warp = Callable[[Float64[np.ndarray, "n 2"]], Float64[np.ndarray, "n 2"]]  # places in the target -> in the source

GRID = 4  # handles of a thin-plate spline along each side
STRIP = 1 << 15  # pixels warped at a time
BEYOND = 0.15  # of the picture's sides: how far outside the target key points are drawn


@dataclass(frozen=True, eq=False)
class Projective:
    """A projective warp: (x, y, 1) times the matrix, divided by its last number.

    Example:
        >>> shift = Projective(np.array([[1.0, 0.0, 3.0], [0.0, 1.0, -2.0], [0.0, 0.0, 1.0]]))
        >>> shift(np.array([[10.0, 10.0]])).tolist()
        [[13.0, 8.0]]
    """

    matrix: Float64[np.ndarray, "3 3"]

    def __call__(self, points: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        """Where the points come from."""
        mapped = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        return mapped[:, :2] / mapped[:, 2:]


@dataclass(frozen=True, eq=False)
class ThinPlate:
    """A thin-plate spline: an affine map plus one bump r² log r for each handle.

    Attributes:
        handles: Places of the target that were moved.
        bumps: What the bump of each handle adds.
        affine: Constant, x and y part.
        unit: Length in which r is measured, pixels.
    """

    handles: Float64[np.ndarray, "k 2"]
    bumps: Float64[np.ndarray, "k 2"]
    affine: Float64[np.ndarray, "3 2"]
    unit: float

    def __call__(self, points: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        """Where the points come from."""
        scaled = points / self.unit
        return _bump(scaled, self.handles / self.unit) @ self.bumps + self.affine[0] + scaled @ self.affine[1:]


def projective_warp(corners: Float64[np.ndarray, "4 2"], places: Float64[np.ndarray, "4 2"]) -> Projective:
    """The projective warp that takes each corner to its place.

    Args:
        corners: Four places of the target, no three on a line.
        places: Where they come from.

    Raises:
        ValueError: If three of the corners lie on a line.

    Example:
        >>> square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
        >>> projective_warp(square, 2 * square)(np.array([[1.0, 3.0]])).round(9).tolist()
        [[2.0, 6.0]]
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(corners.tolist(), places.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    try:
        solved = np.linalg.solve(np.array(rows, np.float64), np.array(values, np.float64))
    except np.linalg.LinAlgError as error:
        raise ValueError("three of the four corners lie on a line; give corners of a quadrilateral") from error
    return Projective(np.append(solved, 1.0).reshape(3, 3))


def thin_plate_warp(handles: Float64[np.ndarray, "k 2"], places: Float64[np.ndarray, "k 2"]) -> ThinPlate:
    """The smoothest warp that takes each handle to its place.

    Args:
        handles: Places of the target, three or more, not all on a line.
        places: Where they come from.

    Raises:
        ValueError: If handles coincide or all lie on a line.

    Example:
        >>> handles = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [4.0, 4.0]])
        >>> moved = handles + [[0, 0], [0, 0], [0, 0], [0, 0], [1, 0]]
        >>> thin_plate_warp(handles, moved)(np.array([[4.0, 4.0], [8.0, 0.0]])).round(9).tolist()
        [[5.0, 4.0], [8.0, 0.0]]
    """
    count, unit = len(handles), max(float(np.ptp(handles, axis=0).max()), 1.0)
    scaled = handles / unit
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _bump(scaled, scaled)
    system[:count, count:] = np.concatenate([np.ones((count, 1)), scaled], 1)
    system[count:, :count] = system[:count, count:].T
    if np.linalg.matrix_rank(system) < count + 3:
        raise ValueError(f"the {count} handles coincide or lie on one line; give three or more that span the picture")
    solved = np.linalg.solve(system, np.concatenate([places, np.zeros((3, 2))]))
    return ThinPlate(handles, solved[:count], solved[count:], unit)


def _bump(points: Float64[np.ndarray, "n 2"], handles: Float64[np.ndarray, "k 2"]) -> Float64[np.ndarray, "n k"]:
    """r² log r² of all distances; 0 at r = 0."""
    squared = ((points[:, None] - handles[None]) ** 2).sum(-1)
    return squared * np.log(np.where(squared > 0, squared, 1.0))


def random_warp(rng: np.random.Generator, size: tuple[int, int], kind: Kind, strength: float = 0.12) -> Warp:
    """A warp that moves corners or handles by at most `strength` of the picture's sides and never folds it.

    Args:
        rng: The dice.
        size: Height and width, pixels.
        kind: "projective" moves four corners, "tps" the handles of a 4 x 4 grid.
        strength: Largest move, above 0 and at most 0.3.

    Raises:
        ValueError: If `strength` or `kind` is something else.
    """
    if kind not in get_args(Kind) or not 0 < strength <= 0.3:
        raise ValueError(
            f"expected tps or projective and a strength above 0 and at most 0.3, but {kind!r} and {strength} came"
        )
    sides = np.array([size[1] - 1, size[0] - 1], np.float64)
    if kind == "projective":
        handles = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    else:
        handles = np.stack(np.meshgrid(*[np.linspace(0, 1, GRID)] * 2), -1).reshape(-1, 2)
    moves = rng.uniform(-strength, strength, handles.shape)
    while True:
        solve = projective_warp if kind == "projective" else thin_plate_warp
        warp = solve(handles * sides, (handles + moves) * sides)
        if not _folds(warp, sides):
            return warp
        moves = moves * 0.7


def _folds(warp: Warp, sides: Float64[np.ndarray, "2"]) -> bool:
    """Whether the warp turns any cell of a grid over, within the reach of key points."""
    axes = [np.linspace(-BEYOND, 1 + BEYOND, 33) * side for side in sides]
    mapped = warp(np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)).reshape(33, 33, 2)
    along, down = np.diff(mapped, axis=1)[:-1], np.diff(mapped, axis=0)[:, :-1]
    turned = along[..., 0] * down[..., 1] - along[..., 1] * down[..., 0]
    usual = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    return bool((turned < 0.1 * usual).any())


def warp_flow(warp: Warp, size: tuple[int, int], source: tuple[int, int]) -> DenseFlow:
    """The dense truth of a warp: valid where a target's pixel comes from inside the source.

    Args:
        warp: Places in the target -> places in the source.
        size: Height and width of the target.
        source: Height and width of the source.
    """
    columns, rows = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    pixels = np.stack([columns, rows], -1).reshape(-1, 2).astype(np.float64)
    places = np.concatenate([warp(pixels[start : start + STRIP]) for start in range(0, len(pixels), STRIP)])
    valid = _inside(places, source)
    flow = np.where(valid[:, None], places - pixels, 0.0).astype(np.float32)
    return DenseFlow(flow.reshape(*size, 2), valid.reshape(size))


def _inside(places: Float64[np.ndarray, "n 2"], size: tuple[int, int]) -> Bool[np.ndarray, " n"]:
    return np.all((places >= 0) & (places <= np.array([size[1] - 1, size[0] - 1])), axis=-1)


def warp_image(image: UInt8[np.ndarray, "h w 3"], flow: DenseFlow) -> UInt8[np.ndarray, "th tw 3"]:
    """The target that a flow makes of the source, bilinear; black where the flow is not valid.

    Example:
        >>> picture = np.arange(9, dtype=np.uint8).reshape(1, 3, 3) * 10
        >>> half = DenseFlow(np.full((1, 2, 2), [0.5, 0.0], np.float32), np.ones((1, 2), bool))
        >>> warp_image(picture, half)[0].tolist()
        [[15, 25, 35], [45, 55, 65]]
    """
    height, width = image.shape[:2]
    rows, columns = np.nonzero(flow.valid)
    places = flow.flow[rows, columns].astype(np.float64) + np.stack([columns, rows], -1)
    x, y = np.clip(places, 0, [width - 1, height - 1]).T
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    above = image[top, left] * (1 - fx) + image[top, right] * fx
    under = image[below, left] * (1 - fx) + image[below, right] * fx
    warped = np.zeros((*flow.valid.shape, 3), np.uint8)
    warped[rows, columns] = np.rint(above * (1 - fy) + under * fy).astype(np.uint8)
    return warped


def change_light(image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in another light: gain 0.7-1.3, gamma 0.75-1.35, colour cast up to 10 %, noise up to 5 of 255."""
    gain, gamma = rng.uniform(0.7, 1.3), rng.uniform(0.75, 1.35)
    cast, spread = rng.uniform(0.9, 1.1, 3), rng.uniform(0, 5)
    table = (np.arange(256) / 255) ** gamma * gain * 255
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(spread)
    lit: Float32[np.ndarray, "h w 3"] = (table[image] * cast).astype(np.float32) + noise
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class WarpSettings:
    """How pictures are warped.

    Attributes:
        kind: "tps" or "projective".
        points: Key points that are drawn; some of them leave the frame.
        strength: Largest move of a corner or handle, share of the picture's sides.
        light: Whether the target's light changes.
    """

    kind: Kind = "tps"
    points: int = 20
    strength: float = 0.12
    light: bool = True

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"expected one key point or more, but points={self.points} came")


def warp_pair(
    image: UInt8[np.ndarray, "h w 3"],
    seed: int,
    settings: WarpSettings = WarpSettings(),
    *,
    warp: Warp | None = None,
    name: str = "picture",
) -> Pair:
    """A picture and a warped copy of the same size, with key points and dense flow.

    Args:
        image: The source.
        seed: Of the warp, the key points and the light.
        settings: How.

    Other:
        warp: A warp of your own; `settings.kind` and `settings.strength` then do not matter.
        name: Of the picture.

    Returns:
        The pair. Key points are drawn evenly over the target and a little beyond; one that lies outside a frame keeps
        its place there and is marked as not visible on that side.

    Raises:
        ValueError: If the settings are out of range or the picture is smaller than 2 x 2.
    """
    size = image.shape[:2]
    if min(size) < 2:
        raise ValueError(f"a picture of {size[1]}x{size[0]} pixels cannot be warped; give one of 2x2 or more")
    dice, light = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    if warp is None:
        warp = random_warp(dice, size, settings.kind, settings.strength)
    sides = np.array([size[1] - 1, size[0] - 1])
    answers = dice.uniform(-BEYOND, 1 + BEYOND, (settings.points, 2)) * sides
    questions, flow = warp(answers), warp_flow(warp, size, size)
    target = warp_image(image, flow)
    target = change_light(target, light) if settings.light else target
    return Pair(
        key=f"{name}:{settings.kind}:{seed}",
        category="warp",
        source=PairSide(name, size, questions, _inside(questions, size), lambda: image),
        target=PairSide(f"{name} warped {seed}", size, answers, _inside(answers, size), lambda: target),
        names=tuple(str(number) for number in range(settings.points)),
        load_flow=lambda: flow,
    )


def open_warps(spec: str, root: Path, split: str | None) -> PairSet:
    """Warped copies of every picture in a folder.

    Args:
        spec: What the user typed.
        root: Folder of the pictures, or one with a folder `images`.
        split: "tps" or "projective", and options: "tps,count=2,seed=0,points=20,strength=0.12,light=yes"; `count`
            is a picture's number of copies.

    Raises:
        ValueError: If there are no pictures or an option is out of range.
    """
    defaults = {"count": 1, "seed": 0, "points": 20, "strength": 0.12, "light": True}
    word, chosen = options(split, "tps", defaults)
    kind: Kind = "projective" if word == "projective" else "tps"
    if word != kind or chosen["count"] < 1 or not 0 < chosen["strength"] <= 0.3 or chosen["seed"] < 0:
        raise ValueError(
            f"warps are tps or projective, with count of 1 or more, seed of 0 or more and strength above 0 and at most "
            f"0.3, but {split!r} came"
        )
    settings = WarpSettings(kind, chosen["points"], chosen["strength"], chosen["light"])
    files = walk(root / "images" if (root / "images").is_dir() else root, "warps")
    rows = tuple((name, path, copy) for name, path in files.items() for copy in range(chosen["count"]))
    keys = tuple(f"{name}:{kind}:{copy}" for name, _, copy in rows)
    return PairSet(spec, keys, ("warp",) * len(keys), partial(_warped, rows, keys, chosen["seed"], settings))


def _warped(
    rows: tuple[tuple[str, Path, int], ...], keys: tuple[str, ...], seed: int, settings: WarpSettings, index: int
) -> Pair:
    name, path, copy = rows[index]
    digits = np.random.SeedSequence([seed, copy, *name.encode()]).generate_state(1)
    pair = warp_pair(read_image(path), int(digits[0]), settings, name=name)
    return Pair(keys[index], pair.category, pair.source, pair.target, pair.names, load_flow=pair.load_flow)
