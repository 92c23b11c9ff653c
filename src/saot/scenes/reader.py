"""`scenes:` as a data set: single pictures, or the frames of drives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType

from saot.data import DataSpec, ImageSet, LabelledSet, OpenSet, class_set
from saot.scenes.drive import LONGEST, Frame, render_frame
from saot.scenes.scene import SCENES_VERSION, load_mask, load_picture

SCENE_COUNTS = {"train": 40, "val": 20}  # pictures a split has unless `count` says otherwise
SCENE_HEIGHT, SCENE_WIDTH = 252, 504  # pixels; 18 x 36 tokens of patch size 14
MOST: Mapping[str, int] = MappingProxyType(dict.fromkeys(("count", "drives", "frames", "first"), 1_000_000))
LONGEST_SIDE = 8192  # pixels
DRIVE_FRAMES = 31  # three seconds


@dataclass(frozen=True)
class DriveSet:
    """Which drives "scenes:street:val,drives=4,frames=31" names.

    Attributes:
        style, split: As in `render_frame`.
        drives: Their numbers.
        frames: Of each, from its first.
        size: Height and width, pixels.
    """

    style: str
    split: str
    drives: range
    frames: int
    size: tuple[int, int]

    def place(self, index: int) -> tuple[int, int]:
        """Drive and frame of picture number `index` of the set."""
        drive, number = divmod(index, self.frames)
        return self.drives[drive], number

    def key(self, index: int) -> str:
        """Name of picture number `index` of the set."""
        drive, number = self.place(index)
        return f"{self.style}/{self.split}/drive{drive:03d}/{number:05d}"

    def frame(self, index: int) -> Frame:
        """Picture number `index` of the set with all that is known of it."""
        return _frame(self, index)


def open_scenes(spec: str, parts: DataSpec) -> LabelledSet:
    """The scenes of "scenes:game" or "scenes:street"; they are drawn when asked for.

    Args:
        spec: What the user typed: "scenes:street:val,count=8,height=252,width=504" for single pictures,
            "scenes:street:val,drives=4,frames=31,first=0" for all frames of drives 0 to 3.
        parts: Its parts; the split is train or val, with options behind commas.

    Raises:
        ValueError: If the style, the split or an option is unknown.
    """
    numbers = _numbers(spec, parts)
    if "drives" in numbers:
        return _open_drives(spec, drives_of(spec, parts))
    split = (parts.split or "train").split(",")[0]
    style, height, width = parts.path, numbers["height"], numbers["width"]
    name = f"scenes-v{SCENES_VERSION.removeprefix('v')}:{style}:{split}"
    images = ImageSet(
        spec=spec,
        classes=class_set("cityscapes19"),
        keys=tuple(f"{style}/{split}/{index:05d}" for index in range(numbers.get("count", SCENE_COUNTS[split]))),
        load=partial(_scene, load_picture, style, split, (height, width)),
        fingerprint=partial(_scene_name, name, (height, width)),
        measure=partial(_scene_size, (height, width)),
    )
    return LabelledSet(images, partial(_scene, load_mask, style, split, (height, width)), images.fingerprint)


def drives_of(spec: str, parts: DataSpec) -> DriveSet:
    """The drives that a SPEC names.

    Raises:
        ValueError: If it names none, or an option is unknown or out of range.

    Example:
        >>> from saot.data import parse_spec
        >>> spec = "scenes:street:val,drives=2,first=6"
        >>> drives_of(spec, parse_spec(spec)).drives
        range(6, 8)
    """
    numbers = _numbers(spec, parts)
    if parts.name != "scenes" or "drives" not in numbers:
        raise ValueError(f"expected drives through the built-in scenes, scenes:street:val,drives=4; got {spec!r}")
    first, frames = numbers.get("first", 0), numbers.get("frames", DRIVE_FRAMES)
    if frames > LONGEST:
        raise ValueError(f"a drive has at most {LONGEST} frames, but {spec!r} asks for {frames}")
    split = (parts.split or "train").split(",")[0]
    drives = range(first, first + numbers["drives"])
    return DriveSet(parts.path, split, drives, frames, (numbers["height"], numbers["width"]))


def _numbers(spec: str, parts: DataSpec) -> dict[str, int]:
    """The options of a SPEC: its size always, others where they are given."""
    if parts.path not in ("game", "street"):
        raise ValueError(f"the built-in scenes are scenes:game and scenes:street, but not {spec!r}")
    split, *options = (parts.split or "train").split(",")
    if split not in SCENE_COUNTS:
        raise ValueError(f"the scenes have the splits {' and '.join(SCENE_COUNTS)}, but not {split!r}")
    numbers = {"height": SCENE_HEIGHT, "width": SCENE_WIDTH}
    for option in options:
        name, _, value = (part.strip() for part in option.partition("="))
        known = name in ("count", "height", "width", "drives", "frames", "first")
        if not known or not value.isdecimal() or int(value) < (name != "first"):
            raise ValueError(
                "scenes take count=, height= and width= with a number of at least 1, and drives=, frames= and first= "
                f"in place of count=, but not {option!r}"
            )
        if int(value) > MOST.get(name, LONGEST_SIDE):
            raise ValueError(f"scenes take {name}= of at most {MOST.get(name, LONGEST_SIDE):,}, but not {option!r}")
        numbers[name] = int(value)
    if ("count" in numbers) == ("drives" in numbers) and ("count" in numbers or {"frames", "first"} & set(numbers)):
        raise ValueError(f"scenes take count= for pictures, or drives= with frames= and first=; not both, as {spec!r}")
    return numbers


def _open_drives(spec: str, drives: DriveSet) -> LabelledSet:
    images = ImageSet(
        spec=spec,
        classes=class_set("cityscapes19"),
        keys=tuple(drives.key(index) for index in range(len(drives.drives) * drives.frames)),
        load=lambda index: drives.frame(index).image,
        fingerprint=partial(_frame_name, drives),
        measure=partial(_scene_size, drives.size),
    )
    return LabelledSet(images, lambda index: drives.frame(index).labels, images.fingerprint)


@lru_cache(maxsize=2)
def _frame(drives: DriveSet, index: int) -> Frame:
    return render_frame(drives.style, drives.split, *drives.place(index), *drives.size)


def _frame_name(drives: DriveSet, index: int) -> str:
    drive, number = drives.place(index)
    name = f"drives-v{SCENES_VERSION.removeprefix('v')}:{drives.style}:{drives.split}"
    return f"{name}:{drive}:{number}:{drives.size[0]}x{drives.size[1]}"


def _scene(draw: Callable, style: str, split: str, size: tuple[int, int], index: int):
    return draw(style, split, index, *size)


def _scene_name(name: str, size: tuple[int, int], index: int) -> str:
    return f"{name}:{index}:{size[0]}x{size[1]}"


def _scene_size(size: tuple[int, int], index: int) -> tuple[int, int]:
    return size


READERS: Mapping[str, OpenSet] = MappingProxyType({"scenes": open_scenes})
