"""Pictures whose masks have another size are seen before anything is computed, left out and named."""

import numpy as np
import pytest
from helpers.runs import open_labelled
from PIL import Image

from saot.data import fitting, images, mask_size, restrict_labelled


@pytest.fixture
def folder(tmp_path):
    """Four pictures; the mask of the second is half as large, that of the third is turned."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.txt").write_text("sky\nroof\n")
    sizes = [(8, 12), (4, 6), (12, 8), (8, 12)]
    for number, size in enumerate(sizes):
        Image.fromarray(np.full((8, 12, 3), number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.full(size, number % 2, np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path


def test_they_are_left_out_and_named_without_decoding(folder, monkeypatch):
    data = open_labelled(f"folder:{folder}")
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture was decoded"))
        found = fitting(data)
    assert found.data.keys == ("0.png", "3.png")
    assert found.left_out == {"1.png": "6x4 for a picture of 12x8", "2.png": "8x12 for a picture of 12x8"}
    assert found.sentence == (
        f"2 of 4 pictures of folder:{folder} left out: their masks have another size: 1.png (6x4 for a picture of "
        "12x8), 2.png (8x12 for a picture of 12x8)."
    )
    assert found.data.mask(1).shape == (8, 12) and int(found.data.image(1)[0, 0, 0]) == 3


def test_strict_and_none_that_fits_are_errors(folder):
    data = open_labelled(f"folder:{folder}")
    with pytest.raises(ValueError, match=r"2 of 4 pictures .*1\.png \(6x4 for a picture of 12x8\).*leave --strict out"):
        fitting(data, strict=True)
    with pytest.raises(ValueError, match="1 of 1 pictures"):
        fitting(restrict_labelled(data, [1]))
    whole = restrict_labelled(data, [0, 3])
    assert fitting(whole, strict=True).data is whole and fitting(whole).sentence == ""


def test_a_picture_that_is_shown_turned_fits_a_mask_of_what_is_shown(folder):
    turned = Image.fromarray(np.zeros((8, 12, 3), np.uint8))
    exif = turned.getexif()
    exif[images.ORIENTATION] = 6
    (folder / "images" / "2.png").unlink()
    turned.save(folder / "images" / "2.jpg", exif=exif)
    found = fitting(open_labelled(f"folder:{folder}"))
    assert "2.jpg" in found.data.keys and list(found.left_out) == ["1.png"]


def test_many_are_counted_and_the_first_named(folder):
    for number in range(4, 14):
        Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(folder / "images" / f"{number}.png")
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "masks" / f"{number}.png")
    sentence = fitting(open_labelled(f"folder:{folder}")).sentence
    assert sentence.startswith("12 of 14 pictures") and sentence.endswith(" and 7 more.") and sentence.count("2x2") == 4


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_the_size_of_a_mask_is_that_it_is_read_with(tmp_path, name):
    Image.fromarray(np.zeros((3, 7), np.uint8)).save(tmp_path / name)
    assert mask_size(tmp_path / name) == (3, 7) == images.read_mask(tmp_path / name).shape
