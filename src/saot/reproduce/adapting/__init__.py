"""Tables of T2S-DA: networks trained end to end, one way of training a row."""

from saot.reproduce.adapting.engine import adapt_table
from saot.reproduce.adapting.model import AdaptExperiment, AdaptTableRequest
from saot.reproduce.adapting.presets import ADAPT_EXPERIMENTS

__all__ = ["ADAPT_EXPERIMENTS", "AdaptExperiment", "AdaptTableRequest", "adapt_table"]
