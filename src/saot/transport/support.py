"""Which pairs of tokens may carry mass, and the two orders in which a solver walks over them."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

_CHUNK_BYTES = 64 * 2**20  # similarities held at one time


@dataclass(frozen=True, eq=False)
class Support:
    """Pairs (source, target) that may carry mass: CSR with 32-bit indices and its transpose, built once.

    Build one with `topk_support`, `Support.full` or `Support.from_pairs`. Entries are in CSR order: by
    source, then by target. Every `(nnz,)` tensor of this library (costs, plan values) is in that order.

    Attributes:
        crow: Where each source's entries begin and end.
        col: Target of each entry.
        row: Source of each entry.
        ccol: Where each target's entries begin and end in column order.
        trow: Source of each entry, in column order.
        tcol: Target of each entry, in column order.
        perm: Place in CSR order of each entry in column order: `values[perm]` is in column order.
        shape: Number of sources and of targets.
    """

    crow: Int32[Tensor, " n_sources_plus_1"]
    col: Int32[Tensor, " pairs"]
    row: Int32[Tensor, " pairs"]
    ccol: Int32[Tensor, " n_targets_plus_1"]
    trow: Int32[Tensor, " pairs"]
    tcol: Int32[Tensor, " pairs"]
    perm: Int32[Tensor, " pairs"]
    shape: tuple[int, int]

    @classmethod
    def full(cls, n: int, m: int, device: torch.device | str | None = None) -> "Support":
        """All n * m pairs.

        Args:
            n: Number of sources.
            m: Number of targets.
            device: Where the indices live; the CPU if not given.

        Example:
            >>> Support.full(2, 3).nnz
            6
        """
        rows = torch.arange(n, device=device).repeat_interleave(m)
        return _assemble(rows, torch.arange(m, device=device).repeat(n), (n, m))

    @classmethod
    def from_pairs(cls, rows: Int[Tensor, " pairs"], cols: Int[Tensor, " pairs"], shape: tuple[int, int]) -> "Support":
        """The given pairs in any order; a pair given twice counts once.

        Args:
            rows: Source of each pair.
            cols: Target of each pair.
            shape: Number of sources and of targets.

        Raises:
            ValueError: If an index lies outside `shape`, or rows and cols differ in number.

        Example:
            >>> Support.from_pairs(torch.tensor([1, 0, 1]), torch.tensor([0, 2, 0]), (2, 3)).col.tolist()
            [2, 0]
        """
        if rows.shape != cols.shape:
            raise ValueError(
                f"rows and cols must pair up one to one, but there are {rows.numel()} rows and "
                f"{cols.numel()} cols; pass tensors of one length"
            )
        for name, index, size in (("rows", rows, shape[0]), ("cols", cols, shape[1])):
            if index.numel() and (int(index.min()) < 0 or int(index.max()) >= size):
                raise ValueError(
                    f"{name} must lie in [0, {size}), but they reach from {int(index.min())} to "
                    f"{int(index.max())}; check the indices or the shape"
                )
        key = torch.unique(rows.long() * shape[1] + cols.long())  # sorted: CSR order
        return _assemble(key // max(shape[1], 1), key % max(shape[1], 1), shape)

    @property
    def nnz(self) -> int:
        """Number of pairs."""
        return self.col.numel()

    @property
    def device(self) -> torch.device:
        """Where the indices live."""
        return self.col.device

    def rows(self) -> Int32[Tensor, " pairs"]:
        """Source of each entry, in CSR order."""
        return self.row

    def to(self, device: torch.device | str) -> "Support":
        """The same support on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "shape"}
        return Support(**{name: t.to(device) for name, t in moved.items()}, shape=self.shape)

    def __repr__(self) -> str:
        return f"Support(shape={self.shape}, nnz={self.nnz}, device={str(self.device)!r})"


