import numpy as np
import pytest
from helpers.masks import class_masks_of

from saot.annotate.cvat import inside_polygon, is_cvat, read_cvat, write_cvat
from saot.annotate.regions import Click
from saot.data.classes import folder_class_set
from saot.report import MaskItem

CLASSES = folder_class_set(["road", "a & b", 'say "x"', "sky"])


def masks():
    yield "only.png", np.full((3, 5), 2, np.uint8)
    yield from class_masks_of(40, 4, "sub/{} <&>.png")


def test_masks_go_there_and_back_pixel_for_pixel(tmp_path):
    write_cvat(tmp_path / "annotations.xml", (MaskItem(*one) for one in masks()), CLASSES)
    assert is_cvat(tmp_path / "annotations.xml") and not is_cvat(tmp_path)
    found = [*read_cvat(tmp_path / "annotations.xml")]
    for one, (name, mask) in zip(found, masks(), strict=True):
        assert (one.name, one.size, one.left_out) == (name, mask.shape, ())
        assert all(region.source == "file" and region.mask.any() for region in one.regions)
        assert np.array_equal(one.mask(CLASSES), mask)
    assert [path.name for path in tmp_path.iterdir()] == ["annotations.xml"]


def document(body, size='width="6" height="4"'):
    return f'<annotations><version>1.1</version><meta/><image id="7" name="a.png" {size}>{body}</image></annotations>'


def read(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    return [*read_cvat(tmp_path / "a.xml")]


def mask_of(label, rle, left=0, top=0, width=6, height=4, order=0, more=""):
    box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    return f'<mask label="{label}" rle="{rle}" {box} z_order="{order}" source="manual" {more}/>'


def test_what_lies_above_counts_then_what_comes_later(tmp_path):
    whole = "0, 24"
    (one,) = read(tmp_path, document(mask_of("sky", whole, order=1) + mask_of("road", whole)))
    assert (one.mask(CLASSES) == 3).all()
    (one,) = read(
        tmp_path, document(mask_of("sky", whole) + mask_of("road", "3,2,19", more='outside="0" group_id="1"'))
    )
    assert one.mask(CLASSES)[0].tolist() == [3, 3, 3, 0, 0, 3]
    (one,) = read(tmp_path, document(mask_of("sky", "0,1,2,1", left=4, top=2, width=2, height=2)))
    assert one.mask(CLASSES)[2:, 4:].tolist() == [[3, 255], [255, 3]]


def test_other_shapes_become_masks_points_or_are_counted(tmp_path):
    body = (
        '<polygon label="road" points="0,0;6,0;6,2;0,2" z_order="0"/>'
        '<box label="sky" xtl="2" ytl="1" xbr="4" ybr="4" z_order="1"/>'
        '<ellipse label="a &amp; b" cx="5.5" cy="3.5" rx="0.6" ry="0.6" z_order="1"/>'
        '<points label="sky" points="5.99,0.2;0,3" z_order="0"/>'
        '<polyline label="sky" points="0,0;1,1"/><tag label="day"/><polyline label="sky" points="0,0;1,1"/>'
    )
    (one,) = read(tmp_path, document(body))
    assert one.mask(CLASSES).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 3, 3, 0, 0],
        [255, 255, 3, 3, 255, 255],
        [255, 255, 3, 3, 255, 1],
    ]
    assert one.clicks == (Click("sky", 5, 0), Click("sky", 0, 3))
    assert one.left_out == ("2 polyline", "1 tag")


def test_a_turned_box_and_a_hollow_polygon(tmp_path):
    box = '<box label="sky" xtl="1" ytl="1.2" xbr="5" ybr="2.8" rotation="90"/>'
    (one,) = read(tmp_path, document(box))
    assert (one.mask(CLASSES) == 3).sum(0).tolist() == [0, 0, 4, 4, 0, 0]
    ring = np.array([[0, 0], [5, 0], [5, 5], [0, 5], [0, 0], [1, 1], [1, 4], [4, 4], [4, 1], [1, 1]])
    found = inside_polygon(ring, (5, 5))
    assert not found[1:4, 1:4].any() and found.sum() == 16


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (document(mask_of("sky", "0, 23")), "add up to its 24 pixels; they add up to 23"),
        (document(mask_of("sky", "0, x")), "run lengths with commas in a mask of a.png"),
        (
            document(mask_of("sky", "0, 24", left=1)),
            "begins at row 0, column 1: the picture was labelled at",
        ),
        (document(mask_of("sky", "0, 24", width=0)), "whole numbers above 0"),
        (document("", 'width="6"'), "expected height as a number in a.png"),
        (document("", 'width="99999999" height="99999999"'), "at most 1,073,741,824 pixels"),
        (document('<points label="sky" points="6,0"/>'), "one lies outside"),
        (document('<polygon label="sky" points="6;0"/>'), "expected places as x,y;x,y"),
        (document('<polygon label="sky" points="nan,0;1,1;2,2"/>'), "finite numbers"),
        ("<annotations><image", "expected whole XML"),
        ("<dataset/>", "got <dataset>"),
        ("", "expected whole XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares a document type"),
        ("<annotations><track/></annotations>", "got tracks of a video"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        read(tmp_path, text)


def test_a_strange_label_is_named(tmp_path):
    (one,) = read(tmp_path, document(mask_of("tram", "0, 24")))
    with pytest.raises(ValueError, match=r"a\.png has 'tram': rename it in the tool"):
        one.mask(CLASSES)
