import json

import pytest
import torch

from saot.data.classes import class_set, folder_class_set
from saot.evaluate import (
    METHODS,
    ConfusionMatrix,
    bootstrap_difference,
    format_table,
    method_entry,
    method_named,
    table_rows,
)

CONTRACT = (
    "nearest_neighbor knn_global linear_probe prototypes ot uot rwot label_propagation "
    "saot saot_multi saot_decoder mlp mlp_ema linear_probe_points mlp_points mlp_points_ema semantic_prior "
    "best_no_transport grid_ceiling oracle"
)


def test_every_method_of_the_contract_is_known_once():
    assert sorted(method.name for method in METHODS) == sorted(CONTRACT.split())
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
        assert entry == {"miou": None, "iou": {"a": None, "b": None}, "label_budget": 0}
    with pytest.raises(ValueError, match="3 classes but folder has 2"):
        method_entry(ConfusionMatrix(3), folder_class_set(["a", "b"]), 0)


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


def counts_of(skill, pictures=40, seed=0):
    """Per-picture counts of 3 classes with the same truth for every skill."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(50, 200, (pictures, 3), generator=generator)
    noise = torch.rand(pictures, 3, generator=generator) * 0.2
    right = (truth * (skill + noise - 0.1)).round().long()
    counts = torch.diag_embed(right)
    for t in range(3):
        counts[:, t, (t + 1) % 3] += truth[:, t] - right[:, t]
    return counts


def test_bootstrap_brackets_the_difference_and_is_reproducible():
    better, worse = counts_of(0.8), counts_of(0.7, seed=0)
    first = bootstrap_difference(better, worse, torch.Generator().manual_seed(3))
    again = bootstrap_difference(better, worse, torch.Generator().manual_seed(3))
    assert first == again
    assert 0 < first.low < first.difference < first.high
    assert first.share_above_zero == 1.0
    sums = [ConfusionMatrix.from_list(counts.sum(0).tolist()).mean_iou() for counts in (better, worse)]
    assert first.difference == pytest.approx(sums[0] - sums[1])
    turned = bootstrap_difference(worse, better, torch.Generator().manual_seed(3))
    assert (turned.low, turned.high) == (pytest.approx(-first.high), pytest.approx(-first.low))


def test_bootstrap_is_paired():
    same = bootstrap_difference(counts_of(0.8), counts_of(0.8), torch.Generator().manual_seed(0))
    assert (same.low, same.difference, same.high) == (0.0, 0.0, 0.0)


def test_bootstrap_interval_covers_at_its_level():
    # 200 samples from a population whose difference is known: 90 % intervals cover it in about 9 of 10
    population_a, population_b = counts_of(0.75, 4000, seed=5), counts_of(0.7, 4000, seed=5)
    population_b = torch.diag_embed((population_b.sum(-1) * 0.7).long())
    population_b[:, 0, 1] += population_a.sum(-1)[:, 0] - population_b[:, 0, 0]
    population_b[:, 1, 2] += population_a.sum(-1)[:, 1] - population_b[:, 1, 1]
    population_b[:, 2, 0] += population_a.sum(-1)[:, 2] - population_b[:, 2, 2]
    generator = torch.Generator().manual_seed(0)
    truth = bootstrap_difference(population_a, population_b, generator, draws=1).difference
    covered = 0
    for _ in range(200):
        chosen = torch.randint(4000, (40,), generator=generator)
        found = bootstrap_difference(population_a[chosen], population_b[chosen], generator, draws=200, level=0.9)
        covered += found.low <= truth <= found.high
    assert 160 <= covered <= 197  # binomial(200, 0.9) +- 4 standard errors, lower end eased for n = 40


def test_bootstrap_leaves_out_draws_without_truth_and_refuses_mismatch():
    counts = torch.zeros(2, 2, 2, dtype=torch.int64)
    counts[0, 0, 0] = 10
    found = bootstrap_difference(counts, counts, torch.Generator().manual_seed(0), draws=100)
    assert 0 < found.draws < 100
    other = counts.clone()
    other[0, 0, 0] = 9
    with pytest.raises(ValueError, match="same pictures"):
        bootstrap_difference(counts, other, torch.Generator())
    with pytest.raises(ValueError, match="labelled pixel"):
        bootstrap_difference(counts * 0, counts * 0, torch.Generator())
    with pytest.raises(ValueError, match="none of the chosen"):
        bootstrap_difference(counts, counts, torch.Generator(), classes=[1])
