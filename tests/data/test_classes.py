"""Class sets: published orders, colours, raw ids and means."""

import pickle

import pytest

from saot.data import CLASS_SET_NAMES, ClassSet, check_same_names, class_set, folder_class_set


def test_known_sets_have_their_published_sizes_and_means():
    sizes = {name: class_set(name).num_classes for name in CLASS_SET_NAMES}
    assert sizes == {"cityscapes19": 19, "synthia16": 19, "synthia13": 19, "voc21": 21, "camvid11": 11}
    assert len(class_set("synthia16").scored) == 16
    assert len(class_set("synthia13").scored) == 13
    assert class_set("cityscapes19").scored == tuple(range(19))
    unscored = set(range(19)) - set(class_set("synthia13").scored)
    names = class_set("synthia13").names
    assert {names[i] for i in unscored} == {"wall", "fence", "pole", "terrain", "truck", "train"}
    assert class_set("cityscapes19").subsets["miou16"] == class_set("synthia16").scored


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("cityscapes19", 7, "road"),
        ("cityscapes19", 26, "car"),
        ("cityscapes19", 33, "bicycle"),
        ("cityscapes19", 24, "person"),
        ("synthia16", 3, "road"),
        ("synthia16", 1, "sky"),
        ("synthia16", 15, "traffic light"),
        ("synthia13", 12, "motorcycle"),
        ("synthia16", 11, "bicycle"),
    ],
)
def test_raw_ids_lead_to_the_published_class(name, raw, expected):
    classes = class_set(name)
    assert classes.id_map is not None
    assert classes.names[classes.id_map[raw]] == expected


def test_every_class_has_one_raw_id():
    for name in ("cityscapes19", "synthia16"):
        id_map = class_set(name).id_map
        assert id_map is not None
        assert sorted(id_map.values()) == list(range(19))


def test_published_colors():
    assert class_set("cityscapes19").colors[13] == (0, 0, 142)
    assert class_set("cityscapes19").colors[10] == (70, 130, 180)
    voc = class_set("voc21").colors
    assert voc[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert voc[15] == (192, 128, 128)  # person
    assert voc[20] == (0, 64, 128)  # tvmonitor
    assert class_set("camvid11").colors[8] == (64, 0, 128)  # car


def test_unknown_set_names_the_known_ones():
    with pytest.raises(ValueError, match=r"cityscapes_19.*cityscapes19, synthia16"):
        class_set("cityscapes_19")


def test_folder_colors_are_distinct():
    colors = folder_class_set([f"c{i}" for i in range(255)]).colors
    assert len(set(colors)) == 255
    first = colors[:12]
    gaps = [sum(abs(a - b) for a, b in zip(p, q, strict=True)) for i, p in enumerate(first) for q in first[:i]]
    assert min(gaps) > 60  # twelve classes can be told apart by eye


@pytest.mark.parametrize("names", [[], [f"c{i}" for i in range(256)], ["a", "a"], ["a", " "]])
def test_bad_names_are_refused(names):
    with pytest.raises(ValueError, match="class"):
        folder_class_set(names)


def test_fields_have_to_fit():
    with pytest.raises(ValueError, match="2 names but 1 colours"):
        ClassSet("x", ("a", "b"), ((0, 0, 0),), None, {})
    with pytest.raises(ValueError, match="its classes are 0-0"):
        ClassSet("x", ("a",), ((0, 0, 0),), None, {"mean": (1,)})


def test_first_difference_is_named():
    mine = folder_class_set(["sky", "road"])
    check_same_names(mine, ["sky", "road"], "folder:b")
    with pytest.raises(ValueError, match=r"class 1 is 'tree' in folder:b but 'road'"):
        check_same_names(mine, ["sky", "tree", "road"], "folder:b")
    with pytest.raises(ValueError, match=r"3 classes but .* are 2, the first without partner being 'car'"):
        check_same_names(mine, ["sky", "road", "car"], "folder:b")
    with pytest.raises(ValueError, match=r"1 classes but .* are 2, the first without partner being 'road'"):
        check_same_names(mine, ["sky"], "folder:b")


def test_index_names_the_classes():
    assert class_set("camvid11").index("car") == 8
    with pytest.raises(ValueError, match=r"'lorry'.*pedestrian"):
        class_set("camvid11").index("lorry")


def test_sets_can_be_keys_and_travel():
    classes = class_set("synthia16")
    assert hash(classes) == hash(class_set("synthia16"))
    assert pickle.loads(pickle.dumps(classes)) == classes
