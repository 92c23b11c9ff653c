import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.masks import class_masks_of
from PIL import Image

from saot.annotate.label_studio import is_label_studio, labelling_config, read_label_studio, write_label_studio
from saot.annotate.regions import Click
from saot.data.classes import folder_class_set
from saot.report import MaskItem

CLASSES = folder_class_set(["road", "a & b", 'say "x"', "sky"])


def masks():
    for name, mask in class_masks_of(25, 4):
        yield name, mask, {int(label): 0.5 + label / 10 for label in np.unique(mask) if label != 255}


def annotated(tasks):
    """As a person leaves predictions alone and submits them."""
    found = []
    for task in tasks:
        (prediction,) = task["predictions"]
        done = {"result": prediction["result"], "was_cancelled": False, "updated_at": "2026-11-29T10:00:00Z"}
        found.append({"data": task["data"], "annotations": [done]})
    return found


@pytest.mark.parametrize("kind", ["brush", "bitmask"])
def test_masks_go_there_and_back_pixel_for_pixel(tmp_path, kind):
    items = (MaskItem(*one) for one in masks())
    write_label_studio(tmp_path / "tasks.json", items, CLASSES, kind, lambda name: f"/data/{name}")
    assert is_label_studio(tmp_path / "tasks.json") and not is_label_studio(tmp_path)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    (tmp_path / "export.json").write_text(json.dumps(annotated(tasks)))
    found = [*read_label_studio(tmp_path / "export.json")]
    assert [one.name for one in found] == [f"/data/{name}" for name, *_ in masks()]
    for one, (_, mask, _) in zip(found, masks(), strict=True):
        if (mask == 255).all():
            assert one.regions == ()
        else:
            assert np.array_equal(one.mask(CLASSES), mask)
    regions = [region for task in tasks for region in task["predictions"][0]["result"]]
    assert all(
        region["score"] == 0.5 + CLASSES.names.index(region["value"][f"{kind}labels"][0]) / 10 for region in regions
    )
    assert {region["from_name"] for region in regions} == {"label"}
    assert "score" not in tasks[0]["predictions"][0] and 0 < tasks[1]["predictions"][0]["score"] < 1


@pytest.mark.parametrize("kind", ["brush", "bitmask"])
def test_the_configuration_names_every_class_and_what_predictions_refer_to(kind):
    view = ElementTree.fromstring(labelling_config(CLASSES, kind))
    (tag,) = view.findall({"brush": "BrushLabels", "bitmask": "BitmaskLabels"}[kind])
    assert [label.get("value") for label in tag] == list(CLASSES.names)
    image = view.find("Image")
    assert image is not None and tag.get("toName") == image.get("name") == "image" and tag.get("name") == "label"
    assert image.get("smoothing") == ("false" if kind == "bitmask" else None)


def region(kind, value, **more):
    sizes = {"original_width": 10, "original_height": 4, "image_rotation": 0}
    return {"type": kind, "value": value, **sizes, **more}


def read(tmp_path, *regions, **more):
    task = {"data": {"image": "a.png"}, "annotations": [{"result": [*regions], **more}]}
    (tmp_path / "a.json").write_text(json.dumps([task]))
    return [*read_label_studio(tmp_path / "a.json")]


def test_shapes_in_percent_become_pixels(tmp_path):
    (one,) = read(
        tmp_path,
        region("polygonlabels", {"points": [[0, 0], [100, 0], [100, 50], [0, 50]], "polygonlabels": ["road"]}),
        region(
            "rectanglelabels", {"x": 20, "y": 25, "width": 30, "height": 75, "rotation": 0, "rectanglelabels": ["sky"]}
        ),
        region(
            "ellipselabels",
            {"x": 95, "y": 87.5, "radiusX": 6, "radiusY": 15, "rotation": 0, "ellipselabels": ["a & b"]},
        ),
        region("keypointlabels", {"x": 100, "y": 0, "width": 0.4, "keypointlabels": ["sky"]}),
        region("keypointlabels", {"x": 59.99, "y": 75, "width": 0.4, "keypointlabels": ["road"]}),
        region("choices", {"choices": ["good"]}),
    )
    assert one.mask(CLASSES).tolist() == [
        [0] * 10,
        [0, 0, 3, 3, 3, 0, 0, 0, 0, 0],
        [255, 255, 3, 3, 3, 255, 255, 255, 255, 255],
        [255, 255, 3, 3, 3, 255, 255, 255, 255, 1],
    ]
    assert one.clicks == (Click("sky", 9, 0), Click("road", 5, 3)) and one.left_out == ("1 choices",)


