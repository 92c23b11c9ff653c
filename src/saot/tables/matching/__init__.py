"""Tables of matching: pairs of pictures, key points or flow, and one way of matching a row."""

from saot.tables.matching.engine import match_table
from saot.tables.matching.model import MatchExperiment, MatchTableRequest
from saot.tables.matching.presets import MATCH_EXPERIMENTS

__all__ = ["MATCH_EXPERIMENTS", "MatchExperiment", "MatchTableRequest", "match_table"]
