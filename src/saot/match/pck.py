"""PCK, the share of correct key points: a prediction is correct if its distance to the truth is < alpha times a side.

Published tables mix three ways of averaging, which differ by several points (FACTS G-10, G-11, S-14), so each figure
here says what it weighs alike: points, images or categories. All distances are pixels of the original pictures, which
gives the same as a padded square frame would.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from saot.match.pairs.pairs import Pair

Alphas = tuple[float, ...]
Shares = tuple[float | None, ...]  # one for each alpha; None where nothing was counted
Frame = Literal["target", "source", "square"]

ALPHAS: Alphas = (0.05, 0.10, 0.15)  # FACTS 6.10


@dataclass(frozen=True)
class PckFigures:
    """Shares of correct points of some pairs, one for each alpha; None where nothing was counted.

    Attributes:
        points: All points pooled: every point weighs the same.
        images: Mean of the shares of the pairs: every pair with a counted point weighs the same.
        num_points: Counted points, or pixels.
        num_pairs: Pairs with a counted point.
    """

    points: Shares
    images: Shares
    num_points: int
    num_pairs: int


@dataclass(frozen=True)
class PckTable:
    """PCK over all pairs and over parts of them.

    Attributes:
        alphas: Thresholds, shares of a side.
        overall: All pairs.
        categories: Mean over the categories of their `points` figures: every category weighs the same.
        categories_of_images: Mean over the categories of their `images` figures. TSS's unweighted average over its
            subsets is this; its image-weighted one is `overall.images`.
        by_category: The pairs of each category.
        by_attribute: The pairs of each value of "viewpoint", "scale", "truncation", "occlusion" and "mirror".
    """

    alphas: Alphas
    overall: PckFigures
    categories: Shares
    categories_of_images: Shares
    by_category: Mapping[str, PckFigures]
    by_attribute: Mapping[str, Mapping[int, PckFigures]]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; every average stands under what it is weighted by."""
        averages = {
            "points": self.overall.points,
            "images": self.overall.images,
            "categories": self.categories,
            "categories_of_images": self.categories_of_images,
        }
        return {
            "weighted_by": {name: self._named(shares) for name, shares in averages.items()},
            "num_points": self.overall.num_points,
            "num_pairs": self.overall.num_pairs,
            "by_category": {name: self._plain(figures) for name, figures in self.by_category.items()},
            "by_attribute": {
                name: {str(value): self._plain(figures) for value, figures in values.items()}
                for name, values in self.by_attribute.items()
            },
        }

    def _named(self, shares: Shares) -> dict[str, float | None]:
        return {str(alpha): share for alpha, share in zip(self.alphas, shares, strict=True)}

    def _plain(self, figures: PckFigures) -> dict[str, Any]:
        weighted = {"points": self._named(figures.points), "images": self._named(figures.images)}
        return {"weighted_by": weighted, "num_points": figures.num_points, "num_pairs": figures.num_pairs}


@dataclass(frozen=True)
class PckReport:
    """PCK of key points at both thresholds, of all common points and of the geometry-aware ones.

    Attributes:
        alphas: Thresholds, shares of a side.
        frame: Whose side the image threshold takes.
        image: All common points, within alpha times the picture's longer side.
        box: The same within alpha times the longer side of the target's box; pairs without a box do not count.
        image_geometry: Geometry-aware points (FACTS 6.7) at the image threshold.
        box_geometry: Geometry-aware points at the box threshold.
    """

    alphas: Alphas
    frame: Frame
    image: PckTable
    box: PckTable
    image_geometry: PckTable
    box_geometry: PckTable

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "alphas": list(self.alphas),
            "frame": self.frame,
            "image": {"all": self.image.to_dict(), "geometry": self.image_geometry.to_dict()},
            "box": {"all": self.box.to_dict(), "geometry": self.box_geometry.to_dict()},
        }


