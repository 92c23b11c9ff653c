"""Ablations as methods: the decoder without stage 2, what table 18 (K.2) tries for rare classes, the MLP with a pull.

`saot run` makes none of them; `score_some` makes those it is asked for. The paper says that each keeps the features and
the pseudo-labels; what it leaves open is in `InterventionRecipe`, or said where it happens.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saot.decoder import Decoder, DecoderFit, Focal, Term, fit_decoder
from saot.label import (
    Bench,
    Builders,
    Contest,
    Scorer,
    Trained,
    TrainingData,
    answers_of,
    chosen_adjustment,
    held_out_scores,
    network,
    network_scorer,
    points_term,
    pseudo_term,
    saot_decoder,
    source_pool,
    source_term,
    term_identity,
    train_once,
)
from saot.recipes import DecoderRecipe
from saot.runs import Making, first_weights, generator_for
from saot.tables.rivals import mlp_network, of_tokens, run_rivals

Make = Callable[[Bench, TrainingData], Trained]


def all_rivals(contest: Contest) -> Builders:
    """What SAOT is compared with in a run, and the methods of this file."""
    return {**run_rivals(contest), **interventions(contest)}


def interventions(contest: Contest) -> Builders:
    """The methods of this file, by name; building one trains it.

    Where the run's decoder is finer than its tokens, those are left out that train it on from token labels.
    """
    bench, data = contest.bench, contest.data
    budget = data.points.budget

    def scored(name: str, make: Make, seen: int = budget) -> Callable[[], Scorer]:
        return lambda: network_scorer(contest, make(bench, data), name, seen)

    builders: dict[str, Callable[[], Scorer]] = {
        "decoder_stage1": scored("decoder_stage1", stage_1),
        "saot_decoder_logit_adjusted": lambda: logit_adjusted(contest),
        "saot_decoder_focal": scored("saot_decoder_focal", focal_decoder, 0),
        "saot_decoder_spatial": scored("saot_decoder_spatial", spatial),
    }
    if bench.recipe.bridge.weight > 0:
        builders["mlp_ema_pull"] = lambda: pulled_mlp(contest, "mlp_ema_pull", points=False)
        if data.points.any:
            builders["mlp_points_ema_pull"] = lambda: pulled_mlp(contest, "mlp_points_ema_pull", points=True)
    if bench.recipe.decoder.architecture != "fine" and data.tail is None:
        builders["saot_decoder_recalibrated"] = scored("saot_decoder_recalibrated", recalibrated)
        builders["saot_decoder_finetuned"] = lambda: finetuned(contest)
    return builders


def stage_1(bench: Bench, data: TrainingData) -> Trained:
    """SAOT's decoder without refinement, as in table 6."""
    return saot_decoder(bench, data, refined=False)


def spatial(bench: Bench, data: TrainingData) -> Trained:
    """SAOT's decoder with 3x3 convolutions, the last row of tables 4 and 18."""
    recipe = dataclasses.replace(bench.recipe.decoder, architecture="conv")
    return saot_decoder(bench, data, recipe, name="saot_decoder_spatial")


def pulled_mlp(contest: Contest, name: str, *, points: bool) -> Scorer:
    """The competing MLP with EMA, its first stage with T2S-DA's pull loss; the competitors themselves have none."""
    trained = mlp_network(contest.bench, contest.data, name, points=points, ema=True, pulled=True)
    return network_scorer(contest, trained, name, contest.data.points.budget if points else 0)


def logit_adjusted(contest: Contest) -> Scorer:
    """SAOT's decoder with the best strength of the paper's sweep, chosen on held-out declared points alone.

    Without any the strength stays 0, and a note says so.
    """
    bench, data = contest.bench, contest.data
    decoder, strengths = contest.decoder().decoder, bench.recipe.interventions.logit_adjustment
    chosen = chosen_adjustment(bench, data, decoder, strengths)
    facts: dict[str, Any] = {"adjustment": {"saot_decoder_logit_adjusted": chosen.facts}}
    if not chosen.facts:
        facts = {"note": "no declared points are held out, so the strength of the logit adjustment stays 0"}
    return Scorer(answers_of(contest, decoder), data.points.budget, chosen.bias, facts)


def focal_decoder(bench: Bench, data: TrainingData) -> Trained:
    """A decoder from scratch on the source's labels alone: focal loss with inverse-frequency class weights (K.2).

    Tokens are drawn as they come, so that the weights alone balance the classes; their expectation is 1.
    """
    weights = inverse_frequency(data.source.frequencies(data.num_classes))
    gamma = bench.recipe.interventions.focal_gamma
    term = Term(f"source-focal-{gamma:g}", source_pool(data.source, data.num_classes), 1.0, Focal(gamma, weights))
    config = dataclasses.replace(of_tokens(bench.recipe.decoder), class_power=1.0)
    return network(bench, data, [term], None, name="saot_decoder_focal", decoder=config)


