"""Scoring methods on the evaluation pictures: counts for the table, masks for the report."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from saot.data import LabelledSet, write_atomic
from saot.evaluate import ConfusionMatrix, method_entry, predict_mask
from saot.label.best import saot_decoder
from saot.label.choice import Network, chosen_adjustment
from saot.label.data import Bench, EvaluationData, TrainingData
from saot.label.networks import Trained
from saot.label.paper import learned_cost, similarities, source_weights, transfer_from
from saot.runs import Kept, Making, code_version, identity_of, room_of

PANELS = 6
ORDER = [
    "nearest_neighbor",
    "knn_global",
    "linear_probe",
    "prototypes",
    "ot",
    "uot",
    "rwot",
    "label_propagation",
    "saot",
    "saot_multi",
    "saot_decoder",
    "mlp",
    "mlp_ema",
    "linear_probe_points",
    "mlp_points",
    "mlp_points_ema",
    "semantic_prior",
    "best_no_transport",
    "grid_ceiling",
    "oracle",
]  # of metrics.json; further methods stand behind these


@dataclass(frozen=True)
class Scorer:
    """A method, ready to score.

    Attributes:
        score: Picture number of the evaluation set to token scores (n, K), finite.
        budget: Target labels the method has seen.
        bias: Added to the upsampled scores (logit adjustment), or None.
        facts: What the method has to say for run.json; may grow while it scores.
    """

    score: Callable[[int], Tensor]
    budget: int
    bias: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contest:
    """What a method may use: all there is to learn from, and the pictures it answers for.

    Attributes:
        bench: Where and how.
        data: What may be learned from.
        evaluation: What is scored; a method looks at its pictures alone.
        target_masks: Opens the target's masks, for the oracle; `all_of_them=True` wants one of every picture.
    """

    bench: Bench
    data: TrainingData
    evaluation: EvaluationData
    target_masks: Callable[..., LabelledSet]


Builders = Mapping[str, Callable[[], Scorer]]
Rivals = Callable[[Contest], Builders]


@dataclass(frozen=True)
class MethodScores:
    """What scoring one method left behind.

    Attributes:
        counts: (N, K, K) of each picture, rows truth; None without evaluation labels.
        masks: Predicted masks of the pictures the report shows, by picture number.
        budget: Target labels the method has seen.
        bias: Logit adjustment, or None.
        facts: What the method had to say.
    """

    counts: Int64[Tensor, "N K K"] | None
    masks: dict[int, UInt8[Tensor, "..."]]
    budget: int
    bias: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def matrix(self) -> ConfusionMatrix | None:
        """Counts of the whole set."""
        return None if self.counts is None else confusion_of(self.counts.sum(0))


def own_methods(contest: Contest) -> Builders:
    """SAOT with one source and with several, and its decoder; building one trains it."""
    bench, data = contest.bench, contest.data
    multi = bench.recipe.transfer.multi_sources
    return {
        "saot": lambda: _saot(contest, 1),
        "saot_multi": lambda: _saot(contest, multi),
        "saot_decoder": lambda: network_scorer(contest, saot_decoder(bench, data), "saot_decoder", data.points.budget),
    }


def _saot(contest: Contest, sources: int) -> Scorer:
    bench, data, domain = contest.bench, contest.data, contest.evaluation.domain
    recipe = bench.recipe.transfer
    cost, similar = learned_cost(bench, data).cost, similarities(bench, data.source, domain, "test")
    settings = (bench.recipe.transport, data.num_classes, recipe.uncovered)
    shares: dict[str, float] = {}

    def score(number: int) -> Tensor:
        chosen = source_weights(similar[number], sources, recipe.source_temperature)
        probs, transfer = transfer_from(data.source, cost, domain.tokens(number), chosen, settings)
        shares[domain.images.keys[number]] = round(float((~transfer.covered).float().mean()), 6)
        return probs

    return Scorer(score, data.points.budget, facts={"uncovered_share": shares})


def network_scorer(contest: Contest, trained: Trained, name: str, budget: int) -> Scorer:
    """A network as a method; its logit adjustment is chosen on held-out points where the method may see any."""
    if budget == 0:
        return Scorer(answers_of(contest, trained.decoder), 0)
    chosen = chosen_adjustment(contest.bench, contest.data, trained.decoder)
    facts = {"adjustment": {name: chosen.facts}} if chosen.facts else {}
    return Scorer(answers_of(contest, trained.decoder), budget, chosen.bias, facts)


def answers_of(contest: Contest, network: Network) -> Callable[[int], Tensor]:
    """What a network says of the tokens of an evaluation picture."""
    upsample = contest.bench.recipe.scores.upsample

    def score(number: int) -> Tensor:
        logits = contest.evaluation.domain.logits(network, number)
        return torch.softmax(logits, dim=-1) if upsample == "probs" else logits

    return score


def spread_pictures(total: int) -> list[int]:
    """At most `PANELS` numbers below `total`, evenly spread.

    Example:
        >>> spread_pictures(3), spread_pictures(12)
        ([0, 1, 2], [0, 2, 4, 6, 8, 10])
    """
    count = min(PANELS, total)
    return [round((k + 0.5) * total / count - 0.5) for k in range(count)]


def score_methods(contest: Contest, builders: Builders) -> tuple[dict[str, MethodScores], dict[str, str]]:
    """Scores of these methods, and why one was left out; those already on disk are read, not made again."""
    scores, left_out = {}, {}
    for name in builders:
        try:
            scores[name] = score_method(contest, name, builders[name])
        except ValueError as error:
            if name != "oracle":
                raise
            left_out[name] = str(error)  # a bad target mask costs this row alone
    return scores, left_out


def score_method(contest: Contest, name: str, build: Callable[[], Scorer]) -> MethodScores:
    """Counts of one method, the masks that the report shows, and its logit adjustment, if any."""
    bench, evaluation = contest.bench, contest.evaluation
    domain, truth = evaluation.domain, evaluation.truth

    def make(making: Making) -> Kept:
        scorer = build()
        shown, counts, tensors = set(spread_pictures(len(domain))), [], {"budget": torch.tensor(scorer.budget)}
        title = f"score {name}"
        with bench.space.stage(title, resumes=False):
            for number in range(len(domain)):
                if truth is None and number not in shown:
                    continue
                mask = predict_mask(scorer.score(number).cpu(), domain.grid(number), scorer.bias)
                if truth is not None:
                    matrix = ConfusionMatrix(contest.data.num_classes)
                    matrix.update(mask, torch.from_numpy(truth.mask(number)))
                    counts.append(matrix.counts)
                if number in shown:
                    tensors[f"mask-{number:06d}"] = mask
                bench.space.tell(title)(number + 1, len(domain))
        tensors |= {"counts": torch.stack(counts)} if counts else {}
        tensors |= {"bias": scorer.bias} if scorer.bias is not None else {}
        return Kept(tensors, scorer.facts)

    identity = identity_of(name, contest.data, evaluation, bench.recipe, bench.seed, code_version(room_of(build)))
    kept = bench.space.once(f"work/scores/{name}", identity, make)
    tensors = kept.tensors
    masks = {int(key.removeprefix("mask-")): mask for key, mask in tensors.items() if key.startswith("mask-")}
    return MethodScores(tensors.get("counts"), masks, int(tensors["budget"]), tensors.get("bias"), kept.facts)


def confusion_of(counts: Tensor) -> ConfusionMatrix:
    """The confusion matrix of these counts."""
    return ConfusionMatrix.from_list(counts.tolist())


def write_metrics(
    path: Path, data: TrainingData, evaluation: EvaluationData, scores: Mapping[str, MethodScores]
) -> dict[str, Any]:
    """metrics.json: the contract's table, without times, so that an interrupted run ends with the same bytes."""
    metrics = {
        "classes": list(data.classes.names),
        "split": evaluation.split,
        "images": len(evaluation) if evaluation.truth is not None else 0,
        "methods": {name: method_entry(one.matrix, data.classes, one.budget) for name, one in scores.items()},
    }
    write_atomic(path, (json.dumps(metrics, indent=1) + "\n").encode())
    return metrics


def joined_facts(scores: Mapping[str, MethodScores], name: str) -> dict[str, Any]:
    """What all methods said under one name, as one mapping."""
    found: dict[str, Any] = {}
    for one in scores.values():
        found |= one.facts.get(name, {})
    return found


def ordered(builders: Builders) -> Builders:
    """The same in the order of metrics.json."""
    return dict(sorted(builders.items(), key=lambda one: ORDER.index(one[0]) if one[0] in ORDER else len(ORDER)))


def chosen_methods(builders: Builders, names: Sequence[str]) -> Builders:
    """The builders of these methods, in this order.

    Raises:
        ValueError: If there is no such method.
    """
    unknown = [name for name in names if name not in builders]
    if unknown:
        raise ValueError(f"expected methods of this run among {', '.join(builders)}; got {', '.join(unknown)}")
    return {name: builders[name] for name in names}
