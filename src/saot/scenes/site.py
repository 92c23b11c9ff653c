"""What a street is laid out with: its cross-section, the things it must show, and the dice."""

import math
from dataclasses import dataclass

import numpy as np

from saot.scenes.mesh import Color, Mesh, shaded
from saot.scenes.styles import Mix

KERB = 0.12  # metres
QUOTAS = ("rider", "truck", "bus", "train", "motorcycle", "bicycle", "wall", "fence", "light")


@dataclass(frozen=True)
class Plan:
    """Cross-section of the street and where it is crossed, metres."""

    surroundings: int  # 0 downtown, 1 houses with gardens, 2 park, 3 outskirts
    half: float  # half width of the carriageway
    lane: float  # x of the line between two lanes of one direction, 0 = one lane
    lines: int
    parking: bool
    verge: float  # width of the grass between kerb and pavement
    walk: float  # width of the pavement, verge included
    end: float  # where the street ends
    crossing: tuple[float, float]  # z of the crossing street; behind the end = none
    rails: float  # x of the middle of a track, 0 = none


@dataclass(frozen=True)
class Site:
    """What the functions of this file work on."""

    mesh: Mesh
    rng: np.random.Generator
    mix: Mix
    plan: Plan
    present: frozenset[str]

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < share)

    def pick(self, colors: tuple[Color, ...]) -> Color:
        """One of the colours, a little lighter or darker."""
        return shaded(colors[int(self.rng.integers(len(colors)))], self.between(0.85, 1.15))


def occurs(share: float, index: int, phase: float) -> bool:
    """Whether picture `index` is among the given share of all, evenly spread from `phase` on.

    Example:
        >>> [occurs(0.25, i, 0.5) for i in range(6)]
        [False, True, False, False, False, True]
    """
    return math.floor((index + 1) * share + phase) > math.floor(index * share + phase)


def in_crossing(plan: Plan, z: float, margin: float) -> bool:
    """Whether z lies on the crossing street or within a margin of it."""
    return plan.crossing[0] - margin < z < plan.crossing[1] + margin
