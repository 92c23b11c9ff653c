"""What pairs of the built-in scenes are made of.

What may be asked for; instances of the scenes: where they are and how the camera sees them; square pieces cut out
around them; and two such pieces joined to a pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from PIL import Image

from saot.match.pairs.key_points import named_groups, named_mirror
from saot.match.pairs.pairs import Box, Lens, PairSide, mirrored
from saot.scenes import (
    MIXES,
    QUOTAS,
    Camera,
    Mesh,
    Scene,
    Site,
    build_world,
    draw_camera,
    draw_plan,
    rare_things,
    render_scene,
    scene_key,
    to_camera,
)

POOL: Mapping[str, int] = MappingProxyType({"train": 400, "val": 100})  # scenes that pairs of a split are cut from
STYLES = ("game", "street", "game-street", "street-game", "turned")
LOOKS = ("street", "game", "both")
TRIES = 400  # of whatever is drawn until it will do
FEWEST = 3  # key points an instance shows, and a pair has in common
HEIGHT = 504  # of the whole scene, pixels
SCOUT = 252  # of the small picture in which instances are looked for
SMALLEST = 28  # longer side of an instance in the small picture

_CAR = "front_left_light front_left_wheel front_right_light front_right_wheel rear_left_light rear_left_wheel "
_SIDES = _CAR + "rear_right_light rear_right_wheel "
_BODY = "head left_foot left_hand left_knee left_shoulder right_foot right_hand right_knee right_shoulder"
_CYCLE = "front_wheel left_grip rear_wheel right_grip saddle"
POINTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "person": tuple(_BODY.split()),
        "rider": tuple(_BODY.split()),
        "car": tuple(f"{_SIDES} roof windscreen".split()),
        "truck": tuple(f"{_SIDES} rear_left_top rear_right_top".split()),
        "bus": tuple(f"{_SIDES} rear_left_top rear_right_top".split()),
        "train": tuple(f"{_SIDES} rear_left_top rear_right_top".split()),
        "motorcycle": tuple(_CYCLE.split()),
        "bicycle": tuple(_CYCLE.split()),
    }
)
_INDEX = {name: index for index, name in enumerate(POINTS, 11)}  # among the 19 classes


@dataclass(frozen=True)
class ScenePairSettings:
    """What pairs are drawn.

    Attributes:
        style: "game", "street", or both, source first: "game-street", "street-game"; or "turned": either side has an
            instance alone in a street, at a heading of its own (`turned_pairs`).
        split: "train" or "val"; they share no scene.
        classes: Classes of the pairs, in turn. The others are held out.
        size: Rows and columns of the pictures, pixels.
        seed: Other seeds draw other pairs from the same scenes.
        mirror: Share of pairs in which one side is mirrored.
        occlusion: Share of sides with something in front of the object.
        looks: How the streets of "turned" look: "street", "game", or "both", drawn for either side.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    style: str = "street"
    split: str = "train"
    classes: tuple[str, ...] = tuple(POINTS)
    size: int = 240
    seed: int = 0
    mirror: float = 0.25
    occlusion: float = 0.25
    looks: str = "street"

    def __post_init__(self) -> None:
        if self.style not in STYLES or self.split not in POOL:
            raise ValueError(
                f"pairs of scenes come in the styles {', '.join(STYLES)} and the splits {' and '.join(POOL)}, but "
                f"{self.style!r} and {self.split!r} came"
            )
        unknown = [name for name in self.classes if name not in POINTS]
        if unknown or not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(
                f"classes are some of {', '.join(POINTS)}, each once, but {', '.join(self.classes)!r} came"
            )
        if not 32 <= self.size <= 1024 or self.seed < 0:
            raise ValueError(f"size goes from 32 to 1024 and seed from 0, but {self.size} and {self.seed} came")
        if not (0 <= self.mirror <= 1 and 0 <= self.occlusion <= 1):
            raise ValueError(f"mirror and occlusion are shares, 0 to 1, but {self.mirror} and {self.occlusion} came")
        if self.looks not in LOOKS:
            raise ValueError(f"looks is one of {', '.join(LOOKS)}, but {self.looks!r} came")

    @property
    def styles(self) -> tuple[str, str]:
        """Style of the source and of the target."""
        source, _, target = self.style.partition("-")
        return source, target or source


@lru_cache(maxsize=16)
def named(category: str) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...], tuple[tuple[int, ...], ...]]:
    """Names of a class's key points, rows that a mirror swaps, and rows that are easily taken for one another."""
    names = POINTS[category]
    return names, named_mirror(names), named_groups(names)


# Scenes: where instances are, and how the camera sees them


@dataclass(frozen=True)
class Found:
    """An instance worth cutting out."""

    scene: int
    instance: int
    seen: frozenset[str]


