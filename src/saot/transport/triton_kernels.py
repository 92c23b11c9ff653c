"""The reductions of a sparse support and the update of Eq. (8) as one fused pass each, in Triton, for a GPU.

All walk over the segments of a CSR order (its rows, or the columns in column order), read 8 bytes an entry in
float32, write one or two numbers a segment, and hold nothing else. A program takes several short segments at a
time, as a tile of segments by entries; a segment far longer than the mean is then taken alone by the whole
program, so that one crowded column neither starves a tile nor needs a second launch. No atomics: the same input
gives the same bits.

The kernels below are plain functions until `_jit` compiles them, so importing this file does not import Triton.
"""

import functools
import importlib
import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, no_type_check

import torch
from jaxtyping import Float, Int32
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language import constexpr
else:
    constexpr = "constexpr"  # a stand-in by name, until `_jit` puts Triton's own here

_LANES = 1024  # entries a program has in flight: 8 a thread
_WARPS = 4
_LONGEST = 4  # tiles along a segment, beyond which the whole program takes it alone


def has_triton(device: torch.device) -> bool:
    """Whether the kernels of this file run on this device.

    That is a CUDA device of compute capability 8.0 or above, or a ROCm one, with Triton installed; or, for
    tests, the CPU where the environment had TRITON_INTERPRET=1 when Triton was first imported.

    Args:
        device: Where the tensors live.

    Example:
        >>> has_triton(torch.device("meta"))
        False
    """
    if device.type == "cuda":
        return _gpu_serves(device) and _triton() is not None
    return device.type == "cpu" and _wants_interpreter() and _is_interpreter()


def segment_logsumexp(
    values: Float[Tensor, " pairs"],
    offsets: Int32[Tensor, " rows_plus_1"],
    index: Int32[Tensor, " pairs"],
    vector: Float[Tensor, " size"],
    scale: Float[Tensor, " 1"] | None = None,
) -> Float[Tensor, " rows"]:
    """Log of the sum of exp(scale values_e + vector[index_e]) over the entries e of each segment.

    With values -C / epsilon and vector the log scalings y this is the sum in Eq. (8); a scale of -1 / epsilon
    takes it from the costs C. Each segment is stabilised by its own maximum, met on the way. As in
    torch.logsumexp, an empty segment and one of -inf terms give -inf, +inf gives +inf, NaN gives NaN.

    Args:
        values: One number an entry, float32 or float64, in the order of the segments.
        offsets: Where each segment begins and ends.
        index: Place in `vector` of each entry; not checked.
        vector: What is added to the values.
        scale: Other: a factor of the values, of one element (on the device, so that nothing waits for it); 1
            if not given.

    Returns:
        One number a segment, in the type of the values, without gradient.

    Raises:
        ValueError: If Triton does not serve the device, types or devices differ, or a gradient is asked for.

    Example:
        Two segments, {log 1 + log 2, log 3 + log 4} and none, so log 14 and -inf:

        >>> logs = torch.tensor([1.0, 3.0, 2.0, 4.0], device="cuda").log()  # doctest: +SKIP
        >>> offsets, index = torch.tensor([0, 2, 2]).int().cuda(), torch.tensor([0, 1]).int().cuda()  # doctest: +SKIP
        >>> segment_logsumexp(logs[:2], offsets, index, logs[2:]).exp()  # doctest: +SKIP
        tensor([14.,  0.], device='cuda:0')
    """
    out = _checked_output(values, offsets, index, vector)
    if scale is not None and (scale.dtype != values.dtype or scale.device != values.device):
        raise ValueError(
            f"scale must be like the values, {values.dtype} on {values.device}, but is {scale.dtype} on "
            f"{scale.device}; convert it with scale.to(values)"
        )
    factor = out if scale is None else scale.contiguous()  # not read without a scale
    _launch(_logsumexp_kernel, values, offsets, index, vector, out, factor, SCALED=scale is not None)
    return out


