"""The settings that a request makes of the rows of a table."""

import dataclasses
import math

import pytest

from saot.recipes import BEST, PAPER, replaced, with_words
from saot.tables import EXPERIMENTS, Count, Request, Size
from saot.tables.label.labelling import completed, planned
from saot.tables.label.settings import base_recipe, scaled_count, scaled_size, settings_for
from saot.tables.table import run_name

LABELLING = [name for name, experiment in EXPERIMENTS.items() if experiment.kind in ("labelling", "pictures")]


def asked(**given) -> Request:
    return completed(Request(**given))


@pytest.mark.parametrize("counts", ["paper", "small", "tiny"])
@pytest.mark.parametrize("name", LABELLING)
def test_every_row_has_settings(name, counts):
    """Each change names a setting that there is, and templates name settings."""
    experiment, request = EXPERIMENTS[name], asked(counts=counts)
    for row in experiment.rows or (None,):
        for column in experiment.columns:
            changes = {**(row.changes if row else {}), **column.changes}
            if changes.get("backbone", "filterbank") != "filterbank":
                continue
            settings = settings_for(request, experiment, changes, 3)
            assert settings.seed == 3
    if counts == "paper" and "preset" not in experiment.base and "VOC" not in experiment.data:
        assert settings_for(request, experiment, {}, 0).recipe == PAPER


def test_counts_keep_the_ratio_of_the_recipe():
    small, paper, tiny = (asked(counts=counts) for counts in ("small", "paper", "tiny"))
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
    request = asked(size=size, counts=counts)
    assert scaled_size(request, Size("672x1344", 4 / 3), "filterbank", None) == wanted


def test_base_size_stays_as_it_was_given():
    assert scaled_size(asked(size="250"), Size("504x1008", 1.0), "filterbank", None) == "250"


def test_changes_reach_the_recipe_and_nothing_else():
    recipe = replaced(PAPER, "transport.tau", math.inf)
    assert recipe.transport.tau == math.inf
    assert dataclasses.replace(recipe, transport=PAPER.transport) == PAPER
    with pytest.raises(ValueError, match=r"transport\.tua"):
        replaced(PAPER, "transport.tua", 1.0)
    assert base_recipe("paper", "best").cost.steps == 14_000
    assert base_recipe("paper", "best").decoder.points_weight == base_recipe("small", "best").decoder.points_weight > 0


def test_the_bridge_compares_each_network_with_itself_pulled():
    """Rows come in pairs; without the pull loss they are the runs of saot-best, so equal trainings are done once."""
    table, request = EXPERIMENTS["t2s-da-bridge"], asked(counts="small")
    assert [column.key for column in table.columns] == ["0", "total:20"]
    for plain, pulled in zip(table.rows[::2], table.rows[1::2], strict=True):
        assert pulled.label == f"{plain.label}, pulled" and pulled.method in (plain.method, f"{plain.method}_pull")
        for column in table.columns:
            before, after = (settings_for(request, table, {**r.changes, **column.changes}, 0) for r in (plain, pulled))
            assert before == settings_for(request, EXPERIMENTS["saot-best"], column.changes, 0)
            assert after.recipe == with_words(BEST, ["bridge.weight=0.1"])
            plan = planned(request, table, pulled, column, 0)
            assert plan is not None
            if pulled.method == "mlp_points_ema_pull":
                assert plan.method == ("mlp_ema_pull" if column.key == "0" else "mlp_points_ema_pull")


def test_what_is_set_stands_under_the_changes_of_rows_and_columns():
    request = completed(Request(set=("transport.tau=2", "decoder.steps=9", "bridge.weight=0.3")))
    table = EXPERIMENTS["t2s-da-bridge"]
    plain, pulled = (settings_for(request, table, row.changes, 0).recipe for row in table.rows[:2])
    assert plain == with_words(BEST, request.set) and plain.transport.tau == 2.0
    assert pulled.bridge.weight == 0.1 and pulled.transport.tau == 2.0, "the row says its own weight"
    based = dataclasses.replace(table, base={**table.base, "decoder.steps": 5, "cost.steps": 3})
    both = settings_for(request, based, {}, 0).recipe
    assert (both.decoder.steps, both.cost.steps) == (9, 3), "it goes before what the whole table changes"
    assert run_name(settings_for(request, table, {}, 0)) != run_name(settings_for(completed(Request()), table, {}, 0))
