"""GWOT: matching with a prior that neighbours stay neighbours, and no training. Snelgar et al., arXiv 2602.03105.

Eq. (4) over plans T of n source and m target tokens, with p = 1/n and q = 1/m:

    F(T) = lambda <C, T> + lambda_gw F_GW(T) + lambda_sym F_sym(T) + lambda_ub KL(T^T 1 | q),    T 1 = p,

C = 1 - cos of the features, F_GW = <C^p T C^q, T> of Eq. (5) (`neighbours.py`), F_sym of Eq. (6). It is solved by
mirror descent, the projected gradient descent of the paper for plans: T <- T exp(-eta dF), then rows scaled to p,
which is the projection onto T 1 = p in the Kullback-Leibler sense.

What the paper leaves open, and what was chosen here (`docs/matching.md` has the reasons and the figures):

- With 0/1 matrices and p = 1/n the structure term is some hundred times weaker than the cost, and does nothing. Here
  C^p averages over the neighbours of a token instead of adding them up (`scale`), so that the term lies in [0, 1].
- With masks or at the border a token has fewer neighbours; the sum over them is divided by their full number.
- The length of a step. By Pinsker's inequality F lies below its first-order expansion plus L times the Kullback-Leibler
  distance of the step, L = lambda_gw + lambda_ub + lambda_sym deg + epsilon, so eta = 1 / L never raises F; with
  balanced marginals up to the tolerance of its solves.
- Eq. (6) compares a source with a target coordinate; meant are the signs of x within each picture.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saot.match.neighbours import LocalStructure
from saot.match.sides import MatchSide
from saot.match.symmetry import SymmetricPairs
from saot.transport import Potentials, solve_transport

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
        warm: Whether a balanced step starts from the potentials of the last one, for fewer iterations.
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
    warm: bool = True
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


_HARMLESS = 40.0  # range of an exponent within which none of a row is lost, whichever entry becomes 1

GWOT_TSS = GwotSettings()
GWOT_SPAIR = GwotSettings(cost=0.6, structure=0.1, symmetry=0.1, marginal=0.01)  # GWOT Tab. 5


@dataclass(frozen=True, eq=False)
class GwotResult:
    """What the descent ends with.

    Attributes:
        plan: Rows sum to p; columns and rows of masked tokens are 0.
        objective: F before the first step and after each.
        step: eta of each problem.
        safe_step: Up to which the objective cannot rise; 0 where there is no such bound (both marginals relaxed).
    """

    plan: Float[Tensor, "*batch n m"]
    objective: Float[Tensor, "records *batch"]
    step: Float[Tensor, "*batch"]
    safe_step: Float[Tensor, "*batch"]


def match_gwot(
    source: MatchSide,
    target: MatchSide,
    settings: GwotSettings = GWOT_TSS,
    symmetric: Int64[Tensor, "pairs 2"] | None = None,
    agreement: Float[Tensor, "n m"] | None = None,
) -> GwotResult:
    """Minimise Eq. (4) for two pictures; the match of a source token is the largest entry of its row.

    Args:
        source, target: The two pictures; masked tokens take no part.
        settings: Weights and steps.
        symmetric: Source tokens (i, k) of symmetric key points, such as the two eyes. Annotation at test time: what
            it brings is not comparable with methods that lack it.
        agreement: Taken from the cost C, in its units, so under its weight; none in the paper.
    """
    cost = 1 - source.tokens @ target.tokens.T
    if agreement is not None:
        cost -= agreement
    pairs = None if symmetric is None else [symmetric]
    masks = (source.mask[None], target.mask[None])
    result = solve_gwot(cost[None], source.shape, target.shape, settings, masks, pairs)
    return GwotResult(result.plan[0], result.objective[:, 0], result.step[0], result.safe_step[0])


def solve_gwot(
    cost: Float[Tensor, "batch n m"],
    source: tuple[int, int],
    target: tuple[int, int],
    settings: GwotSettings = GWOT_TSS,
    masks: tuple[Bool[Tensor, "batch n"], Bool[Tensor, "batch m"]] | None = None,
    symmetric: Sequence[Int64[Tensor, "_ 2"]] | None = None,
) -> GwotResult:
    """Minimise Eq. (4) for a batch of pairs with grids of the same size; none of them influences another.

    Beside the cost it holds two plans. On a CPU the pairs are solved one after the other, each in blocks that a
    core's cache holds; on an accelerator together.

    Args:
        cost: C = 1 - cos.
        source, target: Rows and columns of the two grids.
        settings: Weights and steps.
        masks: Tokens that take part, source and target.
        symmetric: For each pair of pictures, source tokens (i, k) of symmetric key points.

    Raises:
        ValueError: If a part does not fit the grids, a cost is not finite, or a mask leaves nothing.

    Example:
        A row of four tokens shifted by none; the features of the third are damaged and look like the first:

        >>> cost = 1 - torch.eye(4)
        >>> cost[2] = torch.tensor([0.2, 1.0, 0.3, 1.0])
        >>> near = GwotSettings(near=2, far=1)
        >>> solve_gwot(cost[None], (1, 4), (1, 4), near).plan[0].argmax(-1)
        tensor([0, 1, 2, 3])
    """
    local = LocalStructure(source, target, settings.near, settings.far, settings.centre)
    local.check(cost)
    if not bool(torch.isfinite(cost).all()):
        raise ValueError("cost holds a number that is not finite; leave tokens out by a mask instead")
    size = len(cost)
    rows, columns = masks if masks is not None else (torch.ones_like(cost[:, :, 0]), torch.ones_like(cost[:, 0]))
    rows, columns = rows.bool(), columns.bool()
    if not all(bool(mask.any(-1).all()) for mask in (rows, columns)):
        raise ValueError("a mask leaves no token to match; give one that covers some of each picture")
    pairs = SymmetricPairs.of(symmetric if settings.symmetry > 0 else None, size, source, target, cost.device)
    problem = _Problem(cost, rows, columns, local, pairs, settings)
    if cost.device.type != "cpu" or size == 1:
        return _descend(problem)
    alone = [_descend(problem.only(number)) for number in range(size)]
    return GwotResult(
        torch.cat([result.plan for result in alone]),
        torch.cat([result.objective for result in alone], 1),
        torch.cat([result.step for result in alone]),
        torch.cat([result.safe_step for result in alone]),
    )


@dataclass(frozen=True, eq=False)
class _Problem:
    """Checked problems of one size."""

    cost: Float[Tensor, "batch n m"]
    source: Bool[Tensor, "batch n"]
    target: Bool[Tensor, "batch m"]
    local: LocalStructure
    pairs: SymmetricPairs
    settings: GwotSettings
    count: Float[Tensor, " batch"] = field(init=False)  # sources that take part
    q: Float[Tensor, "batch m"] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.source.sum(-1).to(self.cost.dtype))
        object.__setattr__(self, "q", self.target.to(self.cost.dtype) / self.target.sum(-1, keepdim=True))

    def only(self, number: int) -> "_Problem":
        part = slice(number, number + 1)
        pairs = self.pairs.only(number)
        return replace(self, cost=self.cost[part], source=self.source[part], target=self.target[part], pairs=pairs)

    def start(self) -> Tensor:
        """p q^T, in rows of mass 1."""
        return self.source.to(self.cost.dtype).unsqueeze(-1) * self.q.unsqueeze(-2)

    def safe_step(self) -> Tensor:
        """1 / L with F(T') <= F(T) + <dF(T), T' - T> + L KL(T' | T) for plans of the same row masses."""
        s = self.settings
        if s.marginals == "unbalanced":
            return torch.zeros_like(self.count)
        structure = structure_weight(s, self.local, self.count) * self.local.taps / self.count
        symmetry = symmetry_weight(s, self.count) / self.count * self.pairs.degree
        marginal = 0.0 if s.marginals == "balanced" else s.marginal
        bound = structure + symmetry + marginal + s.epsilon
        return 1 / torch.clamp(bound, min=torch.finfo(bound.dtype).tiny)


@torch.no_grad()
def _descend(problem: _Problem) -> GwotResult:
    """Mirror descent from p q^T. Plans are held in rows of mass 1: P = n T."""
    s = problem.settings
    now, new = problem.start(), torch.empty_like(problem.cost)
    safe = problem.safe_step()
    step = _step_length(problem, now, safe)
    best, records = None, []
    potentials: list[Potentials | None] = [None] * len(now)  # of the last balanced solve of each problem
    for number in range(s.steps + 1):
        value = _sweep(problem, now, new, step if number < s.steps else None, potentials)
        records.append(value)
        if s.keep == "best":
            lowest = torch.stack(records).amin(0) if len(records) > 1 else value
            best = now.clone() if best is None else torch.where((value <= lowest)[:, None, None], now, best)
        if number < s.steps:
            now, new = new, now
    plan = now if best is None else best
    plan /= problem.count[:, None, None]
    values = torch.stack(records)
    if not bool(torch.isfinite(values).all()):
        raise FloatingPointError(
            f"the objective of GWOT is no longer finite after {int(values.isfinite().all(1).sum())} steps of length "
            f"{float(step.max()):.3g}; {_advice(s)}"
        )
    if bool((values[-1] > values[0]).any()):
        warnings.warn(f"GWOT ended above the objective it began with; {_advice(s)}, or more weight", stacklevel=3)
    return GwotResult(plan, values, step, safe)


def _advice(settings: GwotSettings) -> str:
    return "give a smaller number as step" if settings.marginals == "unbalanced" else "take step='safe'"


def _step_length(problem: _Problem, start: Tensor, safe: Tensor) -> Tensor:
    s = problem.settings
    if s.step == "safe":
        if not bool((safe > 0).all()):
            raise ValueError("no step is known to be safe where both marginals are relaxed; give step as a number")
        return safe
    if s.step == "auto":
        largest = torch.zeros_like(problem.count)
        for block in problem.local.blocks(start):
            gradient = _gradient(problem, start, block)[0]
            largest = torch.maximum(largest, gradient.flatten(1).amax(1))
        step = 4 / largest.clamp(min=torch.finfo(largest.dtype).tiny)
    else:
        step = torch.full_like(problem.count, float(s.step))
    return torch.minimum(step, safe) if s.safeguard and s.marginals != "unbalanced" else step


def _gradient(problem: _Problem, plan: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor, slice]:
    """dF of cost, structure and symmetry in some rows, these terms' part of F, and the rows.

    Constant over a row, and so without effect under T 1 = p: the 1 in the gradient of the entropy.
    """
    s, local = problem.settings, problem.local
    columns = local.source[1]
    rows = slice(block[0] * columns, block[1] * columns)
    mine, count = plan[:, rows], problem.count
    gradient = problem.cost[:, rows] * s.cost
    if s.structure > 0:
        weight = torch.as_tensor(structure_weight(s, local, count) / count)  # of P, not T
        carried = local.rows(local.on_grid(plan), *block).flatten(-3, -2)
        half = weight[..., None, None]
        value = _inner(gradient.addcmul_(carried, half), mine) / count
        gradient.addcmul_(carried, half)  # the gradient of a square has twice it
    else:
        value = _inner(gradient, mine) / count
    if s.symmetry > 0 and len(problem.pairs):
        weight = torch.as_tensor(symmetry_weight(s, count) / count) * torch.ones_like(count)
        value = value + problem.pairs.add(plan, gradient, rows, weight) / count
    return gradient, value, rows


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """<x, y> of each problem, row by row, without a matrix of their products."""
    rows = torch.bmm(x.flatten(0, 1).unsqueeze(1), y.flatten(0, 1).unsqueeze(2))
    return rows.view(x.shape[:2]).sum(-1)


def _sweep(
    problem: _Problem, plan: Tensor, new: Tensor, step: Tensor | None, potentials: list[Potentials | None]
) -> Tensor:
    """F at `plan`; and the plan after one step in `new`, if one is to be taken."""
    s, q = problem.settings, problem.q
    sums = plan.sum(-2) / problem.count[:, None]
    value = torch.zeros_like(problem.count)
    ratio = torch.where((q > 0) & (sums > 0), sums / q.clamp(min=torch.finfo(q.dtype).tiny), 1.0)
    pull = s.marginal * ratio.log()
    for block in problem.local.blocks(plan):
        gradient, part, rows = _gradient(problem, plan, block)
        value = value + part
        mine = plan[:, rows]
        if s.epsilon > 0:
            value = value + s.epsilon * _entropy(mine, problem.count)
        if step is None:
            continue
        if s.marginals == "balanced":
            new[:, rows] = gradient
            continue
        gradient += pull.unsqueeze(-2)
        if s.marginals == "unbalanced":
            mass = mine.sum(-1, keepdim=True)  # p is 1 here
            gradient += s.marginal * torch.where(mass > 0, mass, 1.0).log()
            gradient += s.epsilon * (1 - problem.count.log())[:, None, None]  # of T log T, where P log P is moved
        _move(mine, gradient, step, s, new[:, rows])
    if s.marginals != "balanced":
        value = value + s.marginal * divergence(sums, q)
    if s.marginals == "unbalanced":
        p = problem.source / problem.count[:, None]
        value = value + s.marginal * divergence(plan.sum(-1) / problem.count[:, None], p)
    if step is not None and s.marginals == "balanced":
        _project_balanced(problem, plan, new, step, potentials)
    return value


def _entropy(mine: Tensor, count: Tensor) -> Tensor:
    """sum T log T of some rows."""
    part = mine / count[:, None, None]
    return torch.special.xlogy(part, part).sum((-2, -1))


def _move(mine: Tensor, gradient: Tensor, step: Tensor, settings: GwotSettings, out: Tensor) -> None:
    """T exp(-eta dF), rows scaled to p unless they are relaxed; the entropy's part of dF is a power of T."""
    eta = step[:, None, None]
    if settings.marginals == "unbalanced":
        torch.mul(gradient, -eta, out=gradient)
    else:
        least = gradient.amin(-1, keepdim=True)
        if not bool(((gradient.amax(-1, keepdim=True) - least) * eta <= _HARMLESS).all()):
            # the least among entries that have mass: others may lie lower, and would take all of a row with them
            least = torch.where(mine > 0, gradient, torch.inf).amin(-1, keepdim=True)
            least = torch.where(least.isfinite(), least, 0.0)  # a masked row has no mass at all
            gradient.clamp_(min=least)
        gradient.sub_(least).mul_(-eta)
    gradient.exp_()
    power = mine if settings.epsilon == 0 else mine.pow((1 - eta * settings.epsilon).clamp(min=0))
    torch.mul(power, gradient, out=out)
    if settings.epsilon > 0:
        out.masked_fill_(mine == 0, 0.0)
    if settings.marginals != "unbalanced":
        mass = out.sum(-1, keepdim=True)
        out /= torch.where(mass > 0, mass, 1.0)


def _project_balanced(
    problem: _Problem, plan: Tensor, new: Tensor, step: Tensor, potentials: list[Potentials | None]
) -> None:
    """The step in the Kullback-Leibler sense onto both marginals: a Sinkhorn solve; `new` has dF and gets the plan.

    Each solve starts from the potentials of the last one. It ends by its residual, so the plan is the same within tol.
    """
    epsilon = problem.settings.epsilon
    for number in range(len(plan)):
        rows, columns = problem.source[number].nonzero()[:, 0], problem.target[number].nonzero()[:, 0]
        whole = (len(rows), len(columns)) == plan[number].shape
        cost, before = (x.clone() if whole else x[rows][:, columns] for x in (new[number], plan[number]))
        before.mul_(len(columns)).log_()  # log(plan / a b^T)
        eta = float(step[number])
        cost.add_(before.clamp(min=-1e30), alpha=epsilon).sub_(before, alpha=1 / eta)
        solved = solve_transport(
            cost,
            epsilon=1 / eta,
            tau=math.inf,
            max_iter=1000,
            tol=1e-6 if cost.dtype == torch.float64 else 1e-5,  # rounding leaves about 1e-6 in float32
            gradient="none",
            init=potentials[number] if problem.settings.warm else None,
        )
        potentials[number] = solved.potentials
        if whole:
            torch.mul(solved.plan, len(rows), out=new[number])
        else:
            new[number] = 0
            new[number].index_put_((rows[:, None], columns[None]), solved.plan * len(rows))


# Eq. (4) for a plan


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
