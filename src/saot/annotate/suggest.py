"""Which pixels a person should label next: where the network is unsure, at borders, and what no source explains.

Uncertainty times impurity of the region follows RIPU (Xie et al., 2022): the entropy of the network's posterior, times
that of the classes it calls the pixels around. To that comes the mass of a pixel that a plan from the most similar
source picture leaves unmatched. Choices are spread over the classes that the network sees and over pictures, one a
region.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from saot.annotate.clicks import Suggestion
from saot.annotate.coreset import coreset
from saot.evaluate import scores_at
from saot.label import Contest, Domain, FinishedRun
from saot.runs import generator_for
from saot.transfer import solve_pair, transfer_labels
from saot.transport import TransportResult

RULES = ("transport", "impure", "entropy", "margin", "disagreement", "coreset", "random")
SOURCES = 5  # pictures whose labels may disagree
MOST_PLACES = 40_000  # of a picture that are looked at, evenly spread
REGION = 16  # part of a picture's shorter side: half the side of what counts as one region
KEPT = 24  # candidates of each class and picture


def suggest(
    run: FinishedRun,
    contest: Contest,
    count: int,
    *,
    rule: str = "transport",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Suggestion]:
    """The pixels of the run's target most worth a click, best first; none near one that is declared already.

    Args:
        run: Whose network is asked.
        contest: What it was made of; see `saot.label.reopened`.
        count: How many; fewer where there are not so many regions.
        rule: "transport": uncertainty times impurity, plus unmatched mass; "impure": without the mass; "entropy" and
            "margin" of the posterior alone; "disagreement" of the labels that the most similar source pictures give
            (what SAOT proposes); "coreset": tokens far from all chosen ones; "random": any pixels, for comparison.
        seed: Of random draws.
        progress: Told how many pictures are done, of how many.

    Raises:
        ValueError: If the count is below 1 or the rule is not known.
    """
    if count < 1:
        raise ValueError(f"expected a count of 1 or more; got {count}")
    if rule not in RULES:
        raise ValueError(f"expected a rule among {', '.join(RULES)}; got {rule}")
    if rule == "coreset":
        return coreset(run, contest, count, lambda size: Lattice.of(*size).radius * Lattice.of(*size).step, progress)
    target, found = contest.data.target, []
    similar = contest.similar("target") if rule in ("transport", "disagreement") else None
    for number in range(len(target)):
        lattice = Lattice.of(target.grid(number).image_height, target.grid(number).image_width)
        logits = target.logits(run.decoder, number).cpu()
        scores = scores_at(logits, target.grid(number), lattice.rows, lattice.columns)
        scores = scores if run.bias is None else scores + run.bias.to(scores)
        posterior = scores.softmax(-1).view(*lattice.shape, -1)
        if rule == "random":
            generator = generator_for(seed, "clicks", target.images.keys[number])
            worth = torch.rand(lattice.shape, generator=generator)
        elif similar is None:
            worth = worth_of(posterior, rule, lattice.radius)
        elif rule == "disagreement":
            sources = similar[number].topk(min(SOURCES, len(similar[number]))).indices.tolist()
            worth = disagreement(contest, number, sources, lattice)
        else:
            worth = worth_of(posterior, "impure", lattice.radius)
            worth = worth + unmatched(contest, number, int(similar[number].argmax()), lattice)
        found += _candidates(contest, number, lattice, posterior.argmax(-1), worth, rule == "random")
        if progress:
            progress(number + 1, len(target))
    if rule == "random":
        return sorted(found, key=lambda one: -one.score)[:count]
    return spread(found, count)


@dataclass(frozen=True)
class Lattice:
    """Evenly spread pixels of a picture.

    Attributes:
        size: Height and width of the picture.
        step: Pixels from one to the next.
    """

    size: tuple[int, int]
    step: int

    @classmethod
    def of(cls, height: int, width: int) -> "Lattice":
        """That with at most `MOST_PLACES` places."""
        step = 1
        while -(-height // step) * -(-width // step) > MOST_PLACES:
            step += 1
        return cls((height, width), step)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of places."""
        return -(-self.size[0] // self.step), -(-self.size[1] // self.step)

    @property
    def radius(self) -> int:
        """Half the side of a region, in places."""
        return max(1, min(self.size) // REGION // self.step)

    def _lines(self, side: int) -> Int64[Tensor, " n"]:
        length = self.size[side]
        return (torch.arange(self.shape[side]) * self.step + self.step // 2).clamp_max(length - 1)

    @property
    def rows(self) -> Int64[Tensor, " p"]:
        """Row of each place."""
        return self._lines(0).repeat_interleave(self.shape[1])

    @property
    def columns(self) -> Int64[Tensor, " p"]:
        """Column of each place."""
        return self._lines(1).repeat(self.shape[0])


def worth_of(posterior: Float[Tensor, "h w K"], rule: str, radius: int) -> Float[Tensor, "h w"]:
    """How worth a click each place is by the network alone, 0 to 1.

    Args:
        posterior: Probability of each class.
        rule: Of `RULES`.
        radius: Half the side of a region.

    Example:
        >>> even, sure = torch.full((2,), 0.5), torch.tensor([1.0, 0.0])
        >>> worth_of(torch.stack([even, sure])[None], "entropy", 1)
        tensor([[1., 0.]])
    """
    if rule == "margin":
        first, second = posterior.topk(2, dim=-1).values.unbind(-1)
        return 1 - (first - second)
    unsure = entropy(posterior)
    return unsure if rule == "entropy" else unsure * impurity(posterior.argmax(-1), posterior.shape[-1], radius)


def entropy(shares: Float[Tensor, "*places K"]) -> Float[Tensor, "*places"]:
    """Of shares, as a part of what it could be: 1 where all are equal."""
    return torch.special.entr(shares).sum(-1) / torch.log(torch.tensor(float(max(shares.shape[-1], 2))))


def impurity(predicted: Int64[Tensor, "h w"], num_classes: int, radius: int) -> Float[Tensor, "h w"]:
    """Entropy of the classes in the square around each place (RIPU, Eq. 3).

    Args:
        predicted: Class of each place.
        num_classes: K.
        radius: Half the side of the square.

    Example:
        >>> impurity(torch.tensor([[0, 0, 0, 1]]), 2, 1).tolist()[0][0]
        0.0
    """
    one_hot = functional.one_hot(predicted, num_classes).permute(2, 0, 1).float()
    side = 2 * radius + 1
    shares = functional.avg_pool2d(one_hot, side, stride=1, padding=radius, count_include_pad=False)
    return entropy(shares.permute(1, 2, 0))


def unmatched(contest: Contest, number: int, source: int, lattice: Lattice) -> Float[Tensor, "h w"]:
    """Share of each place's mass that a plan from a source picture leaves unmatched, at the fixed cost |x - y|^2.

    Args:
        contest: Sets and settings of transport.
        number: Of the target picture.
        source: Number of the source picture.
        lattice: The places.
    """
    plan, _ = plan_from(contest, contest.data.target, number, source)
    left = (1 - plan.marginals[1] * len(plan.marginals[1])).clamp(0, 1).float().cpu().unsqueeze(1)  # b_j = 1 / m
    return scores_at(left, contest.data.target.grid(number), lattice.rows, lattice.columns).view(lattice.shape)


def disagreement(contest: Contest, number: int, sources: Sequence[int], lattice: Lattice) -> Float[Tensor, "h w"]:
    """Entropy of the class shares that several source pictures transport to each place, 0 to 1.

    A source that reaches a token with nothing says nothing of it; where none does all classes are as likely.

    Args:
        contest: Sets and settings of transport.
        number: Of the target picture.
        sources: Numbers of the source pictures.
        lattice: The places.
    """
    total = torch.zeros(len(contest.data.target.tokens(number)), contest.data.num_classes)
    for source in sources:
        plan, labels = plan_from(contest, contest.data.target, number, source)
        found = transfer_labels(plan, labels, contest.data.num_classes)
        total += (found.probs * found.covered.unsqueeze(1)).float().cpu()
    shares = (total + 1e-9) / (total + 1e-9).sum(1, keepdim=True)
    worth = entropy(shares).unsqueeze(1)
    return scores_at(worth, contest.data.target.grid(number), lattice.rows, lattice.columns).view(lattice.shape)


def plan_from(contest: Contest, domain: Domain, number: int, source: int) -> tuple[TransportResult, Tensor]:
    """The plan from a source picture to one of a set at the fixed cost |x - y|^2, and the labels of its tokens.

    Args:
        contest: Source and settings of transport.
        domain: The picture's set.
        number: Of the picture.
        source: Number of the source picture.
    """
    data = contest.data
    tokens, labels = data.source.labelled(source)
    with torch.no_grad():
        places = data.source.places(source), domain.places(number)
        transport = contest.bench.recipe.transport
        return solve_pair(tokens, labels, domain.tokens(number), None, transport, places=places), labels


def _candidates(
    contest: Contest,
    number: int,
    lattice: Lattice,
    predicted: Int64[Tensor, "h w"],
    worth: Float[Tensor, "h w"],
    anywhere: bool,
) -> list[Suggestion]:
    """The best places of each class in a picture, one a region."""
    key, free = contest.data.target.images.keys[number], torch.ones(lattice.shape, dtype=torch.bool)
    x, y, _ = contest.data.points.pixels.of(key)
    for column, row in zip((x // lattice.step).tolist(), (y // lattice.step).tolist(), strict=True):
        _close(free, row, column, lattice.radius)
    found: list[Suggestion] = []
    counted: Counter[int] = Counter()
    most = len(predicted.unique()) * KEPT
    for place in worth.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(place, lattice.shape[1])
        label = int(predicted[row, column])
        if len(found) == most:
            break
        if not bool(free[row, column]) or (not anywhere and counted[label] == KEPT):
            continue
        counted[label] += 1
        _close(free, row, column, 0 if anywhere else lattice.radius)
        at = int(lattice.columns[place]), int(lattice.rows[place])
        found.append(Suggestion(key, lattice.size, *at, label, round(float(worth[row, column]), 6)))
    return found


def _close(free: Bool[Tensor, "h w"], row: int, column: int, radius: int) -> None:
    free[max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = False


def spread(found: Sequence[Suggestion], count: int) -> list[Suggestion]:
    """So many of them: in turn of the class with fewest, then the picture with fewest, then the best.

    Example:
        >>> a, b, c = (Suggestion("p", (9, 9), 0, 0, *one) for one in ((0, 0.9), (0, 0.8), (1, 0.1)))
        >>> [one.score for one in spread([a, b, c], 2)]
        [0.9, 0.1]
    """
    left: dict[int, list[Suggestion]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        left.setdefault(one.predicted, []).append(one)
    classes: Counter[int] = Counter()
    pictures: Counter[str] = Counter()
    chosen: list[Suggestion] = []
    while len(chosen) < count and left:
        label = min(left, key=lambda one: (classes[one], -left[one][0].score))
        best = min(left[label], key=lambda one: (pictures[one.image], -one.score))
        left[label].remove(best)
        if not left[label]:
            del left[label]
        classes[label] += 1
        pictures[best.image] += 1
        chosen.append(best)
    return chosen
