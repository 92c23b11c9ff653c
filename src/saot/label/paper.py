"""The learned cost of a run and the labels it carries. Each part is made once and kept."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from saot.label.domains import draw_tokens
from saot.label.job import Job, merge_facts, source_weights
from saot.label.shared import adopt, cost_part, pseudo_part, publish
from saot.recipes import CostRecipe
from saot.runs import generator_for, load_tensors, save_tensors
from saot.transfer import (
    LabelTransfer,
    PairData,
    Prototypes,
    SemanticCost,
    TargetExample,
    aggregate_transfers,
    fill_uncovered,
    fit_cost,
    fit_prior,
    prototype_sums,
    prototypes_from_sums,
    sharpen,
    transfer_pair,
)


def source_prototypes(job: Job) -> Prototypes:
    """Class means over all source pictures."""
    kept = load_tensors(job.space.work("prototypes.safetensors"))
    if kept is None:
        sums = torch.zeros(job.num_classes, job.source.dim, dtype=torch.float64)
        counts = torch.zeros(job.num_classes, dtype=torch.int64)
        for number in range(len(job.source)):
            part, part_counts = prototype_sums(*job.labelled_source(number), job.num_classes)
            sums, counts = sums + part.cpu(), counts + part_counts.cpu()
        made = prototypes_from_sums(sums, counts, job.recipe.cost.normalize_prototypes)
        kept = {"means": made.means, "present": made.present}
        save_tensors(job.space.work("prototypes.safetensors"), kept)
    device = job.source.device
    return Prototypes(kept["means"].to(device), kept["present"].to(device))


def similarities(job: Job, which: str) -> Tensor:
    """Cosine of global embeddings, pictures of the domain x source pictures (E.2); -inf for unlabelled sources."""
    path = job.space.work(f"similarity-{which}.safetensors")
    kept = load_tensors(path)
    if kept is None:
        domain = job.target if which == "target" else job.test
        kept = {"similarity": domain.embeddings() @ job.source.embeddings().T}
        save_tensors(path, kept)
    labelled = torch.tensor([bool((part != 255).any()) for part in job.source_labels])
    return kept["similarity"].masked_fill(~labelled, -torch.inf)


def save_cost(path: Path, cost: SemanticCost, dim: int) -> None:
    """The learned cost with everything needed to build it again."""
    settings = {"dim": dim, "config": dataclasses.asdict(cost.config)}
    tensors = {name: tensor.cpu() for name, tensor in cost.state_dict().items()}
    save_tensors(path, tensors, {"saot": json.dumps(settings)})


def load_cost(path: Path) -> SemanticCost:
    """The learned cost of a run.

    Raises:
        ValueError: If the file is missing or is not one.
    """
    tensors = load_tensors(path)
    if tensors is None:
        raise ValueError(f"expected a learned cost in {path}; it is missing or damaged: run `saot run` again")
    with safe_open(path, "pt") as file:
        settings = json.loads((file.metadata() or {}).get("saot", "null"))
    if settings is None:
        raise ValueError(f"expected a cost written by saot in {path}; it says nothing of its settings")
    prototypes = None
    if "prototype_means" in tensors:
        prototypes = Prototypes(tensors["prototype_means"], tensors["prototype_present"])
    cost = SemanticCost(settings["dim"], CostRecipe(**settings["config"]), prototypes)
    cost.load_state_dict(tensors)
    return cost.eval()


def new_cost(job: Job) -> SemanticCost:
    """An untrained cost; its weights depend on the seed alone."""
    prototypes = source_prototypes(job) if job.recipe.cost.prototype_scope == "dataset" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(job.settings.seed, "cost weights").initial_seed())
        return SemanticCost(job.source.dim, job.recipe.cost, prototypes).to(job.source.device)


def pair_data(job: Job) -> PairData:
    """The pairs of Algorithm 1; without any declared point, other source pictures stand in for the target."""
    points, per_class = job.points.training(), job.recipe.cost.points_per_class

    pictures = list(range(len(job.target))) if points.resample else points.picture.unique().tolist()

    def target(number: int, generator: torch.Generator) -> TargetExample:
        picture = pictures[number]
        return points.example(picture, job.target.tokens(picture), generator, per_class)

    def stand_in(number: int, generator: torch.Generator) -> TargetExample:
        tokens = job.source.tokens(number)
        where, classes = draw_tokens(job.source_labels[number], per_class, generator)
        return TargetExample(tokens, where.to(tokens.device), classes.to(tokens.device))

    if len(points) == 0 and not points.resample:
        return PairData(len(job.source), len(job.source), job.labelled_source, stand_in)
    return PairData(len(job.source), len(pictures), job.labelled_source, target)


def learned_cost(job: Job) -> SemanticCost:
    """The cost of Algorithm 1, from cost.safetensors, from a run with the same cost, or trained."""
    path = job.space.path("cost.safetensors")
    if load_tensors(path) is None:
        adopt(job, cost_part(job))
    if load_tensors(path) is not None:
        return load_cost(path).to(job.source.device)
    with job.space.stage("cost"):
        checkpoint = job.space.checkpoint("cost", 50)
        fit = fit_cost(
            new_cost(job),
            pair_data(job),
            job.num_classes,
            job.recipe.transport,
            seed=job.settings.seed,
            checkpoint=checkpoint,
            progress=job.space.tell("cost"),
        )
        job.space.log("cost", fit.history)
        solved = [record["converged"] for record in fit.history if "converged" in record]
        merge_facts(job.space, "cost", {"converged_share": sum(solved) / max(len(solved), 1)})
        save_cost(path, fit.cost, job.source.dim)
        checkpoint.clear()
    publish(job, cost_part(job))
    return fit.cost


def prior_alone(job: Job, batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]) -> tuple[SemanticCost, Prototypes]:
    """The semantic prior trained on labelled tokens without transport."""
    prototypes = source_prototypes(job)
    path = job.space.work("models", "semantic-prior.safetensors")
    if load_tensors(path) is not None:
        return load_cost(path).to(job.source.device), prototypes
    checkpoint = job.space.checkpoint("semantic-prior", 100)
    fit = fit_prior(
        new_cost(job),
        prototypes,
        batch,
        seed=job.settings.seed,
        checkpoint=checkpoint,
        progress=job.space.tell("semantic prior"),
    )
    job.space.log("semantic-prior", fit.history)
    save_cost(path, fit.cost, job.source.dim)
    checkpoint.clear()
    return fit.cost, prototypes


def transfer_from(
    job: Job, cost: SemanticCost | None, tokens: Tensor, sources: Sequence[int], weights: Tensor
) -> tuple[Tensor, LabelTransfer]:
    """Label probabilities of one picture from several sources: filled where uncovered, and as transported."""
    transfers = []
    with torch.no_grad():
        for number in sources:
            source, labels = job.labelled_source(number)
            transfers.append(transfer_pair(source, labels, tokens, job.num_classes, cost, job.recipe.transport))
        joined = aggregate_transfers(transfers, weights)
        nearest, labels = job.labelled_source(sources[0])
        return fill_uncovered(joined, nearest, labels, tokens, job.recipe.transfer.uncovered), joined


def pseudo_labels(job: Job, previous: Callable[..., Tensor] | None, folder: str) -> list[Tensor]:
    """Soft pseudo-labels of every target picture on disk (E.4), and their classes in memory.

    From the second round on, a pseudo-label is the mean of the transported label and the decoder's own (C17).

    Args:
        job: The run.
        previous: The decoder of the round before, if any.
        folder: The name they are kept under.
    """
    cost = learned_cost(job)  # first, so that its time is not counted here
    files = [job.space.work(folder, f"{number:06d}.safetensors") for number in range(len(job.target))]
    missing = not all(path.exists() for path in files)
    if missing and previous is None:
        adopt(job, pseudo_part(job, folder))
    with job.space.stage("pseudo-labels"):
        maps = _pseudo_labels(job, cost, previous, files)
    if missing and previous is None:
        publish(job, pseudo_part(job, folder))
    return maps


def _pseudo_labels(
    job: Job, cost: SemanticCost, previous: Callable[..., Tensor] | None, files: Sequence[Path]
) -> list[Tensor]:
    similar, recipe = similarities(job, "target"), job.recipe.transfer
    maps, uncovered = [], 0.0
    for number, path in enumerate(files):
        kept = load_tensors(path)
        if kept is None:
            tokens = job.target.tokens(number)
            index, weights = source_weights(similar[number], recipe.pseudo_sources, recipe.source_temperature)
            probs, transfer = transfer_from(job, cost, tokens, index.tolist(), weights)
            if previous is not None:
                probs = 0.5 * (probs + torch.softmax(job.target.logits(previous, number), dim=-1))
            kept = {
                "soft": sharpen(probs, recipe.sharpen).half().cpu(),
                "uncovered": (~transfer.covered).float().mean().cpu(),
            }
            save_tensors(path, kept)
        uncovered += float(kept["uncovered"])
        maps.append(kept["soft"].float().argmax(-1).to(torch.uint8))
        job.space.tell("pseudo-labels")(number + 1, len(job.target))
    merge_facts(job.space, "cost", {"pseudo_uncovered_share": uncovered / len(job.target)})
    return maps
