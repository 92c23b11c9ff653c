"""Algorithm 1: learning the cost from sparse target points, and one pair's transfer with it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.recipes import TransportRecipe
from saot.runs import Checkpoint, History, Progress, check_finite, generator_for, train_steps
from saot.transfer.cost import Prototypes, SemanticCost
from saot.transfer.labels import LabelTransfer, diversity_loss, entropy_loss, point_loss, transfer_labels
from saot.transfer.supports import SupportKeeper, pair_support
from saot.transport import Gradient, Support, TransportResult, solve_transport, squared_euclidean_cost


@dataclass(frozen=True)
class TargetExample:
    """What a step may see of a target picture: its tokens and its declared points.

    Attributes:
        tokens: (m, d) unit features.
        point_tokens: (p,) token of each point.
        point_classes: (p,) its class.
    """

    tokens: Float[Tensor, "m d"]
    point_tokens: Int[Tensor, " p"]
    point_classes: Int[Tensor, " p"]


@dataclass(frozen=True)
class PairData:
    """Where source-target pairs come from.

    Attributes:
        num_sources: Number of labelled pictures.
        num_targets: Number of target pictures.
        source: Picture number to tokens (n, d) and labels (n,), without ignored tokens.
        target: Picture number and a generator (for points that are drawn anew each step) to what may be seen of it.
    """

    num_sources: int
    num_targets: int
    source: Callable[[int], tuple[Tensor, Tensor]]
    target: Callable[[int, torch.Generator], TargetExample]


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
) -> TransportResult:
    """The plan between one source and one target picture, Eq. (5); `cost=None` is the fixed cost |x - y|^2.

    The support is searched unless it is given.
    """
    if support is None:
        support = pair_support(source, target, transport, cost)
    if cost is None:
        values = squared_euclidean_cost(source, target, support=support)
    else:
        values = cost(source, labels, target, support=support)
    return solve_transport(
        values,
        epsilon=transport.epsilon,
        tau=transport.tau,
        reference=transport.reference,
        max_iter=transport.max_iter,
        tol=transport.tol,
        gradient=_gradient(transport) if torch.is_grad_enabled() else "none",
    )


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
) -> LabelTransfer:
    """Target label probabilities from one source picture: support, cost, plan, Eq. (2)."""
    return transfer_labels(solve_pair(source, labels, target, cost, transport), labels, num_classes)


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
        support = supports.get(pair, source, example.tokens)
        loss, record = pair_loss(cost, source, labels, example, num_classes, transport, support)
        check_finite(loss, number, "the cost")
        optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
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
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Eq. (9) for one pair, and what the log keeps of it."""
    config = cost.config
    result = solve_pair(source, labels, example.tokens, cost, transport, support)
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
        check_finite(loss, number, "the semantic prior")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return {"loss": float(loss.detach())}

    history = train_steps(step, config.steps, {"cost": cost, "optimizer": optimizer}, checkpoint, progress)
    return CostFit(cost.eval(), history)
