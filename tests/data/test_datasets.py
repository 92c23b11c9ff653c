"""What the user types, folders of their own, scenes, and the promises of the two types."""

import pickle
import shutil

import numpy as np
import pytest
from helpers.runs import open_images, open_labelled
from PIL import Image

from saot.data import ImageSet, LabelledSet, class_set, folder_class_set, parse_spec, sha256_file

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


@pytest.fixture
def folder(tmp_path):
    """Two pictures with masks of the classes 0 to 2, in subfolders, with different suffixes."""
    for name, suffix in (("b", "jpg"), ("sub/a", "png")):
        picture(tmp_path / "images" / f"{name}.{suffix}", 80)
        mask(tmp_path / "masks" / f"{name}.png", [0, 1, 2, 255])
    return tmp_path


# --- what the user types


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("gta5:/data/gta5", ("gta5", "/data/gta5", None)),
        ("cityscapes:/d/c:val", ("cityscapes", "/d/c", "val")),
        ("camvid:rel/path:lists/day.txt", ("camvid", "rel/path", "lists/day.txt")),
        (r"folder:C:\data\x", ("folder", r"C:\data\x", None)),
        ("folder:C:/data/x:list.txt", ("folder", "C:/data/x", "list.txt")),
        ("folder:/odd:name:", ("folder", "/odd:name", None)),
        ("scenes:street:val,count=3", ("scenes", "street", "val,count=3")),
    ],
)
def test_specs_are_taken_apart(text, parts):
    spec = parse_spec(text)
    assert (spec.name, spec.path, spec.split) == parts


@pytest.mark.parametrize("text", ["", "folder", "folder:", ":/data", "folder::train"])
def test_incomplete_specs_are_refused(text):
    with pytest.raises(ValueError, match=r"NAME:PATH or NAME:PATH:SPLIT"):
        parse_spec(text)


def test_unknown_names_and_missing_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'cityscape'; the known ones are gta5, cityscapes"):
        open_images(f"cityscape:{tmp_path}")
    for name in ("gta5", "cityscapes", "synthia", "voc", "camvid", "folder"):
        with pytest.raises(ValueError, match=rf"{name} expects a folder, but .*gone is missing"):
            open_labelled(f"{name}:{tmp_path}/gone")
        with pytest.raises(ValueError, match=r"(expects|missing)"):
            open_images(f"{name}:{tmp_path}")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        open_images(f"folder:{tmp_path}/file")


def test_empty_folders_are_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.heic").touch()
    with pytest.raises(ValueError, match=r"images holds no file \*\.png \*\.jpg"):
        open_images(f"folder:{tmp_path}")


# --- a user's folder


def test_folder_without_names_counts_its_classes(folder):
    labelled = open_labelled(f"folder:{folder}")
    assert labelled.keys == ("b.jpg", "sub/a.png")
    assert labelled.classes.names == ("class 0", "class 1", "class 2")
    assert flat(labelled)[:4] == [0, 1, 2, 255]
    assert open_images(f"folder:{folder}").classes is None


