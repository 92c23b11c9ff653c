"""Optimal transport on tensors: dense or on a support, unbalanced or balanced, with gradients."""

from .batch import block_diagonal, split_result
from .candidates import Candidates, Recall, measure_recall, topk_candidates, topk_support
from .cost import SparseCost, cosine_cost, squared_euclidean_cost
from .fused import FusedResult, FusedSettings, solve_fused
from .multiscale import SearchedSupport, faiss_support, multiscale_support
from .result import TransportError, TransportResult, TransportStatus
from .sinkhorn import solve_transport
from .structure import DistanceGeometry, PointGeometry, grid_points, structure_gradient, structure_value
from .support import Support

__all__ = [
    "Candidates",
    "DistanceGeometry",
    "FusedResult",
    "FusedSettings",
    "PointGeometry",
    "Recall",
    "SearchedSupport",
    "SparseCost",
    "Support",
    "TransportError",
    "TransportResult",
    "TransportStatus",
    "block_diagonal",
    "cosine_cost",
    "faiss_support",
    "grid_points",
    "measure_recall",
    "multiscale_support",
    "solve_fused",
    "solve_transport",
    "split_result",
    "squared_euclidean_cost",
    "structure_gradient",
    "structure_value",
    "topk_candidates",
    "topk_support",
]
