"""Pose-Align: match the mirrored picture where it looks more like the target. Zhang et al., used by GWOT Tab. 4.

Whether to flip is decided from features alone; that the key points change their names with it is annotation at test
time, so rows of a table that use it are marked.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.match.sides import MatchSide


def pose_distance(source: MatchSide, target: MatchSide, matches: Literal["nearest", "mutual"] = "nearest") -> float:
    """Mean Euclidean distance of the source's tokens to their most similar one of the target, over the masks.

    Args:
        source, target: The two pictures.
        matches: "nearest" takes every token of the source's mask; "mutual" those that the target's choice leads back
            to; infinite where there is none.

    Example:
        >>> side = MatchSide.of(torch.eye(2), (1, 2))
        >>> pose_distance(side, side), round(pose_distance(side, MatchSide.of(-torch.eye(2), (1, 2))), 3)
        (0.0, 1.414)
    """
    one, other = source.tokens[source.mask], target.tokens[target.mask]
    similarity = one @ other.T
    best, forth = similarity.max(-1)
    if matches == "mutual":
        best = best[similarity.argmax(0)[forth] == torch.arange(len(forth), device=forth.device)]
    if len(best) == 0:
        return float("inf")
    return float((2 - 2 * best).clamp(min=0).sqrt().mean())


def choose_pose(
    source: MatchSide, flipped: MatchSide, target: MatchSide, matches: Literal["nearest", "mutual"] = "nearest"
) -> tuple[MatchSide, bool]:
    """The source, or its mirror image where that lies nearer to the target; and whether it is mirrored."""
    mirrored = pose_distance(flipped, target, matches) < pose_distance(source, target, matches)
    return (flipped if mirrored else source), mirrored


def mirror_side(side: MatchSide, tokens: Float[Tensor, "n d"]) -> MatchSide:
    """The side of the mirrored picture: mask and points mirrored with it, and its own tokens.

    Points keep their distances, so that those of the mirrored picture are the same with x turned round.
    """
    order = torch.arange(len(side.mask), device=side.mask.device).view(side.shape).flip(-1).flatten()
    points = None if side.points is None else side.points[order] * side.points.new_tensor([-1.0, 1.0, 1.0])
    return replace(MatchSide.of(tokens, side.shape), mask=side.mask[order], points=points)


def mirror_points(
    points: Float[Tensor, "p 2"], width: int, mirror_pairs: Sequence[tuple[int, int]]
) -> tuple[Float[Tensor, "p 2"], Int64[Tensor, " p"]]:
    """Key points (x, y) of the mirrored picture, and which of the original each one is now.

    Point number i of the mirrored picture lies where the original's partner of i was mirrored to: what was the left
    eye is the right one.

    Args:
        points: Pixels of the original picture, from the centre of the first.
        width: Of the picture, pixels.
        mirror_pairs: Numbers of the points that change their names.

    Example:
        >>> moved, origin = mirror_points(torch.tensor([[1.0, 5.0], [4.0, 6.0]]), 10, [(0, 1)])
        >>> moved.tolist(), origin.tolist()
        ([[5.0, 6.0], [8.0, 5.0]], [1, 0])
    """
    origin = torch.arange(len(points))
    for one, other in mirror_pairs:
        origin[one], origin[other] = other, one
    moved = points.clone()
    moved[:, 0] = width - 1 - moved[:, 0]
    return moved[origin], origin
