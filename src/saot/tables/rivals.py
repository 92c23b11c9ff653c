"""What SAOT is compared with, as methods of a run: the paper's competitors, ours with the same labels, and bounds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from saot.data import patch_labels
from saot.decoder import Term
from saot.label import (
    UNADJUSTED,
    Bench,
    Builders,
    Contest,
    Scorer,
    Trained,
    TrainingData,
    answers_of,
    chosen_adjustment,
    decided,
    fingerprints,
    joint_decoder,
    label_maps,
    network,
    network_scorer,
    new_cost,
    packed_cost,
    points_pool,
    points_term,
    pull_of,
    refine_terms,
    sample_tokens,
    source_pool,
    source_prototypes,
    source_term,
    taught_decoder,
    unpacked_cost,
)
from saot.recipes import DecoderRecipe
from saot.runs import Kept, Making, generator_for, identity_of
from saot.tables.competitors import (
    TokenBank,
    balanced_transport,
    choose_probe,
    knn,
    label_propagation,
    nearest_neighbor,
    prototype_scores,
    reliable_transport,
    unbalanced_transport,
)
from saot.transfer import LabelTransfer, fill_uncovered, fit_prior, one_hot
from saot.transport import TransportStatus


def run_rivals(contest: Contest) -> Builders:
    """Every method of a run's table that is not SAOT, by name; building one trains it."""
    budget, recipe = contest.data.points.budget, contest.bench.recipe
    builders: dict[str, Callable[[], Scorer]] = {
        "nearest_neighbor": lambda: _nearest(contest),
        "knn_global": lambda: _knn(contest),
        "linear_probe": lambda: _linear_probe(contest, with_points=False),
        "prototypes": lambda: _prototypes(contest),
        "ot": lambda: _fixed_cost(contest, "ot"),
        "uot": lambda: _fixed_cost(contest, "uot"),
        "rwot": lambda: _fixed_cost(contest, "rwot"),
        "label_propagation": lambda: _label_propagation(contest),
        "mlp": lambda: _mlp(contest, "mlp", 0),
        "mlp_ema": lambda: _mlp(contest, "mlp_ema", 0, ema=True),
    }
    if contest.data.points.any:
        builders |= {
            "linear_probe_points": lambda: _linear_probe(contest, with_points=True),
            "mlp_points": lambda: _mlp(contest, "mlp_points", budget, points=True),
            "mlp_points_ema": lambda: _mlp(contest, "mlp_points_ema", budget, points=True, ema=True),
            "semantic_prior": lambda: _semantic_prior(contest),
        }
    if recipe.decoder.points_weight > 0:
        builders["best_no_transport"] = lambda: network_scorer(
            contest, _without_plan(contest.bench, contest.data), "best_no_transport", budget
        )
    if contest.evaluation.truth is not None:
        builders["grid_ceiling"] = lambda: _grid_ceiling(contest)
    if _has_masks(contest):
        builders["oracle"] = lambda: _oracle(contest)
    return builders


def _has_masks(contest: Contest) -> bool:
    """Whether the target's folder has masks at all; they are listed here, not opened."""
    try:
        return len(contest.target_masks()) > 0
    except ValueError:
        return False


def source_bank(bench: Bench, data: TrainingData, size: int) -> TokenBank:
    """A random sample of all labelled source tokens, in random order."""
    pool = source_pool(data.source, data.num_classes)
    order = torch.randperm(len(pool), generator=generator_for(bench.seed, "bank"))[:size]
    tokens, labels = pool.read(order)
    return TokenBank(tokens.float().to(bench.device), labels.to(torch.uint8).to(bench.device))


def _nearest(contest: Contest) -> Scorer:
    bench, data, domain = contest.bench, contest.data, contest.evaluation.domain
    if bench.recipe.baselines.nearest == "bank":
        bank = source_bank(bench, data, bench.recipe.baselines.bank)
        return Scorer(lambda i: nearest_neighbor(bank, domain.tokens(i), data.num_classes), 0)
    similar = contest.similar("test")

    def score(number: int) -> Tensor:
        closest = TokenBank(*data.source.labelled(int(similar[number].argmax())))
        return nearest_neighbor(closest, domain.tokens(number), data.num_classes)

    return Scorer(score, 0)


def _knn(contest: Contest) -> Scorer:
    recipe, data, domain = contest.bench.recipe.baselines, contest.data, contest.evaluation.domain
    bank = source_bank(contest.bench, data, recipe.bank)
    return Scorer(
        lambda i: knn(bank, domain.tokens(i), data.num_classes, recipe.neighbours, recipe.vote_temperature), 0
    )


