"""`saot adapt` through its front door: results on standard output, every slip one sentence with exit code 2."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.adapt import save_segformer
from PIL import Image

from saot import cli
from saot.data import how_to_install

pytest.importorskip("transformers")
pytest.importorskip("accelerate")


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def folder(root: Path, mask: np.ndarray, names: str = "sky\nroof\n") -> Path:
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    picture = np.random.default_rng(len(root.name)).integers(0, 256, (*mask.shape, 3)).astype(np.uint8)
    Image.fromarray(picture).save(root / "images" / "0.png")
    Image.fromarray(mask).save(root / "masks" / "0.png")
    (root / "classes.txt").write_text(names)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Source, target and check folders, one with a stray class, one without any label; a tiny encoder and others."""
    root = tmp_path_factory.mktemp("adapt")
    halves = np.zeros((64, 96), np.uint8)
    halves[:, 50:] = 1
    stray, blank = halves.copy(), np.full_like(halves, 255)
    stray[:2, :3] = 5
    for name, mask in {"source": halves, "target": halves, "check": halves, "stray": stray, "blank": blank}.items():
        folder(root / name, mask)
    save_segformer(root / "mit")
    import transformers

    config = transformers.ResNetConfig(depths=[1, 1], hidden_sizes=[8, 8], embedding_size=8, layer_type="basic")
    transformers.ResNetModel(config).save_pretrained(root / "resnet")
    torch.save({"layer.weight": torch.zeros(3, 3)}, root / "other.pt")
    (root / "broken.pt").write_bytes(b"no weights")
    return root


def request(made: Path, out: Path, **changes: str | None) -> list[str]:
    words = {
        "source": f"folder:{made / 'source'}",
        "target": f"folder:{made / 'target'}",
        "preset": "small",
        "encoder": "mit-b0",
        "weights": str(made / "mit"),
        "steps": "2",
        "crop": "32x32",
        "out": str(out),
        **changes,
    }
    options = [part for name, value in words.items() if value is not None for part in (f"--{name}", value)]
    return ["adapt", *options, "--set", "network.channels=8"]


def refused(capsys, *arguments: str) -> str:
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "", err
    sentence = [line for line in err.strip().splitlines() if line.startswith("saot: ")]
    assert len(sentence) == 1 and "Traceback" not in err
    return sentence[0].removeprefix("saot: ")


def test_help_names_methods_presets_and_an_example(capsys):
    code, out, err = call(capsys, "adapt", "--help")
    text = " ".join((out + err).split())
    assert code == 0
    for word in ("Example", "source-only", "t2s-da-dg", "paper-hrda", "mit-b0", "--set", "accelerate launch"):
        assert word in text, word


