"""Two views of an outline brought together in spite of outliers: the second scene of docs/gallery.md.

    python examples/registration.py [--seeds 20] [--first 0] [--figure docs/figures/gallery-registration.png]

Each view has three quarters of the outline, and 30 % of its points belong to nothing. Prints a table of errors.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saot.transport import SolveSettings, Support, TransportResult, solve_quietly, squared_euclidean_cost

STEPS, SHARPER, FIRST_EPSILON, LAST_EPSILON, TAU_RATIO, NEIGHBOURS = 30, 20, 0.2, 0.002, 4.0, 32
SETTINGS = SolveSettings(tol=1e-3, gradient="none")


@dataclass(frozen=True)
class Views:
    """Points (n, 2) of two views, which of them belong to the outline, and the motion from the first to the second."""

    source: Tensor
    target: Tensor
    source_real: Tensor
    target_real: Tensor
    rotation: Tensor
    shift: Tensor


def turn(angle: float) -> Tensor:
    """The (2, 2) rotation by so many radians."""
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def draw(seed: int, points: int = 200, outliers: float = 0.3) -> Views:
    """Two views of one outline, each with its own part of it, noise, and a share of outliers."""
    rng = torch.Generator().manual_seed(seed)
    waves = torch.randn(2, 4, generator=rng) / torch.tensor([4.0, 5.0, 7.0, 9.0])

    def view(first: float) -> tuple[Tensor, Tensor]:
        real = torch.arange(points) >= round(outliers * points)
        at = 2 * math.pi * (first + 0.75 * torch.rand(points, 1, generator=rng))
        phase = at * torch.arange(1, 5)
        radius = 1 + (waves[0] * phase.cos() + waves[1] * phase.sin()).sum(1, keepdim=True)
        outline = radius * torch.cat([at.cos(), at.sin()], 1) + 0.01 * torch.randn(points, 2, generator=rng)
        anywhere = 4 * torch.rand(points, 2, generator=rng) - 2
        return torch.where(real[:, None], outline, anywhere), real

    (source, source_real), (target, target_real) = view(0.0), view(0.25)
    rotation = turn(math.radians(40) * (2 * float(torch.rand((), generator=rng)) - 1))
    shift = torch.rand(2, generator=rng) - 0.5
    return Views(source, target @ rotation.T + shift, source_real, target_real, rotation, shift)


def nearest_pairs(source: Tensor, target: Tensor) -> Support:
    """Each point with its nearest of the other view, from both sides."""
    distance = torch.cdist(source, target)
    k = min(NEIGHBOURS, *distance.shape)
    best = distance.topk(k, dim=1, largest=False).indices, distance.topk(k, dim=0, largest=False).indices.T
    return Support.from_choices(best[0].int(), best[1].int(), (len(source), len(target)))


def rigid(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation and shift of least weighted squares from source to target points, pair by pair (Kabsch)."""
    weight = (weight / weight.sum())[:, None]
    x, y = (weight * source).sum(0), (weight * target).sum(0)
    u, _, v = torch.linalg.svd((weight * (source - x)).T @ (target - y))
    flip = torch.diag(torch.tensor([1.0, float(torch.det(v.T @ u.T).sign())]))
    rotation = v.T @ flip @ u.T
    return rotation, y - rotation @ x


def by_transport(views: Views, balanced: bool = False) -> tuple[Tensor, Tensor, TransportResult]:
    """Plan and motion in turn, ever sharper: each source point goes to where its mass goes, weighted by that mass."""
    rotation, shift = torch.eye(2), torch.zeros(2)
    for step in range(STEPS):
        epsilon = FIRST_EPSILON * (LAST_EPSILON / FIRST_EPSILON) ** min(1.0, step / SHARPER)
        moved = views.source @ rotation.T + shift
        if balanced:  # a sparse support need not have a balanced plan
            cost, tau = squared_euclidean_cost(moved, views.target), math.inf
        else:
            cost = squared_euclidean_cost(moved, views.target, support=nearest_pairs(moved, views.target))
            tau = TAU_RATIO * epsilon
        result = solve_quietly(cost, None, None, epsilon, tau, SETTINGS)  # early plans need not have converged
        mass = result.marginals[0]  # of a point without a partner it may be 0
        partner = result.apply_transpose(views.target) / mass.clamp(min=torch.finfo().tiny)[:, None]
        rotation, shift = rigid(views.source, partner, mass)
    return rotation, shift, result


