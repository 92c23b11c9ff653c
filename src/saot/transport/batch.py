"""Many sparse problems of any sizes in one: a block diagonal, solved member by member."""

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from .cost import SparseCost
from .problem import SolveSettings
from .result import TransportError, TransportResult
from .support import Support

_SCALARS = ("mass", "value", "dual_value", "gap", "converged", "status", "residual", "iterations")


def block_diagonal(costs: Sequence[SparseCost]) -> SparseCost:
    """One cost in which member i's sources and targets follow those of member i - 1; differentiable.

    `solve_transport` solves such a cost member by member, each until it has converged itself, so that none
    influences another: plan, potentials and labels are, bit for bit, those of the member alone. Tokens and pairs
    of all members lie one after another in the result; `mass`, `value`, `gap`, `converged`, `status`,
    `residual` and `iterations` have one entry a member. epsilon and tau may, too. Weights not given are 1/n_i and
    1/m_i within each member. Take the result apart with `split_result`.

    Args:
        costs: One or more costs on supports, all on one device and of one type.

    Returns:
        A `SparseCost` of (sum n_i, sum m_i) whose support knows its `blocks`.

    Raises:
        ValueError: If there is no member, or they differ in device or type, or one is a block diagonal itself.

    Example:
        >>> one = SparseCost(torch.tensor([0.0, 1.0]), Support.full(1, 2))
        >>> two = SparseCost(torch.tensor([2.0]), Support.full(1, 1))
        >>> block_diagonal([one, two]).dense()
        tensor([[0., 1., inf],
                [inf, inf, 2.]])
    """
    if not costs:
        raise ValueError("block_diagonal needs one cost or more, but got none; pass a list of SparseCost")
    for place, cost in enumerate(costs):
        if cost.support.blocks:
            raise ValueError(f"costs[{place}] is a block diagonal itself; pass its members instead")
        if (cost.values.device, cost.values.dtype) != (costs[0].values.device, costs[0].values.dtype):
            raise ValueError(
                f"costs[{place}] is {cost.values.dtype} on {cost.values.device} but costs[0] is "
                f"{costs[0].values.dtype} on {costs[0].values.device}; bring them to one type and device"
            )
    return SparseCost(torch.cat([cost.values for cost in costs]), _join([cost.support for cost in costs]))


def split_result(result: TransportResult) -> list[TransportResult]:
    """The results of a block diagonal's members, each as if it had been solved alone; gradients stay attached.

    Raises:
        ValueError: If the result is not that of a block diagonal.
    """
    blocks = () if result.support is None else result.support.blocks
    if not blocks:
        raise ValueError("split_result takes the result of a block diagonal, but this is one problem's; use it as is")
    n, m = [b.shape[0] for b in blocks], [b.shape[1] for b in blocks]
    plans = result.plan_values.split([b.nnz for b in blocks])
    (f, g), (r, c) = result.potentials, result.marginals
    vectors = zip(plans, f.split(n), g.split(m), r.split(n), c.split(m), result.covered.split(m), blocks, strict=True)
    return [
        TransportResult(
            plan_values=plan,
            potentials=(f, g),
            marginals=(r, c),
            covered=covered,
            support=block,
            **{name: getattr(result, name)[i] for name in _SCALARS},
        )
        for i, (plan, f, g, r, c, covered, block) in enumerate(vectors)
    ]


def solve_blocks(
    cost: SparseCost,
    sides: tuple[Tensor | None, Tensor | None],
    scales: tuple[float | int | Tensor, float | int | Tensor],
    settings: SolveSettings,
    solve: Callable[..., TransportResult],
) -> TransportResult:
    """Each member by `solve(cost, a, b, epsilon, tau, settings)`, put together again."""
    parts = cost.values.split([block.nnz for block in cost.support.blocks])
    members = [SparseCost(values, block) for values, block in zip(parts, cost.support.blocks, strict=True)]
    weights = [_split_weights(name, side, w, members) for name, side, w in zip("ab", (0, 1), sides, strict=True)]
    both = [_split_scale(name, s, len(members)) for name, s in zip(("epsilon", "tau"), scales, strict=True)]
    results = []
    for place, arguments in enumerate(zip(members, *weights, *both, strict=True)):
        try:
            results.append(solve(*arguments, settings))
        except TransportError as error:
            raise TransportError(f"member {place}: {error}", error.status, ((place,),)) from None
        except ValueError as error:
            raise ValueError(f"member {place}: {error}") from None
    return TransportResult(
        plan_values=torch.cat([r.plan_values for r in results]),
        potentials=(torch.cat([r.potentials[0] for r in results]), torch.cat([r.potentials[1] for r in results])),
        marginals=(torch.cat([r.marginals[0] for r in results]), torch.cat([r.marginals[1] for r in results])),
        covered=torch.cat([r.covered for r in results]),
        support=cost.support,
        **{name: torch.stack([getattr(r, name) for r in results]) for name in _SCALARS},
    )


def _split_weights(name: str, side: int, weights: Tensor | None, members: list[SparseCost]) -> list[Tensor | None]:
    sizes = [member.shape[side] for member in members]
    if weights is None:
        return [None] * len(members)
    if weights.shape != (sum(sizes),):
        raise ValueError(
            f"{name} must have shape ({sum(sizes)},), the members' weights one after another, but has "
            f"{tuple(weights.shape)}; join them with torch.cat, or pass {name}=None for uniform weights"
        )
    return list(weights.split(sizes))


def _split_scale(name: str, value: float | int | Tensor, count: int) -> list[float | int | Tensor]:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return [value] * count
    if value.shape != (count,):
        raise ValueError(
            f"{name} must be one number or have shape ({count},), one for each member, but has shape "
            f"{tuple(value.shape)}"
        )
    return list(value)


def _join(supports: Sequence[Support]) -> Support:
    """The block diagonal, in both orders, by shifting the members' indices."""
    if sum(s.nnz for s in supports) >= 2**31:
        raise ValueError("a support holds fewer than 2**31 pairs; solve fewer members at once")
    joined: dict[str, list[Tensor]] = {f.name: [] for f in fields(Support) if f.name not in ("shape", "blocks")}
    n = m = pairs = 0
    for s in supports:
        first = slice(None) if not pairs and not n else slice(1, None)
        for name, shift in (("row", n), ("trow", n), ("col", m), ("tcol", m), ("perm", pairs)):
            joined[name].append(getattr(s, name) + shift)
        for name in ("crow", "ccol"):
            joined[name].append(getattr(s, name)[first] + pairs)
        n, m, pairs = n + s.shape[0], m + s.shape[1], pairs + s.nnz
    return Support(**{name: torch.cat(parts) for name, parts in joined.items()}, shape=(n, m), blocks=tuple(supports))
