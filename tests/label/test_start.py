"""A second round of clicks goes on from the network of the first."""

import json
import shutil
from dataclasses import replace

import pytest
from helpers.runs import TINY, opened, run_job, tiny_settings

from saot.label.expected import expected_stages
from saot.label.start import PARTS
from saot.recipes import TaughtRecipe
from saot.runs import read_kept

RECIPE = replace(
    TINY,
    decoder=replace(TINY.decoder, architecture="fine", subdivision=2, context=2, rounds=1),
    taught=TaughtRecipe(teachers=2, rounds=2, steps=4),
)
SETTINGS = tiny_settings(recipe=RECIPE, points="1")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def first(tmp_path_factory, store):
    out = tmp_path_factory.mktemp("start") / "first"
    run_job(SETTINGS, out, store=store, compare="none")
    return out


@pytest.fixture(scope="module")
def more(first, store, tmp_path_factory):
    """The first run's clicks and others."""
    out = tmp_path_factory.mktemp("more")
    run_job(replace(SETTINGS, points="2"), out / "run", store=store, compare="none")
    rows = [(one / "points.csv").read_text().splitlines() for one in (first, out / "run")]
    assert set(rows[0]) < set(rows[1]), "a smaller draw is part of a larger one"
    return out / "run" / "points.csv", len(rows[1]) - len(rows[0])


@pytest.fixture(scope="module")
def second(first, more, store, tmp_path_factory):
    out, told = tmp_path_factory.mktemp("second") / "run", []
    settings = replace(SETTINGS, points=str(more[0]), start=str(first))
    outcome = run_job(settings, out, store=store, compare="none", progress=lambda stage, *_: told.append(stage))
    return out, outcome, list(dict.fromkeys(told)), settings


@pytest.mark.training
def test_a_second_round_trains_no_teacher_and_starts_from_the_first_network(first, second):
    out, outcome, _, _ = second
    trained = [name for name in outcome.run["stages"] if name.startswith("train")]
    assert trained == ["train again", "train taught-plan-1.0-1"]
    log = [json.loads(line) for line in (out / "work/log/taught-plan-1.0-1-stage1.jsonl").read_text().splitlines()]
    assert len(log) <= max(1, RECIPE.taught.steps // PARTS[1])
    before, after = (dict(read_kept(one / "decoder.safetensors").tensors) for one in (first, out))
    moved = [float((after[name] - before[name]).norm() / before[name].norm().clamp_min(1e-6)) for name in before]
    assert max(moved) > 0 and sum(moved) / len(moved) < 0.2, "few steps from where the first run ended"
    assert outcome.run["settings"]["start"] == str(first)


def test_its_budget_counts_all_clicks_and_its_estimate_rests_on_the_new_ones(second, more):
    _, outcome, _, _ = second
    assert outcome.run["label_budget"] == len(more[0].read_text().splitlines()) - 1
    assert (outcome.run["estimate"]["basis"], outcome.run["estimate"]["points"]) == ("new", more[1])


def test_it_goes_on_without_the_first_run(second, store, first, tmp_path):
    out, outcome, _, settings = second
    assert run_job(settings, out, store=store, compare="none").resumed
    away = tmp_path / "away"
    shutil.copytree(first, away)
    moved = replace(settings, start=str(away))
    run_job(moved, tmp_path / "run", store=store, compare="none")
    shutil.rmtree(away)
    (tmp_path / "run" / "metrics.json").unlink()
    again = run_job(moved, tmp_path / "run", store=store, compare="none")
    assert again.metrics == outcome.metrics
    with opened(moved, tmp_path / "run") as contest:
        assert contest.before is not None and len(contest.before[1]) == outcome.run["estimate"]["points"]


def test_without_new_points_nothing_is_promised(first, store, tmp_path):
    settings = replace(SETTINGS, start=str(first))
    outcome = run_job(settings, tmp_path / "run", store=store, compare="none")
    assert "no point is new" in outcome.run["estimate"]["why"]


def test_stages_are_told_before_they_come(second):
    _, _, told, settings = second
    expected = expected_stages(settings, {"source": 3, "target": 3, "eval": 2}, ["saot_decoder"])
    trained = {one.title for one in expected if one.title.startswith("train")}
    assert trained == {one for one in told if one.startswith("train")}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"points": "0"}, r"expected all \d+ points of .* among the points of this run.*\d+ are missing, such as"),
        ({"size": "56x56"}, "expected the backbone and size of .*; size is '56x56' and was '56x112'"),
        ({"source": "folder:{other}"}, "expected the classes of"),
        ({"recipe": replace(RECIPE, decoder=replace(RECIPE.decoder, hidden=8))}, "its settings of decoder are others"),
        ({"start": "{nowhere}"}, "expected .*run"),
    ],
)
def test_what_does_not_fit_is_refused(change, sentence, first, more, tmp_path, store):
    import numpy as np
    from PIL import Image

    for kind in ("images", "masks"):
        (tmp_path / "other" / kind).mkdir(parents=True)
    Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(tmp_path / "other/images/a.png")
    Image.fromarray(np.zeros((64, 128), np.uint8)).save(tmp_path / "other/masks/a.png")
    (tmp_path / "other" / "classes.txt").write_text("one\ntwo\n")
    names = {"{other}": str(tmp_path / "other"), "{nowhere}": str(tmp_path / "nowhere")}
    for name, value in change.items():
        for word, path in names.items():
            if isinstance(value, str):
                change = {**change, name: value.replace(word, path)}
                value = change[name]
    settings = replace(SETTINGS, **{"points": str(more[0]), "start": str(first), **change})
    if change.get("source"):
        settings = replace(settings, target=settings.source, eval=None, points="1")
    with pytest.raises(ValueError, match=sentence):
        run_job(settings, tmp_path / "run", store=store, compare="none")


def test_recipes_that_have_no_second_stage_and_several_sizes_are_refused(first):
    for change in ({"recipe": TINY}, {"size": "56x112,112x224"}):
        with pytest.raises(ValueError, match=r"expected a preset with taught\.teachers of 1 or more"):
            replace(SETTINGS, start=str(first), **change)
