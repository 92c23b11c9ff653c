"""The tables and figures of the papers, on the data at hand, with the papers' numbers beside ours."""

from saot.tables.engine import reproduce
from saot.tables.experiment import Column, Count, Experiment, Pck, PictureGrid, Row, Size
from saot.tables.interventions import all_rivals
from saot.tables.label.settings import paper_request
from saot.tables.output import text_table
from saot.tables.presets import EXPERIMENTS, experiment_named
from saot.tables.request import Request
from saot.tables.results import TableResult
from saot.tables.rivals import run_rivals
from saot.tables.wings import ALL_WINGS

__all__ = [
    "ALL_WINGS",
    "EXPERIMENTS",
    "Column",
    "Count",
    "Experiment",
    "Pck",
    "PictureGrid",
    "Request",
    "Row",
    "Size",
    "TableResult",
    "all_rivals",
    "experiment_named",
    "paper_request",
    "reproduce",
    "run_rivals",
    "text_table",
]
