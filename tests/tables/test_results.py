"""Cells as a reader sees them."""

from saot.tables.results import cell_of


def test_cells_in_words():
    assert cell_of(None, [None], 1).words() == "–"
    assert cell_of("~11", [10.0, 12.0], 1).words() == "11.0 ± 1.4"
    assert cell_of(886_000, [1234.0], 0).words() == "1,234" and cell_of(886_000, [], 0).paper_words() == "886,000"
