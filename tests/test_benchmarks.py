"""Programs beside the package that measure it: what they set up is what they mean to."""

import importlib
import importlib.util
from pathlib import Path

import pytest

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
