"""A backbone adapted through the transport loss: Algorithm 1 with tokens that move (SAOT, appendix P)."""

import dataclasses
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saot.adapt.low_rank import Layers
from saot.data import PatchGrid
from saot.features import Trainable, fitted, patch_grid
from saot.label import Domain, Source, TrainingData, pair_data
from saot.recipes import Checked, CostRecipe, Count, Dropped, Positive, TransportRecipe
from saot.runs import Checkpoint, History, Progress, descend, generator_for, train_steps
from saot.transfer import SemanticCost, pair_support, plan_loss, solve_pair

_JUDGED = 200  # source pictures among whose tokens held-out points look for their nearest


@dataclass(frozen=True)
class AdapterRecipe(Checked):
    """The adapters and how they are judged; appendix P names the idea and no number.

    Attributes:
        rank: r of W' = W + (alpha / r) B A.
        alpha: Scale of the change, in units of r.
        blocks: So many last blocks are adapted.
        layers: Projections to queries and values, or every linear layer.
        learning_rate: Of A and B.
        learn_cost: Whether the cost of Eq. (3) is trained along; else it is |x - y|^2, fixed.
        held_out: Share of the target pictures with points that are kept from training, to judge the adapter on.
    """

    rank: Count = 8  # Hu et al., 2022, sec. 7.2: 4 to 8 do
    alpha: Positive = 16.0  # ours: twice the rank
    blocks: Count = 4  # ours
    layers: Layers = "query-value"  # Hu et al., 2022, sec. 7.1
    learning_rate: Positive = 1e-4  # ours
    learn_cost: bool = True  # appendix P: "trained jointly"
    held_out: Dropped = 0.2  # ours


@dataclass(frozen=True)
class LoraRecipe:
    """Every setting of `saot lora`.

    Attributes:
        adapter: The adapters.
        transport: The inner problem, Eq. (5).
        cost: The learned cost, its own learning rate, the weights of Eq. (9), and the steps of the training.
    """

    adapter: AdapterRecipe = field(default_factory=AdapterRecipe)
    transport: TransportRecipe = field(default_factory=TransportRecipe)
    cost: CostRecipe = field(default_factory=lambda: CostRecipe(prototype_scope="pair", steps=1000))

    def __post_init__(self) -> None:
        if self.cost.prototype_scope != "pair" or self.cost.support_refresh != 1:
            raise ValueError(
                "expected cost.prototype_scope=pair and cost.support_refresh=1 for features that move: prototypes and "
                "supports of earlier features do not hold; leave both out"
            )


@dataclass(frozen=True)
class MovingDomain(Domain):
    """Pictures whose tokens are made anew each time, by a network in training, and carry its gradient.

    Attributes:
        network: The backbone in training; nothing is read from or written to `store`.
    """

    network: Trainable = dataclasses.field(kw_only=True)

    def tokens(self, number: int) -> Float[Tensor, "n d"]:
        """All tokens of a picture, as `extract` makes them."""
        resized = fitted(self.network, self.images.image(number))
        tokens = self.network.network_tokens(resized[None])[0]
        return nn.functional.normalize(tokens, dim=-1) if self.network.key.l2_norm else tokens

    def grid(self, number: int) -> PatchGrid:
        """How a picture lies under its tokens."""
        return patch_grid(self.network, *self.images.size(number))


def fit_adapters(
    adapters: nn.ModuleDict,
    cost: SemanticCost | None,
    data: TrainingData,
    recipe: LoraRecipe,
    *,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> History:
    """Adapters, and the cost along with them, trained by Algorithm 1 on tokens that move.

    Each step draws a source and a target picture, makes the tokens of both, searches their support without a gradient,
    solves Eq. (5), carries the labels by Eq. (2) and descends Eq. (9) through the implicit gradient of the plan, into
    A and B of every adapter and the weights of the cost. What stands before the first adapted block has no gradient
    and keeps nothing for one.

    Args:
        adapters: Of the network behind `data`; changed in place.
        cost: Changed in place and left in evaluation mode; None is the fixed cost |x - y|^2.
        data: Source, target and declared points, in `MovingDomain`s; without points other source pictures stand in
            for the target.
        recipe: Settings.
        seed: Fixes every draw.
        checkpoint: Where to keep the state.
        progress: Called with (done, steps).

    Returns:
        One record a step, as `fit_cost` keeps them.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    config, transport = recipe.cost, recipe.transport
    pairs = pair_data(data, config.points_per_class, placed=transport.alpha > 0)
    groups: list[dict] = [
        {"params": list(adapters.parameters()), "lr": recipe.adapter.learning_rate, "weight_decay": 0.0}
    ]
    state: dict = {"adapters": adapters}
    if cost is not None:
        groups.append({"params": list(cost.train().parameters())})
        state["cost"] = cost
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)

    def step(number: int) -> dict[str, float]:
        generator = generator_for(seed, "lora", number)
        pick = torch.rand(2, generator=generator)
        chosen = int(pick[0] * pairs.num_sources)
        source, labels = pairs.source(chosen)
        if len(labels) == 0:
            return {"loss": 0.0, "skipped": 1.0}
        example = pairs.target(int(pick[1] * pairs.num_targets), generator)
        support = pair_support(source.detach(), example.tokens.detach(), transport, cost, labels)
        places = None if pairs.places is None or transport.alpha == 0 else pairs.places(chosen)
        result = solve_pair(source, labels, example.tokens, cost, transport, support, (places, example.places))
        loss, record = plan_loss(result, labels, example, data.num_classes, config)
        descend(loss, optimizer, number, "the adapter")
        return record

    history = train_steps(step, config.steps, {**state, "optimizer": optimizer}, checkpoint, progress)
    if cost is not None:
        cost.eval()
    return history


@torch.no_grad()
def held_out_accuracy(data: TrainingData, progress: Progress | None = None) -> float | None:
    """Share of the held-out points whose nearest source token, by cosine, has their class; None without such points.

    Args:
        data: In `MovingDomain`s; of the source at most 200 pictures, evenly spread, take part.
        progress: Called with (done, pictures).
    """
    held, source = data.points.tokens.held(), data.source
    if len(held) == 0:
        return None
    pictures = held.picture.unique().tolist()
    queries = torch.cat([data.target.tokens(number)[held.of(number)[0]] for number in pictures])
    classes = torch.cat([held.of(number)[1] for number in pictures])
    best = queries.new_full((len(queries),), -torch.inf)
    found = torch.full((len(queries),), -1, dtype=torch.int64, device=queries.device)
    chosen = _spread(source, _JUDGED)
    for done, number in enumerate(chosen):
        tokens, labels = source.labelled(number)
        if len(labels):
            most, where = (queries @ tokens.T).max(1)
            found = torch.where(most > best, labels[where].long(), found)
            best = torch.maximum(best, most)
        if progress is not None:
            progress(done + 1, len(chosen))
    return float((found.cpu() == classes).float().mean())


def _spread(source: Source, most: int) -> list[int]:
    """At most so many pictures, evenly spread over the set."""
    count = min(most, len(source))
    return [number * len(source) // count for number in range(count)]
