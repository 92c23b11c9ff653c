"""Which pairs of tokens may carry mass, and the two orders in which a solver walks over them."""

import functools
from dataclasses import dataclass, fields

import torch
from jaxtyping import Int, Int32
from torch import Tensor


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
        blocks: The members, if this is a block diagonal; else empty.
    """

    crow: Int32[Tensor, " n_sources_plus_1"]
    col: Int32[Tensor, " pairs"]
    row: Int32[Tensor, " pairs"]
    ccol: Int32[Tensor, " n_targets_plus_1"]
    trow: Int32[Tensor, " pairs"]
    tcol: Int32[Tensor, " pairs"]
    perm: Int32[Tensor, " pairs"]
    shape: tuple[int, int]
    blocks: tuple["Support", ...] = ()

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
        return assemble(rows, torch.arange(m, device=device).repeat(n), (n, m))

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
        key = rows.long() * shape[1] + cols
        if bool((key[1:] > key[:-1]).all()):  # in CSR order already, none twice
            return assemble(rows.to(torch.int32, copy=True), cols.to(torch.int32, copy=True), shape)
        key = torch.unique(key)  # sorted: CSR order
        row = torch.div(key, max(shape[1], 1), rounding_mode="floor").to(torch.int32)
        return assemble(row, key.remainder_(max(shape[1], 1)).to(torch.int32), shape)

    @classmethod
    def from_choices(
        cls, targets: Int[Tensor, "n k"], sources: Int[Tensor, "m c"] | None, shape: tuple[int, int]
    ) -> "Support":
        """Each source with the targets it chose and, if given, each target with the sources it chose.

        Args:
            targets: Distinct targets of each source, in any order.
            sources: Sources of each target; None adds none.
            shape: Number of sources and of targets.

        Example:
            >>> Support.from_choices(torch.tensor([[1, 0], [0, 1]]), None, (2, 2)).col.tolist()
            [0, 1, 0, 1]
        """

        def asking(index: Tensor) -> Tensor:
            each = torch.arange(index.shape[0], dtype=torch.int32, device=index.device)
            return each.repeat_interleave(index.shape[1])

        row, col = asking(targets), targets.sort(dim=1).values.reshape(-1)
        if sources is None:
            return assemble(row, col, shape)
        return cls.from_pairs(torch.cat([row, sources.reshape(-1)]), torch.cat([col, asking(sources)]), shape)

    @property
    def nnz(self) -> int:
        """Number of pairs."""
        return self.col.numel()

    @property
    def device(self) -> torch.device:
        """Where the indices live."""
        return self.col.device

    @functools.cached_property
    def row_length(self) -> int | None:
        """How many targets each source has, if all have the same number; else None."""
        n = self.shape[0]
        if n == 0 or self.nnz == 0 or self.nnz % n:
            return None
        return self.nnz // n if bool((self.crow.diff() == self.nnz // n).all()) else None

    def rows(self) -> Int32[Tensor, " pairs"]:
        """Source of each entry, in CSR order."""
        return self.row

    def to(self, device: torch.device | str) -> "Support":
        """The same support on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("shape", "blocks")}
        blocks = tuple(block.to(device) for block in self.blocks)
        return Support(**{name: t.to(device) for name, t in moved.items()}, shape=self.shape, blocks=blocks)

    def __repr__(self) -> str:
        return f"Support(shape={self.shape}, nnz={self.nnz}, device={str(self.device)!r})"


def assemble(row: Tensor, col: Tensor, shape: tuple[int, int]) -> Support:
    """The support of pairs that are already in CSR order, with its transpose."""
    n, m = shape
    if row.numel() >= 2**31:
        raise ValueError(f"a support holds fewer than 2**31 pairs, but this one has {row.numel()}; lower k")
    row, col = row.to(torch.int32), col.to(torch.int32)
    # radix sorts, quicker the fewer bits there are
    perm = torch.argsort(col.to(torch.int16) if m <= 2**15 else col, stable=True).to(torch.int32)
    return Support(
        crow=_offsets(row, n),
        col=col,
        row=row,
        ccol=_offsets(col, m),
        trow=row.index_select(0, perm),
        tcol=col.index_select(0, perm),
        perm=perm,
        shape=(n, m),
    )


def _offsets(index: Tensor, size: int) -> Tensor:
    counts = torch.bincount(index, minlength=size)
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
