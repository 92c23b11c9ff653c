"""A label of another size does not end a run after its features are made: it is left out, counted and named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import make_folder, run_job, tiny_settings
from PIL import Image

import saot
from saot.label import run_job as plain_run_job
from saot.tables import ALL_WINGS


@pytest.fixture
def sets(tmp_path):
    """Source, target and evaluation folders of three pictures; the last mask of each is half as large."""
    found = {}
    for seed, name in enumerate(("source", "target", "eval")):
        found[name] = make_folder(tmp_path / name, seed)
        for part in ("images", "masks"):
            with Image.open(tmp_path / name / part / "1.png") as file:
                smaller = file.resize((56, 28), Image.Resampling.NEAREST) if part == "masks" else file.copy()
                smaller.save(tmp_path / name / part / "2.png")
    return found


def test_bad_pairs_are_left_out_counted_and_named(sets, tmp_path):
    said: list[str] = []
    outcome = plain_run_job(
        tiny_settings(**sets, points="2"), tmp_path / "run", wings=replace(ALL_WINGS, say=said.append)
    )
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    told = [note for note in run["notes"] if "another size" in note]
    assert [note.partition(":")[0] for note in told] == ["1 of 3 pictures of folder"] * 3
    assert all("2.png (56x28 for a picture of 112x56)" in note for note in told)
    assert [spec for spec in sets.values() if any(spec in note for note in told)] == list(sets.values())
    assert set(told) <= set(said)
    assert run["data"]["source"]["images"] == 2 and outcome.metrics["images"] == 2
    assert run["data"]["target"]["images"] == 3  # the picture itself is labelled; no point is drawn from its mask
    points = (tmp_path / "run" / "points.csv").read_text()
    assert "0.png" in points and "2.png" not in points
    assert told[0] in (tmp_path / "run" / "report.html").read_text()


def test_strict_stops_before_anything_is_made(sets, tmp_path):
    with pytest.raises(ValueError, match=r"2\.png \(56x28 for a picture of 112x56\); give picture and mask the same"):
        run_job(tiny_settings(**sets, points="2"), tmp_path / "run", strict=True)
    assert not (tmp_path / "run" / "features").exists()
    with pytest.raises(ValueError, match="leave --strict out"):
        saot.label(**{**sets, "preset": "paper-small", "backbone": "filterbank"}, out=tmp_path / "other", strict=True)


def test_the_oracle_and_points_of_every_patch_need_all_masks(sets, tmp_path):
    outcome = run_job(tiny_settings(**sets, points="2"), tmp_path / "run")
    assert "oracle" not in outcome.metrics["methods"]
    assert any("The oracle is left out" in note and "2.png" in note for note in outcome.run["notes"])
    with pytest.raises(ValueError, match=r"2\.png has none, or of another size"):
        run_job(tiny_settings(**sets, points="resample:2"), tmp_path / "other")


def test_a_set_whose_masks_all_fit_says_nothing(tmp_path):
    spec = make_folder(tmp_path / "one", 0)
    settings = tiny_settings(source=spec, target=make_folder(tmp_path / "two", 1, masked=False), eval=None, points="0")
    assert not any("another size" in note for note in run_job(settings, tmp_path / "run", strict=True).run["notes"])


def spoiled(path: Path, kind: str) -> str:
    """Spoil a mask in a way that is told from its head or its content; what is said of it."""
    mask = np.asarray(Image.open(path))
    if kind == "colour":
        Image.fromarray(np.repeat(mask[..., None], 3, 2)).save(path)
        return "colour picture"
    if kind == "lossy":
        Image.fromarray(mask).save(path, format="JPEG")
        return "JPEG"
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:-20])
        return "broken or cut off"
    Image.fromarray(np.where(mask == 1, 7, mask).astype(np.uint8)).save(path)
    return "has the value 7"


@pytest.mark.parametrize("kind", ["colour", "lossy", "cut off", "value"])
@pytest.mark.parametrize("role", ["source", "eval"])
def test_a_bad_mask_is_known_before_any_feature_is_made(tmp_path, role, kind):
    """What a head tells, before there is a run folder at all."""
    sets = {name: make_folder(tmp_path / name, seed) for seed, name in enumerate(("source", "target", "eval"))}
    said = spoiled(tmp_path / role / "masks" / "1.png", kind)
    with pytest.raises(ValueError, match=rf"{role}/masks/1\.png .*{said}"):
        run_job(tiny_settings(**sets, points="2"), tmp_path / "run")
    assert not list(tmp_path.glob("run/features/*/*.safetensors"))
    assert kind == "value" or not (tmp_path / "run").exists()


def test_a_bad_picture_is_known_before_any_feature_is_made(tmp_path):
    sets = {name: make_folder(tmp_path / name, seed) for seed, name in enumerate(("source", "target"))}
    path = tmp_path / "target" / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"target/images/1\.png is broken or cut off \(its end is missing\)"):
        run_job(tiny_settings(**sets, eval=None, points="0"), tmp_path / "run")
    assert not list(tmp_path.glob("run/features/*/*.safetensors"))
