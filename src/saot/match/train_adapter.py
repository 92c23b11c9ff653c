"""Training of the adapter on pseudo-labels (sec. 4): pairs of pictures in, an `Adapter` out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.match.adapter import Adapter
from saot.match.losses import current_plan, dense_loss, noise_deviation, noisy_places, soft_contrastive_loss
from saot.match.readout import token_positions
from saot.match.shape_of_you import PseudoLabel, ShapeOfYouSettings, pseudo_label, shape_of_you
from saot.match.sides import MatchSide
from saot.runs import Checkpoint, History, Progress, check_finite, generator_for, train_steps


@dataclass(frozen=True)
class AdapterSettings:
    """How the adapter is trained.

    Attributes:
        steps: Updates, and the length of the one cycle of the learning rate.
        batch: Pairs of pictures an update.
        learning_rate: At the top of the cycle.
        weight_decay: Of AdamW.
        warmup: Share of the steps before the top.
        feature_dropout: Share of the input features that is set to 0.
        beta: Of Eq. (9); 0 trains on hard labels.
        dense_weight: Factor of the dense loss; the paper adds the two as they are.
        dense_pairs: Most pseudo-pairs of a pair of pictures in the dense loss.
        dense_temperature: Of its soft-argmax.
        noise: Of its places, as a share of half the object's longer side.
        current_epsilon: Of the transport behind pi_curr.
        current_tau: Of the same; inf is balanced.
        looks: How often held-out pairs are looked at, if there are any, evenly over the steps and at the last.
        seed: Of everything that is drawn.
    """

    steps: int = 200_000  # SoY Tab. 6
    batch: int = 1  # DIY-SC, FACTS S-10; the paper does not say
    learning_rate: float = 5e-3  # SoY Tab. 6
    weight_decay: float = 1e-3  # SoY Tab. 6
    warmup: float = 0.3  # DIY-SC, FACTS S-10
    feature_dropout: float = 0.2  # DIY-SC, FACTS S-10
    beta: float = 0.5  # SoY Tab. 6 and Tab. S3
    dense_weight: float = 1.0  # SoY sec. 4.1
    dense_pairs: int = 50  # DIY-SC, FACTS S-10
    dense_temperature: float = 0.02  # FACTS S-12
    noise: float = 0.1  # FACTS S-12
    current_epsilon: float = 1.0  # SoY Tab. 6, FACTS S-9
    current_tau: float = math.inf  # FACTS S-9: the parent's transport is balanced
    looks: int = 8  # DIY-SC: every 25,000 of 200,000 steps, FACTS S-10; the paper does not say
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.dense_pairs, self.looks) < 1:
            raise ValueError(
                f"steps, batch, dense_pairs and looks must be at least 1, but are {self.steps}, {self.batch}, "
                f"{self.dense_pairs} and {self.looks}; dense_weight=0 leaves the dense loss out"
            )
        if not (0 <= self.beta <= 1 and 0 <= self.feature_dropout < 1 and 0 < self.warmup < 1):
            raise ValueError(
                f"expected beta in [0, 1], feature_dropout in [0, 1) and warmup in (0, 1), got {self.beta}, "
                f"{self.feature_dropout} and {self.warmup}"
            )


@dataclass(frozen=True, eq=False)
class AdapterPair:
    """Two pictures to learn from: what the pseudo-label is made of, and what the adapter reads.

    Attributes:
        source: Tokens, mask and perhaps points of the one.
        target: Of the other.
        source_maps: Its feature maps, one for each input of the adapter, of any size.
        target_maps: Of the other.
    """

    source: MatchSide
    target: MatchSide
    source_maps: Sequence[Float[Tensor, "_ _ _"]]
    target_maps: Sequence[Float[Tensor, "_ _ _"]]


@runtime_checkable
class Pairs(Protocol):
    """Pairs of training pictures by number; a list will do, or something that reads them from disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> AdapterPair: ...


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Pairs that choose among the weights along the way and are not trained on, and one pseudo-label each."""

    pairs: Pairs
    labels: Sequence[PseudoLabel]


@dataclass(frozen=True, eq=False)
class AdapterFit:
    """A trained adapter, in evaluation mode, and one record a step; its weights are those after `chosen` steps."""

    adapter: Adapter
    history: History
    chosen: int


class BestWeights:
    """The weights with the least loss on held-out pairs so far; a checkpoint holds them beside the current ones."""

    def __init__(self) -> None:
        self.loss, self.steps = math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, adapter: Adapter, loss: float, steps: int) -> None:
        """Take the adapter's weights if their loss is less."""
        if loss < self.loss:
            self.loss, self.steps = loss, steps
            self.weights = {name: value.detach().clone() for name, value in adapter.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return vars(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The other way round."""
        vars(self).update(state_dict)


def one_cycle(step: int, steps: int, top: float, warmup: float = 0.3) -> tuple[float, float]:
    """Learning rate and first Adam moment of PyTorch's `OneCycleLR` at its defaults, as a function of the step.

    The rate rises along a cosine from top / 25 to top, then falls to top / 250,000; the moment goes from 0.95 to 0.85
    and back. Past the end there is nothing to raise an error: `steps` is all there is (FACTS S-10).

    Example:
        >>> rate, moment = one_cycle(2, 10, top=1.0, warmup=0.5)  # half-way to the top at step 0.5 * 10 - 1 = 4
        >>> round(rate, 3), round(moment, 3)  # (1 / 25 + 1) / 2
        (0.52, 0.9)
    """
    peak = warmup * steps - 1
    if step <= peak:
        share = 1 - step / peak if peak > 0 else 0.0
        low = top / 25
    else:
        share = (step - peak) / (steps - 1 - peak)
        low = top / 25 / 1e4
    blend = (1 - math.cos(math.pi * share)) / 2  # 0 at the top, 1 at either end
    return top + (low - top) * blend, 0.85 + (0.95 - 0.85) * blend


def drop_features(
    maps: Sequence[Float[Tensor, "_ _ _"]], share: float, generator: torch.Generator
) -> list[Float[Tensor, "_ _ _"]]:
    """Maps with a share of their numbers set to 0 and the rest raised to make up for it.

    The generator's device draws, so that a seed means the same everywhere.
    """
    if share == 0:
        return list(maps)
    kept = (torch.rand(one.shape, generator=generator, device=generator.device) >= share for one in maps)
    return [one * (keep.to(one.device) / (1 - share)) for one, keep in zip(maps, kept, strict=True)]


def pair_losses(
    adapter: Adapter,
    pair: AdapterPair,
    label: PseudoLabel,
    settings: AdapterSettings,
    generator: torch.Generator,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """L_soft and L_dense of one pair of pictures, Eqs. (9) to (11).

    The soft loss compares the masked tokens of both; the dense one looks over the whole target map, for pseudo-pairs
    drawn without replacement.

    Args:
        adapter: Whose features; gradients reach its weights alone.
        pair: The pictures.
        label: Their pseudo-label.
        settings: Of the losses.
        generator: On the CPU; draws dropout, pairs and noise.

    Raises:
        ValueError: If the label belongs to grids of another shape.
    """
    if (label.source_shape, label.target_shape) != (pair.source.shape, pair.target.shape):
        raise ValueError(
            f"the pseudo-label is for grids of {label.source_shape} and {label.target_shape} tokens, but the pictures "
            f"have {pair.source.shape} and {pair.target.shape}; make it from the same sides"
        )
    device = adapter.mixing.device
    source, target = (
        adapter.tokens(drop_features([one.to(device) for one in maps], settings.feature_dropout, generator), side.shape)
        for maps, side in ((pair.source_maps, pair.source), (pair.target_maps, pair.target))
    )
    source_mask, target_mask = pair.source.mask.to(device), pair.target.mask.to(device)
    similarity = source[source_mask] @ target[target_mask].T
    hard = label.multi_hot().to(device)[source_mask][:, target_mask]
    current = current_plan(similarity, settings.current_epsilon, settings.current_tau)
    soft = soft_contrastive_loss(similarity, hard, current, adapter.scale, settings.beta)

    drawn = torch.randperm(len(label), generator=generator)[: settings.dense_pairs]
    rows, columns = label.source.cpu()[drawn].to(device), label.target.cpu()[drawn].to(device)
    deviation = noise_deviation(target_mask, pair.target.shape, settings.noise)
    places = noisy_places(token_positions(pair.target.shape, target)[columns], deviation, generator)
    dense = dense_loss(source[rows] @ target.T, places, pair.target.shape, settings.dense_temperature)
    return soft, dense


def held_out_loss(adapter: Adapter, held_out: HeldOut, settings: AdapterSettings) -> float:
    """Mean of L_soft + L_dense over held-out pairs, without dropout and noise; the adapter is as it was."""
    quiet, total = replace(settings, feature_dropout=0.0, noise=0.0), 0.0
    with torch.no_grad():
        for number, label in enumerate(held_out.labels):
            generator = generator_for(settings.seed, "held out", number)
            soft, dense = pair_losses(adapter, held_out.pairs[number], label, quiet, generator)
            total += float(soft + settings.dense_weight * dense)
    return total / len(held_out.labels)


def fit_adapter(
    adapter: Adapter,
    pairs: Pairs,
    labels: Sequence[PseudoLabel] | ShapeOfYouSettings = ShapeOfYouSettings(),
    settings: AdapterSettings = AdapterSettings(),
    *,
    held_out: HeldOut | None = None,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> AdapterFit:
    """The adapter trained on pseudo-labels: L_soft + L_dense, AdamW, one cycle of the learning rate (sec. 4, Tab. 6).

    Pairs come in an order drawn anew for each pass. Whatever is drawn depends on the seed and the step alone, so that a
    killed training goes on from its checkpoint to the same weights. The paper says nothing of choosing weights by a
    validation loss; DIY-SC, whose training it takes, does (FACTS S-10). So it is done where `held_out` is given.

    Args:
        adapter: Changed in place and returned in evaluation mode; its device is where the work is done.
        pairs: At least one; from training pictures only, since what they show gets pseudo-labels.
        labels: One pseudo-label a pair, made before; or settings, by which one is made each time a pair is drawn.
        settings: Of the training.
        held_out: The weights with the least loss on these, of `settings.looks` looks, are taken; else the last ones.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Raises:
        ValueError: If there is no pair, or not one label a pair.
        FloatingPointError: If the loss is not finite.
    """
    _check_pairs(pairs, labels, held_out)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best, state = BestWeights(), {"adapter": adapter, "optimizer": optimizer}
    adapter.train()

    def step(number: int) -> dict[str, float]:
        record = _update(adapter, optimizer, pairs, labels, settings, number)
        if held_out is not None and _look_is_due(number, settings):
            record["held_out"] = held_out_loss(adapter, held_out, settings)
            best.offer(adapter, record["held_out"], number + 1)
        return record

    if held_out is not None:
        state["best"] = best
    history = train_steps(step, settings.steps, state, checkpoint, progress)
    if held_out is not None:
        if not best.weights:
            raise FloatingPointError("expected a finite loss on the held-out pairs; lower the learning rate")
        adapter.load_state_dict(best.weights)
    return AdapterFit(adapter.eval(), history, settings.steps if held_out is None else best.steps)


def _update(
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    labels: Sequence[PseudoLabel] | ShapeOfYouSettings,
    settings: AdapterSettings,
    number: int,
) -> dict[str, float]:
    """One step, and what is to be logged of it."""
    for group in optimizer.param_groups:
        group["lr"], moment = one_cycle(number, settings.steps, settings.learning_rate, settings.warmup)
        group["betas"] = (moment, 0.999)
    optimizer.zero_grad(set_to_none=True)
    generator = generator_for(settings.seed, "adapter", number)
    record = {"soft": 0.0, "dense": 0.0, "pseudo_pairs": 0.0}
    for index in pairs_of_step(number, settings.batch, len(pairs), settings.seed).tolist():
        pair = pairs[index]
        label = _label(labels, index, pair)
        soft, dense = pair_losses(adapter, pair, label, settings, generator)
        loss = (soft + settings.dense_weight * dense) / settings.batch
        check_finite(loss, number, "the adapter")
        loss.backward()
        for name, value in (("soft", float(soft.detach())), ("dense", float(dense.detach()))):
            record[name] += value / settings.batch
        record["pseudo_pairs"] += len(label) / settings.batch
    optimizer.step()
    return {"loss": record["soft"] + settings.dense_weight * record["dense"], **record}


def _look_is_due(number: int, settings: AdapterSettings) -> bool:
    """Whether another of the looks falls on the end of this step."""
    return (number + 1) * settings.looks // settings.steps > number * settings.looks // settings.steps


def _check_pairs(pairs: Pairs, labels: Sequence[PseudoLabel] | ShapeOfYouSettings, held_out: HeldOut | None) -> None:
    if len(pairs) == 0 or (held_out is not None and len(held_out.pairs) == 0):
        raise ValueError("expected at least one pair of pictures to train the adapter on, and to hold out; got none")
    for some, theirs in ((pairs, labels), *([] if held_out is None else [(held_out.pairs, held_out.labels)])):
        if not isinstance(theirs, ShapeOfYouSettings) and len(theirs) != len(some):
            raise ValueError(f"expected one pseudo-label a pair, got {len(theirs)} for {len(some)} pairs")


def pairs_of_step(step: int, batch: int, count: int, seed: int) -> Int64[Tensor, " batch"]:
    """Numbers of the pairs of one step: passes over all of them, each in an order of its own.

    Example:
        >>> seen = torch.cat([pairs_of_step(step, 2, 4, seed=0) for step in range(2)])
        >>> sorted(seen.tolist())
        [0, 1, 2, 3]
    """
    numbers = range(step * batch, (step + 1) * batch)
    order = {
        turn: torch.randperm(count, generator=generator_for(seed, "order", turn))
        for turn in {number // count for number in numbers}
    }
    return torch.stack([order[number // count][number % count] for number in numbers])


def _label(labels: Sequence[PseudoLabel] | ShapeOfYouSettings, index: int, pair: AdapterPair) -> PseudoLabel:
    if isinstance(labels, ShapeOfYouSettings):
        return pseudo_label(shape_of_you(pair.source, pair.target, labels), labels)
    return labels[index]
