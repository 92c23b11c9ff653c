"""What a data set holds, file by file, and what about it smells; nothing stops at a bad file."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from saot.data.ahead import ahead
from saot.data.classes import IGNORE_INDEX, ClassSet, folder_class_set, one_class_alone
from saot.data.datasets import (
    NO_READERS,
    NUMBERED,
    DataSpec,
    ImageSet,
    LabelledSet,
    OpenSet,
    SetReader,
    own_classes,
    parse_spec,
)
from saot.data.images import deep_grey_range, image_size, read_image, read_mask, read_mask_colours
from saot.data.listing import Files, by_stem, stem_of, walk
from saot.data.mask_map import MaskMap
from saot.data.readers import reader_of

MOSTLY = 0.95  # share of ignored pixels that is told
HEADS = ("name", "names", "class", "classes", "label", "labels", "category")  # what a table of classes may begin with
MANY = 12  # names or colours in one sentence


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        spec: What the user typed.
        pictures: How many, bad ones among them.
        masks: How many of them have a mask; 0 where the set has none.
        classes: Names in index order; empty where nobody names them and no mask says.
        sizes: "WIDTHxHEIGHT" -> pictures of that size, the most frequent first.
        pixels: Class -> its pixels in all masks that can be read.
        ignored: Pixels without a class.
        bad: Picture or mask -> what is wrong with it.
        warnings: What smells, a sentence each.
    """

    spec: str
    pictures: int
    masks: int
    classes: tuple[str, ...]
    sizes: dict[str, int]
    pixels: dict[str, int]
    ignored: int
    bad: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Look:
    """One picture and its mask: height and width, pixels by value, what is wrong, and what the mask is made of."""

    size: tuple[int, int] | None
    values: dict[int, int]
    wrong: tuple[tuple[str, str], ...]
    grey: tuple[int, int] | None = None
    colors: frozenset[tuple[int, int, int]] = frozenset()


