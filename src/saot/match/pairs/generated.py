"""Pairs from the built-in scenes: two instances of a class, cut out, with exact points, masks, depth and space.

A pair depends on (version, styles, split, seed, index) and the classes asked for. Of either side are drawn: the
scene, the margin (so the scale differs), whether it is mirrored, and what is held in front of it.
"""

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import numpy as np

from saot.match.pairs.cuts import (
    FEWEST,
    POINTS,
    POOL,
    TRIES,
    Cut,
    Found,
    ScenePairSettings,
    covered,
    cut_out,
    heading_of,
    joined,
    may_show,
    named,
    scout,
)
from saot.match.pairs.files import options
from saot.match.pairs.pairs import Pair, PairSet, PairSide
from saot.scenes import SCENES_VERSION

COUNTS: Mapping[str, int] = MappingProxyType({"train": 200, "val": 80})  # pairs, unless asked for others
PARTNERS = 8  # targets that a source is tried with


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
    key = [zlib.crc32(t.encode()) for t in (f"pairs-{SCENES_VERSION}", settings.style, settings.split)]
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
