"""Tables of matching on tiny pairs: layout, resuming, honest counting, wrong input."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.pair_tables import NEAREST, PAIRS, REQUEST, opened, rows_of, tiny
from PIL import Image

from saot.features import Padded, load_backbone
from saot.match.pck import KeyPointScores
from saot.scenes.scene import render_scene
from saot.tables import EXPERIMENTS, Column, Experiment, Pck, Request, Row, reproduce
from saot.tables.match.matching import seeded
from saot.tables.match.pair_results import PairResult, append_result, key_point_result, read_results
from saot.tables.match.sequences import propagation_of
from saot.tables.match.way import AdapterPlan, way_of


@pytest.mark.parametrize("name", ["gwot-ablation", "gwot-cost", "soy-labels", "soy-settings", "soy-training"])
def test_presets_of_generated_pairs_run(name, tmp_path):
    experiment = tiny(name)
    request = replace(REQUEST, limit=2, seeds=(0,), target=PAIRS if name == "soy-training" else "")
    result = reproduce(experiment, request, tmp_path)
    written = json.loads((tmp_path / "table.json").read_text())
    assert [row["label"] for row in written["rows"]] == [row.label for row in experiment.rows]
    assert [column["key"] for column in written["columns"]] == [column.key for column in experiment.columns]
    for row in result.rows:
        for key, cell in row.cells.items():
            assert row.quoted or cell.mean is not None
            assert row.quoted or name == "gwot-cost" or key == "seconds" or 0 <= (cell.mean or 0) <= 100
    assert (tmp_path / "table.md").exists() and (tmp_path / "table.html").exists()


@pytest.mark.parametrize("name", [name for name, one in EXPERIMENTS.items() if one.kind in ("matching", "sequences")])
def test_every_preset_says_what_it_needs_and_its_settings_exist(name, tmp_path):
    experiment = EXPERIMENTS[name]
    assert experiment.describe()["needs"]
    for row in experiment.rows:
        if experiment.kind == "matching":
            way_of(experiment, row, Request())
        else:
            propagation_of(experiment, row)
    if not experiment.source:
        with pytest.raises(ValueError, match="needs"):
            reproduce(experiment, Request(), tmp_path)


def test_numbers_are_those_of_the_answers_on_disk_and_are_not_made_again(tmp_path, monkeypatch):
    experiment = rows_of(
        Row("a", changes=NEAREST),
        Row("the same", changes=NEAREST),
        Row("masked", changes={**NEAREST, "masks": "object"}),
    )
    first = reproduce(experiment, REQUEST, tmp_path / "one", runs=tmp_path / "runs")
    files = sorted((tmp_path / "runs").glob("*.jsonl"))
    assert len(files) == 4  # two ways of matching, two seeds
    by_row = {row.label: row.cells["0.1"].values for row in first.rows}
    assert by_row["a"] == by_row["the same"]
    for path in files:
        seed = int(json.loads(path.read_text().splitlines()[0])["key"].split("/")[2])
        results = read_results(path, opened(seeded(PAIRS, seed)))
        scores = KeyPointScores((0.1,))
        for pair in opened(seeded(PAIRS, seed)):
            scores.add(pair, np.array(results[pair.key].places))
        value = scores.result().box.overall.points[0]
        assert 100 * value in {by_row["a"][seed], by_row["masked"][seed]}
    monkeypatch.setattr("saot.tables.match.matching.key_point_result", None)  # nothing may be asked
    again = reproduce(experiment, REQUEST, tmp_path / "two", runs=tmp_path / "runs")
    assert again.rows == first.rows


def test_a_line_cut_off_by_a_kill_is_made_anew(tmp_path):
    experiment = rows_of(Row("a", changes=NEAREST))
    first = reproduce(experiment, REQUEST, tmp_path / "one", runs=tmp_path / "runs")
    path = next((tmp_path / "runs").glob("*.jsonl"))
    whole = path.read_text()
    path.write_text(whole[: len(whole) - 20])
    again = reproduce(experiment, REQUEST, tmp_path / "two", runs=tmp_path / "runs")
    assert again.rows == first.rows
    seed = int(json.loads(path.read_text().splitlines()[0])["key"].split("/")[2])
    assert len(read_results(path, opened(seeded(PAIRS, seed)))) == 3


def test_more_pairs_of_a_set_ask_only_for_those_that_are_new(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "saot.tables.match.matching.key_point_result",
        lambda way, pair, *rest: asked.append(pair.key) or key_point_result(way, pair, *rest),
    )
    experiment, runs = rows_of(Row("a", changes=NEAREST)), tmp_path / "runs"
    for limit, new in ((1, 1), (None, 2), (2, 0)):
        asked.clear()
        found = reproduce(experiment, replace(REQUEST, seeds=(0,), limit=limit), tmp_path / "out", runs=runs)
        assert len(asked) == new and found.images == (limit or 3)
    assert len(list(runs.glob("*.jsonl"))) == 1


def test_pairs_without_depth_or_masks_say_so(tmp_path):
    Image.fromarray(render_scene("street", "val", 0, 64, 128).image).save(tmp_path / "0.png")
    request = Request(source=f"warps:{tmp_path}:tps,points=5", size="56x112")
    plain = reproduce(rows_of(Row("a", changes=NEAREST)), request, tmp_path / "out")
    assert plain.images == 1
    with pytest.raises(ValueError, match="without depth"):
        reproduce(rows_of(Row("a", changes={**NEAREST, "space": "exact"})), request, tmp_path / "out2")
    with pytest.raises(ValueError, match="pass --sam"):
        reproduce(rows_of(Row("a", changes={**NEAREST, "masks": "object"})), request, tmp_path / "out3")
    with pytest.raises(ValueError, match="pass --sam"):
        reproduce(rows_of(Row("a", changes={**NEAREST, "counted": "mask"})), request, tmp_path / "out4")


def test_flow_of_a_known_warp(tmp_path):
    Image.fromarray(render_scene("street", "val", 0, 126, 252).image).save(tmp_path / "0.png")
    column = Column("images", "images", quantity="flow", of=Pck(0.2, "image", weight="images"))
    experiment = Experiment("f", "f", "ours", (column,), (Row("nn", changes=NEAREST),), "matching")
    request = Request(source=f"warps:{tmp_path}:tps,strength=0.02,light=no", size="126x252")
    found = reproduce(experiment, request, tmp_path / "out")
    value = found.rows[0].cells["images"].mean
    assert value is not None and value > 60  # hand-made features, hardly a warp


def test_answers_under_another_annotation_are_not_taken(tmp_path):
    pairs, path = list(opened(seeded(PAIRS, 0)))[:2], tmp_path / "a.jsonl"
    for pair in pairs:
        append_result(path, pair, PairResult(1.0))
    assert list(read_results(path, pairs)) == [pair.key for pair in pairs]
    moved = replace(pairs[0], source=replace(pairs[0].source, points=pairs[0].source.points + 1))
    assert list(read_results(path, [moved, pairs[1]])) == [pairs[1].key]
    experiment = rows_of(Row("a", changes=NEAREST))
    with pytest.raises(ValueError, match="--seeds gives it"):
        reproduce(experiment, replace(REQUEST, source=PAIRS + ",seed=3"), tmp_path / "three")


def test_an_adapter_of_generated_pairs_is_no_baseline_on_others(tmp_path):
    request = Request(source="spair:nowhere:test")
    with pytest.raises(ValueError, match="train them on as --target"):
        reproduce("soy-training", request, tmp_path)


def test_tables_that_count_otherwise_share_a_folder_of_runs(tmp_path):
    rows = {
        "plain": Row("Nearest neighbour", changes={**NEAREST, "masks": "object"}),
        "on the mask": Row("Nearest neighbour", changes={**NEAREST, "masks": "object", "counted": "mask"}),
    }
    for name, row in rows.items():
        experiment = replace(tiny("soy-labels"), rows=(row,), reference=None)
        reproduce(experiment, REQUEST, tmp_path / name, runs=tmp_path / "runs")
    assert (
        way_of(experiment, rows["plain"], REQUEST).identity()
        != way_of(experiment, rows["on the mask"], REQUEST).identity()
    )


@pytest.mark.parametrize("training", ["", PAIRS])
def test_a_trained_row_is_a_dash_until_its_pairs_are_given(training, tmp_path):
    rows = (
        Row("a", changes=NEAREST),
        Row("trained", changes={**NEAREST, "adapter": AdapterPlan("")}, paper={"0.1": 67.9}),
    )
    request = replace(REQUEST, seeds=(0,), target=training, counts="tiny")
    found = reproduce(rows_of(*rows), request, tmp_path)
    cell = found.rows[1].cells["0.1"]
    assert cell.paper == 67.9 and (cell.mean is None) == (not training)
    assert any("trained: not trained; pass training pairs as --target" in note for note in found.notes) == (
        not training
    )
    assert found.rows[0].cells["0.1"].mean is not None


def test_answers_of_an_adapter_trained_on_other_pairs_are_not_taken(tmp_path):
    rows = (Row("trained", changes={**NEAREST, "adapter": AdapterPlan("")}),)
    request = replace(REQUEST, seeds=(0,), counts="tiny")
    for number, training in enumerate((PAIRS, PAIRS.replace("car", "bus"))):
        reproduce(rows_of(*rows), replace(request, target=training), tmp_path / str(number), runs=tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 2


def test_layers_and_norm_of_the_backbone_are_asked_for_and_told(tmp_path, monkeypatch):
    asked = {}

    def load(name, weights, **settings):
        asked.update(settings)
        return load_backbone(name, weights, size=settings["size"])

    monkeypatch.setattr("saot.tables.match.viewer.ALL_WINGS", SimpleNamespace(backbone=load))
    request = replace(REQUEST, seeds=(0,), limit=1, layers="9, 11", final_norm=False)
    found = reproduce(rows_of(Row("a", changes=NEAREST)), request, tmp_path)
    assert asked["layers"] == ["9", "11"] and asked["final_norm"] is False
    assert "Features: filterbank, layers all, without the network's final norm." in found.notes


def test_a_pca_of_each_pair_has_answers_of_its_own_and_leaves_the_others(tmp_path):
    experiment = rows_of(Row("a", changes=NEAREST), Row("posed", changes={**NEAREST, "pose_align": True}))
    plain = reproduce(experiment, replace(REQUEST, seeds=(0,)), tmp_path / "plain", runs=tmp_path / "runs")
    names = {path.name for path in (tmp_path / "runs").glob("*.jsonl")}
    reduced = reproduce(experiment, replace(REQUEST, seeds=(0,), pca="2"), tmp_path / "pca", runs=tmp_path / "runs")
    assert len(names) == 2 and len(set((tmp_path / "runs").glob("*.jsonl"))) == 4
    again = reproduce(experiment, replace(REQUEST, seeds=(0,)), tmp_path / "plain", runs=tmp_path / "runs")
    assert again.rows == plain.rows
    assert any("Maps reduced to 2 numbers" in note for note in reduced.notes)
    assert not any("Maps reduced" in note for note in plain.notes)
    assert reduced.rows[0].cells["0.1"].mean != plain.rows[0].cells["0.1"].mean
    with pytest.raises(ValueError, match="maps' own"):
        reproduce(experiment, replace(REQUEST, pca="2+2"), tmp_path / "no")


def test_place_is_removed_in_the_rows_that_ask_and_by_request_in_all(tmp_path):
    posed = {**NEAREST, "pose_align": True}
    experiment = rows_of(Row("a", changes=NEAREST), Row("less", changes={**posed, "position": "1"}))
    plain = reproduce(experiment, replace(REQUEST, seeds=(0,)), tmp_path / "plain", runs=tmp_path / "runs")
    note = next(note for note in plain.notes if note.startswith("Position removed"))
    assert note.startswith("Position removed (less): the 1 of ")
    asked = replace(REQUEST, seeds=(0,), remove_position="20")
    less = reproduce(experiment, asked, tmp_path / "less", runs=tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 3  # the row that asks keeps its own
    assert less.rows[1].cells["0.1"].values == plain.rows[1].cells["0.1"].values
    assert less.rows[0].cells["0.1"].mean != plain.rows[0].cells["0.1"].mean


def test_a_padded_size_goes_from_the_request_to_the_backbone(tmp_path, monkeypatch):
    asked = []

    def load(name, weights, **settings):
        asked.append(settings["size"])
        return load_backbone("filterbank", size=84)

    monkeypatch.setattr("saot.tables.match.viewer.ALL_WINGS", SimpleNamespace(backbone=load))
    request = replace(REQUEST, seeds=(0,), size="pad:84x84", backbone="dinov2-small")
    reproduce(rows_of(Row("a", changes=NEAREST)), request, tmp_path)
    assert asked == [Padded(84)]
    with pytest.raises(ValueError, match=r"the side of a square, such as pad:840"):
        replace(REQUEST, size="pad:84x90")
