"""Carry dense labels from pictures that have them to pictures that do not, by optimal transport.

The public names. Each is loaded from its room when first used, so that `import saot` needs torch alone.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_ROOMS = {
    "saot.transport": (
        "solve_transport",
        "TransportResult",
        "TransportStatus",
        "TransportError",
        "Support",
        "SparseCost",
        "topk_support",
        "cosine_cost",
        "squared_euclidean_cost",
    ),
    "saot.transfer": (
        "SemanticCost",
        "class_prototypes",
        "transfer_labels",
        "LabelTransfer",
        "aggregate_transfers",
        "fit_cost",
    ),
    "saot.features": ("FeatureGrid", "load_backbone"),
    "saot.decoder": ("TokenDecoder", "fit_decoder", "refine_decoder"),
    "saot.evaluate": ("ConfusionMatrix",),
    "saot.api": ("load", "OpenedRun"),
}
_RUN = "label"  # a room that can be called: `saot run` from Python
_SOLVER = "transport"  # a room that is also used by itself
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted([*_HOME, _RUN])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in (_RUN, _SOLVER):
        return import_module(f"saot.{name}")
    if name == "_run_from_python":  # what calling that room does
        return import_module("saot.api").label
    if name not in _HOME:
        raise AttributeError(f"module 'saot' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, _SOLVER, "__version__"]
