"""The networks of a run: SAOT's decoder and every network it is compared with. Equal trainings are done once."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from saot.decoder import (
    Decoder,
    Term,
    TokenPool,
    decoder_of_shape,
    fit_decoder,
    make_decoder,
    point_pool,
    refine_decoder,
    token_pool,
)
from saot.pipeline.cost import learned_cost, pseudo_labels
from saot.pipeline.domains import TokenPoints, load_maps, patch_label_maps, save_maps
from saot.pipeline.inputs import target_labels
from saot.pipeline.job import Job
from saot.pipeline.workspace import load_tensors, save_tensors
from saot.recipes import DecoderRecipe, RefineRecipe
from saot.transfer import generator_for


def pseudo_term(job: Job, previous: Decoder | None, number_of_round: int, decoder: DecoderRecipe | None = None) -> Term:
    """The target term of stage 1; `decoder` is that of `previous`, the recipe's unless given."""
    learned_cost(job)  # first, so that its time is not counted here
    folder, own = f"pseudo-{number_of_round}", job.recipe.decoder.architecture
    if previous is not None and decoder is not None and decoder.architecture != own:
        folder += f"-{decoder.architecture}"
    with job.space.stage("pseudo-labels"):
        maps = pseudo_labels(job, previous, folder)

    def soft(picture: int, tokens: Tensor) -> Tensor:
        kept = load_tensors(job.space.work(folder, f"{picture:06d}.safetensors"))
        assert kept is not None, "pseudo-labels vanished while they were used"
        return kept["soft"][tokens]

    pool = token_pool(maps, job.num_classes, job.target.rows, job.target.dim, soft, job.target.shape)
    return Term(f"pseudo-{number_of_round}", pool, job.recipe.decoder.target_weight)


def source_term(job: Job, weight: float = 1.0) -> Term:
    """Cross-entropy on the source's labels."""
    return Term("source", source_pool(job, job.source_labels), weight)


def source_pool(job: Job, maps: Sequence[Tensor]) -> TokenPool:
    """The source tokens that these label maps name."""
    return token_pool(maps, job.num_classes, job.source.rows, job.source.dim, grid=job.source.shape)


def points_term(job: Job, weight: float) -> Term:
    """Cross-entropy on the declared points."""
    return Term("points", points_pool(job, job.points.training()), weight)


def points_pool(job: Job, points: TokenPoints) -> TokenPool:
    """The tokens under declared points."""
    target = job.target
    if points.resample:
        return token_pool(points.dense, job.num_classes, target.rows, target.dim, grid=target.shape)
    return point_pool(
        points.picture, points.token, points.classes, job.num_classes, target.rows, target.dim, target.shape
    )


def target_label_maps(job: Job) -> list[Tensor]:
    """All patch labels of the target: for the oracle alone, in a file that no method reads."""
    path = job.space.work("oracle-labels.safetensors")
    maps = load_maps(path)
    if maps is None:
        labelled = target_labels(job.settings, job.inputs, all_of_them=True)
        maps = patch_label_maps(labelled, job.target.grid, job.num_classes, job.recipe, job.space.tell("oracle labels"))
        save_maps(path, maps)
    return maps


def oracle_term(job: Job) -> Term:
    """Cross-entropy on all labels of the target's training pictures."""
    maps, target = target_label_maps(job), job.target
    return Term("oracle", token_pool(maps, job.num_classes, target.rows, target.dim, grid=target.shape))


def has_points(job: Job) -> bool:
    """Whether any target point was declared."""
    return len(job.points) > 0 or job.points.resample > 0


