"""Stage 1: one network from source labels, pseudo-labels and points (sec. 4.5, appendix E.4).

The same loop trains every MLP competitor: they differ in their terms alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saot.decoder.network import TokenDecoder
from saot.decoder.pool import BlockReader, TokenPool
from saot.recipes import DecoderRecipe, RefineRecipe
from saot.transfer import Checkpoint, cosine_rate, generator_for, train_steps
from saot.transfer.training import History, Progress, check_finite, set_rate


@dataclass(frozen=True)
class Term:
    """One term of a training loss.

    Attributes:
        name: Stands in the log; part of what seeds its draws.
        pool: Hard classes give cross-entropy, soft labels the confidence-weighted KL.
        weight: Factor of the term.
    """

    name: str
    pool: TokenPool
    weight: float = 1.0


@dataclass(frozen=True)
class DecoderFit:
    """A trained decoder, in evaluation mode, and one record a step."""

    decoder: TokenDecoder
    history: History


def confidence_weighted_kl(logits: Float[Tensor, "b K"], soft: Float[Tensor, "b K"]) -> Float[Tensor, ""]:
    """Mean over tokens of max_c p_c times KL(p | softmax(logits)), the target term of stage 1.

    The direction, pseudo-label first, is ours to choose (paper-notes C17).
    """
    log_q = torch.log_softmax(logits, dim=-1)
    divergence = -torch.special.entr(soft).sum(-1) - (soft * log_q).sum(-1)
    return (soft.amax(-1) * divergence).mean()


def term_loss(decoder: nn.Module, features: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy for classes, confidence-weighted KL for soft labels."""
    logits = decoder(features)
    if targets.is_floating_point():
        return confidence_weighted_kl(logits, targets)
    return nn.functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def batch_readers(
    terms: Sequence[Term], config: DecoderRecipe | RefineRecipe, seed: int, stage: object, decoder: nn.Module
) -> list[BlockReader]:
    """One reader a term, each with draws of its own, for the device the decoder is on."""
    device = next(decoder.parameters()).device

    def reader(term: Term) -> BlockReader:
        return BlockReader(
            term.pool,
            config.batch,
            config.class_power,
            lambda block: generator_for(seed, "batch", stage, term.name, block),
            device,
        )

    return [reader(term) for term in terms]


def fit_decoder(
    decoder: TokenDecoder,
    terms: Sequence[Term],
    config: DecoderRecipe,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> DecoderFit:
    """The decoder trained on the weighted sum of its terms, AdamW with cosine annealing (T12).

    Args:
        decoder: Changed in place and returned in evaluation mode.
        terms: At least one.
        config: Batch (tokens of each term), steps, rates.
        seed: Fixes draws and dropout.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Raises:
        ValueError: If there is no term.
        FloatingPointError: If the loss is not finite.
    """
    if not terms:
        raise ValueError("expected at least one training term; got none: pass source labels or points")
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    readers = batch_readers(terms, config, seed, "distill", decoder)
    decoder.train()

    def step(number: int) -> dict[str, float]:
        set_rate(
            optimizer,
            cosine_rate(number, config.steps, config.learning_rate, config.final_learning_rate),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(seed, "dropout", number).initial_seed())
            losses = [term_loss(decoder, *reader(number)) for reader in readers]
        loss = torch.stack([t.weight * part for t, part in zip(terms, losses, strict=True)]).sum()
        check_finite(loss, number, "the decoder")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        record = {t.name: float(part.detach()) for t, part in zip(terms, losses, strict=True)}
        return {"loss": float(loss.detach()), **record}

    history = train_steps(step, config.steps, {"decoder": decoder, "optimizer": optimizer}, checkpoint, progress)
    return DecoderFit(decoder.eval(), history)
