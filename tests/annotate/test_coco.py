import json

import numpy as np
import pytest
from helpers.masks import class_masks_of
from pycocotools.coco import COCO

from saot.annotate import read_coco, write_coco
from saot.data.classes import folder_class_set
from saot.report import MaskItem

CLASSES = folder_class_set(["road", "a & b", "sky"])


def masks():
    yield from class_masks_of()


def test_what_predict_writes_is_read_pixel_for_pixel(tmp_path):
    write_coco(tmp_path / "a.json", (MaskItem(*one) for one in masks()), CLASSES)
    for one, (name, mask) in zip(read_coco(tmp_path / "a.json"), masks(), strict=True):
        assert (one.name, one.size) == (name, mask.shape) and np.array_equal(one.mask(CLASSES), mask)


def test_coco_opens_and_gives_back_the_same_masks(tmp_path):
    path = tmp_path / "coco.json"
    write_coco(path, (MaskItem(name, mask) for name, mask in masks()), CLASSES)
    coco = COCO(str(path))
    assert [coco.cats[index + 1]["name"] for index in range(3)] == list(CLASSES.names)
    for image_id, info in coco.imgs.items():
        mask = dict(masks())[info["file_name"]]
        assert (info["height"], info["width"]) == mask.shape
        rebuilt = np.full(mask.shape, 255, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id])):
            decoded = coco.annToMask(annotation).astype(bool)
            assert decoded.sum() == annotation["area"] > 0
            assert annotation["iscrowd"] == 0 and "score" not in annotation
            ys, xs = np.nonzero(decoded)
            box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert annotation["bbox"] == box
            rebuilt[decoded] = annotation["category_id"] - 1
        np.testing.assert_array_equal(rebuilt, mask)
    assert len(coco.anns) == sum(len(np.setdiff1d(mask, [255])) for _, mask in masks())


def test_coco_is_plain_json_with_unique_ids(tmp_path):
    path, mask = tmp_path / "coco.json", np.array([[0, 0, 2]], np.uint8)
    write_coco(path, [MaskItem("a.png", mask), MaskItem("b.png", mask)], CLASSES)
    document = json.loads(path.read_text())
    assert [annotation["id"] for annotation in document["annotations"]] == [1, 2, 3, 4]
    assert all(isinstance(a["segmentation"]["counts"], str) for a in document["annotations"])
    with pytest.raises(ValueError, match="two pictures are called"):
        write_coco(path, [MaskItem("a.png", mask)] * 2, CLASSES)


def test_coco_scores_are_those_given(tmp_path):
    path, mask = tmp_path / "coco.json", np.array([[0, 0, 2]], np.uint8)
    write_coco(path, [MaskItem("a.png", mask, {0: 0.25})], CLASSES)
    assert [one.get("score") for one in json.loads(path.read_text())["annotations"]] == [0.25, None]


def test_an_unknown_class_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match="class indices below 3"):
        write_coco(tmp_path / "a.json", [MaskItem("a.png", np.full((3, 4), 3, np.uint8))], CLASSES)
    assert not list(tmp_path.iterdir())


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
