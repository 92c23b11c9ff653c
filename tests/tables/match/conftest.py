import pytest
from helpers.pair_tables import opened


@pytest.fixture(autouse=True)
def _opened_once(monkeypatch):
    monkeypatch.setattr("saot.tables.match.matching.open_pairs", opened)
