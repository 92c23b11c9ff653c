"""Many sparse problems of any sizes in one: a block diagonal, whose small members are solved together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .cost import SparseCost
from .pairs import BlockPairs
from .problem import Problem, SolveSettings, build_problem, check_cost, problem_on
from .result import TransportError, TransportResult
from .start import Potentials, Start, check_start
from .support import Support

Solve = Callable[[Problem, SolveSettings, Start | None], TransportResult]

_TOGETHER = 2**18  # pairs that are solved together on a CPU: more leave its caches
_SCALARS = ("mass", "value", "dual_value", "gap", "converged", "status", "residual", "iterations")


def block_diagonal(costs: Sequence[SparseCost]) -> SparseCost:
    """One cost in which member i's sources and targets follow those of member i - 1; differentiable.

    `solve_transport` sweeps over the small members of such a cost together, each until it has converged itself; from
    then on its potentials are kept bit for bit. What a member gets is what it gets alone, up to rounding: whether a
    matrix holds other rows does not change the sum of one, but sums over tokens may be added up in another order.
    Extrapolated sweeps (tau many times epsilon, or balanced) make more of such a rounding. In float32 a member may then
    take some sweeps more or less than alone, and the two plans are alike within what their residuals say. Members of
    more than 2**18 pairs on a CPU are solved alone. Tokens and pairs of all members lie one after another in the
    result; `mass`, `value`, `gap`, `converged`, `status`, `residual` and `iterations` have one entry a member. epsilon
    and tau may, too. Weights not given are 1/n_i and 1/m_i within each member. Take the result apart with
    `split_result`.

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
    solve: Solve,
    init: Potentials | None = None,
) -> TransportResult:
    """The members, many small ones at a time by `solve`, put together again in their order."""
    blocks = cost.support.blocks
    values = cost.values.split([block.nnz for block in blocks])
    n, m = ([block.shape[side] for block in blocks] for side in (0, 1))
    weights = [_split("weights", name, w, sizes) for name, w, sizes in zip("ab", sides, (n, m), strict=True)]
    both = [_split_scale(name, s, len(blocks)) for name, s in zip(("epsilon", "tau"), scales, strict=True)]
    if init is not None and (not isinstance(init, tuple) or len(init) != 2):
        raise ValueError(f"init must be the two potentials (f, g) of a result, but is {type(init).__name__}")
    starts = [
        _split("potentials", f"init {name}", v, sizes)
        for name, v, sizes in zip("fg", init or (None, None), (n, m), strict=True)
    ]
    balanced = torch.as_tensor(scales[1]).detach().isinf().expand(len(blocks)).tolist()
    members = [_Member(*parts) for parts in zip(values, blocks, *weights, *both, *starts, balanced, strict=True)]
    groups = _groups(members, cost.support.device)
    results = [_solve_group(members, group, settings, solve) for group in groups]
    order = [place for group in groups for place in group]
    back = None
    if order != list(range(len(members))):
        kinds = (n, m, [block.nnz for block in blocks], [1] * len(blocks))
        back = [_way_back(sizes, order, cost.support.device) for sizes in kinds]
    return _joined(results, cost.support, back)


@dataclass(frozen=True, eq=False)
class _Member:
    """One problem, as it was given."""

    values: Tensor
    support: Support
    a: Tensor | None
    b: Tensor | None
    epsilon: float | int | Tensor
    tau: float | int | Tensor
    f: Tensor | None
    g: Tensor | None
    balanced: bool

    @property
    def init(self) -> Potentials | None:
        """Where it starts."""
        return None if self.f is None or self.g is None else (self.f, self.g)

    def check(self, settings: SolveSettings) -> None:
        """Raise what solving it alone would raise."""
        cost = SparseCost(self.values, self.support)
        problem = build_problem(cost, self.a, self.b, self.epsilon, self.tau, settings.reference)
        if self.init is not None:
            check_start(problem, self.init)


