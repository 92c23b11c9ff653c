"""Tokens in cells of alike features, and a search that visits some cells for some tokens."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .candidates import exact_product, row_blocks
from .cost import unit

TRAINING_ROWS, TRAINING_ROUNDS = 32, 6  # tokens a cell and rounds of k-means
_CELLS_PER_ROOT = 2
_SMALLEST, _LARGEST = 1 / 8, 4  # size of a cell over the mean size
_PRODUCT_ELEMENTS = 2**18  # similarities at one time: they stay in the cache between product and selection
_PAD = 32  # rows of a product come in powers of two and columns in multiples of this: few shapes to compile for
_WAITING = 2**22  # targets set aside before they are merged


@dataclass(frozen=True, eq=False)
class Cells:
    """A partition of tokens into cells of alike features."""

    centres: Tensor  # (cells, d), unit rows
    member: Tensor  # (m,) targets, cell by cell
    label: Tensor  # (m,) cell of each target
    sizes: list[int]


def usual_cells(tokens: int) -> int:
    """How many cells to aim at: 2 sqrt(m), of about sqrt(m) / 2 tokens."""
    return round(_CELLS_PER_ROOT * math.sqrt(tokens))


def make_cells(y: Tensor, clusters: int, generator: torch.Generator) -> Cells:
    """Cells of spherical k-means on a subsample; none is tiny (unless all are), none much larger than the mean."""
    m = y.shape[0]
    clusters = min(clusters, m)
    centres = _train_centres(y, clusters, generator)
    label = nearest_centre(y, centres)
    counts = torch.bincount(label, minlength=clusters)
    kept = counts >= max(1.0, _SMALLEST * m / clusters)
    homeless = (~kept[label]).nonzero().squeeze(1)
    centres, label = centres[kept], (kept.cumsum(0) - 1)[label]
    if homeless.numel():
        label[homeless] = nearest_centre(y[homeless], centres)
    centres, label = _split_large(y, centres, label, math.ceil(_LARGEST * m / clusters))
    sizes = torch.bincount(label, minlength=centres.shape[0]).tolist()
    return Cells(centres, label.argsort(stable=True), label, sizes)


def _train_centres(y: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randperm(y.shape[0], generator=generator)[: clusters * TRAINING_ROWS].to(y.device)
    rows = y[drawn]
    centres = rows[:clusters].clone()
    for _ in range(TRAINING_ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, nearest_centre(rows, centres), rows)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, unit(sums), centres)
    return centres


def nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
    label = torch.empty(rows.shape[0], dtype=torch.int64, device=rows.device)
    similarity = exact_product(rows, centres)
    for part in row_blocks(rows.shape[0], centres.shape[0], rows.element_size()):
        label[part] = similarity(part).argmax(1)
    return label


def _split_large(y: Tensor, centres: Tensor, label: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Cuts each cell of more than `largest` targets into equal slices along its longest direction."""
    added = []
    for cell in (torch.bincount(label, minlength=centres.shape[0]) > largest).nonzero().squeeze(1).tolist():
        members = (label == cell).nonzero().squeeze(1)
        spread = y[members] - y[members].mean(0)
        direction = spread[spread.norm(dim=1).argmax()]
        for _ in range(4):  # power iteration
            direction = unit((spread.T @ (spread @ direction))[None])[0]
        slices = members[(spread @ direction).argsort(stable=True)].tensor_split(-(-len(members) // largest))
        centres[cell] = unit(y[slices[0]].mean(0, keepdim=True))[0]
        for part in slices[1:]:
            label[part] = centres.shape[0] + len(added)
            added.append(unit(y[part].mean(0, keepdim=True)))
    return torch.cat([centres, *added]), label


class Scan:
    """The best targets so far of each source, while cells are visited one by one."""

    def __init__(self, x: Tensor, y: Tensor, sizes: list[int], count: int) -> None:
        self.x, self.sizes = x, sizes
        self.y = torch.nn.functional.pad(y, (0, 0, 0, _PAD))  # cell by cell
        self.start = [0, *torch.tensor(sizes).cumsum(0).tolist()]
        self.best = x.new_full((x.shape[0], count), -math.inf)
        self.place = torch.zeros(x.shape[0], count, dtype=torch.int32, device=x.device)
        self.worst = x.new_full((x.shape[0],), -math.inf)
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # source, place and similarity
        self.waiting_count = 0

    def take(self, rows: Tensor, cell: int) -> None:
        """Merges the targets of one cell into the best of these sources."""
        count, begin = self.best.shape[1], self.start[cell]
        for part, similarity in self._products(rows, cell):
            best, taken = torch.cat([self.best[part], similarity], 1).topk(count, dim=1, sorted=False)
            before = self.place[part].gather(1, taken.clamp(max=count - 1))
            self.place[part] = torch.where(taken < count, before, (taken + (begin - count)).int())
            self.best[part], self.worst[part] = best, best.amin(1)

    def collect(self, rows: Tensor, cell: int) -> None:
        """Sets aside the targets of one cell that are better than the worst so far of these sources."""
        for part, similarity in self._products(rows, cell):
            worst = self.worst.index_select(0, part)
            hot = (similarity.amax(1) > worst).nonzero().squeeze(1)
            if not hot.numel():
                continue
            similarity = similarity.index_select(0, hot)
            better = (similarity > worst.index_select(0, hot)[:, None]).reshape(-1).nonzero().squeeze(1)
            source = part.index_select(0, hot).index_select(0, better // similarity.shape[1])
            place = (better % similarity.shape[1]).add_(self.start[cell]).int()
            self.waiting.append((source, place, similarity.reshape(-1).index_select(0, better)))
            self.waiting_count += better.numel()
            if self.waiting_count > _WAITING:
                self.merge()

    def merge(self) -> None:
        """Merges what was set aside into the best."""
        if not self.waiting:
            return
        source, place, value = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting, self.waiting_count = [], 0
        order = source.argsort(stable=True)
        rows, counts = source.index_select(0, order).unique_consecutive(return_counts=True)
        count, first = self.best.shape[1], counts.cumsum(0) - counts
        by_width = counts.argsort(stable=True)  # sources with about as many to merge go together: little padding
        for part in by_width.split(max(1, _WAITING // (count + int(counts.max())))):
            mine, width = rows[part], int(counts[part].max())
            slot = torch.arange(width, device=rows.device)
            inside = slot < counts[part, None]
            entry = order[(first[part, None] + slot).clamp_(max=order.numel() - 1)]
            values = torch.cat([self.best[mine], value[entry].masked_fill_(~inside, -math.inf)], 1)
            best, taken = values.topk(count, dim=1, sorted=False)
            places = torch.cat([self.place[mine], place[entry]], 1)
            self.best[mine], self.place[mine], self.worst[mine] = best, places.gather(1, taken), best.amin(1)

    def _products(self, rows: Tensor, cell: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Similarities of these sources and the targets of one cell, some sources at a time."""
        begin, size = self.start[cell], self.sizes[cell]
        width = -(-size // _PAD) * _PAD
        for part in rows.split(max(_PAD, 2 ** int(math.log2(_PRODUCT_ELEMENTS / width)))):
            height = max(_PAD, 2 ** math.ceil(math.log2(len(part))))
            padded = torch.nn.functional.pad(part, (0, height - len(part)))
            product = exact_product(self.x.index_select(0, padded), self.y[begin : begin + width])
            yield part, product(slice(None))[: len(part), :size]
