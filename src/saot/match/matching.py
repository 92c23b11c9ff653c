"""Every way of this room to match two pictures, behind one function."""

from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saot.match.gwot import GWOT_TSS, GwotSettings, match_gwot
from saot.match.readout import READOUTS, Readout, mass_positions, read_out, token_positions
from saot.match.shape_of_you import ShapeOfYouSettings, shape_of_you
from saot.match.sides import MatchSide
from saot.transport import cosine_cost, solve_transport

Method = Literal["nn", "mutual-nn", "uot", "gwot", "shape-of-you"]
METHODS: tuple[Method, ...] = ("nn", "mutual-nn", "uot", "gwot", "shape-of-you")
_REACH = 1  # tokens about the best one whose mass counts as confidence


@dataclass(frozen=True)
class UotSettings:
    """Unbalanced transport on 1 - cos, without any structure.

    Attributes:
        epsilon: Weight of the entropy, cost units.
        tau: Weight of the marginals, cost units; `math.inf` meets them.
    """

    epsilon: float = 0.1  # SAOT sec. 6.1
    tau: float = 0.3  # SAOT sec. 6.1


@dataclass(frozen=True)
class MatchSettings:
    """A method and its settings.

    Attributes:
        method: "nn" takes the most similar token; "mutual-nn" does so where the two choose each other, and elsewhere
            shifts by what the nearest such token was shifted by; "uot" is unbalanced transport; "gwot" adds the
            spatial prior (Snelgar et al.), "shape-of-you" the structure of the object in space.
        readout: From a row of scores to a position; see `plan_positions` for plans.
        uot: Of "uot".
        gwot: Of "gwot".
        shape_of_you: Of "shape-of-you".
    """

    method: Method = "gwot"
    readout: Readout = Readout("argmax")  # GWOT Eq. (4): argmax; SoY sec. 4.2 reads its network by soft-argmax
    uot: UotSettings = UotSettings()
    gwot: GwotSettings = GWOT_TSS
    shape_of_you: ShapeOfYouSettings = field(default_factory=ShapeOfYouSettings)

    @classmethod
    def named(cls, method: str, readout: str = "argmax") -> "MatchSettings":
        """Settings from what stands on a command line.

        Raises:
            ValueError: If there is no such method or read-out.
        """
        for what, name, known in (("method", method, METHODS), ("read-out", readout, READOUTS)):
            if name not in known:
                raise ValueError(f"expected a {what} among {', '.join(known)}; got {name!r}")
        return cls(method=cast(Method, method), readout=Readout(cast(Any, readout)))


@dataclass(frozen=True, eq=False)
class Matching:
    """Where each source token went.

    Attributes:
        scores: Similarity or plan over both whole grids; masked tokens have nothing to say.
        positions: (row, column) in the target, token units.
        confidence: Between 0 and 1: the similarity, or the share of a row's mass within a token of the best one; 0 for
            a token that is masked or not mutual.
        is_plan: Whether the scores are a transport plan.
        note: What the method had to say, such as that it found no anchors; empty if nothing.
    """

    scores: Float[Tensor, "n m"]
    positions: Float[Tensor, "n 2"]
    confidence: Float[Tensor, " n"]
    is_plan: bool
    note: str = ""