def test_train_score_and_come_again(capsys, made, tmp_path):
    words = [*request(made, tmp_path / "run", method="dacs", target=f"folder:{made / 'target'}"), "--eval"]
    words += [f"folder:{made / 'check'}", "--source-eval", f"folder:{made / 'source'}", "--set", "rare.min_pixels=20"]
    code, out, err = call(capsys, *words)
    assert code == 0, err
    assert "DACS" in out and "on the source, folder:" in out and "report.html" in out
    assert "holds masks; they are ignored" in " ".join(err.split())
    code, out, _ = call(capsys, *words, "--json")
    result = json.loads(out)
    assert code == 0 and set(result) >= {"out", "report", "classes", "split", "images", "methods", "features"}
    assert list(result["methods"]) == ["dacs"] and result["classes"] == ["sky", "roof"]
    code, out, _ = call(
        capsys, "predict", str(tmp_path / "run"), str(made / "check" / "images"), "--out", str(tmp_path / "masks")
    )
    assert code == 0 and np.asarray(Image.open(tmp_path / "masks" / "0.png")).shape == (64, 96)
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(made / "target" / "images" / "0.png")
    said = refused(capsys, *words)
    assert "pictures or masks of target have changed since" in said and "choose another --out" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "t2s"}, ("one of the methods source-only, dacs, t2s-da, t2s-da-dg; got 't2s'",)),
        ({"preset": "tiny"}, ("one of the presets paper, paper-cnn, paper-hrda, small; got 'tiny'",)),
        ({"set": "pull.weigh=1"}, ("got pull.weigh, but pull knows weight, settings",)),
        ({"set": "pull.queries=target"}, ("one of pseudo_target, source for pull.queries; got 'target'",)),
        ({"crop": "32x40"}, ("multiples of 32 for mit-b0; got 32x40: choose 32x32",)),
        ({"crop": "64"}, ("expected --crop as HEIGHTxWIDTH in pixels; got '64'",)),
        ({"crop": "96x96"}, ("crop of 96x96 does not fit pictures of 64x96", "smaller --crop")),
        ({"target": None}, ("expected --target for t2s-da, which learns from target pictures; got none",)),
        ({"encoder": "mit-b9"}, ("encoder 'mit-b9' is not known; use one of mit-b0 .. mit-b5",)),
        ({"weights": "RESNET"}, ("encoder mit-b0 needs a model of type segformer", "holds 'resnet'")),
        ({"weights": "nowhere"}, ("expected a folder with config.json", "nowhere")),
        ({"encoder": "mobile-sam", "weights": "OTHER"}, ("not the weights of", "is missing")),
        ({"encoder": "mobile-sam", "weights": "BROKEN"}, ("cannot be read as plain weights",)),
        ({"encoder": "mobile-sam", "weights": None}, ("needs its weights; pass the path of the published",)),
        ({"source": "folder:nowhere"}, ("nowhere", "missing")),
        ({"eval": "folder:nowhere"}, ("nowhere", "missing")),
        ({"source": "STRAY"}, ("has the value 5 in 6 pixels, but allowed are", "0-1")),
        ({"device": "cuda:77"}, ("cuda:77",)),
    ],
)
def test_a_slip_is_one_sentence_and_code_2(capsys, made, tmp_path, changes, said):
    places = {
        "RESNET": str(made / "resnet"), "OTHER": str(made / "other.pt"), "BROKEN": str(made / "broken.pt"),
        "STRAY": f"folder:{made / 'stray'}",
    }  # fmt: skip
    out = tmp_path / "run"
    sentence = refused(capsys, *request(made, out, **{k: places.get(v, v) for k, v in changes.items()}))
    for part in said:
        assert part in sentence, sentence
    assert out.exists() is ("STRAY" in changes.values())  # masks are counted in the run's folder, once for all


def test_a_source_without_a_label(capsys, made, tmp_path):
    said = refused(capsys, *request(made, tmp_path / "run", source=f"folder:{made / 'blank'}"))
    assert "expected labelled pixels in folder:" in said and "every pixel is 255 (ignore)" in said


def test_too_few_pixels_of_every_class(capsys, made, tmp_path):
    said = refused(capsys, *request(made, tmp_path / "run"), "--set", "rare.min_pixels=100000")
    assert "no source picture has more than 100000 pixels of any class; lower rare.min_pixels" in said


def test_without_accelerate(capsys, made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    said = refused(capsys, *request(made, tmp_path / "run"))
    assert said == f"training end to end needs accelerate; {how_to_install('adapt')}"


def test_a_loss_that_is_not_finite(capsys, made, tmp_path):
    words = request(made, tmp_path / "run", method="source-only", target=None)
    said = refused(capsys, *words, "--set", "optimizer.rate=1e20", "--set", "optimizer.warmup=0")
    assert "finite loss while training L_source" in said and said.endswith("at step 1; lower the learning rate")


def test_no_target_is_needed_for_domain_generalisation(capsys, made, tmp_path):
    words = request(made, tmp_path / "run", method="t2s-da-dg", target=None)
    code, out, err = call(capsys, *words, "--json")
    assert code == 0, err
    assert list(json.loads(out)["methods"]) == ["t2s_da_dg"]


def test_notes_are_told_as_they_are_a_line_each(capsys, monkeypatch, tmp_path):
    note = "2 of the pictures in folder:/d/[old] have masks of another size and were left out, [/new] among them"
    outcome = SimpleNamespace(run={"notes": [note]}, metrics={})
    monkeypatch.setattr("saot.adapt.run_adaptation", lambda *_, **__: outcome)
    code, _, err = call(capsys, "adapt", "--source", "folder:a", "--target", "folder:b", "--out", str(tmp_path))
    assert code == 0 and err == f"note: {note}\n"
