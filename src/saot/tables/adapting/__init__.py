"""Tables of T2S-DA: networks trained end to end, one way of training a row."""

from saot.tables.adapting.engine import adapt_table
from saot.tables.adapting.model import AdaptExperiment, AdaptTableRequest
from saot.tables.adapting.presets import ADAPT_EXPERIMENTS

__all__ = ["ADAPT_EXPERIMENTS", "AdaptExperiment", "AdaptTableRequest", "adapt_table"]
