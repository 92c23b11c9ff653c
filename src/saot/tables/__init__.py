"""The tables and figures of the paper, on the data at hand, with the paper's numbers beside ours."""

from saot.tables.engine import reproduce
from saot.tables.interventions import all_rivals
from saot.tables.model import Column, Count, Experiment, Row, Size
from saot.tables.output import text_table
from saot.tables.request import Request
from saot.tables.results import TableResult
from saot.tables.rivals import run_rivals
from saot.tables.wings import ALL_WINGS

__all__ = [
    "ALL_WINGS",
    "Column",
    "Count",
    "Experiment",
    "Request",
    "Row",
    "Size",
    "TableResult",
    "all_rivals",
    "reproduce",
    "run_rivals",
    "text_table",
]
