"""SAOT rebuilt, preset best: a network finer than its tokens, taught by two of its kind and a plan over the classes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from saot.decoder import Decoder, FineDecoder, GridDecoder, Term, TokenPool, token_pool
from saot.label.data import Bench, Domain, TrainingData
from saot.label.networks import Trained, inside_cells, labelled_terms, network, pull_of, seen, source_shares
from saot.label.paper import distilled_decoder
from saot.recipes import DecoderRecipe
from saot.runs import Kept, Making, generator_for, identity_of
from saot.transfer import class_correction

PLAN_TOKENS = 8_192  # target tokens of the plan, spread evenly over the pictures


def saot_decoder(
    bench: Bench,
    data: TrainingData,
    decoder: DecoderRecipe | None = None,
    *,
    name: str = "saot_decoder",
    refined: bool = True,
) -> Trained:
    """SAOT + decoder: the paper's, distilled from pairs, or the taught one of preset best.

    Args:
        bench: Where and how.
        data: Source, target and points.
        decoder: Settings of stage 1, the recipe's unless given.
        name: Of its stages, in the log and in run.json.
        refined: False leaves stage 2 out.

    Raises:
        ValueError: If a decoder finer than its tokens is to be distilled from pairs.
    """
    recipe = decoder or bench.recipe.decoder
    if bench.recipe.taught.teachers > 0:
        return taught_decoder(bench, data, decoder=recipe, refined=refined)
    if recipe.architecture == "fine":
        raise ValueError(
            'expected taught.teachers > 0 with decoder.architecture "fine"; got 0: pairs label tokens, not their cells'
        )
    return distilled_decoder(bench, data, recipe, name=name, refined=refined)


def taught_decoder(
    bench: Bench,
    data: TrainingData,
    *,
    tau: float | None = None,
    decoder: DecoderRecipe | None = None,
    refined: bool = True,
) -> Trained:
    """Stage 1 on source labels and points; stage 2 also on target tokens, labelled by teachers and plan together.

    The first round of stage 2 has the networks of stage 1 as teachers, each later one the network of the round before.

    Args:
        bench: Where and how.
        data: Source, target and points.
        tau: How strongly the plan keeps to the source's class shares, the recipe's unless given; 0 is no plan.
        decoder: Settings of stage 1, the recipe's unless given.
        refined: False leaves stage 2 out.
    """
    recipe, stage_2 = decoder or bench.recipe.decoder, bench.recipe.taught
    tau = stage_2.tau if tau is None else tau
    if tau < 0:
        raise ValueError(f"expected taught.tau >= 0; got {tau}: 0 leaves the plan out")
    other = "" if recipe == bench.recipe.decoder else f"-{recipe.architecture}"
    count = max(1, stage_2.teachers) if refined and stage_2.steps * stage_2.rounds > 0 else 1
    terms, pull = labelled_terms(bench, data, recipe), pull_of(bench, data, recipe)
    teachers = [
        network(bench, data, terms, None, name=f"teacher-{member}{other}", decoder=recipe, member=member, pull=pull)
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
    plans: dict[str, Any] = {}
    for number in range(1, stage_2.rounds + 1):
        label = f"{f'plan-{tau}' if tau > 0 else 'self'}-{number}{other}"
        lesson = Lesson(bench, data, tuple(teachers), tau, label, recipe)
        pool, shown = taught_pool(lesson)
        taught = Term(label, pool, recipe.target_weight)
        plans |= {label: shown} if shown else {}
        start = teachers[0]
        teachers = [network(bench, data, [*terms, taught], None, name=f"taught-{label}", decoder=again, start=start)]
    return dataclasses.replace(teachers[0], facts={"taught": plans})


@dataclasses.dataclass(frozen=True)
class Lesson:
    """One round of stage 2: who teaches, and how the plan corrects them.

    Attributes:
        bench: Where and how.
        data: Source, target and points.
        teachers: Their mean posterior is the lesson.
        tau: How strongly the plan keeps to the source's class shares; 0 is no plan.
        label: Names its files.
        recipe: Of the network that learns.
    """

    bench: Bench
    data: TrainingData
    teachers: tuple[Trained, ...]
    tau: float
    label: str
    recipe: DecoderRecipe

    @property
    def decoders(self) -> list[Decoder]:
        """The teachers' networks."""
        return [teacher.decoder for teacher in self.teachers]

    @property
    def identity(self) -> str:
        """A name for what is taught."""
        shape = self.recipe.architecture, self.recipe.subdivision, self.recipe.context
        teachers = [teacher.identity for teacher in self.teachers]
        return identity_of(self.data.source, self.data.target, teachers, self.tau, self.bench.seed, shape)


