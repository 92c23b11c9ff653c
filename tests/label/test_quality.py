"""How good masks are, from declared points alone; never from an evaluation mask."""

import json
from dataclasses import replace

import pytest
from helpers.runs import TINY, run_job, tiny_settings

from saot.label import said
from saot.recipes import ScoreRecipe, TaughtRecipe

TAUGHT = replace(TINY, taught=TaughtRecipe(teachers=1, rounds=1, steps=3))
SETTINGS = tiny_settings(recipe=TAUGHT, eval=None)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize(("share", "basis"), [(0.4, "held-out"), (0.0, "cross-fitted")])
def test_a_run_with_points_has_an_estimate_with_its_basis(tmp_path, store, share, basis):
    settings = replace(SETTINGS, recipe=replace(TAUGHT, scores=ScoreRecipe(holdout_points=share)))
    outcome = run_job(settings, tmp_path, store=store)
    estimate = outcome.run["estimate"]
    assert estimate["basis"] == basis and 0 <= estimate["low"] <= estimate["miou"] <= estimate["high"] <= 1
    assert list(json.loads((tmp_path / "run.json").read_text()))[:2] == ["format", "estimate"]
    folds = sorted(name for name in outcome.run["stages"] if "fold" in name)
    assert folds == (["train fold-0", "train fold-1"] if basis == "cross-fitted" else [])
    if basis == "cross-fitted":
        assert estimate["points"] == outcome.run["label_budget"]
    page = (tmp_path / "report.html").read_text()
    assert page.index("%, expected") < page.index('id="pictures"')
    assert f"{100 * estimate['miou']:.1f} %" in said(estimate)
    for values in estimate["classes"].values():
        assert values is None or 0 <= values[1] <= values[0] <= values[2] <= 1


def test_without_points_nothing_is_promised(tmp_path, store):
    outcome = run_job(replace(SETTINGS, points="0"), tmp_path, store=store)
    assert outcome.run["estimate"] == {"miou": None, "why": "no point is declared, so nothing can be promised"}
    assert "cannot be estimated: no point is declared" in (tmp_path / "report.html").read_text()


def test_a_network_that_learns_from_pairs_is_not_cross_fitted(tmp_path, store):
    settings = replace(SETTINGS, recipe=replace(TINY, scores=ScoreRecipe(holdout_points=0.0)))
    assert "learns from pairs" in run_job(settings, tmp_path, store=store).run["estimate"]["why"]
