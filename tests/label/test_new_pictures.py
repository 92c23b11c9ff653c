"""Masks of new pictures as files: where they go, what is kept, what one bad picture costs."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import predict_pictures
from PIL import Image

from saot import cli
from saot.annotate import read_cvat, read_cvat_mask
from saot.label import FinishedRun, new_pictures, open_run
from saot.label.new_pictures import find_pictures


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def mask(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_one_broken_picture_does_not_stop_the_others(finished, tmp_path):
    for number, name in enumerate(("a", "b", "c", "d")):
        draw(tmp_path / "new" / f"{name}.png", number)
    (tmp_path / "new" / "b.png").write_bytes((tmp_path / "new" / "b.png").read_bytes()[:300])
    (tmp_path / "new" / "c.png").write_text("no picture")
    labelled = predict_pictures(finished, [tmp_path / "new"], tmp_path / "out", ("png", "color", "coco"))
    assert files(tmp_path / "out") == [
        "a.png",
        "a_color.png",
        "annotations/instances_default.json",
        "d.png",
        "d_color.png",
    ]
    assert [Path(one["image"]).name for one in labelled.records()] == ["a.png", "d.png"]
    assert [Path(path).name for path in labelled.failed] == ["b.png", "c.png"]
    assert "b.png is broken or cut off" in next(iter(labelled.failed.values()))
    document = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    assert [one["file_name"] for one in document["images"]] == ["a.png", "d.png"]
    draw(tmp_path / "new" / "b.png", 1)  # mended: the same command adds what is missing
    labelled = predict_pictures(finished, [tmp_path / "new"], tmp_path / "out", ("png", "color", "coco"))
    assert labelled.made == 1 and len(labelled.sizes) == 3
    document = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    assert [one["file_name"] for one in document["images"]] == ["a.png", "b.png", "d.png"]


def test_at_several_sizes_a_broken_picture_is_left_out_of_each(finished, tmp_path):
    run = open_run(finished)
    assert isinstance(run, FinishedRun)
    twice = replace(run, further=(run.backbone,))
    one, bad, other = (draw(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("a", "b", "c")))
    bad.write_text("no picture")
    told = []
    pictures = [
        new_pictures.Picture(str(path), lambda path=path: new_pictures.read_image(path), "")
        for path in (one, bad, other)
    ]
    labelled = [*twice.masks(pictures, lambda picture, why: told.append(picture.name), confident=True)]
    found = [one.picture.name for one in labelled]
    assert all(one.confidence is not None and one.confidence.shape == one.mask.shape for one in labelled)
    assert found == [str(one), str(other)] and told == [str(bad)]


def test_what_cannot_be_read_ends_with_exit_code_1_and_a_list(finished, tmp_path, capsys):
    draw(tmp_path / "new" / "a.png")
    (tmp_path / "new" / "b.png").write_text("no picture")
    command = ["predict", str(finished), str(tmp_path / "new"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert "1 of 2 pictures have no mask" in said.err and "b.png is no picture" in said.err
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "--json"])
    said = json.loads(capsys.readouterr().out)
    assert stopped.value.code == 1 and said["made"] == 0 and len(said["pictures"]) == 1
    assert said["failed"][0]["image"].endswith("b.png")


def test_folders_are_mirrored_and_two_of_one_name_lie_apart(finished, tmp_path):
    draw(tmp_path / "a" / "x.jpg", 0)
    draw(tmp_path / "a" / "deep" / "x.jpg", 1)
    draw(tmp_path / "b" / "x.jpg", 2)
    predict_pictures(finished, [tmp_path / "a"], tmp_path / "one")
    assert files(tmp_path / "one") == ["deep/x.png", "x.png"]
    predict_pictures(finished, [tmp_path / "a", tmp_path / "b"], tmp_path / "two")
    assert files(tmp_path / "two") == ["a/deep/x.png", "a/x.png", "b/x.png"]
    assert np.array_equal(mask(tmp_path / "one" / "deep" / "x.png"), mask(tmp_path / "two" / "a" / "deep" / "x.png"))
    both = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"]  # as a shell gives */x.jpg
    assert [one.key for one in find_pictures(both, tmp_path / "out")] == ["a/x.jpg", "b/x.jpg"]
    assert [one.key for one in find_pictures([both[0], both[0], tmp_path / "a"], tmp_path / "out")] == [
        "x.jpg", "deep/x.jpg"
    ]  # fmt: skip


def test_two_outputs_are_never_one_file(tmp_path):
    draw(tmp_path / "new" / "x.jpg")
    draw(tmp_path / "new" / "x_color.jpg")
    assert len(find_pictures([tmp_path / "new"], tmp_path / "out", ("png", "coco"))) == 2
    with pytest.raises(ValueError, match=r"x\.jpg and .*x_color\.jpg would both give .*x_color\.png"):
        find_pictures([tmp_path / "new"], tmp_path / "out", ("png", "color"))
    draw(tmp_path / "new" / "x.png")
    for formats in (("png",), ("coco",)):
        with pytest.raises(ValueError, match=r"x\.jpg and .*x\.png would both give"):
            find_pictures([tmp_path / "new"], tmp_path / "out", formats)


def test_folders_are_read_as_data_sets_are(tmp_path):
    new = draw(tmp_path / "new" / "a.ppm").parent
    draw(new / "._a.png")
    draw(new / ".thumbs" / "b.png")
    draw(tmp_path / "elsewhere" / "c.png")
    (new / "linked").symlink_to(tmp_path / "elsewhere")
    (new / "linked" / "back").symlink_to(new)
    (new / "up").symlink_to(tmp_path / "elsewhere" / "back")
    assert [one.key for one in find_pictures([new], tmp_path / "out")] == ["a.ppm", "linked/c.png"]


def test_masks_beside_their_pictures_are_no_pictures(finished, tmp_path):
    draw(tmp_path / "a.jpg")
    for made in (1, 0):
        labelled = predict_pictures(finished, [tmp_path], tmp_path, ("png", "color"))
        assert [one.key for one in labelled.pictures] == ["a.jpg"] and labelled.made == made


@pytest.mark.parametrize(
    "formats", [("png",), ("color",), ("coco",), ("png", "palette", "color", "confidence", "coco")]
)
def test_a_killed_command_goes_on(finished, tmp_path, monkeypatch, formats):
    new = [draw(tmp_path / "new" / f"{name}.jpg", number) for number, name in enumerate("abc")]
    predict_pictures(finished, new, tmp_path / "undisturbed", formats)

    def killed(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_pictures(finished, new, tmp_path / "out", formats, killed)
    third = [one.output(tmp_path / "out", kind) for one in find_pictures(new[2:], tmp_path / "out") for kind in KINDS]
    for path in third:
        path.unlink(missing_ok=True)  # it was under way
    asked = []
    monkeypatch.setattr(new_pictures, "read_image", lambda path: asked.append(path) or read(path))
    labelled = predict_pictures(finished, new, tmp_path / "out", formats)
    assert asked == [new[2]] and labelled.made == 1 and len(labelled.records()) == 3
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")
    for name in files(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


read = new_pictures.read_image
KINDS = [*new_pictures.FILES, "mask"]


def test_what_is_kept_is_of_this_picture_and_this_run(finished, tmp_path):
    picture = draw(tmp_path / "a.jpg", 0)
    predict_pictures(finished, [picture], tmp_path / "out")
    first = (tmp_path / "out" / "a.png").read_bytes()
    draw(picture, 1, (30, 50))  # another picture under the name
    assert predict_pictures(finished, [picture], tmp_path / "out").made == 1
    assert mask(tmp_path / "out" / "a.png").shape == (30, 50)
    draw(picture, 0)
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    record = json.loads((other / "run.json").read_text())
    classes = len(json.loads((other / "metrics.json").read_text())["classes"])
    (other / "run.json").write_text(json.dumps({**record, "decoder_bias": [0.0] * (classes - 1) + [100.0]}))
    assert predict_pictures(other, [picture], tmp_path / "out").made == 1
    assert (mask(tmp_path / "out" / "a.png") == classes - 1).all()
    assert predict_pictures(finished, [picture], tmp_path / "out").made == 1
    assert (tmp_path / "out" / "a.png").read_bytes() == first


def test_files_of_others_are_left_alone(finished, tmp_path):
    new = [draw(tmp_path / "new" / f"{name}.jpg", number) for number, name in enumerate("ab")]
    corrected = draw(tmp_path / "out" / "a.png", 5)
    before = corrected.read_bytes()
    labelled = predict_pictures(finished, new, tmp_path / "out", ("png", "color"))
    assert corrected.read_bytes() == before and labelled.left_alone == (corrected,)
    assert files(tmp_path / "out") == ["a.png", "b.png", "b_color.png"]
    (tmp_path / "out" / "annotations").mkdir()
    (tmp_path / "out" / "annotations" / "instances_default.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"instances_default\.json to be missing"):
        predict_pictures(finished, new, tmp_path / "out", ("coco",))
    assert (tmp_path / "out" / "annotations" / "instances_default.json").read_text() == '{"images": []}'


def test_masks_do_not_depend_on_the_number_of_threads(finished, tmp_path):
    folder, before = tmp_path / "new", torch.get_num_threads()
    folder.mkdir()
    for number in range(5):
        values = np.random.default_rng(number).integers(0, 256, (60 + 9 * number, 90, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made = predict_pictures(finished, [folder], tmp_path / f"{threads}", ["png", "confidence", "color"])
            assert made.made == 5
    finally:
        torch.set_num_threads(before)
    one, three = (sorted((tmp_path / name).iterdir()) for name in ("1", "3"))
    assert len(one) == 15 and [path.name for path in one] == [path.name for path in three]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, three, strict=True))


def test_a_folder_that_cannot_be_written_is_refused_at_once(finished, tmp_path, monkeypatch):
    picture = draw(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg is a file: choose another --out"):
        predict_pictures(finished, [picture], picture / "masks")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="read-only for this user: choose another --out"):
        predict_pictures(finished, [picture], tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


def test_files_of_all_formats_say_the_same_and_open_in_other_readers(finished, tmp_path):
    picture = draw(tmp_path / "new" / "sub" / "a.jpg", 0)
    formats = ("png", "palette", "confidence", "coco")
    predict_pictures(finished, [tmp_path / "new"], tmp_path / "out", formats)
    out = tmp_path / "out" / "sub"
    index, palette, sure = (Image.open(out / f"a{suffix}.png") for suffix in ("", "_palette", "_confidence"))
    assert (index.mode, palette.mode, sure.mode) == ("L", "P", "L")
    assert np.array_equal(np.asarray(index), np.asarray(palette))
    said = open_run(finished).predict(picture)
    assert np.array_equal(np.asarray(index), said.mask)
    assert np.abs(np.asarray(sure) / 255 - said.confidence).max() <= 0.5 / 255 + 1e-6
    document = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    assert [one["file_name"] for one in document["images"]] == ["sub/a.jpg"]
    for one in document["annotations"]:
        mine = said.mask == one["category_id"] - 1
        assert one["iscrowd"] == 0 and one["area"] == mine.sum()
        assert one["score"] == pytest.approx(said.confidence[mine].mean(), abs=1e-4)
    cv2 = pytest.importorskip("cv2")
    assert np.array_equal(cv2.imread(str(out / "a.png"), cv2.IMREAD_UNCHANGED), said.mask)


def test_masks_that_were_made_without_scores_are_made_again_for_coco(finished, tmp_path):
    picture = draw(tmp_path / "a.jpg", 0)
    assert predict_pictures(finished, [picture], tmp_path / "out", ("png",)).made == 1
    assert predict_pictures(finished, [picture], tmp_path / "out", ("png", "coco")).made == 1
    assert predict_pictures(finished, [picture], tmp_path / "out", ("png", "coco")).made == 0
    document = json.loads((tmp_path / "out" / "annotations" / "instances_default.json").read_text())
    assert all(0 < one["score"] <= 1 for one in document["annotations"])


def test_formats_of_annotation_tools_hold_the_same_masks(finished, tmp_path):
    for number, name in enumerate(("a.jpg", "sub/b.jpg")):
        draw(tmp_path / "new" / name, number)
    out, formats = tmp_path / "out", ("cvat", "cvat-mask", "label-studio", "coco")
    labelled = predict_pictures(finished, [tmp_path / "new"], out, formats)
    assert sorted(path.name for path in (out / "annotations").iterdir()) == [
        "cvat-mask.zip",
        "cvat.xml",
        "instances_default.json",
        "label-studio.json",
    ]
    run = open_run(finished)
    wanted = {one.key: run.predict(one.path).mask for one in labelled.pictures}
    found = {one.name: one.mask(run.classes) for one in read_cvat(out / "annotations" / "cvat.xml")}
    assert found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)
    found = {one.name: one.mask(run.classes) for one in read_cvat_mask(out / "annotations" / "cvat-mask.zip")}
    assert all(np.array_equal(found[key.removesuffix(".jpg")], wanted[key]) for key in wanted)
    tasks = json.loads((out / "annotations" / "label-studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == ["a.jpg", "sub/b.jpg"]
    before = {path: path.read_bytes() for path in (out / "annotations").iterdir()}
    assert predict_pictures(finished, [tmp_path / "new"], out, formats).made == 0
    assert all(path.read_bytes() == held for path, held in before.items())
    (out / "annotations" / "cvat.xml").write_text("<annotations/>")  # what came back from the tool, under our name
    with pytest.raises(ValueError, match=r"cvat\.xml to be missing or of an earlier"):
        predict_pictures(finished, [tmp_path / "new"], out, formats)


def test_real_paths_are_those_of_the_system(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "deep" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    (tmp_path / "deep" / "b.png").symlink_to("a.png")
    real = new_pictures._RealPaths()
    inside = ("deep", "deep/a.png", "deep/b.png", "link", "link/a.png", "link/b.png", "deep/../link/new.png")
    for path in (".", "..", *inside):
        for one in (Path(path), tmp_path / path):
            assert real(one) == os.path.realpath(one), one
