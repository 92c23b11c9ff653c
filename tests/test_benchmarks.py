"""Programs beside the package that measure it: what they set up is what they mean to."""

import importlib.util
from pathlib import Path

from saot.data import Fingerprints
from saot.label import store_folder

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