def _groups(members: list[_Member], device: torch.device) -> list[list[int]]:
    """Which members are solved together: alike in size, so that little is padded, and all balanced or none."""
    most = _TOGETHER if device.type == "cpu" else 2**31 - 1
    sizes = [sum(member.support.shape) for member in members]
    order = sorted(range(len(members)), key=lambda i: (members[i].balanced, sizes[i]))
    groups: list[list[int]] = []
    pairs = tokens = rows = cols = 0
    for place in order:
        (n, m), nnz = members[place].support.shape, members[place].support.nnz
        wide, high, last = max(rows, n), max(cols, m), groups[-1] if groups else []
        padded_little = (len(last) + 1) * (wide + high) <= 2 * (tokens + n + m)
        alike = bool(last) and members[last[0]].balanced == members[place].balanced
        if alike and padded_little and pairs + nnz <= most:
            last.append(place)
            pairs, tokens, rows, cols = pairs + nnz, tokens + n + m, wide, high
        else:
            groups.append([place])
            pairs, tokens, rows, cols = nnz, n + m, n, m
    return groups


def _solve_group(members: list[_Member], group: list[int], settings: SolveSettings, solve: Solve) -> TransportResult:
    """Some members as one problem of blocks; tokens and pairs lie one after another. Errors name the member."""
    chosen = [members[place] for place in group]
    try:
        if len(chosen) > 1:
            return _solve_together(chosen, group, settings, solve)
        (one,) = chosen
        cost = SparseCost(one.values, one.support)
        problem = build_problem(cost, one.a, one.b, one.epsilon, one.tau, settings.reference)
        alone = solve(problem, settings, None if one.init is None else check_start(problem, one.init))
        return replace(alone, **{name: getattr(alone, name).unsqueeze(0) for name in _SCALARS})
    except ValueError:
        for place, member in zip(group, chosen, strict=True):
            try:
                member.check(settings)
            except TransportError as error:
                raise TransportError(f"member {place}: {error}", error.status, ((place,),)) from None
            except ValueError as error:
                raise ValueError(f"member {place}: {error}") from None
        raise


def _solve_together(
    members: list[_Member], numbers: list[int], settings: SolveSettings, solve: Solve
) -> TransportResult:
    supports, count = [member.support for member in members], len(members)
    n, m = (max(s.shape[side] for s in supports) for side in (0, 1))
    support, values = _join(supports, (n, m)), torch.cat([member.values for member in members])
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    sizes = torch.tensor([s.nnz for s in supports], device=support.device)
    pairs = BlockPairs(
        cost=values,
        finite=check_cost(SparseCost(values, support), values),
        support=support,
        numbers=tuple(numbers),
        block=torch.arange(count, device=support.device).repeat_interleave(sizes),
        begins=torch.nn.functional.pad(sizes.cumsum(0), (1, 0)),
    )
    places = [_places([s.shape[side] for s in supports], size, support.device) for side, size in ((0, n), (1, m))]

    def padded(side: int, given: list[Tensor | None], fill: Callable[[int], float]) -> Tensor:
        size = (n, m)[side]
        parts = [
            values.new_full((s.shape[side],), fill(s.shape[side])) if one is None else one
            for s, one in zip(supports, given, strict=True)
        ]
        flat = torch.cat(parts)
        if places[side] is not None:
            flat = flat.new_zeros(count * size).index_put((places[side],), flat)
        return flat.view(count, size)

    a, b = (
        padded(0, [one.a for one in members], lambda size: 1 / size),
        padded(1, [one.b for one in members], lambda size: 1 / size),
    )
    scales = [
        torch.stack([torch.as_tensor(getattr(one, name), dtype=values.dtype, device=values.device) for one in members])
        for name in ("epsilon", "tau")
    ]
    problem = problem_on(pairs, (a, b), (scales[0], scales[1]), settings.reference, (torch.Size([count]), n, m))
    start = None
    if members[0].init is not None:
        first = (padded(0, [one.f for one in members], float), padded(1, [one.g for one in members], float))
        start = check_start(problem, first)
    return _without_padding(solve(problem, settings, start), places)


