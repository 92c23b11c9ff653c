"""Points drawn, clicked and scribbled."""

import collections

import numpy as np
import pytest
import torch
from helpers.few_bits import few_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from saot.data import (
    ImageSet,
    LabelledSet,
    PatchGrid,
    Points,
    class_set,
    draw_points,
    folder_class_set,
    open_images,
    open_labelled,
    patch_labels,
    point_tokens,
    points_said,
    read_points_csv,
    read_scribbles,
    write_points_csv,
)

CLASSES = folder_class_set(["sky", "road", "2", "red, car"])


def labelled_set(masks, classes=CLASSES):
    """A set in memory from {key: mask}; counts how often each mask is opened."""
    keys, opened = tuple(masks), collections.Counter()

    def mask(index):
        opened[keys[index]] += 1
        return np.asarray(masks[keys[index]], np.uint8)

    def load(index):
        return np.zeros((*np.shape(masks[keys[index]]), 3), np.uint8)

    images = ImageSet("test:memory", classes, keys, load, lambda index: keys[index])
    return LabelledSet(images, mask), opened


def random_masks(count=4, size=(8, 9), seed=0):
    rng = np.random.default_rng(seed)
    return {f"p/{i}.png": rng.choice([0, 1, 1, 1, 3, 255], size) for i in range(count)}


def rows(points):
    return list(zip(points.keys, points.y, points.x, points.classes, strict=True))


# --- drawn from masks


@settings(max_examples=60, deadline=None)
@given(per_class=st.integers(1, 40), seed=st.integers(0, 50), scope=st.sampled_from(["picture", "total"]))
def test_draws_are_distinct_labelled_sorted_and_as_many_as_there_can_be(per_class, seed, scope):
    masks = random_masks(seed=seed)
    labelled, opened = labelled_set(masks)
    points = draw_points(labelled, per_class=per_class, seed=seed, scope=scope)
    found = rows(points)
    assert found == sorted(set(found))
    assert len({row[:3] for row in found}) == len(found)
    assert all(masks[key][y, x] == label for key, y, x, label in found)
    assert set(opened.values()) == {1}
    for label in (0, 1, 3):
        available = [int((mask == label).sum()) for mask in masks.values()]
        drawn = [sum(row[0] == key and row[3] == label for row in found) for key in masks]
        if scope == "picture":
            assert drawn == [min(per_class, n) for n in available]
        else:
            assert sum(drawn) == min(per_class, sum(available))


def test_draws_follow_the_seed_and_not_the_order_or_the_company():
    masks = random_masks()
    labelled, _ = labelled_set(masks)
    turned, _ = labelled_set(dict(reversed(masks.items())))
    for scope in ("picture", "total"):
        first = draw_points(labelled, per_class=3, seed=1, scope=scope)
        assert first == draw_points(labelled, per_class=3, seed=1, scope=scope)
        assert first == draw_points(turned, per_class=3, seed=1, scope=scope)
        assert first != draw_points(labelled, per_class=3, seed=2, scope=scope)
    alone, _ = labelled_set({"p/2.png": masks["p/2.png"]})
    together = draw_points(labelled, per_class=3, seed=1, scope="picture")
    assert rows(draw_points(alone, per_class=3, seed=1, scope="picture")) == [
        row for row in rows(together) if row[0] == "p/2.png"
    ]


def test_equal_masks_get_different_points():
    labelled, _ = labelled_set({f"{i}.png": np.zeros((50, 50)) for i in range(2)})
    points = draw_points(labelled, per_class=5, seed=0, scope="picture")
    assert {row[1:] for row in rows(points) if row[0] == "0.png"} != {
        row[1:] for row in rows(points) if row[0] == "1.png"
    }


def test_smaller_budgets_are_part_of_larger_ones():
    labelled, _ = labelled_set(random_masks())
    for scope in ("picture", "total"):
        small = rows(draw_points(labelled, per_class=2, seed=5, scope=scope))
        large = rows(draw_points(labelled, per_class=9, seed=5, scope=scope))
        assert set(small) < set(large)


