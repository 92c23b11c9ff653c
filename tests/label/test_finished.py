import json
import shutil

import numpy as np
import pytest
import torch
from helpers.runs import evaluate_run, open_labelled, predict_pictures, tiny_settings
from PIL import Image


@pytest.fixture
def stranger(tmp_path):
    """A picture that is in no data set, of an odd size."""
    path = tmp_path / "stranger.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (97, 61, 3), dtype=np.uint8)).save(path)
    return path


def test_predict_labels_a_strange_picture_at_its_own_size(finished, stranger, tmp_path):
    records = predict_pictures(finished, [stranger], tmp_path / "out", ("png", "color", "coco"))
    mask = np.asarray(Image.open(tmp_path / "out" / "stranger.png"))
    assert mask.shape == (97, 61) and mask.max() < 19
    assert Image.open(tmp_path / "out" / "stranger_color.png").size == (61, 97)
    assert records[0]["height"] == 97
    coco = pytest.importorskip("pycocotools.coco")
    document = coco.COCO(str(tmp_path / "out" / "annotations.json"))
    rebuilt = np.full(mask.shape, 255, np.uint8)
    for annotation in document.loadAnns(document.getAnnIds()):
        rebuilt[document.annToMask(annotation) == 1] = annotation["category_id"] - 1
    assert np.array_equal(rebuilt, mask)


def test_evaluate_finds_the_score_of_the_run_again(finished):
    metrics = evaluate_run(finished, tiny_settings().eval)
    kept = json.loads((finished / "metrics.json").read_text())
    assert metrics["methods"]["saot_decoder"] == kept["methods"]["saot_decoder"]
    assert metrics["images"] == len(open_labelled(tiny_settings().eval))


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
        assert len(predict_pictures(finished, [picture.parent], picture.parent / "masks")) == 1


def test_wrong_input_is_refused_in_one_sentence(finished, stranger, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        predict_pictures(tmp_path / "nowhere", [stranger], tmp_path / "out")
    with pytest.raises(ValueError, match="does not exist"):
        predict_pictures(finished, [tmp_path / "no.png"], tmp_path / "out")
    with pytest.raises(ValueError, match="png, color, coco; got tiff"):
        predict_pictures(finished, [stranger], tmp_path / "out", ("tiff",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no run\.json"):
        predict_pictures(tmp_path / "empty", [stranger], tmp_path / "out")
    with pytest.raises(ValueError, match="found none"):
        predict_pictures(finished, [tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(ValueError, match="two are called 'stranger'"):
        predict_pictures(finished, [stranger, stranger], tmp_path / "out")
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(stranger.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"bad\.jpg"):
        predict_pictures(finished, [bad], tmp_path / "out")


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
