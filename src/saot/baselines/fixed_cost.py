"""Transport with the fixed cost |x - y|^2 from one source picture (T13): OT, UOT, RWOT."""

import math
import warnings
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.recipes import TransportRecipe
from saot.transfer import LabelTransfer, transfer_labels, transfer_pair
from saot.transfer.supports import pair_support
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status is returned, counted and reported
        result = _solve(source, target, replace(transport, tau=math.inf, max_iter=iterations))
    return transfer_labels(result, labels, num_classes), result


def reliable_transport(
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    num_classes: int,
    transport: TransportRecipe,
) -> LabelTransfer:
    """RWOT: source weights in proportion to each token's best similarity (negative ones count as none)."""
    best = (source @ target.T).amax(-1).clamp_min(0.0)
    return transfer_labels(_solve(source, target, transport, best / best.sum()), labels, num_classes)


def _solve(
    source: Float[Tensor, "n d"],
    target: Float[Tensor, "m d"],
    transport: TransportRecipe,
    a: Float[Tensor, " n"] | None = None,
) -> TransportResult:
    support = pair_support(source, target, transport)
    with torch.no_grad():
        return solve_transport(
            squared_euclidean_cost(source, target, support=support),
            a=a,
            epsilon=transport.epsilon,
            tau=transport.tau,
            reference=transport.reference,
            max_iter=transport.max_iter,
            tol=transport.tol,
            gradient="none",
        )
