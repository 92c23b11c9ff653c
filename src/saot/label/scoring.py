"""Scoring methods on the evaluation pictures; what is chosen is chosen on held-out declared points."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from saot.certify import class_shares
from saot.data import LabelledSet, Points, write_atomic
from saot.decoder import CELLS, GridDecoder, TokenPool
from saot.evaluate import ConfusionMatrix, expected_iou_bias, method_entry, picture_counts, predict_mask, scores_at
from saot.label.data import Bench, EvaluationData, TrainingData
from saot.label.networks import Trained, points_pool
from saot.label.paper import TrainedCost, source_weights, transfer_from
from saot.runs import Kept, Making, code_version, generator_for, identity_of, room_of, side_by_side

Network = Callable[..., Tensor]  # tokens to logits; a `GridDecoder` wants the grid's rows and columns too
MOST_JUDGED = 50_000  # held-out points that a choice is made on
DECIDED_ON = 1 << 21  # numbers of a network's answers that its decision rests on, spread evenly over the target


def sample_tokens(pool: TokenPool, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """At most `size` tokens of a pool, drawn without regard to their class."""
    tokens, classes = pool.read(_positions(pool, size, seed))
    return tokens.float(), classes


def _positions(pool: TokenPool, size: int, seed: int) -> Tensor:
    return torch.randperm(len(pool), generator=generator_for(seed, "sample", len(pool)))[:size]


@dataclass(frozen=True)
class Adjustment:
    """The logit adjustment chosen for a network.

    Attributes:
        bias: (K,) added to its logits, or None.
        facts: The strengths tried, as JSON values; empty where nothing could be chosen.
    """

    bias: Tensor | None
    facts: dict[str, Any]


UNADJUSTED = Adjustment(None, {})


def chosen_adjustment(
    bench: Bench, data: TrainingData, network: Network, strengths: Sequence[float] | None = None
) -> Adjustment:
    """The logit adjustment that gains most at held-out declared points (E.6, never on what is reported).

    How frequent the classes are is not known, and an adjustment lives on it; so a strength counts by the lesser of its
    gains under two estimates of the shares, those the network predicts and those behind them. None where no strength
    gains under both, or no points are held out: a choice on points a network was trained on says little. The strengths
    are the recipe's unless given.
    """
    strengths = bench.recipe.scores.logit_adjustment if strengths is None else strengths
    judged = None if len(strengths) < 2 else _judged(bench, data, network)
    if judged is None:
        return Adjustment(None, {})
    frequencies = data.source.frequencies(data.num_classes)
    trials = adjustment_trials(judged, frequencies, strengths)
    best = max(trials, key=lambda trial: (trial["gain"], -abs(trial["strength"])))
    bias = None if best["strength"] == 0.0 else adjustment_bias(frequencies, best["strength"])
    return Adjustment(bias, {"chosen": best["strength"], "trials": trials})


@torch.no_grad()
def decided(bench: Bench, data: TrainingData, network: Network, chosen: Adjustment) -> Adjustment:
    """An adjustment that also answers for the largest expected mIoU, by what a network says of the unlabelled target.

    The same where the recipe wants the likeliest class.

    Args:
        bench: Where and how.
        data: The target's pictures.
        network: Its posterior is taken at its word.
        chosen: The adjustment that belongs to it.
    """
    if bench.recipe.scores.decision == "likeliest":
        return chosen
    target, sampled = data.target, []
    quota = max(1, DECIDED_ON // data.num_classes // len(target))
    bias = torch.zeros(data.num_classes) if chosen.bias is None else chosen.bias
    for number in range(len(target)):
        logits = target.logits(network, number).cpu().float()
        some = torch.randperm(len(logits), generator=generator_for(number, "decision"))[:quota]
        sampled.append(logits[some] + bias)
    found = expected_iou_bias(torch.cat(sampled))
    names = data.classes.names
    moved = {name: round(value, 2) for name, value in zip(names, found.tolist(), strict=True)}
    return Adjustment(bias + found, {**chosen.facts, "expected_iou": moved})


def adjustment_bias(frequencies: Tensor, strength: float) -> Tensor:
    """-tau log f_c of appendix E.6; a class the source never has is left where it is."""
    known = frequencies > 0
    logs = torch.where(known, frequencies.clamp_min(1e-300).log(), torch.zeros_like(frequencies))
    return (-strength * logs).float()


@dataclass(frozen=True)
class _Judged:
    """What a network says of the held-out points, and two estimates of how many tokens each class has."""

    logits: Tensor
    classes: Tensor
    predicted: Tensor
    behind: Tensor

    def miou(self, bias: Tensor, shares: Tensor) -> float:
        return estimated_miou(self.classes, (self.logits + bias).argmax(-1), shares)


def adjustment_trials(judged: _Judged, frequencies: Tensor, strengths: Sequence[float]) -> list[dict[str, float]]:
    """Each strength with its estimated mIoU and the lesser of its gains under the two estimates of the shares."""
    trials = []
    for strength in strengths:
        bias = adjustment_bias(frequencies, strength)
        gains = [judged.miou(bias, s) - judged.miou(0 * bias, s) for s in (judged.predicted, judged.behind)]
        trials.append({"strength": strength, "miou": judged.miou(bias, judged.behind), "gain": min(gains)})
    return trials


def held_out_scores(bench: Bench, data: TrainingData, network: Network, biases: Sequence[Tensor]) -> list[float] | None:
    """Estimated mIoU at held-out declared points, with each bias added; None where no point is held out.

    Points are drawn class by class, so their confusion matrix says how often class c is taken for class k, not how
    frequent c is; the rows are therefore weighted by the shares of the classes behind what the network predicts on the
    unlabelled target, its confusions taken back out (`saot.evaluate.class_shares`).
    """
    judged = _judged(bench, data, network)
    return None if judged is None else [judged.miou(bias, judged.behind) for bias in biases]


def _judged(bench: Bench, data: TrainingData, network: Network) -> _Judged | None:
    judge = data.points.tokens.held()
    if len(judge) == 0:
        return None
    predicted = torch.zeros(data.num_classes, dtype=torch.float64)
    for number in range(len(data.target)):
        part = data.target.logits(network, number).argmax(-1).cpu()
        predicted += torch.bincount(part, minlength=data.num_classes).double()
    if isinstance(network, CELLS):
        parts = [logits_at_points(data, network, number) for number in judge.picture.unique().tolist()]
        logits, classes = (torch.cat(part) for part in zip(*parts, strict=True))
    else:
        pool = points_pool(judge, data.target, data.num_classes)
        positions = _positions(pool, MOST_JUDGED, bench.seed)
        logits, classes = _logits_at(data, network, pool, positions), pool.label[positions].long()
    return _Judged(logits, classes, predicted, shares_behind(predicted, classes, logits.argmax(-1)))


def shares_behind(frequencies: Tensor, classes: Tensor, predicted: Tensor) -> Tensor:
    """(K,) tokens of each class behind the frequencies of predictions, from how points of each class are taken.

    Example:
        >>> classes, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])  # half of class 1 is missed
        >>> shares_behind(torch.tensor([75.0, 25.0]), classes, predicted).round()
        tensor([50., 50.], dtype=torch.float64)
    """
    confusion = ConfusionMatrix(len(frequencies))
    confusion.update(predicted, classes)
    present = torch.ones(len(frequencies), dtype=torch.bool)
    return frequencies.sum() * class_shares(frequencies, confusion.counts, present)


def _logits_at(data: TrainingData, network: Network, pool: TokenPool, positions: Tensor) -> Tensor:
    """Logits of single target tokens; a decoder that looks at neighbours sees their whole pictures."""
    if not isinstance(network, GridDecoder):
        with torch.no_grad():
            return network(pool.read(positions)[0].float().to(data.target.device)).cpu()
    logits = torch.zeros(len(positions), data.num_classes)
    pictures, tokens = pool.picture[positions], pool.token[positions].long()
    for number in pictures.unique().tolist():
        mine = pictures == number
        logits[mine] = data.target.logits(network, number).cpu()[tokens[mine]]
    return logits


def logits_at_points(data: TrainingData, network: Network, number: int) -> tuple[Tensor, Tensor]:
    """Logits (p, K) and classes (p,) of the declared points of a target picture, at their own pixels."""
    x, y, labels = data.points.pixels.of(data.target.images.keys[number])
    scores = data.target.logits(network, number).cpu()
    return scores_at(scores, data.target.grid(number), y, x).float(), labels.long()


def estimated_miou(classes: Tensor, predicted: Tensor, shares: Tensor) -> float:
    """mIoU of a confusion matrix whose rows come from class-balanced points and whose weights are `shares`.

    Args:
        classes: True class of each point.
        predicted: Class it is taken for.
        shares: (K,) tokens of each class; a class that has a point has at least one.

    Example:
        >>> estimated_miou(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([3.0, 1.0]).double())
        1.0
    """
    size = len(shares)
    counts = torch.bincount(classes * size + predicted, minlength=size * size).view(size, size).double()
    seen = counts.sum(1)
    rows = counts / seen.clamp_min(1).unsqueeze(-1) * shares.clamp_min(1.0).unsqueeze(-1)
    rows = rows * (seen > 0).unsqueeze(-1)
    hits, truth = rows.diagonal(), rows.sum(1)
    iou = hits / (truth + rows.sum(0) - hits).clamp_min(1e-12)
    return float(iou[seen > 0].mean())


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
        cost: The learned cost; trained when first asked for.
        decoder: SAOT's decoder; trained when first asked for.
        similar: "test" or "target" to the cosine of its pictures' global embeddings with the source's.
        members: The contest at each of several input sizes, most tokens first; empty where there is one size.
        before: The network that the decoder goes on from, and the declared points that it has not learned from; None
            where it is trained from the beginning.
    """

    bench: Bench
    data: TrainingData
    evaluation: EvaluationData
    target_masks: Callable[..., LabelledSet]
    cost: Callable[[], TrainedCost]
    decoder: Callable[[], Trained]
    similar: Callable[[str], Tensor]
    members: Mapping[str, "Contest"] = field(default_factory=dict)
    before: tuple[Trained, Points] | None = None


