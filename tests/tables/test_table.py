"""The one way of all tables, by an adapter whose runs are a handful of counts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from saot.data import class_set
from saot.recipes import RecipeDifference
from saot.tables import Column, Experiment, Request, Row
from saot.tables.table import Places, Planned, Table, class_mean, digest

CLASSES = class_set("cityscapes19")


class Hits(Table):
    """Settings are how many of four pixels of each of two pictures are right; a seed adds one."""

    words, recorded = "hits", {"seeds": "seeds"}

    def __init__(self, experiment, request, places):
        super().__init__(experiment, request, places)
        self.classes, self.done = CLASSES, []

    def plan(self, row, column, seed):
        if row.quoted:
            return None
        right = row.changes["right"] + seed
        return Planned(digest([right]), SimpleNamespace(to_dict=lambda: {"right": right}), "miou", right, seed=seed)

    def make(self, wanted):
        for name, plans in wanted.items():
            counts = torch.zeros(2, 19, 19, dtype=torch.int64)
            counts[:, 0, 0], counts[:, 0, 1] = plans[0].of, 4 - plans[0].of
            self.finished[name] = counts
            self.done.append(plans[0].of)

    def counts(self, plan):
        return self.finished[plan.run]

    def value(self, plan):
        return float(plan.of)

    def differences(self):
        return [RecipeDifference("data", "theirs", "ours", "as asked")]

    @property
    def images(self):
        return 2


def table(*rows, seeds=(0,), reference=None):
    columns = (Column("miou", "mIoU", quantity="miou"), Column("other", "other", quantity="iou"))
    experiment = Experiment("hits", "Hits", "ours", columns, rows, reference=reference)
    return Hits(experiment, Request(seeds=seeds), Places(Path("runs"), Path("store")))


def test_equal_settings_are_one_run_and_seeds_come_one_after_another():
    made = table(*(Row(str(right), changes={"right": right}) for right in (1, 3, 2)), seeds=(0, 1))
    result = made.result()
    assert made.done == [1, 3, 2, 4]  # seed 0 of all rows, then what seed 1 adds
    assert list(result.runs.values()) == [{"right": right} for right in (1, 3, 2, 4)]
    assert [row.cells["miou"].values for row in result.rows] == [(1.0, 2.0), (3.0, 4.0), (2.0, 3.0)]
    assert result.request == {"seeds": [0, 1]} and result.images == 2


def test_a_quoted_row_runs_nothing_and_keeps_the_paper_s_number():
    result = table(Row("theirs", paper={"miou": 70}, quoted=True), Row("ours", changes={"right": 3})).result()
    cell = result.rows[0].cells["miou"]
    assert result.rows[0].quoted and cell.paper == 70 and cell.values == () and cell.difference is None


def test_differences_are_of_pictures_and_of_quantities_that_are_compared():
    rows = (Row("two", changes={"right": 2}), Row("three", changes={"right": 3}), Row("quoted", quoted=True))
    two, three, _ = table(*rows, seeds=(0, 1), reference="two").result().rows
    assert two.cells["miou"].difference is None and three.cells["other"].difference is None
    found = three.cells["miou"].difference  # of both seeds together: 7 of 8 pixels of road, beside 5 of 8
    assert found is not None and found.difference == pytest.approx(100 * (7 / 8 - 5 / 8))
    assert table(*rows, reference="quoted").result().rows[0].cells["miou"].difference is None


def test_means_over_classes():
    iou = torch.full((19,), torch.nan, dtype=torch.float64)
    iou[0], iou[1] = 50.0, 100.0
    assert class_mean("miou", None, iou, CLASSES) == 75 and class_mean("iou", "road", iou, CLASSES) == 50
    assert class_mean("iou", "sky", iou, CLASSES) is None and class_mean("iou", "unicorn", iou, CLASSES) is None
    assert class_mean("miou13", None, iou, CLASSES) == 75 and class_mean("miou99", None, iou, CLASSES) is None