def _prototypes(contest: Contest) -> Scorer:
    domain, temperature = contest.evaluation.domain, contest.bench.recipe.baselines.prototype_temperature
    prototypes = source_prototypes(contest.bench, contest.data)
    return Scorer(lambda i: prototype_scores(prototypes, domain.tokens(i), temperature), 0)


def _label_propagation(contest: Contest) -> Scorer:
    recipe, domain = contest.bench.recipe.baselines, contest.evaluation.domain
    bank = source_bank(contest.bench, contest.data, recipe.propagation_bank)

    def score(number: int) -> Tensor:
        return label_propagation(
            bank,
            domain.tokens(number),
            contest.data.num_classes,
            recipe.neighbours,
            recipe.propagation_alpha,
            recipe.propagation_steps,
            recipe.vote_temperature,
        )

    return Scorer(score, 0)


def _fixed_cost(contest: Contest, name: str) -> Scorer:
    bench, data, domain = contest.bench, contest.data, contest.evaluation.domain
    similar, recipe = contest.similar("test"), bench.recipe
    statuses: dict[str, str] = {}
    facts: dict[str, Any] = {"statuses": statuses} if name == "ot" else {}

    def score(number: int) -> Tensor:
        source, labels = data.source.labelled(int(similar[number].argmax()))
        target = domain.tokens(number)
        transfer: LabelTransfer
        if name == "ot":
            transfer, result = balanced_transport(
                source, labels, target, data.num_classes, recipe.transport, recipe.baselines.ot_iterations
            )
            statuses[domain.images.keys[number]] = TransportStatus(int(result.status)).name
            facts["notes"] = unsolved_notes(list(statuses.values()))
        else:
            solve = unbalanced_transport if name == "uot" else reliable_transport
            with torch.no_grad():
                transfer = solve(source, labels, target, data.num_classes, recipe.transport)
        return fill_uncovered(transfer, source, labels, target, recipe.transfer.uncovered)

    return Scorer(score, 0, facts=facts)


def unsolved_notes(statuses: Sequence[str]) -> list[str]:
    """A sentence on balanced transport, if its problems had no solution."""
    bad = sum(status != "CONVERGED" for status in statuses)
    if not bad:
        return []
    return [
        f"Balanced OT has no exact solution on {bad} of {len(statuses)} supports (or did not reach it in its "
        "iterations); its row shows the last finite iterate."
    ]


def mlp_network(
    bench: Bench, data: TrainingData, name: str, *, points: bool = False, ema: bool = False, pulled: bool = False
) -> Trained:
    """The MLP on source labels; where asked also on points, on its own pseudo-labels, with the pull loss.

    A competitor has no pull loss.
    """
    terms = [source_term(data)]
    if points:
        terms.append(points_term(data, 1.0))
    decoder = of_tokens(bench.recipe.decoder)
    pull = pull_of(bench, data, decoder) if pulled else None
    return network(bench, data, terms, terms if ema else None, name=name, decoder=decoder, pull=pull)


def _mlp(contest: Contest, name: str, budget: int, *, points: bool = False, ema: bool = False) -> Scorer:
    trained = mlp_network(contest.bench, contest.data, name, points=points, ema=ema)
    return network_scorer(contest, trained, name, budget)


def of_tokens(recipe: DecoderRecipe) -> DecoderRecipe:
    """The decoder of competitors: the recipe's, or the residual MLP where that is finer than the tokens."""
    return dataclasses.replace(recipe, architecture="residual") if recipe.architecture == "fine" else recipe


def _without_plan(bench: Bench, data: TrainingData) -> Trained:
    recipe = bench.recipe
    if data.tail is not None:
        return joint_decoder(bench, data, tau=0.0)
    if recipe.taught.teachers > 0:
        return taught_decoder(bench, data, tau=0.0)
    terms = [source_term(data)]
    if data.points.any:
        terms.append(points_term(data, recipe.decoder.points_weight))
    pull = pull_of(bench, data, recipe.decoder)
    return network(bench, data, terms, refine_terms(bench, data), name="best_no_transport", pull=pull)


def _oracle(contest: Contest) -> Scorer:
    bench, data, target = contest.bench, contest.data, contest.data.target
    masks, ignored = contest.target_masks(all_of_them=True), bench.recipe.transfer.ignored_patches
    content = fingerprints(masks)
    maps = label_maps(bench.space, "oracle labels", masks, target, ignored, content)
    pool = points_pool(dataclasses.replace(data.points.tokens, resample=1, dense=maps), target, data.num_classes)
    terms = [source_term(data), Term("oracle", pool)]
    trained = network(bench, data, terms, None, name="oracle", decoder=of_tokens(bench.recipe.decoder))

    def count(making: Making) -> Kept:
        pixels = sum(int((masks.mask(number) != 255).sum()) for number in range(len(masks)))
        return Kept(facts={"pixels": pixels})

    pixels = bench.space.once("work/oracle-pixels", identity_of(target, content), count).facts["pixels"]
    return Scorer(answers_of(contest, trained.decoder), int(pixels))


