"""What `saot check` finds: nothing stops at a bad file, and what smells is told."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from saot.data import open_labelled, parse_mask_map, survey
from saot.scenes import READERS


def folder(root, masks, classes=None, size=(4, 6)):
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / "images" / f"{number}.png")
        if mask is not None:
            Image.fromarray(np.broadcast_to(mask, (*size, *np.shape(mask)[2:])).astype(np.uint8)).save(
                root / "masks" / f"{number}.png"
            )
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return f"folder:{root}"


ROWS = np.array([[0], [1], [1], [255]])


def test_a_good_folder(tmp_path):
    found = survey(folder(tmp_path, [ROWS, ROWS], "soil\ncrop\n"))
    assert (found.pictures, found.masks, found.classes) == (2, 2, ("soil", "crop"))
    assert found.sizes == {"6x4": 2} and found.pixels == {"soil": 12, "crop": 24} and found.ignored == 12
    assert found.bad == {} and found.warnings == ()
    assert json.loads(json.dumps(dataclasses.asdict(found)))["pixels"]["crop"] == 24


def test_every_bad_file_is_listed_and_the_others_are_counted(tmp_path):
    spec = folder(tmp_path, [ROWS, ROWS, ROWS, ROWS, ROWS], "soil\ncrop\n")
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "masks" / "1.png")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "masks" / "2.png")
    (tmp_path / "masks" / "3.png").write_bytes(b"nothing")
    path = tmp_path / "images" / "4.png"
    path.write_bytes(path.read_bytes()[:-20])
    found = survey(spec)
    assert [name.rsplit("/", 2)[1:] for name in found.bad] == [
        ["masks", "1.png"], ["masks", "2.png"], ["masks", "3.png"], ["images", "4.png"]
    ]  # fmt: skip
    said = list(found.bad.values())
    assert "the value 7" in said[0] and "5x4 pixels, its picture 6x4" in said[1]
    assert "no picture that can be read" in said[2] and "cut off" in said[3]
    assert found.pixels["crop"] == 24 and found.sizes == {"6x4": 4}


def test_pictures_without_masks(tmp_path):
    spec = folder(tmp_path, [None, None])
    (tmp_path / "masks").rmdir()
    found = survey(spec)
    assert (found.pictures, found.masks, found.classes, found.bad, found.warnings) == (2, 0, (), {}, ())
    spec = folder(tmp_path / "some", [ROWS, None])
    found = survey(spec)
    assert found.masks == 1 and any("1 of 2 pictures have no mask" in one for one in found.warnings)


@pytest.mark.parametrize(
    ("mask", "classes", "words"),
    [
        (np.array([[0], [0], [255], [255]]), None, "--mask-map binary"),
        (np.array([[0], [0], [255], [255]]), "a\nb\n", "every labelled pixel of .* is 'a'.*--mask-map binary"),
        (np.array([[0], [85], [170], [255]]), None, "had been stretched"),
        (ROWS, "Sky,\nRoad\n", "is 'Sky,'.*write Sky"),
        (ROWS, "Class\nRoad\n", "the head of a table"),
        (ROWS, "a\nb\nc\n", "no pixel of c"),
        (
            np.array([[[0, 0, 0]], [[255, 255, 255]], [[0, 0, 0]], [[0, 0, 0]]]),
            None,
            "R = G = B: give --mask-map binary",
        ),
        (np.array([[[0, 0, 0]], [[1, 1, 1]], [[2, 2, 2]], [[0, 0, 0]]]), None, "R = G = B: give --mask-map grey"),
        (np.array([[[0, 0, 0]], [[255, 0, 0]], [[0, 0, 0]], [[0, 0, 0]]]), None, '"#000000=NAME,#ff0000=NAME"'),
    ],
)
def test_what_smells_is_told(tmp_path, mask, classes, words):
    found = survey(folder(tmp_path, [mask], classes))
    assert [one for one in found.warnings if re.search(words, one)]


def test_nearly_everything_ignored(tmp_path):
    mask = np.full((4, 6), 255)
    mask[0, 0] = 1
    assert any("95.8 % of all pixels are ignored" in one for one in survey(folder(tmp_path, [mask], "a\nb\n")).warnings)


def test_with_a_mask_map(tmp_path):
    spec = folder(tmp_path, [np.array([[0], [0], [255], [255]])])
    found = survey(spec, mask_map=parse_mask_map("binary"))
    assert found.pixels == {"background": 12, "foreground": 12} and found.warnings == () and found.bad == {}
    assert open_labelled(spec, mask_map=parse_mask_map("binary")).classes.names == found.classes


def test_other_sets_know_what_their_masks_mean(tmp_path):
    found = survey("scenes:game:train,count=2,height=64,width=128", READERS)
    assert found.pictures == found.masks == 2 and len(found.classes) == 19 and found.sizes == {"128x64": 2}
    assert sum(found.pixels.values()) + found.ignored == 2 * 64 * 128
    with pytest.raises(ValueError, match="--mask-map explains masks of a folder"):
        survey("scenes:game", READERS, parse_mask_map("binary"))


def test_deep_grey_pictures_of_few_bits(tmp_path):
    spec = folder(tmp_path, [ROWS, ROWS], "a\nb\n")
    for number, highest in enumerate((4095, 300)):
        deep = np.zeros((4, 6), np.uint16)
        deep[0] = highest
        Image.fromarray(deep).save(tmp_path / "images" / f"{number}.png")
    found = survey(spec)
    assert len(found.bad) == 2 and all("nearly black" in why for why in found.bad.values())
    assert any("up to 4095 of 65535, which come out dark: multiply all of them by 16" in one for one in found.warnings)


def test_no_such_set_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="missing"):
        survey(f"folder:{tmp_path / 'none'}")
