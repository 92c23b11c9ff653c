"""Stage 1: one network from source labels, pseudo-labels and points (sec. 4.5, appendix E.4).

The same loop trains every MLP competitor: they differ in their terms alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saot.decoder.crops import CropReader
from saot.decoder.fine import FineDecoder, cell_loss
from saot.decoder.network import Decoder, GridDecoder
from saot.decoder.noise import noise
from saot.decoder.pool import BlockReader, TokenPool
from saot.recipes import DecoderRecipe, RefineRecipe
from saot.runs import (
    Checkpoint,
    History,
    Progress,
    cosine_rate,
    descend,
    generator_for,
    set_rate,
    train_steps,
)


@dataclass(frozen=True)
class Focal:
    """Focal loss with class weights, K.2.

    Attributes:
        gamma: Power of (1 - p); 0 is cross-entropy.
        class_weights: (K,) factor of each class.
    """

    gamma: float
    class_weights: tuple[float, ...]


@dataclass(frozen=True)
class Term:
    """One term of a training loss.

    Attributes:
        name: Stands in the log; part of what seeds its draws.
        pool: Hard classes give cross-entropy, soft labels the confidence-weighted KL.
        weight: Factor of the term.
        focal: Focal loss instead of cross-entropy.
    """

    name: str
    pool: TokenPool
    weight: float = 1.0
    focal: Focal | None = None


@runtime_checkable
class ExtraLoss(Protocol):
    """One more loss of stage 1, with weights and draws of its own, such as T2S-DA's pull loss."""

    @property
    def name(self) -> str:
        """Stands in the log."""
        ...

    @property
    def weight(self) -> float:
        """Factor of the loss."""
        ...

    def identity(self) -> dict[str, Any]:
        """What equal trainings have in common, as plain values."""
        ...

    def start(
        self, config: DecoderRecipe, seed: int, decoder: Decoder
    ) -> tuple[nn.Module, Callable[[int], Float[Tensor, ""]]]:
        """Weights that are trained along and thrown away, and step to loss.

        Raises:
            ValueError: If it does not fit the decoder.
        """
        ...


@dataclass(frozen=True)
class DecoderFit:
    """A trained decoder, in evaluation mode, and one record a step."""

    decoder: Decoder
    history: History


def confidence_weighted_kl(
    logits: Float[Tensor, "b K"], soft: Float[Tensor, "b K"], weights: Float[Tensor, " b"] | None = None
) -> Float[Tensor, ""]:
    """Mean over tokens of max_c p_c times KL(p | softmax(logits)), the target term of stage 1.

    The direction, pseudo-label first, is ours to choose (paper-notes C17). With `weights`, which sum to 1, the mean is
    a weighted one.
    """
    log_q = torch.log_softmax(logits, dim=-1)
    divergence = -torch.special.entr(soft).sum(-1) - (soft * log_q).sum(-1)
    values = soft.amax(-1) * divergence
    return values.mean() if weights is None else (weights * values).sum()


