"""Supports for more tokens than a brute-force search can take: coarse cells first, and the recall is measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .candidates import Recall, check_features, exact_product, measure_recall, row_blocks, unit_features
from .cells import TRAINING_ROUNDS, TRAINING_ROWS, Cells, Scan, make_cells, nearest_centre, usual_cells
from .support import Support

_SAMPLE = 512  # sources on which the number of probes is chosen, and as many others to measure recall

_VISITS = 2**22  # (source, cell) pairs sorted at one time
_FIRST_SHARE = 1 / 16  # of the cells of each source, the nearest ones, for a threshold


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
        cells = make_cells(y, clusters or usual_cells(y.shape[0]), generator)
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
        raise ImportError(
            "faiss_support needs faiss, of the extra `ann`; install it with `python -m pip install faiss-cpu`"
        ) from None
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
        lists = min(clusters or usual_cells(y.shape[0]), y.shape[0])
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(y.shape[1]), y.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.min_points_per_centroid = TRAINING_ROUNDS, 1
        index.cp.max_points_per_centroid = TRAINING_ROWS
        index.train(y.numpy())
        index.add(y.numpy())

        def near(rows: Tensor, visited: int) -> Tensor:
            index.nprobe = visited
            return torch.from_numpy(index.search(rows.numpy(), count)[1])

        visited = probes
        if visited is None:
            centres = torch.from_numpy(index.quantizer.reconstruct_n(0, lists))
            visited = _probes_needed(x, y, count, recall, generator, centres, lambda i: nearest_centre(y[i], centres))
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
        sources = None if cover is None else search(y, x, min(cover, n)).index
        support = Support.from_choices(found.index, sources, (n, m))
    # a new sample: the one that chose the probes would flatter them
    share = measure_recall(support, source, target, k, _SAMPLE, generator)
    return SearchedSupport(support, share, found.clusters, found.probes)


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


def _search(x: Tensor, y: Tensor, cells: Cells, count: int, probes: int) -> Tensor:
    """The `count` best targets (n, count), int32, of the `probes` cells nearest to each source."""
    n, number = x.shape[0], len(cells.sizes)
    # the nearest cells first: their best are a threshold which few targets of the other cells pass
    first = min(probes, math.ceil(max(2 * count * number / y.shape[0], _FIRST_SHARE * probes)))
    scan = Scan(x, y[cells.member], cells.sizes, count)
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
