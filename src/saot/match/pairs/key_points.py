"""What the makers of key point sets know about their points: which mirror one another, which are taken for others.

Numbers are the sets' own. Mirror pairs are facts about the annotation; the groups of the geometry-aware subset are
mirror pairs, wider where more than two points look alike, without the points of faces.
"""

from functools import cache

from saot.match.pairs.pairs import Groups, MirrorPairs

SPAIR_POINTS = 30  # key points "0" to "29" of every category; none uses all of them

# PF-PASCAL counts them from 1, as VOC does.
VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

AP10K_POINTS = (
    "left_eye",
    "right_eye",
    "nose",
    "neck",
    "root_of_tail",
    "left_shoulder",
    "left_elbow",
    "left_front_paw",
    "right_shoulder",
    "right_elbow",
    "right_front_paw",
    "left_hip",
    "left_knee",
    "left_back_paw",
    "right_hip",
    "right_knee",
    "right_back_paw",
)
AP10K_MIRROR: MirrorPairs = ((0, 1), (5, 8), (6, 9), (7, 10), (11, 14), (12, 15), (13, 16))
AP10K_GROUPS: Groups = ((5, 8), (11, 14), (6, 9, 12, 15), (7, 10, 13, 16))  # elbows with knees; all paws

_WINDOWS_AND_WHEELS = "10-20 13-23 11-21 14-24 12-22 15-25 16-17 26-27 18-19 28-29"
_FOUR_LEGS = "0-1 2-3 4-5 6-7 9-10 11-12"

_MIRROR = {
    "aeroplane": "4-5 6-7 8-9 10-11 12-13 14-15 16-17 18-19 20-21",
    "bicycle": "2-3 6-7 9-10",
    "bird": "1-2 4-5 7-8 10-11 12-13 14-15",
    "boat": "1-2 3-4 5-6 7-8 9-10 11-12",
    "bottle": "0-1 2-3 4-5 6-7 8-9",
    "bus": f"0-1 2-3 5-6 {_WINDOWS_AND_WHEELS}",
    "car": f"0-1 2-3 6-7 {_WINDOWS_AND_WHEELS}",  # 5 is the front's badge, not a light as on the bus
    "cat": _FOUR_LEGS,
    "chair": "0-1 2-3 4-5 6-7 8-9 10-11 12-13",
    "cow": f"{_FOUR_LEGS} 15-16 17-18 19-20",
    "dog": "0-1 2-3 4-5 9-10 11-12",
    "horse": "0-1 2-3 4-5 6-7 10-11 12-13 16-17 18-19",
    "motorbike": "0-1 2-3",
    "person": "0-1 2-3 8-9 10-11 12-13 14-15 16-17 18-19",
    "pottedplant": "0-2 4-5 6-8",
    "sheep": f"{_FOUR_LEGS} 15-16 17-18 19-20",
    "train": "0-1 2-3 4-5 6-7 8-9 10-11 12-13 14-15 16-17",
    "tvmonitor": "0-2 4-6 3-7 8-10 12-14 11-15",
}

# Faces (beaks, eyes, nostrils, where ears begin) are told apart by the face itself.
_FACES = {
    "bird": "4-5 7-8",
    "cat": "0-1 4-5 6-7",
    "cow": "0-1 4-5 6-7",
    "dog": "0-1 4-5",
    "horse": "0-1 4-5 6-7",
    "person": "0-1 2-3",
    "sheep": "0-1 4-5 6-7",
}

# More than two points that look alike, or two that do not mirror one another, such as the plates of a car.
_CORNERS = "10-13-20-23 11-14-21-24 12-15-22-25 16-17-26-27 18-19-28-29"  # fenders, wheels, fenders, windows
_WIDER = {
    "bus": f"2-3-5-6 4-7 {_CORNERS}",
    "car": f"2-3-6-7 4-8 5-9 {_CORNERS}",
    "cat": "9-10-11-12",
    "chair": "4-5-6-7",
    "cow": "9-10-11-12 15-16-17-18",
    "dog": "9-10-11-12",
    "horse": "10-11-12-13 16-17-18-19",
    "pottedplant": "0-1-2-3",
    "sheep": "9-10-11-12 15-16-17-18",
    "tvmonitor": "0-2-4-6 1-3-5-7 8-10-12-14 9-11-13-15",
}

SPAIR_CATEGORIES = tuple(_MIRROR)


def _numbers(text: str) -> Groups:
    return tuple(tuple(int(number) for number in group.split("-")) for group in text.split())


@cache
def spair_mirror(category: str) -> MirrorPairs:
    """Key points of an SPair-71k category that change places in a mirror.

    Raises:
        ValueError: If there is no such category.

    Example:
        >>> spair_mirror("bicycle")
        ((2, 3), (6, 7), (9, 10))
    """
    if category not in _MIRROR:
        raise ValueError(f"SPair-71k has no category {category!r}; it has {', '.join(SPAIR_CATEGORIES)}")
    return tuple((group[0], group[1]) for group in _numbers(_MIRROR[category]))


@cache
def spair_groups(category: str) -> Groups:
    """Key points of an SPair-71k category that are easily taken for one another.

    Raises:
        ValueError: If there is no such category.

    Example:
        >>> spair_groups("dog")  # all paws; the tips of the ears; nothing else of the face
        ((9, 10, 11, 12), (2, 3))
    """
    pairs, wider = spair_mirror(category), _numbers(_WIDER.get(category, ""))
    taken = {number for group in (*wider, *_numbers(_FACES.get(category, ""))) for number in group}
    return wider + tuple(pair for pair in pairs if not taken & set(pair))


def named_mirror(names: tuple[str, ...]) -> MirrorPairs:
    """Rows of names that differ only by left and right.

    Example:
        >>> named_mirror(("head", "left_hand", "right_hand"))
        ((1, 2),)
    """
    rows = {name: row for row, name in enumerate(names)}
    others = ((row, rows.get(name.replace("left", "right"))) for name, row in rows.items() if "left" in name)
    return tuple((row, other) for row, other in others if other is not None)


def named_groups(names: tuple[str, ...]) -> Groups:
    """Rows of names with a left or right that mean the same part: a hand, a wheel.

    Example:
        >>> named_groups(("front_left_wheel", "front_right_wheel", "rear_left_wheel", "roof", "left_hand"))
        ((0, 1, 2),)
    """
    parts: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        words = name.split("_")
        if {"left", "right"} & set(words):
            part = "_".join(word for word in words if word not in ("left", "right", "front", "rear"))
            parts.setdefault(part, []).append(row)
    return tuple(tuple(rows) for rows in parts.values() if len(rows) > 1)
