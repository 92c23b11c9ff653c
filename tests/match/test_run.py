"""saot match on files: what it writes, and what it says to wrong input."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from saot.cli import main
from saot.data import LARGEST_RECORD
from saot.match.inputs import key_points
from saot.scenes.scene import render_scene


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in (1, 5):
        scene = render_scene("game", "train", index, 128, 256)
        Image.fromarray(scene.image).save(folder / f"{index}.png")
        Image.fromarray(scene.labels).save(folder / f"{index}-labels.png")
        object_mask = np.zeros((128, 256), np.uint8)
        object_mask[40:100, 60:200] = 1
        Image.fromarray(object_mask).save(folder / f"{index}-mask.png")
        depth = np.linspace(1, 5, 128, dtype=np.float32)[:, None] * np.ones((1, 256), np.float32)
        save_file({"depth": depth}, folder / f"{index}.safetensors")
    return folder


def run(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def matched(pictures, out, capsys, *more):
    code, said, told = run(
        ["match", pictures / "1.png", pictures / "5.png", "--size", "126x252", "--out", out, "--json", *more], capsys
    )
    assert code == 0, told
    return json.loads(said)


@pytest.mark.parametrize("method", ["nn", "mutual-nn", "uot", "gwot", "shape-of-you"])
def test_every_method_writes_matches(pictures, tmp_path, capsys, method):
    found = matched(pictures, tmp_path, capsys, "--method", method, "--points", "20,30;200.5,100")
    kept = json.loads((tmp_path / "matches.json").read_text())
    assert (tmp_path / "matches.png").read_bytes()[:4] == b"\x89PNG"
    used = "grid" if method in ("gwot", "shape-of-you") else "not used"
    assert kept["method"] == method and kept["structure"] == used and kept["masks"] == "the whole picture"
    (pair,) = kept["pairs"]
    assert pair == found["pairs"][0]
    assert len(pair["matches"]) == len(pair["confidence"]) == pair["matched_tokens"] == 9 * 18
    places = np.array(pair["matches"])
    assert places.min() >= 0 and (places.max(0) <= [255, 127, 255, 127]).all()
    assert [point["from"] for point in pair["points"]] == [[20.0, 30.0], [200.5, 100.0]]


def test_a_picture_with_itself_and_several_targets(pictures, tmp_path, capsys):
    code, said, _ = run(
        [
            "match",
            pictures / "1.png",
            pictures / "1.png",
            pictures / "5.png",
            "--size",
            "126x252",
            "--method",
            "nn",
            "--out",
            tmp_path,
            "--points",
            "100,60",
            "--json",
        ],
        capsys,
    )
    assert code == 0
    same, other = json.loads(said)["pairs"]
    assert all(abs(x - to_x) < 0.1 and abs(y - to_y) < 0.1 for x, y, to_x, to_y in same["matches"])
    assert other["image"].endswith("5.png")
    (point,) = same["points"]
    assert abs(point["to"][0] - 100) <= 8 and abs(point["to"][1] - 60) <= 8  # the centre of its token


def test_masks_points_and_structure_from_files(pictures, tmp_path, capsys):
    (tmp_path / "points.csv").write_text("name,x,y\nnose,100,60\n")
    found = matched(
        pictures,
        tmp_path / "out",
        capsys,
        "--method",
        "shape-of-you",
        "--masks",
        f"{pictures / '1-mask.png'},-",
        "--points",
        tmp_path / "points.csv",
        "--structure",
        f"{pictures / '1.safetensors'},{pictures / '5.safetensors'}",
    )
    assert found["source"]["matched_tokens"] < 60 < found["pairs"][0]["matched_tokens"] == 162
    assert found["pairs"][0]["points"][0]["name"] == "nose"
    assert found["structure"] == "1.safetensors"
    assert found["settings"]["shape_of_you"]["structure"] == "points3d"


def test_features_from_files(pictures, tmp_path, capsys):
    tokens = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    for name, values in (("a", tokens), ("b", tokens[:, ::-1])):
        np.savez(tmp_path / f"{name}.npz", features=values)
    files = f"{tmp_path / 'a.npz'},{tmp_path / 'b.npz'}"
    found = matched(pictures, tmp_path / "out", capsys, "--features", files, "--method", "nn")
    assert found["backbone"] == {"files": files} and found["source"]["tokens"] == [4, 6]
    for x, y, to_x, to_y in found["pairs"][0]["matches"]:
        assert abs(to_x - (255 - x)) < 1 and abs(to_y - y) < 1  # the second picture's are the first's, mirrored
    np.savez(tmp_path / "c.npz", depth=tokens)
    code, _, told = run(
        ["match", pictures / "1.png", pictures / "5.png", "--features", f"{tmp_path / 'a.npz'},{tmp_path / 'c.npz'}"],
        capsys,
    )
    assert code == 2 and "must hold `features`" in " ".join(told.split())


@pytest.mark.parametrize("text", ["x,y,name\n120,80,nose\n", "X;Y;Label\n120,0;80;nose\n"])
def test_points_from_a_spreadsheet_with_a_byte_order_mark(pictures, tmp_path, capsys, text):
    (tmp_path / "points.csv").write_text(text, encoding="utf-8-sig")
    found = matched(pictures, tmp_path / "out", capsys, "--points", tmp_path / "points.csv", "--method", "nn")
    assert [point["name"] for point in found["pairs"][0]["points"]] == ["nose"]


def test_labels_are_carried(pictures, tmp_path, capsys):
    (tmp_path / "matches-2.png").write_bytes(b"of an earlier request with more targets")
    found = matched(pictures, tmp_path, capsys, "--labels", pictures / "1-labels.png", "--method", "nn")
    assert [path.name for path in tmp_path.glob("matches*.png")] == ["matches.png"]
    (one,) = found["labels"]
    assert found["label_settings"]["memory"] == 1 and list(found["label_settings"]["match"]) == ["readout"]
    mask = np.asarray(Image.open(tmp_path / one["mask"]))
    truth = np.asarray(Image.open(pictures / "5-labels.png"))
    assert mask.shape == truth.shape and set(np.unique(mask)) <= set(range(19)) | {255}
    assert (mask == truth)[truth < 19].mean() > 0.4  # road and sky alone are more
    assert np.asarray(Image.open(tmp_path / one["confidence"])).shape == truth.shape


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--points", "1000,5"], "lies outside the source of 256x128"),
        (["--points", "here"], "expected --points as x,y;x,y"),
        (["--method", "best"], "expected a method among nn"),
        (["--masks", "one.png"], "expected --masks as all, sam, or 2 files"),
        (["--masks", "sam"], "need its weights"),
        (["--structure", "deep"], "is for the method shape-of-you"),
        (["--structure", "deep", "--method", "shape-of-you"], "expected --structure as grid"),
        (["--labels", "missing.png"], "missing"),
        (["--labels", "one-class.png"], "expected two classes or more in one-class.png, and 255 for none; got [0]"),
        (["--labels", "deep.png"], "expected class indices from 0 to 254 in deep.png, and 255 for none; got 0 to 300"),
        (["--labels", "half.png", "--masks", "right.png,-"], "no label of half.png lies within the source's mask"),
        (["--points", "none.csv"], "expected at least one point in none.csv"),
        (["--points", "latin.csv"], "latin.csv is no CSV table in UTF-8"),
        (["--device", "toaster"], "expected a device torch can use, such as auto, cpu or cuda; 'toaster' is none here"),
        (["--readout", "guess"], "expected a read-out among"),
    ],
)
def test_wrong_input_gets_a_sentence(pictures, tmp_path, capsys, monkeypatch, more, sentence):
    monkeypatch.chdir(tmp_path)
    half = np.full((128, 256), 255, np.uint8)
    half[:, :60], half[:, 60:100] = 0, 1
    Image.fromarray(half).save("half.png")
    Image.fromarray(np.where(half == 255, 0, 255).astype(np.uint8)).save("one-class.png")
    Image.fromarray(np.where(half == 1, 300, 0).astype(np.uint16)).save("deep.png")
    Image.fromarray(np.where(np.arange(256) > 200, 255, 0).astype(np.uint8)[None].repeat(128, 0)).save("right.png")
    Path("none.csv").write_text("x,y,name\n")
    Path("latin.csv").write_bytes("x,y,name\n3,4,K\xf6rper\n".encode("latin-1"))
    code, _, told = run(
        ["match", pictures / "1.png", pictures / "5.png", "--size", "126x252", "--out", tmp_path, *more], capsys
    )
    assert code == 2
    assert sentence in " ".join(told.split())
    assert "Traceback" not in told


def test_place_is_removed_of_the_backbones_features(pictures, tmp_path, capsys):
    whole = matched(pictures, tmp_path / "whole", capsys, "--method", "nn")
    less = matched(pictures, tmp_path / "less", capsys, "--method", "nn", "--remove-position", "1")
    assert less["remove_position"] == "1" and "remove_position" not in whole
    assert less["pairs"][0]["matches"] != whole["pairs"][0]["matches"]
    for more, said in (
        (("--remove-position", "0"), "expected --remove-position as a share"),
        (("--remove-position", "95%", "--adapter", "a.safetensors"), "leave it or --adapter"),
        (("--remove-position", "95%", "--features", "a,b"), "leave it or --features"),
    ):
        code, _, told = run(
            ["match", pictures / "1.png", pictures / "5.png", "--size", "126x252", "--out", tmp_path / "no", *more],
            capsys,
        )
        assert code != 0 and said in " ".join(told.split()), told


def test_maps_are_reduced_by_a_pca_of_the_pair(pictures, tmp_path, capsys):
    whole = matched(pictures, tmp_path / "whole", capsys, "--method", "nn")
    width = whole["backbone"]["dim"]
    few = matched(pictures, tmp_path / "few", capsys, "--method", "nn", "--pca", "3")
    assert few["pca"] == "3" and "pca" not in whole
    assert few["pairs"][0]["matches"] != whole["pairs"][0]["matches"]
    for more, said in (
        (("--pca", str(width + 1)), f"none above the maps' own {width}"),
        (("--pca", "3", "--adapter", "a.safetensors"), "leave it or --adapter out"),
        (("--pca", "3", "--labels", pictures / "1-labels.png"), "leave it or --labels out"),
        (("--pca", "3", "--features", "a,b"), "expected --backbone with --pca"),
    ):
        code, _, told = run(
            ["match", pictures / "1.png", pictures / "5.png", "--size", "126x252", "--out", tmp_path / "no", *more],
            capsys,
        )
        assert code != 0 and said in " ".join(told.split()), told


def test_key_points_are_not_read_from_a_file_that_no_table_is(tmp_path):
    path = tmp_path / "keys.csv"
    path.touch()
    os.truncate(path, LARGEST_RECORD + 1)  # a hole: it takes no room
    with pytest.raises(ValueError, match=r"expected a CSV file with a line a point; .* has 268,435,457 bytes"):
        key_points(str(path), np.zeros((2, 2, 3), np.uint8))
