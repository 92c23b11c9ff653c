"""From the results of pairs to percentages and costs."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from saot.match import KeyPointScores, PckTable, point_hits
from saot.match.pairs import Pair
from saot.tables.bootstrap import PairedDifference
from saot.tables.experiment import Pck
from saot.tables.match.pair_results import ALPHAS, PairResult
from saot.tables.match.way import Way

SAMPLES = 2000
COSTS: Mapping[str, Callable[[PairResult], float]] = {
    "seconds": lambda one: one.seconds,
    "feature_seconds": lambda one: one.feature_seconds,
    "total_seconds": lambda one: one.seconds + one.feature_seconds,
    "memory": lambda one: one.memory_mib,
}
Results = Mapping[str, PairResult]  # by key of the pair


def counting(way: Way, pck: Pck, result: PairResult) -> Bool[np.ndarray, " p"]:
    """Key points that are counted.

    Raises:
        ValueError: If they are counted within the mask and the set has none.
    """
    if way.counted == "all" or pck.counted == "all":
        return np.ones(len(result.places), bool)
    if len(result.inside) != len(result.places):
        raise ValueError("expected masks, since targets within the object's mask are counted; the set has none")
    return np.array(result.inside, bool)


def cost(quantity: str, results: Results) -> float:
    """The median over pairs."""
    found = list(results.values())
    if quantity in ("feature_seconds", "total_seconds"):  # features that were kept cost nothing to make
        found = [one for one in found if one.feature_seconds > 0] or found
    return float(np.median([COSTS[quantity](one) for one in found]))


def pck_value(way: Way, pck: Pck, pairs: Sequence[Pair], results: Results) -> float | None:
    """The share of key points that came within the threshold; None where there are none."""
    scores = KeyPointScores(ALPHAS)
    for pair in pairs:
        result = results[pair.key]
        scores.add(pair, np.array(result.places).reshape(-1, 2), counting(way, pck, result))
    report = scores.result()
    return _read(getattr(report, pck.threshold if pck.subset == "all" else f"{pck.threshold}_geometry"), pck)


def _read(table: PckTable, pck: Pck) -> float | None:
    place = table.alphas.index(pck.alpha)
    if pck.category is None and pck.attribute is None:
        whole = table.overall if pck.weight in ("points", "images") else table
        return getattr(whole, pck.weight)[place]
    if pck.category is not None:
        figures = table.by_category.get(pck.category)
    else:
        name, value = pck.attribute or ("", 0)
        figures = table.by_attribute.get(name, {}).get(value)
    return None if figures is None else getattr(figures, pck.weight)[place]


def flow_value(pck: Pck, pairs: Sequence[Pair], results: Results) -> float | None:
    """The share of pixels whose flow ends within the threshold; None where there are none."""
    place, shares = ALPHAS.index(pck.alpha), {}
    for pair in pairs:
        *hits, total = results[pair.key].hits
        if total and pck.category in (None, pair.category):
            shares.setdefault(pair.category, []).append((hits[place], total))
    if not shares:
        return None
    every = [share for part in shares.values() for share in part]
    if pck.weight == "points":
        return sum(hit for hit, _ in every) / sum(total for _, total in every)
    if pck.weight == "images" or pck.category is not None:
        return float(np.mean([hit / total for hit, total in every]))
    return float(np.mean([np.mean([hit / total for hit, total in part]) for part in shares.values()]))


def hits_of(way: Way, pck: Pck, pairs: Sequence[Pair], results: Results) -> tuple[np.ndarray, np.ndarray]:
    """Right key points and key points of each pair."""
    hits, totals = [], []
    for pair in pairs:
        if pck.threshold == "box" and pair.target.box is None:
            continue
        result = results[pair.key]
        counted = counting(way, pck, result) & (pair.common if pck.subset == "all" else pair.geometry_aware)
        places = np.array(result.places).reshape(-1, 2)
        hits.append(int(point_hits(places, pair, (pck.alpha,), pck.threshold)[0, counted].sum()))
        totals.append(int(counted.sum()))
    return np.array(hits, dtype=int), np.array(totals, dtype=int)


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
