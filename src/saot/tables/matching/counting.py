"""From answers to the cells of a table."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool

from saot.match import KeyPointScores, PckTable, point_hits
from saot.match.pairs import Pair
from saot.tables.bootstrap import PairedDifference
from saot.tables.matching.answers import ALPHAS, Answer
from saot.tables.matching.model import MatchColumn, MatchExperiment, MatchRow
from saot.tables.results import Cell, cell_of

SAMPLES = 2000
COSTS: Mapping[str, Callable[[Answer], float]] = {
    "seconds": lambda answer: answer.seconds,
    "feature_seconds": lambda answer: answer.feature_seconds,
    "total_seconds": lambda answer: answer.seconds + answer.feature_seconds,
    "memory": lambda answer: answer.memory_mib,
}


def counting(row: MatchRow, column: MatchColumn, answer: Answer) -> Bool[np.ndarray, " p"]:
    """Key points that a row counts.

    Raises:
        ValueError: If the row counts within the mask and the set has none.
    """
    if row.counted == "all" or column.counted == "all":
        return np.ones(len(answer.places), bool)
    if len(answer.inside) != len(answer.places):
        raise ValueError(f"{row.label} counts targets within the object's mask, but the set has no masks")
    return np.array(answer.inside, bool)


class Counted:
    """Hits of every row, counted once, and the cells made of them."""

    def __init__(
        self,
        experiment: MatchExperiment,
        pairs: dict[int, list[Pair]],
        answers: dict[int, dict[str, dict[str, Answer]]],
        parameters: int = 0,
    ) -> None:
        self.experiment, self.pairs, self.answers, self.parameters = experiment, pairs, answers, parameters

    def cell(self, row: MatchRow, column: MatchColumn) -> Cell:
        """The paper's number and ours."""
        paper = row.paper.get(column.key)
        if row.quoted or not all(row.label in answers for answers in self.answers.values()):
            return Cell(paper)
        if column.quantity == "parameters":
            return cell_of(paper, [self.parameters / 1e6], 1)
        if column.quantity != "pck":
            answers = [list(self.answers[seed][row.label].values()) for seed in self.pairs]
            if column.quantity in ("feature_seconds", "total_seconds"):  # features that were kept cost nothing to make
                answers = [[a for a in part if a.feature_seconds > 0] or part for part in answers]
            spent = [[COSTS[column.quantity](a) for a in part] for part in answers]
            digits = 0 if column.quantity == "memory" else 2
            return cell_of(paper, [float(np.median(part)) for part in spent], digits)
        values: list[float | None] = []
        for seed, pairs in self.pairs.items():
            value = self._value(row, column, pairs, self.answers[seed][row.label])
            values.append(None if value is None else 100 * value)
        return cell_of(paper, values, 1, self._difference(row, column))

    def _value(self, row: MatchRow, column: MatchColumn, pairs: list[Pair], answers: dict[str, Answer]) -> float | None:
        if self.experiment.kind == "flow":
            return _flow_value(column, pairs, answers)
        scores = KeyPointScores(ALPHAS)
        for pair in pairs:
            answer = answers[pair.key]
            scores.add(pair, np.array(answer.places).reshape(-1, 2), counting(row, column, answer))
        report = scores.result()
        name = column.threshold if column.subset == "all" else f"{column.threshold}_geometry"
        return _read(getattr(report, name), column)

    def _difference(self, row: MatchRow, column: MatchColumn) -> PairedDifference | None:
        """Points against the reference row, pairs of all seeds drawn together with replacement; key-point-weighted."""
        reference = next((one for one in self.experiment.rows if one.label == self.experiment.reference), None)
        weighted = (
            column.quantity == "pck"
            and column.weight == "points"
            and column.category is None
            and column.attribute is None
        )
        if reference is None or reference is row or reference.counted != row.counted or not weighted:
            return None
        if self.experiment.kind == "flow":
            return None
        mine, theirs = self._hits(row, column), self._hits(reference, column)
        return bootstrap_hits(mine[0], theirs[0], mine[1])

    def _hits(self, row: MatchRow, column: MatchColumn) -> tuple[np.ndarray, np.ndarray]:
        """Right key points and key points of each pair, pairs of all seeds one after another."""
        hits, totals = [], []
        for seed, pairs in self.pairs.items():
            for pair in pairs:
                answer = self.answers[seed][row.label][pair.key]
                asked = pair.common if column.subset == "all" else pair.geometry_aware
                counted = counting(row, column, answer) & asked
                if column.threshold == "box" and pair.target.box is None:
                    continue
                places = np.array(answer.places).reshape(-1, 2)
                hits.append(int(point_hits(places, pair, (column.alpha,), column.threshold)[0, counted].sum()))
                totals.append(int(counted.sum()))
        return np.array(hits), np.array(totals)


def _read(table: PckTable, column: MatchColumn) -> float | None:
    place = table.alphas.index(column.alpha)
    if column.category is not None:
        figures = table.by_category.get(column.category)
        return None if figures is None else getattr(figures, column.weight)[place]
    if column.attribute is not None:
        figures = table.by_attribute.get(column.attribute[0], {}).get(column.attribute[1])
        return None if figures is None else getattr(figures, column.weight)[place]
    if column.weight in ("points", "images"):
        return getattr(table.overall, column.weight)[place]
    return getattr(table, column.weight)[place]


def _flow_value(column: MatchColumn, pairs: list[Pair], answers: dict[str, Answer]) -> float | None:
    place, shares = ALPHAS.index(column.alpha), {}
    for pair in pairs:
        *hits, total = answers[pair.key].hits
        if total and column.category in (None, pair.category):
            shares.setdefault(pair.category, []).append((hits[place], total))
    if not shares:
        return None
    every = [share for part in shares.values() for share in part]
    if column.weight == "points":
        return sum(hit for hit, _ in every) / sum(total for _, total in every)
    if column.weight == "images" or column.category is not None:
        return float(np.mean([hit / total for hit, total in every]))
    return float(np.mean([np.mean([hit / total for hit, total in part]) for part in shares.values()]))


def bootstrap_hits(mine: np.ndarray, theirs: np.ndarray, totals: np.ndarray, seed: int = 0) -> PairedDifference | None:
    """Difference of two key-point-weighted PCK on the same pairs, points, with its 95 % interval over pairs."""
    if totals.sum() == 0:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(totals), size=(SAMPLES, len(totals)))
    away = 100 * (mine - theirs)[drawn].sum(1) / np.maximum(totals[drawn].sum(1), 1)
    low, high = np.percentile(away, [2.5, 97.5])
    above = float(np.mean(away > 0) + 0.5 * np.mean(away == 0))
    return PairedDifference(float(100 * (mine - theirs).sum() / totals.sum()), float(low), float(high), above)
