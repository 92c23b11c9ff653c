"""Pairs from the built-in scenes: two instances of a class, cut out, with exact points, masks, depth and space.

A pair depends on (version, styles, split, seed, index) and the classes asked for. Of either side are drawn: the
scene, the margin (so the scale differs), whether it is mirrored, and what is held in front of it.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from types import MappingProxyType

import numpy as np

from saot.match.pairs.cuts import FEWEST, POINTS, Cut, Found, covered, cut_out, heading_of, may_show, scout
from saot.match.pairs.files import options
from saot.match.pairs.pairs import Pair, PairSet, PairSide, mirrored
from saot.match.pairs.tables import named_groups, named_mirror
from saot.scenes import scene as scenes

POOL: Mapping[str, int] = MappingProxyType({"train": 400, "val": 100})  # scenes that pairs of a split are cut from
COUNTS: Mapping[str, int] = MappingProxyType({"train": 200, "val": 80})  # pairs, unless asked for others
STYLES = ("game", "street", "game-street", "street-game", "turned")
LOOKS = ("street", "game", "both")
TRIES = 400
PARTNERS = 8  # targets that a source is tried with


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


def scene_pairs(settings: ScenePairSettings = ScenePairSettings(), count: int | None = None) -> PairSet:
    """Pairs cut from the built-in scenes; each is drawn when asked for.

    Args:
        settings: What is drawn.
        count: Number of pairs; None takes the split's usual number.

    Raises:
        ValueError: If `count` is not positive.

    Example:
        >>> pair = scene_pairs(ScenePairSettings(classes=("car",), size=64), count=3)[0]
        >>> pair.category, pair.source.image().shape, bool(pair.common.sum() >= 3)
        ('car', (64, 64, 3), True)
    """
    count = COUNTS[settings.split] if count is None else count
    if count < 1:
        raise ValueError(f"expected one pair or more, but count={count} came")
    name = f"scenes-pairs:{settings.style}:{settings.split}"
    categories = tuple(settings.classes[index % len(settings.classes)] for index in range(count))
    keys = tuple(f"{settings.style}/{settings.split}/{settings.seed}/{index:05d}" for index in range(count))
    if settings.style == "turned":
        from saot.match.pairs.turned import turned_pair

        return PairSet(name, keys, categories, partial(turned_pair, settings, keys, categories))
    return PairSet(name, keys, categories, partial(_pair, settings, keys, categories))


def open_scene_pairs(spec: str, style: str, split: str | None) -> PairSet:
    """Pairs cut from the built-in scenes, from what the user typed.

    Args:
        spec: The whole of it.
        style: As in `ScenePairSettings`.
        split: "train" or "val", and options: "val,count=30,size=240,seed=0,classes=car+bus"; looks=both for "turned".

    Raises:
        ValueError: If an option is unknown or out of range.
    """
    usual = COUNTS["val" if (split or "").startswith("val") else "train"]
    defaults = {"count": usual, "size": 240, "seed": 0, "classes": "+".join(POINTS), "mirror": 0.25, "occlusion": 0.25}
    if style == "turned":
        defaults["looks"] = "street"
    name, chosen = options(split, "train", defaults)
    count, classes = chosen.pop("count"), tuple(chosen.pop("classes").split("+"))
    settings = ScenePairSettings(style=style, split=name, classes=classes, **chosen)
    return replace(scene_pairs(settings, count), spec=spec)


# Pairs


def _pair(settings: ScenePairSettings, keys: tuple[str, ...], categories: tuple[str, ...], index: int) -> Pair:
    key = [zlib.crc32(t.encode()) for t in (f"pairs-{scenes.SCENES_VERSION}", settings.style, settings.split)]
    rng = np.random.default_rng(np.random.SeedSequence([*key, settings.seed, index]))
    category = categories[index]
    source = _find(settings.styles[0], settings.split, category, rng)
    for attempt in range(1, TRIES + 1):
        if attempt % PARTNERS == 0:
            source = _find(settings.styles[0], settings.split, category, rng)
        drawn = _draw(settings, category, source, rng)
        if drawn is not None:
            return Pair(keys[index], category, *drawn[:2], *named(category), drawn[2])
    raise ValueError(f"no two views of {category} with {FEWEST} common points were found; choose another class or seed")


@lru_cache(maxsize=16)
def named(category: str) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...], tuple[tuple[int, ...], ...]]:
    """Names of a class's key points, rows that a mirror swaps, and rows that are easily taken for one another."""
    names = POINTS[category]
    return names, named_mirror(names), named_groups(names)


def _find(style: str, split: str, category: str, rng: np.random.Generator) -> Found:
    """An instance of a class, from a scene drawn until there is one."""
    for _ in range(TRIES):
        index = int(rng.integers(POOL[split]))
        found = scout(style, split, index).get(category) if may_show(style, split, index, category) else None
        if found:
            return found[int(rng.integers(len(found)))]
    raise ValueError(f"no {category} is large enough in {TRIES} scenes of {style}:{split}; choose another class")


def _draw(
    settings: ScenePairSettings, category: str, source: Found, rng: np.random.Generator
) -> tuple[PairSide, PairSide, Mapping[str, int]] | None:
    """Both sides and the attributes; None where too few points are seen in both."""
    styles, (names, mirror, _) = settings.styles, named(category)
    found = [source, _find(styles[1], settings.split, category, rng)]
    flipped = int(rng.integers(2)) if rng.random() < settings.mirror else None
    swapped = {names[a]: names[b] for pair in mirror for a, b in (pair, pair[::-1])}
    seen = [frozenset(swapped.get(n, n) for n in f.seen) if flipped == k else f.seen for k, f in enumerate(found)]
    same = styles[0] == styles[1] and found[0].scene == found[1].scene
    if same or len(seen[0] & seen[1]) < FEWEST:
        return None
    cuts = [_side_cut(settings, style, f, names, rng) for style, f in zip(styles, found, strict=True)]
    labels = [f"{style}/{settings.split}/{f.scene:05d}/{f.instance}" for style, f in zip(styles, found, strict=True)]
    turns = [heading_of(style, settings.split, f) for style, f in zip(styles, found, strict=True)]
    return joined(category, labels, cuts, turns, flipped)


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


def _side_cut(
    settings: ScenePairSettings, style: str, found: Found, names: tuple[str, ...], rng: np.random.Generator
) -> Cut:
    cut = cut_out(style, settings.split, found, names, settings.size, rng)
    if rng.random() >= settings.occlusion or not cut.mask.any():
        return cut
    other = None
    if rng.random() < 0.5:
        category = settings.classes[int(rng.integers(len(settings.classes)))]
        front = _find(style, settings.split, category, rng)
        piece = cut_out(style, settings.split, front, names, settings.size, rng)
        other = piece if piece.mask.any() else None
    return covered(cut, rng, other)


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
