"""Shape-of-You: a plan between two pictures that keeps the shape of things, and pseudo-labels from it (secs. 3 and 4).

Fused Gromov-Wasserstein transport, its quadratic term made linear by a few anchor pairs. Equations are those of
Shape-of-You; where it gives no number or form, a setting has the choices and says so.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saot.match.anchors import (
    Anchors,
    DistanceNorm,
    Rank,
    Structure,
    geometric_cost,
    intra_distances,
    select_anchors,
)
from saot.match.machine_code import best_rows
from saot.match.readout import token_positions
from saot.match.sides import MatchSide
from saot.transport import TransportResult, TransportStatus, cosine_cost, solve_transport

CostNorm = Literal["minmax", "max", "mean", "none"]


@dataclass(frozen=True)
class ShapeOfYouSettings:
    """Every choice of the pseudo-label generator.

    Attributes:
        tau: Weight of the marginals, lambda in the paper.
        epsilon: Weight of the entropy. At 1 the plan is diffuse and its order alone says something.
        unbalanced: False is "Fused OT" of the ablation: tau = inf.
        alpha: Share of the geometric cost.
        anchors: K.
        refinements: T. 0 is "Semantic UOT".
        anchor_quantile: Of the cycle errors that anchors may have.
        rank: Which of the survivors become anchors.
        geo_power: p of |D^A - D^B|^p.
        cost_norm: How both costs are scaled before they are fused.
        distance_norm: What of a picture's distances becomes 1.
        structure: What is a distance within a picture.
        topk: Targets of each source that may become pseudo-labels.
        cycle: "relaxed" allows `cycle_radius` there and back, "strict" 0, "none" anything.
        cycle_radius: In patches.
        max_iter: Of one transport problem.
        tol: Of its residual; in float32 rounding leaves about 1e-6.
        warm: Whether each problem starts from the potentials of the last, for fewer sweeps; not with a tol of 0.
    """

    tau: float = 0.75  # SoY Tab. 6
    epsilon: float = 1.0  # SoY Tab. 6, "implicit Sinkhorn regularization"; FACTS S-2
    unbalanced: bool = True  # SoY Fig. 5
    alpha: float = 0.3  # SoY Tab. 6 and Fig. 2
    anchors: int = 64  # SoY Tab. 6
    refinements: int = 5  # SoY Tab. 6
    anchor_quantile: float = 0.5  # the value is lost, "robust to it"; FACTS S-4
    rank: Rank = "confidence"  # SoY sec. 3.3; App. C has the other
    geo_power: Literal[1, 2] = 1  # FACTS S-5
    cost_norm: CostNorm = "minmax"  # the form is lost; FACTS S-6
    distance_norm: DistanceNorm = "max"  # not in the paper; FACTS S-6
    structure: Structure = "points3d"  # SoY Tab. 3
    topk: int = 3  # the value is lost; FACTS S-8
    cycle: Literal["relaxed", "strict", "none"] = "relaxed"  # SoY sec. 4
    cycle_radius: float = 2.0  # DIY-SC, whose rule the paper takes; FACTS S-8
    max_iter: int = 100  # ours: epsilon 1 needs 8 sweeps, epsilon .05 needs 16
    tol: float = 1e-5  # ours
    warm: bool = True  # ours

    def __post_init__(self) -> None:
        for name, lowest in (("anchors", 1), ("refinements", 0), ("topk", 1), ("cycle_radius", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, but is {getattr(self, name)}")
        for name in ("alpha", "anchor_quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, but is {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Refinement:
    """What one transport problem of the loop did.

    Attributes:
        anchors: Those behind its geometric cost; none at the first, semantic one.
        semantic: Mean of 1 - cos over the plan's mass.
        geometric: Mean distortion against the anchors over the plan's mass, not normalised; 0 without anchors.
        mass: Of the plan.
        value: Primal value of the problem; costs change between problems, so values need not fall.
        moved: Share of sources whose best target is another than before; 0 at the first.
        status: Of the transport.
        sweeps: Of the transport.
    """

    anchors: Anchors
    semantic: float
    geometric: float
    mass: float
    value: float
    moved: float
    status: TransportStatus
    sweeps: int


@dataclass(frozen=True, eq=False)
class ShapeOfYou:
    """The refined plan between the masked tokens of two pictures, and how it came about.

    Attributes:
        plan: Rows are masked sources, columns masked targets.
        source_tokens: Number of each row's token on the source grid.
        target_tokens: Number of each column's token on the target grid.
        source_shape: Rows and columns of the source grid.
        target_shape: Of the target grid.
        history: The semantic problem, then one a refinement.
        status: "refined"; "semantic" if no refinement was asked for; "no anchors" if the last plan of the history
            had no mass to take anchors from, and was kept as it is.
    """

    plan: Float[Tensor, "n m"]
    source_tokens: Int64[Tensor, " n"]
    target_tokens: Int64[Tensor, " m"]
    source_shape: tuple[int, int]
    target_shape: tuple[int, int]
    history: tuple[Refinement, ...]
    status: Literal["refined", "semantic", "no anchors"]

    @property
    def converged(self) -> bool:
        """Whether every transport problem did."""
        return all(one.status == TransportStatus.CONVERGED for one in self.history)

    def on_grid(self) -> Float[Tensor, "n_grid m_grid"]:
        """The plan between all tokens of both grids, 0 where the masks leave one out."""
        rows, columns = math.prod(self.source_shape), math.prod(self.target_shape)
        whole = self.plan.new_zeros(rows, columns)
        whole[self.source_tokens[:, None], self.target_tokens] = self.plan
        return whole


@dataclass(frozen=True, eq=False)
class PseudoLabel:
    """Pairs of tokens taken for matches, multi-hot: a source may have several targets, or none.

    Attributes:
        source: Token of the source grid, ascending.
        target: Token of the target grid; of one source the most trusted first.
        confidence: Plan mass of the pair.
        source_shape: Rows and columns of the source grid.
        target_shape: Of the target grid.
    """

    source: Int64[Tensor, " p"]
    target: Int64[Tensor, " p"]
    confidence: Float[Tensor, " p"]
    source_shape: tuple[int, int]
    target_shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.source)

    def multi_hot(self) -> Bool[Tensor, "n_grid m_grid"]:
        """True at the pairs; rows without a survivor are False throughout."""
        size = math.prod(self.source_shape), math.prod(self.target_shape)
        hot = torch.zeros(size, dtype=torch.bool, device=self.source.device)
        hot[self.source, self.target] = True
        return hot


def semantic_cost(source: MatchSide, target: MatchSide) -> Float[Tensor, "n m"]:
    """C_sem = 1 - cos between the masked tokens of both pictures (sec. 3.2)."""
    return cosine_cost(source.tokens[source.mask], target.tokens[target.mask])


def normalize_cost(cost: Float[Tensor, "n m"], norm: CostNorm) -> Float[Tensor, "n m"]:
    """The cost on a scale that both terms of Eq. (7) share; a constant one under "minmax" becomes 0.

    Example:
        >>> normalize_cost(torch.tensor([[1.0, 2.0, 3.0]]), "minmax").tolist()
        [[0.0, 0.5, 1.0]]
    """
    if norm == "none":
        return cost
    least, most = cost.aminmax()
    low = least if norm == "minmax" else torch.zeros_like(least)
    scale = cost.mean() if norm == "mean" else most - low
    return (cost - low).div_(torch.where(scale > 0, scale, 1.0))  # one matrix is made, not two


def fused_cost(semantic: Float[Tensor, "n m"], geometric: Float[Tensor, "n m"], alpha: float) -> Float[Tensor, "n m"]:
    """C_tot = (1 - alpha) C_sem + alpha C_geo of two normalised costs, Eq. (7).

    Example:
        >>> fused_cost(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.25).tolist()
        [[0.75, 0.25]]
    """
    return torch.lerp(semantic, geometric, alpha)


def shape_of_you(
    source: MatchSide, target: MatchSide, settings: ShapeOfYouSettings = ShapeOfYouSettings()
) -> ShapeOfYou:
    """The plan of sec. 3: semantic transport first, then `refinements` times anchors, fused cost, transport.

    Masses are uniform over the masked tokens of each picture, 1 in all. The first problem has the semantic cost as it
    is (sec. 3.2), later ones both costs normalised (Eq. 7). Where a plan has no mass to take anchors from, the loop
    ends with that plan and the status says so. Nothing here carries a gradient. Memory: some nine matrices of the size
    of the plan.

    Raises:
        ValueError: If a picture has no points but the structure needs them.

    Example:
        Three tokens in a row, the first and the last alike, and the same row from its other end. The one in the middle
        is the surest match, and tells the two apart by their distances to it:

        >>> tokens, points = torch.tensor([[1.0, 0], [0, 1], [1, 0]]), torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
        >>> one = MatchSide.of(tokens, (1, 3), points=points)
        >>> other = MatchSide.of(tokens.flip(0), (1, 3), points=points.flip(0))
        >>> shape_of_you(one, other, ShapeOfYouSettings(anchors=1)).plan.argmax(1).tolist()
        [2, 1, 0]
    """
    with torch.no_grad():
        semantic = semantic_cost(source, target)
        result = _solve(semantic, settings)
        history = [_record(result, Anchors.none(semantic), semantic, None, 0.0)]
        status = "semantic"
        if settings.structure != "none" and settings.refinements > 0:
            in_source = intra_distances(source, settings.structure, settings.distance_norm)
            in_target = intra_distances(target, settings.structure, settings.distance_norm)
            scaled = normalize_cost(semantic, settings.cost_norm)
            quantile, rank, power = settings.anchor_quantile, settings.rank, settings.geo_power
            status, best = "refined", result.plan.argmax(1)
            for _ in range(settings.refinements):
                anchors = select_anchors(result.plan, in_source, in_target, settings.anchors, quantile, rank, power)
                if len(anchors) == 0:
                    status = "no anchors"
                    break
                geometric = geometric_cost(in_source, in_target, anchors, power)
                total = fused_cost(scaled, normalize_cost(geometric, settings.cost_norm), settings.alpha)
                before, result = best, _solve(total, settings, result)
                best = result.plan.argmax(1)
                moved = float((before != best).float().mean())
                history.append(_record(result, anchors, semantic, geometric, moved))
    rows, columns = (torch.nonzero(side.mask).squeeze(1) for side in (source, target))
    return ShapeOfYou(result.plan, rows, columns, source.shape, target.shape, tuple(history), status)


def pseudo_label(match: ShapeOfYou, settings: ShapeOfYouSettings = ShapeOfYouSettings()) -> PseudoLabel:
    """The pairs of a plan that survive symmetric relaxed cycle consistency, of each source's `topk` (sec. 4)."""
    tokens, shapes = (match.source_tokens, match.target_tokens), (match.source_shape, match.target_shape)
    return _surviving(match.plan, tokens, shapes, settings)


