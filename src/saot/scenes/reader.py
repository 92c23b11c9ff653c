"""`scenes:` as a data set."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from saot.data import DataSpec, ImageSet, LabelledSet, OpenSet, class_set
from saot.scenes.scene import SCENES_VERSION, load_mask, load_picture

SCENE_COUNTS = {"train": 40, "val": 20}  # pictures a split has unless `count` says otherwise
SCENE_HEIGHT, SCENE_WIDTH = 252, 504  # pixels; 18 x 36 tokens of patch size 14


def open_scenes(spec: str, parts: DataSpec) -> LabelledSet:
    """The scenes of "scenes:game" or "scenes:street"; they are drawn when asked for.

    Args:
        spec: What the user typed, "scenes:street:val,count=8,height=252,width=504".
        parts: Its parts; the split is train or val, with options behind commas.

    Raises:
        ValueError: If the style, the split or an option is unknown.
    """
    if parts.path not in ("game", "street"):
        raise ValueError(f"the built-in scenes are scenes:game and scenes:street, but not {spec!r}")
    split, *options = (parts.split or "train").split(",")
    if split not in SCENE_COUNTS:
        raise ValueError(f"the scenes have the splits {' and '.join(SCENE_COUNTS)}, but not {split!r}")
    numbers = {"count": SCENE_COUNTS[split], "height": SCENE_HEIGHT, "width": SCENE_WIDTH}
    for option in options:
        name, _, value = option.partition("=")
        if name.strip() not in numbers or not value.strip().isdecimal() or int(value) < 1:
            raise ValueError(f"scenes take count=, height= and width= with a number of at least 1, but not {option!r}")
        numbers[name.strip()] = int(value)
    style, height, width = parts.path, numbers["height"], numbers["width"]
    name = f"scenes-v{SCENES_VERSION.removeprefix('v')}:{style}:{split}"
    images = ImageSet(
        spec=spec,
        classes=class_set("cityscapes19"),
        keys=tuple(f"{style}/{split}/{index:05d}" for index in range(numbers["count"])),
        load=partial(_scene, load_picture, style, split, (height, width)),
        fingerprint=partial(_scene_name, name, (height, width)),
        measure=partial(_scene_size, (height, width)),
    )
    return LabelledSet(images, partial(_scene, load_mask, style, split, (height, width)), images.fingerprint)


def _scene(draw: Callable, style: str, split: str, size: tuple[int, int], index: int):
    return draw(style, split, index, *size)


def _scene_name(name: str, size: tuple[int, int], index: int) -> str:
    return f"{name}:{index}:{size[0]}x{size[1]}"


def _scene_size(size: tuple[int, int], index: int) -> tuple[int, int]:
    return size


READERS: Mapping[str, OpenSet] = MappingProxyType({"scenes": open_scenes})
