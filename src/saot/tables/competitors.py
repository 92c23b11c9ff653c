"""Every competitor of the paper, as functions of tokens: nearest neighbours, probes, fixed-cost transport."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.recipes import TransportRecipe
from saot.transfer import LabelTransfer, Prototypes, one_hot, pair_support, solve_as, transfer_labels, transfer_pair
from saot.transport import TransportResult, squared_euclidean_cost


@dataclass(frozen=True)
class TokenBank:
    """Labelled tokens of many pictures together.

    Attributes:
        tokens: (N, d) unit features.
        labels: (N,) classes; no "ignore".
    """

    tokens: Float[Tensor, "N d"]
    labels: UInt8[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "TokenBank":
        """The first tokens; a bank is in random order, so they are a sample of it."""
        return TokenBank(self.tokens[:count], self.labels[:count])


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


@dataclass(frozen=True)
class LinearProbe:
    """Class logits that are linear in the tokens.

    Attributes:
        weight: (K, d).
        bias: (K,).
    """

    weight: Float[Tensor, "K d"]
    bias: Float[Tensor, " K"]

    def __call__(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n K"]:
        """Logits (n, K)."""
        return tokens @ self.weight.T + self.bias

    def to(self, device: torch.device | str) -> "LinearProbe":
        """The same probe on another device."""
        return LinearProbe(self.weight.to(device), self.bias.to(device))


def fit_linear_probe(
    tokens: Float[Tensor, "N d"],
    labels: Int[Tensor, " N"] | UInt8[Tensor, " N"],
    num_classes: int,
    weight_decay: float,
    *,
    sample_weight: Float[Tensor, " N"] | None = None,
    iterations: int = 300,
) -> LinearProbe:
    """The minimiser of mean cross-entropy + weight_decay / 2 |W|^2, by L-BFGS.

    Tokens are scaled by sqrt(d), so that unit features have entries of size one and `weight_decay` means the same
    at every width. It is scikit-learn's `LogisticRegression(C=1 / (N * weight_decay))` on the scaled tokens; the
    bias is not decayed.

    Args:
        tokens: Training tokens.
        labels: Their classes; no "ignore".
        num_classes: Number of classes K; classes without a token get a very low bias.
        weight_decay: Strength of the L2 penalty.
        sample_weight: Weight of each token, scaled to mean one; None is equal.
        iterations: At most so many.

    Raises:
        ValueError: If there is no token.
    """
    if len(tokens) == 0:
        raise ValueError("expected at least one labelled token; got none")
    dim, classes = tokens.shape[1], labels.long()
    scaled = tokens * dim**0.5
    weights = torch.ones(len(tokens)) if sample_weight is None else sample_weight / sample_weight.mean()
    w = torch.zeros(num_classes, dim, requires_grad=True)
    b = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b],
        max_iter=iterations,
        max_eval=iterations * 5 // 4,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    share = (weights / len(tokens)).unsqueeze(-1)

    @torch.no_grad()
    def closure() -> Tensor:
        """The loss, and its gradient by hand: softmax less truth, times the tokens; half the time of autograd."""
        log_probs = torch.log_softmax(scaled @ w.T + b, dim=-1)
        loss = -(share * log_probs.gather(-1, classes.unsqueeze(-1))).sum() + 0.5 * weight_decay * (w * w).sum()
        slope = log_probs.exp_()
        slope.scatter_add_(-1, classes.unsqueeze(-1), -torch.ones_like(share))
        slope *= share
        w.grad, b.grad = slope.T @ scaled + weight_decay * w, slope.sum(0)
        return loss

    optimizer.step(closure)
    absent = torch.bincount(classes, minlength=num_classes) == 0
    return LinearProbe((w * dim**0.5).detach(), b.detach().masked_fill(absent, -1e4))


@dataclass(frozen=True)
class ProbeChoice:
    """A probe and what was tried for it.

    Attributes:
        probe: Fitted on everything, with the best settings.
        candidate: The same settings, fitted without what is held out, to choose further settings with.
        trials: One record a try: the settings and their score on the held-out part.
    """

    probe: LinearProbe
    candidate: LinearProbe
    trials: tuple[dict[str, float], ...]


def token_miou(scores: Float[Tensor, "n K"], labels: Int[Tensor, " n"]) -> float:
    """Mean IoU over the classes that occur in the labels, token by token."""
    classes, predicted = scores.shape[1], scores.argmax(-1)
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
    hits, truth = counts.diagonal().double(), counts.sum(1)
    union = truth + counts.sum(0) - counts.diagonal()
    return float((hits / union.clamp_min(1))[truth > 0].mean())


def choose_probe(
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    num_classes: int,
    weight_decays: Sequence[float],
    iterations: int,
    *,
    points: tuple[Tensor, Tensor] | None = None,
    held_out_points: tuple[Tensor, Tensor] | None = None,
) -> ProbeChoice:
    """The probe with the best weight decay on held-out tokens, fitted anew on all of them.

    With points, source tokens and points each carry half of the weight, and the choice is made on held-out points.

    Args:
        train: Source tokens (N, d) and classes (N,).
        held_out: Tokens of other source pictures.
        num_classes: Number of classes K.
        weight_decays: What to try.
        iterations: Of L-BFGS.
        points: Declared target points to train on.
        held_out_points: Declared points of other target pictures.
    """

    def fit(parts: list[tuple[Tensor, Tensor]], extra: list[tuple[Tensor, Tensor]], decay: float) -> LinearProbe:
        tokens = torch.cat([p[0] for p in (*parts, *extra)])
        labels = torch.cat([p[1].long() for p in (*parts, *extra)])
        size, added = sum(len(p[1]) for p in parts), sum(len(p[1]) for p in extra)
        weight = torch.ones(len(labels))
        if added:
            weight[size:] = size / added
        return fit_linear_probe(tokens, labels, num_classes, decay, sample_weight=weight, iterations=iterations)

    some = [points] if points is not None and len(points[1]) else []
    rest = [held_out_points] if held_out_points is not None and len(held_out_points[1]) else []
    judge = rest[0] if rest else held_out if len(held_out[1]) else train
    trials, probes = [], {}
    for decay in weight_decays:
        probe = probes[decay] = fit([train], some, decay)
        trials.append({"weight_decay": decay, "score": token_miou(probe(judge[0]), judge[1].long())})
    best = max(trials, key=lambda trial: trial["score"])
    return ProbeChoice(
        fit([train, held_out], some + rest, best["weight_decay"]), probes[best["weight_decay"]], tuple(trials)
    )


def unbalanced_transport(
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    num_classes: int,
    transport: TransportRecipe,
) -> LabelTransfer:
    """UOT: uniform weights, relaxed marginals; by appearance alone, whatever SAOT's alpha is."""
    return transfer_pair(source, labels, target, num_classes, None, replace(transport, alpha=0.0))


def balanced_transport(
    source: Float[Tensor, "n d"],
    labels: UInt8[Tensor, " n"],
    target: Float[Tensor, "m d"],
    num_classes: int,
    transport: TransportRecipe,
    iterations: int,
) -> tuple[LabelTransfer, TransportResult]:
    """OT: tau = infinity. On a top-k support this is usually infeasible: what `iterations` sweeps leave is used (T13).

    Returns:
        The labels, and the result whose `status` says whether the problem had a solution.
    """
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
        return solve_as(transport, squared_euclidean_cost(source, target, support=support), a)
