"""Tables of matching: pairs of pictures, key points or flow, and one way of matching a row."""

from saot.reproduce.matching.engine import match_table
from saot.reproduce.matching.model import MatchExperiment, MatchTableRequest
from saot.reproduce.matching.presets import MATCH_EXPERIMENTS

__all__ = ["MATCH_EXPERIMENTS", "MatchExperiment", "MatchTableRequest", "match_table"]