def by_icp(views: Views, kept: float = 1.0) -> tuple[Tensor, Tensor]:
    """Iterated closest points: nearest neighbour and motion in turn, of this share of the closest pairs."""
    rotation, shift = torch.eye(2), torch.zeros(2)
    for _ in range(STEPS):
        distance, match = torch.cdist(views.source @ rotation.T + shift, views.target).min(1)
        weight = (distance <= distance.quantile(kept)).float()
        rotation, shift = rigid(views.source, views.target[match], weight)
    return rotation, shift


def error(views: Views, rotation: Tensor, shift: Tensor) -> float:
    """Root mean square distance of the outline's points from where they belong; the outline's radius is about 1."""
    away = views.source @ rotation.T + shift - (views.source @ views.rotation.T + views.shift)
    return float(away[views.source_real].square().sum(1).mean().sqrt())


def compare(views: Views) -> dict[str, float]:
    """The error of each method."""
    return {
        "start": error(views, torch.eye(2), torch.zeros(2)),
        "ICP": error(views, *by_icp(views)),
        "trimmed ICP, the closer half": error(views, *by_icp(views, 0.5)),
        "balanced plan": error(views, *by_transport(views, balanced=True)[:2]),
        "unbalanced plan": error(views, *by_transport(views)[:2]),
    }


def draw_figure(views: Views, path: Path) -> None:
    """The views before and after, and which points stayed unmatched."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rotation, shift, result = by_transport(views)
    icp_rotation, icp_shift = by_icp(views)
    panels = (
        ("before", views.source),
        ("after ICP", views.source @ icp_rotation.T + icp_shift),
        ("after the unbalanced plan", views.source @ rotation.T + shift),
    )
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.7), sharex=True, sharey=True, layout="constrained")
    orange, blue = "#d95f02", "#1f77b4"
    for axis, (title, source) in zip(axes, panels, strict=False):
        axis.scatter(*views.target.T.numpy(), s=10, color=blue, linewidths=0, label="target")
        axis.scatter(*source.T.numpy(), s=10, color=orange, linewidths=0, label="source")
        axis.set_title(title)
    left = [1 - mass * len(mass) > 0.5 for mass in result.marginals]
    sides = ((views.target, left[1], blue, "target"), (panels[-1][1], left[0], orange, "source"))
    for points, unmatched, color, side in sides:
        axes[3].scatter(*points[~unmatched].T.numpy(), s=10, color=color, alpha=0.35, linewidths=0)
        axes[3].scatter(
            *points[unmatched].T.numpy(), s=22, color=color, marker="x", linewidths=1, label=f"{side}, unmatched"
        )
    axes[3].set_title("less than half of the mass placed")
    handles = axes[0].get_legend_handles_labels()[0] + axes[3].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    for axis in axes:
        axis.set(xticks=[], yticks=[], aspect="equal")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed, which is also drawn")
    parser.add_argument("--figure", type=Path, help="where to draw the first seed as PNG")
    options = parser.parse_args()
    if options.figure is not None:
        draw_figure(draw(options.first), options.figure)
    found = [compare(draw(seed)) for seed in range(options.first, options.first + options.seeds)]
    print("| motion by | median error | largest | below 0.1 |\n| --- | --- | --- | --- |")
    for name in found[0]:
        errors = torch.tensor([one[name] for one in found])
        print(f"| {name} | {errors.median():.3f} | {errors.max():.3f} | {int((errors < 0.1).sum())} of {len(found)} |")


if __name__ == "__main__":
    main()
