"""From masks to a tool and back: predict, import, suggest, and a second run, through the front door."""

import json

import pytest
from cli.test_commands import call, pictures, quick  # noqa: F401

RUN = ["--backbone", "filterbank", "--size", "28x56", "--compare", "none", "--device", "cpu"]


@pytest.fixture
def labelled(capsys, pictures, quick):  # noqa: F811
    """A run, and what it predicted for CVAT."""
    spec = ["--source", f"folder:{pictures / 'source'}", "--target", f"folder:{pictures / 'target'}"]
    code, _, err = call(capsys, "run", *spec, *RUN, "--out", str(pictures / "run"))
    assert code == 0, err
    words = ["predict", str(pictures / "run"), str(pictures / "target" / "images"), "--out", str(pictures / "masks")]
    code, _, err = call(capsys, *words, "--format", "cvat")
    assert code == 0, err
    return pictures


def test_what_was_corrected_is_learned_from(capsys, labelled):
    exported = labelled / "masks" / "annotations" / "cvat.xml"
    words = ["import", str(exported), "--from", "cvat", "--images", str(labelled / "target" / "images")]
    words += ["--classes", str(labelled / "run"), "--out", str(labelled / "corrected")]
    code, out, err = call(capsys, *words)
    assert code == 0 and "0 pictures with masks" in out and "give --accept if somebody has looked at them" in err
    code, out, _ = call(capsys, *words, "--accept", "--json")
    made = json.loads(out)
    assert code == 0 and made["masks"] == 2 and made["classes"] == ["sky", "roof"]
    assert sum(made["pixels"].values()) == 2 * 56 * 84
    spec = ["--source", f"folder:{labelled / 'corrected'}", "--target", f"folder:{labelled / 'target'}"]
    code, _, err = call(capsys, "run", *spec, *RUN, "--out", str(labelled / "second"))
    assert code == 0, err


def test_suggested_pixels_are_answered_and_learned_from(capsys, labelled):
    clicks = labelled / "clicks.csv"
    words = ["suggest", str(labelled / "run"), "--count", "4"]
    code, out, err = call(capsys, *words, "--out", str(clicks))
    assert code == 0 and "4 pixels of 2 pictures in" in out, err
    spec = ["--source", f"folder:{labelled / 'source'}", "--target", f"folder:{labelled / 'target'}"]
    again = ["run", *spec, *RUN, "--points", str(clicks), "--out", str(labelled / "second")]
    code, _, err = call(capsys, *again)
    assert code == 2 and "there is no class ''" in err, "a person has not answered yet"
    clicks.write_text(clicks.read_text().replace(",,", ",roof,"))
    code, _, err = call(capsys, *again)
    assert code == 0, err
    code, out, _ = call(capsys, *words, "--out", str(labelled / "clicks.json"), "--json")
    assert code == 0 and json.loads(out)["clicks"] == 4


def test_a_page_is_made_beside_the_run(capsys, labelled):
    code, out, err = call(capsys, "explore", str(labelled / "run"))
    assert code == 0 and out.strip() == f"page: {labelled / 'run' / 'explore.html'}", err
    assert (labelled / "run" / "explore.html").stat().st_size > 10_000
    code, _, err = call(capsys, "explore", str(labelled / "run"), "--on", "eval")
    assert code == 2 and "expected a run with --eval" in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["suggest", "nowhere", "--out", "clicks.csv"], "nowhere"),
        (["suggest", "nowhere", "--out", "clicks.txt"], "ends with .csv, .xml (CVAT) or .json"),
        (["import", "a.xml", "--from", "cvat", "--images", "new", "--out", "out"], "a.xml is missing"),
        (
            ["import", "a.xml", "--from", "paint", "--images", "new", "--out", "out"],
            "expected a format among coco, cvat",
        ),
        (
            ["import", "a.xml", "--from", "cvat", "--images", "new", "--classes", "no", "--out", "out"],
            "expected --classes",
        ),
    ],
)
def test_wrong_words_end_in_one_sentence(capsys, tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *words)
    assert code == 2 and not out and sentence in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