def point_hits(
    predicted: Float[np.ndarray, "p 2"] | Float[Tensor, "p 2"],
    pair: Pair,
    alphas: Sequence[float] = ALPHAS,
    threshold: Literal["image", "box"] = "box",
    frame: Frame = "target",
) -> Bool[np.ndarray, "a p"]:
    """Which common key points are predicted within each threshold: distance < alpha times side, strictly.

    Args:
        predicted: Place (x, y) in the target of each row of the pair, pixels; rows that are not common do not matter.
        pair: Where the points are.
        alphas: Shares of a side.
        threshold: "box" takes the longer side of the target's box, "image" that of a picture.

    Other:
        frame: Of the image threshold: the longer side of the "target" or the "source" (both are published for
            PF-PASCAL), or a "square" to which the target is stretched first, as 224 x 224 results have it.

    Returns:
        Hits (a, p); False for rows that are not common.

    Raises:
        ValueError: If the number of rows differs, a common point's prediction is not finite, or there is no box.

    Example:
        >>> from saot.match.pairs.pairs import PairSide
        >>> points = np.array([[2.0, 2.0], [6.0, 2.0]])
        >>> side = PairSide("a", (10, 20), points, np.ones(2, bool), lambda: np.zeros((10, 20, 3), np.uint8))
        >>> pair = Pair("0", "cat", side, side, ("ear", "tail"))
        >>> point_hits(points + [[2.0, 0.0]], pair, (0.1, 0.2), "image").tolist()  # 2 pixels: < 4, but not < 2
        [[False, False], [True, True]]
    """
    places = _array(predicted)
    if places.shape != pair.target.points.shape:
        raise ValueError(
            f"pair {pair.key} has {len(pair.names)} key points, so predictions of shape ({len(pair.names)}, 2) are "
            f"expected, but {places.shape} came; give a row for each, seen or not"
        )
    common = pair.common
    if not np.isfinite(places[common]).all():
        raise ValueError(f"a prediction for pair {pair.key} is not finite; every common point needs an answer")
    away, side = np.where(common[:, None], places - pair.target.points, 0.0), _side(pair, threshold, frame)
    if threshold == "image" and frame == "square":
        away = away / np.array(pair.target.size[::-1], np.float64)
    limits = np.asarray(alphas, np.float64) * side
    return (np.sqrt((away**2).sum(-1)) < limits[:, None]) & common


def _side(pair: Pair, threshold: Literal["image", "box"], frame: Frame) -> float:
    """The length that alpha is a share of, pixels; 1 for the square, whose errors are shares already."""
    if threshold == "box":
        if pair.target.box is None:
            raise ValueError(f"the target of pair {pair.key} has no box; use the image threshold")
        x1, y1, x2, y2 = pair.target.box
        return max(x2 - x1, y2 - y1)
    match frame:
        case "target":
            return float(max(pair.target.size))
        case "source":
            return float(max(pair.source.size))
        case "square":
            return 1.0


def flow_hits(
    predicted: Float[np.ndarray, "h w 2"] | Float[Tensor, "h w 2"], pair: Pair, alphas: Sequence[float] = ALPHAS
) -> tuple[Int64[np.ndarray, " a"], int]:
    """How many pixels of the target have a flow within each threshold of the truth, and how many count.

    The error is a distance in the source, so the side is the source's longer one (FACTS 6.11).

    Args:
        predicted: (x, y) of the place in the source minus (x, y) of each pixel of the target.
        pair: With dense truth.
        alphas: Shares of the side.

    Raises:
        ValueError: If the pair has no dense truth, the size differs, or a counted pixel's flow is not finite.

    Example:
        >>> from saot.match.pairs.warps import Projective, WarpSettings, warp_pair
        >>> same = warp_pair(np.zeros((4, 10, 3), np.uint8), 0, WarpSettings(light=False), warp=Projective(np.eye(3)))
        >>> off = np.zeros((4, 10, 2)) + [1.0, 0.0]
        >>> hits, pixels = flow_hits(off, same, (0.1, 0.2))  # one pixel: < 2, but not < 1
        >>> hits.tolist(), pixels
        ([0, 40], 40)
    """
    truth, flow = pair.flow(), _array(predicted)
    if flow.shape != truth.flow.shape:
        raise ValueError(
            f"pair {pair.key} has a target of {truth.flow.shape[1]}x{truth.flow.shape[0]} pixels (width x height), so "
            f"a flow of shape {truth.flow.shape} is expected, but {flow.shape} came"
        )
    away = flow[truth.valid] - truth.flow[truth.valid]
    if not np.isfinite(away).all():
        raise ValueError(
            f"the flow for pair {pair.key} is not finite in a pixel that counts; every one needs an answer"
        )
    limits = np.asarray(alphas, np.float64) * max(pair.source.size)
    hits = (np.sqrt((away**2).sum(-1)) < limits[:, None]).sum(1)
    return hits.astype(np.int64), len(away)


