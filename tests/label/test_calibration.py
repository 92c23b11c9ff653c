import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.runs import opened as open_contest
from helpers.runs import predict_pictures, tiny_settings
from PIL import Image

from saot.cli import main
from saot.evaluate import ConfusionMatrix, predict_mask
from saot.label.calibration import (
    ALPHAS,
    abstention_threshold,
    calibrate,
    evaluation_answers,
    held_points,
    open_models,
    pixel_lattice,
)
from saot.label.finished import open_run
from saot.report import ReportData, render_report
from saot.runs import read_kept

METHODS = ("saot_decoder", "saot")


def numbers(value):
    """Every number of a JSON value."""
    if isinstance(value, dict | list):
        return [n for inner in (value.values() if isinstance(value, dict) else value) for n in numbers(inner)]
    return [value] if isinstance(value, float) else []


@pytest.fixture
def opened(finished, tmp_path):
    """A copy of the tiny run, opened."""
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    with open_contest(tiny_settings(), out) as contest:
        yield contest


def bias_of(contest):
    kept = read_kept(contest.bench.space.work("scores", "saot_decoder.safetensors"))
    return kept.tensors.get("bias")


def test_a_run_leaves_its_calibration(finished):
    record = json.loads((finished / "calibration.json").read_text())
    assert record["alphas"] == list(ALPHAS) and set(record["methods"]) == set(METHODS)
    assert record["held_out"]["pictures"] == 1 and record["held_out"]["points"] > 0
    assert all(n >= 0 for n in numbers(record))
    for entry in record["methods"].values():
        assert entry["after"]["accuracy"] == entry["before"]["accuracy"]
        assert set(entry["ranking"]) == {"confidence", "unmatched", "both"}
        assert set(entry["abstain"]) == {"0.01", "0.05", "0.1"}
        for ranking in entry["ranking"].values():
            assert ranking["best_aurc"] <= ranking["aurc"] <= 1
    assert "Calibration" in (finished / "report.html").read_text()


def test_the_same_bytes_again(opened):
    path = opened.bench.space.path("calibration.json")
    before = path.read_bytes()
    path.write_text("{ broken")
    assert json.loads(before) == calibrate(opened, bias_of(opened))
    assert path.read_bytes() == before


def test_answers_are_those_of_the_masks(opened):
    # on the full grid of these small pictures the counted predictions are the run's own
    models, metrics = (
        open_models(opened, bias_of(opened)),
        json.loads(opened.bench.space.path("metrics.json").read_text()),
    )
    matrices = {name: ConfusionMatrix(opened.data.num_classes) for name in METHODS}
    for answers, truth in evaluation_answers(models):
        for name in METHODS:
            matrices[name].update(answers.log_probs[name].argmax(-1), truth)
            torch.testing.assert_close(answers.log_probs[name].exp().sum(-1), torch.ones(len(truth)).double())
    for name in METHODS:
        # close calls may fall the other way by rounding
        assert matrices[name].mean_iou() == pytest.approx(metrics["methods"][name]["miou"], abs=1e-3)


def test_held_points_are_judged_at_their_own_pixels(opened):
    models = open_models(opened, bias_of(opened))
    held = held_points(models)
    judge = opened.data.points.tokens.held()
    assert held.classes.tolist() == judge.classes.tolist() and held.picture.tolist() == judge.picture.tolist()
    assert not set(held.picture.tolist()) & set(opened.data.points.tokens.training().picture.tolist())
    number = int(held.picture[0])
    with torch.no_grad():
        logits = models.decoder(opened.data.target.tokens(number))
    mask = predict_mask(logits, opened.data.target.grid(number), models.bias)
    rows = [line.split(",") for line in opened.bench.space.path("points.csv").read_text().splitlines()[1:]]
    mine = [(int(y), int(x)) for key, x, y, _ in rows if key == opened.data.target.images.keys[number]]
    chosen = held.answers.log_probs["saot_decoder"].argmax(-1)[held.picture == number]
    assert [int(mask[place]) for place in mine] == chosen.tolist()
    for name in METHODS:
        assert float(held.weights(name).sum()) == pytest.approx(1.0)
        assert float(held.picture_weights(name).sum()) == pytest.approx(len(held.picture.unique()))


def test_evaluation_labels_choose_nothing(opened):
    path = opened.bench.space.path("calibration.json")
    before = json.loads(path.read_text())
    path.unlink()
    truth = opened.evaluation.truth
    blank = replace(truth, mask=lambda number: np.where(truth.mask(number) == 255, 255, 0).astype(np.uint8))
    opened = replace(opened, evaluation=replace(opened.evaluation, truth=blank))
    opened.bench.space.work("calibration.safetensors").unlink()  # its name says nothing of masks changed in memory
    after = calibrate(opened, bias_of(opened))
    for name in METHODS:
        old, new = before["methods"][name], after["methods"][name]
        assert old["before"] != new["before"]
        assert old["temperature"] == new["temperature"]
        for key, entry in old["abstain"].items():
            for basis in ("threshold", "basis"):
                assert entry[basis] == new["abstain"][key][basis]
            assert entry["points"]["threshold"] == new["abstain"][key]["points"]["threshold"]


