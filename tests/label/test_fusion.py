"""`saot run --size A,B`: a decoder at each input size, joined by weights learned on declared points."""

import json
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers.runs import TINY, make_folder, open_labelled, opened, predict_pictures, run_job, score_some, tiny_settings
from PIL import Image

import saot
from saot.cli import app, main
from saot.evaluate import ConfusionMatrix
from saot.features import Picture
from saot.label import (
    SizesDecoder,
    chosen_adjustment,
    declared_pixels,
    fit_weights,
    open_run,
    probs_at,
    sizes_of,
)
from saot.label.fusion import unpacked_decoder
from saot.label.settings import RunSettings
from saot.runs import read_kept
from saot.tables import ALL_WINGS

SIZES = "28x56,56x112"
EVAL = str(tiny_settings().eval)
CELLS = replace(TINY.decoder, architecture="fine", subdivision=2, context=2, rounds=1)
FAST = replace(TINY, name="tiny-best", decoder=CELLS, taught=replace(TINY.taught, teachers=1, steps=4, rounds=1))


def asked(**changes) -> RunSettings:
    return tiny_settings(**{"size": SIZES, "recipe": FAST, **changes})


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """A run of two input sizes, the smaller one named first."""
    return run_job(asked(), tmp_path_factory.mktemp("joined") / "run", compare="none")


def test_metrics_have_the_joined_decoder_and_each_size_alone(joined):
    methods = joined.metrics["methods"]
    assert list(methods) == ["saot_decoder", "saot_decoder_56x112", "saot_decoder_28x56"]
    assert len({entry["label_budget"] for entry in methods.values()}) == 1
    assert json.loads((joined.folder / "metrics.json").read_text()) == joined.metrics


def test_run_json_says_what_each_size_weighs(joined):
    run = joined.run
    assert [one["size"] for one in run["sizes"]] == ["56x112", "28x56"]  # most tokens first, whatever the order asked
    assert run["features"] == run["sizes"][0]["features"] and run["features"]["size"] == "56x112"
    weights = np.array([list(one["weights"].values()) for one in run["sizes"]])
    assert weights.shape == (2, 19) and np.allclose(weights.sum(0), 1, atol=2e-4) and (weights.std(1) > 0).all()
    assert run["settings"]["size"] == SIZES and run["decoder_bias"] is None
    for stage in ("fusion", "56x112: train teacher-0", "28x56: train teacher-0", "28x56: features source", "points"):
        assert run["stages"][stage]["seconds"] >= 0, stage
    stages = {json.loads(line)["stage"] for line in (joined.folder / "log.jsonl").read_text().splitlines()}
    assert {name.split(": ")[0] for name in stages} == {"56x112", "28x56"}
    assert "saot_decoder_28x56" in (joined.folder / "report.html").read_text()


def test_the_weights_are_those_of_the_held_out_points(joined):
    with opened(asked(), joined.folder) as contest:
        points = declared_pixels(contest)
        held = contest.data.points.tokens.held()
        assert sum(len(part[-1]) for part in points) == len(held) > 0
        assert {number for number, *_ in points} == set(held.picture.tolist())
        decoder = contest.decoder().decoder
        assert isinstance(decoder, SizesDecoder)
        published = read_kept(joined.folder / "decoder.safetensors")
        assert published is not None
        kept = unpacked_decoder(published)
        assert isinstance(kept, SizesDecoder)
        for mine, theirs in zip(decoder.state_dict().values(), kept.state_dict().values(), strict=True):
            assert torch.equal(mine, theirs)