def survey(
    spec: str,
    readers: Mapping[str, OpenSet] = NO_READERS,
    mask_map: MaskMap | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """What a data set holds: every picture and mask is opened once, and a bad one is listed, not raised.

    Args:
        spec: NAME:PATH[:SPLIT], see `open_images`.
        readers: Readers of further NAMEs.
        mask_map: What values in the masks of a `folder` mean.
        progress: Called with (pictures done, pictures in all).

    Raises:
        ValueError: If there is no such data set, or no picture in it.
    """
    parts = parse_spec(spec)
    if mask_map is not None and parts.name != "folder":
        raise ValueError(f"--mask-map explains masks of a folder:, but {spec} knows what its masks mean; leave it out")
    if parts.name in readers:
        return _of_reader(spec, parts, readers[parts.name], progress)
    return _of_files(spec, parts, mask_map, progress)


def _of_reader(spec: str, parts: DataSpec, reader: OpenSet, progress: Callable[[int, int], None] | None) -> Survey:
    labelled, told = None, list[str]()
    if isinstance(reader, SetReader):
        images = reader.images(spec, parts)
        try:
            labelled = reader(spec, parts)
        except ValueError as error:
            told.append(str(error))
    else:
        labelled = reader(spec, parts)
        images = labelled.images
    masks = {} if labelled is None else {key: number for number, key in enumerate(labelled.keys)}
    looks = _looked(lambda n: _look_at(images, n, labelled, masks.get(images.keys[n])), len(images), progress)
    return _survey(spec, len(images), len(masks), images.classes, looks, told)


def _of_files(
    spec: str, parts: DataSpec, mask_map: MaskMap | None, progress: Callable[[int, int], None] | None
) -> Survey:
    reader, root, told = reader_of(parts.name), parts.folder(), list[str]()
    pictures = reader.pictures(root, parts.split)
    masks: Files = {}
    try:
        masks = reader.masks(root, parts.split, pictures)
    except ValueError as error:
        if parts.name != "folder":
            told.append(str(error))
        elif (root / "masks").is_dir():
            told.append(str(error))
            masks = _those_of_folder(root, pictures)
    classes: ClassSet | None = None
    try:
        classes = own_classes(reader, root, spec, None, mask_map)
        told += _strange_names(classes, root / "classes.txt")
    except ValueError as error:
        told.append(str(error))
    if classes is None and mask_map is None:
        decode = read_mask
    else:
        known = folder_class_set(NUMBERED) if classes is None else classes
        decode = partial(reader.decode if mask_map is None else mask_map.read, classes=known)
    keys = list(pictures)
    looks = _looked(lambda n: _look(pictures[keys[n]], masks.get(keys[n]), decode), len(keys), progress)
    return _survey(spec, len(pictures), len(masks), classes, looks, told)


def _those_of_folder(root: Path, pictures: Files) -> Files:
    """The masks that have a picture."""
    try:
        found = by_stem(walk(root / "masks", "folder"), root / "masks")
    except ValueError:
        return {}
    return {key: found[stem_of(key)] for key in pictures if stem_of(key) in found}


def _looked(look: Callable[[int], _Look], count: int, progress: Callable[[int, int], None] | None) -> list[_Look]:
    found = []
    for one in ahead(look, range(count), workers=2):
        found.append(one)
        if progress is not None:
            progress(len(found), count)
    return found


def _look_at(images: ImageSet, number: int, labelled: LabelledSet | None, mask: int | None) -> _Look:
    size, values, wrong = None, dict[int, int](), []
    try:
        size = images.image(number).shape[:2]
        if labelled is not None and mask is not None:
            values = _counted(labelled.mask(mask))
    except (ValueError, OSError) as error:
        wrong.append((images.keys[number], str(error)))
    return _Look(size, values, tuple(wrong))


def _look(picture: Path, mask: Path | None, decode: Callable[[Path], np.ndarray]) -> _Look:
    size, grey, wrong = None, None, []
    try:
        size, grey = image_size(picture), deep_grey_range(picture)
        read_image(picture)
    except (ValueError, OSError) as error:
        wrong.append((str(picture), str(error)))
    if mask is None:
        return _Look(size, {}, tuple(wrong), grey)
    values: dict[int, int] = {}
    colors: frozenset[tuple[int, int, int]] = frozenset()
    try:
        found = decode(mask)
        values = _counted(found)
        if size is not None and found.shape != size:
            said = f"mask {mask} has {found.shape[1]}x{found.shape[0]} pixels, its picture {size[1]}x{size[0]}"
            wrong.append((str(mask), said))
    except (ValueError, OSError) as error:
        wrong.append((str(mask), str(error)))
        colors = _colors_of(mask)
    return _Look(size, values, tuple(wrong), grey, colors)


def _counted(mask: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _colors_of(mask: Path) -> frozenset[tuple[int, int, int]]:
    """The colours of a mask that could not be read as numbers; none where it is no picture in colours."""
    try:
        pixels = read_mask_colours(mask)
    except (ValueError, OSError):
        return frozenset()
    if pixels.ndim == 2:
        return frozenset()
    return frozenset((r, g, b) for r, g, b, *_ in np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0).tolist())


def _survey(
    spec: str, pictures: int, masks: int, classes: ClassSet | None, looks: list[_Look], told: list[str]
) -> Survey:
    values, sizes = Counter[int](), Counter[str]()
    for look in looks:
        values.update(look.values)
        if look.size is not None:
            sizes[f"{look.size[1]}x{look.size[0]}"] += 1
    ignored, known = values.pop(IGNORE_INDEX, 0), {value for value in values if 0 <= value < IGNORE_INDEX}
    names = NUMBERED[: max(known, default=-1) + 1] if classes is None else classes.names
    warnings = [*told, *_smells(spec, pictures, masks, names, values, ignored, looks)]
    return Survey(
        spec,
        pictures,
        masks,
        tuple(names),
        dict(sizes.most_common()),
        {name: values.get(index, 0) for index, name in enumerate(names)},
        ignored,
        {name: why for look in looks for name, why in look.wrong},
        tuple(warnings),
    )


def _smells(
    spec: str,
    pictures: int,
    masks: int,
    names: tuple[str, ...],
    values: Mapping[int, int],
    ignored: int,
    looks: list[_Look],
) -> list[str]:
    found: list[str] = []
    if 0 < masks < pictures:
        found.append(f"{pictures - masks} of {pictures} pictures have no mask")
    if names:
        seen = [index in values for index in range(255)] + [ignored > 0]
        found += [one_class_alone(spec, names, seen)]
    strange = sorted(value for value in values if not 0 <= value < min(len(names), IGNORE_INDEX))
    if strange:
        found.append(f"masks have the values {', '.join(map(str, strange[:MANY]))}, which are no class indices")
    numbers = set(values) | ({IGNORE_INDEX} if ignored else set())
    # 85 is 255 / 3, two bits stretched; 17 is 255 / 15, four
    if numbers - {0, IGNORE_INDEX} and (
        numbers <= {0, 85, 170, 255} or (len(numbers) > 2 and all(value % 17 == 0 for value in numbers))
    ):
        found.append(
            f"masks have the values {', '.join(map(str, sorted(numbers)))}: as if indices of few bits had been "
            "stretched over 0 to 255; save them unstretched, or say with --mask-map which value is which class"
        )
    total = sum(values.values()) + ignored
    if ignored > MOSTLY * total > 0 and len(names) > 1:
        found.append(f"{100 * ignored / total:.1f} % of all pixels are ignored (255)")
    empty = [name for index, name in enumerate(names) if masks and values.get(index, 0) == 0]
    if empty and len(empty) < len(names):
        found.append(f"no pixel of {', '.join(empty[:MANY])}" + f" and {len(empty) - MANY} more" * (len(empty) > MANY))
    found += _colored(frozenset(color for look in looks for color in look.colors))
    highest = max((look.grey[1] for look in looks if look.grey is not None), default=0)
    if 0 < highest < 65536 // 4:
        found.append(
            f"16-bit grey pictures have values up to {highest} of 65535, which come out dark: multiply all of them by "
            f"{65535 // highest} and save them again"
        )
    return [sentence for sentence in found if sentence]


def _colored(colors: frozenset[tuple[int, int, int]]) -> list[str]:
    if not colors:
        return []
    if all(r == g == b for r, g, b in colors):
        two = {r for r, _, _ in colors} <= {0, 255}
        return [f"masks are stored in colour with R = G = B: give --mask-map {'binary' if two else 'grey'}"]
    shown = ",".join(f"#{r:02x}{g:02x}{b:02x}=NAME" for r, g, b in sorted(colors)[:MANY])
    more = f", and so on: there are {len(colors)} colours" if len(colors) > MANY else ""
    return [f'masks are colours: give --mask-map "{shown}"{more}']


def _strange_names(classes: ClassSet | None, path: Path) -> list[str]:
    if classes is None or not path.is_file() or classes.names[0].lower() not in HEADS:
        return []
    return [f"the first class of {path} is called {classes.names[0]!r}: is that the head of a table?"]
