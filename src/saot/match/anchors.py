"""Structure within each picture, and the few sure pairs against which Shape-of-You measures all others."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.match.machine_code import best_rows, l1_distances
from saot.match.readout import token_positions
from saot.match.sides import MatchSide

Structure = Literal["points3d", "grid2d", "semantic", "none"]
DistanceNorm = Literal["max", "mean", "median"]
Rank = Literal["confidence", "confidence-distortion"]


@dataclass(frozen=True, eq=False)
class Anchors:
    """Pairs taken for right, the most trusted first; fewer than asked for where fewer survive, perhaps none.

    Attributes:
        source: Row of the plan.
        target: Its column.
        confidence: Plan mass of the pair.
        matched: Sources that send any mass, so have a best target.
        survivors: Those whose cycle error is within the threshold.
        threshold: Largest cycle error allowed, in scaled distance; 0 where nothing is matched.
    """

    source: Int64[Tensor, " k"]
    target: Int64[Tensor, " k"]
    confidence: Float[Tensor, " k"]
    matched: int = 0
    survivors: int = 0
    threshold: float = 0.0

    @classmethod
    def none(cls, like: Float[Tensor, "..."]) -> "Anchors":
        """No anchor at all, on the device of `like`."""
        empty = torch.empty(0, dtype=torch.int64, device=like.device)
        return cls(empty, empty, like.new_empty(0))

    def __len__(self) -> int:
        return len(self.source)


def intra_distances(side: MatchSide, structure: Structure, norm: DistanceNorm = "max") -> Float[Tensor, "n n"]:
    """Distances D between the n masked tokens of one picture, scaled by its own largest, mean or median (sec. 3.3).

    "points3d" is the Euclidean distance in space, "grid2d" that of patch centres, "semantic" 1 - cos of the features:
    the three of table 3. Without the scale, which the paper leaves out, pictures whose points have different units
    could not be compared (FACTS S-6).

    Args:
        side: The picture.
        structure: What is measured.
        norm: Statistic over pairs of different tokens that becomes 1. Where it is 0, nothing is scaled.

    Returns:
        Symmetric, with a zero diagonal.

    Raises:
        ValueError: If the structure is "points3d" and the picture has no points, or it is "none".

    Example:
        >>> row = MatchSide.of(torch.eye(3), (1, 3))
        >>> intra_distances(row, "grid2d").tolist()
        [[0.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 0.0]]
    """
    return scale_distances(_distances(side, structure), norm)


def scale_distances(distances: Float[Tensor, "n n"], norm: DistanceNorm) -> Float[Tensor, "n n"]:
    """Distances over their largest, mean or median between different tokens; as they are where that is 0."""
    n = len(distances)
    if n == 1:
        return distances
    apart = distances.flatten()[1:].view(n - 1, n + 1)[:, :-1]  # a view of everything off the diagonal
    scale = {"max": torch.amax, "mean": torch.mean, "median": torch.median}[norm](apart)
    return distances / torch.where(scale > 0, scale, 1.0)


def _distances(side: MatchSide, structure: Structure) -> Tensor:
    match structure:
        case "points3d":
            if side.points is None:
                raise ValueError(
                    'structure "points3d" needs a point in space for each token, but a picture has none; lift it to '
                    '3D first, or take structure="grid2d", the distances of patches'
                )
            return _euclidean(side.points[side.mask].to(side.tokens.dtype))
        case "grid2d":
            return _euclidean(token_positions(side.shape, side.tokens)[side.mask])
        case "semantic":
            tokens = torch.nn.functional.normalize(side.tokens[side.mask], dim=-1)
            return (1 - tokens @ tokens.T).clamp(min=0).fill_diagonal_(0)
        case "none":
            raise ValueError('structure "none" has no distances; take "points3d", "grid2d" or "semantic"')


def _euclidean(points: Tensor) -> Tensor:
    """By differences: products of points far from the origin would cancel."""
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def select_anchors(
    plan: Float[Tensor, "n m"],
    source_distances: Float[Tensor, "n n"],
    target_distances: Float[Tensor, "m m"],
    count: int = 64,
    quantile: float = 0.5,
    rank: Rank = "confidence",
    power: Literal[1, 2] = 1,
) -> Anchors:
    """At most `count` pairs that lead there and back within the source picture's structure (sec. 3.3).

    Each source i goes to its best target j and from there back to that target's best source i'. Pairs (i, j) whose
    cycle error D^A(i, i') is at most the given quantile of all errors survive; of them the best by rank are kept.
    Several sources may share a target: the paper does not forbid it.

    Args:
        plan: Of the last iteration.
        source_distances: D^A.
        target_distances: D^B.
        count: K.
        quantile: Of the cycle errors that is the threshold, 0-1.
        rank: "confidence" is the plan's mass (main text). "confidence-distortion" takes off the mean distortion of the
            pair's distances to all survivors, Eq. (6) with them as anchors, both scaled to 0-1 (appendix C says
            "combined score", no formula).
        power: Other: of the distortion.

    Returns:
        No anchors where no source sends any mass; otherwise at least one.

    Example:
        >>> line = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> anchors = select_anchors(torch.tensor([[0.4, 0.1], [0.3, 0.2]]), line, line)
        >>> anchors.source.tolist(), anchors.target.tolist()  # source 1 goes to 0, which goes back to 0: error 1
        ([0], [0])
    """
    confidence, forward = plan.max(1)
    back = best_rows(plan)[forward]
    matched = torch.nonzero(confidence > 0).squeeze(1)
    if len(matched) == 0:
        return Anchors.none(plan)
    error = source_distances[matched, back[matched]]
    threshold = torch.quantile(error, quantile)
    source = matched[error <= threshold]
    target = forward[source]
    score = confidence[source]
    if rank == "confidence-distortion":
        apart = _distortion(source_distances[source][:, source], target_distances[target][:, target], power)
        score = _unit_range(score) - _unit_range(apart)
    kept = torch.sort(score, descending=True, stable=True).indices[:count]
    source, target = source[kept], target[kept]
    return Anchors(source, target, confidence[source], len(matched), len(score), float(threshold))


def _distortion(source: Tensor, target: Tensor, power: int) -> Tensor:
    """Mean over survivors of |D^A - D^B|^p, (survivors,)."""
    return (source - target).abs().pow(power).mean(1)


def _unit_range(x: Tensor) -> Tensor:
    low, high = x.aminmax()
    return (x - low) / torch.where(high > low, high - low, 1.0)


def geometric_cost(
    source_distances: Float[Tensor, "n n"],
    target_distances: Float[Tensor, "m m"],
    anchors: Anchors,
    power: Literal[1, 2] = 1,
) -> Float[Tensor, "n m"]:
    """C_geo,ij = 1/K sum over anchors (a, b) of |D^A_ia - D^B_jb|^p, the linearised Gromov term of Eq. (6).

    Nothing larger than the result is made: the sum is the L1 distance between K-long rows, or by moments for p = 2.

    Args:
        source_distances: D^A.
        target_distances: D^B.
        anchors: At least one.
        power: p.

    Raises:
        ValueError: If there is no anchor.

    Example:
        >>> line = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> geometric_cost(line, line, Anchors(torch.tensor([0]), torch.tensor([0]), torch.tensor([1.0]))).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if len(anchors) == 0:
        raise ValueError("the geometric cost is measured against anchors, but there is none; keep the semantic plan")
    x, y = source_distances[:, anchors.source], target_distances[:, anchors.target]
    if power == 1:
        return l1_distances(x, y).div_(len(anchors))
    shift = (x.mean(0) + y.mean(0)) / 2  # the same from both: differences stay, squares cancel less
    x, y = x - shift, y - shift
    squares = torch.addmm(y.square().sum(1).expand(len(x), -1), x, y.T, alpha=-2).add_(x.square().sum(1, keepdim=True))
    return squares.clamp_(min=0).div_(len(anchors))
