"""The networks of a run: SAOT's decoder and every network it is compared with. Equal trainings are done once."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from saot.decoder import (
    Decoder,
    DecoderFit,
    ExtraLoss,
    Term,
    TokenPool,
    decoder_of_shape,
    fit_decoder,
    make_decoder,
    point_pool,
    refine_decoder,
    token_pool,
)
from saot.label.domains import TokenPoints, load_maps, patch_label_maps, save_maps
from saot.label.inputs import target_labels
from saot.label.job import Job
from saot.label.shared import adopt, network_part, publish
from saot.recipes import DecoderRecipe, RefineRecipe
from saot.runs import Checkpoint, Progress, generator_for, load_tensors, save_tensors


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
    member: int = 0,
    pull: ExtraLoss | None = None,
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
        member: Number of this network in an ensemble of equal trainings that differ in their draws.
        pull: T2S-DA's pull loss in stage 1.
    """
    seed = job.settings.seed if member == 0 else generator_for(job.settings.seed, "member", member).initial_seed()
    if start is not None:  # else it would see again the first batches of the training it goes on from
        seed = generator_for(seed, "continued", *(term.name for term in terms)).initial_seed()
    decoder = decoder or job.recipe.decoder
    refine = refine or job.recipe.refine
    identity = [[(t.name, t.weight) for t in terms], dataclasses.asdict(decoder), start is not None]
    identity += [member] if member else []
    identity += [] if pull is None else [{"pull": pull.identity()}]
    names = [term.name for term in terms] if start is None else []  # without names nothing is shared
    untrained = start or new_decoder(job, decoder, seed)

    def train(checkpoint: Checkpoint, progress: Progress) -> DecoderFit:
        return fit_decoder(untrained, terms, decoder, seed=seed, checkpoint=checkpoint, progress=progress, extra=pull)

    first = _once(job, identity, (name, 1), names, train)
    if refine_terms is None or refine.steps == 0:
        return first
    identity = [*identity, [(t.name, t.weight) for t in refine_terms], dataclasses.asdict(refine)]
    if start is None:
        names += [term.name for term in refine_terms]

    def self_train(checkpoint: Checkpoint, progress: Progress) -> DecoderFit:
        target = job.target.all_tokens()
        state = {"seed": seed, "checkpoint": checkpoint, "progress": progress, "crop": decoder.crop}
        return refine_decoder(first, target, refine, terms=refine_terms, **state)

    return _once(job, identity, (name, 2), names, self_train)


def _once(
    job: Job,
    identity: object,
    stage: tuple[str, int],
    terms: Sequence[str],
    train: Callable[[Checkpoint, Progress], DecoderFit],
) -> Decoder:
    """The network of an equal training of this run, or of one beside it; else trained.

    Args:
        job: The run.
        identity: What equal trainings of a run have in common.
        stage: Name of the training, and 1 or 2.
        terms: Names of all its terms; empty where nothing may be shared, since the weights it goes on from are no part
            of its identity.
        train: Trains it.
    """
    (name, number), path = stage, _network_path(job, identity)
    title = f"{('train', 'refine')[number - 1]} {name}"
    log, checkpoint, part = f"{name}-stage{number}", job.space.checkpoint(f"{name}-{number}"), None
    if terms and job.shared is not None:
        part = network_part(job, (job.space.log_path(log), path), title, terms, identity)
    kept = kept_network(job, identity)
    if kept is None and part is not None:
        adopt(job, part)
        kept = kept_network(job, identity)
        if kept is not None:
            checkpoint.clear()
    if kept is None:
        with job.space.stage(title):
            fit = train(checkpoint, job.space.tell(title))
            kept = fit.decoder
            job.space.log(log, fit.history)
            keep_network(job, identity, kept)
        checkpoint.clear()
        if part is not None:
            publish(job, part)
    return kept


def new_decoder(job: Job, config: DecoderRecipe, seed: int | None = None) -> Decoder:
    """An untrained decoder; its weights depend on the seed alone, the run's unless given."""
    seed = job.settings.seed if seed is None else seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "decoder weights").initial_seed())
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
