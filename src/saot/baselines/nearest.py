"""Competitors without training: nearest neighbours, prototypes, label propagation (T13)."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saot.baselines.bank import TokenBank
from saot.transfer import Prototypes
from saot.transfer.labels import one_hot

CHUNK_BYTES = 64 * 2**20
BLOCK = 128  # keys whose maximum stands for them in the first pass


def similar(
    queries: Float[Tensor, "m d"], keys: Float[Tensor, "N d"], count: int
) -> tuple[Float[Tensor, "m c"], Int[Tensor, "m c"]]:
    """The `count` most similar keys of each query, by inner product, in bounded memory; exact."""
    count = min(count, len(keys))
    rows = max(1, CHUNK_BYTES // (4 * len(keys)))
    parts = [_top(chunk @ keys.T, count) for chunk in _chunks(queries, rows)]
    return torch.cat([values for values, _ in parts]), torch.cat([index for _, index in parts])


def _top(scores: Float[Tensor, "m N"], count: int) -> tuple[Float[Tensor, "m c"], Int[Tensor, "m c"]]:
    """The largest scores of each row. Only the blocks with the `count` largest maxima can hold them."""
    rows, columns = scores.shape
    blocks = columns // BLOCK
    if blocks <= 4 * count:
        top = torch.topk(scores, count, dim=-1)
        return top.values, top.indices
    whole = scores[:, : blocks * BLOCK].view(rows, blocks, BLOCK)
    chosen = torch.topk(whole.amax(-1), count, dim=-1).indices
    within = torch.arange(BLOCK, device=scores.device)
    rest = torch.arange(blocks * BLOCK, columns, device=scores.device).expand(rows, -1)
    candidates = torch.cat([(chosen.unsqueeze(-1) * BLOCK + within).flatten(1), rest], dim=-1)
    top = torch.topk(scores.gather(1, candidates), count, dim=-1)
    return top.values, candidates.gather(1, top.indices)


def _chunks(tensor: Tensor, rows: int) -> Iterator[Tensor]:
    yield from tensor.split(rows)


def nearest_neighbor(bank: TokenBank, target: Float[Tensor, "m d"], num_classes: int) -> Float[Tensor, "m K"]:
    """One-hot class of the most similar source token, NN of T13.

    Example:
        >>> bank = TokenBank(torch.eye(2), torch.tensor([1, 0], dtype=torch.uint8))
        >>> nearest_neighbor(bank, torch.tensor([[0.9, 0.1]]), 2)
        tensor([[0., 1.]])
    """
    _, index = similar(target, bank.tokens, 1)
    return one_hot(bank.labels[index[:, 0]], num_classes, target.dtype)


def knn(
    bank: TokenBank, target: Float[Tensor, "m d"], num_classes: int, k: int, temperature: float
) -> Float[Tensor, "m K"]:
    """Softmax vote of the k most similar source tokens, KNN-Global of T13."""
    values, index = similar(target, bank.tokens, k)
    weights = torch.softmax(values / temperature, dim=-1)
    votes = one_hot(bank.labels[index], num_classes, target.dtype)
    return (weights.unsqueeze(-1) * votes).sum(1)


def prototype_scores(prototypes: Prototypes, target: Float[Tensor, "m d"], temperature: float) -> Float[Tensor, "m K"]:
    """Softmax of cosines to the class means, ProtoNet of T13; absent classes get probability 0."""
    means = torch.nn.functional.normalize(prototypes.means, dim=-1)
    logits = (target @ means.T / temperature).masked_fill(~prototypes.present, -torch.inf)
    return torch.softmax(logits, dim=-1)


def label_propagation(
    bank: TokenBank,
    target: Float[Tensor, "m d"],
    num_classes: int,
    k: int,
    alpha: float,
    steps: int,
    temperature: float,
) -> Float[Tensor, "m K"]:
    """Labels diffused over a k-nearest-neighbour graph, LabelProp of T13.

    Each target token has edges to its k most similar tokens of the bank and of its own picture, weighted by
    exp(cos / T) and scaled to sum to one. Bank tokens hold their labels; target tokens follow
    F <- alpha W F + (1 - alpha) Y with Y the vote of the bank neighbours alone.

    Args:
        bank: Labelled tokens.
        target: One picture's tokens.
        num_classes: Number of classes K.
        k: Neighbours of each kind.
        alpha: Share of the diffused part.
        steps: Iterations.
        temperature: T.
    """
    to_bank, bank_index = similar(target, bank.tokens, k)
    to_self, self_index = similar(target, target, k + 1)
    to_self, self_index = _without_self(to_self, self_index)
    weights = torch.softmax(torch.cat([to_bank, to_self], dim=-1) / temperature, dim=-1)
    near_bank, near_self = weights[:, : to_bank.shape[1]], weights[:, to_bank.shape[1] :]
    votes = one_hot(bank.labels[bank_index], num_classes, target.dtype)
    fixed = (near_bank.unsqueeze(-1) * votes).sum(1)
    start = fixed / near_bank.sum(-1, keepdim=True)
    labels = start
    for _ in range(steps):
        spread = (near_self.unsqueeze(-1) * labels[self_index]).sum(1)
        labels = alpha * (fixed + spread) + (1.0 - alpha) * start
    return labels


def _without_self(values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Drop each token's edge to itself, or its weakest edge where a duplicate hid it."""
    own = torch.arange(len(index), device=index.device).unsqueeze(-1)
    is_self = index == own
    is_self[~is_self.any(-1), -1] = True
    keep = ~is_self
    return values[keep].view(len(index), -1), index[keep].view(len(index), -1)