def _array(values: np.ndarray | Tensor) -> Float64[np.ndarray, "..."]:
    return np.asarray(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, np.float64)


@dataclass(frozen=True, eq=False)
class _Score:
    """What one pair adds to a table."""

    category: str
    attributes: Mapping[str, int]
    hits: Int64[np.ndarray, " a"]
    total: int


class KeyPointScores:
    """PCK of key points, summed over pairs.

    Args:
        alphas: Thresholds, shares of a side.
        frame: Of the image threshold, see `point_hits`.

    Raises:
        ValueError: If there is no alpha, or one is not positive.

    Example:
        >>> from saot.match.pairs.pairs import PairSide
        >>> def pair(key, category, places):
        ...     points = np.array(places)
        ...     seen, picture = np.ones(len(points), bool), np.zeros((10, 10, 3), np.uint8)
        ...     side = PairSide(key, (10, 10), points, seen, lambda: picture)
        ...     return Pair(key, category, side, side, tuple("abc"[: len(points)]))
        >>> scores = KeyPointScores(alphas=(0.1,))
        >>> cat, dog = pair("0", "cat", [[1.0, 1.0]]), pair("1", "dog", [[1.0, 1.0], [5.0, 5.0], [7.0, 7.0]])
        >>> scores.add(cat, cat.target.points)  # all of one point
        >>> scores.add(dog, np.array([[9.0, 9.0], [5.0, 5.0], [9.0, 9.0]]))  # one of three
        >>> table = scores.result().image
        >>> table.overall.points, [round(share, 3) for share in table.overall.images]  # 2 of 4, and (1 + 1/3) / 2
        ((0.5,), [0.667])
        >>> scores.result().box.overall.points  # no pair has a box
        (None,)
    """

    def __init__(self, alphas: Sequence[float] = ALPHAS, frame: Frame = "target") -> None:
        self.alphas = _checked(alphas)
        self.frame: Frame = frame
        self._keys: set[str] = set()
        self._scores: dict[str, list[_Score]] = {}

    def add(
        self,
        pair: Pair,
        predicted: Float[np.ndarray, "p 2"] | Float[Tensor, "p 2"],
        counted: Bool[np.ndarray, " q"] | Bool[Tensor, " q"] | None = None,
    ) -> None:
        """Adds a pair; nothing is added if an error is raised.

        Args:
            pair: Where the points are.
            predicted: Place (x, y) in the target of each row of the pair, pixels.
            counted: Rows that may count; Shape-of-You's PCK of labels leaves out targets outside a mask. Without it,
                all common points count.

        Raises:
            ValueError: If a prediction is missing or not finite, or the pair was added before.
        """
        if pair.key in self._keys:
            raise ValueError(f"pair {pair.key} was added before; each pair counts once")
        allowed = pair.common
        if counted is not None and len(counted) != len(allowed):
            raise ValueError(f"pair {pair.key} has {len(allowed)} key points, but counted has {len(counted)} flags")
        if counted is not None:
            allowed = allowed & np.asarray(counted.cpu().numpy() if isinstance(counted, Tensor) else counted)
        found: dict[str, _Score] = {}
        for threshold in ("image", "box"):
            if threshold == "box" and pair.target.box is None:
                continue
            hits = point_hits(predicted, pair, self.alphas, threshold, self.frame)
            for subset, rows in (("all", allowed), ("geometry", allowed & pair.geometry_aware)):
                right = hits[:, rows].sum(1).astype(np.int64)
                found[f"{threshold} {subset}"] = _Score(pair.category, pair.attributes, right, int(rows.sum()))
        self._keys.add(pair.key)
        for name, score in found.items():
            self._scores.setdefault(name, []).append(score)

    def result(self) -> PckReport:
        """PCK of all pairs added so far."""
        names = ("image all", "box all", "image geometry", "box geometry")
        return PckReport(self.alphas, self.frame, *(_table(self.alphas, self._scores.get(name, [])) for name in names))


