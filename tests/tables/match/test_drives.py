"""Labels carried through drives: a column of right labels and one of steady ones."""

import pytest

from saot.tables import Column, Experiment, Request, Row, reproduce

COLUMNS = (Column("miou", "mIoU", quantity="miou"), Column("flicker", "flicker", quantity="flicker"))
ROWS = (Row("nn", changes={"method": "nn"}), Row("steady", changes={"method": "nn", "consistency": 5.0}))


def test_labels_carried_through_drives(tmp_path):
    experiment = Experiment("d", "d", "ours", COLUMNS, ROWS, "drives", reference="nn")
    request = Request(source="scenes:street:val,drives=1,frames=4,height=84,width=168", size="84x168", seeds=(0, 1))
    found = reproduce(experiment, request, tmp_path / "out")
    assert found.images == 2
    plain, steady = found.rows
    assert plain.cells["miou"].mean > 5 and 0 < plain.cells["flicker"].mean < 100
    assert steady.cells["flicker"].mean < plain.cells["flicker"].mean
    assert steady.cells["miou"].difference is not None and steady.cells["flicker"].difference is None
    assert (
        len(plain.cells["miou"].values) == 2 and len(set(plain.cells["miou"].values)) == 2
    )  # a seed, drives of its own
    assert reproduce(experiment, request, tmp_path / "out").rows == found.rows


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "needs drives"),
        ("scenes:street:val,drives=1,frames=2", "at least 3 frames"),
        ("scenes:street", "expected drives"),
    ],
)
def test_wrong_drives(source, said, tmp_path):
    experiment = Experiment("d", "d", "ours", COLUMNS, ROWS, "drives", data="scenes:street:val,drives=4")
    with pytest.raises(ValueError, match=said):
        reproduce(experiment, Request(source=source), tmp_path / "out")