def topk_support(
    source: Float[Tensor, "n d_source"],
    target: Float[Tensor, "m d_target"],
    k: int,
    cover: int | None = None,
) -> Support:
    """Each source's k most similar targets by cosine, SAOT sec. 4.3.

    Never holds more than 64 MiB of similarities. The choice of pairs carries no gradient.

    Args:
        source: Features of n source tokens.
        target: Features of m target tokens, of the same dimension.
        k: Targets a source; more than m means all m.
        cover: Also add each target's `cover` most similar sources: no target is left without candidates.

    Returns:
        The union of both choices.

    Raises:
        ValueError: If dimensions differ, a side is empty, k or cover is below 1, or a feature is not finite.

    Example:
        >>> source, target = torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> topk_support(source, target, k=1).col.tolist()
        [0, 0]
        >>> support = topk_support(source, target, k=1, cover=1)  # target 1 now has source 1
        >>> support.row.tolist(), support.col.tolist()
        ([0, 1, 1], [0, 0, 1])
    """
    _check_features(source, target)
    for name, value in (("k", k), ("cover", cover)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but is {value}; ask for one candidate or more")
    n, m = source.shape[0], target.shape[0]
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        x, y = _unit(source), _unit(target)
        cols, best = [], None
        for start, similarity in _similarity_blocks(x, y):
            cols.append(similarity.topk(min(k, m), dim=1, sorted=False).indices.int().sort(dim=1).values)
            if cover is not None:
                best = _merge(best, similarity, start, min(cover, n))
        col = torch.cat(cols).reshape(-1)
        row = torch.arange(n, device=col.device).repeat_interleave(min(k, m))
        if best is None:
            return _assemble(row, col, (n, m))
        sources = best[1]  # (cover, m)
        targets = torch.arange(m, device=col.device).expand_as(sources)
        rows = torch.cat([row, sources.reshape(-1)])
        return Support.from_pairs(rows, torch.cat([col.long(), targets.reshape(-1)]), (n, m))


def _check_features(source: Tensor, target: Tensor) -> None:
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"source features have {source.shape[1]} dimensions but target features {target.shape[1]}; "
            "take both from one backbone"
        )
    for name, features in (("source", source), ("target", target)):
        if features.numel() == 0:
            raise ValueError(f"{name} must hold at least one token, but its shape is {tuple(features.shape)}")
        if not bool(torch.isfinite(features).all()):
            place = [int(i) for i in torch.nonzero(~torch.isfinite(features))[0]]
            raise ValueError(f"{name} features must be finite, but token {place[0]} is not; remove it first")


def _unit(features: Tensor) -> Tensor:
    """Rows of length 1 in float32 or better; a zero row stays zero and is similar to nothing."""
    return torch.nn.functional.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def _similarity_blocks(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    step = max(1, _CHUNK_BYTES // (y.shape[0] * x.element_size()))
    for start in range(0, x.shape[0], step):
        yield start, x[start : start + step] @ y.T


def _merge(best: tuple[Tensor, Tensor] | None, similarity: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Values and source indices (count, m) of each target's best sources, with one more block of sources."""
    values, index = similarity.topk(min(count, similarity.shape[0]), dim=0)
    index = index + start
    if best is None:
        return values, index
    values, index = torch.cat([best[0], values]), torch.cat([best[1], index])
    values, order = values.topk(min(count, values.shape[0]), dim=0)
    return values, index.gather(0, order)


def _assemble(row: Tensor, col: Tensor, shape: tuple[int, int]) -> Support:
    """The support of pairs that are already in CSR order, with its transpose."""
    n, m = shape
    if row.numel() >= 2**31:
        raise ValueError(f"a support holds fewer than 2**31 pairs, but this one has {row.numel()}; lower k")
    # a stable radix sort of 16-bit keys is six times as fast as of 32-bit ones
    key = col.to(torch.int16) if m <= 2**15 else col.to(torch.int32)
    perm = torch.argsort(key, stable=True)
    row, col = row.to(torch.int32), col.to(torch.int32)
    return Support(
        crow=_offsets(row, n),
        col=col,
        row=row,
        ccol=_offsets(col, m),
        trow=row[perm],
        tcol=col[perm],
        perm=perm.to(torch.int32),
        shape=(n, m),
    )


def _offsets(index: Tensor, size: int) -> Tensor:
    counts = torch.bincount(index, minlength=size)
    zero = torch.zeros(1, dtype=torch.int64, device=index.device)
    return torch.cat([zero, counts.cumsum(0)]).to(torch.int32)