def recalibrated(bench: Bench, data: TrainingData) -> Trained:
    """SAOT's decoder with its last linear layer trained anew, body frozen, on class-balanced draws (K.2).

    The data are those of stage 1: source labels and pseudo-labels. The layer starts from new weights.
    """
    config = dataclasses.replace(_shorter(bench, bench.recipe.interventions.head_steps), class_power=0.0)
    start = saot_decoder(bench, data)
    decoder = copy.deepcopy(start.decoder)
    with first_weights(generator_for(bench.seed, "new head").initial_seed()):
        decoder.head.reset_parameters()
    terms = _stage_1_terms(bench, data)
    return _trained_on(bench, (decoder, start), terms, config, "saot_decoder_recalibrated", "head")


def finetuned(contest: Contest) -> Scorer:
    """SAOT's decoder trained on with the rare classes' source tokens beside the data of stage 1.

    The table says "4 LR cfgs" and no more. The rate is the one with the best estimated mIoU at held-out declared
    points; without any it is the smallest, and a note says so.
    """
    bench, data, name = contest.bench, contest.data, "saot_decoder_finetuned"
    recipe, size = bench.recipe.interventions, data.num_classes
    rare = rare_classes(data.source.frequencies(size), recipe.rare_classes)
    keep = torch.zeros(256, dtype=torch.bool)
    keep[rare] = True
    maps = [torch.where(keep[part.long()], part, torch.full_like(part, 255)) for part in data.source.labels]
    terms = [*_stage_1_terms(bench, data), Term("rare", source_pool(data.source, size, maps))]
    start, shorter = saot_decoder(bench, data), _shorter(bench, recipe.finetune_steps)

    def at_rate(rate: float) -> Trained:
        config = dataclasses.replace(shorter, learning_rate=rate, final_learning_rate=0.01 * rate)
        return _trained_on(bench, (copy.deepcopy(start.decoder), start), terms, config, f"{name}-{rate:g}", "all")

    facts: dict[str, Any] = {"rare_classes": [data.classes.names[c] for c in rare]}
    trials: list[dict[str, float]] = []
    if len(data.points.tokens.held()) == 0:
        best = at_rate(min(recipe.finetune_rates))
        facts["note"] = "no declared points are held out, so the smallest learning rate is taken"
    else:
        best = None
        for rate in recipe.finetune_rates:
            trained = at_rate(rate)
            scores = held_out_scores(bench, data, trained.decoder, [torch.zeros(size)])
            assert scores is not None, "points are held out"
            if best is None or scores[0] > max(trial["miou"] for trial in trials):
                best = trained
            trials.append({"learning_rate": rate, "miou": scores[0]})
        facts["trials"] = {name: trials}
    assert best is not None, "at least one rate"
    scorer = network_scorer(contest, best, name, data.points.budget)
    return dataclasses.replace(scorer, facts={**facts, **scorer.facts})


def inverse_frequency(frequencies: Float[Tensor, " K"]) -> tuple[float, ...]:
    """Class weights ~ 1 / frequency whose expectation over tokens is 1; 0 for a class that never occurs.

    Example:
        >>> inverse_frequency(torch.tensor([0.75, 0.25, 0.0]))
        (0.6666666865348816, 2.0, 0.0)
    """
    present = frequencies > 0
    safe = torch.where(present, frequencies, torch.ones_like(frequencies))
    return tuple(torch.where(present, 1 / (safe * int(present.sum())), 0.0).tolist())


def rare_classes(frequencies: Float[Tensor, " K"], count: int) -> list[int]:
    """The rarest classes that occur, at most `count` and at most half of those there are.

    Example:
        >>> rare_classes(torch.tensor([0.5, 0.0, 0.1, 0.3, 0.1]), 6)
        [2, 4]
    """
    present = (frequencies > 0).nonzero().flatten()
    order = present[frequencies[present].argsort(stable=True)]
    return sorted(order[: max(1, min(count, len(order) // 2))].tolist())


def _shorter(bench: Bench, share: float) -> DecoderRecipe:
    config = bench.recipe.decoder
    return dataclasses.replace(config, steps=max(1, round(share * config.steps)))


def _stage_1_terms(bench: Bench, data: TrainingData) -> list[Term]:
    """What stage 1 trains on, with the pseudo-labels of its first round: those of the plan alone."""
    recipe = bench.recipe.decoder
    pseudo, _ = pseudo_term(bench, data, None, 0, recipe.architecture)
    terms = [source_term(data), pseudo]
    return [*terms, points_term(data, recipe.points_weight)] if recipe.points_weight > 0 and data.points.any else terms


def _trained_on(
    bench: Bench,
    start: tuple[Decoder, Trained],
    terms: Sequence[Term],
    config: DecoderRecipe,
    name: str,
    part: Literal["all", "head"],
) -> Trained:
    """A decoder trained on from where it is, and what it came from; done once."""
    decoder, before = start

    def train(making: Making) -> DecoderFit:
        state = {"seed": bench.seed, "checkpoint": making.checkpoint, "progress": making.progress}
        return fit_decoder(decoder, terms, config, **state, part=part)

    made_of = [name, bench.seed, config, part, before, *map(term_identity, terms)]
    return train_once(bench, (name, "train", 0), made_of, train, before)
