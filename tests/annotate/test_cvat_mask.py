import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from helpers.masks import class_masks_of
from PIL import Image

from saot.annotate.cvat_mask import is_cvat_mask, read_cvat_mask, write_cvat_mask
from saot.data.classes import class_set, folder_class_set
from saot.report import MaskItem

CLASSES = class_set("cityscapes19")


def masks():
    yield from class_masks_of(25, 19, "sub/{}.jpg")


def write(path, items, classes):
    write_cvat_mask(path, (MaskItem(*one) for one in items), classes)


def test_masks_go_there_and_back_pixel_for_pixel(tmp_path):
    write(tmp_path / "a.zip", masks(), CLASSES)
    found = {one.name: one for one in read_cvat_mask(tmp_path / "a.zip")}
    for name, mask in masks():
        assert np.array_equal(found[name[:-4]].mask(CLASSES), mask)
    write(tmp_path / "b.zip", masks(), CLASSES)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert is_cvat_mask(tmp_path / "a.zip") and not is_cvat_mask(tmp_path)


def test_the_zip_is_as_voc_and_cvat_want_it(tmp_path):
    mask = np.array([[0, 0, 255], [18, 1, 255]], np.uint8)
    write(tmp_path / "a.zip", [("s/x.png", mask)], CLASSES)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert set(archive.namelist()) == {
            "SegmentationClass/s/x.png",
            "SegmentationObject/s/x.png",
            "ImageSets/Segmentation/default.txt",
            "labelmap.txt",
        }
        lines = archive.read("labelmap.txt").decode().splitlines()
        assert lines[1:3] == ["background:0,0,0::", "road:128,64,128::"]
        assert archive.read("ImageSets/Segmentation/default.txt") == b"s/x\n"
        colors = np.asarray(Image.open(io.BytesIO(archive.read("SegmentationClass/s/x.png"))))
        objects = np.asarray(Image.open(io.BytesIO(archive.read("SegmentationObject/s/x.png"))))
    assert colors[0, 0].tolist() == [128, 64, 128] and not colors[mask == 255].any()
    assert not objects[mask == 255].any() and objects[mask != 255].any(-1).all()
    assert objects[0, 0].tolist() == [128, 0, 0], "VOC's colour of object 1"
    assert len({tuple(color) for color in objects[mask != 255].tolist()}) == 3


def colored(*colors):
    return replace(folder_class_set(["a", "b"]), colors=colors)


def test_black_and_equal_colours_and_background(tmp_path):
    black = colored((0, 0, 0), (5, 5, 5))
    mask = np.array([[0, 1, 255]], np.uint8)
    write(tmp_path / "a.zip", [("x.png", mask)], black)
    (one,) = read_cvat_mask(tmp_path / "a.zip")
    assert np.array_equal(one.mask(black), mask)
    for classes, says in (
        (colored((5, 5, 5), (5, 5, 5)), "a and b both have"),
        (folder_class_set(["background", "b"]), "other than 'background'"),
    ):
        with pytest.raises(ValueError, match=says):
            write(tmp_path / "b.zip", [("x.png", mask)], classes)
    with pytest.raises(ValueError, match=r"x\.png and x\.jpg"):
        write(tmp_path / "b.zip", [("x.png", mask), ("x.jpg", mask)], black)
    assert not (tmp_path / "b.zip").exists()


def zipped(tmp_path, labels, values, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(np.array(values, np.uint8), mode).save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("labelmap.txt", labels)
        archive.writestr("SegmentationClass/x.png", buffer.getvalue())
    return read_cvat_mask(tmp_path / "a.zip")


def test_a_label_map_without_colours_means_numbers_and_background_goes_by_its_name(tmp_path):
    classes = folder_class_set(["sky", "a:b"])
    (one,) = zipped(tmp_path, "background:::\nsky:::\na:b:::\n", [[0, 1, 2]])
    assert one.mask(classes).tolist() == [[255, 0, 1]]
    (one,) = zipped(tmp_path, "sky:::\nbackground:::\na:b:::\n", [[0, 1, 2]])
    assert one.mask(classes).tolist() == [[0, 255, 1]]


@pytest.mark.parametrize(
    ("labels", "values", "says"),
    [
        ("sky:1,2,3::\n", [[[1, 2, 4]]], "it has #010204 besides"),
        ("sky:1,2::\n", [[[1, 2, 3]]], "got 'sky:1,2::'"),
        ("sky:1,2,300::\n", [[[1, 2, 3]]], "from 0 to 255"),
        ("# nothing\n", [[[1, 2, 3]]], "got none"),
        ("sky:::\n", [[[1, 2, 3]]], "got colours"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, labels, values, says):
    with pytest.raises(ValueError, match=says):
        list(zipped(tmp_path, labels, values))


def test_other_and_broken_zips_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="expected a whole zip"):
        list(read_cvat_mask(tmp_path / "a.zip"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("annotations.xml", "<a/>")
    with pytest.raises(ValueError, match=r"expected labelmap\.txt"):
        list(read_cvat_mask(tmp_path / "b.zip"))
    write(tmp_path / "c.zip", [("x.png", np.zeros((40, 40), np.uint8))], CLASSES)
    whole = (tmp_path / "c.zip").read_bytes()
    spoilt = bytearray(whole)
    spoilt[60] ^= 255  # in the first picture
    (tmp_path / "d.zip").write_bytes(spoilt)
    with pytest.raises(ValueError, match="expected a whole"):
        list(read_cvat_mask(tmp_path / "d.zip"))
