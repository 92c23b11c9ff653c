"""Algorithm 1: learning the cost from sparse target points, and one pair's transfer with it."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.recipes import CostRecipe, TransportRecipe
from saot.runs import Checkpoint, History, Progress, descend, generator_for, train_steps
from saot.transfer.cost import Prototypes, SemanticCost
from saot.transfer.labels import LabelTransfer, diversity_loss, entropy_loss, point_loss, transfer_labels
from saot.transfer.supports import SupportKeeper, pair_support
from saot.transport import (
    FusedSettings,
    Gradient,
    PointGeometry,
    SparseCost,
    Support,
    TransportResult,
    TransportStatus,
    solve_fused,
    solve_transport,
    squared_euclidean_cost,
)

Places = tuple[Float[Tensor, "n 2"] | None, Float[Tensor, "m 2"] | None]  # of the tokens of both pictures


@dataclass(frozen=True)
class TargetExample:
    """What a step may see of a target picture: its tokens and its declared points.

    Attributes:
        tokens: (m, d) unit features.
        point_tokens: (p,) token of each point.
        point_classes: (p,) its class.
        places: (m, 2) where the tokens lie, see `grid_points`; only the structure term asks for it.
    """

    tokens: Float[Tensor, "m d"]
    point_tokens: Int[Tensor, " p"]
    point_classes: Int[Tensor, " p"]
    places: Float[Tensor, "m 2"] | None = None


@dataclass(frozen=True)
class PairData:
    """Where source-target pairs come from.

    Attributes:
        num_sources: Number of labelled pictures.
        num_targets: Number of target pictures.
        source: Picture number to tokens (n, d) and labels (n,), without ignored tokens.
        target: Picture number and a generator (for points that are drawn anew each step) to what may be seen of it.
        places: Picture number of a source to where its tokens lie (n, 2), row by row of `source`; only the structure
            term asks for it.
    """

    num_sources: int
    num_targets: int
    source: Callable[[int], tuple[Tensor, Tensor]]
    target: Callable[[int, torch.Generator], TargetExample]
    places: Callable[[int], Tensor] | None = None


@dataclass(frozen=True)
class CostFit:
    """The trained cost and the record of its training.

    Attributes:
        cost: In evaluation mode.
        history: One record a step: loss and its terms, share of points reached, of targets covered, of solves that
            converged.
    """

    cost: SemanticCost
    history: History


def solve_pair(
    source: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    cost: SemanticCost | None,
    transport: TransportRecipe,
    support: Support | None = None,
    places: Places = (None, None),
) -> TransportResult:
    """The plan between one source and one target picture, Eq. (5); `cost=None` is the fixed cost |x - y|^2.

    With `transport.alpha` above 0 the structure term of appendix D is added: the plan solves Eq. (5) at the cost
    C + alpha Q~, where by Eq. (13)

        Q~_ij = 2 sum_kl (D^s_ik - D^t_jl)^2 plan_kl

    of the plan itself, found by `solve_fused`. D holds the squared distances of the tokens of one picture: on the grid,
    in units of its longer side ("grid"), or of their frozen features ("features"); neither is learned. The sum runs
    over the support, which is where the plan is, so a sparse plan has exactly the term of appendix D. Gradients are
    those of the fixed point: they follow Q~ as it changes with the cost.

    Args:
        source: n source tokens.
        labels: Their classes.
        target: m target tokens.
        cost: The learned cost.
        transport: Settings of the problem.
        support: Searched unless it is given.
        places: Where the tokens of both pictures lie, as `grid_points` has them; for `structure="grid"` alone.

    Returns:
        The result at C + alpha Q~. `converged` also says that Q~ is that of the plan; `value` and `gap` are those of
        the problem with Q~ held.

    Raises:
        ValueError: If the structure is that of the grid, and places are missing.
    """
    if support is None:
        support = pair_support(source, target, transport, cost, labels)
    if cost is None:
        values = squared_euclidean_cost(source, target, support=support)
    else:
        values = cost(source, labels, target, support=support)
    gradient = _gradient(transport) if torch.is_grad_enabled() else "none"
    if transport.alpha > 0:
        return _solve_structured(values, (source, target), places, transport, gradient)
    return solve_as(transport, values, gradient=gradient)


def solve_as(
    transport: TransportRecipe,
    cost: SparseCost | Float[Tensor, "n m"],
    a: Float[Tensor, " n"] | None = None,
    gradient: Gradient = "none",
) -> TransportResult:
    """`solve_transport` with the settings of a recipe; a balanced problem gets just the sweeps that the recipe names.

    On a top-k support a balanced problem rarely has a solution, so that the plan is what `max_iter` row and column
    updates make of it, no more of them, no fewer, and none extrapolated.

    Args:
        transport: Settings; tau = inf is balanced.
        cost: Of each pair.
        a: Weights of the sources; 1/n if not given.
        gradient: See `solve_transport`.
    """
    balanced = math.isinf(transport.tau)
    result = solve_transport(
        cost,
        a=a,
        epsilon=transport.epsilon,
        tau=transport.tau,
        reference=transport.reference,
        max_iter=transport.max_iter,
        tol=0.0 if balanced else transport.tol,
        gradient=gradient,
    )
    if not balanced:
        return result
    solved = (result.residual <= transport.tol) & (result.status != int(TransportStatus.NON_FINITE))
    status = torch.where(solved, int(TransportStatus.CONVERGED), result.status)
    return replace(result, converged=solved, status=status)


def _solve_structured(
    cost: SparseCost | Tensor, tokens: tuple[Tensor, Tensor], places: Places, transport: TransportRecipe, how: Gradient
) -> TransportResult:
    """The plan at C + alpha Q~ of itself, appendix D."""
    points = tokens if transport.structure == "features" else places
    source, target = (None if each is None else PointGeometry(each.detach()) for each in points)
    if source is None or target is None:
        raise ValueError(
            "expected the places of the tokens of both pictures for transport.structure=grid with alpha above 0; "
            "got none: pass places=(grid_points(...), grid_points(...)), or set transport.structure=features"
        )
    settings = FusedSettings(
        steps=transport.structure_steps,
        epsilon=transport.epsilon,
        tau=transport.tau,
        reference=transport.reference,
        max_iter=transport.max_iter,
        tol=transport.tol,
        gradient=how,
        follow=True,
        warm=not math.isinf(transport.tau),  # balanced, on a top-k support, the plan is that of max_iter sweeps from 0
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the structure term ended")  # said below, in words that do not change
        fused = solve_fused(cost, source, target, transport.alpha, settings=settings)
    result = fused.transport
    missing = result.converged & ~fused.converged
    if bool(missing.any()):
        warnings.warn(
            f"the structure term did not settle in transport.structure_steps={transport.structure_steps} "
            f"linearisations; lower transport.alpha={transport.alpha}, or raise structure_steps or epsilon",
            stacklevel=3,
        )
    status = result.status.masked_fill(missing, int(TransportStatus.MAX_ITER))
    return replace(result, converged=fused.converged, status=status)


def _gradient(transport: TransportRecipe) -> Gradient:
    """That of the solution; of balanced transport that of its sweeps, for on a top-k support it rarely has one."""
    return "unrolled" if math.isinf(transport.tau) else "implicit"


def transfer_pair(
    source: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    num_classes: int,
    cost: SemanticCost | None,
    transport: TransportRecipe,
    places: Places = (None, None),
) -> LabelTransfer:
    """Target label probabilities from one source picture: support, cost, plan, Eq. (2)."""
    result = solve_pair(source, labels, target, cost, transport, places=places)
    return transfer_labels(result, labels, num_classes)


def fit_cost(
    cost: SemanticCost,
    data: PairData,
    num_classes: int,
    transport: TransportRecipe,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> CostFit:
    """The cost learned by Algorithm 1 with the settings in `cost.config`.

    Each step draws a source and a target picture, solves Eq. (5), transfers labels by Eq. (2) and descends Eq. (9)
    through the implicit gradient of the plan. A source picture without labelled tokens is passed over.

    Args:
        cost: Changed in place and returned in evaluation mode.
        data: Pairs; only declared points of the targets are in it.
        num_classes: Number of classes K.
        transport: Settings of the inner problem.
        seed: Fixes every draw.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Raises:
        FloatingPointError: If the loss is not finite.
        ValueError: If there are no pictures.
    """
    config = cost.config
    if data.num_sources < 1 or data.num_targets < 1:
        raise ValueError(f"expected at least one source and one target; got {data.num_sources} and {data.num_targets}")
    optimizer = torch.optim.AdamW(cost.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    cost.train()
    supports = SupportKeeper(cost, transport)

    def step(number: int) -> dict[str, float]:
        generator = generator_for(seed, "cost", number)
        pick = torch.rand(2, generator=generator)
        pair = (int(pick[0] * data.num_sources), int(pick[1] * data.num_targets))
        source, labels = data.source(pair[0])
        example = data.target(pair[1], generator)
        supports.at_step(number)
        if len(labels) == 0:
            return {"loss": 0.0, "skipped": 1.0}
        support = supports.get(pair, source, example.tokens, labels)
        places = None if data.places is None or transport.alpha == 0 else data.places(pair[0])
        loss, record = pair_loss(cost, source, labels, example, num_classes, transport, support, places)
        descend(loss, optimizer, number, "the cost")
        return record

    state = {"cost": cost, "optimizer": optimizer, "searcher": supports.searcher}
    history = train_steps(step, config.steps, state, checkpoint, progress)
    return CostFit(cost.eval(), history)


def pair_loss(
    cost: SemanticCost,
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    example: TargetExample,
    num_classes: int,
    transport: TransportRecipe,
    support: Support | None = None,
    places: Float[Tensor, "n 2"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Eq. (9) for one pair, and what the log keeps of it; `places` are those of the source tokens."""
    result = solve_pair(source, labels, example.tokens, cost, transport, support, (places, example.places))
    return plan_loss(result, labels, example, num_classes, cost.config)


