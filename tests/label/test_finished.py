import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.runs import evaluate_run, make_folder, open_labelled, predict_pictures, tiny_settings
from PIL import Image

from saot.data import parse_mask_map
from saot.label import FinishedRun, new_pictures, open_run
from saot.runs import RUN_FORMAT, read_kept, write_kept
from saot.tables import ALL_WINGS


@pytest.fixture
def stranger(tmp_path):
    """A picture that is in no data set, of an odd size."""
    path = tmp_path / "stranger.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (97, 61, 3), dtype=np.uint8)).save(path)
    return path


def test_predict_labels_a_strange_picture_at_its_own_size(finished, stranger, tmp_path):
    records = predict_pictures(finished, [stranger], tmp_path / "out", ("png", "color", "coco")).records()
    mask = np.asarray(Image.open(tmp_path / "out" / "stranger.png"))
    assert mask.shape == (97, 61) and mask.max() < 19
    assert Image.open(tmp_path / "out" / "stranger_color.png").size == (61, 97)
    assert records[0]["height"] == 97
    coco = pytest.importorskip("pycocotools.coco")
    document = coco.COCO(str(tmp_path / "out" / "annotations" / "instances_default.json"))
    rebuilt = np.full(mask.shape, 255, np.uint8)
    for annotation in document.loadAnns(document.getAnnIds()):
        rebuilt[document.annToMask(annotation) == 1] = annotation["category_id"] - 1
    assert np.array_equal(rebuilt, mask)


def test_evaluate_finds_the_score_of_the_run_again(finished):
    metrics = evaluate_run(finished, tiny_settings().eval)
    kept = json.loads((finished / "metrics.json").read_text())
    assert metrics["methods"]["saot_decoder"] == kept["methods"]["saot_decoder"]
    assert metrics["images"] == len(open_labelled(tiny_settings().eval))


def test_heads_are_read_before_a_finished_run_labels_the_first(tmp_path, finished, monkeypatch):
    spec = make_folder(tmp_path / "checked", 3)
    (tmp_path / "checked" / "classes.txt").unlink()
    for name in ("0", "1"):  # the second is the bad one
        path = tmp_path / "checked" / "masks" / f"{name}.png"
        mask = np.asarray(Image.open(path))
        Image.fromarray(mask if name == "0" else np.repeat(mask[..., None], 3, 2)).save(path)
    monkeypatch.setattr(FinishedRun, "masks", lambda *_: pytest.fail("a picture was labelled"))
    with pytest.raises(ValueError, match="colour picture"):
        evaluate_run(finished, spec)
    Image.fromarray(mask[::2]).save(path)
    with pytest.raises(ValueError, match=r"1 of folder.*1\.png, 112x28 for a picture of 112x56"):
        evaluate_run(finished, spec)


def test_evaluate_reads_masks_as_the_run_did_unless_it_is_told_otherwise(tmp_path, finished):
    spec, run = make_folder(tmp_path / "checked", 3), tmp_path / "run"
    (tmp_path / "checked" / "classes.txt").unlink()
    shutil.copytree(finished, run)
    record = json.loads((run / "run.json").read_text())
    record["settings"]["mask_map"] = "0=sky,1=road"
    (run / "run.json").write_text(json.dumps(record))
    known = evaluate_run(run, spec)["methods"]["saot_decoder"]["iou"]
    assert {name for name, value in known.items() if value is not None} == {"sky", "road"}
    told = evaluate_run(run, spec, wings=replace(ALL_WINGS, mask_map=parse_mask_map("grey")))
    iou = told["methods"]["saot_decoder"]["iou"]
    assert {name for name, value in iou.items() if value is not None} == {"road", "sidewalk"}  # 0 and 1


@pytest.mark.parametrize("settings", [None, 3, {"mask_map": 3}])
def test_evaluate_refuses_settings_of_other_contents_in_a_sentence(finished, tmp_path, settings):
    record = {"format": RUN_FORMAT, "kind": "adaptation", "settings": settings}
    (tmp_path / "run.json").write_text(json.dumps(record))
    wings = replace(ALL_WINGS, finished={"adaptation": lambda folder, device: open_run(finished, ALL_WINGS)})
    with pytest.raises(ValueError, match=r"run\.json is damaged or of another version"):
        evaluate_run(tmp_path, "folder:x", wings=wings)