def _without_padding(result: TransportResult, places: list[Tensor | None]) -> TransportResult:
    """The real tokens of all members, one after another."""

    def flat(x: Tensor, side: int) -> Tensor:
        own = places[side]
        return x.flatten() if own is None else x.flatten().index_select(0, own)

    (f, g), (r, c) = result.potentials, result.marginals
    return replace(
        result,
        potentials=(flat(f, 0), flat(g, 1)),
        marginals=(flat(r, 0), flat(c, 1)),
        covered=flat(result.covered, 1),
    )


def _places(sizes: list[int], size: int, device: torch.device) -> Tensor | None:
    """Where each member's tokens stand among `size` a member, one after another; None where all have as many."""
    if all(each == size for each in sizes):
        return None
    parts = [torch.arange(each, device=device) + i * size for i, each in enumerate(sizes)]
    return torch.cat(parts)


def _way_back(sizes: list[int], order: list[int], device: torch.device) -> Tensor:
    """Places of the members' entries, in the members' order, where they lie one after another in `order`."""
    begins, here = [0] * len(sizes), 0
    for place in order:
        begins[place], here = here, here + sizes[place]
    return torch.cat([torch.arange(b, b + size, device=device) for b, size in zip(begins, sizes, strict=True)])


def _joined(results: list[TransportResult], support: Support, back: list[Tensor] | None) -> TransportResult:
    """Results of groups as one; `back` brings rows, columns, pairs and members into their order."""

    def ordered(parts: list[Tensor], kind: int) -> Tensor:
        joined = torch.cat(parts)
        return joined if back is None else joined.index_select(0, back[kind])

    return TransportResult(
        plan_values=ordered([r.plan_values for r in results], 2),
        potentials=(ordered([r.potentials[0] for r in results], 0), ordered([r.potentials[1] for r in results], 1)),
        marginals=(ordered([r.marginals[0] for r in results], 0), ordered([r.marginals[1] for r in results], 1)),
        covered=ordered([r.covered for r in results], 1),
        support=support,
        **{name: ordered([getattr(r, name) for r in results], 3) for name in _SCALARS},
    )


def _split(what: str, name: str, given: Tensor | None, sizes: list[int]) -> list[Tensor | None]:
    if given is None:
        return [None] * len(sizes)
    if given.shape != (sum(sizes),):
        raise ValueError(
            f"{name} must have shape ({sum(sizes)},), the members' {what} one after another, but has "
            f"{tuple(given.shape)}; join them with torch.cat, or pass {name.split()[0]}=None for "
            f"{'uniform weights' if what == 'weights' else 'a cold start'}"
        )
    return list(given.split(sizes))


def _split_scale(name: str, value: float | int | Tensor, count: int) -> list[float | int | Tensor]:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return [value] * count
    if value.shape != (count,):
        raise ValueError(
            f"{name} must be one number or have shape ({count},), one for each member, but has shape "
            f"{tuple(value.shape)}"
        )
    return list(value)


def _join(supports: Sequence[Support], size: tuple[int, int] | None = None) -> Support:
    """The block diagonal, in both orders, by shifting the members' indices; with `size`, of blocks of that size."""
    if sum(s.nnz for s in supports) >= 2**31:
        raise ValueError("a support holds fewer than 2**31 pairs; solve fewer members at once")
    joined: dict[str, list[Tensor]] = {f.name: [] for f in fields(Support) if f.name not in ("shape", "blocks")}
    n = m = pairs = 0
    for s in supports:
        rows, cols = size or s.shape
        first = 0 if not pairs and not n else 1
        for name, shift in (("row", n), ("trow", n), ("col", m), ("tcol", m), ("perm", pairs)):
            joined[name].append(getattr(s, name) + shift)
        for name, padding in (("crow", rows - s.shape[0]), ("ccol", cols - s.shape[1])):
            ends = getattr(s, name)
            joined[name] += [ends[first:] + pairs, (ends[-1:] + pairs).expand(padding)]
        n, m, pairs = n + rows, m + cols, pairs + s.nnz
    blocks = () if size else tuple(supports)
    return Support(**{name: torch.cat(parts) for name, parts in joined.items()}, shape=(n, m), blocks=blocks)
