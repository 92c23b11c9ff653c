import json

import numpy as np
import pytest

from saot.annotate import read_coco
from saot.data.classes import folder_class_set
from saot.report import MaskItem, write_coco

CLASSES = folder_class_set(["road", "a & b", "sky"])


def masks(count=20):
    rng = np.random.default_rng(4)
    yield "none.png", np.full((4, 4), 255, np.uint8)
    for number in range(count):
        height, width = rng.integers(1, 40, 2)
        coarse = rng.choice([0, 1, 2, 255], (-(-height // 4), -(-width // 4)))
        yield f"sub/{number}.jpg", np.kron(coarse, np.ones((4, 4), int))[:height, :width].astype(np.uint8)


def test_what_predict_writes_is_read_pixel_for_pixel(tmp_path):
    write_coco(tmp_path / "a.json", (MaskItem(*one) for one in masks()), CLASSES)
    for one, (name, mask) in zip(read_coco(tmp_path / "a.json"), masks(), strict=True):
        assert (one.name, one.size) == (name, mask.shape) and np.array_equal(one.mask(CLASSES), mask)


def document(*annotations, **more):
    images = [{"id": 5, "file_name": "a.png", "height": 3, "width": 4}]
    categories = [{"id": 1, "name": "road"}, {"id": 7, "name": "sky"}]
    return {"images": images, "annotations": list(annotations), "categories": categories, **more}


def read(tmp_path, content):
    (tmp_path / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return [*read_coco(tmp_path / "a.json")]


def annotation(segmentation, category=7, image=5):
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation}


def test_polygons_plain_counts_and_boxes(tmp_path):
    (one,) = read(
        tmp_path,
        document(
            annotation([[0, 0, 4, 0, 4, 2, 0, 2]], 1),
            annotation({"size": [3, 4], "counts": [3, 3, 6]}),
            annotation([]),
        ),
    )
    assert one.mask(CLASSES).tolist() == [[0, 2, 0, 0], [0, 2, 0, 0], [255, 2, 255, 255]]
    assert one.left_out == ("1 box",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (document(annotation({"size": [3, 4], "counts": [3, 3]})), "add up to its 12 pixels; they add up to 6"),
        (document(annotation({"size": [4, 3], "counts": [12]})), r"expected segmentations of 3 x 4 .* got \[4, 3\]"),
        (document(annotation({"counts": [12]})), "expected size and counts"),
        (document(annotation([[0, 0, 1]])), "expected polygons as"),
        (document(annotation("x")), "expected polygons as"),
        (document(annotation([[0, 0]], 9)), "got 5 and 9"),
        (document(annotation([[0, 0]], image=6)), "got 6 and 7"),
        (document(images=[{"id": 5}, {"id": 5}]), "some are alike"),
        (document(images=[{"id": None}]), "expected id as a number"),
        (document(images=[{"id": 5, "height": "3", "width": 4}]), "whole numbers above 0"),
        (document(categories={}), "expected images, annotations and categories"),
        ("[]", "expected images, annotations and categories"),
        ("{", "expected COCO's JSON"),
    ],
)
def test_other_documents_are_refused_in_one_sentence(tmp_path, content, says):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, content)
