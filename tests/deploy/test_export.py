"""A run as one file: its answers are those of the run, and a file whose answers are others is never left behind."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.mobile_sam import published_state
from helpers.runs import TINY, predict_pictures, run_job, tiny_settings
from helpers.vit import save_families
from PIL import Image

from saot import cli
from saot.deploy import answer_of, export_run, exportable, opened
from saot.deploy import export as module
from saot.features import load_backbone
from saot.recipes import TailRecipe, TaughtRecipe
from saot.tables import ALL_WINGS

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
FINE = replace(TINY.decoder, architecture="fine", subdivision=4, rounds=1, context=2, smooth=1)
BEST = replace(
    TINY,
    decoder=FINE,
    taught=TaughtRecipe(teachers=1, steps=2, rounds=1),
    tail=TailRecipe(steps=3, taught_steps=2, crop=4, points_crop=4, width=16, warm_up=1),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of pictures of one size."""
    folder = tmp_path_factory.mktemp("pictures") / "new"
    folder.mkdir()
    for number in range(2):
        rng = np.random.default_rng(number)
        small = rng.integers(0, 256, (5, 9, 3), dtype=np.uint8)
        Image.fromarray(small).resize((150, 75), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def best(tmp_path_factory) -> Path:
    """A run of preset best's kind, whose decoder has the last layers of MobileSAM twice."""
    root = tmp_path_factory.mktemp("best")
    torch.save(published_state(), root / "mobile_sam.pt")
    settings = tiny_settings(recipe=BEST, backbone="mobile-sam", weights=str(root / "mobile_sam.pt"), size="64x128")
    run_job(settings, root / "run", compare="none")
    return root / "run"


@pytest.fixture(scope="module")
def onnx_file(finished, pictures, tmp_path_factory) -> tuple[Path, module.Exported]:
    """The tiny run as ONNX, with masks of the pictures' size."""
    out = tmp_path_factory.mktemp("onnx") / "street.onnx"
    check = sorted(pictures.iterdir())
    return out, export_run(finished, "onnx", out, check, mask_size="75x150", wings=ALL_WINGS)


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def close(mine, theirs) -> None:
    assert (mine[0] == theirs[0]).mean() >= 0.999 and len(np.unique(mine[0])) > 1
    np.testing.assert_allclose(mine[1], theirs[1], atol=1e-3)
    np.testing.assert_allclose(mine[2], theirs[2], atol=5e-3)


def test_lines_of_the_page_label_as_predict_does(finished, onnx_file, pictures, tmp_path, monkeypatch):
    lines = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert lines is not None
    (tmp_path / "street.onnx").write_bytes(onnx_file[0].read_bytes())
    (tmp_path / "new").symlink_to(pictures)
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    exec(lines[1], space)
    predict_pictures(finished, [pictures / "0.png"], tmp_path / "masks", ("png",))
    mine, theirs = (np.asarray(Image.open(path)) for path in ("mask.png", "masks/0.png"))
    assert mine.shape == theirs.shape == (75, 150)
    assert (mine == theirs).mean() >= 0.999 and len(np.unique(mine)) > 1
    assert np.asarray(Image.open("colors.png")).shape == (75, 150, 3)


def test_a_file_says_what_it_is(finished, onnx_file):
    out, made = onnx_file
    assert list(out.parent.iterdir()) == [out] and made.nbytes == out.stat().st_size
    session = onnxruntime.InferenceSession(out)
    about = {name: json.loads(value) for name, value in session.get_modelmeta().custom_metadata_map.items()}
    assert about == made.metadata
    run = json.loads((finished / "run.json").read_text())
    assert about["run"]["data"] == run["data"] and about["label_budget"] == run["label_budget"] > 0
    assert (about["backbone"], about["resize"]) == ("filterbank", "pillow-bicubic")
    assert about["input"]["size"] == [56, 112] and about["mask_size"] == [75, 150]
    assert len(about["classes"]) == len(about["colors"]) > 1
    assert [one.name for one in session.get_outputs()] == about["outputs"] == ["mask", "confidence", "scores"]


@pytest.mark.training
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_both_kinds_of_network_of_preset_best_are_in_the_file(best, tmp_path, form):
    out = tmp_path / "best.file"
    made = export_run(best, form, out, wings=ALL_WINGS)
    assert made.comparison.equal_pixels >= 0.999 and made.comparison.pictures == 3
    run = exportable(best, form, ALL_WINGS)
    picture = np.random.default_rng(5).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    close(answer_of(run, picture, (64, 128)), opened(out, form)(picture))
    if form == "onnx":  # what made files several times slower than torch
        import onnx

        kinds = {node.op_type for node in onnx.load(str(out)).graph.node}
        assert "MatMul" in kinds and not kinds & {"Loop", "ScatterND", "SequenceInsert"}


@pytest.mark.parametrize(("form", "precision"), [("onnx", "int8"), ("torch", "bf16")])
def test_a_file_of_less_precision_is_another_network_that_says_so(
    finished, onnx_file, pictures, tmp_path, form, precision
):
    out = tmp_path / "a.file"
    check = sorted(pictures.iterdir())
    made = export_run(finished, form, out, check, mask_size="75x150", wings=ALL_WINGS, precision=precision)
    assert made.metadata == {**onnx_file[1].metadata, "precision": precision}
    assert made.comparison.equal_pixels >= 0.9 and made.comparison.largest_difference > 1e-3
    if form == "onnx":
        session = onnxruntime.InferenceSession(out)
        about = session.get_modelmeta().custom_metadata_map
        assert {name: json.loads(value) for name, value in about.items()} == made.metadata
        assert made.nbytes < onnx_file[1].nbytes


def test_another_precision_has_its_own_least_agreement(finished, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(module.LEAST_EQUAL, "int8", 1.1)
    with pytest.raises(ValueError, match=r"at least 110.0% .*try --precision float32"):
        export_run(finished, "onnx", tmp_path / "a.onnx", [pictures / "0.png"], wings=ALL_WINGS, precision="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "size"), [("dinov2-small-reg", "pad:112"), ("dinov3-small", "64x128")])
def test_a_vit_is_exported_with_its_positions_and_its_black_square(tmp_path, name, size):
    pytest.importorskip("transformers")
    weights = save_families(tmp_path / "models")[name]
    recipe = replace(TINY, decoder=FINE, taught=TaughtRecipe(teachers=1, steps=2, rounds=1))
    settings = tiny_settings(backbone=name, weights=str(weights), size=size, recipe=recipe)
    run_job(settings, tmp_path / "run", compare="none")
    made = export_run(tmp_path / "run", "onnx", tmp_path / "vit.onnx", wings=ALL_WINGS)
    run = exportable(tmp_path / "run", "onnx", ALL_WINGS)
    sides = tuple(made.metadata["input"]["size"])
    picture = np.random.default_rng(5).integers(0, 256, (*sides, 3), dtype=np.uint8)
    close(answer_of(run, picture, sides), opened(tmp_path / "vit.onnx", "onnx")(picture))


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_file_with_other_answers_is_not_left_behind(finished, tmp_path, monkeypatch, form):
    class Other(module.PictureNetwork):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            self.bias[0] += 100.0

    monkeypatch.setattr(module, "PictureNetwork", Other)
    out = tmp_path / "other.file"
    out.write_text("what was there")
    with pytest.raises(ValueError, match=r"at least 99.9% of the pixels .* was not written"):
        export_run(finished, form, out, wings=ALL_WINGS)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("other.file", "what was there")]


def test_the_command_says_how_equal_they_are(capsys, finished, pictures, tmp_path):
    out = tmp_path / "street.pt2"
    arguments = ["export", str(finished), "--to", "torch", "--out", str(out), "--size", "56x112", "--check"]
    code, said, _ = call(capsys, *arguments, *map(str, sorted(pictures.iterdir())))
    found = re.search(r"2 pictures: scores differ by at most (\S+), 100 % of the pixels are equal", said)
    assert code == 0 and found is not None and float(found[1]) < 1e-5
    extra = {"saot.json": ""}
    torch.export.load(out, extra_files=extra)
    assert json.loads(extra["saot.json"])["backbone_licence"] == "apache-2.0"
    code, said, _ = call(capsys, *arguments, str(pictures / "0.png"), "--json")
    found = json.loads(said)
    assert code == 0 and (found["pictures"], found["equal_pixels"], found["bytes"]) == (1, 1.0, out.stat().st_size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "70x112"], "a --size to which the run brings pictures (56x112); got 70x112"),
        (["--size", "112"], "expected HEIGHTxWIDTH for --size; got '112'"),
        (["--mask-size", "pad:8"], "expected HEIGHTxWIDTH for --mask-size; got 'pad:8'"),
        (["--check", "absent.png"], "absent.png"),
        (["--precision", "int8"], "expected --precision float32 or bf16 with --to torch; got int8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(capsys, finished, tmp_path, options, words):
    out = tmp_path / "a.pt2"
    code, _, err = call(capsys, "export", str(finished), "--to", "torch", "--out", str(out), *options)
    assert code == 2 and words in err and "Traceback" not in err and not out.exists()


def refused(monkeypatch, finished, tmp_path, match, **changes) -> None:
    run = replace(exportable(finished, "torch", ALL_WINGS), **changes)
    monkeypatch.setattr(module, "open_run", lambda *arguments: run)
    monkeypatch.setattr(module, "PictureNetwork", None)  # nothing is computed
    with pytest.raises(ValueError, match=match):
        export_run(finished, "torch", tmp_path / "a.pt2", wings=ALL_WINGS)


def test_several_sizes_are_refused_before_anything_is_computed(finished, tmp_path, monkeypatch):
    further = (load_backbone("filterbank", size=(56, 112)),)
    refused(monkeypatch, finished, tmp_path, "joins 2: make one with a single --size", further=further)


def test_joined_backbones_are_refused_before_anything_is_computed(finished, tmp_path, monkeypatch):
    torch.save(published_state(), tmp_path / "mobile_sam.pt")
    joined = load_backbone("filterbank+mobile-sam", tmp_path / "mobile_sam.pt", size=(112, 112))
    refused(monkeypatch, finished, tmp_path, "can be written as a graph: filterbank, mobile-sam", backbone=joined)


def test_half_precision_is_refused_before_anything_is_computed(finished, tmp_path, monkeypatch):
    torch.save(published_state(), tmp_path / "mobile_sam.pt")
    half = load_backbone("mobile-sam", tmp_path / "mobile_sam.pt", size=(64, 128), precision="bf16")
    refused(monkeypatch, finished, tmp_path, "has bf16: make one with --precision float32", backbone=half)


def test_a_run_of_another_kind_is_refused(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "open_run", lambda *arguments: object())
    with pytest.raises(ValueError, match="is of another kind, which is not exported"):
        export_run(finished, "torch", tmp_path / "a.pt2", wings=ALL_WINGS)


def test_libraries_that_are_missing_are_named_with_their_extra(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ValueError, match="needs onnxruntime, which is not installed; install what the extra 'onnx'"):
        export_run(finished, "onnx", tmp_path / "a.onnx", wings=ALL_WINGS)


def test_weights_that_one_file_cannot_hold_are_refused(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(ValueError, match="weights of at most 2 GiB"):
        export_run(finished, "onnx", tmp_path / "a.onnx", wings=ALL_WINGS)
    assert not list(tmp_path.iterdir())
