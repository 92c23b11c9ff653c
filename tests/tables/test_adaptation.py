"""Tables of T2S-DA: what a row makes of the settings, and some of them run on tiny pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from saot.adapt import masks_figure
from saot.adapt.inputs import AdaptSettings
from saot.adapt.recipe import PAPER, PAPER_CNN, PAPER_HRDA
from saot.data import class_set
from saot.label import RunSettings
from saot.tables import EXPERIMENTS, Request, Row, adaptation, reproduce
from saot.tables.adaptation import Trained, completed, recipe_of, settings_of, value_of, with_class_columns
from saot.tables.table import run_name
from saot.tables.wings import ALL_WINGS

SIZE = "count=2,height=64,width=128"
TINY = completed(
    Request(
        source=f"scenes:game:train,{SIZE}",
        target=f"scenes:street:train,{SIZE}",
        eval=f"scenes:street:val,{SIZE}",
        source_eval=f"scenes:game:val,{SIZE}",
        counts="tiny",
    )
)
ADAPTATION = [experiment for experiment in EXPERIMENTS.values() if experiment.kind == "adaptation"]
TABLE_1 = EXPERIMENTS["t2s-da-table-1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("adapt-runs")


def test_every_row_of_a_table_has_its_own_settings():
    """Two rows of one run would be one experiment under two names."""
    request = replace(TINY, counts="paper", weights="folder")
    for experiment in ADAPTATION:
        made = [settings_of(request, experiment, row, 0) for row in experiment.rows]
        names = [run_name(settings) for settings in made if settings is not None]
        assert len(set(names)) == len(names), experiment.name


def test_the_paper_s_counts_have_the_paper_s_networks():
    request = replace(TINY, counts="paper")
    by_label = {row.label: recipe_of(request, TABLE_1, row) for row in TABLE_1.rows if not row.quoted}
    assert by_label["T2S-DA"] == PAPER
    assert by_label["T2S-DA, CNN"] == PAPER_CNN
    assert by_label["T2S-DA on HRDA"] == PAPER_HRDA
    for label in ("Source only", "T2S-DA on HRDA", "T2S-DA, CNN"):
        assert recipe_of(replace(TINY, counts="small"), TABLE_1, Row(label, changes={"preset": "cnn"})) is None


def test_source_only_and_dg_rows_are_given_no_target():
    for name, label in (("t2s-da-table-1", "Source only"), ("t2s-da-table-3", "T2S-DA")):
        row = next(row for row in EXPERIMENTS[name].rows if row.label == label)
        settings = settings_of(TINY, EXPERIMENTS[name], row, 0)
        assert isinstance(settings, AdaptSettings) and settings.target is None


def test_what_is_set_stands_under_the_changes_of_rows():
    request = replace(TINY, set=("pull.weight=0.5", "optimizer.accumulate=3"))
    plain = recipe_of(request, TABLE_1, Row("", "t2s-da"))
    own = recipe_of(request, TABLE_1, Row("", "t2s-da", {"pull.weight": 0.2}))
    assert plain is not None and own is not None
    assert (plain.pull.weight, plain.optimizer.accumulate) == (0.5, 3)
    assert (own.pull.weight, own.optimizer.accumulate) == (0.2, 3)


def test_the_frozen_road_uses_the_same_pictures_and_no_points():
    table = EXPERIMENTS["t2s-da-roads"]
    settings = settings_of(TINY, table, table.rows[-1], 3)
    assert isinstance(settings, RunSettings)
    assert (settings.source, settings.target, settings.eval) == (TINY.source, TINY.target, TINY.eval)
    assert settings.points == "0" and settings.seed == 3


@pytest.mark.parametrize("name", ["t2s-da-roads", "t2s-da-source", "t2s-da-table-3"])
def test_a_table_on_tiny_pictures(name, tmp_path, runs):
    experiment = EXPERIMENTS[name]
    result = reproduce(name, TINY, tmp_path / name, runs=runs, store=runs / "features")
    kept = json.loads((tmp_path / name / "table.json").read_text())
    assert [row["label"] for row in kept["rows"]] == [row.label for row in experiment.rows]
    first = experiment.columns[0].key
    for row, line in zip(experiment.rows, kept["rows"], strict=True):
        assert 0 <= line["cells"][first]["mean"] <= 100
        assert line["cells"][first]["paper"] == row.paper.get(first)
    assert result.images == 2
    if experiment.figure:
        assert (tmp_path / name / "distances.png").exists() and (tmp_path / name / "similarity.png").exists()
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("network.safetensors")}
    again = reproduce(name, TINY, tmp_path / name, runs=runs, store=runs / "features")
    assert again.to_dict() == result.to_dict()
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("network.safetensors")}


def test_masks_of_every_row_stand_side_by_side(tmp_path, runs, monkeypatch):
    drawn, made = [], []

    def draw(pictures, truths, masks, classes):
        drawn.append((pictures, truths, masks))
        return masks_figure(pictures, truths, masks, classes)

    monkeypatch.setattr("saot.tables.adaptation.masks_figure", draw)
    opened = adaptation.open_adapted
    monkeypatch.setattr("saot.tables.adaptation.open_adapted", lambda *given: made.append(given) or opened(*given))
    table = EXPERIMENTS["t2s-da-roads"]
    table = replace(table, rows=table.rows[:2])
    request = replace(TINY, eval="scenes:street:val,count=6,height=64,width=128")
    for _ in range(2):
        reproduce(table, request, tmp_path, runs=runs, store=runs / "features")
    (pictures, truths, masks), again = drawn
    assert (tmp_path / "masks.png").read_bytes().startswith(b"\x89PNG")
    assert list(masks) == [row.label for row in table.rows]
    whole = ALL_WINGS.labelled(request.eval)
    assert len(pictures) == len(truths) == 4 and all(len(of_row) == 4 for of_row in masks.values())
    for shown, number in enumerate((0, 1, 3, 4)):
        assert np.array_equal(pictures[shown], whole.image(number))
        assert np.array_equal(truths[shown], whole.mask(number))
    assert len(made) == 2  # the second time the masks are read, not made
    assert all(np.array_equal(*both) for label in masks for both in zip(masks[label], again[2][label], strict=True))
    settings = settings_of(request, table, table.rows[0], 0)
    network = opened(runs / run_name(settings))
    assert np.array_equal(masks[table.rows[0].label][2], network.mask(whole.image(3), "").numpy())


def test_rows_of_other_networks_are_left_out_with_a_word(tmp_path, runs):
    result = reproduce("t2s-da-table-1", TINY, tmp_path, runs=runs)
    rows = {row.label: row for row in result.rows}
    assert rows["T2S-DA"].cells["miou"].mean is not None
    assert rows["T2S-DA on HRDA"].cells["miou"].mean is None
    assert any("T2S-DA on HRDA" in note and "--counts paper" in note for note in result.notes)
    assert rows["T2S-DA"].cells["iou:road"].paper == 95.9 and rows["T2S-DA"].cells["iou:road"].mean is not None


def test_values(runs, tmp_path):
    counts = torch.zeros(2, 19, 19, dtype=torch.long)
    counts[:, 0, 0], counts[:, 1, 0] = 3, 1  # road 3 of 4, sidewalk never right
    run = Trained(counts, None, {"ccd": {"road": 0.5, "sidewalk": 1.5, "sky": None}}, 2.0)
    classes = class_set("cityscapes19")
    assert value_of("miou", None, run, classes) == pytest.approx(100 * 0.75 / 2)
    assert value_of("iou", "road", run, classes) == pytest.approx(75.0)
    assert value_of("iou", "sky", run, classes) is None
    assert value_of("source_miou", None, run, classes) is None
    assert value_of("ccd", None, run, classes) == 1.0
    assert value_of("minutes", None, run, classes) == 2.0
    widened = with_class_columns(TABLE_1, classes)
    assert [column.of for column in widened.columns[1:]] == list(classes.names)


def test_fixed_weights_need_one_a_class(tmp_path, runs):
    request = replace(TINY, source="camvid:nowhere")
    table = EXPERIMENTS["t2s-da-reweighting"]
    settings = settings_of(request, table, next(row for row in table.rows if "Simple" in row.label), 0)
    assert isinstance(settings, AdaptSettings) and len(settings.recipe.pull.fixed_weights) == 19