@lru_cache(maxsize=1024)
def scout(style: str, split: str, index: int) -> dict[str, tuple[Found, ...]]:
    """The instances of a scene that are large and show enough key points, by class."""
    scene = render_scene(style, split, index, SCOUT, 2 * SCOUT)
    classes = {number: name for name, number in _INDEX.items()}
    found: dict[str, tuple[Found, ...]] = {}
    for item in scene.keypoints:
        name = classes.get(item.class_index)
        if name is None:
            continue
        left, top, right, bottom = box_of(scene.instances == item.instance)
        seen = frozenset(point for point, (_, _, visible) in item.points.items() if visible and point in POINTS[name])
        if max(right - left, bottom - top) >= SMALLEST and len(seen) >= FEWEST:
            found[name] = (*found.get(name, ()), Found(index, item.instance, seen))
    return found


def scene_camera(style: str, split: str, index: int) -> Camera:
    """The camera of a built-in scene: what `render_scene` draws before anything else."""
    return _world(style, split, index)[0]


def may_show(style: str, split: str, index: int, category: str) -> bool:
    """Whether a scene is worth a look: rare classes are laid out in a share of the scenes only."""
    return category not in QUOTAS or category in rare_things(MIXES[style], scene_key(style, split), index)


@lru_cache(maxsize=4)
def _world(style: str, split: str, index: int) -> tuple[Camera, Mesh]:
    """Camera and shapes of a scene, drawn as `render_scene` draws them; a test compares the two."""
    key = scene_key(style, split)
    world, view, _, _ = (np.random.default_rng(s) for s in np.random.SeedSequence([*key, index]).spawn(4))
    mix, mesh = MIXES[style], Mesh()
    present = rare_things(mix, key, index)
    plan = draw_plan(world, mix, present)
    camera = draw_camera(view, mix, plan.lane)
    build_world(Site(mesh, world, mix, plan, present))
    return camera, mesh


def heading_of(style: str, split: str, found: Found) -> float:
    """Where an instance looks, radians from the direction in which the camera sees it; 0 = seen from behind."""
    camera, mesh = _world(style, split, found.scene)
    named = next(point for point in mesh.named if point.instance == found.instance)
    place = mesh.placements[mesh.owners[named.vertex]]
    x, _, z = to_camera(np.array([[place.x, place.y, place.z]]), camera)[0].tolist()
    turned = np.arctan2(place.sin, place.cos) - camera.yaw - np.arctan2(x, z)
    return float(np.angle(np.exp(1j * turned)))


def scene_lens(camera: Camera, height: int, width: int) -> Lens:
    """The pinhole of a scene's picture."""
    return Lens(camera.focal * width, 2 * camera.focal * height, width / 2 - 0.5, camera.horizon * height - 0.5)


@lru_cache(maxsize=8)
def _rendered(style: str, split: str, index: int) -> Scene:
    return render_scene(style, split, index, HEIGHT, 2 * HEIGHT)


# Cut-outs


@dataclass(frozen=True, eq=False)
class Cut:
    """A square piece of a scene, resized; what a side is made of."""

    image: UInt8[np.ndarray, "s s 3"]
    mask: Bool[np.ndarray, "s s"]
    depth: Float32[np.ndarray, "s s"]
    points: Float64[np.ndarray, "p 2"]
    visible: Bool[np.ndarray, " p"]
    box: Box
    lens: Lens
    truncated: bool
    occluded: bool = False