def test_every_pixel_is_as_likely():
    """300 draws of 2 of 12 pixels: each pixel is expected 50 times, with a deviation of 6.5."""
    labelled, _ = labelled_set({"a.png": np.zeros((3, 4))})
    counts = np.zeros((3, 4))
    for seed in range(300):
        for _, y, x, _ in rows(draw_points(labelled, per_class=2, seed=seed, scope="picture")):
            counts[y, x] += 1
    assert counts.sum() == 600
    assert counts.min() > 50 - 4 * 6.5
    assert counts.max() < 50 + 4 * 6.5


def test_total_draw_spreads_over_the_pictures():
    labelled, _ = labelled_set({f"{i}.png": np.zeros((20, 20)) for i in range(5)})
    points = draw_points(labelled, per_class=200, seed=0, scope="total")
    counts = collections.Counter(points.keys)
    assert len(points) == 200
    assert min(counts.values()) > 15  # 40 expected of each


SIDES = st.integers(1, 40)


@settings(max_examples=80, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    patch=st.integers(1, 9),
    scale=st.floats(0.4, 2.5),
    per_class=st.integers(1, 6),
    seed=st.integers(0, 50),
    scope=st.sampled_from(["picture", "total"]),
    ignore=st.sampled_from(["exclude", "include"]),
)
def test_points_by_patch_agree_with_their_patch(height, width, patch, scale, per_class, seed, scope, ignore):
    rng = np.random.default_rng(seed)
    masks = {f"{n}.png": rng.choice([0, 1, 1, 1, 3, 255], (height, width)).astype(np.uint8) for n in range(2)}
    size = max(patch, round(height * scale)), max(patch, round(width * scale))  # the last patch padded, or cut off
    rows_, columns = -(-size[0] // patch), size[1] // patch
    grid = PatchGrid(height, width, *size, patch, rows_, columns)
    labelled, _ = labelled_set(masks)
    maps = {
        key: patch_labels(mask, grid, num_classes=len(CLASSES.names), ignore=ignore).numpy()
        for key, mask in masks.items()
    }
    wanted_too = {"per_class": per_class, "seed": seed, "scope": scope, "grid_of": lambda *_: grid, "ignore": ignore}
    if all((found == 255).all() for found in maps.values()):
        with pytest.raises(ValueError, match="no mask of test:memory has a labelled patch"):
            draw_points(labelled, **wanted_too)
        return
    points = draw_points(labelled, **wanted_too)
    drawn = collections.Counter()
    for key, y, x, label in rows(points):
        token = int(point_tokens(torch.tensor([x]), torch.tensor([y]), grid))
        assert masks[key][y, x] == label == maps[key][token]
        drawn[key, label, token] += 1
    assert set(drawn.values()) <= {1}  # a patch is drawn once
    if size[0] <= height and size[1] <= width:  # every class of a patch then has a pixel's centre in it
        for label in (0, 1, 3):
            there = [int((found == label).sum()) for found in maps.values()]
            wanted = min(per_class, sum(there)) if scope == "total" else sum(min(per_class, n) for n in there)
            assert sum(found == label for _, found, _ in drawn) == wanted


def test_a_patch_is_its_pixel_nearest_the_centre_and_every_patch_is_as_likely():
    mask = np.zeros((10, 20), np.uint8)
    mask[:5, :5] = 1  # of the first patch a quarter
    labelled, _ = labelled_set({"a.png": mask})
    grid = PatchGrid(10, 20, 10, 20, 10, 1, 2)
    points = draw_points(labelled, per_class=5, seed=0, grid_of=lambda *_: grid)
    assert [(x // 10, label) for x, label in zip(points.x, points.classes, strict=True)] == [(0, 0), (1, 0)]
    assert set(points.y) <= {4, 5} and set(points.x) <= {4, 5, 14, 15}
    assert len(draw_points(labelled, per_class=5, seed=0)) == 10  # pixels: five of each class
    wins = collections.Counter(
        draw_points(labelled, per_class=1, seed=seed, grid_of=lambda *_: grid).x[0] // 10 for seed in range(200)
    )
    assert 60 < wins[0] < 140  # 100 expected, deviation 7: not in proportion to the pixels, 75 and 100


def test_a_known_draw_never_changes():
    """A run that is resumed with a later version has to find the points it declared."""
    labelled, _ = labelled_set({"a.png": np.arange(24).reshape(4, 6) % 2})
    points = draw_points(labelled, per_class=2, seed=0, scope="picture")
    assert rows(points) == [("a.png", 0, 2, 0), ("a.png", 2, 3, 1), ("a.png", 2, 4, 0), ("a.png", 3, 3, 1)]


def test_no_points_open_no_mask():
    labelled, opened = labelled_set(random_masks())
    points = draw_points(labelled, per_class=0, seed=0, scope="picture")
    assert len(points) == 0
    assert not opened
    assert [len(column) for column in points.of("p/0.png")] == [0, 0, 0]


def test_wrong_draws_are_refused():
    labelled, _ = labelled_set({"a.png": np.full((2, 2), 255)})
    with pytest.raises(ValueError, match="no mask of test:memory has a labelled pixel"):
        draw_points(labelled, per_class=1, seed=0, scope="picture")
    with pytest.raises(ValueError, match="at least 0, but are -1 and 0"):
        draw_points(labelled, per_class=-1, seed=0, scope="picture")
    with pytest.raises(ValueError, match="at least 0, but are 1 and -3"):
        draw_points(labelled, per_class=1, seed=-3, scope="picture")


def test_progress_counts_masks():
    labelled, _ = labelled_set(random_masks(count=3))
    told = []
    draw_points(labelled, per_class=1, seed=0, scope="total", progress=lambda *now: told.append(now))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_points_of_a_picture():
    points = Points(("a", "b", "a"), (1, 2, 3), (4, 5, 6), (0, 1, 2))
    x, y, classes = points.of("a")
    assert (x.tolist(), y.tolist(), classes.tolist()) == ([1, 3], [4, 6], [0, 2])
    assert x.dtype == y.dtype == classes.dtype == torch.int64
    with pytest.raises(ValueError, match="a key, x, y and class each"):
        Points(("a",), (1,), (), (2,))


# --- clicked


@pytest.fixture
def clicked(tmp_path):
    labelled, _ = labelled_set(
        {"train/a.png": np.zeros((4, 6)), "train/b.png": np.zeros((5, 5)), "val/a.png": np.zeros((4, 6))}
    )

    def read(text, **options):
        (tmp_path / "points.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return read_points_csv(tmp_path / "points.csv", labelled.images, CLASSES, **options)

    return read


def test_csv_names_and_indices(clicked):
    points = clicked('image,x,y,class\ntrain/b.png,4,0,road\ntrain/a.png,5,3,0\nb,1,2,3\nb.png,0,2,"red, car"\n')
    assert rows(points) == [
        ("train/a.png", 3, 5, 0),
        ("train/b.png", 0, 4, 1),
        ("train/b.png", 2, 0, 3),
        ("train/b.png", 2, 1, 3),
    ]


def test_csv_a_name_goes_before_an_index(tmp_path):
    """Classes may be called by numbers; what a person writes then means the name."""
    numbers = folder_class_set(["1", "0", "7"])
    labelled, _ = labelled_set({"a.png": np.zeros((2, 2))}, numbers)
    (tmp_path / "points.csv").write_text("image,x,y,class\na,0,0,0\na,1,0,1\na,0,1,7\na,1,1,2\n")
    points = read_points_csv(tmp_path / "points.csv", labelled.images, numbers)
    assert points.classes == (1, 0, 2, 2)


def test_csv_as_spreadsheets_write_it(clicked):
    text = '\ufeffImage,Class, Y ,X,Note\r\nb,sky,1.9,2.0,hello\r\n\r\n"train/a.png",road,0,0,\r\n'
    assert rows(clicked(text)) == [("train/a.png", 0, 0, 1), ("train/b.png", 1, 2, 0)]
    assert rows(clicked("image,x,y,class\ntrain\\a.png,0,0,0\n")) == [("train/a.png", 0, 0, 0)]


@pytest.mark.parametrize(
    "name", ["b.png", "./train/b.png", "/data/new/images/train/b.png", r"C:\new\train\b.png", "/x/train/b"]
)
def test_csv_a_path_that_ends_with_a_key_names_its_picture(clicked, name):
    assert rows(clicked(f"image,x,y,class\n{name},1,2,0\n")) == [("train/b.png", 2, 1, 0)]


def test_csv_the_longest_end_of_a_path_counts(tmp_path):
    labelled, _ = labelled_set(
        {"a.png": np.zeros((4, 6)), "sub/a.png": np.zeros((4, 6)), "c/d/e.png": np.zeros((4, 6))}
    )
    (tmp_path / "p.csv").write_text("image,x,y,class\n/x/sub/a.png,1,0,0\n/x/a.png,2,0,0\nd/e.png,3,0,0\n")
    found = read_points_csv(tmp_path / "p.csv", labelled.images, CLASSES)
    assert rows(found) == [("a.png", 0, 2, 0), ("c/d/e.png", 0, 3, 0), ("sub/a.png", 0, 1, 0)]


@pytest.mark.parametrize(
    "text",
    [
        "image;x;y;class\nb;1,5;2;Sky\n",
        "sep=;\nimage;x;y;class\nb;1,5;2,0;0\n",
        "File Name\tX\tY\tLabel\n b\t1.0\t2.0\tSKY\n",
        "image_path,col,row,class_id,score\nb,1.0,2.0,0.0,9\n",
        '"filename","px","py","category"\n"b.png",1,2,"sky"\n',
        "row,class,image,x,y\n77,sky,b,1,2\n",
    ],
)
def test_csv_as_other_programs_write_it(clicked, text):
    assert rows(clicked(text)) == [("train/b.png", 2, 1, 0)]


def test_csv_class_names_in_other_letters(tmp_path):
    classes = folder_class_set(["traffic light", "Car", "car"])
    labelled, _ = labelled_set({"a.png": np.zeros((2, 2))}, classes)
    (tmp_path / "p.csv").write_text("image,x,y,class\na,0,0,Traffic_Light\na,1,0,car\na,0,1,Car\n")
    assert read_points_csv(tmp_path / "p.csv", labelled.images, classes).classes == (0, 2, 1)
    (tmp_path / "p.csv").write_text("image,x,y,class\na,0,0,CAR\n")
    with pytest.raises(ValueError, match="no class 'CAR'"):  # of two that differ in letters alone, one must be named
        read_points_csv(tmp_path / "p.csv", labelled.images, classes)


def test_what_was_read_is_said(tmp_path, clicked):
    labelled, _ = labelled_set({"train/b.png": np.zeros((5, 5)), "c.png": np.zeros((5, 5))})
    points = clicked("file;x;y;Class\nb;1;2;sky\nb;2;2;0\nb;3;3;road\n")
    said = points_said(tmp_path / "points.csv", points, labelled.images, CLASSES)
    assert said.startswith(f"{tmp_path / 'points.csv'}: 3 points in 1 of 2 pictures: sky 2, road 1; none of ")
    assert said.endswith("(image from the column 'file', parted by semicolons)")
    points = clicked("image,x,y,class\nb,1,2,sky\n")
    assert not points_said(tmp_path / "points.csv", points, labelled.images, CLASSES).endswith(")")


def test_csv_same_point_twice_counts_once(clicked):
    assert len(clicked("image,x,y,class\nb,1,1,0\nb.png,1,1,sky\n")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,x,y,class\nb,5,0,0\n", r"line 2 .* x=5, y=0 lies outside train/b\.png, which has 5x5"),
        ("image,x,y,class\ntrain/a.png,0,4,0\n", r"x=0, y=4 lies outside train/a\.png, which has 6x4"),
        ("image,x,y,class\nb,-1,0,0\n", r"x=-1, y=0 lies outside"),
        ("image,x,y,class\nb,-0.5,0,0\n", r"x=-1, y=0 lies outside"),
        ("image,x,y,class\nb,0,0,0\nc,0,0,0\n", r"line 3 .*no picture 'c' in test:memory.*'train/a\.png'"),
        ("image,x,y,class\na,0,0,0\n", r"line 2 .*2 pictures are called 'a'"),
        ("image,x,y,class\ntest/a.png,0,0,0\n", r"no picture 'test/a\.png'"),
        (
            "image,x,y,class\nb,0,0,tree\n",
            r"line 2 .*no class 'tree'; give an index 0-3 or a name of sky, road",
        ),
        ("image,x,y,class\nb,0,0,4\n", r"no class '4'"),
        ("image,x,y,class\nb,0,0,255\n", r"no class '255'"),
        ("image,x,y,class\nb,0,0,-1\n", r"no class '-1'"),
        ("image,x,y,class\nb,one,0,0\n", r"line 2 .*'one' is no pixel coordinate"),
        ("image,x,y,class\nb,nan,0,0\n", r"'nan' is no pixel coordinate"),
        ("image,x,y,class\nb,inf,0,0\n", r"'inf' is no pixel coordinate"),
        ("image,x,y,class\nb,,0,0\n", r"'' is no pixel coordinate"),
        ("image,x,y,class\nb,0,0\n", r"line 2 .* has 3 columns, but its header has 4"),
        ("image,x,y,class\nb,1,1,0\nb,1,1,1\n", r"line 3 .* says 'road' for a pixel that line 2 calls 'sky'"),
        ("image;x;y;kind\nb;0;0;0\n", r"must name the columns image,x,y,class, .*class may be called class_name"),
        ("file,x,y,label\nb,0,0,3.5\n", r"no class '3.5'"),
        ("file,x,y,label\nelse/a.png,0,0,0\n", r"no picture 'else/a\.png'"),
        ("label,Label,x,y,image\n0,0,0,0,b\n", r"which has 'label' twice"),
        ("b,0,0,0\n", r"must name the columns"),
        ("image,x,x,y,class\nb,0,0,0,0\n", r"must name the columns"),
        ("image,x,y,class\n", r"has no points"),
        ("", r"must name the columns .*'missing'"),
        (b"\xff\xfe\x00\x01", r"no CSV table in UTF-8"),
        ('image,x,y,class\n"b,0,0,0\n', r"no CSV table"),
    ],
)
def test_csv_errors_say_where(clicked, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        clicked(text)
    assert "\n" not in str(caught.value)


def test_csv_missing_file(tmp_path):
    labelled, _ = labelled_set(random_masks())
    with pytest.raises(ValueError, match=r"points file .*gone\.csv is missing"):
        read_points_csv(tmp_path / "gone.csv", labelled.images, CLASSES)


def test_csv_sizes_can_be_told(clicked):
    assert len(clicked("image,x,y,class\nb,90,0,0\n", size_of=lambda index: (1, 100))) == 1


def test_written_points_come_back(tmp_path):
    labelled, _ = labelled_set({'odd, "key".png': np.arange(24).reshape(4, 6) % 4, "ü/b.png": np.zeros((3, 3))})
    points = draw_points(labelled, per_class=3, seed=0, scope="picture")
    path = tmp_path / "run" / "points.csv"
    write_points_csv(path, points, CLASSES)
    assert path.read_text(encoding="utf-8").startswith("image,x,y,class\n")
    assert "red, car" in path.read_text(encoding="utf-8")
    assert read_points_csv(path, labelled.images, CLASSES) == points
    assert [entry.name for entry in path.parent.iterdir()] == ["points.csv"]


# --- scribbled


@pytest.fixture
def scribbled(tmp_path):
    for name in ("a", "sub/b"):
        for place in ("images", "scribbles"):
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
    strokes = np.full((20, 30), 255, np.uint8)
    strokes[3, 5:25] = 1
    strokes[10, 7:9] = 3
    Image.fromarray(strokes).save(tmp_path / "scribbles" / "sub" / "b.png")
    return tmp_path, strokes


def test_scribbles_are_thinned_by_seed(scribbled):
    root, strokes = scribbled
    images = open_images(f"folder:{root}")
    points = read_scribbles(root / "scribbles", images, CLASSES, per_class=5)
    assert set(points.keys) == {"sub/b.jpg"}
    assert collections.Counter(points.classes) == {1: 5, 3: 2}
    assert all(strokes[y, x] == label for _, y, x, label in rows(points))
    assert rows(points) == sorted(rows(points))
    assert points == read_scribbles(root / "scribbles", images, CLASSES, per_class=5)
    assert points != read_scribbles(root / "scribbles", images, CLASSES, per_class=5, seed=1)
    assert len(read_scribbles(root / "scribbles", images, CLASSES)) == 22


def test_scribbles_of_few_bits_keep_their_classes(scribbled):
    """In 2 bits there is no 255 for "unmarked", so every pixel is marked."""
    root, strokes = scribbled
    few_bits(root / "scribbles" / "sub" / "b.png", np.where(strokes == 255, 0, strokes), 2)
    points = read_scribbles(root / "scribbles", open_images(f"folder:{root}"), CLASSES, per_class=2)
    assert collections.Counter(points.classes) == {0: 2, 1: 2, 3: 2}
    assert all(strokes[y, x] in (label, 255) for _, y, x, label in rows(points))


def test_scribble_errors(scribbled):
    root, strokes = scribbled
    images = open_images(f"folder:{root}")
    path = root / "scribbles" / "sub" / "b.png"

    def read():
        return read_scribbles(root / "scribbles", images, CLASSES)

    Image.fromarray(strokes[:, :29].copy()).save(path)
    with pytest.raises(ValueError, match=r"b\.png has 29x20 pixels but its picture sub/b\.jpg has 30x20"):
        read()
    Image.fromarray(np.where(strokes == 3, 4, strokes)).save(path)
    with pytest.raises(ValueError, match=r"b\.png has the value 4 in 2 pixels"):
        read()
    Image.fromarray(np.full_like(strokes, 255)).save(path)
    with pytest.raises(ValueError, match=r"no scribble in .* has a marked pixel"):
        read()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match="colour picture"):
        read()
    Image.fromarray(strokes).save(root / "scribbles" / "c.png")
    Image.fromarray(strokes).save(path)
    with pytest.raises(ValueError, match=r"scribble .*c\.png: there is no picture 'c'"):
        read()
    with pytest.raises(ValueError, match=r"expects the folder .*gone, which is missing"):
        read_scribbles(root / "gone", images, CLASSES)
    with pytest.raises(ValueError, match="per_class must be at least 1"):
        read_scribbles(root / "scribbles", images, CLASSES, per_class=0)


def test_points_of_a_data_set_on_disk(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.resize(np.array([0, 1, 255], np.uint8), (4, 6))).save(tmp_path / "masks" / "a.png")
    labelled = open_labelled(f"folder:{tmp_path}", class_set("camvid11"))
    points = draw_points(labelled, per_class=2, seed=0, scope="picture")
    write_points_csv(tmp_path / "points.csv", points, labelled.classes)
    assert "building" in (tmp_path / "points.csv").read_text()
    assert read_points_csv(tmp_path / "points.csv", labelled.images, labelled.classes) == points
