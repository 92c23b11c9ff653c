"""Labels carried along a sequence: each frame is matched to frames that are labelled already."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saot.match.matching import MatchSettings, match_sides
from saot.match.readout import token_positions
from saot.match.sides import MatchSide

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StepSettings:
    """The plan between one frame and the next, where little has moved.

    Attributes:
        epsilon: Weight of the entropy, cost units.
        locality: Cost of a step of one token, growing with its square; 0 where frames are seconds apart.
    """

    epsilon: float = 0.02  # ours: chosen on drives of scenes:street:train
    locality: float = 0.02  # ours: chosen on drives of scenes:street:train

    def __post_init__(self) -> None:
        if not self.epsilon > 0 or self.locality < 0:
            raise ValueError(
                f"expected epsilon above 0 and locality of at least 0; got {self.epsilon} and {self.locality}"
            )


@dataclass(frozen=True)
class PropagationSettings:
    """Which frames a new one is matched to, and how.

    Attributes:
        match: Method.
        take: What a token takes: "best", the label of its best token; or "mean", that of its row of a plan, which is
            softer, and washes out what is narrower than the plan is sure. Similarities always give the best token's.
        first: Whether the first frame, whose labels are given, is always among them.
        memory: How many frames before the new one, whose labels were carried there. 0 is the first frame alone.
        consistency: gamma, cost units: what a token pays for taking another label than the plan from the frame before
            predicts (`label_agreement`). 0 matches every frame for itself.
        between: That plan.
    """

    match: MatchSettings = MatchSettings()
    take: Literal["best", "mean"] = "best"
    first: bool = True
    memory: int = 1
    consistency: float = 0.0
    between: StepSettings = StepSettings()

    def __post_init__(self) -> None:
        if not 0 <= self.consistency < math.inf:
            raise ValueError(f"expected a finite consistency of at least 0; got {self.consistency}")
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
    before: tuple[MatchSide, Carried] | None = None
    for frame in frames:
        if first is None:
            if len(labels) != len(frame.tokens):
                raise ValueError(f"expected labels of the first frame's {len(frame.tokens)} tokens; got {len(labels)}")
            now = Carried(labels, torch.ones(len(labels), dtype=labels.dtype, device=labels.device))
            first = (frame, now)
        else:
            known = ([first] if settings.first and (not recent or recent[0] is not first) else []) + list(recent)
            predicted = None
            if settings.consistency > 0 and before is not None:
                predicted = predict_labels(frame, before[0], before[1].probs, settings.between)
            now = _carry(frame, known, settings, predicted)
        yield now
        before = first if now is first[1] else (frame, now)
        recent.append(before)


def predict_labels(
    frame: MatchSide, before: MatchSide, labels: Float[Tensor, "m K"], settings: StepSettings = StepSettings()
) -> Float[Tensor, "n K"]:
    """Labels of the frame before, carried along the plan between two consecutive frames: q = P y.

    P minimises <1 - cos + locality * d^2, P> + epsilon * <P, log P> over plans whose rows sum to 1, d the step in
    tokens: each token came from somewhere, and a place may be left or be seen twice. In closed form it is the softmax
    of -cost / epsilon along the rows. Structure along time as a cost is ASOT's idea (Xu and Gould 2024); this term is
    ours.

    Args:
        frame, before: The new frame and the one before.
        labels: Class shares of the tokens before; a row of zeros is a token without label, and takes no part.
        settings: Of the plan.

    Returns:
        Class shares: rows sum to 1, or are 0 for a masked token and where no token before has a label.

    Example:
        >>> frame, labels = MatchSide.of(torch.eye(4), (2, 2)), torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]])
        >>> predict_labels(frame, frame, labels).round().tolist() == labels.tolist()
        True
    """
    known = before.mask & (labels.sum(-1) > 0)
    scale = frame.tokens.new_tensor(before.shape) / frame.tokens.new_tensor(frame.shape)
    places = (token_positions(frame.shape, frame.tokens) + 0.5) * scale - 0.5  # of grids of two sizes, too
    step = torch.cdist(places, token_positions(before.shape, before.tokens))
    gain = frame.tokens @ before.tokens.T - settings.locality * step**2
    if not bool(known.any()):
        return labels.new_zeros(len(frame.tokens), labels.shape[1])
    plan = torch.softmax(torch.where(known, gain, -torch.inf) / settings.epsilon, dim=-1)
    return plan.to(labels.dtype) @ _normalised(labels) * frame.mask.unsqueeze(-1)


def label_agreement(
    predicted: Float[Tensor, "n K"], labels: Float[Tensor, "m K"], consistency: float
) -> Float[Tensor, "n m"]:
    """What the cost of a match is lowered by where labels agree: gamma * <q_j, y_i>.

    So a plan kept consistent along time solves the problem of `match_sides` with the cost
    C'_ji = C_ji + gamma * (1 - <q_j, y_i>) of token j of the new frame and token i of a labelled one, up to a constant:
    q_j is what the plan from the frame before predicts for j, y_i is the label of i.

    Example:
        >>> label_agreement(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 0.2).tolist()
        [[0.10000000149011612, 0.0]]
    """
    return consistency * predicted @ labels.T


def _carry(
    frame: MatchSide,
    known: list[tuple[MatchSide, Carried]],
    settings: PropagationSettings,
    predicted: Float[Tensor, "n K"] | None,
) -> Carried:
    probs = torch.zeros(len(frame.tokens), known[0][1].probs.shape[1], dtype=known[0][1].probs.dtype)
    probs, sure = probs.to(frame.tokens.device), torch.zeros(len(frame.tokens), device=frame.tokens.device)
    for other, carried in known:
        labelled = other.mask & (carried.probs.sum(-1) > 0)
        side = MatchSide(other.tokens, other.shape, labelled, other.points)
        if predicted is None:
            matching = match_sides(frame, side, settings.match)
        else:
            agreement = label_agreement(predicted, carried.probs, settings.consistency).to(frame.tokens.dtype)
            matching = match_sides(frame, side, settings.match, agreement=agreement)
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
