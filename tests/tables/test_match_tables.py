"""Tables of matching on tiny pairs: layout, resuming, honest counting, wrong input."""

import json
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from saot.cli import main
from saot.features import FeatureStore, load_backbone
from saot.features.segmenter import PromptSegmenter
from saot.match.pairs.readers import open_pairs
from saot.match.pck import KeyPointScores
from saot.scenes.scene import render_scene
from saot.tables.matching import MatchTableRequest, match_table
from saot.tables.matching.adapters import trained_adapter
from saot.tables.matching.answers import Watch, read_answers
from saot.tables.matching.counting import bootstrap_hits
from saot.tables.matching.engine import seeded
from saot.tables.matching.kept import Kept
from saot.tables.matching.model import AdapterPlan, MatchColumn, MatchExperiment, MatchRow
from saot.tables.matching.presets import MATCH_EXPERIMENTS
from saot.tables.matching.sequence import SequenceExperiment, SequenceRow, clips, sequences
from saot.tables.matching.sides import Viewer, distorted, network_of

PAIRS = "scenes-pairs:turned:val,count=3,size=84,classes=car"
REQUEST = MatchTableRequest(pairs=PAIRS, size="84x84", seeds=(0, 1))
NEAREST = {"method": "nn"}


@lru_cache
def opened(spec):
    """Pairs that are drawn once for all tests."""
    pairs = open_pairs(spec)
    return replace(pairs, make=lru_cache(pairs.make))


@pytest.fixture(autouse=True)
def _opened_once(monkeypatch):
    monkeypatch.setattr("saot.tables.matching.engine.open_pairs", opened)


def tiny(name):
    """The preset with few steps."""
    experiment = MATCH_EXPERIMENTS[name]
    assert isinstance(experiment, MatchExperiment)
    rows = []
    for row in experiment.rows:
        if row.adapter is not None:
            plan = replace(row.adapter, pairs=PAIRS, count=2, changes={**row.adapter.changes, "steps": 2})
            row = replace(row, adapter=plan)
        rows.append(row)
    return replace(experiment, rows=tuple(rows), base={**experiment.base, "gwot.steps": 2})


@pytest.mark.parametrize("name", ["gwot-ablation", "gwot-cost", "soy-labels", "soy-settings", "soy-training"])
def test_presets_of_generated_pairs_run(name, tmp_path):
    experiment = tiny(name)
    request = replace(REQUEST, limit=2, seeds=(0,), training=PAIRS if name == "soy-training" else None)
    result = match_table(experiment, request, tmp_path)
    written = json.loads((tmp_path / "table.json").read_text())
    assert [row["label"] for row in written["rows"]] == [row.label for row in experiment.rows]
    assert [column["key"] for column in written["columns"]] == [column.key for column in experiment.columns]
    for row in result.rows:
        for key, cell in row.cells.items():
            assert row.quoted or cell.mean is not None
            assert row.quoted or name == "gwot-cost" or key == "seconds" or 0 <= (cell.mean or 0) <= 100
    assert (tmp_path / "table.md").exists() and (tmp_path / "table.html").exists()


@pytest.mark.parametrize("name", list(MATCH_EXPERIMENTS))
def test_every_preset_says_what_it_needs_and_its_settings_exist(name, tmp_path):
    experiment = MATCH_EXPERIMENTS[name]
    assert experiment.describe()["needs"]
    if isinstance(experiment, MatchExperiment):
        keys = {column.key for column in experiment.columns}
        for row in experiment.rows:
            row.settings(experiment.base)
            assert set(row.paper) <= keys
        assert len({row.label for row in experiment.rows}) == len(experiment.rows)
        assert experiment.reference is None or experiment.reference in {row.label for row in experiment.rows}
    if not getattr(experiment, "pairs", ""):
        with pytest.raises(ValueError, match="needs"):
            match_table(experiment, MatchTableRequest(), tmp_path)


