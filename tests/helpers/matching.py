"""Pictures as matchers see them, and anchors by loops."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saot.match.anchors import Anchors
from saot.match.sides import MatchSide

DOUBLE = torch.float64


def random_side(shape, seed=0, dim=24, mask=None, points=True):
    generator = torch.Generator().manual_seed(seed)
    count = shape[0] * shape[1]
    space = torch.randn(count, 3, generator=generator) if points else None
    return MatchSide.of(torch.randn(count, dim, generator=generator), shape, mask, space)


def side(shape=(4, 5), dim=6, masked=0.0, points=True, tokens=None) -> MatchSide:
    count = shape[0] * shape[1]
    tokens = normalize(torch.randn(count, dim, dtype=DOUBLE) if tokens is None else tokens, dim=-1)
    mask = torch.rand(count) >= masked
    mask[0] = True
    return MatchSide(tokens, shape, mask, torch.randn(count, 3, dtype=DOUBLE) if points else None)


def distances(n: int) -> Tensor:
    points = torch.rand(n, 3, dtype=DOUBLE)
    return torch.cdist(points, points)


def anchors_of(*pairs: tuple[int, int]) -> Anchors:
    source, target = torch.tensor(pairs).T
    return Anchors(source, target, torch.ones(len(pairs), dtype=DOUBLE))


def anchors_by_loop(plan, near, far, count, quantile, rank, power) -> list[tuple[int, int]]:
    n = len(plan)
    matches = []
    for i in range(n):
        j = max(range(plan.shape[1]), key=lambda j: float(plan[i, j]))
        back = max(range(n), key=lambda k: float(plan[k, j]))
        if plan[i, j] > 0:
            matches.append((i, j, float(near[i, back])))
    threshold = float(torch.quantile(torch.tensor([error for *_, error in matches], dtype=DOUBLE), quantile))
    kept = [(i, j) for i, j, error in matches if error <= threshold]
    score = {pair: float(plan[pair]) for pair in kept}
    if rank == "confidence-distortion":
        apart = {(i, j): sum(abs(float(near[i, a] - far[j, b])) ** power for a, b in kept) / len(kept) for i, j in kept}

        def unit(values):
            low, high = min(values.values()), max(values.values())
            return {key: (value - low) / (high - low) for key, value in values.items()}

        mass, apart = unit(score), unit(apart)
        score = {pair: mass[pair] - apart[pair] for pair in kept}
    return sorted(kept, key=lambda pair: -score[pair])[:count]
