"""What SAOT and its decoder say at single pixels: of held-out declared points, and of evaluation pictures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saot.certify import SCORE_LIMIT, ScoreHistogram, class_shares, log_odds
from saot.data import PatchGrid
from saot.decoder import Decoder
from saot.evaluate import ConfusionMatrix, scores_at
from saot.label.best import saot_decoder
from saot.label.domains import Domain
from saot.label.paper import learned_cost, similarities
from saot.label.scoring import Contest
from saot.transfer import SemanticCost, fill_uncovered, solve_pair, transfer_labels

METHODS = ("saot_decoder", "saot")
LEVELS = 50  # candidate thresholds: quantiles of unlabelled pixels
LEVEL_PICTURES = 8  # target pictures the quantiles are taken of
MOST_PIXELS = 200_000  # of a picture; larger ones are read on a regular sub-grid of pixels


@dataclass(frozen=True)
class Answers:
    """What the methods say at some pixels of a picture.

    Attributes:
        log_probs: Method -> (p, K), log-probabilities; the largest is the mask's class.
        mass: (p,) log of the mass a token received over its weight; unmatched mass is 1 - exp(mass).
    """

    log_probs: dict[str, Float64[Tensor, "p K"]]
    mass: Float64[Tensor, " p"]

    def confidence(self, name: str) -> Float64[Tensor, " p"]:
        """Log odds of the chosen class."""
        return log_odds(self.log_probs[name].amax(-1).exp().clamp_max(1.0))


@dataclass(frozen=True)
class Held:
    """The held-out declared points, and the unlabelled pixels that candidates and weights come from.

    Attributes:
        answers: At the points' own pixels.
        classes: (p,) declared classes.
        picture: (p,) target picture of each.
        predicted: Method -> (pictures, K) pixels of each held-out picture by predicted class.
        levels: Method -> candidate thresholds, log odds.
        frequency: Method -> (K,) the same on other target pictures.
    """

    answers: Answers
    classes: Int64[Tensor, " p"]
    picture: Int64[Tensor, " p"]
    predicted: dict[str, Float64[Tensor, "pictures K"]]
    levels: dict[str, Float64[Tensor, " t"]]
    frequency: dict[str, Float64[Tensor, " K"]]

    def wrong(self, name: str) -> Bool[Tensor, " p"]:
        """Where the method misses the declared class."""
        return self.answers.log_probs[name].argmax(-1) != self.classes

    def confusion(self, name: str) -> Int64[Tensor, "K K"]:
        """Points by (declared class, prediction)."""
        matrix = ConfusionMatrix(len(self.frequency[name]))
        matrix.update(self.answers.log_probs[name].argmax(-1), self.classes)
        return matrix.counts

    def weights(self, name: str) -> Float64[Tensor, " p"]:
        """Points weighted so that each class counts by its estimated share of the target's pixels; they sum to 1."""
        size = len(self.frequency[name])
        shares = class_shares(self.frequency[name], self.confusion(name), torch.ones(size, dtype=torch.bool))
        return (shares / torch.bincount(self.classes, minlength=size).clamp_min(1))[self.classes]

    def picture_weights(self, name: str) -> Float64[Tensor, " p"]:
        """The same within each picture, by its own shares; they sum to 1 in each. Its points name its classes."""
        size, confusion = len(self.frequency[name]), self.confusion(name)
        weights = torch.zeros(len(self.classes), dtype=torch.float64)
        for place, number in enumerate(self.picture.unique().tolist()):
            mine = self.picture == number
            count = torch.bincount(self.classes[mine], minlength=size)
            shares = class_shares(self.predicted[name][place], confusion, count > 0)
            weights[mine] = (shares / count.clamp_min(1))[self.classes[mine]]
        return weights


