"""Every public data set in its layout, written tiny; and all that can be wrong with one."""

import pickle
import shutil
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from helpers.few_bits import few_bits
from PIL import Image

from saot.data import class_set, open_images, open_labelled
from saot.data.listing import stem_of

SHARED = Path(__file__).parents[2].parent / "shared"
SIZE = (4, 6)  # height, width


def picture(path, value=50, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def mask(path, values, palette=False, size=SIZE):
    """A mask whose pixels repeat `values`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = Image.fromarray(np.resize(np.array(values, np.uint8), size))
    if palette:
        file.putpalette([(i * 5) % 256 for i in range(768)])
    file.save(path)


def flat(labelled, index=0):
    return labelled.mask(index).ravel().tolist()


# --- GTA5


def gta5(root, names=("00001", "00002")):
    for name in names:
        picture(root / "images" / f"{name}.png")
        mask(root / "labels" / f"{name}.png", [7, 26, 0, 5, 34, 255], palette=True)
    return root


def test_gta5(tmp_path):
    labelled = open_labelled(f"gta5:{gta5(tmp_path)}")
    assert labelled.keys == ("00001.png", "00002.png")
    assert labelled.classes == class_set("cityscapes19")
    assert flat(labelled)[:6] == [0, 13, 255, 255, 255, 255]
    assert labelled.image(0).shape == (4, 6, 3)
    assert labelled.images.size(1) == (4, 6)


def test_gta5_copies_with_gaps_are_tolerated(tmp_path):
    gta5(tmp_path)
    picture(tmp_path / "images" / "00003.png")
    mask(tmp_path / "labels" / "00000.png", [7])
    assert open_labelled(f"gta5:{tmp_path}").keys == ("00001.png", "00002.png")
    assert open_images(f"gta5:{tmp_path}").keys == ("00001.png", "00002.png", "00003.png")


def test_gta5_list_chooses_pictures(tmp_path):
    gta5(tmp_path)
    (tmp_path / "some.txt").write_text("00002.png\n\n")
    assert open_labelled(f"gta5:{tmp_path}:some.txt").keys == ("00002.png",)
    (tmp_path / "some.txt").write_text("00007\n")
    with pytest.raises(ValueError, match=r"some\.txt names 00007, of which there is no picture"):
        open_labelled(f"gta5:{tmp_path}:some.txt")


def test_ids_in_four_bits_are_not_stretched(tmp_path):
    gta5(tmp_path)
    few_bits(tmp_path / "labels" / "00001.png", np.full(SIZE, 7), 4)  # road
    assert np.unique(open_labelled(f"gta5:{tmp_path}").mask(0)).tolist() == [0]


def test_gta5_without_any_pair(tmp_path):
    picture(tmp_path / "images" / "00001.png")
    mask(tmp_path / "labels" / "00002.png", [7])
    with pytest.raises(ValueError, match="no label of the same name"):
        open_labelled(f"gta5:{tmp_path}")


def test_size_mismatch_names_both_sizes(tmp_path):
    gta5(tmp_path)
    mask(tmp_path / "labels" / "00002.png", [7], size=(3, 5))
    labelled = open_labelled(f"gta5:{tmp_path}")
    with pytest.raises(ValueError, match=r"labels/00002\.png has 5x3 pixels but its picture .* has 6x4"):
        labelled.mask(1)


# --- Cityscapes


def cityscapes(root):
    for split, city, number in (("train", "ulm", 1), ("train", "aachen", 2), ("val", "bonn", 3)):
        stem = f"{city}_{number:06d}_000019"
        picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        mask(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", [33, 7, 6, 255])
        picture(root / "gtFine" / split / city / f"{stem}_gtFine_color.png")
        mask(root / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png", [1])
    return root


def test_cityscapes(tmp_path):
    labelled = open_labelled(f"cityscapes:{cityscapes(tmp_path)}")
    assert labelled.keys == (
        "train/aachen/aachen_000002_000019_leftImg8bit.png",
        "train/ulm/ulm_000001_000019_leftImg8bit.png",
    )
    assert flat(labelled)[:4] == [18, 0, 255, 255]
    assert len(open_labelled(f"cityscapes:{tmp_path}:val")) == 1


def test_cityscapes_pairs_have_to_be_complete(tmp_path):
    cityscapes(tmp_path)
    lost = tmp_path / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    lost.rename(tmp_path / "aside.png")
    with pytest.raises(ValueError, match=r"1 of 2 pictures have no mask, the first being train/ulm/ulm_000001"):
        open_labelled(f"cityscapes:{tmp_path}")
    assert len(open_images(f"cityscapes:{tmp_path}")) == 2
    (tmp_path / "aside.png").rename(lost)
    (tmp_path / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 masks have no picture, the first being .*ulm_000001"):
        open_labelled(f"cityscapes:{tmp_path}")


def test_cityscapes_unknown_split(tmp_path):
    with pytest.raises(ValueError, match=r"leftImg8bit/dev, which is missing; check the path and the split"):
        open_images(f"cityscapes:{cityscapes(tmp_path)}:dev")


# --- SYNTHIA


def synthia(root):
    cv2 = pytest.importorskip("cv2")
    picture(root / "RGB" / "0000000.png")
    ids = np.resize(np.array([3, 11, 0, 22, 15, 300], np.uint16), SIZE)
    bgr = np.stack([np.zeros_like(ids), ids + 1000, ids], 2)  # class in R, instance in G
    (root / "GT" / "LABELS").mkdir(parents=True)
    assert cv2.imwrite(str(root / "GT" / "LABELS" / "0000000.png"), bgr)
    return root


def test_synthia(tmp_path):
    synthia(tmp_path / "RAND_CITYSCAPES")
    for root in (tmp_path, tmp_path / "RAND_CITYSCAPES"):
        labelled = open_labelled(f"synthia:{root}")
        assert labelled.keys == ("0000000.png",)
        assert flat(labelled)[:6] == [0, 18, 255, 255, 6, 255]
    assert labelled.classes.name == "synthia16"
    assert len(labelled.classes.scored) == 16


def test_synthia_serves_cityscapes_as_evaluation(tmp_path):
    """The classes of the source travel to the evaluation, with the classes that count."""
    labelled = open_labelled(f"cityscapes:{cityscapes(tmp_path)}", class_set("synthia13"))
    assert len(labelled.classes.scored) == 13
    assert flat(labelled)[:4] == [18, 0, 255, 255]  # by the raw ids of Cityscapes, not of SYNTHIA


def test_synthia_says_what_to_install(tmp_path, monkeypatch):
    synthia(tmp_path)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"the extra 'synthia' needs: .*opencv-python-headless"):
        open_labelled(f"synthia:{tmp_path}")
    assert len(open_images(f"synthia:{tmp_path}")) == 1


def test_synthia_broken_and_flat_masks(tmp_path):
    labelled = open_labelled(f"synthia:{synthia(tmp_path)}")
    path = tmp_path / "GT" / "LABELS" / "0000000.png"
    mask(path, [3])
    with pytest.raises(ValueError, match="has one channel"):
        labelled.mask(0)
    for content in (b"", b"no picture"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is broken"):
            labelled.mask(0)


# --- VOC


def voc(root):
    home = root / "VOCdevkit" / "VOC2012"
    for name in ("2007_000032", "2007_000039", "2008_000001"):
        picture(home / "JPEGImages" / f"{name}.jpg")
        mask(home / "SegmentationClass" / f"{name}.png", [0, 20, 255], palette=True)
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000039\n2007_000032\n")
    (lists / "val.txt").write_text("2008_000001\n")
    return root


def test_voc(tmp_path):
    labelled = open_labelled(f"voc:{voc(tmp_path)}")
    assert labelled.keys == ("2007_000039.jpg", "2007_000032.jpg")  # in the order of the list
    assert flat(labelled)[:3] == [0, 20, 255]
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        assert open_labelled(f"voc:{root}:val").keys == ("2008_000001.jpg",)


def test_voc_gaps_are_named(tmp_path):
    home = voc(tmp_path) / "VOCdevkit" / "VOC2012"
    with pytest.raises(ValueError, match=r"list file .*test\.txt is missing"):
        open_images(f"voc:{tmp_path}:test")
    (home / "SegmentationClass" / "2007_000032.png").unlink()
    with pytest.raises(ValueError, match=r"2007_000032\.png is missing, though the list"):
        open_labelled(f"voc:{tmp_path}")
    assert len(open_images(f"voc:{tmp_path}")) == 2
    (home / "JPEGImages" / "2007_000032.jpg").unlink()
    with pytest.raises(ValueError, match=r"2007_000032\.jpg is missing, though the list"):
        open_images(f"voc:{tmp_path}")


# --- CamVid


def camvid(root):
    for name in ("a", "b"):
        picture(root / "train" / f"{name}.png")
        mask(root / "trainannot" / f"{name}.png", [0, 10, 11, 8])
    (root / "train.txt").write_text(
        "/SegNet/CamVid/train/b.png /SegNet/CamVid/trainannot/b.png\n"
        "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\n"
    )
    (root / "day.txt").write_text("train/a.png trainannot/a.png\n")
    (root / "target.txt").write_text("train/a.png\ntrain/b.png\n")
    return root


def test_camvid(tmp_path):
    labelled = open_labelled(f"camvid:{camvid(tmp_path)}")
    assert labelled.keys == ("train/b.png", "train/a.png")
    assert flat(labelled)[:4] == [0, 10, 255, 8]
    assert open_labelled(f"camvid:{tmp_path}:train").keys == labelled.keys
    assert open_labelled(f"camvid:{tmp_path}:day.txt").keys == ("train/a.png",)


def test_camvid_target_needs_no_second_column(tmp_path):
    camvid(tmp_path)
    assert open_images(f"camvid:{tmp_path}:target.txt").keys == ("train/a.png", "train/b.png")
    with pytest.raises(ValueError, match=r"line 1 of .*target\.txt has 1 columns, but picture and mask"):
        open_labelled(f"camvid:{tmp_path}:target.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train/a.png trainannot/a.png x\n", r"line 1 of .* has 3 columns"),
        ("\ntrain/a.png trainannot/a.png\ntrain/a.png trainannot/b.png\n", r"line 3 .* again, after line 2"),
        ("\n \n", r"list file .* is empty"),
        ("train/c.png trainannot/a.png\n", r"train/c\.png is missing"),
        ("train/a.png trainannot/c.png\n", r"trainannot/c\.png is missing"),
        ("../train/a.png trainannot/a.png\n", r"write paths relative to the folder"),
        ("/etc/a.png trainannot/a.png\n", r"write paths relative to the folder"),
    ],
)
def test_camvid_bad_lists(tmp_path, text, message):
    (camvid(tmp_path) / "bad.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_labelled(f"camvid:{tmp_path}:bad.txt")


def test_list_that_is_no_text(tmp_path):
    (camvid(tmp_path) / "bad.txt").write_bytes(b"\xff\xfe\x00train")
    with pytest.raises(ValueError, match="no UTF-8 text"):
        open_images(f"camvid:{tmp_path}:bad.txt")


def test_a_value_outside_the_classes_is_named(tmp_path):
    mask(camvid(tmp_path) / "trainannot" / "a.png", [0, 12])
    labelled = open_labelled(f"camvid:{tmp_path}:day.txt")
    with pytest.raises(ValueError, match=r"a\.png has the value 12 in 12 pixels, but allowed are 0-10 .* 11 or 255"):
        labelled.mask(0)


def test_real_camvid():
    root = SHARED / "data" / "camvid"
    if not root.is_dir():
        pytest.skip("the shared CamVid frames are absent")
    sizes = {}
    for split in ("day.txt", "dusk-train.txt", "dusk-eval.txt"):
        labelled = open_labelled(f"camvid:{root}:{split}")
        sizes[split] = len(labelled)
        found = labelled.mask(len(labelled) - 1)
        assert found.shape == (360, 480) == labelled.images.size(0)
        assert set(np.unique(found)) <= {*range(11), 255}
        assert np.mean(found[240:300, 160:320] == 3) > 0.5  # the road ahead of the car
    assert sizes == {"day.txt": 102, "dusk-train.txt": 42, "dusk-eval.txt": 20}


def test_other_class_names_are_refused_where_labels_count(tmp_path):
    camvid(tmp_path)
    with pytest.raises(ValueError, match=r"class 0 is 'sky' in camvid:.* but 'road'"):
        open_labelled(f"camvid:{tmp_path}", class_set("cityscapes19"))
    images = open_images(f"camvid:{tmp_path}", class_set("cityscapes19"))  # pictures without labels may be any
    assert images.classes == class_set("cityscapes19")


def test_pictures_never_learn_where_masks_lie(tmp_path):
    """No mask path in anything an ImageSet holds; and its masks may even be gone."""
    for build, spec in (
        (gta5, "gta5:{}"),
        (cityscapes, "cityscapes:{}"),
        (voc, "voc:{}"),
        (camvid, "camvid:{}"),
        (camvid, "camvid:{}:day.txt"),
    ):
        root = tmp_path / f"set{len(spec)}"
        build(root)
        for images in (open_labelled(spec.format(root)).images, open_images(spec.format(root))):
            held = pickle.dumps(images)
            assert b"images" in held or b"leftImg8bit" in held or b"JPEGImages" in held or b"train" in held
            for place in (b"labels", b"gtFine", b"SegmentationClass", b"trainannot"):
                assert place not in held
        for place in ("labels", "gtFine", "VOCdevkit/VOC2012/SegmentationClass", "trainannot"):
            shutil.rmtree(root / place, ignore_errors=True)
        assert open_images(spec.format(root)).image(0).shape == (4, 6, 3)


def test_stems_are_those_of_paths():
    keys = (
        "a.png",
        "city/a.b.png",
        "city.x/a",
        ".a",
        "city/.a",
        "city/.a.png",
        "a.",
        "./a.png",
        "x//a.png",
        "a.png/",
        "ü.JPG",
    )
    assert [stem_of(key) for key in keys] == [PurePosixPath(key).with_suffix("").as_posix() for key in keys]
