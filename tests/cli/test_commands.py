"""Every command through its front door: results on standard output, trouble in one sentence with exit code 2."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from saot import cli


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def pictures(tmp_path):
    """A labelled folder, an unlabelled one and one to score on."""
    rng = np.random.default_rng(0)
    for name, masked in (("source", True), ("target", False), ("check", True)):
        (tmp_path / name / "images").mkdir(parents=True)
        if masked:
            (tmp_path / name / "masks").mkdir()
        for number in range(2):
            mask = np.zeros((56, 84), np.uint8)
            mask[:, 30 + 5 * number :] = 1
            picture = np.where(mask[..., None] == 1, (200, 60, 40), (30, 90, 200)) + rng.integers(-20, 20, (56, 84, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / name / "images" / f"{number}.png")
            if masked:
                Image.fromarray(mask).save(tmp_path / name / "masks" / f"{number}.png")
        (tmp_path / name / "classes.txt").write_text("sky\nroof\n")
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """The best preset with the step counts of a test."""
    from helpers.runs import TINY

    from saot import recipes

    monkeypatch.setitem(recipes.PRESETS, "best", TINY)


def test_help_has_an_example_for_every_command(capsys):
    for command in ("demo", "run", "extract", "predict", "evaluate"):
        code, out, err = call(capsys, command, "--help")
        assert code == 0
        assert f"saot {command}" in out + err, command
        assert "xample" in out + err, command


def test_run_predict_evaluate_and_extract(capsys, pictures, quick):
    request = [
        *("run", "--source", f"folder:{pictures / 'source'}", "--target", f"folder:{pictures / 'target'}"),
        *("--eval", f"folder:{pictures / 'check'}", "--backbone", "filterbank", "--size", "56x84"),
        *("--out", str(pictures / "run"), "--store", str(pictures / "store"), "--json"),
    ]
    code, out, _ = call(capsys, *request)
    assert code == 0
    result = json.loads(out)
    assert result["methods"]["nearest_neighbor"]["miou"] > 0.8
    assert "oracle" not in result["methods"]  # the target has no masks
    code, out, _ = call(capsys, *request[:-1])
    assert code == 0 and "Nearest neighbour" in out and "report.html" in out

    code, out, _ = call(
        capsys, "predict", str(pictures / "run"), str(pictures / "target" / "images"),
        "--out", str(pictures / "masks"), "--format", "png,coco", "--json",
    )  # fmt: skip
    assert code == 0 and len(json.loads(out)["pictures"]) == 2
    assert np.asarray(Image.open(pictures / "masks" / "0.png")).shape == (56, 84)

    code, out, _ = call(capsys, "evaluate", str(pictures / "run"), f"folder:{pictures / 'check'}", "--json")
    assert code == 0
    assert json.loads(out)["methods"]["saot_decoder"] == result["methods"]["saot_decoder"]

    code, out, _ = call(
        capsys, "extract", f"folder:{pictures / 'target'}", "--backbone", "filterbank", "--size", "56x84",
        "--out", str(pictures / "store"), "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--source", "folder:nowhere", "--target", "folder:nowhere", "--out", "RUN"], "nowhere"),
        (["run", "--source", "folder:a", "--target", "folder:b", "--out", "RUN", "--preset", "fast"], "paper-small"),
        (["run", "--source", "folder:a", "--out", "RUN"], "target"),
        (["run", "--sauce", "folder:a"], "--sauce"),
        (["predict", "nowhere", "x.png", "--out", "RUN"], "nowhere"),
        (["predict", "nowhere", "--out", "RUN"], "IMAGES"),
        (["evaluate", "nowhere", "folder:x"], "nowhere"),
        (["extract", "folder:nowhere", "--out", "RUN"], "nowhere"),
        (["extract", "scenes:game", "--backbone", "filterbonk", "--out", "RUN"], "filterbank"),
        (["extract", "scenes:game", "--backbone", "filterbank", "--precision", "bf16", "--out", "RUN"], "float32 al"),
        (["extract", "scenes:game", "--backbone", "filterbank", "--device", "abacus", "--out", "RUN"], "auto, cpu or"),
        (["predict", "nowhere", "x.png", "--device", "abacus", "--out", "RUN"], "abacus"),
        (["demo", "--seed", "x", "--out", "RUN"], "seed"),
        (["demmo"], "demmo"),
    ],
)
def test_wrong_input_ends_with_one_sentence_and_code_2(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert said.lower() in err.lower()
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_a_device_that_is_not_there(capsys, pictures):
    code, _, err = call(
        capsys, "run", "--source", f"folder:{pictures / 'source'}", "--target", f"folder:{pictures / 'target'}",
        "--out", str(pictures / "run"), "--device", "cuda:77",
    )  # fmt: skip
    assert code == 2 and "cuda:77" in err


def test_importing_saot_stays_light():
    code = (
        "import saot, sys; print([m for m in ('PIL', 'transformers', 'matplotlib', 'safetensors') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import saot

    for name in saot.__all__:
        assert getattr(saot, name).__name__.removeprefix("saot.") == name  # a room can be called: saot.label
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = saot.nonsense