@dataclass(frozen=True)
class Models:
    """The two methods of a run.

    Attributes:
        contest: Sets, recipe and run folder.
        cost: The learned cost.
        decoder: SAOT's decoder.
        bias: The logit adjustment it was scored with, or None.
    """

    contest: Contest
    cost: SemanticCost
    decoder: Decoder
    bias: Tensor | None

    def tokens(self, domain: Domain, similar: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Logits of the decoder (n, K), or of cells; (n, K + 1) probabilities of the plan, log of mass over weight."""
        recipe, data = self.contest.bench.recipe, self.contest.data
        source, labels = data.source.labelled(int(similar[number].argmax()))
        target = domain.tokens(number)
        with torch.no_grad():
            logits = domain.logits(self.decoder, number)
            result = solve_pair(source, labels, target, self.cost, recipe.transport)
            transfer = transfer_labels(result, labels, data.num_classes)
            probs = fill_uncovered(transfer, source, labels, target, recipe.transfer.uncovered)
        received = (result.marginals[1] * len(target)).log().clamp(-SCORE_LIMIT, SCORE_LIMIT)  # b_j = 1/m
        return logits.cpu(), torch.cat([probs, received.unsqueeze(1).to(probs)], dim=1).cpu()

    def at(self, values: tuple[Tensor, Tensor], grid: PatchGrid, rows: Tensor, columns: Tensor) -> Answers:
        """Answers at single pixels, upsampled as the masks are."""
        whole = (values[0], *values[1].split([self.contest.data.num_classes, 1], dim=1))
        parts = [scores_at(part, grid, rows, columns).double() for part in whole]
        logits = parts[0] if self.bias is None else parts[0] + self.bias
        probs = parts[1] / parts[1].sum(-1, keepdim=True)
        return Answers({"saot_decoder": logits.log_softmax(-1), "saot": probs.log()}, parts[2].squeeze(1))


def open_models(contest: Contest, bias: Tensor | None) -> Models:
    """The learned cost and the decoder of a run, with the logit adjustment it was scored with."""
    bench, data = contest.bench, contest.data
    return Models(contest, learned_cost(bench, data).cost, saot_decoder(bench, data).decoder, bias)


def pixel_lattice(height: int, width: int, most: int = MOST_PIXELS) -> tuple[Int64[Tensor, " p"], Int64[Tensor, " p"]]:
    """Rows and columns of every s-th pixel in both directions, s the least step that leaves at most `most`.

    Example:
        >>> [part.tolist() for part in pixel_lattice(2, 6, 3)]
        [[1, 1, 1], [1, 3, 5]]
    """
    step = max(1, math.ceil(math.sqrt(height * width / most)))
    while -(-height // step) * -(-width // step) > most:
        step += 1
    rows, columns = (torch.arange(min(step // 2, (size - 1) % step), size, step) for size in (height, width))
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def held_points(models: Models) -> Held | None:
    """The held-out declared points at their own pixels; None where no point is held out."""
    bench, data = models.contest.bench, models.contest.data
    judge, target = data.points.tokens.held(), data.target
    if len(judge) == 0:
        return None
    similar = similarities(bench, data.source, target, "target")
    parts, classes, pictures = [], [], []
    predicted: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    for number in judge.picture.unique().tolist():
        x, y, labels = data.points.pixels.of(target.images.keys[number])
        assert torch.equal(labels, judge.of(number)[1]), "points on tokens and on pixels are the same points"
        values, grid = models.tokens(target, similar, number), target.grid(number)
        parts.append(models.at(values, grid, y, x))
        classes.append(labels)
        pictures.append(torch.full_like(labels, number))
        seen = models.at(values, grid, *pixel_lattice(grid.image_height, grid.image_width))
        for name in METHODS:
            chosen = seen.log_probs[name].argmax(-1)
            predicted[name].append(torch.bincount(chosen, minlength=data.num_classes).double())
        bench.space.tell("held-out points")(len(parts), len(judge.picture.unique()))
    levels, frequency = _unlabelled(models, similar, set(judge.picture.tolist()))
    answers = Answers(
        {name: torch.cat([part.log_probs[name] for part in parts]) for name in METHODS},
        torch.cat([part.mass for part in parts]),
    )
    joined = {name: torch.stack(predicted[name]) for name in METHODS}
    return Held(answers, torch.cat(classes), torch.cat(pictures), joined, levels, frequency)


def _unlabelled(models: Models, similar: Tensor, held: set[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Candidate thresholds and class frequencies from target pictures without held-out points, where there are any."""
    data, target = models.contest.data, models.contest.data.target
    others = [n for n in range(len(target)) if n not in held] or sorted(held)
    count = min(LEVEL_PICTURES, len(others))
    chosen = [others[(2 * k + 1) * len(others) // (2 * count)] for k in range(count)]
    histograms = {name: ScoreHistogram() for name in METHODS}
    frequency = {name: torch.zeros(data.num_classes, dtype=torch.float64) for name in METHODS}
    for number in chosen:
        grid = target.grid(number)
        lattice = pixel_lattice(grid.image_height, grid.image_width)
        answers = models.at(models.tokens(target, similar, number), grid, *lattice)
        for name in METHODS:
            score, predicted = answers.confidence(name), answers.log_probs[name].argmax(-1)
            histograms[name].update(score, torch.zeros_like(score, dtype=torch.bool))
            frequency[name] += torch.bincount(predicted, minlength=data.num_classes).double()
    levels = {name: histogram.quantiles(LEVELS) for name, histogram in histograms.items()}
    return levels, frequency


def evaluation_answers(models: Models) -> Iterator[tuple[Answers, Tensor]]:
    """Answers and truth at the labelled pixels of each evaluation picture."""
    bench, evaluation = models.contest.bench, models.contest.evaluation
    domain, masks = evaluation.domain, evaluation.truth
    assert masks is not None, "only with evaluation labels"
    similar = similarities(bench, models.contest.data.source, domain, "test")
    for number in range(len(domain)):
        grid = domain.grid(number)
        rows, columns = pixel_lattice(grid.image_height, grid.image_width)
        truth = torch.from_numpy(masks.mask(number))[rows, columns].long()
        labelled = truth != 255
        values = models.tokens(domain, similar, number)
        yield models.at(values, grid, rows[labelled], columns[labelled]), truth[labelled]
        bench.space.tell("calibration")(number + 1, len(domain))
