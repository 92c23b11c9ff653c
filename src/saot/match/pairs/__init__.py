"""Pairs of pictures with key points, from published sets and made ones."""

from saot.match.pairs.pairs import OutsidePicture, Pair, PairSet, PairSide
from saot.match.pairs.readers import open_pairs

__all__ = ["OutsidePicture", "Pair", "PairSet", "PairSide", "open_pairs"]
