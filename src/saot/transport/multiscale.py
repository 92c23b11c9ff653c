"""Supports for more tokens than a brute-force search can take: coarse cells first, and the recall is measured."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .candidates import Recall, check_features, exact_product, measure_recall, row_blocks, unit_features
from .cost import unit
from .support import Support, assemble

_SAMPLE = 512  # sources on which the number of probes is chosen, and as many others to measure recall
_CELLS_PER_ROOT = 2  # cells of about sqrt(m) / 2 targets
_TRAINING_ROWS, _TRAINING_ROUNDS = 32, 6  # tokens a cell and rounds of k-means
_SMALLEST, _LARGEST = 1 / 8, 4  # size of a cell over the mean size
_PRODUCT_ELEMENTS = 2**18  # similarities at one time: they stay in the cache between product and selection
_PAD = 32  # rows of a product come in powers of two and columns in multiples of this: few shapes to compile for
_VISITS = 2**22  # (source, cell) pairs sorted at one time
_FIRST_SHARE = 1 / 16  # of the cells of each source, the nearest ones, for a threshold
_WAITING = 2**22  # targets set aside before they are merged


@dataclass(frozen=True, eq=False)
class SearchedSupport:
    """An approximate support, how good it is and what it took.

    Attributes:
        support: The pairs.
        recall: Share of the true k most similar targets that the support holds, measured by brute force on 512
            sources, drawn anew after `probes` was chosen.
        clusters: Cells the targets were put into.
        probes: Cells searched for each source.
    """

    support: Support
    recall: Recall
    clusters: int
    probes: int

    @property
    def scanned(self) -> float:
        """About the share of all n * m similarities that was looked at for the sources."""
        return self.probes / self.clusters


def multiscale_support(
    source: Float[Tensor, "n d_source"],
    target: Float[Tensor, "m d_target"],
    k: int,
    cover: int | None = None,
    *,
    recall: float = 0.95,
    clusters: int | None = None,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> SearchedSupport:
    """Nearly each source's k most similar targets by cosine, SAOT sec. 4.3, without all n * m similarities.

    Spherical k-means puts the targets into cells; each source is compared with the targets of the `probes` cells
    whose centres are most similar to it. A cell and all its sources are one matrix product. How many cells that
    takes depends on the data: clustered features need few, features without structure more than half of them,
    and then little is won over `topk_support`.

    Args:
        source: Features of n source tokens.
        target: Features of m target tokens, of the same dimension.
        k: Targets a source, each source gets exactly k of them; more than m means all m.
        cover: Also add nearly each target's `cover` most similar sources, by the same search from the target's
            side with its own probes: no target is left without candidates.

    Other:
        recall: Share of the true k most similar to reach, in (0, 1]. Chooses the number of probes on a sample of
            512 tokens, two standard errors on the safe side.
        clusters: Cells to aim at; small cells are dissolved and large ones split. 2 sqrt(m) if not given.
        probes: Cells a source, instead of `recall`; raised where the smallest cells hold fewer than k targets.
            At least `clusters` means all cells, an exact search.
        generator: Draws the samples; a fixed seed of its own if not given, so that equal features give an equal
            support on one machine.

    Returns:
        The support with its measured recall.

    Raises:
        ValueError: If dimensions or devices differ, a side is empty, k, cover, clusters or probes is below 1,
            recall is not in (0, 1], or a feature is not finite.

    Example:
        >>> source, target = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> found = multiscale_support(source, target, k=1)
        >>> found.support.row.tolist(), found.support.col.tolist(), found.recall.share
        ([0, 1], [0, 1], 1.0)
    """
    check_features(source, target, k, cover, "source", "exact")
    _check_search(recall, clusters, probes)
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    def search(x: Tensor, y: Tensor, count: int) -> _Found:
        cells = _make_cells(y, clusters or round(_CELLS_PER_ROOT * math.sqrt(y.shape[0])), generator)
        visited = probes
        if visited is None:
            visited = _probes_needed(x, y, count, recall, generator, cells.centres, cells.label.__getitem__)
        held = torch.tensor(cells.sizes).sort().values.cumsum(0)  # by the smallest cells
        visited = min(max(visited, int((held < count).sum()) + 1), len(cells.sizes))
        return _Found(_search(x, y, cells, count, visited), len(cells.sizes), visited)

    return _both_sides(source, target, k, cover, search, generator)


def faiss_support(
    source: Float[Tensor, "n d_source"],
    target: Float[Tensor, "m d_target"],
    k: int,
    cover: int | None = None,
    *,
    recall: float = 0.95,
    clusters: int | None = None,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> SearchedSupport:
    """The same kind of support by faiss, an inverted file of inner products; needs the extra `ann`.

    Args:
        source: Features of n source tokens, on the CPU; searched in float32.
        target: Features of m target tokens, of the same dimension.
        k: Targets a source, and what follows: as in `multiscale_support`, a list of the inverted file for a cell.

    Returns:
        The support with its measured recall.

    Raises:
        ImportError: Without faiss.
        ValueError: As `multiscale_support`, or if the features are not on the CPU.
    """
    try:
        import faiss
    except ImportError:
        raise ImportError("faiss_support needs faiss; install it with `pip install 'saot[ann]'`") from None
    check_features(source, target, k, cover, "source", "exact")
    _check_search(recall, clusters, probes)
    if source.device.type != "cpu":
        raise ValueError(
            f"faiss_support searches on the CPU, but the features are on {source.device}; move them, or use "
            "multiscale_support"
        )
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    def search(x: Tensor, y: Tensor, count: int) -> _Found:
        x, y = x.float(), y.float()
        lists = min(clusters or round(_CELLS_PER_ROOT * math.sqrt(y.shape[0])), y.shape[0])
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(y.shape[1]), y.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.min_points_per_centroid = _TRAINING_ROUNDS, 1
        index.cp.max_points_per_centroid = _TRAINING_ROWS
        index.train(y.numpy())
        index.add(y.numpy())

        def near(rows: Tensor, visited: int) -> Tensor:
            index.nprobe = visited
            return torch.from_numpy(index.search(rows.numpy(), count)[1])

        visited = probes
        if visited is None:
            centres = torch.from_numpy(index.quantizer.reconstruct_n(0, lists))
            visited = _probes_needed(x, y, count, recall, generator, centres, lambda i: _nearest_centre(y[i], centres))
        visited = min(visited, lists)
        found = near(x, visited)
        short = (found < 0).any(1).nonzero().squeeze(1)  # their lists hold fewer than `count`
        if short.numel():
            found[short] = near(x[short], lists)
        return _Found(found.int(), lists, visited)

    return _both_sides(source, target, k, cover, search, generator)


@dataclass(frozen=True, eq=False)
class _Found:
    index: Tensor  # (n, k) targets, int32, in any order
    clusters: int
    probes: int


_SideSearch = Callable[[Tensor, Tensor, int], _Found]  # the best so many of the second tokens for each of the first
_Label = Callable[[Tensor], Tensor]  # cells of targets


@dataclass(frozen=True, eq=False)
class _Cells:
    centres: Tensor  # (cells, d), unit rows
    member: Tensor  # (m,) targets, cell by cell
    label: Tensor  # (m,) cell of each target
    sizes: list[int]


def _check_search(recall: float, clusters: int | None, probes: int | None) -> None:
    if not 0 < recall <= 1:
        raise ValueError(f"recall must lie in (0, 1], but is {recall}; 0.95 is usual and 1 searches everything")
    for name, value in (("clusters", clusters), ("probes", probes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}; leave it out for a good number")


def _both_sides(
    source: Tensor, target: Tensor, k: int, cover: int | None, search: _SideSearch, generator: torch.Generator
) -> SearchedSupport:
    """The union of a search for the sources and, with `cover`, one for the targets."""
    n, m = source.shape[0], target.shape[0]
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        x, y = unit_features(source, target)
        found = search(x, y, min(k, m))
        col = found.index.sort(dim=1).values.reshape(-1)
        row = torch.arange(n, dtype=torch.int32, device=col.device).repeat_interleave(min(k, m))
        if cover is None:
            support = assemble(row, col, (n, m))
        else:
            sources = search(y, x, min(cover, n)).index
            targets = torch.arange(m, dtype=torch.int32, device=col.device).repeat_interleave(sources.shape[1])
            rows, cols = torch.cat([row, sources.reshape(-1)]), torch.cat([col, targets])
            support = Support.from_pairs(rows, cols, (n, m))
    # a new sample: the one that chose the probes would flatter them
    share = measure_recall(support, source, target, k, _SAMPLE, generator)
    return SearchedSupport(support, share, found.clusters, found.probes)


def _make_cells(y: Tensor, clusters: int, generator: torch.Generator) -> _Cells:
    """Cells of spherical k-means on a subsample; none is tiny (unless all are), none much larger than the mean."""
    m = y.shape[0]
    clusters = min(clusters, m)
    centres = _train_centres(y, clusters, generator)
    label = _nearest_centre(y, centres)
    counts = torch.bincount(label, minlength=clusters)
    kept = counts >= max(1.0, _SMALLEST * m / clusters)
    homeless = (~kept[label]).nonzero().squeeze(1)
    centres, label = centres[kept], (kept.cumsum(0) - 1)[label]
    if homeless.numel():
        label[homeless] = _nearest_centre(y[homeless], centres)
    centres, label = _split_large(y, centres, label, math.ceil(_LARGEST * m / clusters))
    sizes = torch.bincount(label, minlength=centres.shape[0]).tolist()
    return _Cells(centres, label.argsort(stable=True), label, sizes)


def _train_centres(y: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randperm(y.shape[0], generator=generator)[: clusters * _TRAINING_ROWS].to(y.device)
    rows = y[drawn]
    centres = rows[:clusters].clone()
    for _ in range(_TRAINING_ROUNDS):
        sums = torch.zeros_like(centres).index_add_(0, _nearest_centre(rows, centres), rows)
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, unit(sums), centres)
    return centres


def _nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
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


def _probes_needed(
    x: Tensor, y: Tensor, count: int, recall: float, generator: torch.Generator, centres: Tensor, label: _Label
) -> int:
    """Cells a source, so that the recall on a sample less two standard errors reaches `recall`."""
    rows = x.any(1).nonzero().squeeze(1)  # a zero feature is similar to nothing and has no nearest targets
    rows = rows[torch.randperm(rows.numel(), generator=generator)[:_SAMPLE].to(x.device)]
    if recall == 1 or rows.numel() == 0:
        return centres.shape[0] if recall == 1 else 1
    parts = row_blocks(rows.numel(), y.shape[0], x.element_size())
    truth = torch.cat([(x[rows[part]] @ y.T).topk(count, dim=1, sorted=False).indices for part in parts])
    home = label(truth.reshape(-1)).view_as(truth)
    order = (x[rows] @ centres.T).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).gather(1, home)  # of the cell of each true neighbour in its source's order
    ranks = rank.reshape(-1).sort().values

    def probes(share: float) -> int:
        return int(ranks[math.ceil(min(share, 1.0) * ranks.numel()) - 1]) + 1

    by_source = (rank < probes(recall)).double().mean(1)
    return probes(recall + 2 * float(by_source.std(correction=0)) / math.sqrt(rows.numel()))


def _search(x: Tensor, y: Tensor, cells: _Cells, count: int, probes: int) -> Tensor:
    """The `count` best targets (n, count), int32, of the `probes` cells nearest to each source."""
    n, number = x.shape[0], len(cells.sizes)
    # the nearest cells first: their best are a threshold which few targets of the other cells pass
    first = min(probes, math.ceil(max(2 * count * number / y.shape[0], _FIRST_SHARE * probes)))
    scan = _Scan(x, y[cells.member], cells.sizes, count)
    block = max(1, min(n, _VISITS // probes))
    for start in range(0, n, block):
        for wave, keep in zip(
            _waves(x[start : start + block], cells.centres, first, probes), (scan.take, scan.collect), strict=False
        ):
            key = wave.reshape(-1).to(torch.int16 if number < 2**15 else torch.int32)
            rows = key.argsort(stable=True).div_(wave.shape[1], rounding_mode="floor").add_(start)
            visits = torch.bincount(key.int(), minlength=number).tolist()
            for cell, mine in enumerate(rows.split(visits)):
                if visits[cell]:
                    keep(mine, cell)
        scan.merge()
    return cells.member.int()[scan.place.long()]


def _waves(x: Tensor, centres: Tensor, first: int, probes: int) -> list[Tensor]:
    """The `first` nearest cells of each source, and the other ones up to `probes`."""
    near, far, product = [], [], exact_product(x, centres)
    for part in row_blocks(x.shape[0], centres.shape[0], x.element_size()):
        similarity = product(part)
        near.append(similarity.topk(first, dim=1, sorted=False).indices.int())
        similarity.scatter_(1, near[-1].long(), -math.inf)
        far.append(similarity.topk(probes - first, dim=1, sorted=False).indices.int())
    return [torch.cat(near), torch.cat(far)] if probes > first else [torch.cat(near)]


class _Scan:
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
