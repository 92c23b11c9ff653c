"""SPair-71k, written small: what comes out, and what wrong input is told."""

import json

import numpy as np
import pytest
from helpers.pairs import picture, write_json
from PIL import Image

from saot.match.pairs.key_points import VOC_CLASSES
from saot.match.pairs.readers import open_pairs

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


@pytest.mark.parametrize(
    ("headings", "poses", "azimuth", "pose"),
    [((0, 7), ("Left", "Left"), 1, 2), ((1, 5), ("Frontal", "Rear"), 4, 0), ((2, 2), ("Odd", "Odd"), 0, 4)],
)
def test_spair_says_from_where_both_are_seen(spair, headings, poses, azimuth, pose):
    path = spair / "PairAnnotation" / "test" / f"{CAT}.json"
    write_json(path, {**json.loads(path.read_text()), "src_pose": poses[0], "trg_pose": poses[1]})
    for name, heading in zip(("2008_000001", "2008_000002"), headings, strict=True):
        own = spair / "ImageAnnotation" / "cat" / f"{name}.json"
        write_json(own, {**json.loads(own.read_text()), "azimuth_id": heading})
    attributes = open_pairs(f"spair:{spair}")[0].attributes
    assert (attributes["azimuth"], attributes["pose"]) == (azimuth, pose)


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
    assert "azimuth" not in pair.attributes and "pose" not in pair.attributes  # this release does not say
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
