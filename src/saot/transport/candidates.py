"""Which targets are worth a look for each source: the k most similar ones by cosine, SAOT sec. 4.3."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from .cost import SparseCost, unit
from .products import csr_from, has_sparse_kernels
from .select import row_selector
from .support import Support, assemble

_COVER_ON_THE_WAY = 8  # up to here a target's best sources cost less beside the search than in one of their own
_BLOCK_BYTES = 14 * 2**20  # of similarities at one time: they stay in the cache between product and selection
_LARGEST_BLOCK_BYTES = 64 * 2**20  # where 14 MiB are too few rows for a quick product
_GATHER_ELEMENTS = 2**22
_MARGIN = 16  # a fast search re-scores one sixteenth more candidates than it returns

Form = Literal["source", "union", "mutual"]
Search = Literal["exact", "fast"]
Product = Callable[[slice], Tensor]  # a range of sources to its block of similarities


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs worth a look and how similar they are, so that a fixed cost on them costs nothing more.

    Attributes:
        support: The pairs.
        similarity: Cosine of each pair in CSR order, in float32 or better; without a gradient.

    Example:
        >>> found = topk_candidates(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), k=1)
        >>> found.support.col.tolist(), found.similarity.tolist(), found.cosine_cost().values.item()
        ([1], [0.800000011920929], 0.19999998807907104)
    """

    support: Support
    similarity: Float[Tensor, " pairs"]

    def cosine_cost(self) -> SparseCost:
        """1 - cos of the pairs: `saot.cosine_cost` on this support, without a gradient."""
        return SparseCost(1 - self.similarity, self.support)

    def squared_euclidean_cost(self) -> SparseCost:
        """2 - 2 cos, the squared distance of the NORMALISED features, without a gradient.

        Equals `saot.squared_euclidean_cost` on this support for unit features; a zero feature has cosine 0
        and so distance 2 from all. Where rounding takes it below 0 it is 0.
        """
        return SparseCost((2 - 2 * self.similarity).clamp(min=0), self.support)


@dataclass(frozen=True)
class Recall:
    """What a support holds of each source's true k most similar targets.

    Attributes:
        share: Share of the true pairs that the support holds; 1 is all.
        worst_miss: By how much the best missed target is more similar (in cosine) than its source's k-th
            best, over all sampled sources; 0 if nothing, or only ties, were missed.
        sampled: Number of sources looked at.
    """

    share: float
    worst_miss: float
    sampled: int


def topk_support(
    source: Float[Tensor, "n d_source"],
    target: Float[Tensor, "m d_target"],
    k: int,
    cover: int | None = None,
    form: Form = "source",
    search: Search = "exact",
) -> Support:
    """Each source's k most similar targets by cosine, SAOT sec. 4.3: the pairs of `topk_candidates` alone.

    Args:
        source: Features of n source tokens.
        target: Features of m target tokens, of the same dimension.
        k: Targets a source; more than m means all m.
        cover: Also add each target's `cover` most similar sources: no target is left without candidates.
        form: "source", "union" or "mutual", see `topk_candidates`.
        search: "exact" or "fast", see `topk_candidates`.

    Returns:
        The pairs.

    Raises:
        ValueError: As `topk_candidates`.

    Example:
        >>> source, target = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> topk_support(source, target, k=1).col.tolist()
        [0, 0]
        >>> support = topk_support(source, target, k=1, cover=1)  # target 1 now has source 1
        >>> support.row.tolist(), support.col.tolist()
        ([0, 1, 1], [0, 0, 1])
    """
    return topk_candidates(source, target, k, cover, form, search).support


