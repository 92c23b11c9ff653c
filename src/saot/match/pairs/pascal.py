"""PF-PASCAL: JPEGImages, Annotations/CATEGORY/*.mat, and lists of pairs as CSV, in a folder PF-dataset-PASCAL.

The lists of val and test hold the common points themselves. That of train names pictures, whose points lie in the .mat
files; so do the boxes. SciPy reads those.
"""

import csv
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from saot.data import BROKEN, image_size, read_image, read_text
from saot.match.pairs.files import home, numbers, options
from saot.match.pairs.key_points import VOC_CLASSES
from saot.match.pairs.pairs import Box, Pair, PairSet, PairSide, mirrored

SPLITS = ("train", "val", "test")

Row = tuple[str, ...]


def open_pf_pascal(spec: str, root: Path, split: str | None) -> PairSet:
    """PF-PASCAL's pairs of a split.

    Args:
        spec: What the user typed.
        root: The folder PF-dataset-PASCAL, or the one it lies in.
        split: "train", "val" or "test" (without one: test). "test,boxes=yes" reads the objects' boxes too, which
            needs SciPy, as train does.

    Raises:
        ValueError: If the split is unknown, its list is missing or a line of it is not as expected.
    """
    name, chosen = options(split, "test", {"boxes": False})
    if name not in SPLITS:
        raise ValueError(f"PF-PASCAL has the splits train, val and test, but {name!r} came")
    root = home(root, "PF-dataset-PASCAL", "JPEGImages")
    path, rows = _rows(root, name)
    categories = tuple(_category(path, number, row) for number, row in enumerate(rows, 2))
    keys = tuple(f"{number:05d}:{_stem(row[0])}:{_stem(row[1])}" for number, row in enumerate(rows))
    make = partial(_train_pair if name == "train" else _listed_pair, root, path, rows, keys, categories)
    return PairSet(spec, keys, categories, partial(make, chosen["boxes"]))


def _stem(name: str) -> str:
    return Path(name).stem


def _rows(root: Path, split: str) -> tuple[Path, list[Row]]:
    """The lines of the list of a split, below its head."""
    short = "trn" if split == "train" else split
    names = (f"{split}_pairs_pf_pascal.csv", f"{split}_pairs.csv", f"{short}_pairs.csv")
    for folder in (root, root / "image_pairs", root.parent, root.parent / "image_pairs"):
        for name in names:
            if (folder / name).is_file():
                text = read_text(folder / name)
                rows = [tuple(cell.strip() for cell in row) for row in csv.reader(text.splitlines()) if row]
                if len(rows) < 2:
                    raise ValueError(
                        f"{folder / name} lists no pair; expected a line of names and a line for each pair"
                    )
                return folder / name, rows[1:]
    raise ValueError(f"the list {names[0]} is missing in {root}; it is published apart from the pictures, put it there")


def _category(path: Path, number: int, row: Row) -> str:
    if len(row) < 4:
        raise ValueError(
            f"line {number} of {path} has {len(row)} columns, but source, target, class and more are expected"
        )
    try:
        index = int(float(row[2]))
    except ValueError:
        index = 0
    if not 1 <= index <= len(VOC_CLASSES):
        raise ValueError(f"line {number} of {path} has the class {row[2]!r}, but 1 to {len(VOC_CLASSES)} are expected")
    return VOC_CLASSES[index - 1]


def _listed_pair(
    root: Path, path: Path, rows: list[Row], keys: tuple[str, ...], categories: tuple[str, ...], boxes: bool, index: int
) -> Pair:
    """A pair of val or test: XA;XA;..., YA;..., XB;..., YB;..., the points seen in both pictures."""
    row, category, what = rows[index], categories[index], f"line {index + 2} of {path}"
    if len(row) != 7:
        raise ValueError(f"{what} has {len(row)} columns, but source, target, class, XA, YA, XB and YB are expected")
    axes = [numbers([p for p in cell.split(";") if p], (None,), f"a column of {what}") for cell in row[3:]]
    if len({len(axis) for axis in axes}) != 1:
        raise ValueError(
            f"{what} has {', '.join(str(len(a)) for a in axes)} numbers in XA, YA, XB and YB; expected alike"
        )
    seen = np.ones(len(axes[0]), bool)
    sides = []
    for name, points in ((row[0], np.stack(axes[:2], -1)), (row[1], np.stack(axes[2:], -1))):
        box = _annotation(root, category, name)[2] if boxes else None
        sides.append(_side(root, category, name, points, seen, box))
    names = tuple(str(number) for number in range(len(seen)))
    return Pair(keys[index], category, sides[0], sides[1], names)


def _train_pair(
    root: Path, path: Path, rows: list[Row], keys: tuple[str, ...], categories: tuple[str, ...], boxes: bool, index: int
) -> Pair:
    """A pair of train: the points of both .mat files; flip = 1 means both pictures mirrored."""
    row, category = rows[index], categories[index]
    annotations = [_annotation(root, category, name) for name in row[:2]]
    count = max(len(visible) for _, visible, _ in annotations)
    sides = []
    for name, (points, visible, box) in zip(row[:2], annotations, strict=True):
        more = count - len(visible)
        side = _side(root, category, name, np.pad(points, ((0, more), (0, 0))), np.pad(visible, (0, more)), box)
        sides.append(mirrored(side, ()) if _flip(path, index, row[3]) else side)
    names = tuple(str(number) for number in range(count))
    return Pair(keys[index], category, sides[0], sides[1], names)


def _flip(path: Path, index: int, text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"line {index + 2} of {path} has flip={text!r}, but 0 or 1 is expected")
    return text == "1"


def _side(
    root: Path,
    category: str,
    name: str,
    points: Float64[np.ndarray, "p 2"],
    visible: Bool[np.ndarray, " p"],
    box: Box | None,
) -> PairSide:
    picture = root / "JPEGImages" / Path(name).name
    return PairSide(
        f"{category}/{_stem(name)}", image_size(picture), points, visible, partial(read_image, picture), box
    )


@lru_cache(maxsize=4096)
def _annotation(root: Path, category: str, name: str) -> tuple[Float64[np.ndarray, "p 2"], Bool[np.ndarray, " p"], Box]:
    """Points, which of them are there, and box of a picture."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ValueError(
            "PF-PASCAL keeps training points and boxes in .mat files, which SciPy reads; install it with: "
            "pip install scipy"
        ) from error
    path = root / "Annotations" / category / f"{_stem(name)}.mat"
    if not path.is_file():
        raise ValueError(f"the annotation {path} is missing; copy the whole release")
    try:
        content = loadmat(path)
    except (MatReadError, *BROKEN, NotImplementedError) as error:
        raise ValueError(f"{path} is no MATLAB file that SciPy reads ({error}); copy or download it again") from error
    missing = [key for key in ("kps", "bbox") if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; expected kps (a row x, y for each key point) and bbox")
    kps = np.asarray(content["kps"], np.float64)
    if kps.ndim != 2 or kps.shape[1] != 2:
        raise ValueError(f"kps in {path} has the shape {kps.shape}, but a row x, y for each key point is expected")
    visible = np.all(np.isfinite(kps), axis=-1)
    x1, y1, x2, y2 = numbers(np.asarray(content["bbox"]).ravel(), (4,), f"bbox in {path}").tolist()
    return np.where(visible[:, None], kps, 0.0), visible, (x1, y1, x2, y2)
