"""Differences of hits."""

import numpy as np
import pytest

from saot.tables.match.counting import bootstrap_hits


def test_bootstrap_of_hits():
    mine, theirs, totals = np.array([3, 2, 1]), np.array([1, 2, 0]), np.array([4, 4, 2])
    found = bootstrap_hits(mine, theirs, totals)
    assert found is not None and found.difference == pytest.approx(30)
    assert found.low >= 0 and found.high <= 50
    assert bootstrap_hits(mine * 0, theirs * 0, totals * 0) is None
