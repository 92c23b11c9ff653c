"""SAOT: from source labels to target label probabilities."""

from saot.transfer.cost import Prototypes, SemanticCost, class_prototypes
from saot.transfer.fit import CostFit, PairData, TargetExample, fit_cost, fit_prior, transfer_pair
from saot.transfer.labels import (
    LabelTransfer,
    aggregate_transfers,
    diversity_loss,
    entropy_loss,
    fill_uncovered,
    point_loss,
    sharpen,
    transfer_labels,
)
from saot.transfer.shares import class_correction
from saot.transfer.training import Checkpoint, cosine_rate, generator_for, train_steps

__all__ = [
    "Checkpoint",
    "CostFit",
    "LabelTransfer",
    "PairData",
    "Prototypes",
    "SemanticCost",
    "TargetExample",
    "aggregate_transfers",
    "class_correction",
    "class_prototypes",
    "cosine_rate",
    "diversity_loss",
    "entropy_loss",
    "fill_uncovered",
    "fit_cost",
    "fit_prior",
    "generator_for",
    "point_loss",
    "sharpen",
    "train_steps",
    "transfer_labels",
    "transfer_pair",
]