def rows_of(*rows, **more):
    columns = (MatchColumn("0.1", "PCK"), MatchColumn("geometry", "geometry-aware", subset="geometry"))
    return MatchExperiment("x", "x", "ours", columns, rows, reference=rows[0].label, **more)


def test_numbers_are_those_of_the_answers_on_disk_and_are_not_made_again(tmp_path, monkeypatch):
    experiment = rows_of(MatchRow("a", NEAREST), MatchRow("the same", NEAREST), MatchRow("masked", NEAREST, "object"))
    first = match_table(experiment, REQUEST, tmp_path / "one", runs=tmp_path / "runs")
    files = sorted((tmp_path / "runs").glob("*.jsonl"))
    assert len(files) == 4  # two ways of matching, two seeds
    by_row = {row.label: row.cells["0.1"].values for row in first.rows}
    assert by_row["a"] == by_row["the same"]
    for path in files:
        answers = read_answers(path)
        seed = int(next(iter(answers)).split("/")[2])
        scores = KeyPointScores((0.1,))
        for pair in opened(seeded(PAIRS, seed)):
            scores.add(pair, np.array(answers[pair.key].places))
        value = scores.result().box.overall.points[0]
        assert 100 * value in {by_row["a"][seed], by_row["masked"][seed]}
    monkeypatch.setattr("saot.tables.matching.engine.key_point_answer", None)  # nothing may be asked
    again = match_table(experiment, REQUEST, tmp_path / "two", runs=tmp_path / "runs")
    assert again.rows == first.rows


def test_a_line_cut_off_by_a_kill_is_made_anew(tmp_path):
    experiment = rows_of(MatchRow("a", NEAREST))
    first = match_table(experiment, REQUEST, tmp_path / "one", runs=tmp_path / "runs")
    path = next((tmp_path / "runs").glob("*.jsonl"))
    whole = path.read_text()
    path.write_text(whole[: len(whole) - 20])
    again = match_table(experiment, REQUEST, tmp_path / "two", runs=tmp_path / "runs")
    assert again.rows == first.rows
    assert len(read_answers(path)) == 3


def test_pairs_without_depth_or_masks_say_so(tmp_path):
    Image.fromarray(render_scene("street", "val", 0, 64, 128).image).save(tmp_path / "0.png")
    request = MatchTableRequest(pairs=f"warps:{tmp_path}:tps,points=5", size="56x112")
    plain = match_table(rows_of(MatchRow("a", NEAREST)), request, tmp_path / "out")
    assert plain.images == 1
    with pytest.raises(ValueError, match="without depth"):
        match_table(rows_of(MatchRow("a", NEAREST, space="exact")), request, tmp_path / "out2")
    with pytest.raises(ValueError, match="pass --sam"):
        match_table(rows_of(MatchRow("a", NEAREST, masks="object")), request, tmp_path / "out3")
    with pytest.raises(ValueError, match="pass --sam"):
        match_table(rows_of(MatchRow("a", NEAREST, counted="mask")), request, tmp_path / "out4")


def test_flow_of_a_known_warp(tmp_path):
    Image.fromarray(render_scene("street", "val", 0, 126, 252).image).save(tmp_path / "0.png")
    column = MatchColumn("images", "images", 0.2, weight="images", threshold="image")
    experiment = MatchExperiment("f", "f", "ours", (column,), (MatchRow("nn", NEAREST),), kind="flow")
    request = MatchTableRequest(pairs=f"warps:{tmp_path}:tps,strength=0.02,light=no", size="126x252")
    found = match_table(experiment, request, tmp_path / "out")
    value = found.rows[0].cells["images"].mean
    assert value is not None and value > 60  # hand-made features, hardly a warp


