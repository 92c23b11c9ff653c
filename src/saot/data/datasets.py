"""Opening a data set from what the user typed: pictures alone, or pictures with their masks."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from saot.data.classes import MAX_CLASSES, ClassSet, check_same_names, class_set, folder_class_set
from saot.data.fingerprints import Fingerprints
from saot.data.images import colour_mask_size, image_size, read_image, read_mask
from saot.data.mask_map import MaskMap
from saot.data.readers import Reader, largest_index, read_classes, reader_of
from saot.data.remember import BUDGET, Remembered

NUMBERED = tuple(f"class {index}" for index in range(MAX_CLASSES))  # of masks whose classes nobody has named


@dataclass(frozen=True)
class DataSpec:
    """The parts of NAME:PATH[:SPLIT].

    Attributes:
        name, path, split: These.
        seen: Names the contents of files, for a reader that asks for them; None: nobody remembers them.
    """

    name: str
    path: str
    split: str | None
    seen: Fingerprints | None = field(default=None, repr=False, compare=False)

    def folder(self) -> Path:
        """The folder at the path.

        Raises:
            ValueError: If there is none.
        """
        root = Path(os.path.expanduser(self.path))  # Path.expanduser raises RuntimeError for ~nobody
        if not root.is_dir():
            raise ValueError(
                f"{self.name} expects a folder, but {root} is {'a file' if root.exists() else 'missing'}; "
                f"check PATH in {self.name}:PATH"
            )
        return root


@dataclass(frozen=True)
class ImageSet:
    """Pictures, and no way to their labels.

    Args:
        spec: What the user typed.
        classes: Classes the pictures show, where known.
        keys: Stable, unique, relative name of each picture, such as "train/0001.png".
        load: Index -> picture (h, w, 3), RGB 0-255, EXIF rotation applied.
        fingerprint: Index -> name of the picture's content: the SHA-256 of its file.

    Other:
        measure: Index -> (height, width) in pixels, without decoding; None means by loading the picture.
        about: How the pictures were made of their files, for whoever has more such files to label; JSON values, which a
            run keeps.
        files: The file of each picture, where it is what `load` reads and `fingerprint` names: then other processes
            may have the same pictures by `images_of_files`.
    """

    spec: str
    classes: ClassSet | None
    keys: tuple[str, ...]
    load: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    fingerprint: Callable[[int], str]
    measure: Callable[[int], tuple[int, int]] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture number `index` (h, w, 3), RGB 0-255."""
        return self.load(index)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of picture number `index`, pixels."""
        if self.measure is not None:
            return self.measure(index)
        height, width, _ = self.load(index).shape
        return height, width


@dataclass(frozen=True)
class LabelledSet:
    """Pictures together with their masks.

    Args:
        images: The pictures; their `classes` are never None here.
        mask: Index -> class index per pixel (h, w), 255 for ignore, of the picture's size.
        name_mask: Index -> name of the mask's content; None means of its pixels.
        measure_mask: Index -> (height, width) of the mask without decoding; None where it cannot be another's.

    Raises:
        ValueError: If the pictures come without classes.
    """

    images: ImageSet
    mask: Callable[[int], UInt8[np.ndarray, "h w"]]
    name_mask: Callable[[int], str] | None = None
    measure_mask: Callable[[int], tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        if self.images.classes is None:
            raise ValueError(f"{self.images.spec} has masks but no classes; say which classes they show")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> ClassSet:
        """The classes of the masks."""
        assert self.images.classes is not None  # checked when made
        return self.images.classes

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the pictures."""
        return self.images.keys

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Picture number `index` (h, w, 3), RGB 0-255."""
        return self.images.load(index)

    def remembering(self, budget: int = BUDGET) -> "LabelledSet":
        """The same set; masks that were asked for stay in memory while they have room there.

        Args:
            budget: Bytes of all masks that are kept; those that were not asked for longest go first.
        """
        return replace(self, mask=Remembered(self.mask, budget))

    def misfits(self, numbers: Sequence[int] | None = None) -> dict[int, str]:
        """Pictures whose mask has another size, and both sizes in words; seen from the heads of the files.

        Args:
            numbers: Of the pictures that are looked at; None is all.

        Raises:
            ValueError: If a picture or a mask cannot be read.
        """
        found, measure = {}, self.measure_mask
        if measure is None:
            return found
        for index in range(len(self)) if numbers is None else numbers:
            picture, mask = self.images.size(index), measure(index)
            if picture != mask:
                found[index] = f"{mask[1]}x{mask[0]} for a picture of {picture[1]}x{picture[0]}"
        return found

    def mask_fingerprint(self, index: int) -> str:
        """Name of the mask's content: the SHA-256 of its file, or of its pixels where there is none."""
        if self.name_mask is not None:
            return self.name_mask(index)
        mask = self.mask(index)
        return hashlib.sha256(f"{mask.shape}".encode() + mask.tobytes()).hexdigest()


