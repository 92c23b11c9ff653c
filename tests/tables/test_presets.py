"""The paper's numbers as they stand in the presets, and the settings that a request makes of them."""

import dataclasses
import math

import pytest

from saot.recipes import PAPER, preset
from saot.tables import Request
from saot.tables.measure import filled
from saot.tables.model import Count, Size
from saot.tables.plan import arm_of
from saot.tables.presets import EXPERIMENTS, experiment_named
from saot.tables.presets.names import CITYSCAPES
from saot.tables.request import base_recipe, changed, scaled_count, scaled_size, settings_for


@pytest.mark.parametrize("name", ["saot-table-10", "saot-table-16"])
def test_columns_add_up_to_their_mean(name):
    """The mean of the 19 classes is the printed mIoU, to the rounding of both."""
    experiment = EXPERIMENTS[name]
    whole = next(row for row in experiment.rows if row.label == "mIoU")
    for column in experiment.columns:
        values = [row.paper[column.key] for row in experiment.rows if row.quantity == "iou"]
        assert len(values) == 19
        assert sum(values) / 19 == pytest.approx(whole.paper[column.key], abs=0.1)


def test_the_printed_oracle_is_the_best_of_its_row():
    for name in ("saot-table-16", "saot-table-20"):
        for row in EXPERIMENTS[name].rows:
            if row.label != "mIoU":
                assert row.paper["oracle"] == max(row.paper[key] for key in ("base", "middle", "large"))


def test_table_2_repeats_table_10():
    names = {"NN": "NN", "KNN-G": "KNN-G", "UOT": "UOT", "SAOT": "SAOT", "SAOT+D": "SAOT+D"}
    ten = {row.of: row for row in EXPERIMENTS["saot-table-10"].rows}
    two = EXPERIMENTS["saot-table-2"]
    for row in two.rows:
        for column in two.columns:
            assert row.paper[column.key] == ten[column.of].paper[names[row.label]], (row.label, column.key)


def test_the_differences_of_table_5():
    rows = EXPERIMENTS["saot-table-5"].rows
    for row in rows[1:]:
        assert row.paper["difference"] == pytest.approx(row.paper["miou"] - rows[0].paper["miou"])


def test_main_numbers_agree_between_tables():
    one = {row.method: row.paper["miou"] for row in EXPERIMENTS["saot-table-1"].rows}
    ten = next(row for row in EXPERIMENTS["saot-table-10"].rows if row.label == "mIoU")
    for column in EXPERIMENTS["saot-table-10"].columns:
        assert ten.paper[column.key] == one[column.method]
    assert len(one) == 11 and one["label_propagation"] == 7.5


def test_every_table_and_figure_of_the_paper_is_there():
    tables = {f"saot-table-{number}" for number in range(1, 22)}
    figures = {f"saot-figure-{number}" for number in range(2, 11)}
    assert tables | figures <= set(EXPERIMENTS)
    for name, experiment in EXPERIMENTS.items():
        assert name == experiment.name and experiment.columns and (experiment.rows or experiment.grid)
        labels = [row.label for row in experiment.rows]
        assert len(set(labels)) == len(labels) and len({c.key for c in experiment.columns}) == len(experiment.columns)
        for row in experiment.rows:
            assert set(row.paper) <= {column.key for column in experiment.columns}, row.label
        if experiment.reference is not None:
            assert experiment.reference in (*labels, *(column.key for column in experiment.columns))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="saot reproduce --list"):
        experiment_named("saot-table-99")


@pytest.mark.parametrize("counts", ["paper", "small", "tiny"])
@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_row_has_settings(name, counts):
    """Each change names a setting that there is, and templates name settings."""
    experiment, request = EXPERIMENTS[name], Request(counts=counts)
    for row in experiment.rows or (None,):
        for column in experiment.columns:
            changes = {**(row.changes if row else {}), **column.changes}
            if changes.get("backbone", "filterbank") != "filterbank":
                continue
            settings = settings_for(request, experiment, changes, 3)
            assert settings.seed == 3
    if counts == "paper" and "preset" not in experiment.base and "VOC" not in experiment.data:
        assert settings_for(request, experiment, {}, 0).recipe == PAPER


