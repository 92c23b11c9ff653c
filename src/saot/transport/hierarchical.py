"""Regions first, then tokens: the plan between regions says which tokens may match, SAOT appendix P."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .candidates import Recall, check_features, measure_recall, unit_features
from .cells import Cells, Scan, make_cells, usual_cells
from .problem import SolveSettings
from .sinkhorn import solve_quietly
from .support import Support

_SAMPLE = 512  # sources on which recall is measured
_ITERATIONS, _TOLERANCE = 500, 1e-6  # of the region problem, which is small
_FIRST = 2  # regions with this many times k targets give a threshold, which few of the others pass


@dataclass(frozen=True, eq=False)
class Regions:
    """Tokens of one picture in regions of alike features.

    Attributes:
        label: (n,) region of each token.
        means: (R, d) mean of the unit features of each region; shorter the more they differ.
        weights: (R,) share of the tokens.
    """

    label: Int[Tensor, " n"]
    means: Float[Tensor, "R d"]
    weights: Float[Tensor, " R"]


@dataclass(frozen=True, eq=False)
class HierarchicalSupport:
    """A support within pairs of regions that exchange mass.

    Attributes:
        support: The pairs of tokens.
        plan: (R, S) the plan between source regions and target regions.
        kept: (R, S) pairs of regions whose tokens were compared.
        source: Regions of the sources.
        target: Regions of the targets.
        scanned: Share of all n * m similarities that was looked at for the sources.
        recall: Share of the true k most similar targets that the support holds, on 512 sources. No aim: where the
            regions of a target are spoken for, it is the plan that leaves a more similar one out.
    """

    support: Support
    plan: Float[Tensor, "R S"]
    kept: Bool[Tensor, "R S"]
    source: Regions
    target: Regions
    scanned: float
    recall: Recall


def hierarchical_support(
    source: Float[Tensor, "n d"],
    target: Float[Tensor, "m d"],
    k: int,
    cover: int | None = None,
    *,
    epsilon: float = 0.1,
    tau: float = 0.3,
    share: float = 0.95,
    regions: int | None = None,
    line: tuple[float, float] = (2.0, 2.0),
    generator: torch.Generator | None = None,
) -> HierarchicalSupport:
    """Each source's k most similar targets among the regions that its own region sends mass to, SAOT appendix P.

    Regions are cells of spherical k-means, of sources and of targets. Between them Eq. (1) is solved with the mean cost
    of their tokens and with their shares as weights: that is Eq. (1) of the tokens themselves, held to plans whose
    density is one number a pair of regions (`region_cost`). Pairs of regions are kept until they hold `share` of the
    mass that each source region sends, and of the mass that each target region gets, and at least k targets.

    Args:
        source: Features of n source tokens.
        target: Features of m target tokens, of the same dimension.
        k: Targets a source, each source gets exactly k of them; more than m means all m.
        cover: Also add each target's `cover` most similar sources among the regions that it gets mass from.

    Other:
        epsilon: As in `solve_transport`, for the regions; the token problem's own.
        tau: As in `solve_transport`, for the regions; the token problem's own.
        share: Of the mass of each region to follow, in (0, 1]; 1 follows every pair and is an exact search.
        regions: Regions of each picture to aim at; 2 sqrt(n) and 2 sqrt(m) if not given.
        line: (u, v) where the cost of a pair is u - v cos: 2 - 2 cos is the squared distance of unit features.
        generator: Draws the regions' first centres; a fixed seed of its own if not given.

    Returns:
        The support with the regions and their plan.

    Raises:
        ValueError: If dimensions or devices differ, a side is empty, k, cover or regions is below 1, share is not in
            (0, 1], or a feature is not finite.

    Example:
        >>> source, target = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> found = hierarchical_support(source, target, k=1, regions=2)
        >>> found.support.row.tolist(), found.support.col.tolist()
        ([0, 1], [0, 1])
    """
    check_features(source, target, k, cover, "source", "exact")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], but is {share}; 0.95 is usual and 1 compares all tokens")
    if regions is not None and regions < 1:
        raise ValueError(f"regions must be at least 1, but is {regions}; leave it out for a good number")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    n, m = source.shape[0], target.shape[0]
    k, cover = min(k, m), None if cover is None else min(cover, n)
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        x, y = unit_features(source, target)
        own, their = (make_cells(z, regions or usual_cells(len(z)), generator) for z in (x, y))
        mine, theirs = regions_of(x, own), regions_of(y, their)
        plan = region_plan(mine, theirs, epsilon=epsilon, tau=tau, line=line)
        order, count = _followed(plan, share, theirs.weights * m, k)
        back, back_count = _followed(plan.T, share, mine.weights * n, cover or 1)
        kept = _mask(order, count) | _mask(back, back_count).T
        chosen = _search(x, y, own, their, kept, order, k)
        sources = None if cover is None else _search(y, x, their, own, kept.T, back, cover)
        support = Support.from_choices(chosen, sources, (n, m))
        scanned = float((mine.weights[:, None] * theirs.weights * kept).sum())
    recall = measure_recall(support, source, target, k, _SAMPLE, generator)
    return HierarchicalSupport(support, plan, kept, mine, theirs, scanned, recall)


def regions_of(unit_rows: Float[Tensor, "n d"], cells: Cells) -> Regions:
    """The regions of cells: means and shares of their tokens.

    Args:
        unit_rows: Unit features.
        cells: A partition of them.
    """
    sizes = torch.tensor(cells.sizes, dtype=unit_rows.dtype, device=unit_rows.device)
    sums = unit_rows.new_zeros(len(cells.sizes), unit_rows.shape[1]).index_add_(0, cells.label, unit_rows)
    return Regions(cells.label, sums / sizes[:, None], sizes / sizes.sum())


def region_cost(source: Regions, target: Regions, line: tuple[float, float] = (2.0, 2.0)) -> Float[Tensor, "R S"]:
    """The mean cost of the pairs of tokens of two regions: u - v <mean x, mean y>, since u - v cos is linear in both.

    A plan of tokens with P_RS a_i b_j / (a_R b_S) on the pairs of regions R and S has <plan, C> = <P, region cost>,
    KL(plan | a b^T) = KL(P | a_R b_S^T), and marginals that are as far from a and b as those of P are from a_R and b_S.
    So Eq. (1) of the regions is Eq. (1) of the tokens on such plans.

    Args:
        source: Regions of the sources.
        target: Regions of the targets.
        line: (u, v) of the cost of a pair, u - v cos.
    """
    offset, slope = line
    return offset - slope * source.means @ target.means.T


def region_plan(
    source: Regions, target: Regions, *, epsilon: float, tau: float, line: tuple[float, float] = (2.0, 2.0)
) -> Float[Tensor, "R S"]:
    """The plan of Eq. (1) between regions; see `region_cost`."""
    settings = SolveSettings("product", _ITERATIONS, _TOLERANCE, "none")
    cost = region_cost(source, target, line)
    return solve_quietly(cost, source.weights, target.weights, epsilon, tau, settings).plan


def _followed(plan: Tensor, share: float, sizes: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Columns of each row by falling mass, and how many of them hold `share` of it and at least `least` tokens."""
    mass, order = plan.sort(dim=1, descending=True, stable=True)
    held = mass.cumsum(1)
    total = held[:, -1:]
    enough = (held >= share * total) & (sizes[order].round().cumsum(1) >= least)
    enough[:, -1] = True
    if share == 1:
        enough[:, :-1] = False
    return order, enough.int().argmax(1) + 1


def _mask(order: Tensor, count: Tensor) -> Tensor:
    """The first `count` columns of each row's order."""
    ahead = torch.arange(order.shape[1], device=order.device) < count[:, None]
    return torch.zeros_like(ahead).scatter_(1, order, ahead)


def _search(x: Tensor, y: Tensor, mine: Cells, theirs: Cells, kept: Tensor, order: Tensor, count: int) -> Tensor:
    """The `count` best of y (n, count), int32, for each of x, in the kept regions; the heaviest regions come first."""
    sizes = torch.tensor(theirs.sizes, device=x.device)
    filled = sizes[order].cumsum(1) - sizes[order] < _FIRST * count
    first = torch.zeros_like(kept).scatter_(1, order, filled) & kept
    scan = Scan(x, y[theirs.member], theirs.sizes, count)
    rows = mine.member.split(mine.sizes)
    for pairs, keep in ((first, scan.take), (kept & ~first, scan.collect)):
        for region in pairs.any(0).nonzero().squeeze(1).tolist():
            keep(torch.cat([rows[each] for each in pairs[:, region].nonzero().squeeze(1).tolist()]), region)
        scan.merge()
    return theirs.member.int()[scan.place.long()]
