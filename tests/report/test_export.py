import numpy as np
import pytest
from PIL import Image

from saot.data.classes import class_set, folder_class_set
from saot.report import (
    overlay,
    png_mark,
    write_color_overlay,
    write_confidence_png,
    write_index_png,
    write_palette_png,
)

CLASSES = class_set("cityscapes19")


def masks():
    rng = np.random.default_rng(0)
    noise = rng.choice([0, 1, 18, 255], (37, 53)).astype(np.uint8)
    plain = np.full((5, 9), 7, np.uint8)
    nothing = np.full((4, 4), 255, np.uint8)
    dot = np.zeros((1, 6), np.uint8)
    dot[0, 5] = 13
    return {"noise.png": noise, "plain.png": plain, "nothing.png": nothing, "dot.png": dot}


def test_index_png_round_trip(tmp_path):
    mask = masks()["noise.png"]
    write_index_png(tmp_path / "deep" / "index.png", mask, CLASSES)
    grey = Image.open(tmp_path / "deep" / "index.png")
    assert grey.mode == "L"
    np.testing.assert_array_equal(np.asarray(grey), mask)
    write_palette_png(tmp_path / "deep" / "mask.png", mask, CLASSES)
    picture = Image.open(tmp_path / "deep" / "mask.png")
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), mask)
    colored = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(colored[mask == 18], np.broadcast_to(CLASSES.colors[18], ((mask == 18).sum(), 3)))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["index.png", "mask.png"]


def test_255_classes_keep_their_values(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for write in (write_index_png, write_palette_png):
        write(tmp_path / "all.png", mask, folder_class_set([f"c{i}" for i in range(255)]))
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "all.png")), mask)


def test_confidences_are_grey_of_8_bits(tmp_path):
    confidence = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    write_confidence_png(tmp_path / "c.png", confidence, "mark")
    picture = Image.open(tmp_path / "c.png")
    assert picture.mode == "L" and png_mark(tmp_path / "c.png") == "mark"
    np.testing.assert_array_equal(np.asarray(picture), np.rint(255 * confidence))
    for wrong in (np.full((1, 2), 1.5), np.array([[np.nan, 0.5]])):
        with pytest.raises(ValueError, match="expected confidences from 0 to 1"):
            write_confidence_png(tmp_path / "d.png", wrong)
    assert not (tmp_path / "d.png").exists()


def test_overlay_mixes_and_keeps_ignored_pixels(tmp_path):
    image = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[0, 255], [1, 1]], np.uint8)
    mixed = overlay(image, mask, [(200, 0, 100), (0, 0, 0)], 0.25)
    assert mixed.tolist() == [[[125, 75, 100], [100, 100, 100]], [[75, 75, 75], [75, 75, 75]]]
    write_color_overlay(tmp_path / "a.png", image, mask, CLASSES, alpha=1.0)
    assert tuple(np.asarray(Image.open(tmp_path / "a.png"))[0, 0]) == CLASSES.colors[0]


@pytest.mark.parametrize("action", ["index", "palette", "overlay"])
def test_unknown_class_is_refused_and_nothing_written(tmp_path, action):
    mask, image = np.full((3, 4), 19, np.uint8), np.zeros((3, 4, 3), np.uint8)
    path = tmp_path / "out"
    write = {
        "index": lambda: write_index_png(path, mask, CLASSES),
        "palette": lambda: write_palette_png(path, mask, CLASSES),
        "overlay": lambda: write_color_overlay(path, image, mask, CLASSES),
    }
    with pytest.raises(ValueError, match="class indices below 19"):
        write[action]()
    assert not list(tmp_path.iterdir())


def test_overlay_refuses_other_size_and_strength():
    image = np.zeros((3, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="mask is 3 x 5 but the picture is 3 x 4"):
        overlay(image, np.zeros((3, 5), np.uint8), CLASSES.colors)
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, np.zeros((3, 4), np.uint8), CLASSES.colors, 1.5)


@pytest.mark.parametrize("strip", [1, 7 * 11, 1 << 20])
def test_strips_change_nothing(tmp_path, monkeypatch, strip):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (23, 11, 3), dtype=np.uint8), rng.integers(0, 20, (23, 11), dtype=np.uint8)
    mask[mask == 19] = 255
    classes = class_set("cityscapes19")
    wanted = overlay(image, mask, classes.colors)
    monkeypatch.setattr("saot.data.images.STRIP", strip)
    write_index_png(tmp_path / "i.png", mask, classes, "i")
    write_palette_png(tmp_path / "a.png", mask, classes, '{"of": "b"}')
    write_color_overlay(tmp_path / "c.png", image, mask, classes, mark="d")
    for name, pixels, mark in (("i.png", mask, "i"), ("a.png", mask, '{"of": "b"}'), ("c.png", wanted, "d")):
        with Image.open(tmp_path / name) as picture:
            picture.verify()  # check sums
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), pixels)
        assert png_mark(tmp_path / name) == mark
    colored = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert colored[mask == 4].tolist() == [list(classes.colors[4])] * int((mask == 4).sum())
    assert png_mark(tmp_path / "nowhere.png") is None