def _grid_ceiling(contest: Contest) -> Scorer:
    truth, domain, size = contest.evaluation.truth, contest.evaluation.domain, contest.data.num_classes
    assert truth is not None, "no ceiling without labels"

    def score(number: int) -> Tensor:
        labels = patch_labels(truth.mask(number), domain.grid(number), num_classes=size)
        return one_hot(labels, size, torch.float32)

    return Scorer(score, 0)


def _semantic_prior(contest: Contest) -> Scorer:
    """The semantic prior trained on labelled tokens without transport."""
    bench, data, domain = contest.bench, contest.data, contest.evaluation.domain
    pool = points_pool(data.points.tokens.training(), data.target, data.num_classes)
    size = bench.recipe.cost.points_per_class * data.num_classes

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens, classes = pool.read(pool.draw(size, generator))
        return tokens.float().to(bench.device), classes.to(bench.device)

    prototypes = source_prototypes(bench, data)

    def make(making: Making) -> Kept:
        fit = fit_prior(
            new_cost(bench, data),
            prototypes,
            batch,
            seed=bench.seed,
            checkpoint=making.checkpoint,
            progress=bench.space.tell("semantic prior"),
        )
        making.log(fit.history)
        return packed_cost(fit, data.source.domain.dim)

    identity = identity_of(data.source, pool.identity, bench.recipe.cost, bench.seed)
    kept = bench.space.once(
        "work/models/semantic-prior", identity, make, title="train semantic_prior", log="semantic-prior"
    )
    cost = unpacked_cost(kept).to(bench.device)

    def score(number: int) -> Tensor:
        with torch.no_grad():
            return cost.class_log_probs(domain.tokens(number), prototypes).exp()

    return Scorer(score, data.points.budget)


def _linear_probe(contest: Contest, with_points: bool) -> Scorer:
    bench, data, declared = contest.bench, contest.data, contest.data.points.tokens
    recipe = bench.recipe.baselines
    name = "linear_probe_points" if with_points else "linear_probe"

    def sample(points: Any) -> tuple[Tensor, Tensor]:
        return sample_tokens(points_pool(points, data.target, data.num_classes), recipe.bank, bench.seed)

    with bench.space.stage(f"train {name}"):
        held = held_out_sources(bench, data)
        train = _labelled_tokens(bench, data, set(range(len(data.source))) - held, recipe.bank * 4 // 5)
        judge = _labelled_tokens(bench, data, held, recipe.bank // 5)
        points = judging = None
        if with_points:
            points = sample(declared.training())
            judging = sample(declared.held()) if bool(declared.held_out.any()) else None
        choice = choose_probe(
            train,
            judge,
            data.num_classes,
            recipe.probe_weight_decays,
            recipe.probe_iterations,
            points=points,
            held_out_points=judging,
        )
    facts: dict[str, Any] = {"trials": {name: list(choice.trials)}}
    probe = choice.probe.to(bench.device)
    chosen = chosen_adjustment(bench, data, choice.candidate.to(bench.device)) if with_points else UNADJUSTED
    chosen = decided(bench, data, probe, chosen)
    facts |= {"adjustment": {name: chosen.facts}} if chosen.facts else {}
    return Scorer(answers_of(contest, probe), data.points.budget if with_points else 0, chosen.bias, facts)


def held_out_sources(bench: Bench, data: TrainingData) -> set[int]:
    """A fifth of the labelled source pictures, to choose a probe's settings on; none if there is only one."""
    labelled = [number for number, part in enumerate(data.source.labels) if bool((part != 255).any())]
    order = torch.randperm(len(labelled), generator=generator_for(bench.seed, "held-out sources"))
    count = max(1, len(labelled) // 5) if len(labelled) > 1 else 0
    return {labelled[place] for place in order[:count].tolist()}


def _labelled_tokens(bench: Bench, data: TrainingData, wanted: set[int], size: int) -> tuple[Tensor, Tensor]:
    """A random sample of the labelled tokens of some source pictures; empty where there are none."""
    labels = data.source.labels
    maps = [part if number in wanted else torch.full_like(part, 255) for number, part in enumerate(labels)]
    if not any(bool((part != 255).any()) for part in maps):
        return torch.zeros(0, data.source.domain.dim), torch.zeros(0, dtype=torch.int64)
    return sample_tokens(source_pool(data.source, data.num_classes, maps), size, bench.seed)
