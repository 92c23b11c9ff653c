"""Training a decoder along with the network's last layers, in windows; both of its stages."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from saot.decoder.crops import CellBatch, CellCrops
from saot.decoder.distill import DecoderFit
from saot.decoder.noise import noise
from saot.decoder.pool import TokenPool
from saot.decoder.refine import update_teacher
from saot.decoder.tail import TailDecoder
from saot.recipes import TailRecipe
from saot.runs import Checkpoint, Progress, check_finite, cosine_rate, generator_for, train_steps


@dataclass(frozen=True)
class Windows:
    """One term of the loss.

    Attributes:
        name: Stands in the log; part of what seeds its draws.
        pool: Tokens whose `soft` are the targets of their cells: classes, 255 for none, or probabilities.
        count: Windows a step.
        side: Of a window, tokens.
        frequencies: Of the classes, where the pool's tokens do not tell them; None where they do.
    """

    name: str
    pool: TokenPool
    count: int
    side: int
    frequencies: Float[Tensor, " K"] | None = None


def window_loss(decoder: TailDecoder, batch: CellBatch) -> Float[Tensor, ""]:
    """Weighted cross-entropy of the cells of some windows with their classes or probabilities."""
    logits, targets = decoder(batch.tokens, batch.rows, batch.columns).flatten(0, 2), batch.targets.flatten(0, 2)
    if targets.is_floating_point():
        values = -(targets * logits.log_softmax(-1)).sum(-1)
    else:
        values = functional.cross_entropy(logits, targets, ignore_index=255, reduction="none")
    return (batch.weights.flatten() * values).sum()


def fit_tail(
    decoder: TailDecoder,
    terms: Sequence[Windows],
    config: TailRecipe,
    *,
    steps: int,
    rate: float = 1.0,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> DecoderFit:
    """The decoder and its tail trained on the sum of the terms: AdamW, a warm-up, then cosine annealing.

    What comes back are the weights' running means, which grow old in about 1 / (1 - decay) steps.

    Args:
        decoder: Changed in place.
        terms: At least one.
        config: Rates, windows, weight decay.
        steps: Of the stage.
        rate: Of the stage, times that of the recipe.
        seed: Fixes draws and dropout.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    device = decoder.head.weight.device
    groups = [
        {"params": decoder.own_parameters(), "top": rate * config.learning_rate},
        {"params": [*decoder.tail.parameters()], "top": rate * config.learning_rate * config.tail_rate},  # type: ignore[attr-defined]
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)

    def loss_of(term: Windows) -> Callable[[int], Tensor]:
        def generator(number: int) -> torch.Generator:
            return generator_for(seed, "windows", term.name, number)

        drawn = config.class_power, generator, device, term.frequencies
        crops = CellCrops(term.pool, term.count, term.side, decoder.window, *drawn)
        return lambda number: window_loss(decoder, crops.cell_batch(number))

    losses_of, mean = [loss_of(term) for term in terms], copy.deepcopy(decoder).eval()
    decoder.train()

    def step(number: int) -> dict[str, float]:
        grown = min(1.0, (number + 1) / max(config.warm_up, 1))
        for group in optimizer.param_groups:
            top = group["top"]
            group["lr"] = grown * cosine_rate(number, steps, top, top * config.final_rate)
        optimizer.zero_grad(set_to_none=True)
        record, total = {}, 0.0
        with noise(generator_for(seed, "dropout", number).initial_seed(), device):
            for term, one in zip(terms, losses_of, strict=True):  # one after the other: the memory of one
                loss = one(number)
                check_finite(loss, number, "the decoder")
                loss.backward()
                record[term.name] = float(loss.detach())
                total += record[term.name]
        nn.utils.clip_grad_norm_(decoder.parameters(), config.clip)
        optimizer.step()
        update_teacher(mean, decoder, min(config.ema_decay, 1 - 1 / (number + 1)))
        return {"loss": total, **record}

    state = {"decoder": decoder, "mean": mean, "optimizer": optimizer}
    return DecoderFit(mean, train_steps(step, steps, state, checkpoint, progress))
