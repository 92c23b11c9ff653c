"""Where the public data sets keep their files, and how a mask of each is read: one small reader each.

A reader finds pictures and masks apart from one another, so that a data set opened without labels never
learns where its masks lie. Both come as `{key: path}` in the order of the data set.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
from jaxtyping import Integer, UInt8

from saot.data.classes import CITYSCAPES_IDS, IGNORE_INDEX, MAX_CLASSES, SYNTHIA_IDS, ClassSet, folder_class_set
from saot.data.extras import how_to_install
from saot.data.images import colour_mask_size, mask_size, read_mask
from saot.data.listing import Files, by_stem, columns, listed, pair, pair_listed, read_text, select, stem_of, walk

CAMVID_VOID = 11  # the SegNet release of CamVid stores "unlabelled" as the class after the last


@dataclass(frozen=True)
class Reader:
    """One data set's layout.

    Args:
        class_set: Name of its class set; None where the user's folder says.
        pictures: (root, split) -> picture of each key.
        masks: (root, split, pictures) -> mask of each key; may leave out keys where the data set is known for
            gaps.
        decode: (mask file, classes) -> class index per pixel.
        measure: Mask file -> (height, width) from its head, where a mask that cannot be one is refused.
    """

    class_set: str | None
    pictures: Callable[[Path, str | None], Files]
    masks: Callable[[Path, str | None, Files], Files]
    decode: Callable[[Path, ClassSet], UInt8[np.ndarray, "h w"]]
    measure: Callable[[Path], tuple[int, int]] = mask_size


def reader_of(name: str, others: Collection[str] = ()) -> Reader:
    """The reader called `name`; `others` are known elsewhere.

    Raises:
        ValueError: If there is none; names the known ones.
    """
    match name:
        case "gta5":
            return Reader("cityscapes19", _gta5_pictures, _gta5_masks, _cityscapes_mask)
        case "cityscapes":
            return Reader("cityscapes19", _cityscapes_pictures, _cityscapes_masks, _cityscapes_mask)
        case "synthia":
            return Reader("synthia16", _synthia_pictures, _synthia_masks, _synthia_mask, colour_mask_size)
        case "voc":
            return Reader("voc21", _voc_pictures, _voc_masks, _index_mask)
        case "camvid":
            return Reader("camvid11", _camvid_pictures, _camvid_masks, _camvid_mask)
        case "folder":
            return Reader(None, _folder_pictures, _folder_masks, _index_mask)
    if name == "scenes":
        raise ValueError("the built-in scenes come with saot.scenes; pass readers=saot.scenes.READERS to open them")
    *known, last = ("gta5", "cityscapes", "synthia", "voc", "camvid", "folder", *others)
    raise ValueError(
        f"there is no data set {name!r}; the known ones are {', '.join(known)} and {last}, given as NAME:PATH or "
        "NAME:PATH:SPLIT"
    )


# GTA5: images/NNNNN.png, labels/NNNNN.png. The copies in circulation lack some files on either side.


def _gta5_pictures(root: Path, split: str | None) -> Files:
    return select(walk(root / "images", "gta5"), root, split, "gta5")


def _gta5_masks(root: Path, split: str | None, pictures: Files) -> Files:
    masks = by_stem(walk(root / "labels", "gta5"), root / "labels")
    found = {key: masks[stem_of(key)] for key in pictures if stem_of(key) in masks}
    if not found:
        raise ValueError(
            f"gta5 {root} has no label of the same name for any picture; expected images/N.png, labels/N.png"
        )
    return found


# Cityscapes: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png


def _cityscapes_pictures(root: Path, split: str | None) -> Files:
    split = split or "train"
    found = walk(root / "leftImg8bit" / split, "cityscapes", "_leftImg8bit.png")
    return {f"{split}/{key}": path for key, path in found.items()}


def _cityscapes_masks(root: Path, split: str | None, pictures: Files) -> Files:
    split = split or "train"
    ending, folder = "_gtFine_labelIds.png", root / "gtFine" / split
    masks = {f"{split}/{key.removesuffix(ending)}": path for key, path in walk(folder, "cityscapes", ending).items()}
    return pair({key.removesuffix("_leftImg8bit.png"): key for key in pictures}, masks, folder, "cityscapes")


# SYNTHIA-RAND-CITYSCAPES: RGB/NNNNNNN.png, GT/LABELS/NNNNNNN.png


def _synthia_root(root: Path) -> Path:
    return root / "RAND_CITYSCAPES" if (root / "RAND_CITYSCAPES").is_dir() else root


def _synthia_pictures(root: Path, split: str | None) -> Files:
    return select(walk(_synthia_root(root) / "RGB", "synthia"), root, split, "synthia")


def _synthia_masks(root: Path, split: str | None, pictures: Files) -> Files:
    _opencv()  # better missed now than at the first mask
    folder = _synthia_root(root) / "GT" / "LABELS"
    masks = by_stem(walk(folder, "synthia"), folder)
    return pair_listed(pictures, masks, split, folder, "synthia")


# VOC2012: JPEGImages/ID.jpg, SegmentationClass/ID.png, ImageSets/Segmentation/SPLIT.txt with one ID a line


def _voc_root(root: Path) -> Path:
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise ValueError(f"voc expects JPEGImages in {root}, {root}/VOC2012 or {root}/VOCdevkit/VOC2012; there is none")


def _voc_pictures(root: Path, split: str | None) -> Files:
    home = _voc_root(root)
    names = columns(home / "ImageSets" / "Segmentation" / f"{(split or 'train').removesuffix('.txt')}.txt", 1, 1)
    return {f"{name}.jpg": listed(home / "JPEGImages" / f"{name}.jpg", split) for (name,) in names}


def _voc_masks(root: Path, split: str | None, pictures: Files) -> Files:
    home = _voc_root(root)
    return {key: listed(home / "SegmentationClass" / f"{stem_of(key)}.png", split) for key in pictures}


# CamVid (SegNet release): a list with two columns, picture and mask, relative to the folder


def _camvid_list(root: Path, split: str | None) -> Path:
    name = split or "train.txt"
    return root / name if (root / name).is_file() or name.endswith(".txt") else root / f"{name}.txt"


def _camvid_pictures(root: Path, split: str | None) -> Files:
    rows = columns(_camvid_list(root, split), 1, 2)
    return {_relative(row[0]): listed(root / _relative(row[0]), split) for row in rows}


def _camvid_masks(root: Path, split: str | None, pictures: Files) -> Files:
    rows = columns(_camvid_list(root, split), 2, 2)
    return {_relative(row[0]): listed(root / _relative(row[1]), split) for row in rows}


def _relative(name: str) -> str:
    """A name of the list, without the prefix that the released lists carry."""
    name = name.removeprefix("/SegNet/CamVid/").removeprefix("./")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"the list names {name}; write paths relative to the folder of the data set")
    return name


# A user's folder: images/**, masks/** of the same stems


def _folder_pictures(root: Path, split: str | None) -> Files:
    return select(walk(root / "images", "folder"), root, split, "folder")


def _folder_masks(root: Path, split: str | None, pictures: Files) -> Files:
    folder = root / "masks"
    if not folder.is_dir():
        raise ValueError(f"folder {root} has no masks, which are needed here; put them into {folder}, a PNG a picture")
    return pair_listed(pictures, by_stem(walk(folder, "folder"), folder), split, folder, "folder")


# Masks to class indices


def _cityscapes_mask(path: Path, classes: ClassSet) -> UInt8[np.ndarray, "h w"]:
    return map_ids(read_mask(path), CITYSCAPES_IDS)


def _synthia_mask(path: Path, classes: ClassSet) -> UInt8[np.ndarray, "h w"]:
    """SYNTHIA keeps the class in the first channel of a 16-bit PNG, the third in OpenCV's BGR."""
    cv2 = _opencv()
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if pixels is None:
        raise ValueError(f"mask {path} is broken or cut off; copy or download it again")
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise ValueError(f"mask {path} has one channel, but SYNTHIA's GT/LABELS have the class in the first of three")
    return map_ids(pixels[:, :, 2], SYNTHIA_IDS)


