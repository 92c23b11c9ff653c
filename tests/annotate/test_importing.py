import json

import numpy as np
import pytest
from helpers.masks import CLASSES, class_masks_of, items_with_pictures
from PIL import Image

from saot.annotate import FORMATS, READERS, classes_named, import_annotations
from saot.annotate.importing import picture_name
from saot.data import open_images, open_labelled, picture_finder, read_mask, read_points_csv
from saot.tables import ALL_WINGS

SEEN = {"cvat": 'source="file"', "label-studio": '"origin": "prediction"'}


def labelled_of(folder):
    """Keys and masks of a `folder:` set."""
    data = open_labelled(f"folder:{folder}")
    return {key: data.mask(number) for number, key in enumerate(data.images.keys)}


def exported(tmp_path, kind, masks=None):
    """A file of a format, as a tool gives it back where a person has drawn all of it."""
    path = tmp_path / FORMATS[kind].place
    path.parent.mkdir(parents=True, exist_ok=True)
    FORMATS[kind].write(path, items_with_pictures(tmp_path / "new", masks), CLASSES)
    if kind == "cvat":
        path.write_text(path.read_text().replace('source="file"', 'source="manual"'))
    if kind == "label-studio":
        tasks = json.loads(path.read_text())
        for task in tasks:
            task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
        path.write_text(json.dumps(tasks))
    return path


def test_every_format_that_is_written_is_imported():
    assert set(READERS) == set(FORMATS)


@pytest.mark.parametrize("kind", READERS)
def test_an_export_becomes_a_set_with_the_same_masks(tmp_path, kind):
    path, out = exported(tmp_path, kind), tmp_path / "out"
    done = []
    made = import_annotations(path, kind, tmp_path / "new", out, classes=CLASSES, progress=lambda *n: done.append(n))
    masks = {name: mask for name, mask in class_masks_of() if (mask != 255).any()}
    assert labelled_of(out).keys() == masks.keys() == set(made.masks) and done[-1][0] == done[-1][1] == 21
    for name, mask in labelled_of(out).items():
        assert np.array_equal(mask, masks[name])
    total = {name: sum(int((mask == k).sum()) for mask in masks.values()) for k, name in enumerate(CLASSES.names)}
    assert made.pixels == total and made.empty == ("none.png",)
    record = json.loads((out / "import.json").read_text())
    assert record["complete"] and record["pixels"] == total and record["from"] == kind
    assert open_labelled(f"folder:{out}").classes.colors == CLASSES.colors
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    import_annotations(path, kind, tmp_path / "new", out, classes=CLASSES)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == first


def test_what_an_earlier_import_left_goes(tmp_path):
    mask, out = np.zeros((2, 2), np.uint8), tmp_path / "out"
    path = exported(tmp_path, "coco", [("a.png", mask), ("b.png", mask)])
    import_annotations(path, "coco", tmp_path / "new", out)
    path = exported(tmp_path, "coco", [("b.png", mask)])
    assert import_annotations(path, "coco", tmp_path / "new", out).masks == ("b.png",)
    assert labelled_of(out).keys() == {"b.png"}


@pytest.mark.parametrize("kind", SEEN)
def test_regions_that_nobody_touched_are_no_labels(tmp_path, kind):
    mask = np.array([[0, 1, 2], [0, 1, 255]], np.uint8)
    path = exported(tmp_path, kind, [("a.png", mask), ("b.png", mask)])
    if kind == "cvat":
        head, tail = path.read_text().split('name="b.png"')
        path.write_text(
            head.replace('source="manual"', 'source="file"')
            + 'name="b.png"'
            + tail.replace('source="manual"', 'source="file"', 1)
        )
    else:
        tasks = json.loads(path.read_text())
        for region in [*tasks[0]["annotations"][0]["result"], tasks[1]["annotations"][0]["result"][0]]:
            region["origin"] = "prediction"
        path.write_text(json.dumps(tasks))
    made = import_annotations(path, kind, tmp_path / "new", tmp_path / "out", classes=CLASSES)
    assert made.unchanged == ("a.png",) and made.masks == ("b.png",)
    assert labelled_of(tmp_path / "out")["b.png"].tolist() == [[255, 1, 2], [255, 1, 255]]
    made = import_annotations(path, kind, tmp_path / "new", tmp_path / "out", classes=CLASSES, accept=True)
    assert made.masks == ("a.png", "b.png") and np.array_equal(labelled_of(tmp_path / "out")["a.png"], mask)


