"""Labels carried along a sequence: each frame is matched to frames that are labelled already."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saot.match.matching import MatchSettings, match_sides
from saot.match.sides import MatchSide

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PropagationSettings:
    """Which frames a new one is matched to, and how.

    Attributes:
        match: Method.
        take: What a token takes: "best", the label of its best token; or "mean", that of its row of a plan, which is
            softer, and washes out what is narrower than the plan is sure. Similarities always give the best token's.
        first: Whether the first frame, whose labels are given, is always among them.
        memory: How many frames before the new one, whose labels were carried there. 0 is the first frame alone.
    """

    match: MatchSettings = MatchSettings()
    take: Literal["best", "mean"] = "best"
    first: bool = True
    memory: int = 1

    def __post_init__(self) -> None:
        if self.memory < 0 or (self.memory == 0 and not self.first):
            raise ValueError(
                f"expected a frame to match with: first=True or memory >= 1; got first={self.first}, "
                f"memory={self.memory}"
            )


@dataclass(frozen=True, eq=False)
class Carried:
    """The labels of one frame.

    Attributes:
        probs: Rows sum to 1, or are 0 for a token that is masked or met no label.
        confidence: Between 0 and 1: how sure the matcher is of each token, averaged over the frames it was matched
            to; 1 in the first frame.
    """

    probs: Float[Tensor, "n K"]
    confidence: Float[Tensor, " n"]


def propagate_labels(
    frames: Iterable[MatchSide], labels: Float[Tensor, "n K"], settings: PropagationSettings = PropagationSettings()
) -> Iterator[Carried]:
    """The labels of the first frame carried to each frame, in order; of the sequence only the memory is held.

    The new frame is the source of the match, so that each of its tokens asks where it comes from.

    Args:
        frames: The sequence; grids may differ.
        labels: Class shares of the first frame's tokens; a row of zeros is a token without label.
        settings: Frames and method.

    Yields:
        One `Carried` a frame, the first with the labels as given.

    Raises:
        ValueError: If the labels do not fit the first frame.

    Example:
        >>> frame, labels = MatchSide.of(torch.eye(4), (2, 2)), torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]])
        >>> carried = list(propagate_labels([frame, frame], labels, PropagationSettings(MatchSettings("nn"))))
        >>> carried[1].probs.argmax(-1).tolist()
        [0, 1, 1, 0]
    """
    first: tuple[MatchSide, Carried] | None = None
    recent: deque[tuple[MatchSide, Carried]] = deque(maxlen=settings.memory)
    for frame in frames:
        if first is None:
            if len(labels) != len(frame.tokens):
                raise ValueError(f"expected labels of the first frame's {len(frame.tokens)} tokens; got {len(labels)}")
            now = Carried(labels, torch.ones(len(labels), dtype=labels.dtype, device=labels.device))
            first = (frame, now)
        else:
            known = ([first] if settings.first and (not recent or recent[0] is not first) else []) + list(recent)
            now = _carry(frame, known, settings)
        yield now
        recent.append(first if now is first[1] else (frame, now))


def _carry(frame: MatchSide, known: list[tuple[MatchSide, Carried]], settings: PropagationSettings) -> Carried:
    probs = torch.zeros(len(frame.tokens), known[0][1].probs.shape[1], dtype=known[0][1].probs.dtype)
    probs, sure = probs.to(frame.tokens.device), torch.zeros(len(frame.tokens), device=frame.tokens.device)
    for other, carried in known:
        labelled = other.mask & (carried.probs.sum(-1) > 0)
        matching = match_sides(frame, MatchSide(other.tokens, other.shape, labelled, other.points), settings.match)
        if matching.is_plan and settings.take == "mean":
            probs += _normalised(matching.scores.to(probs.dtype) @ carried.probs)
        else:
            best = torch.where(labelled, matching.scores, -torch.inf).argmax(-1)
            probs += _normalised(carried.probs[best]) * frame.mask.unsqueeze(-1)
        sure += matching.confidence
    return Carried(_normalised(probs), sure / len(known))


def _normalised(probs: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
    total = probs.sum(-1, keepdim=True)
    return torch.where(total > 0, probs / torch.where(total > 0, total, 1.0), 0.0)
