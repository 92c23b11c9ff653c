"""`saot adapt` as a run: complete, resumable bit for bit, blind to target labels, shared among processes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.adapt import save_segformer, tiny_recipe
from helpers.runs import open_labelled
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import saot
from saot.adapt import read_encoder
from saot.adapt import scores as adaptation_scores
from saot.adapt.finished import open_adapted, published_network
from saot.adapt.inputs import AdaptSettings, open_adapt_inputs
from saot.adapt.predict import predict_mask
from saot.adapt.recipe import AdaptRecipe
from saot.adapt.run import run_adaptation
from saot.adapt.training import Pace, trained
from saot.data import Fingerprints, datasets
from saot.features import Picture
from saot.runs.folder import load_tensors

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

SIZE = "count=2,height=64,width=128"


def tiny_run(method: str = "t2s-da", **changes) -> AdaptRecipe:
    recipe = tiny_recipe(method)
    return replace(recipe, pictures=replace(recipe.pictures, crop=(64, 64)), **changes)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    return save_segformer(tmp_path_factory.mktemp("models") / "mit")


def asked(weights: str, recipe: AdaptRecipe | None = None, **changes) -> AdaptSettings:
    settings = AdaptSettings(
        source=f"scenes:game:train,{SIZE}",
        target=f"scenes:street:train,{SIZE}",
        eval=f"scenes:street:val,{SIZE}",
        source_eval=f"scenes:game:val,{SIZE}",
        weights=weights,
        recipe=recipe or tiny_run(),
    )
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "t2s-da"
    run_adaptation(asked(weights), out)
    return out


def folder(root: Path, pictures: int = 2, classes: tuple[str, ...] = ("sky", "car"), masks: bool = True) -> Path:
    """Pictures of 64x96 with masks of two halves."""
    rng = np.random.default_rng(pictures)
    (root / "images").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    for number in range(pictures):
        picture = rng.integers(0, 256, (64, 96, 3)).astype(np.uint8)
        Image.fromarray(picture).save(root / "images" / f"{number}.png")
        if masks:
            (root / "masks").mkdir(exist_ok=True)
            mask = np.zeros((64, 96), np.uint8)
            mask[:, 40 + number :] = 1
            Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


def test_metrics_have_the_contracts_fields(finished, weights):
    metrics = json.loads((finished / "metrics.json").read_text())
    settings = asked(weights)
    classes = open_labelled(settings.source).classes
    assert metrics["classes"] == list(classes.names)
    assert (metrics["split"], metrics["images"]) == (settings.eval, 2)
    for table in (metrics, metrics["source_domain"]):
        entry = table["methods"]["t2s_da"]
        assert list(table["methods"]) == ["t2s_da"]
        means = {"miou", "miou_predicted_too", "miou_edges", "miou16", "miou13"}
        assert set(entry) == {*means, "iou", "label_budget"} and entry["label_budget"] == 0
        known = [value for value in entry["iou"].values() if value is not None]
        assert list(entry["iou"]) == metrics["classes"] and entry["miou"] == pytest.approx(sum(known) / len(known))
    assert (metrics["source_domain"]["split"], metrics["source_domain"]["images"]) == (settings.source_eval, 2)
    assert set(metrics["features"]) == {"ccd", "pdd", "similarity"}
    assert all(list(values) == metrics["classes"] for values in metrics["features"].values())


def test_scores_are_counts_of_the_networks_masks(finished, weights):
    truth = open_labelled(asked(weights).eval)
    run = open_adapted(finished)
    counts = torch.zeros(19, 19, dtype=torch.long)
    for number in range(len(truth)):
        mask, wanted = predict_mask(run.network, truth.image(number), run.pictures), truth.mask(number)
        known = wanted != 255
        np.add.at(counts.numpy(), (wanted[known], mask.numpy()[known]), 1)
    kept = load_tensors(finished / "work" / "scores" / "eval.safetensors")
    assert torch.equal(kept["counts"].sum(0), counts)


def test_a_notebook_opens_it_as_it_opens_any_run(finished, weights):
    run, image = saot.load(finished, device="cpu"), open_labelled(asked(weights).eval).image(0)
    found = run.predict(image)
    assert np.array_equal(found.mask, open_adapted(finished).mask(image, "").numpy())
    assert np.array_equal(found.probabilities.argmax(0), found.mask)
    np.testing.assert_allclose(found.confidence, found.probabilities.max(0))
    (streamed,) = run.labeller.probabilities([Picture("a", lambda: image, "")])
    assert np.array_equal(streamed.numpy(), found.probabilities)
    assert run.run["kind"] == "adaptation" and run.metrics["classes"] == list(run.classes.names)


def test_the_record_of_a_run(finished, weights):
    run, report = json.loads((finished / "run.json").read_text()), (finished / "report.html").read_text()
    assert (run["kind"], run["method"], run["backbone"], run["label_budget"]) == ("adaptation", "t2s-da", "mit-b0", 0)
    fields = {row["field"]: row for row in run["differences_from_paper"]}
    assert fields["optimizer.steps"]["paper"] == "40000" and fields["optimizer.steps"]["used"] == "6"
    assert set(run["data"]) == {"source", "target", "eval", "source_eval"} and run["data"]["target"]["images"] == 2
    assert run["stages"]["train"]["seconds"] > 0 and run["versions"]["accelerate"]
    assert run["settings"] == json.loads(json.dumps(asked(weights).to_dict()))
    for word in ("T2S-DA", "training: pull", "Features of both domains", "optimizer.steps", "Class by class"):
        assert word in report
    records = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(6)) and all("pull" in record for record in records)
    times = {path.name: path.stat().st_mtime_ns for path in finished.iterdir() if path.is_file()}
    assert max(times, key=lambda name: times[name]) == "run.json"
    assert not list((finished / "work" / "checkpoints").glob("*.pt"))  # no longer needed


def test_the_published_network_stands_alone(finished):
    with safe_open(finished / "network.safetensors", "pt") as file:
        extra = json.loads(file.metadata()["saot"])
    assert len(extra["classes"]) == len(extra["colors"]) == 19 and extra["settings"]["method"] == "t2s-da"
    encoder = read_encoder(finished / "encoder.safetensors").state_dict()
    tensors = load_tensors(finished / "network.safetensors")
    assert all(torch.equal(value, tensors[f"encoder.{name}"]) for name, value in encoder.items())


def test_run_json_is_written_last(weights, tmp_path, monkeypatch):
    settings = asked(weights, tiny_run("source-only"), target=None, eval=None, source_eval=None)

    def refuse(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(adaptation_scores, "adaptation_report", refuse)
        with pytest.raises(KeyboardInterrupt):
            run_adaptation(settings, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").exists() and not (tmp_path / "run" / "run.json").exists()
    outcome = run_adaptation(settings, tmp_path / "run")
    assert not outcome.resumed and outcome.run["stages"]["train"]["seconds"] > 0
    entry = outcome.metrics["methods"]["source_only"]  # nothing to score on
    assert outcome.metrics["images"] == 0 and entry["miou"] is None and set(entry["iou"].values()) == {None}
    assert "features" not in outcome.metrics and "source_domain" not in outcome.metrics
    assert "Source only" in (tmp_path / "run" / "report.html").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir() if path.name != ".lock"}
    again = run_adaptation(settings, tmp_path / "run")
    assert again.resumed and again.metrics == outcome.metrics
    assert before == {path: path.stat().st_mtime_ns for path in before}
    told, network = [], tmp_path / "run" / "network.safetensors"
    added = replace(settings, eval=f"scenes:street:val,{SIZE}")  # scored then, and not trained again
    scored = run_adaptation(added, tmp_path / "run", progress=lambda *said: told.append(said[0]))
    assert not scored.resumed and scored.metrics["methods"]["source_only"]["miou"] is not None
    assert "score eval" in told and not [name for name in told if name.startswith("train")]
    assert before[network] == network.stat().st_mtime_ns
    assert run_adaptation(added, tmp_path / "run").resumed


def test_a_stopped_training_ends_like_an_undisturbed_one(finished, weights, tmp_path):
    """Stopped in steps 3 and 6 of 6 with a checkpoint every second step, and once more while it is scored."""
    pace = Pace(checkpoint_every=2)
    steps, kept = [], tmp_path / "run" / "work" / "checkpoints" / "adapt.pt"
    for stage, at in (("train t2s-da", 3), ("train t2s-da", 5), ("score eval", 1), (None, 0)):

        def progress(name, done, total, stage=stage, at=at):
            if name == "train t2s-da":
                steps.append(done)
            if (name, done) == (stage, at):
                raise KeyboardInterrupt

        if stage is None:
            assert not run_adaptation(asked(weights), tmp_path / "run", pace=pace, progress=progress).resumed
        else:
            with pytest.raises(KeyboardInterrupt):
                run_adaptation(asked(weights), tmp_path / "run", pace=pace, progress=progress)
            assert kept.exists() is (stage != "score eval")
    assert steps == [1, 2, 3, 3, 4, 5, 5, 6]
    for name in ("network.safetensors", "metrics.json", "log.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes(), name


def test_the_targets_masks_are_never_opened(weights, tmp_path, monkeypatch):
    """They are no pictures at all here, and whoever asks for a mask of the target gets an error."""
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    for mask in (target / "masks").iterdir():
        mask.write_bytes(b"not to be read")
    real = datasets._load_mask

    def watched(reader, classes, files, index):
        assert files[index][1].parents[1].name == "source"
        return real(reader, classes, files, index)

    monkeypatch.setattr(datasets, "_load_mask", watched)
    settings = asked(
        weights, tiny_run(), source=f"folder:{source}", target=f"folder:{target}", eval=None, source_eval=None
    )
    outcome = run_adaptation(settings, tmp_path / "run")
    assert outcome.run["notes"] == [
        f"folder:{target} holds masks; they are ignored: the target takes part without labels."
    ]
    assert outcome.run["notes"][0] in (tmp_path / "run" / "report.html").read_text()
    bare = folder(tmp_path / "bare", masks=False)
    same = run_adaptation(replace(settings, target=f"folder:{bare}"), tmp_path / "other")
    assert same.run["notes"] == []
    assert same.run["data"]["target"] == outcome.run["data"]["target"]  # the same pictures
    mine, theirs = (load_tensors(tmp_path / name / "network.safetensors") for name in ("run", "other"))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_changed_pictures_are_noticed(weights, tmp_path):
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target", masks=False)
    settings = asked(
        weights, tiny_run("dacs"), source=f"folder:{source}", target=f"folder:{target}", eval=None, source_eval=None
    )
    run_adaptation(settings, tmp_path / "run")
    assert run_adaptation(settings, tmp_path / "run").resumed
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(target / "images" / "1.png")
    with pytest.raises(ValueError, match=r"pictures or masks of target have changed since .*another --out"):
        run_adaptation(settings, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()  # one that is not finished is as careful
    Image.fromarray(np.full((64, 96), 255, np.uint8)).save(source / "masks" / "0.png")
    with pytest.raises(ValueError, match="pictures or masks of source and target have changed"):
        run_adaptation(settings, tmp_path / "run")


def test_a_folder_of_another_run_is_left_alone(finished, weights):
    with pytest.raises(ValueError, match=r"holds a run with other settings .seed is 1 now but was 0"):
        run_adaptation(asked(weights, seed=1), finished)


def test_a_mask_map_explains_the_masks_of_folders(tmp_path):
    source = folder(tmp_path / "source")
    for path in (source / "masks").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) == 0, 0, 255).astype(np.uint8)).save(path)
    settings = AdaptSettings(f"folder:{source}", f"folder:{source}", mask_map="0=sky,255=car")
    assert settings.to_dict()["mask_map"] == "0=sky,255=car"
    inputs = open_adapt_inputs(settings, Fingerprints())
    assert 1 in np.unique(inputs.source.mask(0)) and 255 not in np.unique(inputs.source.mask(0))
    assert "mask_map" not in replace(settings, mask_map=None).to_dict()


def test_a_slip_leaves_no_folder(weights, tmp_path):
    recipe = tiny_run()
    for settings, said in (
        (asked(str(tmp_path / "nowhere")), "config.json"),
        (asked(weights, replace(recipe, pictures=replace(recipe.pictures, crop=(64, 60)))), "multiples of 32"),
        (asked(weights, replace(recipe, pictures=replace(recipe.pictures, crop=(96, 64)))), "crop of 96x64 does not"),
        (asked(weights, target=None), "expected --target for t2s-da"),
    ):
        with pytest.raises(ValueError, match=said):
            run_adaptation(settings, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_damaged_network_is_trained_anew(finished, tmp_path):
    assert trained(finished)
    assert not trained(tmp_path)
    (tmp_path / "network.safetensors").write_bytes((finished / "network.safetensors").read_bytes()[:1000])
    (tmp_path / "encoder.safetensors").write_bytes(b"")
    assert not trained(tmp_path)


@pytest.mark.parametrize("name", ["encoder", "network"])
def test_a_flipped_bit_in_a_network_is_found(finished, tmp_path, name):
    """A weight that is a little off labels a little otherwise, and nobody would know."""
    for path in finished.glob("*.safetensors"):
        shutil.copy(path, tmp_path)
    place = tmp_path / f"{name}.safetensors"
    data = bytearray(place.read_bytes())
    data[-2] ^= 1
    place.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors .*(damaged|not as they were written)"):
        open_adapted(tmp_path)
    data[-2] ^= 1
    place.write_bytes(data)
    assert len(open_adapted(tmp_path).classes.names) == 19


@pytest.mark.parametrize("said", ["{}", '{"settings": null}'])
def test_a_run_json_of_other_contents_is_written_again(finished, weights, tmp_path, said):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "run.json").write_text(said)
    outcome = run_adaptation(asked(weights), out)
    assert not outcome.resumed and outcome.run["settings"] == asked(weights).to_dict()


def test_accelerate_is_asked_for_by_name(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ValueError, match=r"needs accelerate; .* the extra 'adapt' needs: .* 'accelerate>="):
        run_adaptation(asked(weights), tmp_path / "run")
    assert not (tmp_path / "run").exists()


SCRIPT = """
import datetime, hashlib, pathlib, time
import torch.distributed
from saot.adapt import training
from saot.adapt.trainer import Trainer
from saot.cli import main

