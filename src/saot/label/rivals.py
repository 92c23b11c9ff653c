"""How every method of the table scores one picture. Names and order are the contract's."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saot.data import patch_labels
from saot.decoder import Decoder
from saot.label.best import taught_decoder
from saot.label.choice import Network, chosen_adjustment, sample_tokens
from saot.label.competitors import (
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
from saot.label.decoders import refine_terms, saot_decoder
from saot.label.inputs import target_labels
from saot.label.job import Job, merge_facts, source_weights
from saot.label.networks import has_points, network, oracle_term, points_pool, points_term, source_pool, source_term
from saot.label.paper import learned_cost, prior_alone, similarities, source_prototypes, transfer_from
from saot.label.pull import pull_of
from saot.recipes import DecoderRecipe
from saot.runs import generator_for
from saot.transfer import LabelTransfer, fill_uncovered, one_hot
from saot.transport import TransportStatus


@dataclass(frozen=True)
class Scorer:
    """A method, ready to score.

    Attributes:
        score: Picture number of the evaluation set to token scores (n, K), finite.
        budget: Target labels the method has seen.
        bias: Added to the upsampled scores (logit adjustment), or None.
    """

    score: Callable[[int], Tensor]
    budget: int
    bias: Tensor | None = None


def method_builders(job: Job) -> dict[str, Callable[[], Scorer]]:
    """What can be scored in this run, by name; building one trains it."""
    builders: dict[str, Callable[[], Scorer]] = {
        "nearest_neighbor": lambda: _nearest(job),
        "knn_global": lambda: _knn(job),
        "linear_probe": lambda: _linear_probe(job, with_points=False),
        "prototypes": lambda: _prototypes(job),
        "ot": lambda: _fixed_cost(job, "ot"),
        "uot": lambda: _fixed_cost(job, "uot"),
        "rwot": lambda: _fixed_cost(job, "rwot"),
        "label_propagation": lambda: _label_propagation(job),
        "saot": lambda: _saot(job, 1, "saot"),
        "saot_multi": lambda: _saot(job, job.recipe.transfer.multi_sources, "saot_multi"),
        "saot_decoder": lambda: network_scorer(job, saot_decoder(job), "saot_decoder", job.label_budget),
        "mlp": lambda: network_scorer(job, mlp_network(job, "mlp"), "mlp", 0),
        "mlp_ema": lambda: network_scorer(job, mlp_network(job, "mlp_ema", ema=True), "mlp_ema", 0),
    }
    if has_points(job):
        budget = job.label_budget
        builders |= {
            "linear_probe_points": lambda: _linear_probe(job, with_points=True),
            "mlp_points": lambda: network_scorer(
                job, mlp_network(job, "mlp_points", points=True), "mlp_points", budget
            ),
            "mlp_points_ema": lambda: network_scorer(
                job, mlp_network(job, "mlp_points_ema", points=True, ema=True), "mlp_points_ema", budget
            ),
            "semantic_prior": lambda: _semantic_prior(job),
        }
    if job.recipe.decoder.points_weight > 0:
        builders["best_no_transport"] = lambda: network_scorer(
            job, _without_plan(job), "best_no_transport", job.label_budget
        )
    if job.truth is not None:
        builders["grid_ceiling"] = lambda: _grid_ceiling(job)
    if _has_masks(job):
        builders["oracle"] = lambda: _oracle(job)
    return builders


def _has_masks(job: Job) -> bool:
    """Whether the target's folder has masks at all; they are listed here, not opened."""
    try:
        return len(target_labels(job.settings, job.inputs)) > 0
    except ValueError:
        return False


def source_bank(job: Job, size: int) -> TokenBank:
    """A random sample of all labelled source tokens, in random order."""
    pool = source_term(job).pool
    order = torch.randperm(len(pool), generator=generator_for(job.settings.seed, "bank"))[:size]
    tokens, labels = pool.read(order)
    device = job.source.device
    return TokenBank(tokens.float().to(device), labels.to(torch.uint8).to(device))


def _nearest(job: Job) -> Scorer:
    recipe = job.recipe.baselines
    if recipe.nearest == "bank":
        bank = source_bank(job, recipe.bank)
        return Scorer(lambda i: nearest_neighbor(bank, job.test.tokens(i), job.num_classes), 0)
    similar = similarities(job, "test")

    def score(number: int) -> Tensor:
        bank = TokenBank(*job.labelled_source(int(similar[number].argmax())))
        return nearest_neighbor(bank, job.test.tokens(number), job.num_classes)

    return Scorer(score, 0)


