"""Transport with the fixed cost |x - y|^2 from one source picture (T13): OT, UOT, RWOT."""

import math
import warnings

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.recipes import TransportRecipe
from saot.transfer import LabelTransfer, transfer_labels, transfer_pair
from saot.transfer.fit import pair_support
from saot.transport import TransportResult, solve_transport, squared_euclidean_cost


def unbalanced_transport(
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    num_classes: int,
    transport: TransportRecipe,
) -> LabelTransfer:
    """UOT: uniform weights, relaxed marginals."""
    return transfer_pair(source, labels, target, num_classes, None, transport)


def balanced_transport(
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    num_classes: int,
    transport: TransportRecipe,
    iterations: int,
) -> tuple[LabelTransfer, TransportResult]:
    """OT: tau = infinity. On a top-k support this is usually infeasible: the last finite iterate is used.

    Returns:
        The labels, and the result whose `status` says whether the problem had a solution.
    """
    support = pair_support(source, target, transport)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        result = solve_transport(
            squared_euclidean_cost(source, target, support=support),
            epsilon=transport.epsilon,
            tau=math.inf,
            reference=transport.reference,
            max_iter=iterations,
            tol=transport.tol,
            gradient="none",
        )
    return transfer_labels(result, labels, num_classes), result


def reliable_transport(
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    num_classes: int,
    transport: TransportRecipe,
) -> LabelTransfer:
    """RWOT: source weights in proportion to each token's best similarity (negative ones count as none)."""
    support = pair_support(source, target, transport)
    best = (source @ target.T).amax(-1).clamp_min(0.0)
    with torch.no_grad():
        result = solve_transport(
            squared_euclidean_cost(source, target, support=support),
            a=best / best.sum(),
            epsilon=transport.epsilon,
            tau=transport.tau,
            reference=transport.reference,
            max_iter=transport.max_iter,
            tol=transport.tol,
            gradient="none",
        )
    return transfer_labels(result, labels, num_classes)
