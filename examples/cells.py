"""Names of cell types carried from one batch of cells to another, which has a type of its own: docs/gallery.md.

    python examples/cells.py [--seeds 10] [--first 0] [--figure docs/figures/gallery-cells.png]

Counts are gamma-Poisson. The second batch has other shares of the types and a shift of its genes; it lacks one type and
has a new one. Prints a table of macro accuracy and of how well the new type is told from the others.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from saot.transport import TransportResult, solve_transport, squared_euclidean_cost

TYPES, NEW = 8, 7
SOURCE_SHARES = (0.30, 0.25, 0.15, 0.10, 0.08, 0.04, 0.08, 0.00)
TARGET_SHARES = (0.05, 0.08, 0.12, 0.25, 0.10, 0.25, 0.00, 0.15)  # without type 6, with the new type 7
SHARED = range(6)
EPSILON, TAU, LAST_TAU, STEPS = 0.03, 0.1, 0.02, 10


@dataclass(frozen=True)
class Batches:
    """Cells of two batches (n, d) as principal components of log counts, and the type of each."""

    source: Tensor
    target: Tensor
    source_types: Tensor
    target_types: Tensor


def draw(seed: int, source: int = 600, target: int = 500, genes: int = 400, components: int = 15) -> Batches:
    """Two batches of cells; the second's genes are shifted along the difference of two types and at random."""
    rng = torch.Generator().manual_seed(seed)
    family = torch.randn(TYPES // 2, genes, generator=rng).repeat_interleave(2, 0)  # types come in related pairs
    types = 0.3 * (family + torch.randn(TYPES, genes, generator=rng))
    level = torch.randn(genes, generator=rng) + types
    shifted = level + 0.3 * torch.randn(genes, generator=rng) + types[0] - types[2]
    shifted = shifted + 0.1 * torch.randn(TYPES, genes, generator=rng)  # and each type has a little of its own

    def counts(number: int, shares: tuple[float, ...], log_rate: Tensor, depth: float) -> tuple[Tensor, Tensor]:
        kind = torch.multinomial(torch.tensor(shares), number, replacement=True, generator=rng)
        size = depth * (0.3 * torch.randn(number, 1, generator=rng)).exp()  # counts of a cell
        rate = size * log_rate[kind].softmax(1)
        gamma = torch._standard_gamma(torch.full_like(rate, 2.0), generator=rng) / 2
        return torch.poisson(rate * gamma, generator=rng), kind

    first, source_types = counts(source, SOURCE_SHARES, level, 2000.0)
    second, target_types = counts(target, TARGET_SHARES, shifted, 1200.0)
    both = torch.cat([first, second])
    logs = (1e4 * both / both.sum(1, keepdim=True)).log1p()
    logs = logs - logs.mean(0)
    directions = torch.linalg.eigh(logs.T @ logs).eigenvectors[:, -components:].flip(1)
    return Batches(*(logs @ directions).split([source, target]), source_types, target_types)


def distances(source: Tensor, target: Tensor) -> Tensor:
    """Squared distances in units of their median, so that epsilon and tau need not know the genes."""
    cost = squared_euclidean_cost(source, target)
    return cost / cost.median()


def matched(cells: Batches, tau: float = TAU, last_tau: float = LAST_TAU) -> tuple[Tensor, TransportResult]:
    """Target cells moved onto the source's, and the plan: plan and shift in turn.

    The last plan, once the shift is known, may leave more unmatched: its tau is smaller.
    """
    moved = cells.target
    for _ in range(STEPS):
        result = solve_transport(distances(cells.source, moved), epsilon=EPSILON, tau=tau, gradient="none")
        away = result.marginals[1] @ moved - result.marginals[0] @ cells.source
        moved = moved - away / result.mass  # of what is matched alone
    return moved, solve_transport(distances(cells.source, moved), epsilon=EPSILON, tau=last_tau, gradient="none")


def shares(result: TransportResult, types: Tensor) -> Tensor:
    """Shares (m, TYPES) of the types in what each target cell receives."""
    received = result.apply(one_hot(types, TYPES).to(result.plan_values.dtype))
    return received / received.sum(1, keepdim=True)


def macro_accuracy(found: Tensor, truth: Tensor) -> float:
    """Mean of the accuracies of the types that both batches have."""
    return float(torch.stack([(found[truth == kind] == kind).float().mean() for kind in SHARED]).mean())


def auroc(score: Tensor, positive: Tensor) -> float:
    """Probability that a positive has the higher score of the two; ties count half."""
    high, low = score[positive][:, None], score[~positive]
    return float((high > low).float().mean() + (high == low).float().mean() / 2)


def compare(cells: Batches) -> dict[str, tuple[float, float]]:
    """Macro accuracy and AUROC of the new type by each method."""
    new = cells.target_types == NEW
    centred = cells.target - cells.target.mean(0) + cells.source.mean(0)
    moved, unbalanced = matched(cells)
    found = {}
    for name, target in (
        ("nearest neighbour", cells.target),
        ("nearest neighbour, batches centred", centred),
        ("nearest neighbour, moved by the unbalanced plan", moved),
    ):
        distance, match = distances(cells.source, target).min(0)
        found[name] = macro_accuracy(cells.source_types[match], cells.target_types), auroc(distance, new)
    _, balanced = matched(cells, math.inf, math.inf)
    for name, result in (("balanced plan", balanced), ("unbalanced plan", unbalanced)):
        accuracy = macro_accuracy(shares(result, cells.source_types).argmax(1), cells.target_types)
        found[name] = accuracy, auroc(-result.marginals[1], new)  # less mass, more likely new
    return found


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds."""
    every = torch.tensor(values)
    return f"{every.mean():.3f} ± {every.std():.3f}"


def draw_figure(cells: Batches, path: Path) -> None:
    """Both batches before and after, the labels carried over, and who received little mass."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    moved, result = matched(cells)
    carried = shares(result, cells.source_types).argmax(1)
    colors = plt.get_cmap("tab10").colors[:NEW] + ((0.1, 0.1, 0.1),)
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.7), sharex=True, sharey=True, layout="constrained")
    both = torch.cat([cells.source, moved])
    plane = torch.linalg.svd(both - both.mean(0), full_matrices=False)[2][:2].T
    source, before, after = (part @ plane for part in (cells.source, cells.target, moved))

    def dots(axis, points: Tensor, types: Tensor, **options) -> None:
        axis.scatter(*points.T.numpy(), s=9, linewidths=0, color=[colors[kind] for kind in types], **options)

    dots(axes[0], source, cells.source_types)
    axes[0].set_title("labelled batch")
    axes[1].scatter(*source.T.numpy(), s=7, linewidths=0, color="0.85")
    dots(axes[1], before, cells.target_types)
    axes[1].set_title("other batch: its truth, not used")
    axes[2].scatter(*source.T.numpy(), s=7, linewidths=0, color="0.85")
    dots(axes[2], after, carried)
    axes[2].set_title("moved, labels carried over")
    rank = 1 - result.marginals[1].argsort().argsort() / len(after)  # 1: the cell that received least
    shown = axes[3].scatter(*after.T.numpy(), s=9, linewidths=0, c=rank, cmap="YlOrRd", vmin=0, vmax=1)
    new = after[cells.target_types == NEW].numpy()
    axes[3].scatter(*new.T, s=26, linewidths=0.6, facecolors="none", edgecolors="0.1")
    axes[3].set_title("what stayed unmatched")
    bar = figure.colorbar(shown, ax=axes[3], ticks=[0, 1])
    bar.set_ticklabels(["most mass", "least"], rotation=90, va="center")
    figure.legend(
        handles=[
            *(plt.Line2D([], [], ls="", marker="o", color=colors[kind], label=f"type {kind}") for kind in range(NEW)),
            plt.Line2D([], [], ls="", marker="o", color=colors[NEW], label="new type 7"),
            plt.Line2D([], [], ls="", marker="o", color="0.85", label="labelled batch"),
            plt.Line2D([], [], ls="", marker="o", mfc="none", color="0.1", label="new type, last panel"),
        ],
        loc="outside lower center", ncols=10, frameon=False, fontsize=9, handletextpad=0.1, columnspacing=1.2,
    )  # fmt: skip
    for axis in axes:
        axis.set(xticks=[], yticks=[], box_aspect=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed, which is also drawn")
    parser.add_argument("--figure", type=Path, help="where to draw the first seed as PNG")
    options = parser.parse_args()
    if options.figure is not None:
        draw_figure(draw(options.first), options.figure)
    found = [compare(draw(seed)) for seed in range(options.first, options.first + options.seeds)]
    print("| labels by | macro accuracy | new type, AUROC |\n| --- | --- | --- |")
    for name in found[0]:
        accuracy, flagged = zip(*(one[name] for one in found), strict=True)
        print(f"| {name} | {mean_and_spread(list(accuracy))} | {mean_and_spread(list(flagged))} |")


if __name__ == "__main__":
    main()
