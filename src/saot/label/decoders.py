"""SAOT + decoder: the paper's, from pairs, and the rebuilt one of preset best."""

import dataclasses

from torch import Tensor

from saot.decoder import Decoder, Term, token_pool
from saot.label.best import taught_decoder
from saot.label.job import Job
from saot.label.networks import has_points, network, points_term, source_term
from saot.label.paper import pseudo_labels
from saot.label.pull import pull_of
from saot.recipes import DecoderRecipe
from saot.runs import load_tensors


def pseudo_term(job: Job, previous: Decoder | None, number_of_round: int, decoder: DecoderRecipe | None = None) -> Term:
    """The target term of stage 1; `decoder` is that of `previous`, the recipe's unless given."""
    folder, own = f"pseudo-{number_of_round}", job.recipe.decoder.architecture
    if previous is not None and decoder is not None and decoder.architecture != own:
        folder += f"-{decoder.architecture}"
    maps = pseudo_labels(job, previous, folder)

    def soft(picture: int, tokens: Tensor) -> Tensor:
        kept = load_tensors(job.space.work(folder, f"{picture:06d}.safetensors"))
        assert kept is not None, "pseudo-labels vanished while they were used"
        return kept["soft"][tokens]

    pool = token_pool(maps, job.num_classes, job.target.rows, job.target.dim, soft, job.target.shape)
    return Term(f"pseudo-{number_of_round}", pool, job.recipe.decoder.target_weight)


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
    if job.recipe.taught.teachers > 0:
        return taught_decoder(job, decoder=recipe, refined=refined)
    if recipe.architecture == "fine":
        raise ValueError(
            'expected taught.teachers > 0 with decoder.architecture "fine"; got 0: pairs label tokens, not their cells'
        )
    rounds = max(1, recipe.rounds)
    per_round = dataclasses.replace(recipe, steps=recipe.steps // rounds)
    base = [source_term(job)]
    if recipe.points_weight > 0 and has_points(job):
        base.append(points_term(job, recipe.points_weight))
    previous, pull = None, pull_of(job, recipe)
    for number in range(rounds):
        last = number == rounds - 1
        previous = network(
            job,
            [*base, pseudo_term(job, previous, number, recipe)],
            refine_terms(job) if last and refined else None,
            name=name if rounds == 1 else f"{name}-{number}",
            decoder=per_round,
            start=previous,
            pull=pull,
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