def test_settings_tables_agree_with_the_paper_under_its_counts():
    """Of table 11, whose values are plain, ours under --counts paper are the printed ones."""
    from saot.data import class_set

    settings = settings_for(Request(counts="paper"), EXPERIMENTS["saot-table-11"], {}, 0)
    shown = {
        row.label: filled(row.of, settings, class_set("cityscapes19")) for row in EXPERIMENTS["saot-table-11"].rows
    }
    for row in EXPERIMENTS["saot-table-11"].rows:
        if row.section == "OT solver" and "10^" not in str(row.paper["value"]):
            assert shown[row.label] == row.paper["value"]
    assert shown["Training steps"] == "14,000"
    with pytest.raises(ValueError, match=r"transport\.nonsense"):
        filled("{transport.nonsense}", settings, class_set("cityscapes19"))


def test_counts_keep_the_ratio_of_the_recipe():
    small, paper, tiny = (Request(counts=counts) for counts in ("small", "paper", "tiny"))
    assert scaled_count(paper, "cost.steps", Count(32_000)) == 32_000
    assert scaled_count(small, "cost.steps", Count(14_000)) == 1_000
    assert scaled_count(small, "cost.steps", Count(28_000)) == 2_000
    assert scaled_count(tiny, "cost.steps", Count(512_000)) == 5
    # 40 scenes stand for the 2,000 of the largest row
    assert scaled_count(small, "source_pictures", Count(500)) == 10
    assert scaled_count(paper, "source_pictures", Count(500)) == 500


@pytest.mark.parametrize(
    ("size", "counts", "wanted"),
    [
        ("252x504", "small", "336x672"),
        ("504", "small", "672"),
        ("56x112", "small", "70x154"),
        (None, "paper", "672x1344"),
        ("252x504", "paper", "336x672"),
    ],
)
def test_sizes_are_ratios_in_whole_patches(size, counts, wanted):
    request = Request(size=size, counts=counts)
    assert scaled_size(request, Size("672x1344", 4 / 3), "filterbank", None) == wanted


def test_base_size_stays_as_it_was_given():
    assert scaled_size(Request(size="250"), Size("504x1008", 1.0), "filterbank", None) == "250"


def test_changes_reach_the_recipe_and_nothing_else():
    recipe = changed(PAPER, "transport.tau", math.inf)
    assert recipe.transport.tau == math.inf
    assert dataclasses.replace(recipe, transport=PAPER.transport) == PAPER
    with pytest.raises(ValueError, match=r"transport\.tua"):
        changed(PAPER, "transport.tua", 1.0)
    assert base_recipe("paper", "best").cost.steps == 14_000
    assert base_recipe("paper", "best").decoder.points_weight == base_recipe("small", "best").decoder.points_weight > 0


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
        Request.from_words(data, seeds)


def test_class_labels_are_the_names_of_cityscapes():
    from saot.data import class_set

    assert tuple(CITYSCAPES.values()) == class_set("cityscapes19").names


def test_the_bridge_compares_each_network_with_itself_pulled():
    """Rows come in pairs; without the pull loss they are the runs of saot-best, so equal trainings are done once."""
    table, request = EXPERIMENTS["t2s-da-bridge"], Request(counts="small")
    assert [column.key for column in table.columns] == ["0", "total:20"]
    for plain, pulled in zip(table.rows[::2], table.rows[1::2], strict=True):
        assert pulled.label == f"{plain.label}, pulled" and pulled.method in (plain.method, f"{plain.method}_pull")
        for column in table.columns:
            before, after = (settings_for(request, table, {**r.changes, **column.changes}, 0) for r in (plain, pulled))
            assert before == settings_for(request, EXPERIMENTS["saot-best"], column.changes, 0)
            assert after.recipe == dataclasses.replace(preset("best-pull"), name="best")
            arm = arm_of(request, table, pulled, column, 0)
            assert arm is not None
            if pulled.method == "mlp_points_ema_pull":
                assert arm.method == ("mlp_ema_pull" if column.key == "0" else "mlp_points_ema_pull")