Compare = Literal["none", "points", "all"]
COMPARISONS: tuple[Compare, ...] = ("none", "points", "all")  # each holds the one before
SAME_LABELS = (
    "saot",
    "saot_multi",
    "saot_decoder",
    "linear_probe_points",
    "mlp_points",
    "mlp_points_ema",
    "semantic_prior",
    "best_no_transport",
)  # methods that see the declared points too

LONGEST = (
    "saot",
    "best_no_transport",
    "oracle",
    "linear_probe_points",
    "mlp_points",
    "linear_probe",
    "mlp",
)  # scored first, so that what builds on their trainings need not wait for them

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
        edges: As `counts`, of the pixels near an edge of the truth alone.
    """

    counts: Int64[Tensor, "N K K"] | None
    masks: dict[int, UInt8[Tensor, "..."]]
    budget: int
    bias: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    edges: Int64[Tensor, "N K K"] | None = None

    @property
    def matrix(self) -> ConfusionMatrix | None:
        """Counts of the whole set."""
        return None if self.counts is None else confusion_of(self.counts.sum(0))

    @property
    def at_edges(self) -> ConfusionMatrix | None:
        """The same near edges."""
        return None if self.edges is None else confusion_of(self.edges.sum(0))


def all_methods(contest: Contest, rivals: Rivals | None) -> Builders:
    """SAOT's own methods and those handed in."""
    return {**({} if rivals is None else rivals(contest)), **own_methods(contest)}


