"""AP-10K as pairs of one species, of two species of a family, or of two families.

annotations/ap10k-{train,val,test}-split1.json (COCO style, the family as supercategory) and data/. The benchmark's own
recipe draws its pairs in the order in which a file system lists folders, so nobody can repeat it. Here all is sorted,
and what is drawn follows from the pictures' numbers alone. A list in PATH/pairs/SETTING-SPLIT.csv, if there is one,
takes the place of that: `write_ap10k_pairs` writes such lists, to be published with results.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64, UInt64

from saot.data import read_image, read_text, write_atomic
from saot.match.pairs.files import home, numbers, options, read_json
from saot.match.pairs.key_points import AP10K_GROUPS, AP10K_MIRROR, AP10K_POINTS
from saot.match.pairs.pairs import Box, Pair, PairSet, PairSide

Setting = Literal["intra", "species", "family"]
Row = tuple[int, int, str]  # numbers of source and target picture, category

SPLITS = ("train", "val", "test")
FEWEST = 3  # key points a picture has, and a pair has in common
TEST, VAL = 30, 20  # pictures of a species: the last ones, and those before them
TRAIN_PAIRS = 50  # a picture of a species
SPECIES_PAIRS = {"val": 400, "test": 900}  # a family
FAMILY_PAIRS = {"val": 20, "test": 30}  # two families


@dataclass(frozen=True, eq=False)
class _Animal:
    """The one animal of a picture."""

    picture: int
    file: str
    size: tuple[int, int]
    species: str
    family: str
    points: Float64[np.ndarray, "17 2"]
    visible: Bool[np.ndarray, "17"]
    box: Box


def open_ap10k(spec: str, root: Path, split: str | None) -> PairSet:
    """AP-10K's pairs of a setting.

    Args:
        spec: What the user typed.
        root: Folder of the release, or the one it lies in.
        split: "intra", "species" or "family" (pairs of one species, of one family, of two families); of the test
            split, unless ",split=val" or, for "intra", ",split=train" follows.

    Raises:
        ValueError: If the setting or split is unknown, or annotations are missing or not as expected.
    """
    setting, chosen = options(split, "intra", {"split": "test"})
    root = home(root, "ap-10k", "annotations")
    found = _animals(root)
    rows = _pairs_of(root, found, _setting(setting), chosen["split"])
    animals = {animal.picture: animal for animal in found}
    unknown = [picture for row in rows for picture in row[:2] if picture not in animals]
    if unknown:
        raise ValueError(f"{spec}: the list of pairs names picture {unknown[0]}, of which there is no single animal")
    keys = tuple(f"{source:012d}-{target:012d}:{category}" for source, target, category in rows)
    return PairSet(spec, keys, tuple(row[2] for row in rows), partial(_pair, root, animals, rows, keys))


def ap10k_pairs(root: Path, setting: Setting, split: str) -> tuple[Row, ...]:
    """The pairs of a setting and split, sorted: (number of the source, of the target, category).

    The published list in `root`/pairs is taken if it is there.

    Raises:
        ValueError: If the split has no such pairs, or annotations or list are not as expected.
    """
    return _pairs_of(root, _animals(root), setting, split)


def _pairs_of(root: Path, animals: Sequence[_Animal], setting: Setting, split: str) -> tuple[Row, ...]:
    if split not in SPLITS or (split == "train" and setting != "intra"):
        offered = ("train, " if setting == "intra" else "") + "val and test"
        raise ValueError(f"AP-10K's setting {setting} has the splits {offered}, but {split!r} came")
    listed = root / "pairs" / f"{setting}-{split}.csv"
    if listed.is_file():
        return _read_list(listed)
    pictures = _split_of(animals)[split]
    chosen = [animal for animal in animals if animal.picture in pictures]
    match setting:
        case "intra":
            rows = _intra(chosen, split)
        case "species":
            rows = _cross_species(chosen, SPECIES_PAIRS[split])
        case "family":
            rows = _cross_family(chosen, FAMILY_PAIRS[split])
    return tuple(sorted(rows, key=lambda row: (row[2], row[0], row[1])))


def write_ap10k_pairs(root: str | Path, out: str | Path) -> tuple[Path, ...]:
    """Write the lists of all settings and splits into `out`, as source,target,category; returns their paths.

    Args:
        root: Folder of the release.
        out: Where to write; `root`/pairs makes the readers take these lists from now on.

    Raises:
        ValueError: If annotations are missing or not as expected.
    """
    root, paths = home(Path(root), "ap-10k", "annotations"), []
    animals = _animals(root)
    for setting in get_args(Setting):
        for split in SPLITS if setting == "intra" else SPLITS[1:]:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows([("source", "target", "category"), *_pairs_of(root, animals, setting, split)])
            paths.append(Path(out) / f"{setting}-{split}.csv")
            write_atomic(paths[-1], text.getvalue().encode())
    return tuple(paths)


def _setting(text: str) -> Setting:
    match text:
        case "intra" | "species" | "family":
            return text
    raise ValueError(f"AP-10K has the settings {', '.join(get_args(Setting))}, but {text!r} came")


def _read_list(path: Path) -> tuple[Row, ...]:
    rows = list(csv.reader(read_text(path).splitlines()))
    if not rows or rows[0] != ["source", "target", "category"]:
        raise ValueError(
            f"{path} begins with {','.join(rows[0]) if rows else 'nothing'}; expected source,target,category"
        )
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 3 or not (row[0].isdecimal() and row[1].isdecimal()):
            raise ValueError(f"line {number} of {path} is {','.join(row)}, but two numbers and a category are expected")
    return tuple((int(source), int(target), category) for source, target, category in rows[1:])


# Pictures


def _animals(root: Path) -> list[_Animal]:
    """Pictures with exactly one animal that has three key points or more, sorted by number."""
    found: list[_Animal] = []
    for split in SPLITS:
        path = root / "annotations" / f"ap10k-{split}-split1.json"
        data = read_json(path, ("images", "annotations", "categories"))
        kinds = {kind["id"]: (str(kind["name"]), str(kind["supercategory"])) for kind in data["categories"]}
        by_picture: dict[int, list[dict]] = {}
        for annotation in data["annotations"]:
            by_picture.setdefault(int(annotation["image_id"]), []).append(annotation)
        for image in data["images"]:
            annotations = by_picture.get(int(image["id"]), [])
            if len(annotations) == 1 and not annotations[0].get("iscrowd", 0):
                animal = _animal(image, annotations[0], kinds, path)
                found += [animal] if animal.visible.sum() >= FEWEST else []
    excluded = _excluded(root)
    kept = sorted((a for a in found if a.picture not in excluded), key=lambda animal: animal.picture)
    twice = [first.picture for first, second in pairwise(kept) if first.picture == second.picture]
    if twice:
        raise ValueError(
            f"picture {twice[0]} stands in two of the annotations in {root}; expected each once in split 1"
        )
    return kept


def _animal(image: dict, annotation: dict, kinds: dict[int, tuple[str, str]], path: Path) -> _Animal:
    what = f"of picture {image['id']} in {path}"
    flat = numbers(annotation["keypoints"], (3 * len(AP10K_POINTS),), f"keypoints {what}").reshape(-1, 3)
    left, top, width, height = numbers(annotation["bbox"], (4,), f"bbox {what}").tolist()
    if annotation["category_id"] not in kinds:
        raise ValueError(
            f"the animal {what} has the category {annotation['category_id']}, which the file does not list"
        )
    species, family = kinds[annotation["category_id"]]
    visible = flat[:, 2] > 0
    return _Animal(
        picture=int(image["id"]),
        file=str(image["file_name"]),
        size=(int(image["height"]), int(image["width"])),
        species=species,
        family=family,
        points=np.where(visible[:, None], flat[:, :2], 0.0),
        visible=visible,
        box=(left, top, left + width, top + height),
    )


def _excluded(root: Path) -> set[int]:
    """Numbers in pairs/excluded.txt, one a line: pictures with a crowd that the annotation does not mark."""
    path = root / "pairs" / "excluded.txt"
    lines = read_text(path).split() if path.is_file() else []
    wrong = [line for line in lines if not line.isdecimal()]
    if wrong:
        raise ValueError(f"{path} has the line {wrong[0]!r}, but the number of a picture is expected in each")
    return {int(line) for line in lines}


def _split_of(animals: Sequence[_Animal]) -> dict[str, set[int]]:
    """Numbers of the pictures of each split: of every species the last 30 test, the 20 before them val."""
    splits: dict[str, set[int]] = {split: set() for split in SPLITS}
    for group in _grouped(animals, "species").values():
        pictures = [animal.picture for animal in group]
        splits["test"].update(pictures[-TEST:])
        splits["val"].update(pictures[-TEST - VAL : -TEST])
        splits["train"].update(pictures[: -TEST - VAL])
    return splits


def _grouped(animals: Iterable[_Animal], by: Literal["species", "family"]) -> dict[str, list[_Animal]]:
    groups: dict[str, list[_Animal]] = {}
    for animal in animals:
        groups.setdefault(getattr(animal, by), []).append(animal)
    return {name: groups[name] for name in sorted(groups)}


# Pairs


def _intra(animals: Sequence[_Animal], split: str) -> list[Row]:
    rows: list[Row] = []
    for species, group in _grouped(animals, "species").items():
        found = [(a, b) for a, b in _with_common(group, group) if a < b]
        rows += [(a, b, species) for a, b in _drawn(found, TRAIN_PAIRS * len(group) if split == "train" else None)]
    return rows


def _cross_species(animals: Sequence[_Animal], most: int) -> list[Row]:
    rows: list[Row] = []
    for family, group in _grouped(animals, "family").items():
        kinds = _grouped(group, "species")
        found = [pair for a, b in combinations(kinds, 2) for pair in _with_common(kinds[a], kinds[b])]
        rows += [(a, b, family) for a, b in _drawn(found, most)]
    return rows


def _cross_family(animals: Sequence[_Animal], most: int) -> list[Row]:
    rows: list[Row] = []
    families = _grouped(animals, "family")
    for first, second in combinations(families, 2):
        found = _with_common(families[first], families[second])
        rows += [(a, b, f"{first}-{second}") for a, b in _drawn(found, most)]
    return rows


def _with_common(sources: Sequence[_Animal], targets: Sequence[_Animal]) -> list[tuple[int, int]]:
    """Numbers of pictures that have three key points or more in common."""
    one, two = (np.stack([animal.visible for animal in group]).astype(np.int64) for group in (sources, targets))
    rows, columns = np.nonzero(one @ two.T >= FEWEST)
    return [(sources[i].picture, targets[j].picture) for i, j in zip(rows.tolist(), columns.tolist(), strict=True)]


def _drawn(pairs: list[tuple[int, int]], most: int | None) -> list[tuple[int, int]]:
    """At most `most` pairs: those whose numbers, mixed, come first."""
    if most is None or len(pairs) <= most:
        return pairs
    a, b = np.array(pairs, np.uint64).T
    order = np.argsort(_mixed(_mixed(a) + b), kind="stable")[:most]
    return [pairs[row] for row in sorted(order.tolist())]


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Each number scattered over 64 bits (the finaliser of SplitMix64)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _pair(root: Path, animals: dict[int, _Animal], rows: tuple[Row, ...], keys: tuple[str, ...], index: int) -> Pair:
    source, target, category = rows[index]
    return Pair(
        key=keys[index],
        category=category,
        source=_side(root, animals[source]),
        target=_side(root, animals[target]),
        names=AP10K_POINTS,
        mirror=AP10K_MIRROR,
        groups=AP10K_GROUPS,
    )


def _side(root: Path, animal: _Animal) -> PairSide:
    return PairSide(
        name=f"{animal.species}/{Path(animal.file).stem}",
        size=animal.size,
        points=animal.points,
        visible=animal.visible,
        load=partial(read_image, root / "data" / animal.file),
        box=animal.box,
    )
