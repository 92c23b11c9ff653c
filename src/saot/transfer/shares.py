"""Transport between target tokens and classes: labels whose class shares are not left to a network that is lost.

Across a large shift a network forgets classes altogether, and self-training makes it worse. The source says roughly how
frequent each class is. An unbalanced plan between tokens and classes weighs one against the other: where the network is
sure, moving its labels is dear and the shares give way; where it is not, they decide.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saot.transport import solve_transport

SMALLEST = 1e-6  # of a probability or share, before its logarithm
MAX_ITER = 1_000


def class_correction(posterior: Float[Tensor, "m K"], shares: Float[Tensor, " K"], tau: float) -> Float[Tensor, " K"]:
    """What the plan between tokens and classes adds to the log posterior of each class.

    The plan solves Eq. (1) with cost c_jk = -log p_jk, epsilon = 1, uniform token weights, class weights `shares`, and
    the counting reference (with the product reference the shares would count twice). So plan_jk ~ p_jk e^(g_k): a
    token's label is softmax(log p_j + g), and tau = 0 leaves the posterior as it is. By the optimality condition
    g_k = -tau log(mass of k / share of k).

    Args:
        posterior: p, a network's class probabilities of m tokens.
        shares: Expected share of each class; they need not sum to 1. A class without one is left as it is.
        tau: How strongly classes keep to their shares, in nats.

    Returns:
        (K,) g less its mean over the labels as they are, since a constant changes no label; zero for classes without a
        share.

    Raises:
        ValueError: If no class has a share, or tau is negative.

    Example:
        >>> doubtful = torch.tensor([[0.6, 0.4], [0.6, 0.4]])
        >>> g = class_correction(doubtful, torch.tensor([0.5, 0.5]), tau=1.0)
        >>> bool(g[1] > g[0])  # the second class has less than its share
        True
    """
    known = shares > 0
    if not bool(known.any()):
        raise ValueError("expected a share for some class; all are zero: check that the source has labels")
    if tau < 0:
        raise ValueError(f"expected tau >= 0; got {tau}")
    correction = torch.zeros_like(posterior[0])
    if tau == 0:
        return correction
    weights = shares[known].to(posterior).clamp_min(SMALLEST)
    result = solve_transport(
        -posterior[:, known].clamp_min(SMALLEST).log(),
        b=weights / weights.sum(),
        epsilon=1.0,
        tau=tau,
        reference="counting",
        max_iter=MAX_ITER,
        gradient="none",
    )
    moved, own = result.potentials[1], posterior[:, known].sum(0)
    correction[known] = moved - (own * moved).sum() / own.sum()
    return correction