def test_answers_of_other_models_or_annotations_are_not_taken(tmp_path):
    experiment = rows_of(MatchRow("a", NEAREST))
    match_table(experiment, replace(REQUEST, seeds=(0,)), tmp_path / "one", runs=tmp_path / "runs")
    match_table(experiment, replace(REQUEST, seeds=(0,), limit=2), tmp_path / "two", runs=tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 2  # other pairs, other annotations
    with pytest.raises(ValueError, match="--seeds gives it"):
        match_table(experiment, replace(REQUEST, pairs=PAIRS + ",seed=3"), tmp_path / "three")


def test_an_adapter_of_generated_pairs_is_no_baseline_on_others(tmp_path):
    request = MatchTableRequest(pairs="spair:nowhere:test")
    with pytest.raises(ValueError, match="train them on as --target"):
        match_table(MATCH_EXPERIMENTS["soy-training"], request, tmp_path)


def test_distorted_depth_keeps_the_sky_and_the_order_of_far_and_near():
    depth = np.linspace(2, 9, 60, dtype=np.float32)[:, None] * np.ones((1, 60), np.float32)
    depth[:5] = np.inf
    moved = distorted(depth, 0, "a")
    assert np.isinf(moved[:5]).all() and np.isfinite(moved[5:]).all() and moved[5:].min() > 0
    assert np.corrcoef(moved[5:].ravel(), depth[5:].ravel())[0, 1] > 0.8
    assert not np.array_equal(moved[5:], distorted(depth, 1, "a")[5:])


def test_bootstrap_of_hits():
    mine, theirs, totals = np.array([3, 2, 1]), np.array([1, 2, 0]), np.array([4, 4, 2])
    found = bootstrap_hits(mine, theirs, totals)
    assert found is not None and found.difference == pytest.approx(30)
    assert found.low >= 0 and found.high <= 50
    assert bootstrap_hits(mine * 0, theirs * 0, totals * 0) is None


def test_frames_of_sequences_and_their_clips():
    assert sequences(["s/b_10.png", "s/a_2.png", "s/b_9.png", "s/b_8.png"]) == [[1], [3, 2, 0]]
    assert sequences(["b_10.png", "b_20.png", "b_30.png", "b_90.png"]) == [[0, 1, 2], [3]]
    assert clips(["a_1", "a_2", "a_3", "b_1"], 5, 2) == [[0, 1, 2]]


def test_labels_carried_along_a_sequence(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number, scene in enumerate((1, 1, 5)):  # the second frame is the first again
        rendered = render_scene("game", "train", scene, 84, 168)
        Image.fromarray(rendered.image).save(tmp_path / "images" / f"a_{number}.png")
        Image.fromarray(rendered.labels).save(tmp_path / "masks" / f"a_{number}.png")
    rows = (SequenceRow("nn", NEAREST), SequenceRow("gwot", {"method": "gwot", "gwot.steps": 3}, True, 1))
    experiment = SequenceExperiment("s", "s", "ours", rows, (1, 2), 1, reference="nn")
    (tmp_path / "classes.txt").write_text("\n".join(f"c{number}" for number in range(19)) + "\n")
    request = MatchTableRequest(pairs=f"folder:{tmp_path}", size="84x168")
    found = match_table(experiment, request, tmp_path / "out")
    assert found.images == 2
    one, two = (found.rows[0].cells[key].mean for key in ("1", "2"))
    assert one is not None and two is not None and one > 1.5 * two  # half of the first distance has nothing to find
    again = match_table(experiment, request, tmp_path / "out")
    assert again.rows == found.rows


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gwot-spair"], "pass --source spair:PATH:test"),
        (["gwot-ablation", "--source", "nothing:here"], "nothing"),
        (["gwot-ablation", "--seeds", "a"], "expected --seeds as whole numbers"),
        (["gwot-ablation", "--limit", "0"], "the limit is 0"),
        (["soy-labels", "--structure", "deep"], "expected --structure as depth:MODEL"),
        (["soy-labels", "--counts", "huge"], "expected --counts as one of"),
        (["gwot-ablation", "--no-final-norm", "--layers", "3"], "filterbank has neither layers nor a final norm"),
        (["saot-table-11", "--no-final-norm"], "are of tables of matching"),
        (["match-sequence"], "pass --source camvid:PATH:day.txt"),
    ],
)
def test_wrong_input_gets_a_sentence(arguments, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *arguments, "--out", str(tmp_path / "out")])
    told = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2 and sentence in told and "Traceback" not in told