WAIT = 8  # seconds: the library's timeout; counting takes longer
begin, count = torch.distributed.init_process_group, training.count_pixels

def impatient(*arguments, **options):
    return begin(*arguments, **{**options, "timeout": datetime.timedelta(seconds=WAIT)})

def slow(masks, classes):
    time.sleep(WAIT)
    return count(masks, classes)

torch.distributed.init_process_group = torch.distributed.distributed_c10d.init_process_group = impatient
training.count_pixels, training.COUNTERS = slow, 1

def close(self, closed=Trainer.close):
    weights = b"".join(part.detach().numpy().tobytes() for part in self.student.parameters())
    here = pathlib.Path(__file__).with_name(f"rank-{self.accelerator.process_index}")
    here.write_text(hashlib.sha256(weights).hexdigest())
    closed(self)

Trainer.close = close
main()
"""


def test_two_processes_end_with_equal_weights(finished, weights, tmp_path):
    """Each draws its own batches; only if their gradients are shared do they end alike, and unlike a single one.

    The first counts the masks for longer than the library lets the others wait. A second launch finds all done.
    """
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["--source", f"scenes:game:train,{SIZE}", "--target", f"scenes:street:train,{SIZE}", "--method", "dacs"]
    words += ["--preset", "small", "--encoder", "mit-b0", "--weights", weights, "--steps", "2", "--crop", "64x64"]
    words += ["--set", "rare.min_pixels=20", "--set", "network.channels=8", "--out", str(tmp_path / "run"), "--json"]

    def launched() -> dict:
        done = subprocess.run(
            [*launch, str(tmp_path / "script.py"), "adapt", *words],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        (printed,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # the first one prints
        return json.loads(printed)

    metrics = launched()
    assert (tmp_path / "rank-0").read_text() == (tmp_path / "rank-1").read_text()
    assert (tmp_path / "run" / "run.json").exists() and not list(tmp_path.glob(".run-meeting-*"))
    assert launched() == metrics


@pytest.mark.parametrize("said", ["[", "[3]", "3", "null", "[" * 100_000])
def test_a_network_that_says_nonsense_of_itself_is_refused(tmp_path, said):
    save_file({"w": torch.ones(2)}, tmp_path / "network.safetensors", {"saot": said})
    with pytest.raises(ValueError, match="missing or damaged: give the same `saot adapt` command again"):
        published_network(tmp_path)


def test_a_pipe_in_a_networks_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="missing or damaged"):
        published_network(tmp_path)
