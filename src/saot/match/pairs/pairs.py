"""Two pictures of one kind of thing, and what is known about which place of one is which place of the other.

Places are (x, y) in pixels, and the centre of the first pixel is (0, 0). `saot.match.pairs.readers.open_pairs` opens
sets of pairs; pictures, masks, depth and flow are read when asked for.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import overload

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

Box = tuple[float, float, float, float]  # x1, y1, x2, y2
Groups = tuple[tuple[int, ...], ...]
MirrorPairs = tuple[tuple[int, int], ...]

SLACK = 0.01  # of the longer side (at least two pixels): how far outside its picture a click may lie


@dataclass(frozen=True)
class Lens:
    """A pinhole: a point at X right, Y up, Z forward falls on x = cx + fx X / Z, y = cy - fy Y / Z, pixels.

    Example:
        >>> lens = Lens(fx=100.0, fy=100.0, cx=1.0, cy=0.0)
        >>> lens.unproject(np.full((1, 2), 5.0, np.float32)).tolist()  # pixels (0, 0) and (1, 0), five metres away
        [[[-0.05000000074505806, 0.0, 5.0], [0.0, 0.0, 5.0]]]
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def unproject(self, depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 3"]:
        """The point (X, Y, Z) seen in each pixel, in the unit of `depth`; (inf, inf, inf) where depth is infinite."""
        rows, columns = np.indices(depth.shape)
        rays = np.stack([(columns - self.cx) / self.fx, (self.cy - rows) / self.fy, np.ones(depth.shape)], -1)
        finite = np.isfinite(depth)
        points = rays * np.where(finite, depth, 1.0)[..., None]
        return np.where(finite[..., None], points, np.inf).astype(np.float32)

    def project(self, points: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 2"]:
        """Where points in front of the camera fall, (x, y) in pixels."""
        x, y, z = np.moveaxis(points, -1, 0)
        return np.stack([self.cx + self.fx * x / z, self.cy - self.fy * y / z], -1)


@dataclass(frozen=True, eq=False)
class DenseFlow:
    """Where every pixel of the target comes from.

    Attributes:
        flow: (x, y) of the place in the source minus (x, y) of the target's pixel; 0 where not valid.
        valid: Pixels of the target whose place is known and counts.

    Raises:
        ValueError: If the shapes differ or a valid pixel's flow is not finite.
    """

    flow: Float32[np.ndarray, "h w 2"]
    valid: Bool[np.ndarray, "h w"]

    def __post_init__(self) -> None:
        if self.flow.shape != (*self.valid.shape, 2):
            raise ValueError(f"flow must have shape {(*self.valid.shape, 2)} as its mask, but has {self.flow.shape}")
        if not np.isfinite(self.flow).all():
            raise ValueError("flow holds numbers that are not finite; mark such pixels as not valid and set them to 0")


class OutsidePicture(ValueError):
    """A key point is marked as seen outside its picture."""


@dataclass(frozen=True, eq=False)
class PairSide:
    """One picture of a pair.

    Attributes:
        name: Of the picture; the same in all pairs it takes part in.
        size: Height and width, pixels.
        points: Place (x, y) of each key point of the category; (0, 0) where nobody knows.
        visible: Key points that are annotated and seen. A hidden one whose place is known keeps its place.
        load: Reads the picture.
        box: Of the object, where the set has one.
        load_mask: Reads the object's mask, where the set has one.
        load_depth: Reads the depth along the camera's axis, where the set has it; infinite in the sky.
        lens: How the camera of `load_depth` sees.

    Raises:
        OutsidePicture: If a visible point lies outside the picture.
        ValueError: If points and visibility differ in number, a place is not finite, or the box has no area.
    """

    name: str
    size: tuple[int, int]
    points: Float64[np.ndarray, "p 2"]
    visible: Bool[np.ndarray, " p"]
    load: Callable[[], UInt8[np.ndarray, "h w 3"]]
    box: Box | None = None
    load_mask: Callable[[], Bool[np.ndarray, "h w"]] | None = None
    load_depth: Callable[[], Float32[np.ndarray, "h w"]] | None = None
    lens: Lens | None = None

    def __post_init__(self) -> None:
        if self.points.shape != (len(self.visible), 2):
            raise ValueError(
                f"{self.name}: {len(self.visible)} flags of visibility need points of shape "
                f"({len(self.visible)}, 2), but they have {self.points.shape}"
            )
        if not np.isfinite(self.points).all():
            raise ValueError(f"{self.name} has a key point that is not finite; mark it as not visible, at (0, 0)")
        self._check_inside()
        if self.box is not None and not (self.box[0] < self.box[2] and self.box[1] < self.box[3]):
            raise ValueError(f"{self.name} has the box {self.box}, but x1 < x2 and y1 < y2 are expected")

    def _check_inside(self) -> None:
        height, width = self.size
        slack = max(2.0, SLACK * max(self.size))
        outside = ((self.points < -slack) | (self.points > np.array([width, height]) - 1 + slack)).any(-1)
        wrong = np.flatnonzero(outside & self.visible)
        if len(wrong):
            x, y = self.points[wrong[0]].tolist()
            raise OutsidePicture(
                f"key point {wrong[0]} of {self.name} is marked as seen at x={x:g}, y={y:g}, outside its picture of "
                f"{width}x{height} pixels (width x height); check the annotation and the order of x and y"
            )

    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture (h, w, 3), RGB 0-255.

        Raises:
            ValueError: If the file cannot be read, or its size is not the annotated one.
        """
        return self._fitting("picture", self.load())

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """The object's mask (h, w).

        Raises:
            ValueError: If the set has none, or it does not fit the picture.
        """
        if self.load_mask is None:
            raise ValueError(f"{self.name} comes without a mask; use its box, the whole picture or a segmenter")
        return self._fitting("mask", self.load_mask())

    def depth(self) -> Float32[np.ndarray, "h w"]:
        """Depth along the camera's axis (h, w), infinite in the sky.

        Raises:
            ValueError: If the set has none, or it does not fit the picture.
        """
        if self.load_depth is None:
            raise ValueError(f"{self.name} comes without depth; only generated pairs have it")
        return self._fitting("depth", self.load_depth())

    def space(self) -> Float32[np.ndarray, "h w 3"]:
        """The point in space that each pixel sees: X right, Y up, Z forward of the camera; infinite in the sky.

        Raises:
            ValueError: If the set has no depth.
        """
        depth = self.depth()
        if self.lens is None:
            raise ValueError(f"{self.name} has depth but no lens; points in space need both")
        return self.lens.unproject(depth)

    def _fitting(self, what: str, pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[:2] != self.size:
            raise ValueError(
                f"the {what} of {self.name} has {pixels.shape[1]}x{pixels.shape[0]} pixels (width x height), but the "
                f"annotation says {self.size[1]}x{self.size[0]}; both must be of one release"
            )
        return pixels


@dataclass(frozen=True, eq=False)
class Pair:
    """Two pictures and what is known about places that correspond.

    Key points are rows: row k of either side is the point called `names[k]`. Whoever only wants to match asks for
    `common_points`.

    Attributes:
        key: Name of the pair, unique in its set.
        category: What both show; for dense sets the part of the set.
        source: The picture that is asked about.
        target: The picture in which answers are searched.
        names: Name or number of each key point, as the set has it.
        mirror: Rows that change places when the picture is mirrored.
        groups: Rows that are easily taken for one another, which makes the geometry-aware subset.
        attributes: What the set says about the pair: "viewpoint" and "scale" (0 easy to 2 hard), "truncation" and
            "occlusion" (0 none, 1 source, 2 target, 3 both), "mirror" (1 if a side is mirrored); of SPair-71k also
            "azimuth" and "pose", see its reader.
        load_flow: Reads the dense truth, where the set has it.

    Raises:
        ValueError: If sides and names differ in number, or a row of `mirror` or `groups` does not exist.

    Example:
        >>> def side(name, seen):
        ...     places = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 4.0]])
        ...     return PairSide(name, (5, 5), places, np.array(seen), lambda: np.zeros((5, 5, 3), np.uint8))
        >>> pair = Pair("0", "cat", side("a", [True, True, False]), side("b", [True, True, True]),
        ...             ("left ear", "right ear", "nose"), mirror=((0, 1),), groups=((0, 1),))
        >>> pair.common.tolist(), pair.geometry_aware.tolist(), pair.mirror_rows.tolist()
        ([True, True, False], [True, True, False], [1, 0, 2])
    """

    key: str
    category: str
    source: PairSide
    target: PairSide
    names: tuple[str, ...]
    mirror: MirrorPairs = ()
    groups: Groups = ()
    attributes: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    load_flow: Callable[[], DenseFlow] | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        for role, side in (("source", self.source), ("target", self.target)):
            if len(side.visible) != count:
                raise ValueError(f"pair {self.key} names {count} key points, but its {role} has {len(side.visible)}")
        rows = [row for group in (*self.mirror, *self.groups) for row in group]
        if rows and not 0 <= min(rows) <= max(rows) < count:
            raise ValueError(f"pair {self.key} has {count} key points, but mirror or groups name row {max(rows)}")

    @property
    def common(self) -> Bool[np.ndarray, " p"]:
        """Key points that are seen in both pictures."""
        return self.source.visible & self.target.visible

    @property
    def geometry_aware(self) -> Bool[np.ndarray, " p"]:
        """Common key points of which the target shows another one of the same group (FACTS 6.7)."""
        confusable = np.zeros(len(self.names), bool)
        for group in map(list, self.groups):
            confusable[group] |= self.target.visible[group].sum() >= 2
        return self.common & confusable

    @property
    def mirror_rows(self) -> Int64[np.ndarray, " p"]:
        """For each row the row of its mirror image; itself where it has none."""
        rows = np.arange(len(self.names), dtype=np.int64)
        for first, second in self.mirror:
            rows[first], rows[second] = second, first
        return rows

    def common_points(self) -> tuple[Float64[np.ndarray, "k 2"], Float64[np.ndarray, "k 2"]]:
        """Places of the common key points in the source and in the target, (x, y), in the order of the rows."""
        return self.source.points[self.common], self.target.points[self.common]

    def flow(self) -> DenseFlow:
        """The dense truth, from pixels of the target to the source.

        Raises:
            ValueError: If the set has none, or it does not fit the target.
        """
        if self.load_flow is None:
            raise ValueError(f"pair {self.key} has key points and no dense flow; only TSS and warped pictures have it")
        flow = self.load_flow()
        if flow.valid.shape != self.target.size:
            raise ValueError(
                f"the flow of pair {self.key} has {flow.valid.shape[1]}x{flow.valid.shape[0]} pixels (width x height), "
                f"but its target has {self.target.size[1]}x{self.target.size[0]}; both must be of one release"
            )
        return flow


@dataclass(frozen=True, eq=False)
class PairSet(Sequence):  # of Pair; saying so would make the checks of the tests draw pairs
    """Pairs that are made when asked for: a sequence of `Pair`.

    Attributes:
        spec: What the user typed.
        keys: Name of each pair.
        categories: Category of each pair.
        make: Number of a pair -> the pair.
    """

    spec: str
    keys: tuple[str, ...]
    categories: tuple[str, ...]
    make: Callable[[int], Pair]

    def __post_init__(self) -> None:
        assert len(self.keys) == len(self.categories)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Pair]:
        return map(self.make, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> "PairSet": ...
    def __getitem__(self, index: int | slice) -> "Pair | PairSet":
        """A pair, or the pairs of a slice as a set."""
        if isinstance(index, slice):
            return self._of(range(len(self))[index])
        return self.make(range(len(self))[index])

    def of_categories(self, names: Collection[str]) -> "PairSet":
        """The pairs of some categories; the others are held out.

        Raises:
            ValueError: If a name is none of the set's categories.
        """
        unknown = sorted(set(names) - set(self.categories))
        if unknown:
            known = ", ".join(sorted(set(self.categories)))
            raise ValueError(f"{self.spec} has no category {', '.join(unknown)}; it has {known}")
        return self._of([row for row, category in enumerate(self.categories) if category in names])

    def spread(self, limit: int | None) -> "PairSet":
        """At most so many pairs, spread evenly over the set; all of them without a limit."""
        if limit is None or limit >= len(self):
            return self
        return self._of([number * len(self) // limit for number in range(limit)])

    def _of(self, rows: Sequence[int]) -> "PairSet":
        keys, categories = (tuple(part[row] for row in rows) for part in (self.keys, self.categories))
        return PairSet(self.spec, keys, categories, lambda index: self.make(rows[index]))


def mirrored(side: PairSide, mirror: MirrorPairs) -> PairSide:
    """The side as a mirror shows it: x becomes width - 1 - x, and left and right key points swap their rows.

    So a point called "left" stays left of the object. The camera of the mirrored depth is mirrored as well.

    Args:
        side: One picture.
        mirror: Rows that change places.
    """
    width = side.size[1]
    rows = np.arange(len(side.visible))
    for first, second in mirror:
        rows[first], rows[second] = second, first
    points = side.points.copy()
    known = side.visible | (points != 0).any(-1)  # nobody knows the places at (0, 0)
    points[known, 0] = width - 1 - points[known, 0]
    mask, depth, box, lens = side.load_mask, side.load_depth, side.box, side.lens
    return replace(
        side,
        name=f"{side.name} mirrored",
        points=points[rows],
        visible=side.visible[rows],
        load=lambda: side.load()[:, ::-1].copy(),
        box=None if box is None else (width - 1 - box[2], box[1], width - 1 - box[0], box[3]),
        load_mask=None if mask is None else lambda: mask()[:, ::-1].copy(),
        load_depth=None if depth is None else lambda: depth()[:, ::-1].copy(),
        lens=None if lens is None else replace(lens, cx=width - 1 - lens.cx),
    )
