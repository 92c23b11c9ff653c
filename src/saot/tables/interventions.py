"""Ablations as methods: the decoder without stage 2, what table 18 (K.2) tries for rare classes, the MLP with a pull.

`saot run` makes none of them; `score_some` makes those it is asked for. The paper says that each keeps the features and
the pseudo-labels; what it leaves open is in `InterventionRecipe`, or said where it happens.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saot.decoder import Decoder, Focal, Term, fit_decoder
from saot.label import (
    Job,
    Scorer,
    chosen_adjustment,
    class_frequencies,
    has_points,
    held_out_scores,
    keep_network,
    kept_network,
    merge_facts,
    mlp_network,
    network,
    network_scorer,
    noted_methods,
    of_tokens,
    points_term,
    pseudo_term,
    saot_decoder,
    source_pool,
    source_term,
)
from saot.recipes import DecoderRecipe
from saot.runs import generator_for


def intervention_builders(job: Job) -> dict[str, Callable[[], Scorer]]:
    """The methods of this file, by name; building one trains it.

    Where the run's decoder is finer than its tokens, those are left out that train it on from token labels.
    """

    def scored(name: str, make: Callable[[Job], Decoder], budget: int) -> Callable[[], Scorer]:
        return lambda: network_scorer(job, make(job), name, budget)

    builders: dict[str, Callable[[], Scorer]] = {
        "decoder_stage1": scored("decoder_stage1", stage_1, job.label_budget),
        "saot_decoder_logit_adjusted": lambda: logit_adjusted(job),
        "saot_decoder_focal": scored("saot_decoder_focal", focal_decoder, 0),
    }
    if job.recipe.bridge.weight > 0:
        builders["mlp_ema_pull"] = scored("mlp_ema_pull", lambda job: pulled_mlp(job, points=False), 0)
        if has_points(job):
            name = "mlp_points_ema_pull"
            builders[name] = scored(name, lambda job: pulled_mlp(job, points=True), job.label_budget)
    made: dict[str, Callable[[Job], Decoder]] = {"spatial": spatial}
    if job.recipe.decoder.architecture != "fine":
        made = {"recalibrated": recalibrated, "finetuned": finetuned, **made}
    return builders | {
        f"saot_decoder_{kind}": scored(f"saot_decoder_{kind}", make, job.label_budget) for kind, make in made.items()
    }


def stage_1(job: Job) -> Decoder:
    """SAOT's decoder without refinement, as in table 6."""
    return saot_decoder(job, refined=False)


def spatial(job: Job) -> Decoder:
    """SAOT's decoder with 3x3 convolutions, the last row of tables 4 and 18."""
    return saot_decoder(job, dataclasses.replace(job.recipe.decoder, architecture="conv"), name="saot_decoder_spatial")


def pulled_mlp(job: Job, *, points: bool) -> Decoder:
    """The competing MLP with EMA, its first stage with T2S-DA's pull loss; the competitors themselves have none."""
    name = "mlp_points_ema_pull" if points else "mlp_ema_pull"
    return mlp_network(job, name, points=points, ema=True, pulled=True)


def logit_adjusted(job: Job) -> Scorer:
    """SAOT's decoder with the best strength of the paper's sweep, chosen on held-out declared points alone.

    Without any the strength stays 0, and a note says so.
    """
    name, decoder = "saot_decoder_logit_adjusted", saot_decoder(job)
    strengths = job.recipe.interventions.logit_adjustment
    bias = chosen_adjustment(job, decoder, name, strengths)
    if name not in job.space.facts("adjustment"):
        _note(job, name, "no declared points are held out, so the strength of the logit adjustment stays 0")
    scorer = network_scorer(job, decoder, name, 0)  # budget 0: no other adjustment
    return dataclasses.replace(scorer, budget=job.label_budget, bias=bias)


def focal_decoder(job: Job) -> Decoder:
    """A decoder from scratch on the source's labels alone: focal loss with inverse-frequency class weights (K.2).

    Tokens are drawn as they come, so that the weights alone balance the classes; their expectation is 1.
    """
    weights = inverse_frequency(class_frequencies(job.source_labels, job.num_classes))
    gamma = job.recipe.interventions.focal_gamma
    term = Term(f"source-focal-{gamma:g}", source_pool(job, job.source_labels), 1.0, Focal(gamma, weights))
    config = dataclasses.replace(of_tokens(job), class_power=1.0)
    return network(job, [term], None, name="saot_decoder_focal", decoder=config)


