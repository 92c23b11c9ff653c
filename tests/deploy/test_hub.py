"""A run on a hub and back: nothing of the machine goes along, and the same masks come out."""

import json
import shutil

import numpy as np
import pytest
import torch
from cli.test_commands import call
from helpers.hub import Hub, serving
from helpers.mobile_sam import published_state
from helpers.runs import run_job, tiny_settings
from PIL import Image

import saot
from saot import api
from saot.deploy import pack_run, pull_run, push_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One whose sets, points and weights lie in folders of this machine."""
    root = tmp_path_factory.mktemp("secret-place")
    torch.save(published_state(), root / "mobile_sam.pt")
    rng = np.random.default_rng(0)
    for name in ("mine", "new"):
        for part in ("images", "masks"):
            (root / name / part).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 255, (64, 128, 3), dtype=np.uint8)).save(
                root / name / f"images/{number}.png"
            )
            Image.fromarray(np.repeat([[0], [1]], 32, 0).repeat(128, 1).astype(np.uint8)).save(
                root / name / f"masks/{number}.png"
            )
        (root / name / "classes.txt").write_text("sky\nroad\n")
    (root / "clicks.csv").write_text("image,x,y,class\n0.png,3,4,sky\n1.png,3,60,road\n")
    settings = tiny_settings(
        source=f"folder:{root}/mine", target=f"folder:{root}/new", eval=f"folder:{root}/mine", backbone="mobile-sam",
        weights=str(root / "mobile_sam.pt"), size="64x128", points=str(root / "clicks.csv"),
    )  # fmt: skip
    run_job(settings, root / "run", compare="none")
    return root / "run"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own for what is downloaded."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")


def test_a_packed_run_labels_alike_and_tells_nothing_of_the_machine(run, tmp_path):
    pack_run(run, tmp_path / "packed")
    names = sorted(path.relative_to(tmp_path / "packed").as_posix() for path in (tmp_path / "packed").rglob("*.*"))
    assert names == [
        "README.md", "calibration.json", "decoder.safetensors", "metrics.json", "run.json", "weights/mobile_sam.pt"
    ]  # fmt: skip
    for path in (tmp_path / "packed").glob("*.*"):
        assert b"secret-place" not in path.read_bytes() and str(run.parent).encode() not in path.read_bytes()
    away = tmp_path / "away"
    shutil.copytree(tmp_path / "packed", away)
    picture = np.random.default_rng(1).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    before, after = (saot.load(one, device="cpu").predict(picture) for one in (run, away))
    assert np.array_equal(before.mask, after.mask) and np.array_equal(before.confidence, after.confidence)


def test_the_card_says_scores_budget_licence_and_fingerprints(run, tmp_path):
    pack_run(run, tmp_path / "packed")
    card, metrics = (tmp_path / "packed/README.md").read_text(), json.loads((run / "metrics.json").read_text())
    record = json.loads((run / "run.json").read_text())
    assert card.startswith("---\nlibrary_name: saot\n") and "license: apache-2.0" in card
    assert f"mIoU {100 * metrics['methods']['saot_decoder']['miou']:.1f} % on 2 pictures of `folder:mine`" in card
    assert "2 labels of the target" in card and record["data"]["target"]["sha256"] in card
    for name, value in metrics["methods"]["saot_decoder"]["iou"].items():
        assert f"| {name} | {100 * value:.1f} |" in card


def test_pushed_and_loaded_by_name_it_is_the_same(run, cache, monkeypatch):
    hub = Hub()
    with serving(hub) as address:
        assert push_run(run, "somebody/street", private=True, endpoint=address).endswith("a" * 40)
        assert hub.private == {"somebody/street"}
        assert '"somebody/street"' in hub.repositories["somebody/street"]["README.md"].decode()
        push_run(run, "somebody/street", endpoint=address)  # again
        monkeypatch.setattr(api, "pull_run", lambda name: pull_run(name, endpoint=address))
        picture = np.random.default_rng(1).integers(0, 255, (50, 90, 3), dtype=np.uint8)
        loaded = saot.load("somebody/street", device="cpu")
        assert np.array_equal(loaded.predict(picture).mask, saot.load(run, device="cpu").predict(picture).mask)
        with pytest.raises(ValueError, match=r"expected nobody/nothing on the hub.*; RepositoryNotFound"):
            saot.load("nobody/nothing", device="cpu")
        hub.repositories["somebody/else"] = {"README.md": b"text"}
        with pytest.raises(ValueError, match=r"expected a run of `saot push` in somebody/else"):
            saot.load("somebody/else", device="cpu")
        other = json.loads(hub.repositories["somebody/street"]["run.json"])
        other["settings"]["weights"] = "../../elsewhere.pt"
        hub.repositories["somebody/odd"] = {"run.json": json.dumps(other).encode()}
        with pytest.raises(ValueError, match=r"weights of somebody/odd below weights/; run.json names '../../else"):
            saot.load("somebody/odd", device="cpu")


def test_without_a_way_to_the_hub_it_is_said(run, cache):
    with pytest.raises(ValueError, match=r"expected somebody/street on the hub, and a way to it"):
        push_run(run, "somebody/street", endpoint="http://127.0.0.1:9")
    with pytest.raises(ValueError, match="expected the name on the hub as OWNER/NAME; got 'street'"):
        push_run(run, "street")


def test_what_cannot_be_packed_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"expected the file .*run.json; it is missing"):
        pack_run(tmp_path, tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(ValueError, match="to be missing or empty"):
        pack_run(run, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    record = json.loads((moved / "run.json").read_text())
    record["settings"]["weights"] = str(tmp_path / "gone.pt")
    (moved / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is none: use --no-weights"):
        pack_run(moved, tmp_path / "b")
    packed = pack_run(moved, tmp_path / "c", weights=False)
    assert not (packed / "weights").exists()


def test_the_command_packs_and_says_what_is_wrong(run, tmp_path, capsys):
    code, out, err = call(capsys, "push", str(run), "somebody/street", "--out", str(tmp_path / "p"), "--no-weights")
    assert code == 0 and "packed: " in out and (tmp_path / "p" / "README.md").is_file()
    code, out, err = call(capsys, "push", str(tmp_path / "nothing"), "somebody/street")
    assert code == 2 and err.strip().splitlines()[-1].startswith("saot: expected")