def box_of(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """First column and row, and those after the last, of what is true."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cut_out(style: str, split: str, found: Found, names: tuple[str, ...], size: int, rng: np.random.Generator) -> Cut:
    """The instance with a margin of 1.1 to 2.2 of its longer side, anywhere inside that margin."""
    scene = _rendered(style, split, found.scene)
    height, width = scene.labels.shape
    whole = scene.instances == found.instance
    left, top, right, bottom = box_of(whole)
    side = min(max(right - left, bottom - top) * float(np.exp(rng.uniform(np.log(1.1), np.log(2.2)))), float(height))
    room = np.maximum(side - np.array([right - left, bottom - top]), 0) / 2
    middle = np.array([left + right, top + bottom]) / 2 + rng.uniform(-0.8, 0.8, 2) * room
    start = np.clip(middle - side / 2, 0, [width - side, height - side])
    scale = size / side
    picture = Image.fromarray(scene.image).resize(
        (size, size), Image.Resampling.BICUBIC, box=(*start.tolist(), *(start + side).tolist())
    )
    steps = (np.arange(size) + 0.5) / scale
    columns, rows = (np.minimum((s + steps).astype(int), n - 1) for s, n in zip(start, (width, height), strict=True))
    near = np.ix_(rows, columns)
    mask = whole[near]
    known = {item.instance: item.points for item in scene.keypoints}[found.instance]
    points, visible = np.zeros((len(names), 2)), np.zeros(len(names), bool)
    for row, name in enumerate(names):
        if name in known:
            x, y, seen = known[name]
            points[row], visible[row] = (np.array([x, y]) + 0.5 - start) * scale - 0.5, seen
    lens = scene_lens(scene_camera(style, split, found.scene), height, width)
    cx, cy = (np.array([lens.cx, lens.cy]) + 0.5 - start) * scale - 0.5
    edges = np.clip((np.array([left, top, right, bottom]) - np.tile(start, 2)) * scale, 0, size) - 0.5
    border = left == 0 or top == 0 or right == width or bottom == height
    outside = left < start[0] or top < start[1] or right > start[0] + side or bottom > start[1] + side
    x1, y1, x2, y2 = edges.tolist()
    return Cut(
        image=np.array(picture),
        mask=mask,
        depth=scene.depth[near],
        points=points,
        visible=visible & points_on(points, mask),
        box=(x1, y1, x2, y2),
        lens=Lens(lens.fx * scale, lens.fy * scale, float(cx), float(cy)),
        truncated=bool(border or outside),
    )


def points_on(points: Float64[np.ndarray, "p 2"], mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, " p"]:
    """Which points lie on a pixel of the mask."""
    cells = np.rint(points).astype(int)
    inside = np.all((cells >= 0) & (cells < np.array(mask.shape[::-1])), axis=-1)
    x, y = np.where(inside[:, None], cells, 0).T
    return inside & mask[y, x]


def covered(cut: Cut, rng: np.random.Generator, other: Cut | None) -> Cut:
    """Something held in front of a part of the object: another instance, or a plain card."""
    left, top, right, bottom = box_of(cut.mask)
    size = len(cut.mask)
    wide, high = (max(3, round(float(rng.uniform(0.35, 0.6)) * n)) for n in (right - left, bottom - top))
    x = int(rng.choice([left - wide // 4, right - wide + wide // 4]))
    y = int(rng.integers(top, max(top + 1, bottom - high + 1)))
    if other is None:
        noise = rng.normal(0, 6, (high, wide, 3))
        piece = np.clip(rng.uniform(30, 220, 3) + noise, 0, 255).astype(np.uint8)
        shape = np.ones((high, wide), bool)
    else:
        corners = box_of(other.mask)
        piece = np.array(Image.fromarray(other.image).crop(corners).resize((wide, high)))
        shape = np.array(Image.fromarray(other.mask).crop(corners).resize((wide, high), Image.Resampling.NEAREST))
    card = np.zeros_like(cut.mask)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + wide, size), min(y + high, size)
    inner = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
    card[y0:y1, x0:x1] = shape[inner]
    image, depth = cut.image.copy(), cut.depth.copy()
    image[y0:y1, x0:x1][shape[inner]] = piece[inner][shape[inner]]
    depth[card] = max(float(cut.depth[cut.mask].min()) - 0.3, 0.1)
    mask = cut.mask & ~card
    return replace(
        cut, image=image, mask=mask, depth=depth, visible=cut.visible & points_on(cut.points, mask), occluded=True
    )


# Pairs


def joined(
    category: str, labels: Sequence[str], cuts: Sequence[Cut], headings: Sequence[float], flipped: int | None
) -> tuple[PairSide, PairSide, Mapping[str, int]] | None:
    """Both sides, one of them mirrored or none, and the attributes; None where too few points are seen in both.

    Args:
        category: Class of both.
        labels: Names of the pictures.
        cuts: What they show.
        headings: Where the instances look, radians, before the mirror; 0 = seen from behind.
        flipped: Side to be mirrored.
    """
    if any(not cut.mask.any() for cut in cuts):
        return None
    sides = [_side(label, cut) for label, cut in zip(labels, cuts, strict=True)]
    if flipped is not None:
        sides[flipped] = mirrored(sides[flipped], named(category)[1])
    if (sides[0].visible & sides[1].visible).sum() < FEWEST:
        return None
    turns = [-turn if flipped == k else turn for k, turn in enumerate(headings)]
    return sides[0], sides[1], _attributes(cuts, turns, flipped is not None)


def _side(name: str, cut: Cut) -> PairSide:
    size = cut.mask.shape[0]
    return PairSide(
        name=name,
        size=(size, size),
        points=cut.points,
        visible=cut.visible,
        load=lambda: cut.image,
        box=cut.box,
        load_mask=lambda: cut.mask,
        load_depth=lambda: cut.depth,
        lens=cut.lens,
    )


def _attributes(cuts: Sequence[Cut], headings: Sequence[float], flipped: bool) -> Mapping[str, int]:
    """How hard the pair is, in the words and numbers of SPair-71k; the limits are our own.

    Occlusion counts what was put in front, not what stands there in the scene.
    """
    turn = abs(np.degrees(np.angle(np.exp(1j * (headings[0] - headings[1])))))
    sides = [max(cut.box[2] - cut.box[0], cut.box[3] - cut.box[1]) for cut in cuts]
    ratio = max(sides) / min(sides)
    return MappingProxyType(
        {
            "viewpoint": int(turn > 30) + int(turn > 90),
            "scale": int(ratio > 1.25) + int(ratio > 1.6),
            "truncation": cuts[0].truncated + 2 * cuts[1].truncated,
            "occlusion": cuts[0].occluded + 2 * cuts[1].occluded,
            "mirror": int(flipped),
        }
    )