def test_adapter_plans_differ_in_what_they_are_trained_on():
    plan = AdapterPlan(PAIRS)
    others = [replace(plan, labels="nearest"), replace(plan, label_changes={"topk": 1}), replace(plan, count=2)]
    assert len({json.dumps(one.identity()) for one in [plan, *others]}) == 4


def test_later_settings_leave_kept_adapters_valid_and_tell_new_ones_apart():
    plan = AdapterPlan(PAIRS, changes={"steps": 2})
    assert len(plan.identity()) == 6  # as files of earlier tables have it
    same = plan.asked(MatchTableRequest())
    assert same.identity() == plan.identity()
    asked = [MatchTableRequest(counts="paper"), MatchTableRequest(held_out=3), MatchTableRequest(training="tss:x")]
    assert len({json.dumps(plan.asked(one).identity()) for one in [MatchTableRequest(), *asked]}) == 4
    paper = plan.asked(asked[0])
    assert (paper.count, paper.width, paper.changes["steps"]) == (None, 768, 200_000)


class Counting(PromptSegmenter):
    """In the place of MobileSAM and of a network that lifts: counts its calls."""

    def __init__(self, identity="a"):
        self.identity, self.calls = identity, 0

    def encode(self, image):
        return image

    def segment(self, image, prompts):
        self.calls += 1
        left, top, right, bottom = (round(edge) for edge in prompts[0].box)
        mask = torch.zeros(1, *image.shape[:2], dtype=torch.bool)
        mask[0, top:bottom, left : right - 3] = True
        return SimpleNamespace(masks=mask)

    def lift(self, image, grid, inside=None):
        self.calls += 1
        count = grid.height * grid.width
        return SimpleNamespace(points=torch.rand(count, 3, generator=torch.Generator().manual_seed(int(inside.sum()))))


def test_masks_and_points_of_networks_are_made_once(tmp_path):
    network, kept = network_of(REQUEST), Kept(tmp_path / "kept")
    side = replace(opened(seeded(PAIRS, 0))[0].source, load_mask=None)

    def look(sam, lifter, box=side.box):
        viewer = Viewer(network, None, sam, lifter, kept=kept)
        return viewer.side_of(viewer.see(replace(side, box=box)), "object", "lifted", 0)

    first, again = [Counting(), Counting()], [Counting(), Counting()]
    one, other = look(*first), look(*again)
    assert [part.calls for part in first] == [1, 1] and [part.calls for part in again] == [0, 0]
    assert torch.equal(one.mask, other.mask) and torch.equal(one.points, other.points)
    left, top, right, bottom = side.box
    for sam, lifter, box in (("a", "b", side.box), ("a", "a", (left, top, right - 9, bottom)), ("b", "a", side.box)):
        changed = [Counting(sam), Counting(lifter)]
        look(*changed, box)
        assert [part.calls for part in changed] == [int(sam == "b" or box != side.box), int(sam == "a")]
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    look(*again)
    assert [part.calls for part in again] == [1, 1]  # damaged files are made anew


def test_two_cuts_of_a_name_have_points_of_their_own():
    """Cut pairs name a picture by its scene and object; its crop and occluder are each pair's."""
    viewer = Viewer(network_of(REQUEST), None, None, None)
    pairs = opened(seeded(PAIRS, 0))
    cuts = [replace(pair.source, name="the same") for pair in (pairs[0], pairs[1])]
    alone = [
        Viewer(network_of(REQUEST), None, None, None).side_of(viewer.see(cut), "object", "exact", 0) for cut in cuts
    ]
    together = [viewer.side_of(viewer.see(cut), "object", "exact", 0) for cut in cuts]
    assert not torch.equal(alone[0].points, alone[1].points)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.points, other.points) and torch.equal(one.mask, other.mask)


