"""SAOT as the paper has it: the learned cost, the labels it carries, and the decoder distilled from them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saot.data import class_groups
from saot.decoder import Term, TokenPool, token_pool
from saot.label.data import Bench, Domain, Source, TrainingData, draw_tokens
from saot.label.networks import Trained, network, points_term, pull_of, source_term
from saot.recipes import CostRecipe, DecoderRecipe, TransportRecipe
from saot.runs import Kept, Making, first_weights, generator_for, identity_of, load_tensors, save_tensors
from saot.transfer import (
    CostFit,
    LabelTransfer,
    PairData,
    Prototypes,
    SemanticCost,
    TargetExample,
    aggregate_transfers,
    fill_uncovered,
    fit_cost,
    prototype_sums,
    prototypes_from_sums,
    sharpen,
    transfer_pair,
)


@dataclass(frozen=True)
class TrainedCost:
    """The learned cost of a run.

    Attributes:
        cost: In evaluation mode.
        identity: Of everything it was trained with.
        converged_share: Of the transports of its training; None where none was solved for it.
    """

    cost: SemanticCost
    identity: str
    converged_share: float | None = None


def source_prototypes(bench: Bench, data: TrainingData) -> Prototypes:
    """Class means over all source pictures."""
    normalize = bench.recipe.cost.normalize_prototypes

    def make(making: Making) -> Kept:
        sums = torch.zeros(data.num_classes, data.source.domain.dim, dtype=torch.float64)
        counts = torch.zeros(data.num_classes, dtype=torch.int64)
        for number in range(len(data.source)):
            part, part_counts = prototype_sums(*data.source.labelled(number), data.num_classes)
            sums, counts = sums + part.cpu(), counts + part_counts.cpu()
        made = prototypes_from_sums(sums, counts, normalize)
        return Kept({"means": made.means, "present": made.present})

    kept = bench.space.once("work/prototypes", identity_of(data.source, data.num_classes, normalize), make).tensors
    return Prototypes(kept["means"].to(bench.device), kept["present"].to(bench.device))


def similarities(bench: Bench, source: Source, domains: Mapping[str, Domain], which: str) -> Tensor:
    """Cosine of global embeddings, pictures of the domain x source pictures (E.2); -inf for unlabelled sources.

    Args:
        bench: Where it is kept.
        source: Labelled pictures.
        domains: Other pictures, by name.
        which: Name of those that are compared.
    """
    domain = domains[which]

    def make(making: Making) -> Kept:
        return Kept({"similarity": domain.embeddings() @ source.domain.embeddings().T})

    kept = bench.space.once(f"work/similarity-{which}", identity_of(domain, source.domain), make)
    labelled = torch.tensor([bool((part != 255).any()) for part in source.labels])
    return kept.tensors["similarity"].masked_fill(~labelled, -torch.inf)


def source_weights(similar: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The most similar sources of one target picture and their weights, softmax(sim / T) (E.4).

    Example:
        >>> source_weights(torch.tensor([0.1, 0.9]), 1, 0.1)
        (tensor([1]), tensor([1.]))
    """
    usable = int((similar > -torch.inf).sum())
    values, index = similar.topk(min(count, usable))
    return index, torch.softmax(values / temperature, dim=-1)


def new_cost(bench: Bench, data: TrainingData) -> SemanticCost:
    """An untrained cost; its weights depend on the seed alone."""
    recipe = bench.recipe.cost
    prototypes = source_prototypes(bench, data) if recipe.prototype_scope == "dataset" else None
    with first_weights(generator_for(bench.seed, "cost weights").initial_seed()):
        groups = None if recipe.groups == "one" else class_groups(data.classes, recipe.groups)
        return SemanticCost(data.source.domain.dim, recipe, prototypes, groups).to(bench.device)


def pair_data(data: TrainingData, per_class: int, placed: bool = False) -> PairData:
    """The pairs of Algorithm 1; without any declared point, other source pictures stand in for the target.

    Args:
        data: Source, target and points.
        per_class: Most points a class of one step.
        placed: Whether the places of tokens are asked for, as the structure term does.
    """
    points, source, count = data.points.tokens.training(), data.source, len(data.source)
    pictures = list(range(len(data.target))) if points.resample else points.picture.unique().tolist()

    def target(number: int, generator: torch.Generator) -> TargetExample:
        picture = pictures[number]
        places = data.target.places(picture) if placed else None
        return points.example(picture, data.target.tokens(picture), generator, per_class, places)

    def stand_in(number: int, generator: torch.Generator) -> TargetExample:
        tokens = source.domain.tokens(number)
        where, classes = draw_tokens(source.labels[number], per_class, generator)
        places = source.domain.places(number) if placed else None
        return TargetExample(tokens, where.to(tokens.device), classes.to(tokens.device), places)

    if len(points) == 0 and not points.resample:
        return PairData(count, count, source.labelled, stand_in, source.places)
    return PairData(count, len(pictures), source.labelled, target, source.places)