def with_threshold(folder, tmp_path, value):
    """A copy of a run that says its threshold for 0.1 is `value`."""
    out = tmp_path / f"with-{value}"
    shutil.copytree(folder, out)
    record = json.loads((out / "calibration.json").read_text())
    record["methods"]["saot_decoder"]["abstain"]["0.1"]["threshold"] = value
    (out / "calibration.json").write_text(json.dumps(record))
    return out


def test_predict_abstains_below_the_threshold(finished, tmp_path):
    picture = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(picture)
    predict_pictures(finished, [picture], tmp_path / "all")
    full = np.asarray(Image.open(tmp_path / "all" / "a.png"))
    seen = []
    for value in (1e-6, 0.08, 0.11, 0.14, 1.1):
        folder = with_threshold(finished, tmp_path, value)
        records = predict_pictures(folder, [picture], tmp_path / f"masks-{value}", abstain=0.1).records()
        mask = np.asarray(Image.open(tmp_path / f"masks-{value}" / "a.png"))
        assert ((mask == full) | (mask == 255)).all()
        assert records[0]["labelled"] == pytest.approx((mask != 255).mean())
        seen.append(records[0]["labelled"])
    assert seen[0] == 1.0 and seen[-1] == 0.0 and seen == sorted(seen, reverse=True)
    assert open_run(finished).threshold == 0.0


def test_abstaining_without_a_threshold_is_refused_in_one_sentence(finished, tmp_path, capsys):
    folder = with_threshold(finished, tmp_path, None)
    with pytest.raises(ValueError, match=r"held-out points .* do not show one"):
        abstention_threshold(folder, 0.1)
    with pytest.raises(ValueError, match=r"among 0\.01, 0\.05, 0\.1; got 0\.2"):
        abstention_threshold(folder, 0.2)
    (folder / "calibration.json").unlink()
    with pytest.raises(ValueError, match="missing or damaged"):
        abstention_threshold(folder, 0.1)
    picture = tmp_path / "a.png"
    Image.new("RGB", (60, 40)).save(picture)
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(folder), str(picture), "--out", str(tmp_path / "out"), "--abstain", "0.1"])
    assert stopped.value.code == 2
    assert "calibration.json" in capsys.readouterr().err


def page_of(contest, record):
    return render_report(ReportData("a run", {}, {}, contest.data.classes, calibration=record))


def without(contest, what):
    """The contest as it would be without declared points, without held-out ones, or without evaluation labels."""
    if what == "labels":
        return replace(contest, evaluation=replace(contest.evaluation, truth=None))
    points = contest.data.points
    training = points.tokens.training()
    tokens = training if what == "held-out points" else training.held()
    return replace(contest, data=replace(contest.data, points=replace(points, tokens=tokens)))


@pytest.mark.parametrize("what", ["points", "held-out points", "labels"])
def test_what_cannot_be_known_is_said(opened, what):
    path = opened.bench.space.path("calibration.json")
    before = json.loads(path.read_text())["methods"]["saot_decoder"]
    path.unlink()
    record = calibrate(without(opened, what), bias_of(opened))
    entry, page = record["methods"]["saot_decoder"], page_of(opened, record)
    (note,) = record["notes"]
    assert note in page
    if what == "labels":
        assert "no evaluation labels" in note and entry["before"] is None and entry["ranking"] is None
        assert entry["temperature"] == before["temperature"]
        assert entry["abstain"]["0.1"]["points"]["threshold"] == before["abstain"]["0.1"]["points"]["threshold"]
        return
    assert ("none is declared" if what == "points" else "all were trained on") in note
    if what == "held-out points":  # without any points it would be another network
        assert entry["before"] == before["before"]
    assert entry["before"]["ece"] > 0 and entry["temperature"] is None and entry["after"] is None
    assert all(part["threshold"] is None for part in entry["abstain"].values())
    assert set(entry["ranking"]) == {"confidence", "unmatched"}


@pytest.mark.parametrize(
    ("height", "width", "most"), [(7, 9, 63), (7, 9, 62), (1, 5, 1), (3, 5, 2), (1024, 2048, 200_000)]
)
def test_the_lattice_keeps_to_its_size_and_stays_inside(height, width, most):
    rows, columns = pixel_lattice(height, width, most)
    assert 1 <= len(rows) == len(columns) <= most
    assert int(rows.max()) < height and int(columns.max()) < width
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(rows)
    if most == 63:
        assert len(rows) == 63