def _camvid_mask(path: Path, classes: ClassSet) -> UInt8[np.ndarray, "h w"]:
    return check_indices(read_mask(path), classes, path, void=CAMVID_VOID)


def _index_mask(path: Path, classes: ClassSet) -> UInt8[np.ndarray, "h w"]:
    return check_indices(read_mask(path), classes, path)


def map_ids(mask: Integer[np.ndarray, "h w"], id_map: dict[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Raw ids to class indices; an id that is not listed becomes 255."""
    table = np.full(max(256, max(id_map) + 2), IGNORE_INDEX, np.uint8)
    table[list(id_map)] = list(id_map.values())
    if mask.dtype != np.uint8:
        mask = np.where((mask < 0) | (mask >= len(table)), len(table) - 1, mask)
    return table[mask]


def check_indices(
    mask: Integer[np.ndarray, "h w"], classes: ClassSet, path: Path, void: int | None = None
) -> UInt8[np.ndarray, "h w"]:
    """Class indices in eight bits, after a check that each is a class, `void` or 255 (both mean ignore).

    Raises:
        ValueError: Names the file, the value and the allowed range.
    """
    ignored = (mask == IGNORE_INDEX) | (mask == void) if void is not None else mask == IGNORE_INDEX
    wrong = ((mask < 0) | (mask >= classes.num_classes)) & ~ignored
    if wrong.any():
        also = "255" if void is None else f"{void} or 255"
        raise ValueError(
            f"mask {path} has the value {int(mask[wrong][0])} in {int(wrong.sum())} pixels, but allowed are "
            f"0-{classes.num_classes - 1} (the {classes.num_classes} classes of {classes.name}) and {also} "
            "for ignore; correct the mask or the list of classes"
        )
    return np.where(ignored, IGNORE_INDEX, mask).astype(np.uint8)


def largest_index(masks: Iterable[Path], read: Callable[[Path], Integer[np.ndarray, "h w"]] = read_mask) -> int:
    """The largest class index in masks whose classes nobody has named.

    Args:
        masks: Their files.
        read: File -> value of each pixel.

    Raises:
        ValueError: If no pixel is labelled or a value is no class index.
    """
    largest = -1
    for path in masks:
        mask = read(path)
        labelled = mask[mask != IGNORE_INDEX]
        if labelled.size and not 0 <= int(labelled.min()) <= int(labelled.max()) < MAX_CLASSES:
            worst = int(labelled.min()) if labelled.min() < 0 else int(labelled.max())
            raise ValueError(f"mask {path} has the value {worst}, but allowed are 0-254, and 255 for ignore")
        largest = max(largest, int(labelled.max()) if labelled.size else -1)
    if largest < 0:
        raise ValueError("no mask has a labelled pixel: all are 255 (ignore); give each pixel its class index")
    return largest


def read_classes(path: Path) -> ClassSet:
    """The classes of a `classes.txt`: one name a line, in index order, perhaps with its colour: `road #804080`.

    Raises:
        ValueError: If a line between names is empty or no plain name, or the file is empty or no UTF-8 text.
    """
    lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if not lines or "" in lines:
        which = "is empty" if not lines else f"has an empty line {lines.index('') + 1}"
        raise ValueError(f"{path} {which}; give one class name a line, in index order")
    found = [re.fullmatch(r"(.*\S)\s+#([0-9a-fA-F]{6})", line) for line in lines]
    names = [line if one is None else one[1] for line, one in zip(lines, found, strict=True)]
    for number, name in enumerate(names):
        plain = name.strip(",;\"' \t")
        if plain != name:
            raise ValueError(
                f"line {number + 1} of {path} is {name!r}; a line is the name alone: write {plain}, without what "
                "stands around it"
            )
    counted = [re.fullmatch(r"(\d+)\s*[\s,;:.=)]\s*(\S.*)", name) for name in names]
    numbers = [int(one[1]) for one in counted if one is not None]
    if len(numbers) == len(names) and numbers in ([*range(len(names))], [*range(1, len(names) + 1)]):
        raise ValueError(
            f"line 1 of {path} is {names[0]!r}; a line is the name alone, and its place is the index: write "
            f"{counted[0][2] if counted[0] else ''}, and so on"
        )
    plain_set = folder_class_set(names)
    colors = (
        own if one is None else tuple(bytes.fromhex(one[2])) for own, one in zip(plain_set.colors, found, strict=True)
    )
    return replace(plain_set, colors=tuple(colors))


def _opencv() -> ModuleType:
    """The module cv2, or one sentence on how to get it."""
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"SYNTHIA's masks are 16-bit PNGs of several channels, which only OpenCV reads; {how_to_install('synthia')}"
        ) from error
    return cv2