def taught_pool(lesson: Lesson) -> tuple[TokenPool, dict[str, list[float]]]:
    """Target tokens with the joined labels of teachers and plan, made where they are drawn; what the plan did.

    Kept on disk are K numbers of the plan for the whole target, and a byte a token: the class it is drawn by.
    """
    bench, data, recipe = lesson.bench, lesson.data, lesson.recipe
    with bench.space.stage(f"labels {lesson.label}"):
        correction, shown = plan_correction(lesson)
        maps = _classes(lesson, correction)
    rows, width = seen(bench, data, "target", recipe)
    device, decoders = data.target.device, lesson.decoders

    def said(teacher: Decoder, picture: int, tokens: Tensor) -> Tensor:
        if isinstance(teacher, GridDecoder):  # it looks further than its tokens bring along
            return data.target.logits(teacher, picture)[tokens.to(device)]
        return teacher(rows(picture, tokens).float().to(device))

    @torch.no_grad()
    def soft(picture: int, tokens: Tensor) -> Tensor:
        probs = torch.softmax(joint_logits([said(t, picture, tokens) for t in decoders]).cpu() + correction, dim=-1)
        if not isinstance(decoders[0], FineDecoder):
            return probs
        inside = inside_cells(data.target, picture, recipe.subdivision)[tokens]
        return probs * inside.unsqueeze(-1)  # a cell without probabilities has no weight in the loss

    pool = token_pool(maps, data.num_classes, rows, width, soft, data.target.shape)
    cells = recipe.subdivision**2 if isinstance(decoders[0], FineDecoder) else 1
    return dataclasses.replace(pool, target_bytes=4 * data.num_classes * cells, identity=lesson.identity), shown


@torch.no_grad()
def plan_correction(lesson: Lesson) -> tuple[Tensor, dict[str, list[float]]]:
    """(K,) what the plan between target tokens and classes adds to the log posterior (`class_correction`).

    Also the class shares of the source and those of the target before and after, to be shown; empty without a plan.
    """
    bench, data, target = lesson.bench, lesson.data, lesson.data.target
    if lesson.tau == 0:
        return torch.zeros(data.num_classes), {}

    def make(making: Making) -> Kept:
        sampled, quota = [], max(1, PLAN_TOKENS // len(target))
        for number in range(len(target)):
            said, inside = posteriors(lesson.decoders, target, number)
            generator = generator_for(bench.seed, "plan tokens", number)
            chosen = torch.randperm(len(said), generator=generator)[:quota].to(said.device)
            sampled.append(said[chosen][inside[chosen]].cpu())
            bench.space.tell(f"plan {lesson.label}")(number + 1, len(target))
        posterior = torch.cat(sampled).double()
        shares = source_shares(bench, data, lesson.recipe)
        correction = class_correction(posterior, shares, lesson.tau)
        after = torch.softmax(posterior.log() + correction, dim=-1).mean(0)
        return Kept({"correction": correction.float(), "source": shares, "before": posterior.mean(0), "after": after})

    kept = bench.space.once(f"work/taught-{lesson.label}", lesson.identity, make).tensors
    return kept["correction"], {name: [round(value, 5) for value in kept[name].tolist()] for name in kept}


@torch.no_grad()
def _classes(lesson: Lesson, correction: Tensor) -> list[Tensor]:
    """The class of every target token, to draw by: the likeliest over its cells together."""
    target = lesson.data.target

    def make(making: Making) -> Kept:
        maps = {}
        for number in range(len(target)):
            said, inside = posteriors(lesson.decoders, target, number)
            moved = torch.softmax(said.log() + correction.to(said.device), dim=-1)
            moved = (moved * inside.unsqueeze(-1)).sum(1)
            maps[f"{number:06d}"] = moved.argmax(-1).to(torch.uint8).cpu()
            lesson.bench.space.tell(f"labels {lesson.label}")(number + 1, len(target))
        return Kept(maps)

    kept = lesson.bench.space.once(f"work/taught-{lesson.label}-classes", lesson.identity, make).tensors
    return [kept[name] for name in sorted(kept)]


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