def topk_candidates(
    source: Float[Tensor, "n d_source"],
    target: Float[Tensor, "m d_target"],
    k: int,
    cover: int | None = None,
    form: Form = "source",
    search: Search = "exact",
) -> Candidates:
    """Each source's k most similar targets by cosine and their cosines, SAOT sec. 4.3.

    Exactly k for each source. Of targets that are equally similar the ones with the lower index are taken;
    a zero feature has cosine 0 with everything. Holds 14 MiB of similarities at a time (up to 64 MiB beyond
    28000 targets). Neither the choice of pairs nor the cosines carry a gradient.

    Args:
        source: Features of n source tokens.
        target: Features of m target tokens, of the same dimension.
        k: Targets a source; more than m means all m.

    Other:
        cover: Coverage: no token is left without candidates. Adds each target's `cover` most similar sources
            (which of equally similar ones is left open) and, in the mutual form, each source's most similar
            targets.
        form: "source" as in the paper; "union" adds each target's k most similar sources; "mutual" keeps
            the pairs that both sides chose, which leaves some tokens without any: see `cover`. Both search
            once more from the target's side.
        search: "exact", or "fast": k and a few more candidates by bfloat16 products of the centred features,
            re-scored in full precision and cut to k. A few pairs near the k-th place are missed, see
            `measure_recall`; cosines are exact all the same. Where the processor has no fast bfloat16
            product, "fast" is as exact and as slow as "exact".

    Returns:
        The pairs and their cosines. The selection is done by numba if the extra `fast` is installed, with
        the same result.

    Raises:
        ValueError: If dimensions or devices differ, a side is empty, k or cover is below 1, form or search
            is unknown, or a feature is not finite.

    Example:
        >>> source, target = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
        >>> found = topk_candidates(source, target, k=1)
        >>> found.support.row.tolist(), found.support.col.tolist(), found.similarity.tolist()
        ([0, 1], [0, 1], [1.0, 0.800000011920929])
        >>> topk_candidates(source, target, k=1, form="union").support.nnz  # both targets chose alike
        2
    """
    check_features(source, target, k, cover, form, search)
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        x, y = unit_features(source, target)
        return _find(x, y, k, cover or 0, form, search)


def measure_recall(
    support: Support,
    source: Float[Tensor, "n d_source"],
    target: Float[Tensor, "m d_target"],
    k: int,
    sample: int = 512,
    generator: torch.Generator | None = None,
) -> Recall:
    """What the support holds of the true k most similar targets of some sources, by brute force in blocks.

    A pair as similar as the k-th best up to rounding counts as a true one, but never more than k a source.

    Args:
        support: Pairs to judge, made from these features in whatever way.
        source: Features of n source tokens.
        target: Features of m target tokens, of the same dimension.
        k: Targets a source that should be there.
        sample: Number of sources to look at; n or more means all.
        generator: Chooses them; torch's own if not given.

    Raises:
        ValueError: If the support is of another shape, sample is below 1, or as `topk_candidates`.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> half = Support.from_pairs(torch.tensor([0]), torch.tensor([0]), (2, 2))  # source 1 misses itself
        >>> measure_recall(half, x, x, k=1)
        Recall(share=0.5, worst_miss=0.0, sampled=2)
    """
    check_features(source, target, k, None, "source", "exact")
    n, m = source.shape[0], target.shape[0]
    if support.shape != (n, m):
        raise ValueError(
            f"the support is for {support.shape[0]} sources and {support.shape[1]} targets, but the features are "
            f"{n} and {m} tokens; pass the features it was built from"
        )
    if sample < 1:
        raise ValueError(f"sample must be at least 1, but is {sample}; look at one source or more")
    rows = torch.arange(n, device=source.device)
    if sample < n:
        rows = torch.randperm(n, generator=generator)[:sample].sort().values.to(source.device)
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        x, y = unit_features(source[rows], target)
        found, worst = _count_found(support, rows, x, y, min(k, m))
    return Recall(found / (rows.numel() * min(k, m)), worst, rows.numel())


def _count_found(support: Support, rows: Tensor, x: Tensor, y: Tensor, k: int) -> tuple[int, float]:
    """How many of the k best targets of x, the features of these sources, the support holds; the worst miss."""
    found, worst, slack = 0, 0.0, 16 * torch.finfo(x.dtype).eps
    for part in row_blocks(x.shape[0], y.shape[0], x.element_size()):
        block = x[part] @ y.T
        least = block.topk(k, dim=1).values[:, -1]
        local, col = _entries(support, rows[part])
        hit = block[local, col] >= least[local] - slack
        found += int(torch.bincount(local[hit], minlength=block.shape[0]).clamp(max=k).sum())
        block[local, col] = -torch.inf
        worst = max(worst, float((block.amax(1) - least).max()))
    return found, worst if worst > slack else 0.0


def check_features(source: Tensor, target: Tensor, k: int, cover: int | None, form: str, search: str) -> None:
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"source features have {source.shape[1]} dimensions but target features {target.shape[1]}; "
            "take both from one backbone"
        )
    if source.device != target.device:
        raise ValueError(
            f"source features are on {source.device} but target features on {target.device}; move them together"
        )
    for name, features in (("source", source), ("target", target)):
        if features.numel() == 0:
            raise ValueError(f"{name} must hold at least one token, but its shape is {tuple(features.shape)}")
        length = torch.linalg.vector_norm(features.detach(), dim=1, dtype=_at_least_float32(features))
        if not bool(torch.isfinite(length).all()):  # a tenth of the time of looking at each number
            token = int((~torch.isfinite(length)).nonzero()[0])
            fault = "is too long" if bool(torch.isfinite(features[token]).all()) else "is not"
            raise ValueError(f"{name} features must be finite, but token {token} {fault}; remove it first")
    for name, value in (("k", k), ("cover", cover)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}; ask for one candidate or more")
    for name, value, known in (("form", form, get_args(Form)), ("search", search, get_args(Search))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}; choose one of them")