def segment_sum_product(
    values: Float[Tensor, " pairs"],
    offsets: Int32[Tensor, " rows_plus_1"],
    index: Int32[Tensor, " pairs"],
    vector: Float[Tensor, " size"],
) -> Float[Tensor, " rows"]:
    """Sum of values_e vector[index_e] over the entries e of each segment: a CSR matrix times a vector.

    Args:
        values: One number an entry, float32 or float64, in the order of the segments.
        offsets: Where each segment begins and ends.
        index: Place in `vector` of each entry; not checked.
        vector: What the values are multiplied with.

    Returns:
        One number a segment, in the type of the values, without gradient; 0 for an empty segment.

    Raises:
        ValueError: If Triton does not serve the device, types or devices differ, or a gradient is asked for.

    Example:
        Two segments, {1 * 3, 2 * 4} and none:

        >>> values, vector = torch.tensor([1.0, 2.0]).cuda(), torch.tensor([3.0, 4.0]).cuda()  # doctest: +SKIP
        >>> offsets, index = torch.tensor([0, 2, 2]).int().cuda(), torch.tensor([0, 1]).int().cuda()  # doctest: +SKIP
        >>> segment_sum_product(values, offsets, index, vector)  # doctest: +SKIP
        tensor([11.,  0.], device='cuda:0')
    """
    out = _checked_output(values, offsets, index, vector)
    _launch(_sum_product_kernel, values, offsets, index, vector, out)
    return out


@dataclass(frozen=True, eq=False)
class HalfUpdate:
    """What the update of one side reads besides the other side's log scalings; all on one device.

    Attributes:
        costs: C of each pair, in the order of this side's segments, float32 or float64; +inf for no pair.
        offsets: Where each token's segment begins and ends.
        index: The pair's token on the other side.
        log_reference: Log of this side's factor in the reference measure; -inf for tokens that take no part.
        log_ratio: log(weight / reference); 0 for tokens that take no part.
        epsilon: One number a problem.
        damping: p = tau / (tau + epsilon), one number a problem.
    """

    costs: Float[Tensor, " pairs"]
    offsets: Int32[Tensor, " tokens_plus_1"]
    index: Int32[Tensor, " pairs"]
    log_reference: Float[Tensor, " tokens"]
    log_ratio: Float[Tensor, " tokens"]
    epsilon: Float[Tensor, " problems"]
    damping: Float[Tensor, " problems"]


def update_side(
    half: HalfUpdate,
    scalings: Float[Tensor, " other"],
    potentials: Float[Tensor, " tokens"],
    own: Float[Tensor, " tokens"],
) -> None:
    """One side's update of Eq. (8) by one launch, from the other side's log scalings y_j = log r_j + g_j / epsilon.

        f_i / epsilon = p (log(a_i / r_i) - log sum_j exp(y_j - C_ij / epsilon)),    x_i = log r_i + f_i / epsilon,

    with each problem's own epsilon and p where tokens of several lie one after another, as many of each. A token
    that takes no part has f_i = 0 and x_i = -inf. Nothing is checked, and nothing waits for the device.

    Args:
        half: The side.
        scalings: y of the other side, as this function writes them.
        potentials: Written: f.
        own: Written: x, what the other side's update reads.
    """
    each = half.log_ratio.numel() // half.epsilon.numel()
    given = half.log_reference, half.log_ratio, half.epsilon, half.damping, potentials, own, each
    _launch(_update_kernel, half.costs, half.offsets, half.index, scalings, *given)


