"""Curves of a table, by hand-made results."""

import pytest

from saot.tables.drawing import _curves
from saot.tables.presets import experiment_named
from saot.tables.results import Cell, ResultRow, TableResult


def _result(columns, rows):
    return TableResult("t", "t", "", tuple((key, key) for key in columns), rows, None, 1, (), (), {})


@pytest.mark.parametrize("columns", [("total:1",), ("total:1", "total:5"), ("0", "total:1", "total:5")])
def test_a_curve_of_however_few_budgets(columns):
    rows = tuple(ResultRow(label, {key: Cell(values=(0.2,)) for key in columns}) for label in ("MLP", "SAOT"))
    axes = _curves(experiment_named("saot-budget"), _result(columns, rows)).axes[0]
    assert [line.get_label() for line in axes.containers] == ["MLP", "SAOT"]
    assert len(axes.get_xticks()) == len(columns)


def test_a_curve_along_swept_rows():
    rows = tuple(ResultRow(label, {"miou": Cell(values=(0.2,)), "wrong": Cell()}) for label in ("a", "b", "c"))
    axes = _curves(experiment_named("saot-tau"), _result(("miou", "wrong"), rows)).axes[0]
    assert len(axes.get_xticks()) == 3
