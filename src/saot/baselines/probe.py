"""The linear probe as it should be: multinomial logistic regression, solved to convergence."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn


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

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(scaled @ w.T + b, classes, reduction="none")
        loss = (losses * weights).mean() + 0.5 * weight_decay * (w * w).sum()
        loss.backward()
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
