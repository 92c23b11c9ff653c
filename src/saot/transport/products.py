"""Products on a support: plan times features, features against features on the pairs, sums of pairs."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import passes
from .support import Support

_FUNCTORCH = getattr(torch._C, "_functorch", None)
_WRAPPERS = [  # what tells tensors inside torch.func, and those of torch.autograd.grad(..., is_grads_batched=True)
    getattr(_FUNCTORCH, name)
    for name in ("is_functorch_wrapped_tensor", "is_legacy_batchedtensor")
    if hasattr(_FUNCTORCH, name)
]
_CHUNK_ELEMENTS = 2**22  # of gathered features, where no sparse kernel is at hand


def csr(values: Tensor, support: Support) -> Tensor:
    """The (n, m) matrix with these values as a torch CSR tensor that shares their memory."""
    return csr_from(support.crow, support.col, values, support.shape)


def csr_transposed(values: Tensor, support: Support) -> Tensor:
    """The (m, n) transpose of `csr(values, support)`, from the column order built with the support; no gradient."""
    n, m = support.shape
    by_col = passes.take(values, support.perm) if passes.serves(values) else values.index_select(0, support.perm)
    return csr_from(support.ccol, support.trow, by_col, (m, n))


def has_sparse_kernels(device: torch.device) -> bool:
    """Whether torch multiplies CSR matrices quickly here; on a CPU that is MKL's work."""
    return device.type == "cuda" or (device.type == "cpu" and torch.backends.mkl.is_available())


@functools.cache
def _announce_once() -> None:
    """Have torch say here, unheard, that CSR is in beta; it says so once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


def csr_from(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    _announce_once()
    return torch.sparse_csr_tensor(crow, col, values.contiguous(), shape, check_invariants=False)


def multiply(values: Tensor, y: Tensor, support: Support, transpose: bool = False) -> Tensor:
    """Gamma y (n, c), or Gamma^T y (m, c) if `transpose`, differentiable in values (nnz,) and y.

    `transpose` is a plain choice of side: sources and targets play the same role in every equation here.
    """
    refuse_transforms(values, y)
    return _Multiply.apply(values, y, support, transpose)


def pair_dots(x: Tensor, y: Tensor, support: Support) -> Tensor:
    """<x_i, y_j> for each pair of the support (nnz,), differentiable; x is (n, d) and y is (m, d)."""
    refuse_transforms(x, y)
    return _PairDots.apply(x, y, support)


def spread(x: Tensor, support: Support, cols: bool) -> Tensor:
    """Each pair's source's number of x (n,), or with `cols` its target's of x (m,); differentiable."""
    refuse_transforms(x)
    return _SpreadOrSum.apply(x, support, cols, True)


def sum_pairs(values: Tensor, support: Support, cols: bool) -> Tensor:
    """Sums of values (nnz,) by source (n,), or with `cols` by target (m,); differentiable."""
    refuse_transforms(values)
    return _SpreadOrSum.apply(values, support, cols, False)


def segment_sum(values: Tensor, offsets: Tensor, index: Tensor) -> Tensor:
    """Sums (s,) of consecutive segments; offsets (s + 1,) are where they begin, index (nnz,) is each value's."""
    count = offsets.numel() - 1
    if has_sparse_kernels(values.device) and values.numel():
        return csr_from(offsets, index, values, (count, count)) @ values.new_ones(count)
    return values.new_zeros(count).index_add(0, index, values)