class FlowScores:
    """PCK of dense flow, summed over pairs: every pixel of the mask is a point.

    Args:
        alphas: Thresholds, shares of the source's longer side.

    Raises:
        ValueError: If there is no alpha, or one is not positive.
    """

    def __init__(self, alphas: Sequence[float] = ALPHAS) -> None:
        self.alphas = _checked(alphas)
        self._scores: dict[str, _Score] = {}

    def add(self, pair: Pair, predicted: Float[np.ndarray, "h w 2"] | Float[Tensor, "h w 2"]) -> None:
        """Adds a pair; nothing is added if an error is raised. Arguments and errors as `flow_hits`.

        Raises:
            ValueError: If the flow does not fit or is not finite, or the pair was added before.
        """
        if pair.key in self._scores:
            raise ValueError(f"pair {pair.key} was added before; each pair counts once")
        self._scores[pair.key] = _Score(pair.category, pair.attributes, *flow_hits(predicted, pair, self.alphas))

    def result(self) -> PckTable:
        """PCK of all pairs added so far; for TSS the categories are its subsets."""
        return _table(self.alphas, list(self._scores.values()))


def _checked(alphas: Sequence[float]) -> Alphas:
    if not alphas or not all(math.isfinite(alpha) and alpha > 0 for alpha in alphas):
        raise ValueError(f"alphas are shares of a side above 0, such as 0.1, but {tuple(alphas)} came")
    return tuple(float(alpha) for alpha in alphas)


def _table(alphas: Alphas, scores: Sequence[_Score]) -> PckTable:
    count = len(alphas)
    by_category = _parts(scores, count, lambda score: score.category)
    names = sorted({name for score in scores for name in score.attributes})
    with_points = [figures for figures in by_category.values() if figures.num_points]
    return PckTable(
        alphas=alphas,
        overall=_figures(scores, count),
        categories=_mean([figures.points for figures in with_points], count),
        categories_of_images=_mean([figures.images for figures in with_points], count),
        by_category=by_category,
        by_attribute={
            name: _parts(
                [s for s in scores if name in s.attributes], count, lambda score, name=name: score.attributes[name]
            )
            for name in names
        },
    )


def _parts(scores: Sequence[_Score], count: int, part_of: Callable[[_Score], Any]) -> dict[Any, PckFigures]:
    parts: dict[Any, list[_Score]] = {}
    for score in scores:
        parts.setdefault(part_of(score), []).append(score)
    return {part: _figures(parts[part], count) for part in sorted(parts)}


def _figures(scores: Sequence[_Score], count: int) -> PckFigures:
    counted = [score for score in scores if score.total]
    total = sum(score.total for score in counted)
    hits = [sum(int(score.hits[alpha]) for score in counted) for alpha in range(count)]
    return PckFigures(
        points=tuple(right / total if total else None for right in hits),
        images=_mean([tuple((score.hits / score.total).tolist()) for score in counted], count),
        num_points=total,
        num_pairs=len(counted),
    )


def _mean(rows: Sequence[Shares], count: int) -> Shares:
    """Mean of each column; sums are exact, so that the order of the pairs does not matter."""
    if not rows:
        return (None,) * count
    return tuple(
        math.fsum(share for share in column if share is not None) / len(rows) for column in zip(*rows, strict=True)
    )
