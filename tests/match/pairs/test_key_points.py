"""What the makers of the sets know of their points."""

import itertools

import pytest

from saot.match.pairs.key_points import (
    AP10K_GROUPS,
    AP10K_MIRROR,
    AP10K_POINTS,
    SPAIR_CATEGORIES,
    VOC_CLASSES,
    spair_groups,
    spair_mirror,
)


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