def own_methods(contest: Contest) -> Builders:
    """SAOT with one source and with several, and its decoder; building one trains it."""
    multi = contest.bench.recipe.transfer.multi_sources
    return {
        "saot": lambda: _saot(contest, 1),
        "saot_multi": lambda: _saot(contest, multi),
        "saot_decoder": lambda: _saot_decoder(contest),
    }


def _saot_decoder(contest: Contest) -> Scorer:
    trained, budget = contest.decoder(), contest.data.points.budget
    if contest.members:  # each size has brought its own logit adjustment
        chosen = decided(contest.bench, contest.data, trained.decoder, UNADJUSTED)
        facts = {"adjustment": {"saot_decoder": chosen.facts}} if chosen.facts else {}
        return Scorer(answers_of(contest, trained.decoder), budget, chosen.bias, facts)
    return network_scorer(contest, trained, "saot_decoder", budget)


def _saot(contest: Contest, sources: int) -> Scorer:
    bench, data, domain = contest.bench, contest.data, contest.evaluation.domain
    recipe = bench.recipe.transfer
    cost, similar = contest.cost().cost, contest.similar("test")
    settings = (bench.recipe.transport, data.num_classes, recipe.uncovered)
    shares: dict[str, float] = {}

    def score(number: int) -> Tensor:
        chosen = source_weights(similar[number], sources, recipe.source_temperature)
        probs, transfer = transfer_from(data.source, cost, (domain, number), chosen, settings)
        shares[domain.images.keys[number]] = round(float((~transfer.covered).float().mean()), 6)
        return probs

    return Scorer(score, data.points.budget, facts={"uncovered_share": shares})


