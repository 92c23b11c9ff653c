"""The tables and figures of the paper, on the data at hand, with the paper's numbers beside ours."""

from saot.reproduce.engine import reproduce
from saot.reproduce.model import Column, Count, Experiment, Row, Size
from saot.reproduce.output import text_table
from saot.reproduce.presets import EXPERIMENTS, experiment_named
from saot.reproduce.request import Request
from saot.reproduce.results import TableResult

__all__ = [
    "EXPERIMENTS",
    "Column",
    "Count",
    "Experiment",
    "Request",
    "Row",
    "Size",
    "TableResult",
    "experiment_named",
    "reproduce",
    "text_table",
]