def network(
    job: Job,
    terms: Sequence[Term],
    refine_terms: Sequence[Term] | None,
    *,
    name: str,
    decoder: DecoderRecipe | None = None,
    refine: RefineRecipe | None = None,
    start: Decoder | None = None,
) -> Decoder:
    """A decoder trained on `terms`, self-trained where `refine_terms` are given; equal trainings are done once.

    Args:
        job: The run.
        terms: Of stage 1.
        refine_terms: Kept in stage 2; None leaves stage 2 out, as no steps do.
        name: Of the stage, in the log and in run.json.
        decoder: Settings of stage 1, the recipe's unless given.
        refine: Settings of stage 2, the recipe's unless given.
        start: Weights to go on from.
    """
    decoder = decoder or job.recipe.decoder
    refine = refine or job.recipe.refine
    identity = [[(t.name, t.weight) for t in terms], dataclasses.asdict(decoder), start is not None]
    first = kept_network(job, identity)
    if first is None:
        first = start or new_decoder(job, decoder)
        checkpoint = job.space.checkpoint(f"{name}-1")
        with job.space.stage(f"train {name}"):
            fit = fit_decoder(
                first,
                terms,
                decoder,
                seed=job.settings.seed,
                checkpoint=checkpoint,
                progress=job.space.tell(f"train {name}"),
            )
            first = fit.decoder
            job.space.log(f"{name}-stage1", fit.history)
            keep_network(job, identity, first)
        checkpoint.clear()
    if refine_terms is None or refine.steps == 0:
        return first
    identity = [*identity, [(t.name, t.weight) for t in refine_terms], dataclasses.asdict(refine)]
    teacher = kept_network(job, identity)
    if teacher is None:
        checkpoint = job.space.checkpoint(f"{name}-2")
        with job.space.stage(f"refine {name}"):
            fit = refine_decoder(
                first,
                job.target.all_tokens(),
                refine,
                terms=refine_terms,
                seed=job.settings.seed,
                checkpoint=checkpoint,
                progress=job.space.tell(f"refine {name}"),
                crop=decoder.crop,
            )
            teacher = fit.decoder
            job.space.log(f"{name}-stage2", fit.history)
            keep_network(job, identity, teacher)
        checkpoint.clear()
    return teacher


def new_decoder(job: Job, config: DecoderRecipe) -> Decoder:
    """An untrained decoder; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(job.settings.seed, "decoder weights").initial_seed())
        decoder = make_decoder(job.source.dim, job.num_classes, config)
    return decoder.to(job.source.device)


def _network_path(job: Job, identity: object) -> Path:
    digest = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:16]
    return job.space.work("models", f"decoder-{digest}.safetensors")


def kept_network(job: Job, identity: object) -> Decoder | None:
    """The network of an equal training, if it was done already."""
    kept = load_decoder(_network_path(job, identity))
    return None if kept is None else kept.to(job.source.device)


def keep_network(job: Job, identity: object, decoder: Decoder) -> None:
    """Keep a network for equal trainings; `identity` says what they would have in common."""
    save_decoder(_network_path(job, identity), decoder, {})


def save_decoder(path: Path, decoder: Decoder, extra: dict[str, object]) -> None:
    """A decoder with its shape and whatever else a reader needs."""
    tensors = {name: tensor.cpu() for name, tensor in decoder.state_dict().items()}
    save_tensors(path, tensors, {"saot": json.dumps({"shape": decoder.shape, **extra})})


def load_decoder(path: Path) -> Decoder | None:
    """The decoder of a file, in evaluation mode; None if there is none."""
    tensors = load_tensors(path)
    if tensors is None:
        return None
    with safe_open(path, "pt") as file:
        shape = json.loads((file.metadata() or {})["saot"])["shape"]
    decoder = decoder_of_shape(shape)
    decoder.load_state_dict(tensors)
    return decoder.eval()


def saot_decoder(
    job: Job, decoder: DecoderRecipe | None = None, *, name: str = "saot_decoder", refined: bool = True
) -> Decoder:
    """SAOT + decoder: stage 1 on source labels and transported pseudo-labels, stage 2 with an EMA teacher.

    Args:
        job: The run.
        decoder: Settings of stage 1, the recipe's unless given.
        name: Of its stages, in the log and in run.json.
        refined: False leaves stage 2 out.
    """
    recipe = decoder or job.recipe.decoder
    rounds = max(1, recipe.rounds)
    per_round = dataclasses.replace(recipe, steps=recipe.steps // rounds)
    base = [source_term(job)]
    if recipe.points_weight > 0 and has_points(job):
        base.append(points_term(job, recipe.points_weight))
    previous: Decoder | None = None
    for number in range(rounds):
        last = number == rounds - 1
        previous = network(
            job,
            [*base, pseudo_term(job, previous, number, recipe)],
            refine_terms(job) if last and refined else None,
            name=name if rounds == 1 else f"{name}-{number}",
            decoder=per_round,
            start=previous,
        )
    assert previous is not None
    return previous


def refine_terms(job: Job) -> list[Term]:
    """What stage 2 keeps beside the pseudo-labels."""
    terms = []
    if job.recipe.refine.source_weight > 0:
        terms.append(source_term(job, job.recipe.refine.source_weight))
    if job.recipe.refine.points_weight > 0 and has_points(job):
        terms.append(points_term(job, job.recipe.refine.points_weight))
    return terms