def _at_least_float32(features: Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)


def unit_features(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both with rows of length 1, in their common type, float32 or better."""
    dtype = torch.promote_types(_at_least_float32(source), target.dtype)
    return unit(source.detach().to(dtype)), unit(target.detach().to(dtype))


@dataclass(frozen=True, eq=False)
class _Pairs:
    row: Tensor  # int32, all (pairs,)
    col: Tensor
    similarity: Tensor


@dataclass(frozen=True, eq=False)
class _Nearest:
    """The same number of nearest tokens of the other side for each token of this one."""

    index: Tensor  # (n, k), int32, ascending
    similarity: Tensor  # (n, k)

    def pairs(self) -> _Pairs:
        n, k = self.index.shape
        row = torch.arange(n, dtype=torch.int32, device=self.index.device).repeat_interleave(k)
        return _Pairs(row, self.index.reshape(-1), self.similarity.reshape(-1))

    def flipped(self) -> _Pairs:
        """With this side's tokens as targets."""
        pairs = self.pairs()
        return _Pairs(pairs.col, pairs.row, pairs.similarity)

    def best(self, k: int, work: int = 0) -> "_Nearest":
        """The k most similar ones alone; none for k = 0. `work` is the size of the search around this."""
        if k in (0, self.index.shape[1]):
            return self if k else _Nearest(self.index[:, :0], self.similarity[:, :0])
        with row_selector(k, max(work, self.index.numel()), self.index.device) as select:
            place, similarity = select(self.similarity)
        return _Nearest(self.index.gather(1, place.long()), similarity)


def _find(x: Tensor, y: Tensor, k: int, cover: int, form: str, search: str) -> Candidates:
    n, m = x.shape[0], y.shape[0]
    if form == "source" and cover <= _COVER_ON_THE_WAY:
        by_source, by_target = _search(x, y, min(k, m), search, min(cover, n))
        return _union([by_source.pairs(), by_target.flipped()], (n, m))
    if form != "mutual":
        by_source, _ = _search(x, y, min(k, m), search)
        by_target, _ = _search(y, x, min(max(k if form == "union" else 1, cover), n), search)
        return _union([by_source.pairs(), by_target.flipped()], (n, m))
    by_source, _ = _search(x, y, min(max(k, cover), m), search)
    by_target, _ = _search(y, x, min(max(k, cover), n), search)
    both = _in_both(by_source.best(min(k, m)).pairs(), by_target.best(min(k, n)).flipped(), m)
    covering = [by_source.best(min(cover, m)).pairs(), by_target.best(min(cover, n)).flipped()]
    return _union([both, *covering], (n, m))


def _search(x: Tensor, y: Tensor, k: int, search: str, cover: int = 0) -> tuple[_Nearest, _Nearest]:
    """The k nearest y of each x, and the `cover` nearest x of each y."""
    n, m = x.shape[0], y.shape[0]
    fast = search == "fast" and has_fast_bfloat16(x.device)
    product, missing = half_product(x, y) if fast else (exact_product(x, y), None)
    wide = min(m, k + k // _MARGIN + 4) if fast else k
    near = _Nearest(torch.empty(n, wide, dtype=torch.int32, device=x.device), x.new_empty(n, wide))
    best = x.new_empty(0, m), torch.empty(0, m, dtype=torch.int64, device=x.device)
    with row_selector(wide, n * m, x.device) as select:
        for rows in row_blocks(n, m, x.element_size()):
            block = product(rows)
            near.index[rows], near.similarity[rows] = select(block)
            if cover:
                block = block if missing is None else block.add_(missing[rows, None])
                best = _merge(best, block, rows.start, cover)
    sources = best[1].T.int().sort(dim=1)
    covering = _Nearest(sources.values, best[0].T.gather(1, sources.indices))
    if fast:
        near = _Nearest(near.index, pair_similarity(x, y, near.index)).best(k, n * m)
        covering = _Nearest(covering.index, pair_similarity(y, x, covering.index))
    return near, covering


def _merge(best: tuple[Tensor, Tensor], block: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Similarities and indices (count, m) of each target's best sources, with one more block of sources."""
    values, index = block.topk(min(count, block.shape[0]), dim=0)
    values, index = torch.cat([best[0], values]), torch.cat([best[1], index + start])
    values, order = values.topk(min(count, values.shape[0]), dim=0)
    return values, index.gather(0, order)


def _entries(support: Support, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Place in rows and target of each entry of these sources."""
    start, stop = support.crow[rows].long(), support.crow[rows + 1].long()
    count = stop - start
    local = torch.arange(rows.numel(), device=rows.device).repeat_interleave(count)
    entry = torch.arange(local.numel(), device=rows.device) + (start - count.cumsum(0) + count)[local]
    return local, support.col[entry].long()


def _keys(pairs: _Pairs, m: int) -> Tensor:
    """One number a pair, in CSR order."""
    return pairs.row.long() * m + pairs.col


def _in_both(one: _Pairs, other: _Pairs, m: int) -> _Pairs:
    """The pairs of one that the other has too."""
    keep = torch.isin(_keys(one, m), _keys(other, m), assume_unique=True)
    return _Pairs(one.row[keep], one.col[keep], one.similarity[keep])


def _union(parts: list[_Pairs], shape: tuple[int, int]) -> Candidates:
    """The pairs of all parts, the first of which is in CSR order; one found twice has its first cosine."""
    first, *others = parts
    if sum(part.row.numel() for part in others) == 0:
        return Candidates(assemble(first.row, first.col, shape), first.similarity)
    keys, order = torch.cat([_keys(part, shape[1]) for part in parts]).sort(stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=new[1:])
    order = order[new]
    row, col, similarity = (
        torch.cat([getattr(p, name) for p in parts])[order] for name in ("row", "col", "similarity")
    )
    return Candidates(assemble(row, col, shape), similarity)


def row_blocks(n: int, m: int, item_bytes: int) -> Iterator[slice]:
    """Ranges of the n rows, about equal, each with a block of similarities of at most 14 MiB, or 128 rows."""
    row = m * item_bytes
    most = max(_BLOCK_BYTES // row, min(128, _LARGEST_BLOCK_BYTES // row), 1)
    step = -(-n // -(-n // most))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def exact_product(x: Tensor, y: Tensor) -> Product:
    """Blocks of x y^T in the precision of x and y."""
    linear = _onednn_linear() if x.device.type == "cpu" and x.dtype == torch.float32 else None
    if linear is None:
        return lambda rows: x[rows] @ y.T
    return lambda rows: linear(x[rows], y)


@functools.cache
def _onednn_linear() -> Callable[[Tensor, Tensor], Tensor] | None:
    """x y^T by oneDNN, or None where this torch has no such operator or it is not exact to rounding.

    On AMD processors torch's own float32 product takes twice as long; the operator is private, so it is tried.
    """

    def linear(x: Tensor, y: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, y, None, "none", [], "")

    if not torch.backends.mkldnn.is_available():
        return None
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 65, generator=generator), torch.randn(11, 65, generator=generator)
    try:
        found = linear(x, y)
    except (AttributeError, RuntimeError):
        return None
    expected = x.double() @ y.double().T
    same = found.dtype == x.dtype and found.shape == expected.shape
    return linear if same and bool((found - expected).abs().max() < 1e-4) else None


def half_product(x: Tensor, y: Tensor) -> tuple[Product, Tensor]:
    """Blocks of x (y - c)^T in bfloat16 precision, and x c^T (n,), which is missing in each row; c is the mean of y.

    Each row keeps its order, and numbers nearer to zero lose less to rounding.
    """
    centre = y.mean(0)
    x_half, y_half = x.bfloat16(), (y - centre).bfloat16()
    return lambda rows: (x_half[rows] @ y_half.T).float(), x @ centre


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 faster than float32; False where torch cannot tell."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def pair_similarity(x: Tensor, y: Tensor, col: Tensor) -> Tensor:
    """<x_i, y_j> for the targets col (n, k) of each source, (n, k)."""
    n, k = col.shape
    if k == 0:
        return x.new_empty(n, 0)
    if has_sparse_kernels(x.device):
        crow = torch.arange(0, n * k + 1, k, dtype=torch.int32, device=x.device)
        pattern = csr_from(crow, col.reshape(-1), x.new_zeros(n * k), (n, y.shape[0]))
        return torch.sparse.sampled_addmm(pattern, x.contiguous(), y.contiguous().T, beta=0.0).values().view(n, k)
    out = x.new_empty(n, k)
    step = max(1, _GATHER_ELEMENTS // (k * x.shape[1]))
    for start in range(0, n, step):
        near = y[col[start : start + step].long()]  # (step, k, d)
        out[start : start + step] = (near @ x[start : start + step, :, None]).squeeze(-1)
    return out
