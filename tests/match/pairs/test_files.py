"""What the readers share."""

import pytest

from saot.match.pairs.files import options, read_json


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (None, ("train", 1, False)),
        ("val", ("val", 1, False)),
        ("count=3", ("train", 3, False)),
        ("val,count=3,boxes=yes", ("val", 3, True)),
    ],
)
def test_options_stand_behind_the_split(text, wanted):
    first, found = options(text, "train", {"count": 1, "boxes": False})
    assert (first, found["count"], found["boxes"]) == wanted


def test_options_that_are_not_known_or_of_another_kind():
    with pytest.raises(ValueError, match="'size=3' is no option here; known are count=1"):
        options("val,size=3", "train", {"count": 1})
    with pytest.raises(ValueError, match="count= takes a whole number, but 'two' came"):
        options("val,count=two", "train", {"count": 1})
    with pytest.raises(ValueError, match="boxes= takes yes or no"):
        options("val,boxes=1", "train", {"boxes": False})


def test_annotations_of_lists_in_lists_without_end_are_no_json(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ' + "[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json is no JSON"):
        read_json(tmp_path / "a.json", ())
