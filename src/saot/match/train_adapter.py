"""Training of the adapter on pseudo-labels (sec. 4): pairs of pictures in, an `Adapter` out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.match.adapter import Adapter
from saot.match.losses import current_plan, dense_loss, noise_deviation, noisy_places, soft_contrastive_loss
from saot.match.readout import token_positions
from saot.match.shape_of_you import PseudoLabel, ShapeOfYouSettings, pseudo_label, shape_of_you
from saot.match.sides import Side
from saot.transfer import Checkpoint, generator_for, train_steps
from saot.transfer.training import History, Progress, check_finite


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
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.dense_pairs < 1:
            raise ValueError(
                f"steps, batch and dense_pairs must be at least 1, but are {self.steps}, {self.batch} and "
                f"{self.dense_pairs}; dense_weight=0 leaves the dense loss out"
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

    source: Side
    target: Side
    source_maps: Sequence[Float[Tensor, "_ _ _"]]
    target_maps: Sequence[Float[Tensor, "_ _ _"]]


@runtime_checkable
class Pairs(Protocol):
    """Pairs of training pictures by number; a list will do, or something that reads them from disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> AdapterPair: ...


@dataclass(frozen=True, eq=False)
class AdapterFit:
    """A trained adapter, in evaluation mode, and one record a step."""

    adapter: Adapter
    history: History


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


def fit_adapter(
    adapter: Adapter,
    pairs: Pairs,
    labels: Sequence[PseudoLabel] | ShapeOfYouSettings = ShapeOfYouSettings(),
    settings: AdapterSettings = AdapterSettings(),
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> AdapterFit:
    """The adapter trained on pseudo-labels: L_soft + L_dense, AdamW, one cycle of the learning rate (sec. 4, Tab. 6).

    Pairs come in an order drawn anew for each pass. Whatever is drawn depends on the seed and the step alone, so that a
    killed training goes on from its checkpoint to the same weights.

    Args:
        adapter: Changed in place and returned in evaluation mode; its device is where the work is done.
        pairs: At least one; from training pictures only, since what they show gets pseudo-labels.
        labels: One pseudo-label a pair, made before; or settings, by which one is made each time a pair is drawn.
        settings: Of the training.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Raises:
        ValueError: If there is no pair, or not one label a pair.
        FloatingPointError: If the loss is not finite.
    """
    if len(pairs) == 0:
        raise ValueError("expected at least one pair of pictures to train the adapter on, got none")
    if not isinstance(labels, ShapeOfYouSettings) and len(labels) != len(pairs):
        raise ValueError(f"expected one pseudo-label a pair, got {len(labels)} for {len(pairs)} pairs")
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=rate, weight_decay=settings.weight_decay)
    adapter.train()

    def step(number: int) -> dict[str, float]:
        for group in optimizer.param_groups:
            group["lr"], moment = one_cycle(number, settings.steps, rate, settings.warmup)
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

    state = {"adapter": adapter, "optimizer": optimizer}
    history = train_steps(step, settings.steps, state, checkpoint, progress)
    return AdapterFit(adapter.eval(), history)


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
