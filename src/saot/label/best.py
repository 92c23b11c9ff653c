"""SAOT rebuilt, preset best: a network finer than its tokens, taught by two of its kind and a plan over the classes."""

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from saot.decoder import Decoder, FineDecoder, GridDecoder, Term, TokenPool, token_pool
from saot.label.cells import inside_cells, labelled_terms, seen, source_shares
from saot.label.domains import Domain, load_maps, save_maps
from saot.label.job import Job, merge_facts
from saot.label.networks import network
from saot.label.pull import pull_of
from saot.recipes import DecoderRecipe
from saot.runs import generator_for, load_tensors, save_tensors
from saot.transfer import class_correction

PLAN_TOKENS = 8_192  # target tokens of the plan, spread evenly over the pictures


def taught_decoder(
    job: Job, *, tau: float | None = None, decoder: DecoderRecipe | None = None, refined: bool = True
) -> Decoder:
    """Stage 1 on source labels and points; stage 2 also on target tokens, labelled by teachers and plan together.

    The first round of stage 2 has the networks of stage 1 as teachers, each later one the network of the round before.

    Args:
        job: The run.
        tau: How strongly the plan keeps to the source's class shares, the recipe's unless given; 0 is no plan.
        decoder: Settings of stage 1, the recipe's unless given.
        refined: False leaves stage 2 out.
    """
    recipe, stage_2 = decoder or job.recipe.decoder, job.recipe.taught
    tau = stage_2.tau if tau is None else tau
    if tau < 0:
        raise ValueError(f"expected taught.tau >= 0; got {tau}: 0 leaves the plan out")
    other = "" if recipe == job.recipe.decoder else f"-{recipe.architecture}"
    count = max(1, stage_2.teachers) if refined and stage_2.steps * stage_2.rounds > 0 else 1
    terms, pull = labelled_terms(job, recipe), pull_of(job, recipe)
    teachers = [
        network(job, terms, None, name=f"teacher-{member}{other}", decoder=recipe, member=member, pull=pull)
        for member in range(count)
    ]
    if not refined or stage_2.steps * stage_2.rounds == 0:
        return teachers[0]
    again = dataclasses.replace(
        recipe,
        steps=stage_2.steps,
        learning_rate=stage_2.learning_rate,
        final_learning_rate=stage_2.final_learning_rate,
    )
    for number in range(1, stage_2.rounds + 1):
        label = f"{f'plan-{tau}' if tau > 0 else 'self'}-{number}{other}"
        taught = Term(label, taught_pool(job, teachers, tau, label, recipe), recipe.target_weight)
        start = copy.deepcopy(teachers[0])
        teachers = [network(job, [*terms, taught], None, name=f"taught-{label}", decoder=again, start=start)]
    return teachers[0]


def taught_pool(job: Job, teachers: Sequence[Decoder], tau: float, label: str, recipe: DecoderRecipe) -> TokenPool:
    """Target tokens with the joined labels of teachers and plan, made where they are drawn.

    Kept on disk are K numbers of the plan for the whole target, and a byte a token: the class it is drawn by.
    """
    with job.space.stage(f"labels {label}"):
        correction = plan_correction(job, teachers, tau, label, recipe)
        maps = _classes(job, teachers, correction, label)
    rows, width = seen(job, "target", recipe)
    device = job.target.device

    def said(teacher: Decoder, picture: int, tokens: Tensor) -> Tensor:
        if isinstance(teacher, GridDecoder):  # it looks further than its tokens bring along
            return job.target.logits(teacher, picture)[tokens.to(device)]
        return teacher(rows(picture, tokens).float().to(device))

    @torch.no_grad()
    def soft(picture: int, tokens: Tensor) -> Tensor:
        probs = torch.softmax(joint_logits([said(t, picture, tokens) for t in teachers]).cpu() + correction, dim=-1)
        if not isinstance(teachers[0], FineDecoder):
            return probs
        inside = inside_cells(job.target, picture, recipe.subdivision)[tokens]
        return probs * inside.unsqueeze(-1)  # a cell without probabilities has no weight in the loss

    pool = token_pool(maps, job.num_classes, rows, width, soft, job.target.shape)
    cells = recipe.subdivision**2 if isinstance(teachers[0], FineDecoder) else 1
    return dataclasses.replace(pool, target_bytes=4 * job.num_classes * cells)


@torch.no_grad()
def plan_correction(job: Job, teachers: Sequence[Decoder], tau: float, label: str, recipe: DecoderRecipe) -> Tensor:
    """(K,) what the plan between target tokens and classes adds to the log posterior (`class_correction`)."""
    if tau == 0:
        return torch.zeros(job.num_classes)
    path = job.space.work(f"taught-{label}.safetensors")
    kept = load_tensors(path)
    if kept is None:
        sampled, quota = [], max(1, PLAN_TOKENS // len(job.target))
        for number in range(len(job.target)):
            said, inside = posteriors(teachers, job.target, number)
            generator = generator_for(job.settings.seed, "plan tokens", number)
            chosen = torch.randperm(len(said), generator=generator)[:quota].to(said.device)
            sampled.append(said[chosen][inside[chosen]].cpu())
            job.space.tell(f"plan {label}")(number + 1, len(job.target))
        posterior = torch.cat(sampled).double()
        shares = source_shares(job, recipe)
        correction = class_correction(posterior, shares, tau)
        kept = {
            "correction": correction.float(),
            "source": shares,
            "before": posterior.mean(0),
            "after": torch.softmax(posterior.log() + correction, dim=-1).mean(0),
        }
        save_tensors(path, kept)
    shown = {name: [round(value, 5) for value in kept[name].tolist()] for name in kept}
    merge_facts(job.space, "taught", {label: shown})
    return kept["correction"]


@torch.no_grad()
def _classes(job: Job, teachers: Sequence[Decoder], correction: Tensor, label: str) -> list[Tensor]:
    """The class of every target token, to draw by: the likeliest over its cells together."""
    path = job.space.work(f"taught-{label}-classes.safetensors")
    maps = load_maps(path)
    if maps is None:
        maps = []
        for number in range(len(job.target)):
            said, inside = posteriors(teachers, job.target, number)
            moved = torch.softmax(said.log() + correction.to(said.device), dim=-1)
            moved = (moved * inside.unsqueeze(-1)).sum(1)
            maps.append(moved.argmax(-1).to(torch.uint8).cpu())
            job.space.tell(f"labels {label}")(number + 1, len(job.target))
        save_maps(path, maps)
    return maps


@torch.no_grad()
def posteriors(teachers: Sequence[Decoder], domain: Domain, number: int) -> tuple[Tensor, Tensor]:
    """(n, cells, K) mean posterior of the cells of each token, and which of them show some of the picture.

    A decoder of whole tokens has one cell a token.
    """
    tokens, shape, parts, inside = domain.tokens(number), domain.shape(number), [], None
    for teacher in teachers:
        if isinstance(teacher, FineDecoder):
            parts.append(teacher.of_tokens(tokens, *shape))
            inside = inside_cells(domain, number, teacher.subdivision)
        else:
            parts.append(domain.logits(teacher, number).unsqueeze(1))
    said = torch.softmax(joint_logits(parts), dim=-1)
    if inside is None:
        inside = torch.ones(said.shape[:2], dtype=torch.bool)
    return said, inside.to(said.device)


def joint_logits(logits: Sequence[Tensor]) -> Tensor:
    """Log of the mean posterior of several networks, up to a constant."""
    return torch.stack([part.log_softmax(-1) for part in logits]).logsumexp(0)
