"""What may be asked of a table."""

import pytest

from saot.tables import Request
from saot.tables.adaptation import completed as completed_adaptation
from saot.tables.label.labelling import completed


@pytest.mark.parametrize(
    ("data", "seeds", "said"),
    [
        (("a", None, None), "0", "--target is missing"),
        ((None, None, None), "0,x", "0,x"),
        ((None, None, None), "", "whole numbers"),
        ((None, None, None), "1,1", "different"),
    ],
)
def test_requests_that_cannot_be(data, seeds, said):
    with pytest.raises(ValueError, match=said):
        completed(Request.from_words(seeds, **dict(zip(("source", "target", "eval"), data, strict=True))))


@pytest.mark.parametrize("complete", [completed, completed_adaptation])
def test_built_in_scenes_stand_in_for_all_sets_or_none(complete):
    whole = complete(Request())
    assert whole.source == "scenes:game:train" and whole.eval == "scenes:street:val"
    assert complete(Request(source="a", target="b", eval="c")).source_eval == ""
    with pytest.raises(ValueError, match="--eval is missing"):
        complete(Request(source="a", target="b"))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"counts": "half"}, "paper, small, tiny"), ({"held_out": -1}, "--held-out"), ({"size": "x"}, "size")],
)
def test_fields_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        Request(**given)
