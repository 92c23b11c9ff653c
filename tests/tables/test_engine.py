"""From a name and a request to files."""

import json

import pytest

from saot.tables import Request, experiment_named, reproduce
from saot.tables.engine import check_fields, only


def test_some_columns_and_rows_alone():
    table = experiment_named("saot-best")
    chosen = only(table, ["20", "0"], ["SAOT+Decoder", "MLP + EMA"])
    assert [column.key for column in chosen.columns] == ["0", "20"]
    assert [row.label for row in chosen.rows] == ["MLP + EMA", "SAOT+Decoder"]
    assert only(table) == table
    with pytest.raises(ValueError, match=r"columns of saot-best among 0; total:20; 20; got 'total:5'"):
        only(table, ["total:5"])
    with pytest.raises(ValueError, match=r"rows of saot-best among MLP; MLP \+ EMA; .*; got 'MLP\+EMA'"):
        only(table, rows=["MLP", "MLP+EMA"])


def test_what_no_row_asks_for_is_not_trained(request_for, tmp_path):
    table = reproduce(
        "saot-best", request_for("gta5"), tmp_path, columns=["total:20"], rows=["Cells alone (stage 1)", "SAOT+Decoder"]
    )
    assert [row.label for row in table.rows] == ["Cells alone (stage 1)", "SAOT+Decoder"]
    assert table.rows[0].cells["total:20"].difference is not None
    kept = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("**/stages.json")]
    stages = [stage for one in kept for stage in one]
    assert "train teacher-0" in stages and not [stage for stage in stages if "mlp" in stage or "oracle" in stage]


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
