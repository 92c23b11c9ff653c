"""What cells show of a run, on their own."""

import numpy as np
import pytest
import torch

from saot.data import class_set
from saot.tables import EXPERIMENTS, Request
from saot.tables.label.labelling import completed
from saot.tables.label.quantities import filled, rank_correlation
from saot.tables.label.settings import settings_for


def test_settings_tables_agree_with_the_paper_under_its_counts():
    """Of table 11, whose values are plain, ours under --counts paper are the printed ones."""
    settings = settings_for(completed(Request(counts="paper")), EXPERIMENTS["saot-table-11"], {}, 0)
    shown = {
        row.label: filled(row.of, settings, class_set("cityscapes19")) for row in EXPERIMENTS["saot-table-11"].rows
    }
    for row in EXPERIMENTS["saot-table-11"].rows:
        if row.section == "OT solver" and "10^" not in str(row.paper["value"]):
            assert shown[row.label] == row.paper["value"]
    assert shown["Training steps"] == "14,000"
    with pytest.raises(ValueError, match=r"transport\.nonsense"):
        filled("{transport.nonsense}", settings, class_set("cityscapes19"))


def test_the_structure_weight_of_table_11_is_the_settings_and_its_table_measures_it():
    table, classes = EXPERIMENTS["saot-table-11"], class_set("cityscapes19")
    row = next(row for row in table.rows if row.label == "Structure weight α")
    for words, shown in (((), "0.0"), (("transport.alpha=0.3",), "0.3")):
        settings = settings_for(completed(Request(counts="small", set=words)), table, {}, 0)
        assert filled(row.of, settings, classes) == shown
    measured = EXPERIMENTS["saot-structure"]
    runs = [settings_for(completed(Request(counts="small")), measured, row.changes, 0) for row in measured.rows]
    found = [(run.recipe.transport.structure, run.recipe.transport.alpha) for run in runs]
    assert found[0] == ("grid", 0.0) and len(set(found)) == len(found) == 9
    assert len({row.label for row in measured.rows}) == 9, "rows are told apart by their labels"


def test_rank_correlation_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = rng.integers(0, 6, 20), rng.integers(0, 6, 20)
        ours = rank_correlation(torch.tensor(first).double(), torch.tensor(second).double())
        assert ours == pytest.approx(stats.spearmanr(first, second)[0], abs=1e-9)
    assert rank_correlation(torch.ones(4).double(), torch.arange(4).double()) is None
