"""Class sets: names, colours and the raw ids in which data sets store their classes."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool

IGNORE_INDEX = 255  # a pixel or token without a class, in every mask and label of the library

MAX_CLASSES = 255  # indices 0-254 fit beside IGNORE_INDEX in eight bits

CLASS_SET_NAMES = ("cityscapes19", "synthia16", "synthia13", "voc21", "camvid11")

# fmt: off
CITYSCAPES_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
    "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)

CITYSCAPES_COLORS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)

CITYSCAPES_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
    27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}

# Categories of Cityscapes; CamVid's classes under the same heads
CATEGORIES = {
    name: category
    for category, names in {
        "flat": ("road", "sidewalk", "pavement"),
        "construction": ("building", "wall", "fence"),
        "object": ("pole", "traffic light", "traffic sign", "sign"),
        "nature": ("vegetation", "terrain", "tree"),
        "sky": ("sky",),
        "human": ("person", "rider", "pedestrian", "bicyclist"),
        "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
    }.items()
    for name in names
}

SYNTHIA_IDS = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14,
    19: 15, 20: 16, 12: 17, 11: 18,
}

# SYNTHIA lacks terrain, truck and train; the mean over 13 classes also leaves out wall, fence and pole.
MIOU16 = tuple(index for index in range(19) if index not in (9, 14, 16))
MIOU13 = tuple(index for index in MIOU16 if index not in (3, 4, 5))

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)

CAMVID_NAMES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)

CAMVID_COLORS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)
# fmt: on


@dataclass(frozen=True)
class ClassSet:
    """Names, colours and raw ids of the classes of a data set.

    Args:
        name: Name of the set, such as "cityscapes19".
        names: Name of each class, in index order.
        colors: RGB colour of each class, 0-255.
        id_map: Raw id in the files of the data set this set is named after -> class index, where a raw id
            that is not listed means "ignore"; None where the files hold class indices.
        subsets: Further means that are conventional: name of the mean -> class indices.
        scored: Class indices counted in the mean; empty stands for all and is filled in.

    Raises:
        ValueError: If the fields do not fit together.

    Example:
        >>> ClassSet("two", ("sky", "road"), ((0, 0, 255), (9, 9, 9)), None, {}).scored
        (0, 1)
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    id_map: Mapping[int, int] | None = field(default=None, hash=False)
    subsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    scored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise ValueError(f"a class set has 1 to {MAX_CLASSES} classes, but {self.name!r} has {len(self.names)}")
        if len(self.colors) != len(self.names):
            raise ValueError(f"{self.name!r} has {len(self.names)} names but {len(self.colors)} colours; give one each")
        repeated = next((name for i, name in enumerate(self.names) if name in self.names[:i]), None)
        if repeated is not None:
            raise ValueError(f"class names must differ, but {self.name!r} has {repeated!r} twice; rename one of them")
        if not self.scored:
            object.__setattr__(self, "scored", tuple(range(len(self.names))))
        for indices in (self.scored, *self.subsets.values()):
            if not set(indices) <= set(range(len(self.names))):
                raise ValueError(f"{self.name!r} scores {indices}, but its classes are 0-{len(self.names) - 1}")

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Index of the class called `name`; ValueError lists the names."""
        if name not in self.names:
            raise ValueError(f"there is no class {name!r} in {self.name!r}; its classes are {', '.join(self.names)}")
        return self.names.index(name)


def class_set(name: str) -> ClassSet:
    """The class set of a public data set.

    `synthia16` and `synthia13` have the 19 names and indices of Cityscapes, since one model is trained and
    compared on both; `scored` holds the 16 or 13 classes that SYNTHIA has and the field counts.

    Args:
        name: "cityscapes19", "synthia16", "synthia13", "voc21" or "camvid11".

    Raises:
        ValueError: If there is no such set.

    Example:
        >>> class_set("cityscapes19").names[13], class_set("cityscapes19").id_map[26]
        ('car', 13)
        >>> len(class_set("synthia13").scored)
        13
    """
    means = {"miou16": MIOU16, "miou13": MIOU13}
    match name:
        case "cityscapes19":
            return ClassSet(name, CITYSCAPES_NAMES, CITYSCAPES_COLORS, CITYSCAPES_IDS, means)
        case "synthia16":
            return ClassSet(name, CITYSCAPES_NAMES, CITYSCAPES_COLORS, SYNTHIA_IDS, means, MIOU16)
        case "synthia13":
            return ClassSet(name, CITYSCAPES_NAMES, CITYSCAPES_COLORS, SYNTHIA_IDS, means, MIOU13)
        case "voc21":
            return ClassSet(name, VOC_NAMES, tuple(_voc_color(i) for i in range(21)), None, {})
        case "camvid11":
            return ClassSet(name, CAMVID_NAMES, CAMVID_COLORS, None, {})
    raise ValueError(f"there is no class set {name!r}; the known ones are {', '.join(CLASS_SET_NAMES)}")


def folder_class_set(names: Sequence[str]) -> ClassSet:
    """A class set for somebody's own classes, with colours that are easy to tell apart.

    Args:
        names: Name of each class, in index order.

    Raises:
        ValueError: If a name is empty or occurs twice, or there are none or more than 255.

    Example:
        >>> folder_class_set(["crop", "weed"]).names
        ('crop', 'weed')
    """
    if any(not name.strip() for name in names):
        raise ValueError("class names must not be empty; give one name a class, in index order")
    return ClassSet("folder", tuple(names), tuple(_distinct_color(i) for i in range(len(names))), None, {})


def class_groups(classes: ClassSet, kind: Literal["categories", "classes"]) -> tuple[int, ...]:
    """The group of each class: its category among those of Cityscapes (flat, construction, object, ...), or itself.

    Args:
        classes: Classes in index order.
        kind: "categories" or "classes".

    Raises:
        ValueError: If a category is asked for and a class is of none that is known.

    Example:
        >>> class_groups(folder_class_set(["road", "car", "sidewalk"]), "categories")
        (0, 1, 0)
    """
    if kind == "classes":
        return tuple(range(classes.num_classes))
    strange = [name for name in classes.names if name not in CATEGORIES]
    if strange:
        raise ValueError(
            f"expected classes of Cityscapes or CamVid for groups by category; {classes.name} has {strange[0]!r}: "
            "use groups=classes, a cost for each class, or groups=one"
        )
    found = list(dict.fromkeys(CATEGORIES[name] for name in classes.names))
    return tuple(found.index(CATEGORIES[name]) for name in classes.names)


def one_class_alone(spec: str, names: Sequence[str], seen: Sequence[bool] | Bool[np.ndarray, "256"]) -> str:
    """A sentence where masks that should tell classes apart hold one alone; empty where they do not.

    Args:
        spec: What the user called the masks.
        names: Their classes, in index order.
        seen: Whether each value from 0 to 255 occurs in them.

    Example:
        >>> one_class_alone("folder:a", ["soil", "crop"], [True] + 254 * [False] + [True])[:58]
        "every labelled pixel of folder:a is 'soil', so there is no"
    """
    there = [index for index in range(len(names)) if seen[index]]
    if len(there) != 1:
        return ""
    told = f"every labelled pixel of {spec} is {names[there[0]]!r}, so there is nothing to tell apart"
    if seen[IGNORE_INDEX]:
        told += "; 255 stands for ignore: if it is the foreground, give --mask-map binary (0=background,255=foreground)"
    return told


def check_same_names(classes: ClassSet, names: Sequence[str], spec: str) -> None:
    """Check that the data set `spec`, whose classes are `names`, has the classes that the run uses.

    Args:
        classes: Classes of the run, taken from its source.
        names: Class names of the other data set, in index order.
        spec: What the user called the other data set.

    Raises:
        ValueError: Names the first class that differs.
    """
    for index, (expected, found) in enumerate(zip(classes.names, names, strict=False)):
        if expected != found:
            raise ValueError(
                f"class {index} is {found!r} in {spec} but {expected!r} in the classes used so far "
                f"({classes.name}); "
                "all data sets of a run need the same class names in the same order"
            )
    if len(names) != classes.num_classes:
        longer = names if len(names) > classes.num_classes else classes.names
        shorter = min(len(names), classes.num_classes)
        raise ValueError(
            f"{spec} has {len(names)} classes but the classes used so far ({classes.name}) are "
            f"{classes.num_classes}, "
            f"the first without partner being {longer[shorter]!r}; all data sets of a run need the same "
            "class names"
        )


def _voc_color(index: int) -> tuple[int, int, int]:
    """Colour of a class in the palette of PASCAL VOC: its bits, dealt to R, G and B from the top."""
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


def _distinct_color(index: int) -> tuple[int, int, int]:
    """Colour number `index`: hues a golden angle apart, saturation and brightness in turn."""
    hue = index * 0.6180339887498949 % 1.0
    saturation = (0.75, 0.45, 0.95)[index % 3]
    value = (0.95, 0.75, 0.55)[index // 3 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)