def nearest_label(
    source: MatchSide, target: MatchSide, settings: ShapeOfYouSettings = ShapeOfYouSettings()
) -> PseudoLabel:
    """The same from nearest neighbours in place of a plan: "NN labels" of table 4. Its confidence is exp(cos)."""
    with torch.no_grad():
        scores = (1 - semantic_cost(source, target)).exp()
    tokens = torch.nonzero(source.mask).squeeze(1), torch.nonzero(target.mask).squeeze(1)
    return _surviving(scores, tokens, (source.shape, target.shape), settings)


def _surviving(
    scores: Tensor,
    tokens: tuple[Tensor, Tensor],
    shapes: tuple[tuple[int, int], tuple[int, int]],
    settings: ShapeOfYouSettings,
) -> PseudoLabel:
    places = [token_positions(shape, scores)[kept] for shape, kept in zip(shapes, tokens, strict=True)]
    radius = {"relaxed": settings.cycle_radius, "strict": 0.0, "none": math.inf}[settings.cycle]
    source, target = cycle_consistent_pairs(scores, places[0], places[1], settings.topk, radius)
    return PseudoLabel(tokens[0][source], tokens[1][target], scores[source, target], *shapes)


def cycle_consistent_pairs(
    scores: Float[Tensor, "n m"],
    source_places: Float[Tensor, "n 2"],
    target_places: Float[Tensor, "m 2"],
    topk: int,
    radius: float,
) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Rows and columns of the pairs whose ways back, from either end, end near where they began (sec. 4).

    Candidates are the `topk` best targets j of each source i. A candidate stays if the best source of j lies at most
    `radius` from i, and the best target of i at most `radius` from j. With one candidate a source the second always
    holds, and the rule is that of DIY-SC, which the paper extends (FACTS S-8).

    Args:
        scores: Plan, or any scores above 0 such as exp(cos) for nearest neighbours; pairs at 0 are never taken.
        source_places: (row, column) of each source, in patches.
        target_places: Of each target.
        topk: Candidates of each source.
        radius: In patches; 0 is mutual best matches, `math.inf` no test.

    Returns:
        Rows, ascending, and columns, the best first within a row.

    Example:
        >>> places = torch.tensor([[0.0, 0.0], [0.0, 9.0]])
        >>> rows, columns = cycle_consistent_pairs(torch.tensor([[0.4, 0.1], [0.3, 0.2]]), places, places, 1, 2.0)
        >>> rows.tolist(), columns.tolist()  # 1 goes to 0, which goes back to 0, nine patches away
        ([0], [0])
    """
    values, columns = scores.topk(min(topk, scores.shape[1]), dim=1)
    rows = torch.arange(len(scores), device=scores.device).unsqueeze(1).expand_as(columns)
    back, best = best_rows(scores), columns[:, :1].expand_as(columns)
    there = (source_places[back[columns]] - source_places[rows]).norm(dim=-1)
    here = (target_places[best] - target_places[columns]).norm(dim=-1)
    kept = (values > 0) & (there <= radius) & (here <= radius)
    return rows[kept], columns[kept]


def _solve(cost: Tensor, settings: ShapeOfYouSettings, last: TransportResult | None = None) -> TransportResult:
    """Eqs. (3) and (8) with uniform masses; it ends by its residual, so where it starts changes nothing beyond tol."""
    return solve_transport(
        cost,
        epsilon=settings.epsilon,
        tau=settings.tau if settings.unbalanced else math.inf,
        max_iter=settings.max_iter,
        tol=settings.tol,
        gradient="none",
        init=last.potentials if last is not None and settings.warm and settings.tol > 0 else None,
    )


def _record(
    result: TransportResult, anchors: Anchors, semantic: Tensor, geometric: Tensor | None, moved: float
) -> Refinement:
    mass = float(result.mass)
    mean_semantic, mean_geometric = (
        float(result.plan.flatten() @ cost.flatten()) / mass if cost is not None and mass > 0 else 0.0
        for cost in (semantic, geometric)
    )
    return Refinement(
        anchors,
        mean_semantic,
        mean_geometric,
        mass,
        float(result.value),
        moved,
        TransportStatus(int(result.status)),
        int(result.iterations),
    )