def test_a_moved_run_still_predicts(finished, stranger, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    shutil.rmtree(moved / "features")
    shutil.rmtree(moved / "work")
    predict_pictures(moved, [stranger], tmp_path / "here")
    predict_pictures(finished, [stranger], tmp_path / "there")
    assert (tmp_path / "here" / "stranger.png").read_bytes() == (tmp_path / "there" / "stranger.png").read_bytes()


def test_predict_never_writes_over_a_picture(finished, stranger, tmp_path):
    picture = tmp_path / "shots" / "a.png"
    picture.parent.mkdir()
    Image.open(stranger).save(picture)
    before = picture.read_bytes()
    with pytest.raises(ValueError, match="leaves your pictures alone"):
        predict_pictures(finished, [picture.parent], picture.parent)
    assert picture.read_bytes() == before
    for _ in range(2):  # the second time, the first answer lies below the folder of pictures
        assert len(predict_pictures(finished, [picture.parent], picture.parent / "masks").records()) == 1


def test_wrong_input_is_refused_in_one_sentence(finished, stranger, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        predict_pictures(tmp_path / "nowhere", [stranger], tmp_path / "out")
    with pytest.raises(ValueError, match="does not exist"):
        predict_pictures(finished, [tmp_path / "no.png"], tmp_path / "out")
    with pytest.raises(ValueError, match="label-studio, labelme, fiftyone, yolo; got tiff"):
        predict_pictures(finished, [stranger], tmp_path / "out", ("tiff",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no run\.json"):
        predict_pictures(tmp_path / "empty", [stranger], tmp_path / "out")
    with pytest.raises(ValueError, match="found none"):
        predict_pictures(finished, [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_of_another_run_is_noticed(finished, stranger, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    run = json.loads((moved / "run.json").read_text())
    run["features"]["weights_sha256"] = "0" * 64
    (moved / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="weights_sha256"):
        predict_pictures(moved, [stranger], tmp_path / "out")
    (moved / "decoder.safetensors").write_bytes(b"junk")
    run["features"]["weights_sha256"] = json.loads((finished / "run.json").read_text())["features"]["weights_sha256"]
    (moved / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="damaged"):
        predict_pictures(moved, [stranger], tmp_path / "out")


def test_prediction_does_not_depend_on_its_neighbours(finished, stranger, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (80, 40), (10, 200, 30)).save(other)
    predict_pictures(finished, [other, stranger], tmp_path / "together")
    predict_pictures(finished, [stranger], tmp_path / "alone")
    together = torch.from_numpy(np.array(Image.open(tmp_path / "together" / "stranger.png")))
    assert torch.equal(together, torch.from_numpy(np.array(Image.open(tmp_path / "alone" / "stranger.png"))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": None}, "run.json is damaged or of another version"),
        ({"settings": {}}, "run.json is damaged or of another version, it lacks 'weights'"),
        ({"features": []}, "run.json is damaged or of another version"),
        ({"decoder_bias": {"a": 1}}, "run.json is damaged or of another version"),
        ({"decoder_bias": [1.0]}, "19 classes but decoder_bias of shape \\(1,\\) in run.json"),
        ({"label_budget": [3]}, "run.json is damaged or of another version"),
        ({"kind": ["adaptation"]}, "holds one of kind"),
        ({"sizes": 3}, "run.json is damaged or of another version"),
    ],
)
def test_a_run_json_of_other_contents_is_refused_in_a_sentence(finished, stranger, tmp_path, change, said):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished / "decoder.safetensors", run)
    record = json.loads((finished / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=said):
        predict_pictures(run, [stranger], tmp_path / "out")


def test_a_decoder_of_other_contents_is_refused_in_a_sentence(finished, stranger, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished / "run.json", run)
    kept = read_kept(finished / "decoder.safetensors")
    for other, said in (
        (replace(kept, about={}), "it lacks 'classes'"),
        (replace(kept, about={**kept.about, "shape": {}}), "decoder.safetensors is damaged or of another version"),
        (replace(kept, tensors=dict(list(kept.tensors.items())[1:])), "is damaged or of another version"),
    ):
        write_kept(run / "decoder.safetensors", other)
        with pytest.raises(ValueError, match=said):
            predict_pictures(run, [stranger], tmp_path / "out")


def test_a_calibration_of_other_contents_is_refused_in_a_sentence(finished, stranger, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "decoder.safetensors"):
        shutil.copy(finished / name, run)
    for text in ("{}", '{"alphas": 3}', '{"alphas": [0.1], "methods": []}', "[]"):
        (run / "calibration.json").write_text(text)
        with pytest.raises(ValueError, match=r"calibration\.json.* damaged"):
            predict_pictures(run, [stranger], tmp_path / "out", abstain=0.1)


def test_a_picture_that_is_a_link_to_itself_is_left_out_in_a_sentence(finished, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").symlink_to("a.png")
    found = predict_pictures(finished, [tmp_path / "new"], tmp_path / "out")
    assert not found.made and "a.png is missing or not a file" in str(found.failed)


def test_a_pipe_among_the_pictures_is_left_out_in_a_sentence(finished, stranger, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(stranger, new / "b.jpg")
    os.mkfifo(new / "a.jpg")  # opened, it would wait for a writer
    for out in (tmp_path / "out", new):  # where masks go among the pictures it is asked whether it is one of them
        found = predict_pictures(finished, [new], out)
        assert found.made == 1 and "a.jpg is missing or not a file" in str(found.failed)


def test_a_mask_of_another_picture_costs_no_second_reading_of_the_picture(finished, stranger, tmp_path, monkeypatch):
    predict_pictures(finished, [stranger], tmp_path / "out")
    Image.new("RGB", (61, 97)).save(stranger)
    read, hashed = [], new_pictures.sha256_file
    monkeypatch.setattr(new_pictures, "sha256_file", lambda path: read.append(path) or hashed(path))
    assert predict_pictures(finished, [stranger], tmp_path / "out").made == 1
    assert read.count(stranger) == 1
