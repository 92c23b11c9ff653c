"""The networks of a run: SAOT's decoder and every network it is compared with. Equal trainings are done once."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saot.decoder import (
    Decoder,
    DecoderFit,
    ExtraLoss,
    Term,
    decoder_of_shape,
    fit_decoder,
    make_decoder,
    refine_decoder,
)
from saot.label.data import Bench, TrainingData
from saot.recipes import DecoderRecipe
from saot.runs import Kept, Making, code_version, generator_for, identity_of, read_kept, room_of


@dataclass(frozen=True)
class Trained:
    """A decoder in evaluation mode.

    Attributes:
        decoder: The network.
        identity: Of everything it was trained with.
        facts: What its making has to say, for run.json.
    """

    decoder: Decoder
    identity: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def network(
    bench: Bench,
    data: TrainingData,
    terms: Sequence[Term],
    refine_terms: Sequence[Term] | None,
    *,
    name: str,
    decoder: DecoderRecipe | None = None,
    start: Trained | None = None,
    member: int = 0,
    pull: ExtraLoss | None = None,
) -> Trained:
    """A decoder trained on `terms`, self-trained where `refine_terms` are given; equal trainings are done once.

    Args:
        bench: Where and how.
        data: Shapes the network; stage 2 takes the unlabelled target from it.
        terms: Of stage 1.
        refine_terms: Kept in stage 2; None leaves stage 2 out, as no steps do.
        name: Of the stage, in the log and in run.json.
        decoder: Settings of stage 1, the recipe's unless given.
        start: The network to go on from.
        member: Number of this network in an ensemble of equal trainings that differ in their draws.
        pull: T2S-DA's pull loss in stage 1.
    """
    seed = bench.seed if member == 0 else generator_for(bench.seed, "member", member).initial_seed()
    if start is not None:  # else it would see again the first batches of the training it goes on from
        seed = generator_for(seed, "continued", *(term.name for term in terms)).initial_seed()
    decoder, refine = decoder or bench.recipe.decoder, bench.recipe.refine
    untrained = new_decoder(data, decoder, seed) if start is None else copy.deepcopy(start.decoder)

    def train(making: Making) -> DecoderFit:
        state = {"seed": seed, "checkpoint": making.checkpoint, "progress": making.progress}
        return fit_decoder(untrained, terms, decoder, **state, extra=pull)

    made_of = [seed, decoder, *map(term_identity, terms), start, pull, data.num_classes]
    first = train_once(bench, (name, "train", 1), made_of, train, start)
    if refine_terms is None or refine.steps == 0:
        return first

    def self_train(making: Making) -> DecoderFit:
        state = {"seed": seed, "checkpoint": making.checkpoint, "progress": making.progress, "crop": decoder.crop}
        return refine_decoder(first.decoder, data.target.all_tokens(), refine, terms=refine_terms, **state)

    made_of = [seed, refine, *map(term_identity, refine_terms), first, data.target, decoder.crop]
    return train_once(bench, (name, "refine", 2), made_of, self_train, first)


def term_identity(term: Term) -> list[Any]:
    """What equal terms have in common; their names seed their draws."""
    return [term.name, term.weight, term.focal, term.pool.identity]


def train_once(
    bench: Bench,
    stage: tuple[str, str, int],
    made_of: Sequence[Any],
    train: Callable[[Making], DecoderFit],
    start: Trained | None = None,
) -> Trained:
    """The network of an equal training of this run, or of one beside it; else trained.

    Args:
        bench: Where and how.
        stage: Name of the training, "train" or "refine", and its number, 0 where it is the only one.
        made_of: Everything it is made of.
        train: Trains it.
        start: What it goes on from; its facts are handed on.
    """
    name, verb, number = stage
    identity = identity_of(*made_of, code_version(room_of(train)))  # whichever room trains
    title, log = f"{verb} {name}", f"{name}-stage{number}" if number else name

    def make(making: Making) -> Kept:
        fit = train(making)
        making.log(fit.history)
        return packed(fit.decoder)

    kept = bench.space.once(f"work/models/decoder-{identity}", identity, make, title=title, log=log, shared=title)
    return Trained(unpacked(kept).to(bench.device), identity, {} if start is None else start.facts)


def new_decoder(data: TrainingData, config: DecoderRecipe, seed: int) -> Decoder:
    """An untrained decoder; its weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "decoder weights").initial_seed())
        decoder = make_decoder(data.source.domain.dim, data.num_classes, config)
    return decoder.to(data.source.domain.device)


def packed(decoder: Decoder, **extra: object) -> Kept:
    """A decoder with its shape and whatever else a reader needs."""
    tensors = {name: tensor.cpu() for name, tensor in decoder.state_dict().items()}
    return Kept(tensors, about={"saot": json.dumps({"shape": decoder.shape, **extra})})


def unpacked(kept: Kept) -> Decoder:
    """The decoder that was packed, in evaluation mode."""
    decoder = decoder_of_shape(json.loads(kept.about["saot"])["shape"])
    decoder.load_state_dict(dict(kept.tensors))
    return decoder.eval()


def load_decoder(path: Path) -> Decoder | None:
    """The decoder of a file, in evaluation mode; None if there is none."""
    kept = read_kept(path)
    return None if kept is None else unpacked(kept)