def _knn(job: Job) -> Scorer:
    recipe, bank = job.recipe.baselines, source_bank(job, job.recipe.baselines.bank)
    return Scorer(
        lambda i: knn(bank, job.test.tokens(i), job.num_classes, recipe.neighbours, recipe.vote_temperature), 0
    )


def _prototypes(job: Job) -> Scorer:
    prototypes, temperature = source_prototypes(job), job.recipe.baselines.prototype_temperature
    return Scorer(lambda i: prototype_scores(prototypes, job.test.tokens(i), temperature), 0)


def _label_propagation(job: Job) -> Scorer:
    recipe = job.recipe.baselines
    bank = source_bank(job, recipe.propagation_bank)

    def score(number: int) -> Tensor:
        return label_propagation(
            bank,
            job.test.tokens(number),
            job.num_classes,
            recipe.neighbours,
            recipe.propagation_alpha,
            recipe.propagation_steps,
            recipe.vote_temperature,
        )

    return Scorer(score, 0)


def _fixed_cost(job: Job, name: str) -> Scorer:
    similar, transport = similarities(job, "test"), job.recipe.transport
    statuses: dict[str, str] = {}

    def score(number: int) -> Tensor:
        chosen = int(similar[number].argmax())
        source, labels = job.labelled_source(chosen)
        target = job.test.tokens(number)
        transfer: LabelTransfer
        if name == "ot":
            transfer, result = balanced_transport(
                source, labels, target, job.num_classes, transport, job.recipe.baselines.ot_iterations
            )
            statuses[job.test.images.keys[number]] = TransportStatus(int(result.status)).name
            merge_facts(job.space, "ot", {"statuses": statuses})
        else:
            solve = unbalanced_transport if name == "uot" else reliable_transport
            with torch.no_grad():
                transfer = solve(source, labels, target, job.num_classes, transport)
        return fill_uncovered(transfer, source, labels, target, job.recipe.transfer.uncovered)

    return Scorer(score, 0)


def _saot(job: Job, sources: int, name: str) -> Scorer:
    cost, similar, temperature = learned_cost(job), similarities(job, "test"), job.recipe.transfer.source_temperature
    shares: dict[str, float] = {}

    def score(number: int) -> Tensor:
        index, weights = source_weights(similar[number], sources, temperature)
        probs, transfer = transfer_from(job, cost, job.test.tokens(number), index.tolist(), weights)
        shares[job.test.images.keys[number]] = round(float((~transfer.covered).float().mean()), 6)
        merge_facts(job.space, name, {"uncovered_share": shares})
        return probs

    return Scorer(score, job.label_budget)


def mlp_network(job: Job, name: str, *, points: bool = False, ema: bool = False, pulled: bool = False) -> Decoder:
    """The MLP on source labels; where asked also on points, on its own pseudo-labels, with the pull loss.

    A competitor has no pull loss.
    """
    terms = [source_term(job)]
    if points:
        terms.append(points_term(job, 1.0))
    decoder = of_tokens(job)
    pull = pull_of(job, decoder) if pulled else None
    return network(job, terms, terms if ema else None, name=name, decoder=decoder, pull=pull)


def of_tokens(job: Job) -> DecoderRecipe:
    """The decoder of competitors: the recipe's, or the residual MLP where that is finer than the tokens."""
    recipe = job.recipe.decoder
    return dataclasses.replace(recipe, architecture="residual") if recipe.architecture == "fine" else recipe


def _without_plan(job: Job) -> Network:
    if job.recipe.taught.teachers > 0:
        return taught_decoder(job, tau=0.0)
    terms = [source_term(job)]
    if has_points(job):
        terms.append(points_term(job, job.recipe.decoder.points_weight))
    pull = pull_of(job, job.recipe.decoder)
    return network(job, terms, refine_terms(job), name="best_no_transport", pull=pull)


def _oracle(job: Job) -> Scorer:
    decoder = network(job, [source_term(job), oracle_term(job)], None, name="oracle", decoder=of_tokens(job))
    facts = job.space.facts("oracle")
    if "pixels" not in facts:
        labelled = target_labels(job.settings, job.inputs)
        pixels = sum(int((labelled.mask(number) != 255).sum()) for number in range(len(labelled)))
        facts = {"pixels": pixels}
        job.space.set_facts("oracle", facts)
    return Scorer(_forward(job, decoder), int(facts["pixels"]))