def recalibrated(job: Job) -> Decoder:
    """SAOT's decoder with its last linear layer trained anew, body frozen, on class-balanced draws (K.2).

    The data are those of stage 1: source labels and pseudo-labels. The layer starts from new weights.
    """
    config = dataclasses.replace(_shorter(job, job.recipe.interventions.head_steps), class_power=0.0)
    decoder = copy.deepcopy(saot_decoder(job))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(job.settings.seed, "new head").initial_seed())
        decoder.head.reset_parameters()
    return _trained(job, decoder, _stage_1_terms(job), config, "saot_decoder_recalibrated", "head")


def finetuned(job: Job) -> Decoder:
    """SAOT's decoder trained on with the rare classes' source tokens beside the data of stage 1.

    The table says "4 LR cfgs" and no more. The rate is the one with the best estimated mIoU at held-out declared
    points; without any it is the smallest, and a note says so.
    """
    name, recipe = "saot_decoder_finetuned", job.recipe.interventions
    rare = rare_classes(class_frequencies(job.source_labels, job.num_classes), recipe.rare_classes)
    keep = torch.zeros(256, dtype=torch.bool)
    keep[rare] = True
    maps = [torch.where(keep[part.long()], part, torch.full_like(part, 255)) for part in job.source_labels]
    terms = [*_stage_1_terms(job), Term("rare", source_pool(job, maps))]
    start, shorter = saot_decoder(job), _shorter(job, recipe.finetune_steps)

    def at_rate(rate: float) -> Decoder:
        config = dataclasses.replace(shorter, learning_rate=rate, final_learning_rate=0.01 * rate)
        return _trained(job, copy.deepcopy(start), terms, config, f"{name}-{rate:g}", "all")

    merge_facts(job.space, "interventions", {"rare_classes": [job.classes.names[c] for c in rare]})
    if not job.may_choose or len(job.points.held()) == 0:
        _note(job, name, "no declared points are held out, so the smallest learning rate is taken")
        return at_rate(min(recipe.finetune_rates))
    trials, best = [], None
    for rate in recipe.finetune_rates:
        decoder = at_rate(rate)
        scores = held_out_scores(job, decoder, [torch.zeros(job.num_classes)])
        assert scores is not None, "points are held out"
        if best is None or scores[0] > max(trial["miou"] for trial in trials):
            best = decoder
        trials.append({"learning_rate": rate, "miou": scores[0]})
    assert best is not None, "at least one rate"
    merge_facts(job.space, "trials", {name: trials})
    return best


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


def intervention_notes(job: Job) -> dict[str, str]:
    """What could not be done as the paper does it, by method."""
    return noted_methods(job.space)


def _note(job: Job, name: str, text: str) -> None:
    merge_facts(job.space, "interventions", {"notes": {**intervention_notes(job), name: text}})


def _shorter(job: Job, share: float) -> DecoderRecipe:
    config = job.recipe.decoder
    return dataclasses.replace(config, steps=max(1, round(share * config.steps)))


def _stage_1_terms(job: Job) -> list[Term]:
    """What stage 1 trains on, with the pseudo-labels of its first round: those of the plan alone."""
    terms, weight = [source_term(job), pseudo_term(job, None, 0)], job.recipe.decoder.points_weight
    return [*terms, points_term(job, weight)] if weight > 0 and has_points(job) else terms


def _trained(
    job: Job, decoder: Decoder, terms: Sequence[Term], config: DecoderRecipe, name: str, part: Literal["all", "head"]
) -> Decoder:
    """A decoder trained on from where it is; done once."""
    identity = [name, [(term.name, term.weight) for term in terms], dataclasses.asdict(config), part]
    made = kept_network(job, identity)
    if made is None:
        checkpoint = job.space.checkpoint(name)
        with job.space.stage(f"train {name}"):
            fit = fit_decoder(
                decoder,
                terms,
                config,
                seed=job.settings.seed,
                checkpoint=checkpoint,
                progress=job.space.tell(f"train {name}"),
                part=part,
            )
            made = fit.decoder
            job.space.log(name, fit.history)
            keep_network(job, identity, made)
        checkpoint.clear()
    return made
