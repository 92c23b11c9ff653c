"""Scores from counts, pixel-level upsampling, tables of methods."""

from saot.evaluate.confusion import ConfusionMatrix, iou_from_counts, mean_over
from saot.evaluate.decision import expected_iou_bias
from saot.evaluate.edges import near_edges, picture_counts
from saot.evaluate.flicker import flicker_counts
from saot.evaluate.table import (
    GROUPS,
    METHODS,
    Method,
    TableRow,
    extra_means,
    format_table,
    mean_title,
    method_entry,
    method_named,
    predicted_alone,
    table_rows,
)
from saot.evaluate.upsample import (
    interpolation_matrix,
    on_cells,
    predict_confidence,
    predict_mask,
    scores_at,
    upsample_scores,
)

__all__ = [
    "GROUPS",
    "METHODS",
    "ConfusionMatrix",
    "Method",
    "TableRow",
    "expected_iou_bias",
    "extra_means",
    "flicker_counts",
    "format_table",
    "interpolation_matrix",
    "iou_from_counts",
    "mean_over",
    "mean_title",
    "method_entry",
    "method_named",
    "near_edges",
    "on_cells",
    "picture_counts",
    "predict_confidence",
    "predict_mask",
    "predicted_alone",
    "scores_at",
    "table_rows",
    "upsample_scores",
]
