"""Every table and figure of labelling, on tiny data in the layout of the public sets."""

import json
import time

import pytest
from helpers.trees import STREET

from saot.tables import EXPERIMENTS, reproduce, text_table
from saot.tables.label.labelling import with_data_rows
from saot.tables.label_room import classes_of

LABELLING = [name for name, experiment in EXPERIMENTS.items() if experiment.kind in ("labelling", "pictures")]
EMPTY = {("semantic_prior", "0")}  # does not exist without points
SOME_EMPTY = ("difference", "rank_correlation", "budget", "closed_gap")  # by row or column, tested on their own


def data_of(name: str) -> str:
    if "VOC" in EXPERIMENTS[name].data:
        return "voc"
    return {"saot-synthia": "synthia", "saot-budget": "camvid"}.get(name, "gta5")


def filled(cell: dict) -> bool:
    return "text" in cell or bool(cell.get("values"))


@pytest.mark.parametrize("name", LABELLING)
def test_every_table(name, request_for, runs, tmp_path):
    request, experiment = request_for(data_of(name)), EXPERIMENTS[name]
    result = reproduce(name, request, tmp_path, runs=runs)
    table = json.loads((tmp_path / "table.json").read_text())
    names = classes_of(request.source).names
    there = {names[index] for index in STREET if index < len(names)}  # per-class tables run on GTA5 and Cityscapes

    rows = {row["label"]: row for row in table["rows"]}
    assert [column["title"] for column in table["columns"]] == [column.title for column in experiment.columns]
    for row in experiment.rows:
        for column in experiment.columns:
            cell = rows[row.label]["cells"][column.key]
            assert cell["paper"] == row.paper.get(column.key), (row.label, column.key)
            quantity, of = row.quantity or column.quantity, row.of or column.of
            missing_class = quantity in ("iou", "wrong_mass", "source_tokens", "source_share") and of not in there
            if rows[row.label]["quoted"] or quantity == "words":
                assert not filled(cell)
            elif not missing_class and (row.method, column.key) not in EMPTY and quantity not in SOME_EMPTY:
                assert filled(cell), (row.label, column.key)
    own = [cell for row in table["rows"] if not row["quoted"] for cell in row["cells"].values() if filled(cell)]
    assert own, "a table shows something of ours"
    assert table["differences_from_paper"] and table["request"]["counts"] == "tiny"
    for written in ("table.md", "table.html"):
        text = (tmp_path / written).read_text()
        assert all(row.label.split(" ")[0] in text for row in experiment.rows)
    assert text_table(result).startswith(experiment.title)
    for figure in table["figures"]:
        assert (tmp_path / figure).stat().st_size > 1000


def test_main_table_is_full_and_compared(request_for, runs, tmp_path):
    """Every row of table 1 has a score, a time and a paired difference to the reference row."""
    result = reproduce("saot-table-1", request_for("gta5"), tmp_path, runs=runs)
    for row in result.rows:
        cell = row.cells["miou"]
        assert cell.mean is not None and 0 <= cell.mean <= 100
        assert row.cells["seconds"].mean is not None
        assert (cell.difference is None) == (row.label == "NN (k=1)")
    means = {row.label: row.cells["miou"].mean for row in result.rows}
    for row in result.rows:
        if (found := row.cells["miou"].difference) is not None:
            gap = means[row.label] - means["NN (k=1)"]
            assert found.difference == pytest.approx(gap, abs=1e-9)
            assert found.low <= found.high
    assert means["NN (k=1)"] > 40  # blocks of one colour a class are easy


def test_a_second_call_is_quick_and_equal(request_for, tmp_path):
    request = request_for("gta5")
    began = time.perf_counter()
    reproduce("saot-table-7", request, tmp_path)
    first, middle = (tmp_path / "table.json").read_bytes(), time.perf_counter()
    reproduce("saot-table-7", request, tmp_path)
    assert (tmp_path / "table.json").read_bytes() == first
    assert time.perf_counter() - middle < 0.7 * (middle - began)


@pytest.mark.parametrize("stage", ["cost", "score saot_multi"])
def test_a_killed_table_goes_on(stage, request_for, runs, tmp_path):
    """Killed in training or in scoring, the same call ends with the numbers of a call that was let alone."""
    request = request_for("gta5")

    def kill(name: str, done: int, total: int) -> None:
        if name.endswith(stage) and done >= 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce("saot-table-7", request, tmp_path, progress=kill)
    assert not (tmp_path / "table.json").exists()
    told = []
    again = reproduce("saot-table-7", request, tmp_path, progress=lambda name, *_: told.append(name))
    let_alone = reproduce("saot-table-7", request, tmp_path / "other", runs=runs)
    for row, other in zip(again.rows, let_alone.rows, strict=True):
        assert row.cells["miou"].values == other.cells["miou"].values
    if stage != "cost":
        assert not any(name.endswith("cost") for name in told)  # what was made is kept


def test_rows_that_differ_in_their_decoders_learn_one_cost(request_for, tmp_path):
    reproduce("saot-table-6", request_for("gta5"), tmp_path / "table", runs=tmp_path / "runs")
    costs = list((tmp_path / "runs").glob("*/cost.safetensors"))
    assert len(costs) > 2 and len({path.stat().st_ino for path in costs}) == 1
    assert len(list((tmp_path / "runs" / "shared").glob("*/cost.safetensors"))) == 1


def test_seeds_are_averaged(request_for, runs, tmp_path):
    result = reproduce("saot-table-7", request_for("gta5", seeds=(0, 1)), tmp_path, runs=runs)
    cell = result.rows[0].cells["miou"]
    assert len(cell.values) == 2 and cell.mean == pytest.approx(sum(cell.values) / 2)
    assert cell.deviation == pytest.approx(abs(cell.values[0] - cell.values[1]) / 2**0.5)


def test_the_oracle_is_the_best_of_its_columns(request_for, runs, tmp_path):
    result = reproduce("saot-table-16", request_for("gta5"), tmp_path, runs=runs)
    seen = 0
    for row in result.rows:
        values = [row.cells[key].mean for key in ("base", "middle", "large")]
        if None in values:
            continue
        seen += 1
        best = row.cells["oracle"].mean
        assert best == pytest.approx(max(values)) if row.label != "mIoU" else best >= max(values) - 1e-9
    assert seen >= 5


def test_budget_columns_replace_methods_that_need_points(request_for, runs, tmp_path):
    """Without points, MLP + points is the MLP and the semantic prior does not exist; budgets grow along the columns."""
    result = reproduce("saot-budget", request_for("camvid"), tmp_path, runs=runs)
    rows = {row.label: row for row in result.rows}
    assert rows["Semantic prior alone"].cells["0"].mean is None
    assert rows["MLP + points"].cells["0"].mean is not None
    seen = [rows["Labels seen"].cells[key].mean for key, _ in result.columns]
    assert seen[0] == 0 and seen[1] < seen[3] <= seen[4]


def test_backbones_asked_for_are_rows(request_for, runs, tmp_path):
    request = request_for("gta5", backbones=("filterbank",))
    rows = {row.label: row for row in reproduce("saot-table-19", request, tmp_path, runs=runs).rows}
    assert rows["DINOv2 ViT-L/14"].quoted and rows["Rein DINOv2"].quoted
    assert rows["filterbank"].cells["miou"].mean is not None


def test_classes_that_the_paper_lacks_get_rows(request_for):
    request = request_for("camvid")
    classes = classes_of(request.source)
    labels = [row.of for row in with_data_rows(EXPERIMENTS["saot-table-10"], request, classes.names).rows]
    assert set(classes.names) <= set(labels) and labels[-1] is None