def parse_spec(text: str) -> DataSpec:
    r"""The parts of NAME:PATH[:SPLIT].

    The last colon separates the split; a drive letter (`folder:C:\data`) belongs to the path.

    Raises:
        ValueError: If a part is missing.

    Example:
        >>> parse_spec("camvid:/data/camvid:day.txt")
        DataSpec(name='camvid', path='/data/camvid', split='day.txt')
        >>> parse_spec("scenes:street").split is None
        True
    """
    name, _, rest = text.strip().partition(":")
    drive = rest[:2] if rest[1:3] in (":\\", ":/") and rest[0].isalpha() else ""
    rest = rest[len(drive) :]
    path, _, split = rest.rpartition(":") if ":" in rest else (rest, "", "")
    if not name or not path:
        raise ValueError(
            f"a data set is given as NAME:PATH or NAME:PATH:SPLIT, such as folder:my-data, but not {text!r}"
        )
    return DataSpec(name, drive + path, split or None)


OpenSet = Callable[[str, DataSpec], LabelledSet]  # from SPEC and its parts


@dataclass(frozen=True)
class SetReader:
    """An `OpenSet` whose pictures may come without masks, too.

    Attributes:
        labelled: Opens those that have masks.
        images: Opens all, and looks for no mask.
    """

    labelled: OpenSet
    images: Callable[[str, DataSpec], ImageSet]

    def __call__(self, spec: str, parts: DataSpec) -> LabelledSet:
        """The pictures that have masks, with them."""
        return self.labelled(spec, parts)


NO_READERS: Mapping[str, OpenSet] = MappingProxyType({})


def open_images(
    spec: str,
    classes: ClassSet | None = None,
    readers: Mapping[str, OpenSet] = NO_READERS,
    seen: Fingerprints | None = None,
) -> ImageSet:
    """Pictures of a data set; its masks are neither looked for nor remembered.

    Args:
        spec: NAME:PATH[:SPLIT]. NAME is gta5, cityscapes, synthia, voc, camvid, folder or scenes. SPLIT is
            "train" or "val" for cityscapes, voc and scenes; a list file in PATH for camvid (picture and mask
            a line) and for gta5, synthia and folder (a picture a line; without it, all). Scenes take their
            number and size in it: "scenes:street:val,count=8,height=252,width=504".
        classes: Classes the user works with; they replace those of the data set. A `classes.txt` must agree
            with them.
        readers: Readers of further NAMEs, such as `saot.scenes.READERS`.
        seen: Names the contents of files and reads their sizes; remembers both from one start to the next if it has a
            file for them.

    Raises:
        ValueError: If the data set is not where or what it is said to be; one sentence.
    """
    parts = replace(parse_spec(spec), seen=seen)
    if parts.name in readers:
        reader = readers[parts.name]
        images = reader.images(spec, parts) if isinstance(reader, SetReader) else reader(spec, parts).images
        return images if classes is None else replace(images, classes=classes)
    reader, root = reader_of(parts.name, readers), parts.folder()
    own = own_classes(reader, root, spec, classes)
    return images_of_files(spec, own, reader.pictures(root, parts.split), seen or Fingerprints())


