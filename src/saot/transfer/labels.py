"""From a plan to target label probabilities, and the losses on them: Eqs. (2), (6), (7), (9)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from saot.data import IGNORE_INDEX
from saot.transport import TransportResult


@dataclass(frozen=True)
class LabelTransfer:
    """Label probabilities of the target tokens of one pair (or a batch of pairs).

    Attributes:
        probs: (..., m, K); rows sum to 1 where covered, else all zero.
        covered: (..., m); False where no labelled source token may send mass.
    """

    probs: Float[Tensor, "*batch m K"]
    covered: Bool[Tensor, "*batch m"]


def transfer_labels(
    result: TransportResult,
    labels: Int[Tensor, "*batch n"] | UInt8[Tensor, "*batch n"],
    num_classes: int,
) -> LabelTransfer:
    """Target label probabilities by barycentric projection, Eq. (2).

    Each covered target j gets the average of the source one-hot labels, weighted by column j of the plan. Ignored
    source tokens carry no label: their mass is left out of the average.

    Args:
        result: Solution for n source and m target tokens.
        labels: Source classes in [0, num_classes), or 255 for "ignore".
        num_classes: Number of classes K.

    Returns:
        `probs` (..., m, K): rows sum to 1 where covered, else all zero; `covered` (..., m), bool.

    Raises:
        ValueError: If `labels` does not match the source side of `result` or has a class outside the range.

    Example:
        >>> from saot.transport import solve_transport
        >>> result = solve_transport(torch.tensor([[0.0, 9.0], [9.0, 0.0]]), epsilon=0.1)
        >>> transfer_labels(result, torch.tensor([1, 0]), num_classes=2).probs.argmax(-1)
        tensor([1, 0])
    """
    f, _ = result.potentials
    if labels.shape != f.shape:
        raise ValueError(f"expected one label for each source token, shape {tuple(f.shape)}; got {tuple(labels.shape)}")
    onehot = one_hot(labels, num_classes, f.dtype)
    votes = result.apply(onehot)
    total = votes.sum(-1, keepdim=True)
    covered = (total > 0).squeeze(-1) & result.covered
    safe = torch.where(covered.unsqueeze(-1), total, torch.ones_like(total))
    probs = torch.where(covered.unsqueeze(-1), votes / safe, torch.zeros_like(votes))
    return LabelTransfer(probs, covered)


def one_hot(
    labels: Int[Tensor, "*shape"] | UInt8[Tensor, "*shape"], num_classes: int, dtype: torch.dtype
) -> Float[Tensor, "*shape K"]:
    """One-hot rows, all zero for "ignore".

    Raises:
        ValueError: If a label is neither a class nor 255.
    """
    classes = labels.long()
    valid = classes != IGNORE_INDEX
    wrong = valid & ((classes < 0) | (classes >= num_classes))
    if bool(wrong.any()):
        raise ValueError(
            f"expected labels in 0..{num_classes - 1} or {IGNORE_INDEX}; got {int(classes[wrong][0])}; "
            "check num_classes or the class set"
        )
    onehot = torch.zeros((*classes.shape, num_classes), dtype=dtype, device=classes.device)
    return onehot.scatter_(-1, (classes * valid).unsqueeze(-1), valid.to(dtype).unsqueeze(-1))


def aggregate_transfers(transfers: Sequence[LabelTransfer], weights: Float[Tensor, " s"]) -> LabelTransfer:
    """The weighted mean of several sources' answers, sec. 6.7; a source that does not cover a token has no say.

    Args:
        transfers: Answers for the same m target tokens.
        weights: One non-negative weight a source; rescaled over the sources that cover a token.

    Raises:
        ValueError: If there are none, or their number and that of the weights differ.

    Example:
        >>> yes = LabelTransfer(torch.tensor([[1.0, 0.0]]), torch.tensor([True]))
        >>> none = LabelTransfer(torch.tensor([[0.0, 0.0]]), torch.tensor([False]))
        >>> aggregate_transfers([yes, none], torch.tensor([0.5, 0.5])).probs
        tensor([[1., 0.]])
    """
    if not transfers or len(transfers) != len(weights):
        raise ValueError(f"expected one weight for each transfer; got {len(transfers)} and {len(weights)}")
    votes = torch.stack([w * t.probs for w, t in zip(weights, transfers, strict=True)]).sum(0)
    share = torch.stack([w * t.covered for w, t in zip(weights, transfers, strict=True)]).sum(0)
    covered = share > 0
    safe = torch.where(covered, share, torch.ones_like(share)).unsqueeze(-1)
    return LabelTransfer(torch.where(covered.unsqueeze(-1), votes / safe, torch.zeros_like(votes)), covered)


def fill_uncovered(
    transfer: LabelTransfer,
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    rule: Literal["nearest_source", "uniform"] = "nearest_source",
) -> Float[Tensor, "m K"]:
    """Probabilities with a decision for the tokens that no source reached; the caller counts them.

    Args:
        transfer: Answer for m target tokens.
        source: Unit features of the labelled source tokens.
        labels: Their classes; "ignore" is passed over.
        target: Unit features of the target tokens.
        rule: The label of the most similar labelled source token, or equal shares.
    """
    probs, classes = transfer.probs, transfer.probs.shape[-1]
    open_tokens = (~transfer.covered).nonzero().squeeze(-1)
    keep = labels != IGNORE_INDEX
    if len(open_tokens) == 0:
        return probs
    filled = probs.clone()
    if rule == "uniform" or not bool(keep.any()):
        filled[open_tokens] = 1.0 / classes
        return filled
    nearest = (target[open_tokens] @ source[keep].T).argmax(-1)
    filled[open_tokens] = one_hot(labels[keep][nearest], classes, probs.dtype)
    return filled


def sharpen(probs: Float[Tensor, "*shape K"], temperature: float) -> Float[Tensor, "*shape K"]:
    """Probabilities proportional to p^(1/T), appendix E.4.

    Example:
        >>> sharpen(torch.tensor([0.75, 0.25]), 0.5)
        tensor([0.9000, 0.1000])
    """
    return torch.softmax(probs.log() / temperature, dim=-1)


def point_loss(
    probs: Float[Tensor, "m K"],
    tokens: Int[Tensor, " p"],
    classes: Int[Tensor, " p"],
    absent: Literal["drop_points", "clamp"] = "drop_points",
    reduction: Literal["mean", "sum"] = "mean",
) -> tuple[Float[Tensor, ""], int]:
    """Cross-entropy at the declared points, first term of Eq. (9), and how many points it counts.

    A point whose class no candidate source carries has probability exactly 0 and an infinite loss. "drop_points"
    leaves such points out (they ask for what this pair cannot give); "clamp" counts them at the smallest normal
    number, without a gradient.

    Args:
        probs: Target label probabilities.
        tokens: Target token of each point.
        classes: Its class.
        absent: What to do with unreachable points.
        reduction: Mean over the counted points, or the paper's sum.
    """
    chosen = probs[tokens, classes]
    reached = chosen > 0
    if absent == "clamp":
        chosen, reached = chosen.clamp_min(torch.finfo(probs.dtype).tiny), torch.ones_like(reached)
    count = int(reached.sum())
    losses = -chosen[reached].log()
    if count == 0:
        return probs.sum() * 0.0, 0
    return (losses.sum() if reduction == "sum" else losses.mean()), count


def entropy(probs: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape"]:
    """-sum p log p over the classes, nats; a class at exactly 0 adds nothing and gets no gradient.

    The gradient of p log p is infinite at 0. Such a class has no candidate source and cannot be moved, so an
    infinite gradient times its zero derivative would be NaN.
    """
    safe = torch.where(probs > 0, probs, torch.ones_like(probs))
    return -(probs * safe.log()).sum(-1)


def entropy_loss(transfer: LabelTransfer) -> Float[Tensor, ""]:
    """Mean entropy of the covered tokens' probabilities, Eq. (6), in nats."""
    probs = transfer.probs[transfer.covered]
    if len(probs) == 0:
        return transfer.probs.sum() * 0.0
    return entropy(probs).mean()


def diversity_loss(transfer: LabelTransfer) -> Float[Tensor, ""]:
    """KL of the mean prediction to uniform, Eq. (7) (which prints P for its mean): log K minus its entropy.

    Example:
        >>> even = LabelTransfer(torch.eye(2), torch.tensor([True, True]))
        >>> round(float(diversity_loss(even)), 6)
        0.0
    """
    probs = transfer.probs[transfer.covered]
    if len(probs) == 0:
        return transfer.probs.sum() * 0.0
    return math.log(probs.shape[-1]) - entropy(probs.mean(0))
