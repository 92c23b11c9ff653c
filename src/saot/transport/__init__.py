"""Optimal transport on tensors: dense or on a support, unbalanced or balanced, with gradients."""

from .cost import SparseCost, cosine_cost, squared_euclidean_cost
from .result import TransportError, TransportResult, TransportStatus
from .sinkhorn import solve_transport
from .support import Support, topk_support

__all__ = [
    "SparseCost",
    "Support",
    "TransportError",
    "TransportResult",
    "TransportStatus",
    "cosine_cost",
    "solve_transport",
    "squared_euclidean_cost",
    "topk_support",
]
