"""Blocks of cosines, full precision by the fastest product at hand or approximate in bfloat16; cosines of pairs."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from saot.transport import products

_BLOCK_BYTES = 14 * 2**20  # of similarities at one time: they stay in the cache between product and selection
_LARGEST_BLOCK_BYTES = 64 * 2**20  # where 14 MiB are too few rows for a quick product
_GATHER_ELEMENTS = 2**22

Product = Callable[[slice], Tensor]  # a range of sources to its block of similarities


def unit(features: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero and is similar to nothing."""
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / torch.where(length > 0, length, 1.0)


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
    if products.has_sparse_kernels(x.device):
        crow = torch.arange(0, n * k + 1, k, dtype=torch.int32, device=x.device)
        pattern = products.csr_from(crow, col.reshape(-1), x.new_zeros(n * k), (n, y.shape[0]))
        return torch.sparse.sampled_addmm(pattern, x.contiguous(), y.contiguous().T, beta=0.0).values().view(n, k)
    out = x.new_empty(n, k)
    step = max(1, _GATHER_ELEMENTS // (k * x.shape[1]))
    for start in range(0, n, step):
        near = y[col[start : start + step].long()]  # (step, k, d)
        out[start : start + step] = (near @ x[start : start + step, :, None]).squeeze(-1)
    return out
