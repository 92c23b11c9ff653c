"""Tables of T2S-DA: the paper's rows and numbers, and every one of them run on tiny pictures."""

import json
import math
from dataclasses import replace

import pytest

from saot.adapt.inputs import AdaptSettings
from saot.adapt.recipe import PAPER, PAPER_CNN, PAPER_HRDA
from saot.label import RunSettings
from saot.tables.adapting import AdaptTableRequest, adapt_table
from saot.tables.adapting.engine import value_of, with_class_columns
from saot.tables.adapting.model import AdaptColumn, AdaptRow
from saot.tables.adapting.presets import ADAPT_EXPERIMENTS
from saot.tables.runs import run_name

SIZE = "count=2,height=64,width=128"
TINY = AdaptTableRequest(
    source=f"scenes:game:train,{SIZE}",
    target=f"scenes:street:train,{SIZE}",
    eval=f"scenes:street:val,{SIZE}",
    source_eval=f"scenes:game:val,{SIZE}",
    counts="tiny",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("adapt-runs")


PRINTED_OTHERWISE = {  # the paper's classes re-add to another mean than it prints
    ("t2s-da-table-1", "DAFormer (w/ FDA)"): 68.29,
    ("t2s-da-table-1", "FST"): 69.49,
    ("t2s-da-table-2", "FST"): 61.98,
    ("t2s-da-source", "T2S-DA"): 80.83,
}


@pytest.mark.parametrize("name", ["t2s-da-table-1", "t2s-da-table-2", "t2s-da-source"])
def test_class_numbers_of_the_paper_re_add_to_its_mean(name):
    checked = 0
    for row in ADAPT_EXPERIMENTS[name].rows:
        classes = [value for key, value in row.paper.items() if "iou:" in key]
        key = next(key for key in ("miou", "miou16", "source_miou") if key in row.paper)
        if classes and row.paper[key] is not None:
            printed = PRINTED_OTHERWISE.get((name, row.label), row.paper[key])
            assert math.fsum(classes) / len(classes) == pytest.approx(printed, abs=0.06), row.label
            checked += 1
    assert checked >= 3


def test_every_row_of_a_table_has_its_own_settings():
    """Two rows of one run would be one experiment under two names."""
    request = replace(TINY, counts="paper", weights="folder")
    for experiment in ADAPT_EXPERIMENTS.values():
        made = [request.settings(row, 0, experiment.main) for row in experiment.rows]
        names = [run_name(settings) for settings in made if settings is not None]
        assert len(set(names)) == len(names), experiment.name


def test_the_paper_s_counts_have_the_paper_s_networks():
    request = replace(TINY, counts="paper")
    by_label = {row.label: request.recipe(row) for row in ADAPT_EXPERIMENTS["t2s-da-table-1"].rows if not row.quoted}
    assert by_label["T2S-DA"] == PAPER
    assert by_label["T2S-DA, CNN"] == PAPER_CNN
    assert by_label["T2S-DA on HRDA"] == PAPER_HRDA
    for label in ("Source only", "T2S-DA on HRDA", "T2S-DA, CNN"):
        assert (replace(TINY, counts="small").recipe(AdaptRow(label, network="cnn"), "transformer")) is None


def test_source_only_and_dg_rows_are_given_no_target():
    for name, label in (("t2s-da-table-1", "Source only"), ("t2s-da-table-3", "T2S-DA")):
        row = next(row for row in ADAPT_EXPERIMENTS[name].rows if row.label == label)
        settings = TINY.settings(row, 0)
        assert isinstance(settings, AdaptSettings) and settings.target is None


def test_the_frozen_road_uses_the_same_pictures_and_no_points():
    row = ADAPT_EXPERIMENTS["t2s-da-roads"].rows[-1]
    settings = TINY.settings(row, 3)
    assert isinstance(settings, RunSettings)
    assert (settings.source, settings.target, settings.eval) == (TINY.source, TINY.target, TINY.eval)
    assert settings.points == "0" and settings.seed == 3


@pytest.mark.parametrize("name", ["t2s-da-roads", "t2s-da-source", "t2s-da-table-3"])
def test_a_table_on_tiny_pictures(name, tmp_path, runs):
    experiment = ADAPT_EXPERIMENTS[name]
    result = adapt_table(experiment, TINY, tmp_path / name, runs=runs, store=runs / "features")
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
    again = adapt_table(experiment, TINY, tmp_path / name, runs=runs, store=runs / "features")
    assert again.to_dict() == result.to_dict()
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("network.safetensors")}


def test_rows_of_other_networks_are_left_out_with_a_word(tmp_path, runs):
    result = adapt_table(ADAPT_EXPERIMENTS["t2s-da-table-1"], TINY, tmp_path, runs=runs)
    rows = {row.label: row for row in result.rows}
    assert rows["T2S-DA"].cells["miou"].mean is not None
    assert rows["T2S-DA on HRDA"].cells["miou"].mean is None
    assert any("T2S-DA on HRDA" in note and "--counts paper" in note for note in result.notes)
    assert rows["T2S-DA"].cells["iou:road"].paper == 95.9 and rows["T2S-DA"].cells["iou:road"].mean is not None


def test_values(runs, tmp_path):
    import torch

    from saot.data import class_set
    from saot.tables.adapting.engine import Trained

    counts = torch.zeros(2, 19, 19, dtype=torch.long)
    counts[:, 0, 0], counts[:, 1, 0] = 3, 1  # road 3 of 4, sidewalk never right
    run = Trained(counts, None, {"ccd": {"road": 0.5, "sidewalk": 1.5, "sky": None}}, 2.0)
    classes = class_set("cityscapes19")
    assert value_of(AdaptColumn("a", "a"), run, classes) == pytest.approx(100 * 0.75 / 2)
    assert value_of(AdaptColumn("a", "a", "iou", "road"), run, classes) == pytest.approx(75.0)
    assert value_of(AdaptColumn("a", "a", "iou", "sky"), run, classes) is None
    assert value_of(AdaptColumn("a", "a", "source_miou"), run, classes) is None
    assert value_of(AdaptColumn("a", "a", "ccd"), run, classes) == 1.0
    assert value_of(AdaptColumn("a", "a", "minutes"), run, classes) == 2.0
    widened = with_class_columns(ADAPT_EXPERIMENTS["t2s-da-table-1"], classes)
    assert [column.of for column in widened.columns[1:]] == list(classes.names)


@pytest.mark.parametrize(
    ("sets", "given", "said"),
    [
        (("a:b", None, None, None), {}, "--target"),
        ((None, None, None, None), {"counts": "half"}, "paper, small, tiny"),
    ],
)
def test_requests_that_do_not_fit(sets, given, said):
    with pytest.raises(ValueError, match=said):
        AdaptTableRequest.from_words(sets, "0", **given)


def test_fixed_weights_need_one_a_class(tmp_path, runs):
    request = replace(TINY, source="camvid:nowhere")
    row = next(row for row in ADAPT_EXPERIMENTS["t2s-da-reweighting"].rows if "Simple" in row.label)
    settings = request.settings(row, 0)
    assert isinstance(settings, AdaptSettings) and len(settings.recipe.pull.fixed_weights) == 19