def focal_loss(
    logits: Float[Tensor, "b K"],
    classes: Int[Tensor, " b"],
    focal: Focal,
    weights: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over tokens of w_c (1 - p_c)^gamma (-log p_c), p_c the probability of the true class (K.2).

    Args:
        logits: Of each token.
        classes: True class of each.
        focal: gamma and w.
        weights: Of the tokens, summing to 1; None is the mean.

    Example:
        >>> even = Focal(gamma=2.0, class_weights=(1.0, 1.0))
        >>> round(float(focal_loss(torch.zeros(1, 2), torch.tensor([0]), even)), 4)  # (1/2)^2 log 2
        0.1733
    """
    log_p = torch.log_softmax(logits, dim=-1).gather(-1, classes.unsqueeze(-1)).squeeze(-1)
    factor = torch.tensor(focal.class_weights, device=logits.device)[classes]
    values = -factor * (-torch.expm1(log_p)).clamp_min(0.0) ** focal.gamma * log_p
    return values.mean() if weights is None else (weights * values).sum()


def label_loss(
    logits: Float[Tensor, "b K"],
    targets: Tensor,
    label_smoothing: float = 0.0,
    focal: Focal | None = None,
    weights: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Confidence-weighted KL for soft labels; for classes cross-entropy, or the focal loss where `focal` is given."""
    if targets.is_floating_point():
        return confidence_weighted_kl(logits, targets, weights)
    if focal is not None:
        return focal_loss(logits, targets, focal, weights)
    if weights is None:
        return nn.functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    values = nn.functional.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    return (weights * values).sum()


def term_losses(
    terms: Sequence[Term],
    config: DecoderRecipe | RefineRecipe,
    seed: int,
    stage: object,
    decoder: nn.Module,
    *,
    label_smoothing: float = 0.0,
    crop: int = 0,
) -> list[Callable[[int], Float[Tensor, ""]]]:
    """Step to loss, one function a term, each with draws of its own, for the device the decoder is on.

    Args:
        terms: Of the loss.
        config: Batch size and class power.
        seed: Fixes the draws.
        stage: Distinguishes draws of equal terms.
        decoder: Its weights of the moment are used.
        label_smoothing: Of cross-entropy.
        crop: Side of a training window, tokens, where the decoder looks at neighbours.
    """
    device = next(decoder.parameters()).device

    def loss_of(term: Term) -> Callable[[int], Tensor]:
        def generator(number: int) -> torch.Generator:
            return generator_for(seed, "batch", stage, term.name, number)

        if isinstance(decoder, GridDecoder):
            crops = CropReader(term.pool, config.batch, crop, decoder.radius, config.class_power, generator, device)

            def loss_of_windows(number: int) -> Tensor:
                batch = crops(number)
                logits = decoder(batch.tokens, batch.rows, batch.columns, batch.inside).flatten(0, 1)[batch.place]
                return label_loss(logits, batch.targets, label_smoothing, term.focal, batch.weights)

            return loss_of_windows
        reader = BlockReader(term.pool, config.batch, config.class_power, generator, device, config.steps)

        def loss_of_tokens(number: int) -> Tensor:
            batch = reader(number)
            logits = decoder(batch.features)
            if isinstance(decoder, FineDecoder):
                return cell_loss(logits, batch.targets, batch.weights, confidence_weighted_kl)
            return label_loss(logits, batch.targets, label_smoothing, term.focal, batch.weights)

        return loss_of_tokens

    return [loss_of(term) for term in terms]


def adamw(parameters: Iterable[nn.Parameter], config: DecoderRecipe | RefineRecipe) -> torch.optim.AdamW:
    """AdamW, one pass over the weights a step."""
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def fit_decoder(
    decoder: Decoder,
    terms: Sequence[Term],
    config: DecoderRecipe,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    part: Literal["all", "head"] = "all",
    extra: ExtraLoss | None = None,
) -> DecoderFit:
    """The decoder trained on the weighted sum of its terms, AdamW with cosine annealing (T12).

    Args:
        decoder: Changed in place and returned in evaluation mode.
        terms: At least one.
        config: Batch (tokens of each term), steps, rates.
        seed: Fixes draws and dropout.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Other:
        part: "head" trains the last linear layer alone, on a body without dropout.
        extra: One more loss, beside the terms.

    Raises:
        ValueError: If there is no term, or a decoder that looks at neighbours gets tokens without a grid, or `extra`
            does not fit the decoder.
        FloatingPointError: If the loss is not finite.
    """
    if not terms:
        raise ValueError("expected at least one training term; got none: pass source labels or points")
    trained, device = decoder.head if part == "head" else decoder, decoder.head.weight.device
    decoder.requires_grad_(part == "all")
    decoder.head.requires_grad_(True)
    optimizer = adamw(trained.parameters(), config)
    losses_of = term_losses(terms, config, seed, "distill", decoder, crop=config.crop)
    names, weights = [term.name for term in terms], [term.weight for term in terms]
    state = {"decoder": decoder, "optimizer": optimizer}
    if extra is not None:  # last, so that the draws of the other terms are the same with and without it
        beside, loss_beside = extra.start(config, seed, decoder)
        optimizer.add_param_group({"params": list(beside.parameters())})
        state["beside"] = beside
        losses_of, names, weights = [*losses_of, loss_beside], [*names, extra.name], [*weights, extra.weight]
    decoder.train(part == "all")

    def step(number: int) -> dict[str, float]:
        set_rate(
            optimizer,
            cosine_rate(number, config.steps, config.learning_rate, config.final_learning_rate),
        )
        with noise(generator_for(seed, "dropout", number).initial_seed(), device):
            losses = [loss_of(number) for loss_of in losses_of]
        loss = torch.stack([weight * part for weight, part in zip(weights, losses, strict=True)]).sum()
        descend(loss, optimizer, number, "the decoder")
        record = {name: float(part.detach()) for name, part in zip(names, losses, strict=True)}
        return {"loss": float(loss.detach()), **record}

    history = train_steps(step, config.steps, state, checkpoint, progress)
    return DecoderFit(decoder.requires_grad_(True).eval(), history)