def test_a_rectangle_turns_about_its_corner(tmp_path):
    turned = {"x": 50, "y": 0, "width": 40, "height": 50, "rotation": 90, "rectanglelabels": ["sky"]}
    (one,) = read(tmp_path, region("rectanglelabels", turned))
    assert (one.mask(CLASSES) == 3).sum(0).tolist() == [0, 0, 0, 4, 4, 0, 0, 0, 0, 0]


def test_the_latest_annotation_counts_and_cancelled_ones_do_not(tmp_path):
    whole = {"points": [[0, 0], [100, 0], [100, 100], [0, 100]]}
    results = [[region("polygonlabels", {**whole, "polygonlabels": [name]})] for name in ("sky", "road", "a & b")]
    times = ("2026-11-29T12:00:00Z", "2026-11-29T11:00:00Z", "2026-11-29T13:00:00Z")
    done = [
        {"result": result, "updated_at": time, "was_cancelled": number == 2}
        for number, (result, time) in enumerate(zip(results, times, strict=True))
    ]
    untouched = {"data": {"image": "b.png"}, "annotations": [], "predictions": [{"result": results[0]}]}
    (tmp_path / "a.json").write_text(json.dumps([{"data": {"image": "a.png"}, "annotations": done}, untouched]))
    (one,) = read_label_studio(tmp_path / "a.json")  # a task that nobody annotated is no correction
    assert one.name == "a.png" and (one.mask(CLASSES) == 3).all()


def test_regions_of_a_turned_picture_are_counted_not_guessed(tmp_path):
    value = {"points": [[0, 0], [100, 0], [0, 100]], "polygonlabels": ["sky"]}
    (one,) = read(tmp_path, region("polygonlabels", value, image_rotation=90))
    assert one.regions == () and one.left_out == ("1 polygonlabels of a picture that was turned",)


def png(size):
    buffer = io.BytesIO()
    Image.new("LA", size).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("regions", "says"),
    [
        ([region("brushlabels", {"format": "rle", "rle": [0, 0, 0, 8], "brushlabels": ["sky"]})], "it is cut off"),
        ([region("brushlabels", {"format": "png", "brushlabels": ["sky"]})], "expected a brush as rle"),
        ([region("bitmasklabels", {"imageDataURL": png((9, 4)), "bitmasklabels": ["sky"]})], "got 4 x 9"),
        (
            [region("bitmasklabels", {"imageDataURL": "data:image/png;base64,AAAA", "bitmasklabels": ["sky"]})],
            "whole PNG",
        ),
        ([region("bitmasklabels", {"imageDataURL": "http://a", "bitmasklabels": ["sky"]})], "data:image/png;base64 in"),
        ([region("keypointlabels", {"x": "1", "y": 2, "keypointlabels": ["sky"]})], "expected x as a number"),
        ([region("polygonlabels", {"points": [[1, "a"]], "polygonlabels": ["sky"]})], r"\[\[x, y\]"),
        ([region("polygonlabels", {"points": [], "polygonlabels": ["sky"]}, original_width=0)], "above 0"),
        (["x"], "expected a list of regions"),
    ],
)
def test_bad_regions_are_refused_in_one_sentence(tmp_path, regions, says):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, *regions)


@pytest.mark.parametrize("text", ["[", "{}", '["a"]', '[{"data": {}}]', '[{"data": {"image": 3}}]', "[" * 100_000])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match="expected"):
        list(read_label_studio(tmp_path / "a.json"))