def in_full_precision(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that autocast does not reach, wherever it is called."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Any) -> Any:
        device = next((grad.device.type for grad in grads if grad is not None), "cpu")
        with torch.autocast(device, enabled=False):
            return backward(ctx, *grads)

    return wrapped


def refuse_transforms(*inputs: object) -> None:
    """Nothing, for plain tensors; this library's derivatives are those of torch.autograd alone.

    Raises:
        NotImplementedError: If a tensor is inside torch.func (vmap, grad, jvp, ...) or a vmapped backward pass, or has
            a tangent of forward-mode AD.
    """
    for t in inputs:
        if isinstance(t, Tensor) and (
            any(is_wrapped(t) for is_wrapped in _WRAPPERS) or forward_ad.unpack_dual(t).tangent is not None
        ):
            raise NotImplementedError(
                "transport has no rule for torch.func, forward-mode AD or a vmapped backward pass; take derivatives "
                "with torch.autograd.grad(..., create_graph=True) or torch.autograd.functional (hessian, hvp, jvp; "
                "not vectorize=True), and give a batch as leading dimensions instead of vmap"
            )


class _SpreadOrSum(torch.autograd.Function):
    """Numbers of tokens to pairs, or pairs to sums of tokens: each is the other's way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, support: Support, cols: bool, spreads: bool) -> Tensor:
        ctx.how = support, cols, spreads
        x = x.detach()
        if not spreads:
            return _sum_pairs(x.expand(support.nnz), support, cols)
        if not cols and support.row_length is not None:  # no gather: each number a few times over
            return x.unsqueeze(1).expand(-1, support.row_length).reshape(-1)
        return x.index_select(0, support.col if cols else support.row)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        support, cols, spreads = ctx.how
        with torch.autocast(grads[0].device.type, enabled=False):
            return (sum_pairs if spreads else spread)(grads[0], support, cols), None, None, None


def _sum_pairs(values: Tensor, support: Support, cols: bool) -> Tensor:
    if passes.serves(values):
        return passes.segment_sums(values, *((support.ccol, support.perm) if cols else (support.crow,)))
    if cols:
        return segment_sum(values.index_select(0, support.perm), support.ccol, support.tcol)
    return segment_sum(values.contiguous(), support.crow, support.row)


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, y: Tensor, support: Support, transpose: bool) -> Tensor:
        ctx.save_for_backward(values, y)
        ctx.support, ctx.transpose = support, transpose
        return _raw_multiply(values.detach(), y.detach(), support, transpose)

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, *grads: Any) -> Any:
        values, y = ctx.saved_tensors
        support, transpose, (grad,) = ctx.support, ctx.transpose, grads
        values_grad = y_grad = None
        if ctx.needs_input_grad[0]:
            sides = (y, grad) if transpose else (grad, y)
            values_grad = pair_dots(*sides, support)
        if ctx.needs_input_grad[1]:
            y_grad = multiply(values, grad, support, not transpose)
        return values_grad, y_grad, None, None


class _PairDots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.support = support
        return _raw_pair_dots(x.detach(), y.detach(), support)

    @staticmethod
    @in_full_precision
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y = ctx.saved_tensors
        x_grad = multiply(grads[0], y, ctx.support, False) if ctx.needs_input_grad[0] else None
        y_grad = multiply(grads[0], x, ctx.support, True) if ctx.needs_input_grad[1] else None
        return x_grad, y_grad, None


def _raw_multiply(values: Tensor, y: Tensor, support: Support, transpose: bool) -> Tensor:
    if has_sparse_kernels(values.device) and values.numel():
        matrix = csr_transposed(values, support) if transpose else csr(values, support)
        return matrix @ y.contiguous()
    into, along = (support.col, support.row) if transpose else (support.row, support.col)
    out = y.new_zeros(support.shape[1 if transpose else 0], y.shape[1])
    for part in _parts(values.numel(), y.shape[1]):
        out.index_add_(0, into[part], values[part, None] * y.index_select(0, along[part]))
    return out


def _raw_pair_dots(x: Tensor, y: Tensor, support: Support) -> Tensor:
    if has_sparse_kernels(x.device) and support.nnz:
        pattern = csr(x.new_zeros(support.nnz), support)
        return torch.sparse.sampled_addmm(pattern, x.contiguous(), y.contiguous().T, beta=0.0).values()
    out = x.new_empty(support.nnz)
    for part in _parts(support.nnz, x.shape[1]):
        out[part] = (x.index_select(0, support.row[part]) * y.index_select(0, support.col[part])).sum(-1)
    return out


def _parts(count: int, width: int) -> list[slice]:
    step = max(1, _CHUNK_ELEMENTS // max(width, 1))
    return [slice(start, start + step) for start in range(0, count, step)]