def plan_loss(
    result: TransportResult,
    labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
    example: TargetExample,
    num_classes: int,
    config: CostRecipe,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Eq. (9) of a plan that is solved: labels carried by Eq. (2), their points, Eq. (6) and Eq. (7).

    Args:
        result: Of `solve_pair`; its gradient is that of the loss.
        labels: Classes of the source tokens.
        example: The target and its points.
        num_classes: Number of classes K.
        config: Weights of the terms, and what is done with points that cannot be reached.

    Returns:
        The loss, and what the log keeps: its terms (nats), shares of points reached, targets covered, solves converged.
    """
    transfer = transfer_labels(result, labels, num_classes)
    points, reached = point_loss(
        transfer.probs, example.point_tokens, example.point_classes, config.absent_class, config.reduction
    )
    entropy, diversity = entropy_loss(transfer), diversity_loss(transfer)
    loss = points + config.lambda_ent * entropy + config.lambda_div * diversity
    record = {
        "loss": float(loss.detach()),
        "points": float(points.detach()),
        "entropy": float(entropy.detach()),
        "diversity": float(diversity.detach()),
        "reached": reached / max(len(example.point_tokens), 1),
        "covered": float(transfer.covered.float().mean()),
        "converged": float(result.converged.float().mean()),
    }
    return loss, record


def fit_prior(
    cost: SemanticCost,
    prototypes: Prototypes,
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]],
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> CostFit:
    """The semantic prior alone, pi of Eq. (4), trained on labelled tokens by cross-entropy: no transport.

    What is left of SAOT without the plan; same optimiser, steps and head as `fit_cost`.

    Args:
        cost: Its `semantic` part is changed in place.
        prototypes: Class means.
        batch: Generator to tokens (p, d) and classes (p,); points whose class the source never has are passed over.
        seed: Fixes every draw.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).
    """
    config = cost.config
    optimizer = torch.optim.AdamW(cost.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    cost.train()

    def step(number: int) -> dict[str, float]:
        tokens, classes = batch(generator_for(seed, "prior", number))
        keep = prototypes.present[classes]
        if not bool(keep.any()):
            return {"loss": 0.0, "skipped": 1.0}
        log_probs = cost.class_log_probs(tokens[keep], prototypes)
        loss = torch.nn.functional.nll_loss(log_probs, classes[keep])
        descend(loss, optimizer, number, "the semantic prior")
        return {"loss": float(loss.detach())}

    history = train_steps(step, config.steps, {"cost": cost, "optimizer": optimizer}, checkpoint, progress)
    return CostFit(cost.eval(), history)
