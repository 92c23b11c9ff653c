"""Pairs of pictures with key points, from published sets and made ones."""

from saot.match.pairs.pairs import Pair, PairSet, PairSide
from saot.match.pairs.readers import open_pairs

__all__ = ["Pair", "PairSet", "PairSide", "open_pairs"]
