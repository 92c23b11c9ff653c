"""AP-10K as pairs: who is in which split, what is drawn, the published lists; sets that are sliced and held out."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from saot.match.pairs.ap10k import ap10k_pairs, write_ap10k_pairs
from saot.match.pairs.key_points import AP10K_GROUPS, AP10K_POINTS
from saot.match.pairs.readers import open_pairs


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


FAMILIES = {"cat": "Felidae", "lion": "Felidae", "dog": "Canidae"}


@pytest.fixture
def ap10k(tmp_path):
    """60 cats, 55 lions and 40 dogs, spread over the three files of split 1, and pictures that must be left out."""
    kinds = [{"id": n, "name": name, "supercategory": FAMILIES[name]} for n, name in enumerate(FAMILIES, 1)]
    files = {split: {"images": [], "annotations": [], "categories": kinds} for split in ("train", "val", "test")}
    rng = np.random.default_rng(0)
    species = ["cat"] * 60 + ["lion"] * 55 + ["dog"] * 40 + ["cat"] * 3
    for number in rng.permutation(len(species)).tolist():
        data = files[("train", "val", "test")[number % 3]]
        data["images"].append({"id": number, "file_name": f"{number:012d}.jpg", "width": 60, "height": 50})
        flags = np.where(rng.random(17) < 0.4, 2, 0)
        flags[rng.permutation(17)[:3]] = 2
        odd = number - 155  # 0: two animals, 1: a crowd, 2: two key points
        flags = np.where(np.arange(17) < 2, 2, 0) if odd == 2 else flags
        points = np.stack([rng.integers(0, 60, 17), rng.integers(0, 50, 17), flags], -1) * (flags[:, None] > 0)
        animal = {"id": number, "image_id": number, "category_id": 1 + list(FAMILIES).index(species[number])}
        animal |= {"bbox": [5, 6, 30, 20], "iscrowd": int(odd == 1), "keypoints": points.ravel().tolist()}
        data["annotations"] += [animal, animal] if odd == 0 else [animal]
    for split, data in files.items():
        write_json(tmp_path / "annotations" / f"ap10k-{split}-split1.json", data)
    (tmp_path / "data").mkdir()
    Image.new("RGB", (60, 50)).save(tmp_path / "data" / "000000000059.jpg")
    return tmp_path


def visible_of(root):
    found = {}
    for split in ("train", "val", "test"):
        data = json.loads((root / "annotations" / f"ap10k-{split}-split1.json").read_text())
        found |= {a["image_id"]: np.array(a["keypoints"]).reshape(17, 3)[:, 2] > 0 for a in data["annotations"]}
    return found


def test_ap10k_splits_species_and_pairs_what_has_three_points_in_common(ap10k):
    visible = visible_of(ap10k)
    rows = ap10k_pairs(ap10k, "intra", "test")
    expected = [
        (a, b, name)
        for name, pictures in (("cat", range(30, 60)), ("dog", range(125, 155)), ("lion", range(85, 115)))
        for a, b in itertools.combinations(pictures, 2)
        if (visible[a] & visible[b]).sum() >= 3
    ]
    assert list(rows) == expected
    numbers = {split: {n for row in ap10k_pairs(ap10k, "intra", split) for n in row[:2]} for split in ("train", "val")}
    assert numbers["val"] == {*range(10, 30), *range(115, 125), *range(65, 85)}  # of the dogs, ten are left
    assert numbers["train"] == {*range(10), *range(60, 65)}
    assert len(rows) < 3 * 30 * 29 / 2  # some have fewer in common
    cross = ap10k_pairs(ap10k, "species", "test")  # 900 at most, and there are fewer
    expected = itertools.product(range(30, 60), range(85, 115))
    assert list(cross) == [(a, b, "Felidae") for a, b in expected if (visible[a] & visible[b]).sum() >= 3]
    cross = ap10k_pairs(ap10k, "species", "val")
    assert all(a in range(10, 30) and b in range(65, 85) for a, b, _ in cross)
    families = ap10k_pairs(ap10k, "family", "test")
    assert len(families) == 30 and {row[2] for row in families} == {"Canidae-Felidae"}
    assert all(a in range(125, 155) for a, _, _ in families) and len({row[0] for row in families}) > 10


def test_ap10k_pairs_carry_points_boxes_and_tables(ap10k):
    pair = open_pairs(f"ap10k:{ap10k}:species")[0]
    index = [row[1] for row in ap10k_pairs(ap10k, "intra", "test")].index(59)
    pair = open_pairs(f"ap10k:{ap10k}:intra")[index]
    visible = visible_of(ap10k)
    assert pair.category == "cat" and pair.names == AP10K_POINTS and pair.groups == AP10K_GROUPS
    assert (pair.target.visible == visible[59]).all() and pair.common.sum() >= 3
    assert pair.target.box == (5, 6, 35, 26) and pair.target.image().shape == (50, 60, 3)
    assert (pair.target.points[~pair.target.visible] == 0).all()


def test_ap10k_lists_are_repeatable_publishable_and_taken_when_there(ap10k):
    before = {s: ap10k_pairs(ap10k, s, "val") for s in ("intra", "species", "family")}
    for split in ("train", "val", "test"):  # the order in the files does not matter
        path = ap10k / "annotations" / f"ap10k-{split}-split1.json"
        data = json.loads(path.read_text())
        write_json(path, data | {"images": data["images"][::-1], "annotations": data["annotations"][::-1]})
    assert {s: ap10k_pairs(ap10k, s, "val") for s in before} == before
    written = write_ap10k_pairs(ap10k, ap10k / "pairs")
    assert [path.name for path in written] == [
        "intra-train.csv", "intra-val.csv", "intra-test.csv", "species-val.csv", "species-test.csv", "family-val.csv",
        "family-test.csv",
    ]  # fmt: skip
    assert {s: ap10k_pairs(ap10k, s, "val") for s in before} == before
    (ap10k / "pairs" / "family-val.csv").write_text("source,target,category\n11,12,mine\n")
    assert open_pairs(f"ap10k:{ap10k}:family,split=val").keys == ("000000000011-000000000012:mine",)
    (ap10k / "pairs" / "excluded.txt").write_text("12\n")
    with pytest.raises(ValueError, match="names picture 12, of which there is no single animal"):
        open_pairs(f"ap10k:{ap10k}:family,split=val")
    (ap10k / "pairs" / "family-val.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="begins with a,b; expected source,target,category"):
        open_pairs(f"ap10k:{ap10k}:family,split=val")


def test_ap10k_says_what_is_wrong(ap10k):
    for spec, match in (
        ("genus", "settings intra, species, family, but 'genus' came"),
        ("family,split=train", "setting family has the splits val and test, but 'train' came"),
        ("intra,part=val", "'part=val' is no option here; known are split=test"),
    ):
        with pytest.raises(ValueError, match=match):
            open_pairs(f"ap10k:{ap10k}:{spec}")
    path = ap10k / "annotations" / "ap10k-val-split1.json"
    data = json.loads(path.read_text())
    data["annotations"][3]["keypoints"].pop()
    write_json(path, data)
    with pytest.raises(ValueError, match=r"keypoints of picture \d+ in .* should be 51 finite numbers"):
        open_pairs(f"ap10k:{ap10k}:intra")
    path.unlink()
    with pytest.raises(ValueError, match=r"ap10k-val-split1.json is missing"):
        open_pairs(f"ap10k:{ap10k}:intra")


def test_sets_can_be_sliced_and_classes_held_out(ap10k):
    pairs = open_pairs(f"ap10k:{ap10k}:intra")
    dogs = pairs.of_categories(["dog"])
    assert set(dogs.categories) == {"dog"} and dogs[0].category == "dog" and dogs[-1].key == dogs.keys[-1]
    assert pairs[3:5].keys == pairs.keys[3:5] and pairs[4:][0].key == pairs[4].key
    with pytest.raises(IndexError):
        dogs[len(dogs)]
    with pytest.raises(ValueError, match="has no category wolf; it has cat, dog, lion"):
        pairs.of_categories(["wolf"])
