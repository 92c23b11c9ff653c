"""TSS: {FG3DCar,JODS,PASCAL}/<pair>/{image1,image2}.png with flow1, flow2 (.flo) and mask1, mask2 (.png).

Flow and mask of a number belong to the target of that number: flow2 leads from pixels of image2 to image1, and mask2
says which pixels of image2 count. So each folder is two pairs.
"""

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from saot.data import image_size, read_image, read_mask_colours
from saot.match.pairs.files import read_flow
from saot.match.pairs.pairs import DenseFlow, Pair, PairSet, PairSide

SUBSETS = ("FG3DCar", "JODS", "PASCAL")


def open_tss(spec: str, root: Path, split: str | None) -> PairSet:
    """TSS's pairs, both directions of each folder; the category is the subset.

    Args:
        spec: What the user typed.
        root: Folder of the subsets, or the one it lies in.
        split: One of the subsets; without one, all three.

    Raises:
        ValueError: If a subset is unknown or missing.
    """
    if split is not None and split not in SUBSETS:
        raise ValueError(f"TSS has the subsets {', '.join(SUBSETS)}, but {split!r} came")
    names = SUBSETS if split is None else (split,)
    for folder in (root / "TSS_CVPR2016", root / "TSS"):
        if not (root / names[0]).is_dir() and (folder / names[0]).is_dir():
            root = folder
    folders: list[tuple[str, Path]] = []
    for name in names:
        found = sorted(path.parent for path in (root / name).glob("*/image1.png"))
        if not found:
            raise ValueError(
                f"expected folders with image1.png in {root / name}, but there is none; copy the whole release"
            )
        folders += [(name, path) for path in found]
    rows = tuple((name, path, target) for name, path in folders for target in (2, 1))
    keys = tuple(f"{name}/{path.name}/{3 - target}-{target}" for name, path, target in rows)
    return PairSet(spec, keys, tuple(name for name, _, _ in rows), partial(_pair, rows, keys))


def _pair(rows: tuple[tuple[str, Path, int], ...], keys: tuple[str, ...], index: int) -> Pair:
    category, folder, target = rows[index]
    return Pair(
        key=keys[index],
        category=category,
        source=_side(category, folder, 3 - target),
        target=_side(category, folder, target),
        names=(),
        load_flow=partial(_flow, folder, target),
    )


def _side(category: str, folder: Path, number: int) -> PairSide:
    picture, mask = folder / f"image{number}.png", folder / f"mask{number}.png"
    return PairSide(
        name=f"{category}/{folder.name}/image{number}",
        size=image_size(picture),
        points=np.zeros((0, 2)),
        visible=np.zeros(0, bool),
        load=partial(read_image, picture),
        load_mask=partial(_mask, mask) if mask.is_file() else None,
    )


def _mask(path: Path) -> Bool[np.ndarray, "h w"]:
    pixels = read_mask_colours(path)
    return np.any(pixels.reshape(*pixels.shape[:2], -1)[..., :3], axis=-1)


def _flow(folder: Path, target: int) -> DenseFlow:
    flow, mask = read_flow(folder / f"flow{target}.flo"), _mask(folder / f"mask{target}.png")
    if mask.shape != flow.valid.shape:
        raise ValueError(
            f"mask{target}.png in {folder} has {mask.shape[1]}x{mask.shape[0]} pixels, but flow{target}.flo has "
            f"{flow.valid.shape[1]}x{flow.valid.shape[0]} (width x height); both must be of one release"
        )
    counted = flow.valid & mask
    return DenseFlow(np.where(counted[..., None], flow.flow, 0).astype(np.float32), counted)
