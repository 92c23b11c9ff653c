import json

import numpy as np
import pytest
from helpers.masks import CLASSES, class_masks_of, items_with_pictures
from PIL import Image

from saot.annotate import (
    is_our_folder,
    read_fiftyone,
    read_labelme,
    read_yolo,
    write_fiftyone,
    write_labelme,
    write_yolo,
)
from saot.data.classes import folder_class_set
from saot.report import MaskItem

FORMATS = {
    "fiftyone": (write_fiftyone, read_fiftyone),
    "yolo": (write_yolo, read_yolo),
    "labelme": (write_labelme, read_labelme),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_predict_writes_is_read_pixel_for_pixel(tmp_path, kind):
    write, read = FORMATS[kind]
    write(tmp_path / "out", items_with_pictures(tmp_path / "new"), CLASSES)
    masks, found = dict(class_masks_of()), {}
    for one in read(tmp_path / "out"):
        found[one.name.removesuffix(".png")] = one
    assert sorted(found) == sorted(name.removesuffix(".png") for name in masks)
    for name, mask in masks.items():
        one = found[name.removesuffix(".png")]
        assert one.size == mask.shape and np.array_equal(one.mask(CLASSES), mask)
    assert is_our_folder(tmp_path / "out") and not is_our_folder(tmp_path / "new")
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".saot.tmp-1-abc").write_text("")
    assert is_our_folder(tmp_path / "killed"), "before the mark was there"


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_again_writes_the_same_bytes(tmp_path, kind):
    write, _ = FORMATS[kind]

    def content():
        write(tmp_path / "out", items_with_pictures(tmp_path / "new"), CLASSES)
        files = (path for path in sorted((tmp_path / "out").rglob("*")) if path.is_file())
        return {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in files}

    first = content()
    assert content() == first and len(first) > 20
    assert not [name for name in first if name.endswith(".new")]


@pytest.mark.parametrize("kind", FORMATS)
def test_two_pictures_of_one_name_and_unknown_classes_are_refused(tmp_path, kind):
    write, _ = FORMATS[kind]
    mask = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"differ without their ending; got a.png and a.jpg"):
        write(tmp_path / "out", items_with_pictures(tmp_path, [("a.png", mask), ("a.jpg", mask)]), CLASSES)
    with pytest.raises(ValueError, match="class indices below 3"):
        write(tmp_path / "out", items_with_pictures(tmp_path, [("b.png", mask + 3)]), CLASSES)


def test_fiftyone_counts_from_one_and_finds_the_pictures(tmp_path):
    mask = np.array([[0, 2], [255, 1]], np.uint8)
    write_fiftyone(tmp_path / "out", items_with_pictures(tmp_path / "new", [("sub/a.png", mask)]), CLASSES)
    labels = tmp_path / "out" / "labels"
    with Image.open(labels / "sub" / "a.png") as picture:
        assert picture.mode == "L" and np.asarray(picture).tolist() == [[1, 3], [0, 2]]
    assert [path.name for path in labels.rglob("*") if path.is_file()] == ["a.png"]  # FiftyOne takes any for a mask
    assert (tmp_path / "out" / "data" / "sub" / "a.png").samefile(tmp_path / "new" / "sub" / "a.png")
    assert json.loads((tmp_path / "out" / "mask_targets.json").read_text()) == {"1": "road", "2": "a & b", "3": "sky"}
    with pytest.raises(ValueError, match="at most 254 classes"):
        write_fiftyone(tmp_path / "b", [], folder_class_set([f"c{n}" for n in range(255)]))


def test_fiftyone_takes_names_from_the_user_where_the_export_has_none(tmp_path):
    mask = np.array([[0, 255]], np.uint8)
    write_fiftyone(tmp_path / "out", items_with_pictures(tmp_path / "new", [("a.png", mask)]), CLASSES)
    targets = tmp_path / "out" / "mask_targets.json"
    targets.unlink()
    with pytest.raises(ValueError, match=r"expected mask_targets.json"):
        read_fiftyone(tmp_path / "out")
    (one,) = read_fiftyone(tmp_path / "out", CLASSES)
    assert np.array_equal(one.mask(CLASSES), mask)
    for content, message in (
        ("{", "expected FiftyOne's JSON"),
        ('{"x": "road"}', "values and names"),
        ("[]", "values and"),
    ):
        targets.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_fiftyone(tmp_path / "out")
    targets.write_text('{"2": "sky"}')
    with pytest.raises(ValueError, match=r"expected values among 2, and 0 for nothing, in .*a.png; got 1"):
        [*read_fiftyone(tmp_path / "out")]
    with pytest.raises(ValueError, match="expected a folder labels"):
        [*read_fiftyone(tmp_path, CLASSES)]


