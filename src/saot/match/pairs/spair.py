"""SPair-71k: PairAnnotation/SPLIT/<pair>.json, ImageAnnotation/CATEGORY/<image>.json, JPEGImages/CATEGORY.

<pair> is <number>-<source>-<target>:<category>, and Layout/large/SPLIT.txt lists the pairs of a split. Segmentation,
the object masks, is used where it is there.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from saot.data import columns, read_image, read_mask
from saot.match.pairs.files import home, numbers, options, read_json
from saot.match.pairs.key_points import SPAIR_POINTS, VOC_CLASSES, spair_groups, spair_mirror
from saot.match.pairs.pairs import Box, Pair, PairSet, PairSide

SPLITS = {"trn": "trn", "train": "trn", "val": "val", "test": "test"}

_ATTRIBUTES = {
    "viewpoint": "viewpoint_variation",
    "scale": "scale_variation",
    "truncation": "truncation",
    "occlusion": "occlusion",
    "mirror": "mirror",
}
_POSES = {"Frontal": 1, "Left": 2, "Right": 3, "Unspecified": 4, "Rear": 5}
_SIDE = ("imname", "imsize", "bndbox", "kps")
_PAIR_KEYS = (*(f"{s}_{k}" for s in ("src", "trg") for k in _SIDE), "kps_ids", "category", *_ATTRIBUTES.values())


def open_spair(spec: str, root: Path, split: str | None) -> PairSet:
    """SPair-71k's pairs of a split.

    Args:
        spec: What the user typed.
        root: Folder of the release, or the one it lies in.
        split: "trn", "val" or "test" (without one: test); "test,layout=small" takes the small layout.

    Raises:
        ValueError: If the split is unknown or the list of its pairs is missing.
    """
    name, chosen = options(split, "test", {"layout": "large"})
    if name not in SPLITS:
        raise ValueError(f"SPair-71k has the splits trn, val and test, but {name!r} came")
    root, split = home(root, "SPair-71k", "PairAnnotation"), SPLITS[name]
    layout = root / "Layout" / chosen["layout"] / f"{split}.txt"
    if layout.is_file() or chosen["layout"] != "large":
        keys = tuple(row[0] for row in columns(layout, 1, 1))
    else:
        keys = tuple(sorted(path.stem for path in (root / "PairAnnotation" / split).glob("*.json")))
    wrong = [key for key in keys if ":" not in key]
    if wrong or not keys:
        what = f"the pair {wrong[0]!r}" if wrong else "no pair"
        raise ValueError(
            f"expected pairs named NUMBER-SOURCE-TARGET:CATEGORY in {layout} or {root / 'PairAnnotation' / split}, but "
            f"found {what}; copy the whole release"
        )
    return PairSet(spec, keys, tuple(key.rpartition(":")[2] for key in keys), partial(_pair, root, split, keys))


def _pair(root: Path, split: str, keys: tuple[str, ...], index: int) -> Pair:
    path = root / "PairAnnotation" / split / f"{keys[index]}.json"
    data = read_json(path, _PAIR_KEYS)
    category = str(data["category"])
    mirror, groups = spair_mirror(category), spair_groups(category)
    attributes = {ours: int(data[theirs]) for ours, theirs in _ATTRIBUTES.items()}
    attributes |= _views(root, category, data)
    return Pair(
        key=keys[index],
        category=category,
        source=_side(root, category, data, "src", path),
        target=_side(root, category, data, "trg", path),
        names=tuple(str(number) for number in range(SPAIR_POINTS)),
        mirror=mirror,
        groups=groups,
        attributes=attributes,
    )


def _views(root: Path, category: str, data: dict[str, Any]) -> dict[str, int]:
    """From where both pictures show the object, where the release says so: Shape-of-You, Tab. 5.

    "azimuth" is the difference of headings in steps of 45 degrees, 0 to 4; "pose" is 0 where the poses differ, else
    that of both: 1 frontal, 2 left, 3 right, 4 unspecified, 5 rear.
    """
    found = {}
    names = [Path(str(data[f"{role}_imname"])).stem for role in ("src", "trg")]
    own = [read_json(root / "ImageAnnotation" / category / f"{name}.json", ()) for name in names]
    headings = [int(one["azimuth_id"]) for one in own if one.get("azimuth_id") is not None]
    if len(headings) == 2:
        apart = abs(headings[0] - headings[1]) % 8
        found["azimuth"] = min(apart, 8 - apart)
    poses = [str(data.get(f"{role}_pose", one.get("pose", ""))) for role, one in zip(("src", "trg"), own, strict=True)]
    if all(poses):
        found["pose"] = _POSES.get(poses[0], 4) if poses[0] == poses[1] else 0
    return found


def _side(root: Path, category: str, data: dict[str, Any], role: str, path: Path) -> PairSide:
    """One side: its own points from the image's annotation, the common ones as the pair's file has them."""
    name, stem = str(data[f"{role}_imname"]), Path(str(data[f"{role}_imname"])).stem
    own = root / "ImageAnnotation" / category / f"{stem}.json"
    points, visible = _image_points(own)
    common = numbers(data[f"{role}_kps"], (None, 2), f"{role}_kps of {path}")
    ids = [int(number) for number in data["kps_ids"]]
    if len(ids) != len(common) or (ids and not 0 <= min(ids) <= max(ids) < SPAIR_POINTS):
        raise ValueError(
            f"{path} has {len(common)} points in {role}_kps for the ids {data['kps_ids']}; expected as many, 0 to 29"
        )
    absent = [number for number in ids if not visible[number]]
    if absent:
        raise ValueError(f"{path} uses key point {absent[0]}, which {own} does not have; are both of one release?")
    points[ids] = common
    width, height = (int(size) for size in numbers(data[f"{role}_imsize"][:2], (2,), f"{role}_imsize of {path}"))
    x1, y1, x2, y2 = numbers(data[f"{role}_bndbox"], (4,), f"{role}_bndbox of {path}").tolist()
    box: Box = (x1, y1, x2, y2)
    mask = root / "Segmentation" / category / f"{stem}.png"
    return PairSide(
        name=f"{category}/{stem}",
        size=(height, width),
        points=points,
        visible=visible,
        load=partial(read_image, root / "JPEGImages" / category / name),
        box=box,
        load_mask=partial(_mask, mask, category) if mask.is_file() else None,
    )


def _image_points(path: Path) -> tuple[Float64[np.ndarray, "p 2"], Bool[np.ndarray, " p"]]:
    """All points of a picture; the target's others say whether a point counts as geometry-aware."""
    places = read_json(path, ("kps",))["kps"]
    points, visible = np.zeros((SPAIR_POINTS, 2)), np.zeros(SPAIR_POINTS, bool)
    for number, place in places.items():
        if not number.isdecimal() or int(number) >= SPAIR_POINTS:
            raise ValueError(f"{path} has the key point {number!r}, but 0 to {SPAIR_POINTS - 1} are expected")
        if place is not None:
            points[int(number)] = numbers(place, (2,), f"key point {number} of {path}")
            visible[int(number)] = True
    return points, visible


def _mask(path: Path, category: str) -> Bool[np.ndarray, "h w"]:
    """The object: pixels of the category's VOC index, or all that are neither background nor border."""
    pixels = read_mask(path)
    index = VOC_CLASSES.index(category) + 1
    if (pixels == index).any():
        return pixels == index
    inner = (pixels != 0) & (pixels != 255)
    return inner if inner.any() else pixels != 0
