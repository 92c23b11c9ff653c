"""Optimal transport on tensors: dense or on a support, unbalanced or balanced, with gradients.

Read it in this order: `sinkhorn` (the call), `problem`, `loop`, `updates`, `implicit` (the gradient), `result`;
`structure` and `fused` are the term of appendix D. `passes` and `sweeps` (their code is `pass_code`) and `select` have
machine code.
"""

from .batch import block_diagonal, split_result
from .candidates import Candidates, Recall, measure_recall, topk_candidates, topk_support
from .cost import SparseCost, cosine_cost, squared_euclidean_cost
from .fused import FusedResult, FusedSettings, solve_fused
from .hierarchical import HierarchicalSupport, Regions, hierarchical_support, region_cost, region_plan
from .machine_code import compiled, share_out
from .multiscale import SearchedSupport, faiss_support, multiscale_support
from .problem import Gradient, Reference, SolveSettings
from .products import multiply, pair_dots
from .result import TransportError, TransportResult, TransportStatus
from .sinkhorn import solve_quietly, solve_transport
from .start import Potentials
from .structure import DistanceGeometry, Geometry, PointGeometry, grid_points, structure_gradient, structure_value
from .support import Support

__all__ = [
    "Candidates",
    "DistanceGeometry",
    "FusedResult",
    "FusedSettings",
    "Geometry",
    "Gradient",
    "HierarchicalSupport",
    "PointGeometry",
    "Potentials",
    "Recall",
    "Reference",
    "Regions",
    "SearchedSupport",
    "SolveSettings",
    "SparseCost",
    "Support",
    "TransportError",
    "TransportResult",
    "TransportStatus",
    "block_diagonal",
    "compiled",
    "cosine_cost",
    "faiss_support",
    "grid_points",
    "hierarchical_support",
    "measure_recall",
    "multiply",
    "multiscale_support",
    "pair_dots",
    "region_cost",
    "region_plan",
    "share_out",
    "solve_fused",
    "solve_quietly",
    "solve_transport",
    "split_result",
    "squared_euclidean_cost",
    "structure_gradient",
    "structure_value",
    "topk_candidates",
    "topk_support",
]
