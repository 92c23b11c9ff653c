"""From a name and a request to files."""

import pytest

from saot.tables import Request, experiment_named, reproduce
from saot.tables.engine import check_fields, with_columns


def test_some_columns_alone():
    table = experiment_named("saot-best")
    assert [column.key for column in with_columns(table, ["20", "0"]).columns] == ["0", "20"]
    assert with_columns(table, []) is table
    with pytest.raises(ValueError, match=r"saot-best among 0, total:20, 20; got 'total:5'"):
        with_columns(table, ["total:5"])


def test_a_folder_of_another_table_is_refused(request_for, runs, tmp_path):
    reproduce("saot-table-11", request_for("gta5"), tmp_path, runs=runs)
    with pytest.raises(ValueError, match=r"holds saot-table-11: choose another --out"):
        reproduce("saot-table-13", request_for("gta5"), tmp_path, runs=runs)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "saot-table-11",
            {"final_norm": False},
            "--final-norm is of tables of matching, sequences and drives, not of saot-table-11",
        ),
        ("saot-table-1", {"source_eval": "scenes:game:val"}, "--source-eval is of tables of adaptation"),
        ("gwot-ablation", {"points": "20"}, "--points is of tables of labelling, not of gwot-ablation"),
        ("t2s-da-roads", {"limit": 3}, "--limit is of tables of matching, sequences and drives"),
    ],
)
def test_what_a_table_does_not_take_is_refused(name, given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        reproduce(name, Request(**given), tmp_path)


def test_a_table_takes_what_it_records():
    check_fields(Request(limit=2, held_out=1, target="a", layers="3"), experiment_named("soy-spair"))
    check_fields(Request(points="20", backbones=("a",), device="cuda"), experiment_named("saot-table-19"))