def test_a_finished_run_labels_as_it_scored(joined, tmp_path):
    """predict and saot.load from decoder.safetensors alone: everything under work/ is gone."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("run.json", "metrics.json", "decoder.safetensors", "calibration.json"):
        (folder / name).write_bytes((joined.folder / name).read_bytes())
    data, labeller = open_labelled(EVAL), open_run(folder, ALL_WINGS)
    matrix = ConfusionMatrix(19)
    for number in range(len(data)):
        matrix.update(labeller.mask(data.image(number), ""), torch.from_numpy(data.mask(number)))
    assert matrix.mean_iou() == pytest.approx(joined.metrics["methods"]["saot_decoder"]["miou"], abs=1e-12)
    assert saot.load(folder, device="cpu").predict(data.image(0)).mask.shape == data.mask(0).shape
    for number in range(2):
        Image.fromarray(data.image(number)).save(tmp_path / f"{number}.png")
    predict_pictures(folder, [tmp_path / "0.png", tmp_path / "1.png"], tmp_path / "masks")
    for number in range(2):
        mask = labeller.mask(data.image(number), "").numpy()
        assert np.array_equal(np.array(Image.open(tmp_path / "masks" / f"{number}.png")), mask)
        assert np.array_equal(labeller.predict(data.image(number)).mask, mask)
    said = labeller.predict(data.image(0))
    assert np.allclose(said.probabilities.sum(0), 1, atol=1e-5)
    assert np.allclose(said.probabilities.max(0), said.confidence, atol=1e-5)
    asked = [Picture(str(n), partial(data.image, n), "") for n in (1, 0)]
    assert [one.shape for one in labeller.probabilities(asked)] == [(19, *data.mask(n).shape) for n in (1, 0)]
    assert np.array_equal([*labeller.probabilities(asked)][1].numpy(), said.probabilities)


def test_evaluate_agrees(joined, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(joined.folder), EVAL, "--device", "cpu", "--json"])
    assert ended.value.code in (0, None)
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["methods"]["saot_decoder"] == joined.metrics["methods"]["saot_decoder"]


def test_each_size_alone_is_the_run_of_that_size(joined, tmp_path):
    """Same points, same seeds: joining changes nothing in the networks it joins."""
    alone = run_job(asked(size="28x56"), tmp_path / "alone", compare="none")
    assert alone.metrics["methods"]["saot_decoder"] == joined.metrics["methods"]["saot_decoder_28x56"]
    assert alone.run["sizes"] == []
    assert (tmp_path / "alone" / "points.csv").read_bytes() == (joined.folder / "points.csv").read_bytes()


def test_the_table_of_several_sizes_finds_the_same_weights(joined, tmp_path):
    """`saot reproduce saot-fusion` joins runs made one by one."""
    runs = [run_job(asked(size=size), tmp_path / size, compare="none").folder for size in ("56x112", "28x56")]
    with ExitStack() as stack:
        contests = [stack.enter_context(opened(asked(size=run.name), run)) for run in runs]
        points = declared_pixels(contests[0])
        probs = []
        for contest in contests:
            chosen = chosen_adjustment(contest.bench, contest.data, contest.decoder().decoder).bias
            bias = torch.zeros(19) if chosen is None else chosen
            probs.append(probs_at(contest.data.target, contest.decoder().decoder, bias, points, 19))
        weights = fit_weights(torch.stack(probs), torch.cat([labels for *_, labels in points]), 19)
    published = read_kept(joined.folder / "decoder.safetensors")
    assert published is not None and torch.equal(weights, published.tensors["weights"])


def test_without_points_every_size_weighs_the_same(tmp_path):
    """By the paper's recipe, with a cost at each size; that of the first is published."""
    run = run_job(asked(points="0", recipe=TINY), tmp_path / "run", compare="none").run
    assert {value for one in run["sizes"] for value in one["weights"].values()} == {0.5}
    first = tmp_path / "run" / "work" / "parts" / "56x112" / "cost.safetensors"
    assert (tmp_path / "run" / "cost.safetensors").read_bytes() == first.read_bytes()


def test_a_stopped_run_ends_with_the_same_bytes(joined, tmp_path, monkeypatch):
    monkeypatch.setattr("saot.runs.folder.CHECKPOINT_EVERY", 2)
    stops = [("56x112: features source", 2), ("28x56: train teacher-0", 5), ("score saot_decoder", 1), (None, 0)]
    for stage, at in stops:

        def progress(name, done, total, stage=stage, at=at):
            if (name, done) == (stage, at):
                raise KeyboardInterrupt

        if stage is None:
            assert not run_job(asked(), tmp_path / "run", compare="none", progress=progress).resumed
        else:
            with pytest.raises(KeyboardInterrupt):
                run_job(asked(), tmp_path / "run", compare="none", progress=progress)
    for name in ("metrics.json", "decoder.safetensors", "calibration.json", "log.jsonl", "points.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (joined.folder / name).read_bytes(), name
    assert run_job(asked(), tmp_path / "run", compare="none").resumed


def test_rivals_see_the_largest_input(tmp_path):
    methods = ["nearest_neighbor", "linear_probe_points"]
    found = [score_some(asked(size=size), tmp_path / size[:5], methods).methods for size in (SIZES, "56x112")]
    for name in methods:
        mine, theirs = (one[name].counts for one in found)
        assert mine is not None and theirs is not None and torch.equal(mine, theirs), name


def test_the_guarantee_is_not_claimed(joined):
    notes = json.loads((joined.folder / "calibration.json").read_text())["notes"]
    assert any("weights of the input sizes were learned on the same held-out points" in note for note in notes)
    assert any("the expected mIoU and the thresholds of --abstain" in note for note in joined.run["notes"])


def test_extract_makes_the_features_that_a_run_takes(tmp_path, capsys):
    store, spec = tmp_path / "store", make_folder(tmp_path / "set", 0)
    words = ["extract", spec, "--backbone", "filterbank", "--size", SIZES, "--out", str(store), "--device", "cpu"]
    with pytest.raises(SystemExit):
        app([*words, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["images"] == 2 and [folder.split("/")[-2] for folder in said["stores"]] == ["28x56", "56x112"]
    made = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    assert len(made) == 4
    run_job(asked(source=spec, target=spec, eval=None, points="0"), tmp_path / "run", store=store, compare="none")
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")} == made


@pytest.mark.parametrize("size", ["28x56,28x56", "28x56, 28X56", "28x56,", "28x56;56x112", "28,x"])
def test_sizes_that_make_no_sense(size):
    with pytest.raises(ValueError, match=r"expected (each input size once|a size as HEIGHTxWIDTH)") as caught:
        asked(size=size)
    assert "\n" not in str(caught.value)


def test_one_size_is_what_it_was():
    assert sizes_of("28x56") == ("28x56",) and sizes_of(None) == (None,) and sizes_of("28,56x112") == ("28", "56x112")
