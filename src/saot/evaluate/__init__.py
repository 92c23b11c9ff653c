"""Scores from counts: confusion matrix, pixel-level upsampling of token scores, tables of methods."""

from saot.evaluate.confusion import ConfusionMatrix, iou_from_counts, mean_over
from saot.evaluate.table import (
    GROUPS,
    METHODS,
    BootstrapDifference,
    Method,
    TableRow,
    bootstrap_difference,
    extra_means,
    format_table,
    method_entry,
    method_named,
    table_rows,
)
from saot.evaluate.upsample import interpolation_matrix, predict_confidence, predict_mask, upsample_scores

__all__ = [
    "GROUPS",
    "METHODS",
    "BootstrapDifference",
    "ConfusionMatrix",
    "Method",
    "TableRow",
    "bootstrap_difference",
    "extra_means",
    "format_table",
    "interpolation_matrix",
    "iou_from_counts",
    "mean_over",
    "method_entry",
    "method_named",
    "predict_confidence",
    "predict_mask",
    "table_rows",
    "upsample_scores",
]
