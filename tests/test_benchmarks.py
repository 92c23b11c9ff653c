"""Programs beside the package that measure it: what they set up is what they mean to."""

import importlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from saot.data import Fingerprints, open_labelled
from saot.features import FeatureStore, load_backbone
from saot.label import store_folder
from saot.tables import ALL_WINGS

ROOT = Path(__file__).resolve().parents[1]


def _inputs():
    spec = importlib.util.spec_from_file_location("inputs", ROOT / "benchmarks" / "reliability" / "inputs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_copied_store_is_the_one_of_the_copied_pictures(tmp_path, monkeypatch):
    inputs, base, folder = _inputs(), tmp_path / "base", tmp_path / "cases" / "0"
    inputs.make_set(base / "src", seed=0)
    old = store_folder(base / "store", f"folder:{base / 'src'}")
    old.mkdir(parents=True)
    (old / "0.safetensors").write_bytes(b"features")
    seen = Fingerprints(base / "store" / "fingerprints.jsonl")
    for path, digest in ((base / "src" / "images" / "0.png", "ab"), (old / "0.safetensors", "cd")):
        seen.note(path, digest)
    seen.save()
    inputs.prepare(base, ("src", "store"), folder, clear=("src/some.txt",))
    monkeypatch.chdir(folder)
    mine = store_folder(Path("store"), "folder:src")
    assert mine.name != old.name and (mine / "0.safetensors").read_bytes() == b"features"
    assert len(list(Path("store").iterdir())) == 2 and not Path("src/some.txt").exists()
    remembered = Fingerprints(folder / "store" / "fingerprints.jsonl")
    assert remembered.known("src/images/0.png") == "ab" and remembered.known(mine / "0.safetensors") == "cd"
    globs = ("store/*/*.safetensors",)
    assert inputs.digest(folder, globs) == inputs.digest(base, globs)
    (mine / "0.safetensors").write_bytes(b"others")
    assert inputs.differing(inputs.digest(folder, globs), inputs.digest(base, globs))


@pytest.mark.parametrize("at", ["T", "S1"])
def test_ideas_are_screened(tmp_path, monkeypatch, at):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "screening"))
    shift, training = (importlib.import_module(name) for name in ("shift", "training"))
    backbone, sets = load_backbone("filterbank", size=(56, 112)), []
    for style in ("game", "street"):
        spec = f"scenes:{style}:train,count=6"
        FeatureStore(store_folder(tmp_path, spec), backbone.key).ensure(
            open_labelled(spec, readers=ALL_WINGS.readers).images, backbone
        )
        sets.append(shift.load(spec, tmp_path))
    monkeypatch.setattr(
        training, "BEST", training.replace(training.BEST, taught=training.replace(training.BEST.taught, steps=2))
    )
    split = shift.split(at, sets[0][0], sets[1][0], sets[0][1], "20", 0)
    idea = training.Idea((("steps", 2), ("hidden", 8)), rounds=1)
    assert 0 < training.Trial(split, idea, 0).run() < 100
    assert training.Trial(split, idea, 0).run() == training.Trial(split, idea, 0).run()


@pytest.fixture
def mask_decoder(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "screening"))
    return importlib.import_module("mask_decoder")


@pytest.mark.parametrize("kind", ["joint", "cross", "two-way"])
def test_a_mask_decoder_answers_for_the_cells_of_each_token(mask_decoder, kind):
    torch.manual_seed(0)
    settings = mask_decoder.Settings(kind=kind, width=32, queries=2)
    network = mask_decoder.MaskDecoder(settings, (5, 3), 4, window=4).eval()
    tokens = torch.randn(6 * 9, 8)
    with torch.no_grad():
        parts = network.of_tokens(tokens, 6, 9)
        network.window = 0
        whole = network.of_tokens(tokens, 6, 9)
        windows = tokens.view(6, 9, 8)[:4, :4], tokens.view(6, 9, 8)[2:, 5:]
        first, last = (network(part.movedim(-1, 0)[None])[0].log_softmax(0) for part in windows)
    assert parts.shape == whole.shape == (54, 16, 4)
    torch.testing.assert_close(parts.exp().sum(-1), torch.ones(54, 16))
    torch.testing.assert_close(parts[0], first[:, :4, :4].flatten(1).T)  # seen by one window alone
    torch.testing.assert_close(parts[-1], last[:, -4:, -4:].flatten(1).T)
    assert not torch.allclose(parts, whole.log_softmax(-1), atol=1e-3)


def test_a_mask_decoder_is_scored_as_the_rivals_of_a_run(tmp_path, monkeypatch, mask_decoder):
    told = []
    monkeypatch.setattr("saot.label.scoring.DECIDED_ON", 1 << 14)
    monkeypatch.setattr(
        mask_decoder, "declared_by", lambda *args, real=mask_decoder.declared_by: told.append(real(*args)) or told[-1]
    )
    source, target, test = (
        f"scenes:{style},count=3,height=64,width=128" for style in ("game:train", "street:train", "street:val")
    )
    words = ["--source", source, "--target", target, "--eval", test, "--points", "total:2", "--backbone", "filterbank"]
    words += [
        "--store",
        str(tmp_path / "store"),
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out.jsonl"),
    ]
    monkeypatch.setattr(
        "sys.argv",
        ["mask_decoder.py", *words, "--set", "kind=cross,width=32,layers=1,steps=2,ema_steps=2", "--size", "56x112"],
    )
    mask_decoder.main()
    lines = (tmp_path / "out.jsonl").read_text()
    found = json.loads(lines)["found"]
    contest, labels = told[0]
    shown = sum(int((part != 255).sum()) for part in labels.points)
    assert 0.8 * contest.data.points.budget < shown <= contest.data.points.budget
    for method in ("mask_decoder", "mask_decoder_ema"):
        assert found[method]["likeliest"]["bias"] is None and any(found[method]["expected_iou"]["bias"])
        assert all(0 < one["edges"] < 100 and len(one["classes"]) == 19 for one in found[method].values())
    mask_decoder.main()
    assert (tmp_path / "out.jsonl").read_text() == lines and len(told) == 1