def network_scorer(contest: Contest, trained: Trained, name: str, budget: int) -> Scorer:
    """A network as a method; its logit adjustment is chosen on held-out points where the method may see any."""
    bench, data, network = contest.bench, contest.data, trained.decoder
    chosen = UNADJUSTED if budget == 0 else chosen_adjustment(bench, data, network)
    chosen = decided(bench, data, network, chosen)
    facts = {"adjustment": {name: chosen.facts}} if chosen.facts else {}
    return Scorer(answers_of(contest, network), budget, chosen.bias, facts)


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
    """Scores of these methods, and why one was left out; those already on disk are read, not made again.

    Two at a time on a CPU, after the decoder.
    """
    scores: dict[str, MethodScores] = {}
    left_out: dict[str, str] = {}

    def score(name: str) -> None:
        try:
            scores[name] = score_method(contest, name, builders[name])
        except ValueError as error:
            if name != "oracle":
                raise
            left_out[name] = str(error)  # a bad target mask costs this row alone

    others = [name for name in builders if name != "saot_decoder"]
    if len(others) < len(builders):
        score("saot_decoder")
    longest = [name for name in LONGEST if name in others]
    jobs = [partial(score, name) for name in [*longest, *(name for name in others if name not in longest)]]
    side_by_side(jobs, contest.bench.device, at_once=2)
    return {name: scores[name] for name in builders if name in scores}, left_out


def score_method(contest: Contest, name: str, build: Callable[[], Scorer]) -> MethodScores:
    """Counts of one method, the masks that the report shows, and its logit adjustment, if any."""
    bench, evaluation = contest.bench, contest.evaluation
    domain, truth = evaluation.domain, evaluation.truth

    def make(making: Making) -> Kept:
        scorer = build()
        shown, counts, tensors = set(spread_pictures(len(domain))), [], {"budget": torch.tensor(scorer.budget)}
        edges: list[Tensor] = []
        title = f"score {name}"
        with bench.space.stage(title, resumes=False):
            for number in range(len(domain)):
                if truth is None and number not in shown:
                    continue
                mask = predict_mask(scorer.score(number).cpu(), domain.grid(number), scorer.bias)
                if truth is not None:
                    whole, near = picture_counts(mask, truth.mask(number), contest.data.num_classes)
                    counts.append(whole)
                    edges.append(near)
                if number in shown:
                    tensors[f"mask-{number:06d}"] = mask
                bench.space.tell(title)(number + 1, len(domain))
        tensors |= {"counts": torch.stack(counts), "edges": torch.stack(edges)} if counts else {}
        tensors |= {"bias": scorer.bias} if scorer.bias is not None else {}
        return Kept(tensors, scorer.facts)

    identity = identity_of(name, contest.data, evaluation, bench.recipe, bench.seed, code_version(room_of(build)))
    kept = bench.space.once(f"work/scores/{name}", identity, make)
    tensors = kept.tensors
    masks = {int(key.removeprefix("mask-")): mask for key, mask in tensors.items() if key.startswith("mask-")}
    bias, edges = tensors.get("bias"), tensors.get("edges")
    return MethodScores(tensors.get("counts"), masks, int(tensors["budget"]), bias, kept.facts, edges)


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
        "methods": {
            name: method_entry(one.matrix, data.classes, one.budget, one.at_edges) for name, one in scores.items()
        },
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


def compared(builders: Builders, compare: Compare) -> Builders:
    """Those that `compare` asks for: the decoder alone, what sees the same labels, or all; in the table's order."""
    wanted = tuple(builders) if compare == "all" else methods_of(compare)
    return {name: build for name, build in ordered(builders).items() if name in wanted}


def methods_of(compare: Compare) -> Sequence[str]:
    """The names of the methods that `compare` asks for, as far as they are known here."""
    return {"none": ("saot_decoder",), "points": SAME_LABELS, "all": ORDER}[compare]


def chosen_methods(builders: Builders, names: Sequence[str]) -> Builders:
    """The builders of these methods, in this order.

    Raises:
        ValueError: If there is no such method.
    """
    unknown = [name for name in names if name not in builders]
    if unknown:
        raise ValueError(f"expected methods of this run among {', '.join(builders)}; got {', '.join(unknown)}")
    return {name: builders[name] for name in names}
