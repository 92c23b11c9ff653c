"""What the adapter is trained on: soft targets (Eq. 9), their contrastive loss (Eq. 10), the dense loss (Eq. 11)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saot.match.readout import soft_argmax
from saot.transport import solve_transport


def row_shares(weights: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Each row over its sum; a row of zeros stays one."""
    total = weights.sum(1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def current_plan(similarity: Float[Tensor, "n m"], epsilon: float = 1.0, tau: float = math.inf) -> Float[Tensor, "n m"]:
    """pi_curr: the transport plan on 1 - cos of the network's features of the moment, without a gradient (sec. 4.1).

    Args:
        similarity: Cosines of n source and m target tokens.
        epsilon: Weight of the entropy; 1 as everywhere in the paper (Tab. 6), which leaves a diffuse plan.
        tau: Weight of the marginals; balanced as in the work the paper adapts (FACTS S-9).
    """
    cost = 1 - similarity.detach()
    return solve_transport(cost, epsilon=epsilon, tau=tau, gradient="none").plan


def soft_target(
    hard: Bool[Tensor, "n m"] | Float[Tensor, "n m"], current: Float[Tensor, "n m"], beta: float = 0.5
) -> tuple[Float[Tensor, "n m"], Bool[Tensor, " n"]]:
    """pi_soft = (1 - beta) pi_hard + beta pi_curr, Eq. (9), both with rows that sum to 1.

    Args:
        hard: Multi-hot pseudo-label.
        current: Plan on the features of the moment; no gradient goes through it.
        beta: Share of it.

    Returns:
        The target, and which rows have one: rows without a pseudo-label are all zero and to be left out.

    Example:
        >>> hard, current = torch.tensor([[True, True], [False, False]]), torch.tensor([[0.2, 0.0], [0.1, 0.1]])
        >>> target, kept = soft_target(hard, current)
        >>> target.tolist(), kept.tolist()  # (1/2, 1/2) and (1, 0), half each
        ([[0.75, 0.25], [0.0, 0.0]], [True, False])
    """
    current = current.detach()
    hard = hard.to(current.dtype)
    kept = (hard > 0).any(1)
    blend = torch.lerp(row_shares(hard), row_shares(current), beta)
    return torch.where(kept.unsqueeze(1), blend, 0.0), kept


def soft_contrastive_loss(
    similarity: Float[Tensor, "n m"],
    hard: Bool[Tensor, "n m"] | Float[Tensor, "n m"],
    current: Float[Tensor, "n m"],
    scale: Float[Tensor, ""],
    beta: float = 0.5,
) -> Float[Tensor, ""]:
    """Cross-entropy from soft targets to softmax(scale * cos), in both directions, Eq. (10).

    -sum_j pi_soft,ij log P_ij, mean over sources with a pseudo-label; the same from targets to sources, with columns
    in place of rows throughout; and the mean of the two. The paper's normalisation is lost: means make the loss
    independent of the size of pictures, and rows are shares in either direction (FACTS S-9).

    Args:
        similarity: Cosines of n source and m target tokens.
        hard: Multi-hot pseudo-label.
        current: `current_plan` of the same features.
        scale: One over the learned temperature.
        beta: Of Eq. (9).

    Returns:
        0 without any pseudo-label. Gradients reach the similarity and the scale alone.

    Example:
        >>> even, right = torch.zeros(2, 2), torch.eye(2)
        >>> round(float(soft_contrastive_loss(even, right, right, torch.tensor(1.0))), 4)  # log 2
        0.6931
    """
    logits = similarity * scale
    forward = _cross_entropy(logits, *soft_target(hard, current, beta))
    backward = _cross_entropy(logits.T, *soft_target(hard.T, current.T, beta))
    return (forward + backward) / 2


def _cross_entropy(logits: Tensor, target: Tensor, kept: Tensor) -> Tensor:
    """Mean over kept rows; 0 where there is none."""
    log_p = torch.log_softmax(logits[kept], dim=1)
    return -(target[kept] * log_p).sum() / max(int(kept.sum()), 1)


def dense_loss(
    similarity: Float[Tensor, "p m"],
    places: Float[Tensor, "p 2"],
    shape: tuple[int, int],
    temperature: float = 0.02,
    mask: Bool[Tensor, " m"] | None = None,
) -> Float[Tensor, ""]:
    """Mean distance, in patches, between soft-argmax positions and where pseudo-labels say they are, Eq. (11).

    Args:
        similarity: Cosines of p sources, one a pseudo-label pair, to all m tokens of the target grid.
        places: (row, column) that each should find, in patches; with the noise of `noisy_places`.
        shape: Rows and columns of the target grid.
        temperature: Of the soft-argmax (FACTS S-12).
        mask: Targets that take part; the whole map if not given, as in the paper.

    Returns:
        0 without a pair.

    Example:
        >>> dense_loss(torch.tensor([[0.5, 0.5]]), torch.tensor([[2.0, 0.5]]), (1, 2)).item()
        2.0
    """
    found = soft_argmax(similarity, shape, mask, temperature)
    return torch.linalg.vector_norm(found - places, dim=1).sum() / max(len(places), 1)


def noisy_places(places: Float[Tensor, "p 2"], deviation: float, generator: torch.Generator) -> Float[Tensor, "p 2"]:
    """Places moved by Gaussian noise, which keeps the network from fitting single patches (Eq. 11).

    The noise is drawn on the generator's device, so that a seed means the same everywhere.
    """
    noise = torch.randn(places.shape, generator=generator, device=generator.device, dtype=places.dtype)
    return places + deviation * noise.to(places.device)


def noise_deviation(mask: Bool[Tensor, " m"], shape: tuple[int, int], share: float = 0.1) -> float:
    """Standard deviation of the noise: `share` of half the longer side of the mask's bounding box, in patches.

    FACTS S-12; DIY-SC takes the largest key-point coordinate for that side, we take the side.

    Example:
        >>> noise_deviation(torch.tensor([False, True, True, True]), (1, 4))  # 3 patches wide
        0.15000000000000002
    """
    grid = mask.view(shape)
    spans = (torch.nonzero(grid.any(axis)).flatten() for axis in (1, 0))
    return share * max(int(span[-1] - span[0]) + 1 for span in spans) / 2