@pytest.mark.parametrize("hidden", ["", ".masks"])
def test_pixels_that_are_as_predicted_are_no_labels(tmp_path, hidden):
    mask = np.array([[0, 1, 2], [0, 1, 255]], np.uint8)
    path = exported(tmp_path, "coco", [("a.png", mask), ("sub/b.png", mask)])
    before = tmp_path / "before" / hidden
    (before / "sub").mkdir(parents=True)
    Image.fromarray(mask).save(before / "a.png")
    Image.fromarray(np.array([[0, 0, 2], [1, 1, 2]], np.uint8)).save(before / "sub" / "b.png")
    words = {"classes": CLASSES, "before": tmp_path / "before"}
    made = import_annotations(path, "coco", tmp_path / "new", tmp_path / "out", **words)
    assert made.unchanged == ("a.png",) and made.pixels == {"road": 1, "a & b": 1}
    assert labelled_of(tmp_path / "out")["sub/b.png"].tolist() == [[255, 1, 255], [0, 255, 255]]
    made = import_annotations(path, "coco", tmp_path / "new", tmp_path / "out", accept=True, **words)
    assert made.masks == ("a.png", "sub/b.png") and made.pixels == {"road": 4, "a & b": 4, "sky": 2}
    (before / "a.png").unlink()
    with pytest.raises(ValueError, match=r"expected the mask of a.png that was predicted"):
        import_annotations(path, "coco", tmp_path / "new", tmp_path / "out", **words)
    Image.fromarray(mask.T).save(before / "a.png")
    with pytest.raises(ValueError, match=r"got \(3, 2\): another picture"):
        import_annotations(path, "coco", tmp_path / "new", tmp_path / "out", **words)


CVAT = """<annotations><image id="0" name="{name}" width="{width}" height="{height}">{shapes}</image></annotations>"""


def cvat(tmp_path, shapes, name="a.png", width=4, height=3):
    [*items_with_pictures(tmp_path / "new", [("a.png", np.zeros((3, 4), np.uint8))])]
    path = tmp_path / "a.xml"
    path.write_text(CVAT.format(name=name, width=width, height=height, shapes=shapes))
    return path


def test_clicks_become_points_of_the_pictures(tmp_path):
    shapes = '<points label="sky" points="1.9,2.1;0,0" z_order="0"/><polyline label="sky" points="0,0;1,1"/>'
    path, out = cvat(tmp_path, shapes), tmp_path / "out"
    made = import_annotations(path, "cvat", tmp_path / "new", out, classes=CLASSES)
    points = read_points_csv(out / "points.csv", open_images(f"folder:{pictures(tmp_path)}"), CLASSES)
    assert (points.x, points.y, points.classes) == ((0, 1), (0, 2), (2, 2))
    assert made.points == {"sky": 2} and made.masks == () and made.left_out == {"a.png": ("1 polyline",)}
    assert "2 clicks in" in made.said()
    twice = shapes + '<points label="road" points="0,0"/>'
    with pytest.raises(ValueError, match=r"one label a pixel; x=0, y=0 of a.png is sky and road"):
        import_annotations(cvat(tmp_path, twice), "cvat", tmp_path / "new", out, classes=CLASSES)
    shapes = '<box label="sky" xtl="0" ytl="0" xbr="4" ybr="3"/>'
    import_annotations(cvat(tmp_path, shapes), "cvat", tmp_path / "new", out)
    assert not (out / "points.csv").exists() and labelled_of(out)["a.png"].tolist() == [[0] * 4] * 3
    assert (out / "classes.txt").read_text().split()[0] == "sky"


def pictures(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "new").rename(tmp_path / "set" / "images")
    (tmp_path / "new").symlink_to(tmp_path / "set" / "images")
    return tmp_path / "set"


def test_a_size_that_is_not_the_pictures_names_it(tmp_path):
    box = '<box label="sky" xtl="0" ytl="0" xbr="1" ybr="1"/>'
    with pytest.raises(ValueError, match=r"a.png .* 3 x 4 pixels .* 4 x 3: it read the picture lying"):
        import_annotations(cvat(tmp_path, box, width=3, height=4), "cvat", tmp_path / "new", tmp_path / "out")
    with pytest.raises(ValueError, match=r"the tool has 3 x 5; label it"):
        import_annotations(cvat(tmp_path, box, width=5), "cvat", tmp_path / "new", tmp_path / "out")