def open_labelled(
    spec: str,
    classes: ClassSet | None = None,
    readers: Mapping[str, OpenSet] = NO_READERS,
    seen: Fingerprints | None = None,
    mask_map: MaskMap | None = None,
) -> LabelledSet:
    """Pictures of a data set with their masks.

    Args:
        spec: NAME:PATH[:SPLIT], see `open_images`.
        classes: Classes the user works with, from the source; None takes the data set's own. A folder without
            `classes.txt` adopts them, or else gets as many classes as its masks use, "class 0" and so on.
        readers: Readers of further NAMEs, such as `saot.scenes.READERS`.
        seen: As in `open_images`.
        mask_map: What the values in the masks of a `folder` mean, where they are no class indices; other data sets
            know what theirs mean. Without a `classes.txt` its classes are the folder's.

    Raises:
        ValueError: If masks are missing, the class names differ from `classes`, or the data set is not where
            or what it is said to be; one sentence.
    """
    parts = replace(parse_spec(spec), seen=seen)
    if parts.name in readers:
        labelled = readers[parts.name](spec, parts)
        if classes is None:
            return labelled
        check_same_names(classes, labelled.classes.names, spec)
        return replace(labelled, images=replace(labelled.images, classes=classes))
    reader, root = reader_of(parts.name, readers), parts.folder()
    pictures = reader.pictures(root, parts.split)
    masks = reader.masks(root, parts.split, pictures)
    pictures = {key: path for key, path in pictures.items() if key in masks}
    if reader.class_set is not None and classes is not None:
        check_same_names(classes, class_set(reader.class_set).names, spec)
    if mask_map is not None and parts.name == "folder":
        reader = replace(reader, decode=mask_map.read, measure=colour_mask_size)
    else:
        mask_map = None
    own = own_classes(reader, root, spec, classes, mask_map)
    if own is None:
        values = read_mask if mask_map is None else partial(mask_map.read, classes=folder_class_set(NUMBERED))
        own = folder_class_set(NUMBERED[: largest_index(masks.values(), values) + 1])
        if own.num_classes == 1:
            raise ValueError(
                f"the masks of {spec} have no class but 0, and 255, which stands for ignore: there is nothing to tell "
                "apart. If 255 is the foreground, give --mask-map binary (0=background,255=foreground); if all is "
                f"meant to be one class, name it in {root / 'classes.txt'}"
            )
    seen = seen or Fingerprints()
    images = images_of_files(spec, own, pictures, seen)
    files = tuple((path, masks[key]) for key, path in pictures.items())
    paths = tuple(mask for _, mask in files)
    names = partial(_content_of, seen, paths, "" if mask_map is None else str(mask_map))
    sizes = partial(_size_of, seen, reader.measure, paths)
    return LabelledSet(images, partial(_load_mask, reader, own, files), names, sizes)


def own_classes(
    reader: Reader, root: Path, spec: str, classes: ClassSet | None, mask_map: MaskMap | None = None
) -> ClassSet | None:
    """The given classes, which a `classes.txt` must not contradict, or the data set's own."""
    if reader.class_set is not None:
        return classes or class_set(reader.class_set)
    if not (root / "classes.txt").is_file():
        return classes if classes is not None or mask_map is None else mask_map.classes()
    written = read_classes(root / "classes.txt")
    if classes is not None:
        check_same_names(classes, written.names, spec)
        return classes
    return written if mask_map is None else mask_map.classes(written)


def _content_of(seen: Fingerprints, paths: Sequence[Path], meaning: str, index: int) -> str:
    """Name of a mask's content: the SHA-256 of its file, and of what its values mean where a map says it."""
    content = seen.sha256(paths[index])
    return hashlib.sha256(f"{content} {meaning}".encode()).hexdigest() if meaning else content


def images_of_files(spec: str, classes: ClassSet | None, pictures: Mapping[str, Path], seen: Fingerprints) -> ImageSet:
    """Pictures that are a file each.

    Args:
        spec: What the user typed.
        classes: That the pictures show, where known.
        pictures: File of each, by key.
        seen: As in `open_images`.
    """
    paths = tuple(pictures.values())
    return ImageSet(
        spec=spec,
        classes=classes,
        keys=tuple(pictures),
        load=partial(_with_path, read_image, paths),
        fingerprint=partial(_with_path, seen.sha256, paths),
        measure=partial(_size_of, seen, image_size, paths),
        files=paths,
    )


def _size_of(
    seen: Fingerprints, read: Callable[[Path], tuple[int, int]], paths: Sequence[Path], index: int
) -> tuple[int, int]:
    return seen.measured(paths[index], read)


def _with_path(function: Callable, paths: Sequence[Path], index: int):
    return function(paths[index])


def _load_mask(
    reader: Reader, classes: ClassSet, files: Sequence[tuple[Path, Path]], index: int
) -> UInt8[np.ndarray, "h w"]:
    """The mask of one picture, which has to be of the picture's size; `files` are (picture, mask)."""
    path, mask_path = files[index]
    mask, size = reader.decode(mask_path, classes), image_size(path)
    if mask.shape != size:
        turned = mask.shape == size[::-1]
        raise ValueError(
            f"mask {mask_path} has {mask.shape[1]}x{mask.shape[0]} pixels but its picture {path} has "
            f"{size[1]}x{size[0]} (width x height); "
            + ("turn the mask the way viewers show the picture" if turned else "give both the same size")
        )
    return mask
