"""PF-PASCAL, written small: what comes out, and what wrong input is told."""

import numpy as np
import pytest
from helpers.pairs import picture
from scipy.io import savemat

from saot.match.pairs import pascal as pair_pascal
from saot.match.pairs.readers import open_pairs


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