def match_sides(
    source: MatchSide,
    target: MatchSide,
    settings: MatchSettings = MatchSettings(),
    symmetric: Int64[Tensor, "pairs 2"] | None = None,
    agreement: Float[Tensor, "n m"] | None = None,
) -> Matching:
    """Match every token of the source that is not masked to a position in the target.

    Args:
        source, target: The two pictures, their features from the same network.
        settings: Method and what belongs to it.
        symmetric: Source tokens of symmetric key points, for "gwot" with a symmetry weight: annotation at test time.
        agreement: What is known of each pair beside the features, units of a cosine: added to similarities, taken from
            costs.

    Raises:
        ValueError: If the pictures' features have different lengths, or the method lacks what it needs.

    Example:
        >>> side = MatchSide.of(torch.eye(4), (2, 2))
        >>> match_sides(side, side, MatchSettings("nn")).positions.tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    if source.tokens.shape[1] != target.tokens.shape[1]:
        raise ValueError(
            f"tokens of the two pictures have {source.tokens.shape[1]} and {target.tokens.shape[1]} numbers; take both "
            "from the same network with the same settings"
        )
    similarity = source.tokens @ target.tokens.T
    if agreement is not None:
        if settings.method == "shape-of-you":
            raise ValueError("shape-of-you takes no agreement; take nn, mutual-nn, uot or gwot")
        similarity = similarity + agreement
    note = ""
    match settings.method:
        case "nn" | "mutual-nn":
            positions = read_out(similarity, target.shape, target.mask, settings.readout)
            best = torch.where(target.mask, similarity, -torch.inf).amax(-1)
            confidence = best.clamp(0, 1) * source.mask
            if settings.method == "mutual-nn":
                positions, mutual = _mutual(source, target, similarity, positions)
                confidence = confidence * mutual
            return Matching(similarity, positions, confidence, False)
        case "uot":
            plan = _uot(source, target, settings.uot, agreement)
        case "gwot":
            plan = match_gwot(source, target, settings.gwot, symmetric, agreement).plan
        case "shape-of-you":
            found = shape_of_you(source, target, settings.shape_of_you)
            plan, note = found.on_grid(), "" if found.status == "refined" else found.status
    positions = plan_positions(plan, target, settings.readout)
    return Matching(plan, positions, plan_confidence(plan, target.shape, source.mask), True, note)


def plan_positions(plan: Float[Tensor, "n m"], target: MatchSide, readout: Readout) -> Float[Tensor, "n 2"]:
    """Positions of the rows of a plan; what is a soft-argmax of similarities is a centre of mass here.

    "soft" takes the whole row, "window" the window about the best token, "mass" what lies within a token of it.
    """
    reach = {"soft": max(target.shape), "window": readout.half_width, "mass": _REACH}.get(readout.how)
    if reach is None:
        return read_out(plan, target.shape, target.mask, readout)
    return mass_positions(plan, target.shape, target.mask, reach)


def plan_confidence(
    plan: Float[Tensor, "n m"], target: tuple[int, int], source_mask: Bool[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Share of each row's mass that lies at most one token from its best one; 0 for rows without mass."""
    best = plan.argmax(-1)
    places = token_positions(target, plan)
    total = plan.sum(-1)
    near = torch.zeros_like(total)
    for row in range(-_REACH, _REACH + 1):
        for column in range(-_REACH, _REACH + 1):
            place = places[best] + places.new_tensor([row, column])
            inside = (place >= 0).all(-1) & (place < places.new_tensor(target)).all(-1)
            token = (place[:, 0] * target[1] + place[:, 1]).long().clamp(0, plan.shape[1] - 1)
            near += torch.where(inside, plan.gather(1, token.unsqueeze(1)).squeeze(1), 0.0)
    share = torch.where(total > 0, near / torch.where(total > 0, total, 1.0), 0.0)
    return share.clamp(max=1) * source_mask


def _mutual(source: MatchSide, target: MatchSide, similarity: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions shifted like the nearest mutual token, and which tokens are mutual; as they are if none is.

    What is shifted off the target's mask goes to the mask's nearest token.
    """
    forth = torch.where(target.mask, similarity, -torch.inf).argmax(-1)
    back = torch.where(source.mask.unsqueeze(-1), similarity, -torch.inf).argmax(0)
    mutual = (back[forth] == torch.arange(len(forth), device=forth.device)) & source.mask
    if not bool(mutual.any()):
        return positions, mutual
    places = token_positions(source.shape, positions)
    nearest = mutual.nonzero()[:, 0][torch.cdist(places, places[mutual]).argmin(-1)]
    last = positions.new_tensor(target.shape) - 1
    shifted = torch.minimum((places + (positions - places)[nearest]).clamp(min=0), last)
    inside = target.mask.nonzero()[:, 0]
    if len(inside) < len(target.mask):
        token = (shifted.round() * shifted.new_tensor([target.shape[1], 1])).sum(-1).long()
        allowed = token_positions(target.shape, positions)[inside]
        back_on = allowed[torch.cdist(shifted, allowed).argmin(-1)]
        shifted = torch.where(target.mask[token].unsqueeze(-1), shifted, back_on)
    return torch.where(mutual.unsqueeze(-1), positions, shifted), mutual


def _uot(source: MatchSide, target: MatchSide, settings: UotSettings, agreement: Tensor | None) -> Tensor:
    """Transport between the tokens that take part, uniform masses."""
    rows, columns = (side.mask.nonzero()[:, 0] for side in (source, target))
    cost = cosine_cost(source.tokens[rows], target.tokens[columns])
    if agreement is not None:
        cost = cost - agreement[rows[:, None], columns]
    plan = solve_transport(
        cost, epsilon=settings.epsilon, tau=settings.tau, max_iter=500, tol=1e-4, gradient="none"
    ).plan
    whole = plan.new_zeros(len(source.tokens), len(target.tokens))
    whole[rows[:, None], columns] = plan
    return whole
