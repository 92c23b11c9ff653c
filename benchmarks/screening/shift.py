"""A shift in memory: tokens, labels of cells, declared points, and pictures to judge on that no table reports."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saot.data import PatchGrid, open_labelled, patch_labels, point_tokens
from saot.decoder import cells_of_tokens
from saot.evaluate import ConfusionMatrix, predict_mask, scores_at
from saot.evaluate.confusion import iou_from_counts, mean_over
from saot.features import FeatureStore
from saot.label.settings import store_folder
from saot.tables import ALL_WINGS

IGNORE, PARTS = 255, 4
Point = tuple[int, int, int, int]  # picture, row, column, class


@dataclass(frozen=True)
class Pictures:
    """Some pictures with everything known of them: tokens (N, n, d) in half precision, cell labels (N, n, r^2), masks.

    All of them lie under one grid.
    """

    tokens: Tensor
    cells: Tensor
    masks: list[np.ndarray]
    grid: PatchGrid

    def __len__(self) -> int:
        return len(self.masks)

    def part(self, first: int, last: int) -> "Pictures":
        return Pictures(self.tokens[first:last], self.cells[first:last], self.masks[first:last], self.grid)


def load(spec: str, store: Path) -> tuple[Pictures, int]:
    """The pictures of a SPEC whose features lie in a store (`saot extract SPEC --out STORE`); the number of classes."""
    data = open_labelled(spec, readers=ALL_WINGS.readers)
    features, classes = FeatureStore(store_folder(store, spec)), len(data.classes.names)
    tokens, cells, masks, grid = [], [], [], None
    for number, key in enumerate(data.images.keys):
        found, mask = features.read(key), data.mask(number)
        if grid is not None and grid != found.grid:
            raise SystemExit(f"expected pictures of one size; {key} has another grid than those before it")
        grid = found.grid
        fine = grid.subdivide(PARTS)
        labels = patch_labels(mask, fine, num_classes=classes)
        cells.append(cells_of_tokens(labels, fine.height, fine.width, grid.height, grid.width, PARTS))
        tokens.append(found.tokens.half())
        masks.append(mask)
    assert grid is not None
    return Pictures(torch.stack(tokens), torch.stack(cells), masks, grid), classes


def draw(pictures: Pictures, budget: str, seed: int) -> list[Point]:
    """Points of a budget as `saot run --points` names it: N a class and picture, or total:N a class."""
    scope, _, text = budget.rpartition(":")
    count, found, generator = int(text), [], np.random.default_rng(seed)
    for label in sorted({int(c) for mask in pictures.masks for c in np.unique(mask) if c != IGNORE}) if count else ():
        places = [np.argwhere(mask == label) for mask in pictures.masks]
        if scope == "total":
            picture, flat = np.repeat(np.arange(len(places)), [len(p) for p in places]), np.concatenate(places)
            chosen = generator.permutation(len(flat))[:count]
            found += [(int(picture[at]), int(flat[at][0]), int(flat[at][1]), label) for at in chosen]
        else:
            for number, part in enumerate(places):
                chosen = generator.permutation(len(part))[:count]
                found += [(number, int(part[at][0]), int(part[at][1]), label) for at in chosen]
    return found


def points_on_cells(pictures: Pictures, points: Iterable[Point]) -> Tensor:
    """(N, n, r^2) classes of the cells under points, else 255; a cell with points of two classes has none."""
    grid, fine = pictures.grid, pictures.grid.subdivide(PARTS)
    flat = torch.full((len(pictures), fine.num_tokens), IGNORE, dtype=torch.uint8)
    mixed = []
    for number, row, column, label in points:
        at = int(point_tokens(torch.tensor([column]), torch.tensor([row]), fine)[0])
        if flat[number, at] not in (IGNORE, label):
            mixed.append((number, at))
        flat[number, at] = label
    for place in mixed:
        flat[place] = IGNORE
    return torch.stack(
        [cells_of_tokens(part, fine.height, fine.width, grid.height, grid.width, PARTS) for part in flat]
    )


def class_shares(pictures: Pictures, classes: int) -> Tensor:
    """(K,) share of each class among labelled cells."""
    counts = torch.bincount(pictures.cells.flatten().long(), minlength=256)[:classes].double()
    return counts / counts.sum()


@dataclass(frozen=True)
class Shift:
    """Where ideas are judged.

    Attributes:
        name: T, S1, ...
        source: Labelled pictures.
        target: Pictures to adapt to.
        points: (N, n, r^2) their declared points on cells; nothing else of their labels is used.
        judged: Pictures to judge on.
        judge_points: The declared points of those, where nothing more may be looked at; None where the masks may.
        classes: K.
    """

    name: str
    source: Pictures
    target: Pictures
    points: Tensor
    judged: Pictures
    judge_points: list[Point] | None
    classes: int

    def miou(self, logits_of: Callable[[int], Tensor]) -> float:
        """mIoU in percent of picture number -> logits (cells, K)."""
        return float(mean_over(self.iou(logits_of)))

    def iou(self, logits_of: Callable[[int], Tensor]) -> Tensor:
        """(K,) IoU in percent of picture number -> logits (cells, K).

        Points are drawn class by class, so their rows are weighted by the source's class shares.
        """
        matrix = ConfusionMatrix(self.classes)
        if self.judge_points is None:
            for number, mask in enumerate(self.judged.masks):
                matrix.update(predict_mask(logits_of(number), self.judged.grid), torch.from_numpy(mask))
            return 100 * matrix.iou()
        for number in sorted({point[0] for point in self.judge_points}):
            mine = torch.tensor([point for point in self.judge_points if point[0] == number])
            scores = scores_at(logits_of(number), self.judged.grid, mine[:, 1], mine[:, 2])
            matrix.update(scores.argmax(-1), mine[:, 3])
        rows = matrix.counts.sum(1, keepdim=True).clamp_min(1)
        weighted = matrix.counts / rows * class_shares(self.source, self.classes).unsqueeze(1)
        return 100 * iou_from_counts((weighted * 1e9).long())


def split(name: str, source: Pictures, target: Pictures, classes: int, budget: str, seed: int) -> Shift:
    """T: source to the first two thirds of the target, judged at points of the rest. S1, S2: within the source alone,
    one half to the first two thirds of the other, judged on its rest.
    """
    if name == "T":
        cut = round(len(target) * 2 / 3)
        train, judged = target.part(0, cut), target.part(cut, len(target))
        points = points_on_cells(train, draw(train, budget, seed))
        return Shift(name, source, train, points, judged, draw(judged, "20", 0), classes)
    half = len(source) // 2
    halves = source.part(0, half), source.part(half, 2 * half)
    first, other = halves if name == "S1" else halves[::-1]
    cut = round(len(other) * 2 / 3)
    train, judged = other.part(0, cut), other.part(cut, len(other))
    return Shift(name, first, train, points_on_cells(train, draw(train, budget, seed)), judged, None, classes)
