"""SAOT: from source labels to target label probabilities."""

from saot.transfer.cost import Prototypes, SemanticCost, class_prototypes, prototype_sums, prototypes_from_sums
from saot.transfer.fit import (
    CostFit,
    PairData,
    Places,
    TargetExample,
    fit_cost,
    fit_prior,
    plan_loss,
    solve_as,
    solve_pair,
    transfer_pair,
)
from saot.transfer.labels import (
    LabelTransfer,
    aggregate_transfers,
    diversity_loss,
    entropy_loss,
    fill_uncovered,
    one_hot,
    point_loss,
    sharpen,
    transfer_labels,
)
from saot.transfer.shares import class_correction
from saot.transfer.supports import pair_support

__all__ = [
    "CostFit",
    "LabelTransfer",
    "PairData",
    "Places",
    "Prototypes",
    "SemanticCost",
    "TargetExample",
    "aggregate_transfers",
    "class_correction",
    "class_prototypes",
    "diversity_loss",
    "entropy_loss",
    "fill_uncovered",
    "fit_cost",
    "fit_prior",
    "one_hot",
    "pair_support",
    "plan_loss",
    "point_loss",
    "prototype_sums",
    "prototypes_from_sums",
    "sharpen",
    "solve_as",
    "solve_pair",
    "transfer_labels",
    "transfer_pair",
]