def test_ultralytics_files_are_read_with_names_in_lines_or_a_list(tmp_path):
    mask = np.array([[0, 2], [255, 1]], np.uint8)
    write_yolo(tmp_path / "out", items_with_pictures(tmp_path / "new", [("sub/a.png", mask)]), CLASSES)
    yaml = tmp_path / "out" / "data.yaml"
    assert "masks_dir: masks\n" in yaml.read_text() and '  1: "a & b"\n' in yaml.read_text()
    assert (tmp_path / "out" / "images" / "sub" / "a.png").is_file()
    texts = (
        "names:\n  0: road\n  # two\n  1: 'a & b'\n  2: sky\n\ntrain: x\n",
        "train: x\nnames: [road, 'a & b', sky]\n",
    )
    for text in texts:
        yaml.write_text(text)
        (one,) = read_yolo(tmp_path / "out")
        assert one.name == "sub/a" and np.array_equal(one.mask(CLASSES), mask)
    yaml.write_text("names: *others\n")
    with pytest.raises(ValueError, match="expected names, one a line or in a list"):
        read_yolo(tmp_path / "out")
    yaml.unlink()
    with pytest.raises(ValueError, match=r"expected data.yaml"):
        read_yolo(tmp_path / "out")
    with pytest.raises(ValueError, match="two classes at least"):
        write_yolo(tmp_path / "b", [], folder_class_set(["road"]))
    with pytest.raises(ValueError, match=r"expected the file of a.png"):
        write_yolo(tmp_path / "c", [MaskItem("a.png", mask)], CLASSES)


def shape(kind, points, **more):
    return {"label": "road", "shape_type": kind, "points": points, **more}


def labelme(tmp_path, *shapes, **more):
    document = {"shapes": [*shapes], "imagePath": "a.png", "imageHeight": 3, "imageWidth": 4, **more}
    (tmp_path / "a.json").write_text(json.dumps(document))
    return [*read_labelme(tmp_path / "a.json")]


def test_labelme_shapes_become_regions_clicks_and_what_is_left_out(tmp_path):
    (one,) = labelme(
        tmp_path,
        shape("rectangle", [[4, 1], [2, 0]]),
        shape("circle", [[0.5, 2.5], [1.2, 2.5]]),
        shape("polygon", [[0, 0], [1, 0], [1, 2], [0, 2]]),
        shape("point", [[3.9, 2.1]]),
        shape("line", [[0, 0], [1, 1]]),
        imagePath="sub\\a.png",
    )
    assert one.name == "sub/a.png" and one.left_out == ("1 line",)
    assert one.mask(CLASSES).tolist() == [[0, 255, 0, 0], [0, 255, 255, 255], [0, 255, 255, 255]]
    assert [(click.label, click.x, click.y) for click in one.clicks] == [("road", 3, 2)]


@pytest.mark.parametrize(
    ("shapes", "more", "message"),
    [
        ([], {"shapes": 3}, "expected shapes and imagePath"),
        ([], {"imageHeight": "3"}, "expected height and width"),
        ([shape("polygon", [[0, 0], [1, 1]])], {}, "expected 3 finite points"),
        ([shape("rectangle", "here")], {}, "expected points as"),
        ([shape("point", [[9, 9]])], {}, "expected points inside"),
        ([shape("mask", [[0, 0], [1, 1]], mask="!")], {}, "expected a mask as a PNG"),
        ([shape("mask", [[0, 0], [1, 1]])], {}, "expected a mask as a PNG"),
    ],
)
def test_files_that_are_none_of_labelme(tmp_path, shapes, more, message):
    with pytest.raises(ValueError, match=message):
        labelme(tmp_path, *shapes, **more)


def test_masks_of_labelme_must_fill_a_box_of_their_picture(tmp_path):
    write_labelme(tmp_path / "out", [MaskItem("a.png", np.zeros((2, 3), np.uint8))], CLASSES)
    file = tmp_path / "out" / "a.json"
    document = json.loads(file.read_text())
    assert document["imagePath"] == "a.png" and document["shapes"][0]["points"] == [[0, 0], [2, 1]]
    document["shapes"][0]["points"] = [[0, 0], [1, 1]]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="expected a mask of the 2 x 2 pixels of its box"):
        [*read_labelme(file)]
    document["shapes"][0]["points"] = [[1, 1], [3, 2]]
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="inside its picture"):
        [*read_labelme(file)]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="there are none"):
        [*read_labelme(tmp_path / "none")]
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="it is no plain file"):
        [*read_labelme(tmp_path / "out")]
    file.unlink()
    with file.open("wb") as holes:
        holes.truncate((1 << 30) + 1)
    with pytest.raises(ValueError, match="export it in parts"):
        [*read_labelme(tmp_path / "out")]
    file.write_text("{")
    with pytest.raises(ValueError, match="expected labelme's JSON"):
        [*read_labelme(tmp_path / "out")]