def test_folder_with_names(folder):
    (folder / "classes.txt").write_bytes("\ufeffsoil\r\ncrop\r\n unkraut ü \r\n\r\n".encode())
    assert open_labelled(f"folder:{folder}").classes.names == ("soil", "crop", "unkraut ü")
    classes = open_images(f"folder:{folder}").classes
    assert classes is not None
    assert classes.names[1] == "crop"
    (folder / "classes.txt").write_text("soil\ncrop\n")
    with pytest.raises(ValueError, match=r"b\.png has the value 2 in 6 pixels, but allowed are 0-1"):
        open_labelled(f"folder:{folder}").mask(0)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n\nb\n", "has an empty line 2"), ("\n", "is empty"), ("a\na\n", "'a' twice"), ("", "is empty")],
)
def test_folder_bad_names(folder, text, message):
    (folder / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_labelled(f"folder:{folder}")


def test_folder_adopts_the_classes_of_the_source(folder):
    source = folder_class_set(["a", "b", "c", "d"])
    assert open_labelled(f"folder:{folder}", source).classes is source
    assert open_images(f"folder:{folder}", source).classes is source
    (folder / "classes.txt").write_text("a\nb\nx\n")
    for opened in (open_labelled, open_images):
        with pytest.raises(ValueError, match=r"class 2 is 'x' in folder:.* but 'c'"):
            opened(f"folder:{folder}", source)


def test_folder_masks_hold_indices_even_with_cityscapes_classes(folder):
    assert flat(open_labelled(f"folder:{folder}", class_set("cityscapes19")))[:4] == [0, 1, 2, 255]


def test_folder_needs_masks_to_be_labelled(folder):
    shutil.rmtree(folder / "masks")
    assert len(open_images(f"folder:{folder}")) == 2
    with pytest.raises(ValueError, match=r"has no masks, which are needed here"):
        open_labelled(f"folder:{folder}")


def test_folder_pairs_have_to_be_complete(folder):
    (folder / "masks" / "b.png").rename(folder / "masks" / "c.png")
    with pytest.raises(ValueError, match=r"1 of 2 pictures have no mask, the first being b\.jpg"):
        open_labelled(f"folder:{folder}")
    picture(folder / "images" / "c.png")
    (folder / "images" / "b.jpg").unlink()
    assert len(open_labelled(f"folder:{folder}")) == 2
    mask(folder / "masks" / "d.png", [0])
    with pytest.raises(ValueError, match=r"1 of 3 masks have no picture, the first being .*d\.png"):
        open_labelled(f"folder:{folder}")


def test_folder_equal_stems_are_refused(folder):
    picture(folder / "images" / "b.png")
    for opened in (open_labelled, open_images):
        with pytest.raises(ValueError, match=r"b\.jpg and b\.png: names must differ before the suffix"):
            opened(f"folder:{folder}")
    (folder / "images" / "b.png").unlink()
    mask(folder / "masks" / "b.tif", [0])
    with pytest.raises(ValueError, match=r"masks has b\.png and b\.tif"):
        open_labelled(f"folder:{folder}")


def test_folder_list_chooses_pictures(folder):
    (folder / "one.txt").write_text("sub/a\n")
    assert open_labelled(f"folder:{folder}:one.txt").keys == ("sub/a.png",)
    with pytest.raises(ValueError, match=r"list file .*train is missing"):
        open_images(f"folder:{folder}:train")


def test_hidden_files_do_not_count(folder):
    (folder / "images" / "._b.jpg").write_bytes(b"x")
    (folder / "images" / ".cache").mkdir()
    (folder / "images" / ".cache" / "c.png").write_bytes(b"x")
    (folder / "masks" / ".DS_Store").write_bytes(b"x")
    assert len(open_labelled(f"folder:{folder}")) == 2


def test_folder_reached_through_links(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("linked")
    for name in ("images", "masks"):
        (root / name).mkdir()
        (root / name / "here").symlink_to(folder / name)
    assert open_labelled(f"folder:{root}").keys == ("here/b.jpg", "here/sub/a.png")


def test_unlabelled_and_oversized_masks_without_names(folder):
    for name in ("b", "sub/a"):
        mask(folder / "masks" / f"{name}.png", [255])
    with pytest.raises(ValueError, match="no mask has a labelled pixel"):
        open_labelled(f"folder:{folder}")
    Image.fromarray(np.full(SIZE, 256, np.uint16)).save(folder / "masks" / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has the value 256, but allowed are 0-254"):
        open_labelled(f"folder:{folder}")


def test_sixteen_bit_masks_in_range_are_fine(folder):
    values = np.resize(np.array([2, 255], np.uint16), SIZE)
    Image.fromarray(values).save(folder / "masks" / "b.png")
    labelled = open_labelled(f"folder:{folder}")
    assert labelled.mask(0).dtype == np.uint8
    assert flat(labelled)[:2] == [2, 255]


def test_rotated_photo_needs_a_rotated_mask(folder):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "images" / "b.jpg", exif=exif)
    labelled = open_labelled(f"folder:{folder}")
    assert labelled.image(0).shape == (6, 4, 3)
    with pytest.raises(ValueError, match=r"has 6x4 pixels but .* has 4x6 .*the way viewers show the picture"):
        labelled.mask(0)
    mask(folder / "masks" / "b.png", [0, 1], size=(6, 4))
    assert labelled.mask(0).shape == labelled.image(0).shape[:2]


# --- promises of the types


def test_sets_travel_to_other_processes(folder):
    labelled = pickle.loads(pickle.dumps(open_labelled(f"folder:{folder}")))
    assert flat(labelled)[:4] == [0, 1, 2, 255]


def test_fingerprints_follow_the_content(folder):
    labelled = open_labelled(f"folder:{folder}")
    assert labelled.images.fingerprint(0) == sha256_file(folder / "images" / "b.jpg")
    before = (labelled.images.fingerprint(0), labelled.mask_fingerprint(0), labelled.mask_fingerprint(1))
    assert before[1] == before[2]  # equal masks
    mask(folder / "masks" / "b.png", [0, 1, 1, 255])
    assert labelled.images.fingerprint(0) == before[0]
    assert labelled.mask_fingerprint(0) != before[1]
    picture(folder / "images" / "b.jpg", 200)
    assert labelled.images.fingerprint(0) != before[0]


def test_order_does_not_follow_the_file_system(tmp_path):
    for name in ("10", "9", "a", "B", "b/1"):
        picture(tmp_path / "images" / f"{name}.png")
    assert open_images(f"folder:{tmp_path}").keys == ("10.png", "9.png", "B.png", "a.png", "b/1.png")


# --- built-in scenes


def test_scenes():
    labelled = open_labelled("scenes:street:val,count=3,height=64,width=128")
    assert labelled.keys == ("street/val/00000", "street/val/00001", "street/val/00002")
    assert labelled.image(2).shape == (64, 128, 3)
    assert labelled.mask(2).shape == labelled.images.size(2) == (64, 128)
    assert labelled.classes == class_set("cityscapes19")
    other = open_images("scenes:street:val,count=3,height=64,width=129")
    names = {labelled.images.fingerprint(i) for i in range(3)} | {other.fingerprint(i) for i in range(3)}
    names.add(open_images("scenes:game:val,count=3,height=64,width=128").fingerprint(0))
    names.add(open_images("scenes:street:train,count=3,height=64,width=128").fingerprint(0))
    assert len(names) == 8
    assert pickle.loads(pickle.dumps(labelled)).images.fingerprint(1) == labelled.images.fingerprint(1)


def test_scenes_have_defaults_and_adopt_classes():
    assert len(open_images("scenes:game")) > len(open_images("scenes:game:val")) > 0
    assert open_images("scenes:game").keys[0] == "game/train/00000"
    assert len(open_labelled("scenes:street", class_set("synthia13")).classes.scored) == 13
    with pytest.raises(ValueError, match="class 0 is 'road' in scenes:street but 'sky'"):
        open_labelled("scenes:street", class_set("camvid11"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("scenes:film", "scenes:game and scenes:street"),
        ("scenes:game:test", "splits train and val, but not 'test'"),
        ("scenes:game:val,size=3", "not 'size=3'"),
        ("scenes:game:val,count=0", "at least 1"),
        ("scenes:game:val,count=-2", "at least 1"),
        ("scenes:game:val,count=many", "not 'count=many'"),
    ],
)
def test_scenes_wrong_specs(spec, message):
    with pytest.raises(ValueError, match=message):
        open_images(spec)


def test_masks_are_remembered_as_long_as_they_have_room():
    read: list[int] = []

    def mask(index: int) -> np.ndarray:
        read.append(index)
        return np.full((4, 5), index, np.uint8)

    images = ImageSet("x", class_set("camvid11"), ("a", "b", "c"), mask, str)
    labelled = LabelledSet(images, mask).remembering(40)  # two of them
    assert [int(labelled.mask(index)[0, 0]) for index in (0, 1, 0, 1, 2, 1, 0)] == [0, 1, 0, 1, 2, 1, 0]
    assert read == [0, 1, 2, 0]


def test_a_set_that_remembers_can_be_handed_to_another_process(tmp_path):
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "masks" / "a.png", [0, 1])
    labelled = open_labelled(f"folder:{tmp_path}").remembering()
    again = pickle.loads(pickle.dumps(labelled))
    assert np.array_equal(again.mask(0), labelled.mask(0))
