import json

import pytest
import torch

from saot.data.classes import class_set, folder_class_set
from saot.evaluate import METHODS, ConfusionMatrix, format_table, method_entry, method_named, table_rows

CONTRACT = (
    "nearest_neighbor knn_global linear_probe prototypes ot uot rwot label_propagation "
    "saot saot_multi saot_decoder mlp mlp_ema linear_probe_points mlp_points mlp_points_ema semantic_prior "
    "best_no_transport grid_ceiling oracle"
)
ADAPTED = "source_only dacs t2s_da t2s_da_dg"  # what `saot adapt` puts into its metrics.json


def test_every_method_of_the_contract_is_known_once():
    assert sorted(method.name for method in METHODS) == sorted([*CONTRACT.split(), *ADAPTED.split()])
    assert {method_named(name).group for name in ("oracle", "grid_ceiling")} == {"reference"}


def test_entry_is_contract_json_with_null_and_subsets():
    classes = class_set("cityscapes19")
    matrix = ConfusionMatrix(19)
    matrix.update(torch.tensor([0, 0, 9, 3]), torch.tensor([0, 0, 9, 0]))  # terrain (9) is in no subset
    entry = json.loads(json.dumps(method_entry(matrix, classes, 40), allow_nan=False))
    assert entry["iou"]["road"] == pytest.approx(2 / 3)
    assert entry["iou"]["wall"] is None
    assert entry["iou"]["terrain"] == 1.0
    assert entry["miou"] == pytest.approx(5 / 6)
    assert entry["miou16"] == entry["miou13"] == pytest.approx(2 / 3)
    assert entry["label_budget"] == 40
    assert list(entry["iou"]) == list(classes.names)


def test_entry_counts_only_scored_classes():
    classes = class_set("synthia16")
    matrix = ConfusionMatrix(19)
    matrix.update(torch.tensor([0, 9, 9, 0]), torch.tensor([0, 9, 9, 9]))
    assert method_entry(matrix, classes, 0)["miou"] == 0.5  # road alone; terrain is not scored


def test_entry_without_labels_is_null():
    for confusion in (None, ConfusionMatrix(2)):
        entry = method_entry(confusion, folder_class_set(["a", "b"]), 0)
        means = {"miou": None, "miou_predicted_too": None, "miou_edges": None}
        assert entry == {**means, "iou": {"a": None, "b": None}, "label_budget": 0}
    with pytest.raises(ValueError, match="3 classes but folder has 2"):
        method_entry(ConfusionMatrix(3), folder_class_set(["a", "b"]), 0)


def test_a_class_that_is_predicted_but_absent_gives_two_figures():
    classes = folder_class_set(["a", "b", "c"])
    matrix = ConfusionMatrix.from_list([[3, 1, 0], [0, 0, 0], [0, 0, 4]])
    entry = method_entry(matrix, classes, 0)
    assert (entry["miou"], entry["miou_predicted_too"]) == ((0.75 + 1) / 2, (0.75 + 0 + 1) / 3)
    assert entry["iou"]["b"] is None
    text = format_table({"methods": {"saot": entry}})
    assert text.splitlines()[0].split() == ["method", "mIoU", "%", "target", "labels"]
    assert text.splitlines()[-1] == "If classes that are predicted but absent from the truth counted as 0: SAOT 58.3"
    older = {"miou": 0.5, "iou": {}, "label_budget": 0}  # of a version that did not count it
    assert format_table({"methods": {"uot": older, "saot": entry}}).endswith("counted as 0: SAOT 58.3")
    agreed = method_entry(ConfusionMatrix.from_list([[3, 1, 0], [1, 2, 0], [0, 0, 0]]), classes, 0)
    assert agreed["miou"] == agreed["miou_predicted_too"]
    assert "counted as 0" not in format_table({"methods": {"saot": agreed}})


def test_classes_that_are_not_scored_do_not_count_as_zero():
    classes = class_set("synthia16")
    matrix = ConfusionMatrix(19)
    matrix.update(torch.tensor([0, 9]), torch.tensor([0, 0]))  # terrain is not scored
    entry = method_entry(matrix, classes, 0)
    assert entry["miou"] == entry["miou_predicted_too"] == 0.5


def test_rows_are_grouped_and_words_are_right():
    names = [*CONTRACT.split(), "zebra"]
    methods = {name: {"miou": 0.5, "iou": {}, "label_budget": 1200} for name in reversed(names)}
    rows = table_rows({"methods": methods})
    order = [row.method.name for row in rows]
    assert order[:8] == CONTRACT.split()[:8]
    assert order[-6:] == ["saot", "saot_multi", "saot_decoder", "grid_ceiling", "oracle", "zebra"]
    budgets = {row.method.name: row.budget for row in rows}
    assert budgets["saot"] == "1,200 points"
    assert budgets["oracle"] == "1,200 pixels"
    assert budgets["grid_ceiling"] == "the truth itself"
    assert table_rows({}) == ()


def test_text_table_lines_up():
    methods = {
        "saot": {"miou": 0.256, "miou13": 0.31, "miou16": None, "iou": {}, "label_budget": 40},
        "uot": {"miou": None, "iou": {}, "label_budget": 0},
    }
    lines = format_table({"methods": methods}).splitlines()
    assert lines[0].split() == ["method", "mIoU", "%", "mIoU-16", "%", "mIoU-13", "%", "target", "labels"]
    assert lines[-1].split() == ["SAOT", "25.6", "-", "31.0", "40", "points"]
    assert len({len(line) for line in lines if line.startswith(("  ", "method"))}) == 1