@no_type_check
def _logsumexp_kernel(
    values,
    offsets,
    index,
    vector,
    out,
    scale,
    rows,
    SCALED: constexpr,
    ROWS: constexpr,
    BLOCK: constexpr,
    LIMIT: constexpr,
    WIDE: constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.load(offsets + row, mask=row < rows, other=0)
    length = tl.load(offsets + row + 1, mask=row < rows, other=0) - begin
    factor = tl.load(scale) if SCALED else 1.0
    factors = tl.full((ROWS,), 1.0, out.dtype.element_ty) * factor
    lse = _tile_logsumexp(values, index, vector, factors, begin, tl.where(length <= LIMIT, length, 0), ROWS, BLOCK)
    tl.store(out + row, lse, mask=(row < rows) & (length <= LIMIT))  # two writers would race
    if tl.max(length, 0) > LIMIT:
        for i in range(ROWS):
            long_row = tl.program_id(0) * ROWS + i
            first = tl.load(offsets + long_row, mask=long_row < rows, other=0)
            count = tl.load(offsets + long_row + 1, mask=long_row < rows, other=0) - first
            if count > LIMIT:
                tl.store(out + long_row, _long_logsumexp(values, index, vector, factor, first, count, WIDE))


@no_type_check
def _update_kernel(
    costs,
    offsets,
    index,
    scalings,
    log_reference,
    log_ratio,
    epsilon,
    damping,
    potentials,
    own,
    each,
    rows,
    ROWS: constexpr,
    BLOCK: constexpr,
    LIMIT: constexpr,
    WIDE: constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.load(offsets + row, mask=row < rows, other=0)
    length = tl.load(offsets + row + 1, mask=row < rows, other=0) - begin
    short = (row < rows) & (length <= LIMIT)
    factors = -1.0 / tl.load(epsilon + row // each, mask=short, other=1.0)
    lse = _tile_logsumexp(costs, index, scalings, factors, begin, tl.where(length <= LIMIT, length, 0), ROWS, BLOCK)
    _relax(lse, row, short, log_reference, log_ratio, epsilon, damping, potentials, own, each)
    if tl.max(length, 0) > LIMIT:
        for i in range(ROWS):
            long_row = tl.program_id(0) * ROWS + i
            first = tl.load(offsets + long_row, mask=long_row < rows, other=0)
            count = tl.load(offsets + long_row + 1, mask=long_row < rows, other=0) - first
            if count > LIMIT:
                factor = -1.0 / tl.load(epsilon + long_row // each)
                long_lse = _long_logsumexp(costs, index, scalings, factor, first, count, WIDE)
                _relax(long_lse, long_row, count > 0, log_reference, log_ratio, epsilon, damping, potentials, own, each)


@no_type_check
def _relax(lse, token, here, log_reference, log_ratio, epsilon, damping, potentials, own, each):
    log_r = tl.load(log_reference + token, mask=here, other=0.0)
    log_a_over_r = tl.load(log_ratio + token, mask=here, other=0.0)
    p = tl.load(damping + token // each, mask=here, other=1.0)
    # KL-relaxed marginal, Eq. (8): u_i = f_i / epsilon
    u = p * (log_a_over_r - tl.where(log_r > float("-inf"), lse, 0.0))
    tl.store(potentials + token, u * tl.load(epsilon + token // each, mask=here, other=1.0), mask=here)
    tl.store(own + token, log_r + u, mask=here)


@no_type_check
def _tile_logsumexp(values, index, vector, factors, begin, length, ROWS: constexpr, BLOCK: constexpr):
    top = tl.full((ROWS,), float("-inf"), values.dtype.element_ty)
    total = tl.full((ROWS,), 0.0, values.dtype.element_ty)  # sum of exp(term - base), base the finite top or 0
    for start in range(0, tl.max(length, 0), BLOCK):
        lane = start + tl.arange(0, BLOCK)
        inside = lane[None, :] < length[:, None]
        place = tl.load((index + begin)[:, None] + lane[None, :], mask=inside, other=0)
        term = tl.load((values + begin)[:, None] + lane[None, :], mask=inside, other=0.0) * factors[:, None]
        term += tl.load(vector + place, mask=inside, other=0.0)
        term = tl.where(inside, term, float("-inf"))
        new = tl.maximum(top, tl.max(term, 1))
        base = tl.where(tl.abs(new) < float("inf"), new, 0.0)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(term - base[:, None]), 1)
        top = new
    return tl.log(total) + tl.where(tl.abs(top) < float("inf"), top, 0.0)


@no_type_check
def _long_logsumexp(values, index, vector, factor, first, count, WIDE: constexpr):
    tops = tl.full((WIDE,), float("-inf"), values.dtype.element_ty)  # each lane sums by itself
    totals = tl.full((WIDE,), 0.0, values.dtype.element_ty)
    for start in range(0, count, WIDE):
        lane = start + tl.arange(0, WIDE)
        place = tl.load(index + first + lane, mask=lane < count, other=0)
        term = tl.load(values + first + lane, mask=lane < count, other=0.0) * factor
        term += tl.load(vector + place, mask=lane < count, other=0.0)
        term = tl.where(lane < count, term, float("-inf"))
        higher = tl.maximum(tops, term)
        bases = tl.where(tl.abs(higher) < float("inf"), higher, 0.0)
        totals = totals * tl.exp(tops - bases) + tl.exp(term - bases)
        tops = higher
    best = tl.max(tops, 0)  # the lanes meet once, at the end
    best = tl.where(tl.abs(best) < float("inf"), best, 0.0)
    return tl.log(tl.sum(totals * tl.exp(tops - best), 0)) + best


@no_type_check
def _sum_product_kernel(
    values,
    offsets,
    index,
    vector,
    out,
    rows,
    ROWS: constexpr,
    BLOCK: constexpr,
    LIMIT: constexpr,
    WIDE: constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.load(offsets + row, mask=row < rows, other=0)
    length = tl.load(offsets + row + 1, mask=row < rows, other=0) - begin
    small = tl.where(length <= LIMIT, length, 0)
    total = tl.full((ROWS, BLOCK), 0.0, out.dtype.element_ty)
    for start in range(0, tl.max(small, 0), BLOCK):
        lane = start + tl.arange(0, BLOCK)
        inside = lane[None, :] < small[:, None]
        place = tl.load((index + begin)[:, None] + lane[None, :], mask=inside, other=0)
        value = tl.load((values + begin)[:, None] + lane[None, :], mask=inside, other=0.0)
        total += value * tl.load(vector + place, mask=inside, other=0.0)
    tl.store(out + row, tl.sum(total, 1), mask=(row < rows) & (length <= LIMIT))
    if tl.max(length, 0) > LIMIT:
        for i in range(ROWS):
            long_row = tl.program_id(0) * ROWS + i
            first = tl.load(offsets + long_row, mask=long_row < rows, other=0)
            count = tl.load(offsets + long_row + 1, mask=long_row < rows, other=0) - first
            if count > LIMIT:
                totals = tl.full((WIDE,), 0.0, out.dtype.element_ty)
                for start in range(0, count, WIDE):
                    lane = start + tl.arange(0, WIDE)
                    place = tl.load(index + first + lane, mask=lane < count, other=0)
                    value = tl.load(values + first + lane, mask=lane < count, other=0.0)
                    totals += value * tl.load(vector + place, mask=lane < count, other=0.0)
                tl.store(out + long_row, tl.sum(totals, 0))


def _tile(entries: int, rows: int) -> tuple[int, int]:
    """Segments and entries of each that a program takes at a time, by the mean length of a segment."""
    block = 8
    while block < _LANES and entries > 1.4 * block * rows:
        block *= 2
    return _LANES // block, block


def _launch(function: Any, values: Tensor, offsets: Tensor, index: Tensor, vector: Tensor, *rest: Any, **flags: Any):
    rows = offsets.numel() - 1
    if rows == 0:
        return
    tile_rows, block = _tile(values.numel(), rows)
    tensors = (t.contiguous() for t in (values, offsets, index, vector))
    sizes = {"ROWS": tile_rows, "BLOCK": block, "LIMIT": _LONGEST * block, "WIDE": _LANES}
    # Triton launches on the current device, whichever device the tensors are on
    with torch.cuda.device(values.device) if values.is_cuda else nullcontext():
        _jit(function)[(-(-rows // tile_rows),)](
            *tensors, *rest, rows, **flags, **sizes, num_warps=_WARPS, enable_fp_fusion=True
        )


def _checked_output(values: Tensor, offsets: Tensor, index: Tensor, vector: Tensor) -> Tensor:
    if not has_triton(values.device):
        raise ValueError(
            f"Triton does not serve {values.device} here, a CUDA or ROCm device with triton installed was expected; "
            "ask has_triton(device) first and use torch's own operations elsewhere"
        )
    if values.dtype not in (torch.float32, torch.float64) or vector.dtype != values.dtype:
        raise ValueError(
            f"values and vector must both be float32 or both float64, but are {values.dtype} and {vector.dtype}; "
            "convert them first"
        )
    if any(t.device != values.device for t in (offsets, index, vector)):
        raise ValueError(f"all tensors must be on {values.device} like the values; move them there")
    if torch.is_grad_enabled() and (values.requires_grad or vector.requires_grad):
        raise ValueError("the kernels carry no gradient, but one was asked for; detach the values and the vector")
    return values.new_empty(offsets.numel() - 1)


@functools.cache
def _jit(function: Any) -> Any:
    """The kernel, compiled at its first launch."""
    _prepare()
    return _triton().jit(function)


@functools.cache
def _prepare() -> None:
    """Triton's language, and what several kernels call, where the kernels look for them."""
    triton = _triton()
    assert triton is not None
    globals().update(tl=triton.language, constexpr=triton.language.constexpr)
    for part in (_relax, _tile_logsumexp, _long_logsumexp):
        globals()[part.__name__] = triton.jit(part)


@functools.cache
def _triton() -> Any:
    """The module, or None where it is not installed or does not load."""
    try:
        importlib.import_module("triton.language")
        return importlib.import_module("triton")
    except ImportError:
        return None


@functools.cache
def _gpu_serves(device: torch.device) -> bool:
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def _wants_interpreter() -> bool:
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def _is_interpreter() -> bool:
    """Whether Triton's own functions were made for its interpreter, which it settles at its first import."""
    triton = _triton()
    return triton is not None and not isinstance(triton.language.sum, triton.JITFunction)
