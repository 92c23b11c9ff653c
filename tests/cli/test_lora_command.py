"""`saot lora` through its front door: the result on standard output, every slip one sentence with exit code 2."""

import json
from pathlib import Path

import pytest
import torch
from helpers.mobile_sam import published_state

from saot import cli

SIZE = "height=64,width=128"


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(published_state(), path)
    return path


def request(sam: Path, out: Path, **changes: str) -> list[str]:
    words = {
        "source": f"scenes:game:train,count=2,{SIZE}",
        "target": f"scenes:street:train,count=3,{SIZE}",
        "points": "4",
        "backbone": "mobile-sam",
        "weights": str(sam),
        "size": "64x128",
        "rank": "2",
        "blocks": "2",
        "steps": "3",
        "device": "cpu",
        "out": str(out),
        **changes,
    }
    options = [part for name, value in words.items() if value for part in (f"--{name}", value)]
    return ["lora", *options, "--set", "cost.dim=8", "--set", "adapter.held_out=0.4"]


def test_help_has_an_example_and_every_option(capsys):
    code, out, err = call(capsys, "lora", "--help")
    assert code == 0
    for word in ("xample", "--rank", "--blocks", "--fixed-cost", "--learning-rate", "--json", "--strict"):
        assert word in out + err, word


def test_the_weights_it_leaves_are_taken_by_other_commands(capsys, sam, tmp_path):
    code, out, _ = call(capsys, *request(sam, tmp_path / "run"), "--json")
    assert code == 0
    found = json.loads(out)
    assert found["weights"] == str(tmp_path / "run" / "backbone.safetensors")
    assert found["losses"]["last"]["loss"] > 0 and found["label_budget"] > found["held_out_points"] > 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["kind"] == "lora" and run["settings"]["recipe"]["adapter"]["rank"] == 2
    dims = set()
    for name, weights in (("frozen", str(sam)), ("adapted", found["weights"])):
        code, out, _ = call(
            capsys, "extract", f"scenes:street:val,count=1,{SIZE}", "--backbone", "mobile-sam", "--weights", weights,
            "--size", "64x128", "--device", "cpu", "--out", str(tmp_path / name), "--json",
        )  # fmt: skip
        assert code == 0
        dims.add(json.loads(out)["dim"])
    assert dims == {256}
    code, out, _ = call(capsys, *request(sam, tmp_path / "run"))  # finished: told once more
    assert code == 0 and "as adapted" in out and f"--weights {found['weights']}" in out


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"backbone": "filterbank", "weights": "", "size": "56x112"}, [], "mobile-sam or a ViT; got filterbank"),
        ({"blocks": "11"}, [], "at most 10 --blocks"),
        ({"rank": "321"}, [], "expected a rank of at most 320"),
        ({"rank": "0"}, [], "1 or more for adapter.rank"),
        ({"size": "64x128,128x256"}, [], "one input size"),
        ({"points": "many"}, [], "--points as a number"),
        ({"weights": "nowhere.pt"}, [], "nowhere.pt"),
        ({"learning-rate": "0"}, [], "adapter.learning_rate"),
        ({"layers": "some"}, [], "layers"),
        ({}, ["--set", "cost.prototype_scope=dataset"], "features that move"),
        ({}, ["--set", "adapter.width=3"], "adapter.width"),
    ],
)
def test_a_slip_is_one_sentence_and_leaves_no_folder(capsys, sam, tmp_path, changes, more, said):
    code, out, err = call(capsys, *request(sam, tmp_path / "run", **changes), *more)
    sentences = [line for line in err.strip().splitlines() if line.startswith("saot: ")]
    assert code == 2 and out == "" and len(sentences) == 1 and "Traceback" not in err
    assert said in sentences[0]
    assert not (tmp_path / "run").exists()
