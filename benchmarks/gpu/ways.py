"""The ways in which the solver sums over a sparse support on a device, whichever it would choose itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from saot.transport import implicit, loop
from saot.transport.pairs import SparsePairs
from saot.transport.products import csr, csr_transposed
from saot.transport.triton_kernels import segment_logsumexp, segment_sum_product

WAYS = ("fused", "csr", "triton", "torch")


def torch_logsumexp(values: Tensor, offsets: Tensor, owner: Tensor, index: Tensor, vector: Tensor) -> Tensor:
    terms = values + vector.index_select(0, index)
    top = torch.segment_reduce(terms, "max", offsets=offsets, initial=-torch.inf)
    top = torch.where(top.isfinite(), top, 0.0)
    total = torch.zeros_like(top).index_add(0, owner, (terms - top.index_select(0, owner)).exp())
    return total.log() + top


def triton_lse_rows(pairs: SparsePairs, v: Tensor, y: Tensor) -> Tensor:
    return segment_logsumexp(v, pairs.support.crow, pairs.support.col, y)


def triton_lse_cols(pairs: SparsePairs, v: Tensor, x: Tensor) -> Tensor:
    return segment_logsumexp(v, pairs.support.ccol, pairs.support.trow, x)


def torch_lse_rows(pairs: SparsePairs, v: Tensor, y: Tensor) -> Tensor:
    s = pairs.support
    return torch_logsumexp(v, s.crow, s.row, s.col, y)


def torch_lse_cols(pairs: SparsePairs, v: Tensor, x: Tensor) -> Tensor:
    s = pairs.support
    return torch_logsumexp(v, s.ccol, s.tcol, s.trow, x)


def csr_maps(m: Tensor, pairs: Any) -> tuple[Any, Any]:
    by_row, by_col = csr(m, pairs.support), csr_transposed(m, pairs.support)
    return (lambda v: by_row @ v), (lambda u: by_col @ u)


def triton_maps(m: Tensor, pairs: Any) -> tuple[Any, Any]:
    s, m_cols = pairs.support, pairs.in_columns(m)
    return (
        lambda v: segment_sum_product(m, s.crow, s.col, v),
        lambda u: segment_sum_product(m_cols, s.ccol, s.trow, u),
    )


def torch_maps(m: Tensor, pairs: Any) -> tuple[Any, Any]:
    s = pairs.support
    return (
        lambda v: v.new_zeros(s.shape[0]).index_add(0, s.row, m * v.index_select(0, s.col)),
        lambda u: u.new_zeros(s.shape[1]).index_add(0, s.col, m * u.index_select(0, s.row)),
    )


@contextmanager
def solved_by(way: str) -> Iterator[None]:
    """The solver with this way of summing."""
    logsumexps = (torch_lse_rows, torch_lse_cols) if way == "torch" else (triton_lse_rows, triton_lse_cols)
    with ExitStack() as stack:
        stack.enter_context(patch.object(loop, "has_fast_path", lambda pairs: way == "csr"))
        stack.enter_context(patch.object(loop, "has_fused_updates", lambda pairs: way == "fused"))
        stack.enter_context(patch.object(SparsePairs, "lse_rows", logsumexps[0]))
        stack.enter_context(patch.object(SparsePairs, "lse_cols", logsumexps[1]))
        maps = {"csr": csr_maps, "torch": torch_maps}.get(way, triton_maps)
        stack.enter_context(patch.object(implicit, "plan_maps", maps))
        yield