def learned_cost(bench: Bench, data: TrainingData) -> TrainedCost:
    """The cost of Algorithm 1: cost.safetensors."""
    recipe = bench.recipe
    identity = identity_of(
        data.classes.names, data.source, data.target, data.points, bench.seed, recipe.transport, recipe.cost
    )

    def make(making: Making) -> Kept:
        fit = fit_cost(
            new_cost(bench, data),
            pair_data(data, recipe.cost.points_per_class, placed=recipe.transport.alpha > 0),
            data.num_classes,
            recipe.transport,
            seed=bench.seed,
            checkpoint=dataclasses.replace(making.checkpoint, every=min(50, making.checkpoint.every)),
            progress=making.progress,
        )
        making.log(fit.history)
        solved = [record["converged"] for record in fit.history if "converged" in record]
        share = sum(solved) / max(len(solved), 1)
        return packed_cost(fit, data.source.domain.dim, converged_share=share)

    kept = bench.space.once("cost", identity, make, title="cost", log="cost", shared="cost")
    return TrainedCost(unpacked_cost(kept).to(bench.device), identity, kept.facts["converged_share"])


def packed_cost(fit: CostFit, dim: int, **facts: Any) -> Kept:
    """A learned cost with everything needed to build it again."""
    about = {"dim": dim, "config": dataclasses.asdict(fit.cost.config)}
    tensors = {name: tensor.cpu() for name, tensor in fit.cost.state_dict().items()}
    return Kept(tensors, facts, about)


def unpacked_cost(kept: Kept) -> SemanticCost:
    """The cost that was packed, in evaluation mode."""
    tensors, prototypes = dict(kept.tensors), None
    if "prototype_means" in tensors:
        prototypes = Prototypes(tensors["prototype_means"], tensors["prototype_present"])
    groups = tensors["class_groups"].tolist() if "class_groups" in tensors else None
    with first_weights(0):  # all of them are loaded
        cost = SemanticCost(kept.about["dim"], CostRecipe(**kept.about["config"]), prototypes, groups)
    cost.load_state_dict(tensors)
    return cost.eval()


def transfer_from(
    source: Source,
    cost: SemanticCost | None,
    picture: tuple[Domain, int],
    chosen: tuple[Tensor, Tensor],
    settings: tuple[TransportRecipe, int, Any],
) -> tuple[Tensor, LabelTransfer]:
    """Label probabilities of one picture from several sources: filled where uncovered, and as transported.

    Args:
        source: Labelled pictures.
        cost: The learned cost, or None for the fixed one.
        picture: Its domain, and its number there.
        chosen: Numbers of the sources and their weights.
        settings: Of the transport, the number of classes, and what fills uncovered tokens.
    """
    transport, num_classes, uncovered = settings
    (numbers, weights), (domain, picture_number) = chosen, picture
    tokens, places = domain.tokens(picture_number), domain.places(picture_number)
    with torch.no_grad():
        transfers = [
            transfer_pair(
                *source.labelled(number), tokens, num_classes, cost, transport, (source.places(number), places)
            )
            for number in numbers.tolist()
        ]
        joined = aggregate_transfers(transfers, weights)
        nearest, labels = source.labelled(int(numbers[0]))
        return fill_uncovered(joined, nearest, labels, tokens, uncovered), joined


@dataclass(frozen=True)
class PseudoLabels:
    """Soft labels of every target picture (E.4).

    Attributes:
        folder: Where they lie, a file a picture.
        maps: The likeliest class of each token, in memory.
        uncovered_share: Of tokens without mass.
        identity: Of everything they are made of.
    """

    folder: Path
    maps: tuple[Tensor, ...]
    uncovered_share: float
    identity: str

    def soft(self, picture: int) -> Tensor:
        """(n, K) probabilities, half precision."""
        kept = load_tensors(self.folder / f"{picture:06d}.safetensors")
        assert kept is not None, "pseudo-labels vanished while they were used"
        return kept["soft"]


