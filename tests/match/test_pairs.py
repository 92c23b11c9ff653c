"""Pairs in the public formats, written small: what comes out, how lists are drawn, and what wrong input is told."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from saot.match.pairs import pascal as pair_pascal
from saot.match.pairs.files import FLOW_MAGIC, options, read_flow
from saot.match.pairs.key_points import (
    AP10K_GROUPS,
    AP10K_MIRROR,
    AP10K_POINTS,
    SPAIR_CATEGORIES,
    VOC_CLASSES,
    spair_groups,
    spair_mirror,
)
from saot.match.pairs.pairs import DenseFlow, Lens, Pair, PairSide, mirrored
from saot.match.pairs.readers import open_pairs


def picture(path, size, value=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8)
    pixels[:, 0] = 255  # so that a mirror shows
    Image.fromarray(pixels).save(path)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def side(points, visible, size=(20, 40), **more):
    points = np.asarray(points, np.float64).reshape(-1, 2)
    return PairSide("one", size, points, np.asarray(visible, bool), lambda: np.zeros((*size, 3), np.uint8), **more)


# --- the types


def test_a_pair_knows_common_and_geometry_aware_points_and_its_mirror():
    places = np.arange(8.0).reshape(4, 2)
    source, target = side(places, [1, 1, 0, 1]), side(places + 1, [1, 0, 1, 1])
    pair = Pair("k", "cat", source, target, ("a", "b", "c", "d"), mirror=((0, 1), (2, 3)), groups=((0, 1), (2, 3)))
    assert pair.common.tolist() == [True, False, False, True]
    # row 0: the target does not show row 1; row 3: the target shows rows 2 and 3, the source need not
    assert pair.geometry_aware.tolist() == [False, False, False, True]
    assert pair.mirror_rows.tolist() == [1, 0, 3, 2]
    asked, answers = pair.common_points()
    assert asked.tolist() == [[0, 1], [6, 7]] and answers.tolist() == [[1, 2], [7, 8]]


def test_a_mirror_swaps_left_and_right_and_the_camera():
    lens = Lens(10.0, 10.0, 3.0, 9.5)
    depth = np.arange(1, 801, dtype=np.float32).reshape(20, 40)
    one = side([[1, 2], [5, 6], [0, 0]], [1, 0, 0], box=(0.0, 1.0, 9.0, 8.0), load_depth=lambda: depth, lens=lens)
    other = mirrored(one, ((0, 1),))
    assert other.points.tolist() == [[34, 6], [38, 2], [0, 0]]  # 39 - x; the place nobody knows stays
    assert other.visible.tolist() == [False, True, False]
    assert other.box == (30, 1, 39, 8)
    flipped = one.space()[:, ::-1] * [-1, 1, 1]
    np.testing.assert_allclose(other.space(), flipped, rtol=0, atol=1e-4)  # float32, hundreds of metres
    twice = mirrored(other, ((0, 1),))
    assert (twice.points == one.points).all() and (twice.depth() == depth).all()


def test_types_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match=r"key point 1 of one is marked as seen at x=60, y=3, outside .* 40x20"):
        side([[1, 1], [60, 3]], [1, 1])
    side([[1, 1], [60, 3]], [1, 0])  # a hidden point may lie outside
    side([[-1.5, 21]], [1])  # two pixels are forgiven
    with pytest.raises(ValueError, match="not finite; mark it"):
        side([[np.nan, 1]], [0])
    with pytest.raises(ValueError, match=r"the box \(5.0, 5.0, 5.0, 9.0\)"):
        side([[1, 1]], [1], box=(5.0, 5.0, 5.0, 9.0))
    with pytest.raises(ValueError, match="names 2 key points, but its source has 1"):
        Pair("k", "cat", side([[1, 1]], [1]), side([[1, 1]], [1]), ("a", "b"))
    with pytest.raises(ValueError, match="name row 4"):
        Pair("k", "cat", side([[1, 1]], [1]), side([[1, 1]], [1]), ("a",), mirror=((0, 4),))
    bare = Pair("k", "cat", side([[1, 1]], [1]), side([[1, 1]], [1]), ("a",))
    for ask, text in ((bare.flow, "no dense flow"), (bare.source.mask, "without a mask"), (bare.source.space, "depth")):
        with pytest.raises(ValueError, match=text):
            ask()
    with pytest.raises(ValueError, match=r"the picture of one has 4x4 pixels .* says 40x20"):
        PairSide("one", (20, 40), np.zeros((0, 2)), np.zeros(0, bool), lambda: np.zeros((4, 4, 3), np.uint8)).image()
    with pytest.raises(ValueError, match="not finite"):
        DenseFlow(np.full((1, 1, 2), np.inf, np.float32), np.ones((1, 1), bool))


def test_a_lens_projects_what_it_unprojects():
    lens, depth = Lens(80.0, 90.0, 12.0, 7.0), np.random.default_rng(0).uniform(1, 50, (9, 11)).astype(np.float32)
    depth[0, 0] = np.inf
    points = lens.unproject(depth)
    rows, columns = np.indices(depth.shape)
    finite = np.isfinite(depth)
    places = lens.project(points[finite].astype(np.float64))
    # float32 keeps seven digits of points up to 50 away
    np.testing.assert_allclose(places, np.stack([columns, rows], -1)[finite], rtol=0, atol=1e-4)
    assert np.isinf(points[0, 0]).all()


# --- tables


@pytest.mark.parametrize("category", SPAIR_CATEGORIES)
def test_tables_are_made_of_pairs_that_do_not_meet(category):
    mirror, groups = spair_mirror(category), spair_groups(category)
    for parts in (mirror, groups):
        flat = list(itertools.chain(*parts))
        assert len(flat) == len(set(flat)) and all(0 <= number < 30 for number in flat)
    assert all(len(group) >= 2 for group in groups) and all(a < b for a, b in mirror)
    whole = {number for group in groups for number in group}
    for pair in mirror:  # a mirror pair lies in one group, or in none
        assert set(pair) <= whole or not set(pair) & whole
        assert sum(bool(set(pair) & set(group)) for group in groups) <= 1


def test_tables_as_published():
    assert set(SPAIR_CATEGORIES) == set(VOC_CLASSES) - {"diningtable", "sofa"}
    assert (2, 3, 6, 7) in spair_groups("car") and (11, 14, 21, 24) in spair_groups("bus")  # lights; wheels
    assert (4, 8) in spair_groups("car") and (4, 8) not in spair_mirror("car")  # plates
    assert (6, 7) in spair_mirror("car") and (5, 6) in spair_mirror("bus")  # rear lights
    assert not {0, 1, 4, 5, 6, 7} & set(itertools.chain(*spair_groups("cat")))  # no faces
    assert spair_groups("chair")[0] == (4, 5, 6, 7)
    sides = {(name.replace("left", "right"), name) for name in AP10K_POINTS if "left" in name}
    assert {tuple(sorted((AP10K_POINTS[b], AP10K_POINTS[a]), reverse=True)) for a, b in AP10K_MIRROR} == sides
    assert (7, 10, 13, 16) in AP10K_GROUPS and [AP10K_POINTS[row] for row in (7, 16)] == [
        "left_front_paw",
        "right_back_paw",
    ]
    with pytest.raises(ValueError, match="no category 'sofa'"):
        spair_mirror("sofa")


# --- SPair-71k

CAT = "000007-2008_000001-2008_000002:cat"


@pytest.fixture
def spair(tmp_path):
    """One pair of cats: ids 2, 3 and 9 in common; the target alone shows the paw 10."""
    own = {"2008_000001": {2: [4, 5], 3: [8, 5], 9: [6, 15], 8: [6, 8]}, "2008_000002": {2: [14, 5], 3: [18, 5]}}
    own["2008_000002"] |= {9: [16, 12.5], 10: [19, 13]}
    for name, points in own.items():
        kps = {str(number): points.get(number) for number in range(30)}
        write_json(tmp_path / "SPair-71k" / "ImageAnnotation" / "cat" / f"{name}.json", {"kps": kps})
    root = tmp_path / "SPair-71k"
    picture(root / "JPEGImages" / "cat" / "2008_000001.jpg", (20, 30))
    picture(root / "JPEGImages" / "cat" / "2008_000002.jpg", (22, 40))
    pixels = np.zeros((22, 40), np.uint8)
    pixels[2:14, 10:25], pixels[0, 0], pixels[1, 1] = VOC_CLASSES.index("cat") + 1, 255, 3
    (root / "Segmentation" / "cat").mkdir(parents=True)
    Image.fromarray(pixels).save(root / "Segmentation" / "cat" / "2008_000002.png")
    pair = {
        "pair_id": 7, "category": "cat", "src_imname": "2008_000001.jpg", "trg_imname": "2008_000002.jpg",
        "src_imsize": [30, 20, 3], "trg_imsize": [40, 22, 3], "src_bndbox": [2, 3, 20, 18],
        "trg_bndbox": [10, 2, 26, 14],
        "src_kps": [[4, 5], [8, 5], [6, 15]], "trg_kps": [[14, 5], [18, 5], [16, 12.5]], "kps_ids": ["2", "3", "9"],
        "mirror": 0, "viewpoint_variation": 1, "scale_variation": 2, "truncation": 3, "occlusion": 0,
    }  # fmt: skip
    write_json(root / "PairAnnotation" / "test" / f"{CAT}.json", pair)
    (root / "Layout" / "large").mkdir(parents=True)
    (root / "Layout" / "large" / "test.txt").write_text(f"{CAT}\n")
    return root


def test_spair_gives_points_box_attributes_masks_and_groups(spair):
    pairs = open_pairs(f"spair:{spair.parent}:test")
    assert (len(pairs), pairs.keys, pairs.categories) == (1, (CAT,), ("cat",))
    pair = pairs[0]
    assert np.flatnonzero(pair.common).tolist() == [2, 3, 9]
    asked, answers = pair.common_points()
    assert asked.tolist() == [[4, 5], [8, 5], [6, 15]] and answers.tolist() == [[14, 5], [18, 5], [16, 12.5]]
    assert np.flatnonzero(pair.source.visible).tolist() == [2, 3, 8, 9]
    assert np.flatnonzero(pair.target.visible).tolist() == [2, 3, 9, 10]
    assert np.flatnonzero(pair.geometry_aware).tolist() == [2, 3, 9]  # 9 because of the target's paw 10
    assert pair.names[9] == "9" and pair.mirror_rows[9] == 10
    assert dict(pair.attributes) == {"viewpoint": 1, "scale": 2, "truncation": 3, "occlusion": 0, "mirror": 0}
    assert pair.target.box == (10, 2, 26, 14) and pair.target.size == (22, 40)
    assert pair.target.image().shape == (22, 40, 3)
    assert pair.target.mask().sum() == 12 * 15  # the cat alone, no border and no other class
    assert pair.source.load_mask is None
    assert open_pairs(f"spair:{spair}").keys == pairs.keys  # test is the default, with or without the inner folder
    (spair / "Layout" / "large" / "test.txt").unlink()
    assert open_pairs(f"spair:{spair}").keys == pairs.keys  # found without its list, too


def test_spair_says_what_is_wrong(spair):
    path = spair / "PairAnnotation" / "test" / f"{CAT}.json"
    good = json.loads(path.read_text())

    for match, changes in (
        (r"lacks trg_bndbox", {"trg_bndbox": None}),
        (r"has 3 points in src_kps for the ids \['2', '3'\]", {"kps_ids": ["2", "3"]}),
        (r"uses key point 11, which .*2008_000001.json does not have", {"kps_ids": ["2", "3", "11"]}),
        (r"trg_bndbox of .* should be 4 finite numbers", {"trg_bndbox": [1, 2, 3]}),
        (r"src_kps of .* should be any x 2", {"src_kps": [[1, 2, 3]]}),
        (r"outside its picture of 40x22", {"trg_kps": [[14, 5], [18, 5], [1600, 12]]}),
        (r"no category 'unicorn'", {"category": "unicorn"}),
    ):
        write_json(path, {key: value for key, value in (good | changes).items() if value is not None})
        with pytest.raises(ValueError, match=match):
            open_pairs(f"spair:{spair}")[0]
    write_json(path, good | {"trg_imsize": [41, 22, 3]})
    with pytest.raises(ValueError, match=r"has 40x22 pixels .* annotation says 41x22"):
        open_pairs(f"spair:{spair}")[0].target.image()
    path.write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        open_pairs(f"spair:{spair}")[0]
    path.unlink()
    with pytest.raises(ValueError, match=r"annotation .*cat.json is missing"):
        open_pairs(f"spair:{spair}")[0]
    with pytest.raises(ValueError, match="splits trn, val and test, but 'tset' came"):
        open_pairs(f"spair:{spair}:tset")
    with pytest.raises(ValueError, match="found no pair"):
        open_pairs(f"spair:{spair}:val")
    with pytest.raises(ValueError, match=r"small.*is missing"):
        open_pairs(f"spair:{spair}:test,layout=small")
    with pytest.raises(ValueError, match="expected the folder PairAnnotation"):
        open_pairs(f"spair:{spair / 'Layout'}")


# --- PF-PASCAL


@pytest.fixture
def pascal(tmp_path):
    root = tmp_path / "PF-dataset-PASCAL"
    for name, shift in (("2008_000001", 0), ("2008_000002", 10)):
        picture(root / "JPEGImages" / f"{name}.jpg", (20, 40))
        kps = np.array([[3.0 + shift, 4], [np.nan, np.nan] if shift else [9, 9], [6.5 + shift, 12]])
        (root / "Annotations" / "cat").mkdir(parents=True, exist_ok=True)
        savemat(root / "Annotations" / "cat" / f"{name}.mat", {"kps": kps, "bbox": np.array([[1.0, 2, 30, 18]])})
    names = "PF-dataset-PASCAL/JPEGImages/2008_000001.jpg,PF-dataset-PASCAL/JPEGImages/2008_000002.jpg,8"
    head = "source_image,target_image,class"
    (root / "test_pairs_pf_pascal.csv").write_text(f"{head},XA,YA,XB,YB\n{names},3;6.5,4;12,13;16.5,4;12\n")
    (root / "train_pairs_pf_pascal.csv").write_text(f"{head},flip\n{names},0\n{names},1\n")
    return root


def test_pf_pascal_reads_lists_and_mat_files(pascal):
    (pair,) = open_pairs(f"pf-pascal:{pascal}:test")
    assert pair.category == "cat" and pair.common.all() and pair.target.box is None
    assert pair.source.points.tolist() == [[3, 4], [6.5, 12]] and pair.target.points.tolist() == [[13, 4], [16.5, 12]]
    assert pair.source.image().shape == (20, 40, 3) and pair.source.size == (20, 40)
    assert open_pairs(f"pf-pascal:{pascal}:test,boxes=yes")[0].target.box == (1, 2, 30, 18)
    plain, flipped = open_pairs(f"pf-pascal:{pascal.parent}:train")
    assert plain.common.tolist() == [True, False, True] and plain.source.visible.tolist() == [True, True, True]
    assert plain.target.points.tolist() == [[13, 4], [0, 0], [16.5, 12]]
    assert flipped.target.points.tolist() == [[26, 4], [0, 0], [22.5, 12]]  # 39 - x, both pictures
    assert flipped.source.points.tolist() == [[36, 4], [30, 9], [32.5, 12]]
    assert (flipped.source.image() == plain.source.image()[:, ::-1]).all()
    assert flipped.source.box == (9, 2, 38, 18)
    assert len({pair.key for pair in open_pairs(f"pf-pascal:{pascal}:train")}) == 2


def test_pf_pascal_says_what_is_wrong(pascal, monkeypatch):
    path = pascal / "test_pairs_pf_pascal.csv"
    good = path.read_text()
    for wrong, match in (
        (good.replace("13;16.5", "13;16.5;20"), r"has 2, 2, 3, 2 numbers in XA, YA, XB and YB"),
        (good.replace(",8,", ",21,"), r"line 2 of .* has the class '21', but 1 to 20"),
        (good.replace("13;16.5", "13;x"), r"a column of line 2 .* should be any numbers"),
        (good.replace("13;16.5", "13;1650"), r"outside its picture of 40x20"),
        (good.rpartition(",")[0], r"has 6 columns, but source, target, class, XA, YA, XB and YB"),
        (good.splitlines()[0], r"lists no pair"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=match):
            open_pairs(f"pf-pascal:{pascal}:test")[0]
    with pytest.raises(ValueError, match=r"val_pairs_pf_pascal.csv is missing"):
        open_pairs(f"pf-pascal:{pascal}:val")
    with pytest.raises(ValueError, match="splits train, val and test"):
        open_pairs(f"pf-pascal:{pascal}:trn")
    for damage, match in (
        (
            lambda file: savemat(file, {"kps": np.zeros((3, 3)), "bbox": np.zeros(4)}),
            r"kps in .* has the shape \(3, 3\)",
        ),
        (lambda file: savemat(file, {"kps": np.zeros((3, 2))}), "lacks bbox"),
        (lambda file: file.write_bytes(b"no matlab"), "no MATLAB file"),
        (lambda file: file.unlink(), "is missing; copy the whole release"),
    ):
        pair_pascal._annotation.cache_clear()
        damage(pascal / "Annotations" / "cat" / "2008_000001.mat")
        with pytest.raises(ValueError, match=match):
            open_pairs(f"pf-pascal:{pascal}:train")[0]
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(ValueError, match="SciPy reads; install it with: pip install scipy"):
        open_pairs(f"pf-pascal:{pascal}:train")[0]


# --- TSS


def write_flow(path, flow, magic=FLOW_MAGIC):
    height, width, _ = flow.shape
    head = np.array([magic], "<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    path.write_bytes(head + flow.astype("<f4").tobytes())


@pytest.fixture
def tss(tmp_path):
    """A folder in each subset; flow2 leads from image2 (12 x 16) to image1 (10 x 14), flow1 back."""
    for subset in ("FG3DCar", "JODS", "PASCAL"):
        folder = tmp_path / subset / "a-b"
        for number, size in ((1, (10, 14)), (2, (12, 16))):
            picture(folder / f"image{number}.png", size)
            mask = np.zeros(size, np.uint8)
            mask[2:6, 3:9] = 255
            Image.fromarray(mask).save(folder / f"mask{number}.png")
            flow = np.full((*size, 2), 1e10, np.float32)
            flow[1:6, 2:9] = [number, -number]
            flow[2, 3] = np.nan
            write_flow(folder / f"flow{number}.flo", flow)
    return tmp_path


def test_tss_gives_both_directions_with_flow_inside_the_mask(tss):
    pairs = open_pairs(f"tss:{tss}")
    assert len(pairs) == 6 and pairs.categories == ("FG3DCar",) * 2 + ("JODS",) * 2 + ("PASCAL",) * 2
    assert pairs.keys[:2] == ("FG3DCar/a-b/1-2", "FG3DCar/a-b/2-1")
    forth, back = pairs[:2]
    assert (forth.source.size, forth.target.size) == ((10, 14), (12, 16))
    assert (back.source.size, back.target.size) == ((12, 16), (10, 14))
    for pair, number in ((forth, 2), (back, 1)):
        flow = pair.flow()
        assert flow.valid.shape == pair.target.size and flow.valid.sum() == 4 * 6 - 1  # less the unknown pixel
        assert (flow.flow[flow.valid] == [number, -number]).all() and (flow.flow[~flow.valid] == 0).all()
        assert not len(pair.names) and pair.target.mask().sum() == 24
    assert open_pairs(f"tss:{tss}:JODS").keys == ("JODS/a-b/1-2", "JODS/a-b/2-1")


def test_tss_says_what_is_wrong(tss):
    path = tss / "JODS" / "a-b" / "flow2.flo"
    good = path.read_bytes()
    write_flow(path, np.zeros((12, 16, 2)), magic=1.5)
    with pytest.raises(ValueError, match=r"begins with 1.5 but a .flo file with 202021.25"):
        open_pairs(f"tss:{tss}:JODS")[0].flow()
    path.write_bytes(good[:-8])
    with pytest.raises(ValueError, match=r"1540 bytes, but its head says 16x12 pixels, which need 1548"):
        read_flow(path)
    path.write_bytes(b"PIEH")
    with pytest.raises(ValueError, match="begins with None"):
        read_flow(path)
    write_flow(path, np.zeros((10, 14, 2)))
    with pytest.raises(ValueError, match=r"mask2.png .* has 16x12 pixels, but flow2.flo has 14x10"):
        open_pairs(f"tss:{tss}:JODS")[0].flow()
    path.unlink()
    with pytest.raises(ValueError, match=r"flow2\.flo is missing"):
        open_pairs(f"tss:{tss}:JODS")[0].flow()
    with pytest.raises(ValueError, match="subsets FG3DCar, JODS, PASCAL, but 'test' came"):
        open_pairs(f"tss:{tss}:test")
    with pytest.raises(ValueError, match=r"expected folders with image1.png in .*/FG3DCar"):
        open_pairs(f"tss:{tss / 'JODS'}")


# --- opening


def test_unknown_sets_and_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no set of pairs 'spairs'; the known ones are spair, pf-pascal"):
        open_pairs(f"spairs:{tmp_path}")
    for name in ("spair", "pf-pascal", "tss", "ap10k", "warps"):
        with pytest.raises(ValueError, match=rf"{name} expects a folder, but .*gone is missing"):
            open_pairs(f"{name}:{tmp_path}/gone")
    with pytest.raises(ValueError, match="count= takes a whole number, but 'two' came"):
        options("val,count=two", "train", {"count": 1})
    with pytest.raises(ValueError, match="boxes= takes yes or no"):
        options("val,boxes=1", "train", {"boxes": False})
