"""One transport problem between a bank of labelled tokens and a target picture, with a network's posterior as prior.

By A-7 of the paper-notes a plan's label is a prior to the power lambda / epsilon times a kernel vote whose weights the
plan sets. Here the prior is a trained network's own posterior in place of the linear prototype classifier, and the
voters come from all source pictures and from the declared points together in place of a few pairs.
"""

import math

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.recipes import TransportRecipe
from saot.transfer.labels import LabelTransfer, one_hot, transfer_labels
from saot.transport import solve_transport, squared_euclidean_cost

SMALLEST = 1e-4  # of a probability, before its logarithm


def bank_weights(
    labels: Int[Tensor, " n"] | UInt8[Tensor, " n"], frequencies: Float[Tensor, " K"]
) -> Float[Tensor, " n"]:
    """a_i = pi_c / n_c: each class has the mass of its share of the target, spread evenly over its tokens.

    Args:
        labels: Class of each token of the bank.
        frequencies: Share pi_c of each class in the target; those of absent classes are left out.

    Returns:
        (n,), summing to 1.

    Raises:
        ValueError: If no class of the bank has a share.

    Example:
        >>> bank_weights(torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.5, 0.0]))
        tensor([0.2500, 0.2500, 0.5000])
    """
    counts = torch.bincount(labels.long(), minlength=len(frequencies)).clamp_min(1)
    weights = (frequencies / counts)[labels.long()]
    total = weights.sum()
    if not bool(total > 0):
        raise ValueError("expected a share of the target for some class of the bank; all are zero: check the network")
    return weights / total


def bank_transfer(
    bank: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"] | UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    log_prior: Float[Tensor, "m K"],
    frequencies: Float[Tensor, " K"],
    transport: TransportRecipe,
    prior_weight: float,
) -> LabelTransfer:
    """Labels of a target picture from a bank: Eq. (2) on the plan of c_ij = |x_i - x_j|^2 - lambda log pi_j(l_i).

    Args:
        bank: Labelled unit features, of many pictures.
        labels: Their classes; no "ignore".
        target: Unit features of one picture.
        log_prior: Log posterior log pi_j of a network for each target token.
        frequencies: Share of each class in the target.
        transport: epsilon, tau, iterations. The problem is dense: the bank has a bounded size.
        prior_weight: lambda.
    """
    cost = squared_euclidean_cost(bank, target)
    if prior_weight > 0:
        votes = one_hot(labels, log_prior.shape[1], log_prior.dtype)
        cost = cost - prior_weight * (votes @ log_prior.clamp_min(math.log(SMALLEST)).T)
    result = solve_transport(
        cost,
        a=bank_weights(labels, frequencies),
        epsilon=transport.epsilon,
        tau=transport.tau,
        reference=transport.reference,
        max_iter=transport.max_iter,
        tol=0,
        gradient="none",
    )
    return transfer_labels(result, labels, log_prior.shape[1])


def joined_correction(prior: Float[Tensor, "m K"], transfer: LabelTransfer, power: float) -> Float[Tensor, "m K"]:
    """alpha (log P_j - log pi_j), to be added to the network's logits: the geometric mean of plan and network.

    Zero where the plan covers nothing. At alpha = 1 the label is the plan's, at 0 the network's.

    Args:
        prior: pi_j, the network's posterior of each token.
        transfer: P_j of `bank_transfer`.
        power: alpha.
    """
    correction = power * (transfer.probs.clamp_min(SMALLEST).log() - prior.clamp_min(SMALLEST).log())
    return torch.where(transfer.covered.unsqueeze(-1), correction, torch.zeros_like(correction))
