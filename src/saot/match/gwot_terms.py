"""Eq. (4) of GWOT: its weights, its options, and what it is for a plan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saot.match.local_structure import LocalStructure
from saot.match.symmetry import SymmetricPairs

Scale = Literal["neighbour_mean", "raw", "row_mass_one"]
Marginals = Literal["semi-relaxed", "balanced", "unbalanced"]


@dataclass(frozen=True)
class GwotSettings:
    """Weights of Eq. (4) and how it is minimised; the weights are those of TSS and PF-PASCAL, GWOT Tab. 5.

    Attributes:
        cost: lambda, of the features.
        structure: lambda_gw; 0 leaves the structure out.
        symmetry: lambda_sym; has an effect only where symmetric key points of the source are given.
        marginal: lambda_ub, how strongly each target draws its share.
        near, far: delta_min and delta_max, in tokens.
        steps: Of the descent.
        step: Its length eta: "safe" never raises the objective, "auto" is 4 over the largest entry of the first
            gradient (ASOT's code), a number is taken as it is. With `safeguard` none is longer than the safe one.
        safeguard: Whether longer steps are shortened to the safe one; off for ASOT's literal steps.
        scale: Of the structure and symmetry terms: "neighbour_mean" averages over neighbours, "raw" is Eq. (5) with
            p = 1/n as printed, "row_mass_one" is Eq. (5) with rows of mass 1.
        marginals: "semi-relaxed" as in Sec. 4.3; "balanced" meets q too; "unbalanced" relaxes p as well.
        epsilon: Weight of an entropy term; 0 in the paper, 0.07 in ASOT's code.
        factor_two: Whether the gradient of F_GW has its factor 2; ASOT's code has none, which halves lambda_gw.
        centre: Whether a token counts among its own neighbours, as in Eq. (5); not in ASOT's code.
        keep: The last plan, or the best one by the objective; they differ only with unsafe steps.

    Raises:
        ValueError: If a weight is negative or not finite, or a count or length is not positive.
    """

    cost: float = 0.2  # GWOT Tab. 5, TSS and PF-PASCAL
    structure: float = 0.2  # GWOT Tab. 5
    symmetry: float = 0.0  # GWOT Tab. 5: none for TSS and PF-PASCAL
    marginal: float = 0.05  # GWOT Tab. 5
    near: float = 3.0  # GWOT Tab. 5
    far: float = 5.0  # GWOT Tab. 5
    steps: int = 50  # GWOT Sec. 5.1
    step: float | Literal["safe", "auto"] = "safe"
    safeguard: bool = True
    scale: Scale = "neighbour_mean"
    marginals: Marginals = "semi-relaxed"  # GWOT Sec. 4.3
    epsilon: float = 0.0  # GWOT Eq. (4) has none
    factor_two: bool = True
    centre: bool = True  # GWOT Eq. (5)
    keep: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        for name in ("cost", "structure", "symmetry", "marginal", "epsilon"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or above and finite, but is {value}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, but is {self.steps}")
        if not (self.step in ("safe", "auto") or (isinstance(self.step, float | int) and 0 < self.step < math.inf)):
            raise ValueError(f"step must be safe, auto or a positive number, but is {self.step!r}")


GWOT_TSS = GwotSettings()
GWOT_SPAIR = GwotSettings(cost=0.6, structure=0.1, symmetry=0.1, marginal=0.01)  # GWOT Tab. 5


def objective(
    plan: Float[Tensor, "batch n m"],
    cost: Float[Tensor, "batch n m"],
    source: tuple[int, int],
    target: tuple[int, int],
    settings: GwotSettings = GWOT_TSS,
    symmetric: Sequence[Int64[Tensor, "_ 2"]] | None = None,
) -> Float[Tensor, " batch"]:
    """F of Eq. (4), with the scale and entropy of the settings, for plans over all tokens; differentiable.

    The readable twin of what the descent adds up block by block.
    """
    local = LocalStructure(source, target, settings.near, settings.far, settings.centre)
    n, m = local.tokens
    value = settings.cost * (cost * plan).sum((-2, -1))
    value = value + structure_weight(settings, local, n) * (local.multiply(plan) * plan).sum((-2, -1))
    if symmetric is not None:
        pairs = SymmetricPairs.of(symmetric, len(plan), source, target, plan.device)
        value = value + symmetry_weight(settings, n) * pairs.value(plan)
    value = value + settings.epsilon * torch.special.xlogy(plan, plan).sum((-2, -1))
    if settings.marginals != "balanced":
        value = value + settings.marginal * divergence(plan.sum(-2), plan.new_full((m,), 1 / m))
    if settings.marginals == "unbalanced":
        value = value + settings.marginal * divergence(plan.sum(-1), plan.new_full((n,), 1 / n))
    return value


def divergence(sums: Tensor, weights: Tensor) -> Tensor:
    """KL of masses: sum x log(x / w) - x + w; weights of 0 have no mass either."""
    ratio = torch.where(weights > 0, sums / weights.clamp(min=torch.finfo(sums.dtype).tiny), 1.0)
    return (torch.special.xlogy(sums, ratio) - sums + weights).sum(-1)


def structure_weight(settings: GwotSettings, local: LocalStructure, n: Tensor | int) -> Tensor | float:
    """What stands before <C^p T C^q, T> for a plan of mass 1 over n sources."""
    weight = settings.structure * (1.0 if settings.factor_two else 0.5)
    if settings.scale == "raw":
        return weight
    return weight * n / (local.taps if settings.scale == "neighbour_mean" else 1)


def symmetry_weight(settings: GwotSettings, n: Tensor | int) -> Tensor | float:
    return settings.symmetry * (1.0 if settings.scale == "raw" else n)