def _grid_ceiling(job: Job) -> Scorer:
    truth = job.truth
    assert truth is not None, "no ceiling without labels"

    def score(number: int) -> Tensor:
        labels = patch_labels(truth.mask(number), job.test.grid(number), num_classes=job.num_classes)
        return one_hot(labels, job.num_classes, torch.float32)

    return Scorer(score, 0)


def _semantic_prior(job: Job) -> Scorer:
    pool = points_pool(job, job.points.training())
    size = job.recipe.cost.points_per_class * job.num_classes

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens, classes = pool.read(pool.draw(size, generator))
        return tokens.float().to(job.source.device), classes.to(job.source.device)

    with job.space.stage("train semantic_prior"):
        cost, prototypes = prior_alone(job, batch)

    def score(number: int) -> Tensor:
        with torch.no_grad():
            return cost.class_log_probs(job.test.tokens(number), prototypes).exp()

    return Scorer(score, job.label_budget)


def _forward(job: Job, decoder: Network) -> Callable[[int], Tensor]:
    def score(number: int) -> Tensor:
        logits = job.test.logits(decoder, number)
        return torch.softmax(logits, dim=-1) if job.recipe.scores.upsample == "probs" else logits

    return score


def network_scorer(job: Job, decoder: Network, name: str, budget: int) -> Scorer:
    """A network as a method; its logit adjustment is chosen on held-out points where the method may see any."""
    bias = chosen_adjustment(job, decoder, name) if budget > 0 else None
    return Scorer(_forward(job, decoder), budget, bias)


def _linear_probe(job: Job, with_points: bool) -> Scorer:
    recipe = job.recipe.baselines
    name = "linear_probe_points" if with_points else "linear_probe"
    with job.space.stage(f"train {name}"):
        held = held_out_sources(job)
        train = _labelled_tokens(job, [n for n in range(len(job.source)) if n not in held], recipe.bank * 4 // 5)
        judge = _labelled_tokens(job, sorted(held), recipe.bank // 5)
        points = judging = None
        if with_points:
            points = sample_tokens(points_pool(job, job.points.training()), recipe.bank, job.settings.seed)
            if bool(job.points.held_out.any()):
                judging = sample_tokens(points_pool(job, job.points.held()), recipe.bank, job.settings.seed)
        choice = choose_probe(
            train,
            judge,
            job.num_classes,
            recipe.probe_weight_decays,
            recipe.probe_iterations,
            points=points,
            held_out_points=judging,
        )
    merge_facts(job.space, "trials", {name: list(choice.trials)})
    probe = choice.probe.to(job.source.device)
    bias = chosen_adjustment(job, choice.candidate.to(job.source.device), name) if with_points else None
    return Scorer(_forward(job, probe), job.label_budget if with_points else 0, bias)


def held_out_sources(job: Job) -> set[int]:
    """A fifth of the labelled source pictures, to choose a probe's settings on; none if there is only one."""
    labelled = [number for number, part in enumerate(job.source_labels) if bool((part != 255).any())]
    order = torch.randperm(len(labelled), generator=generator_for(job.settings.seed, "held-out sources"))
    count = max(1, len(labelled) // 5) if len(labelled) > 1 else 0
    return {labelled[place] for place in order[:count].tolist()}


def _labelled_tokens(job: Job, numbers: list[int], size: int) -> tuple[Tensor, Tensor]:
    """A random sample of the labelled tokens of some source pictures; empty where there are none."""
    wanted = set(numbers)
    maps = [part if number in wanted else torch.full_like(part, 255) for number, part in enumerate(job.source_labels)]
    if not any(bool((part != 255).any()) for part in maps):
        return torch.zeros(0, job.source.dim), torch.zeros(0, dtype=torch.int64)
    return sample_tokens(source_pool(job, maps), size, job.settings.seed)


def unsolved_warning(job: Job) -> str | None:
    """A sentence on balanced transport, if its problems had no solution."""
    statuses = list(job.space.facts("ot").get("statuses", {}).values())
    bad = sum(status != "CONVERGED" for status in statuses)
    if not bad:
        return None
    return (
        f"Balanced OT has no exact solution on {bad} of {len(statuses)} supports (or did not reach it in its "
        "iterations); its row shows the last finite iterate."
    )