def test_a_picture_that_the_camera_turned_keeps_its_upright_size(tmp_path):
    picture, exif = Image.fromarray(np.zeros((3, 4, 3), np.uint8)), Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "new").mkdir()
    picture.save(tmp_path / "new" / "a.jpg", exif=exif)
    box = '<box label="sky" xtl="0" ytl="0" xbr="3" ybr="1"/>'
    path = tmp_path / "a.xml"
    path.write_text(CVAT.format(name="a.jpg", width=3, height=4, shapes=box))
    import_annotations(path, "cvat", tmp_path / "new", tmp_path / "out")
    assert read_mask(tmp_path / "out" / "masks" / "a.png").shape == (4, 3)
    assert open_labelled(f"folder:{tmp_path / 'out'}").images.size(0) == (4, 3)


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path):
    box = '<box label="sky" xtl="0" ytl="0" xbr="1" ybr="1"/>'
    path, new, out = cvat(tmp_path, box), tmp_path / "new", tmp_path / "out"
    wrong = [
        ((path, "voc", new, out), "expected a format among coco"),
        ((tmp_path / "b.xml", "cvat", new, out), "is missing"),
        ((tmp_path, "cvat", new, out), "expected a file of format cvat"),
        ((path, "yolo", new, out), "expected a folder of format yolo"),
        ((path, "cvat", path, out), "expected the folder of pictures"),
        ((path, "cvat", tmp_path / "b", out), "expected the folder of pictures"),
        ((path, "cvat", new, new), "to be empty or of an earlier import"),
    ]
    for words, message in wrong:
        with pytest.raises(ValueError, match=message):
            import_annotations(*words)
    with pytest.raises(ValueError, match="masks that `saot predict` wrote"):
        import_annotations(path, "cvat", new, out, before=path)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="expected pictures in"):
        import_annotations(path, "cvat", tmp_path / "none", out)
    with pytest.raises(ValueError, match="nobody has labelled any"):
        import_annotations(cvat(tmp_path, ""), "cvat", new, out)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"there is no picture 'b.png' in folder"):
        import_annotations(cvat(tmp_path, box, name="b.png"), "cvat", new, out)
    with pytest.raises(ValueError, match=r"expected labels among road, a & b, sky; a.png has 'cloud'"):
        import_annotations(cvat(tmp_path, box.replace("sky", "cloud")), "cvat", new, out, classes=CLASSES)
    import_annotations(path, "cvat", new, out)  # an import that was stopped is done again


def test_an_import_that_was_killed_at_its_first_file_is_done_again(tmp_path):
    mask, out = np.zeros((2, 2), np.uint8), tmp_path / "out"
    path, new = exported(tmp_path, "coco", [("a.png", mask)]), tmp_path / "new"
    out.mkdir()
    (out / "import.json.tmp-1-abc").write_text("{")
    assert import_annotations(path, "coco", new, out).masks == ("a.png",)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "other.tmp-1-abc").write_text("")
    with pytest.raises(ValueError, match=r"expected .*mine to be empty or of an earlier import"):
        import_annotations(path, "coco", new, tmp_path / "mine")


def test_names_that_label_studio_gives_are_found():
    find = picture_finder(["day/a b.png", "night/c.png", "12345678-d.png"], "folder new")
    for name, key in {
        "/data/local-files/?d=new/day/a%20b.png": 0,
        "/data/upload/3/1a2b3c4d-c.png": 1,
        "s3://bucket/new/night/c.png": 1,
        "http://localhost:8080/data/upload/3/12345678-d.png": 2,
        "day/a b": 0,
    }.items():
        assert find(picture_name(name, find), name) == key


def test_classes_are_those_of_a_file_or_a_known_set(tmp_path):
    (tmp_path / "classes.txt").write_text("road #010203\nsky\n")
    assert classes_named(str(tmp_path / "classes.txt"), ALL_WINGS).colors[0] == (1, 2, 3)
    assert classes_named("camvid11", ALL_WINGS).num_classes == 11
    with pytest.raises(ValueError, match=r"expected --classes as the folder of a run, a classes.txt"):
        classes_named(str(tmp_path), ALL_WINGS)