def pseudo_labels(bench: Bench, data: TrainingData, previous: Trained | None, folder: str) -> PseudoLabels:
    """Soft pseudo-labels of every target picture on disk, and their classes in memory.

    From the second round on, a pseudo-label is the mean of the transported label and the decoder's own (C17).

    Args:
        bench: Where and how.
        data: Source, target and points.
        previous: The decoder of the round before, if any.
        folder: The name they are kept under.
    """
    cost, recipe = learned_cost(bench, data), bench.recipe.transfer  # first, so that its time is not counted here
    identity = identity_of(cost.identity, previous, recipe, bench.recipe.transport)
    place = f"{folder}-{identity}"

    def make(making: Making) -> Kept:
        similar, maps, uncovered = similarities(bench, data.source, {"target": data.target}, "target"), {}, 0.0
        settings = (bench.recipe.transport, data.num_classes, recipe.uncovered)
        for number in range(len(data.target)):
            path = bench.space.work(place, f"{number:06d}.safetensors")
            kept = load_tensors(path)
            if kept is None:
                chosen = source_weights(similar[number], recipe.pseudo_sources, recipe.source_temperature)
                probs, transfer = transfer_from(data.source, cost.cost, (data.target, number), chosen, settings)
                if previous is not None:
                    own = data.target.logits(previous.decoder, number)
                    probs = 0.5 * (probs + torch.softmax(own, dim=-1))
                kept = {
                    "soft": sharpen(probs, recipe.sharpen).half().cpu(),
                    "uncovered": (~transfer.covered).float().mean().cpu(),
                }
                save_tensors(path, kept)
            uncovered += float(kept["uncovered"])
            maps[f"{number:06d}"] = kept["soft"].float().argmax(-1).to(torch.uint8)
            making.progress(number + 1, len(data.target))
        return Kept(maps, {"uncovered_share": uncovered / len(data.target)})

    shared = "pseudo-labels" if previous is None else ""
    files = [bench.space.work(place, f"{number:06d}.safetensors") for number in range(len(data.target))]
    name, options = f"work/{folder}", {"title": "pseudo-labels", "beside": f"work/{place}", "shared": shared}
    kept = bench.space.once(name, identity, make, **options)
    if any(load_tensors(file) is None for file in files):  # one of them is gone or damaged: it is made again
        bench.space.path(f"{name}.safetensors").unlink()
        kept = bench.space.once(name, identity, make, **options)
    maps = tuple(kept.tensors[name] for name in sorted(kept.tensors))
    return PseudoLabels(bench.space.work(place), maps, kept.facts["uncovered_share"], identity)


def pseudo_pool(labels: PseudoLabels, target: Domain, num_classes: int) -> TokenPool:
    """Target tokens with their pseudo-labels."""

    def soft(picture: int, tokens: Tensor) -> Tensor:
        return labels.soft(picture)[tokens]

    pool = token_pool(labels.maps, num_classes, target.rows, target.dim, soft, target.shape)
    return dataclasses.replace(pool, identity=identity_of(target, labels.identity))


def pseudo_term(
    bench: Bench, data: TrainingData, previous: Trained | None, round_number: int, architecture: str
) -> tuple[Term, PseudoLabels]:
    """The target term of stage 1; `architecture` is that of `previous`."""
    folder = f"pseudo-{round_number}"
    if previous is not None and architecture != bench.recipe.decoder.architecture:
        folder += f"-{architecture}"
    labels = pseudo_labels(bench, data, previous, folder)
    pool = pseudo_pool(labels, data.target, data.num_classes)
    return Term(f"pseudo-{round_number}", pool, bench.recipe.decoder.target_weight), labels


def distilled_decoder(
    bench: Bench, data: TrainingData, recipe: DecoderRecipe, *, name: str = "saot_decoder", refined: bool = True
) -> Trained:
    """Stage 1 on source labels and transported pseudo-labels, stage 2 with an EMA teacher (sec. 4.5, E.4).

    Args:
        bench: Where and how.
        data: Source, target and points.
        recipe: Settings of stage 1.
        name: Of its stages, in the log and in run.json.
        refined: False leaves stage 2 out.
    """
    rounds = max(1, recipe.rounds)
    per_round = dataclasses.replace(recipe, steps=recipe.steps // rounds)
    base = [source_term(data)]
    if recipe.points_weight > 0 and data.points.any:
        base.append(points_term(data, recipe.points_weight))
    trained, pull, uncovered = None, pull_of(bench, data, recipe), 0.0
    for number in range(rounds):
        term, labels = pseudo_term(bench, data, trained, number, recipe.architecture)
        last, uncovered = number == rounds - 1, labels.uncovered_share
        trained = network(
            bench,
            data,
            [*base, term],
            refine_terms(bench, data) if last and refined else None,
            name=name if rounds == 1 else f"{name}-{number}",
            decoder=per_round,
            start=trained,
            pull=pull,
        )
    assert trained is not None
    return dataclasses.replace(trained, facts={"pseudo_uncovered_share": uncovered})


def refine_terms(bench: Bench, data: TrainingData) -> list[Term]:
    """What stage 2 keeps beside the pseudo-labels."""
    refine, terms = bench.recipe.refine, []
    if refine.source_weight > 0:
        terms.append(source_term(data, refine.source_weight))
    if refine.points_weight > 0 and data.points.any:
        terms.append(points_term(data, refine.points_weight))
    return terms