def test_tables_that_count_otherwise_share_a_folder_of_runs(tmp_path):
    rows = {
        "plain": MatchRow("Nearest neighbour", NEAREST, masks="object"),
        "on the mask": MatchRow("Nearest neighbour", NEAREST, masks="object", counted="mask"),
    }
    for name, row in rows.items():
        experiment = replace(tiny("soy-labels"), rows=(row,), reference=None)
        match_table(experiment, REQUEST, tmp_path / name, runs=tmp_path / "runs")
    assert rows["plain"].identity({}) != rows["on the mask"].identity({})


def test_features_masks_and_weights_are_those_of_the_training_set(tmp_path):
    """Pairs that a store keeps are opened when drawn; the adapter is that of pairs held in memory."""
    request = replace(REQUEST, training=PAIRS, held_out=1, counts="tiny")
    plan = AdapterPlan("").asked(request)
    network = network_of(request)
    pairs = opened(seeded(PAIRS, 0))
    drawn = trained_adapter(plan, list(pairs), Viewer(network, None, None, None), tmp_path / "one", 0)
    store = FeatureStore(tmp_path / "store", network.key)
    kept = trained_adapter(plan, list(pairs), Viewer(network, store, None, None), tmp_path / "two", 0)
    for one, other in zip(drawn.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)  # the store has half precision
    with pytest.raises(ValueError, match="are held out"):
        trained_adapter(replace(plan, held_out=3), list(pairs), Viewer(network, None, None, None), tmp_path, 0)


@pytest.mark.parametrize("training", [None, PAIRS])
def test_a_trained_row_is_a_dash_until_its_pairs_are_given(training, tmp_path):
    rows = (MatchRow("a", NEAREST), MatchRow("trained", NEAREST, adapter=AdapterPlan(""), paper={"0.1": 67.9}))
    request = replace(REQUEST, seeds=(0,), training=training, counts="tiny")
    found = match_table(rows_of(*rows), request, tmp_path)
    cell = found.rows[1].cells["0.1"]
    assert cell.paper == 67.9 and (cell.mean is None) == (training is None)
    assert any("trained: not trained; pass training pairs as --target" in note for note in found.notes) == (
        not training
    )
    assert found.rows[0].cells["0.1"].mean is not None


def test_answers_of_an_adapter_trained_on_other_pairs_are_not_taken(tmp_path):
    rows = (MatchRow("trained", NEAREST, adapter=AdapterPlan("")),)
    request = replace(REQUEST, seeds=(0,), counts="tiny")
    for number, training in enumerate((PAIRS, PAIRS.replace("car", "bus"))):
        match_table(rows_of(*rows), replace(request, training=training), tmp_path / str(number), runs=tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 2


def test_memory_on_a_gpu_is_the_gpus(monkeypatch):
    told = []
    held = iter([100 * 2**20, 350 * 2**20])
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: told.append("wait"))
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda device: told.append(f"reset {device}"))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: next(held))
    watch = Watch("cuda:1")
    assert watch.read()[1] == 250 and told == ["wait", "reset cuda:1", "wait"]


def test_layers_and_norm_of_the_backbone_are_asked_for_and_told(tmp_path, monkeypatch):
    asked = {}

    def load(name, weights, **settings):
        asked.update(settings)
        return load_backbone(name, weights, size=settings["size"])

    monkeypatch.setattr("saot.tables.matching.sides.load_backbone", load)
    request = replace(REQUEST, seeds=(0,), limit=1, layers="9, 11", final_norm=False)
    found = match_table(rows_of(MatchRow("a", NEAREST)), request, tmp_path)
    assert asked["layers"] == ["9", "11"] and asked["final_norm"] is False
    assert "Features: filterbank, layers all, without the network's final norm." in found.notes
