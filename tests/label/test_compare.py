"""Only what is asked for is trained: the decoder, then what it is compared with."""

import json
import shutil
from dataclasses import replace

import pytest
from helpers.runs import TINY, run_job, tiny_settings

from saot.label.scoring import SAME_LABELS
from saot.recipes import TaughtRecipe

TAUGHT = replace(TINY, taught=TaughtRecipe(teachers=1, rounds=1, steps=3))
SETTINGS = tiny_settings(recipe=TAUGHT)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, store):
    """A run that makes masks and nothing else."""
    folder = tmp_path_factory.mktemp("alone")
    run_job(replace(SETTINGS, eval=None), folder, store=store)
    return folder


def test_a_finished_run_that_lost_the_list_of_its_data_writes_it_again(alone, store, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    listed, told = (folder / "work" / "data.json").read_bytes(), []
    (folder / "work" / "data.json").unlink()
    again = run_job(replace(SETTINGS, eval=None), folder, store=store, progress=lambda *said: told.append(said[0]))
    assert not again.resumed and not any(name.startswith("train") for name in told)
    assert (folder / "work" / "data.json").read_bytes() == listed
    assert (folder / "decoder.safetensors").read_bytes() == (alone / "decoder.safetensors").read_bytes()


@pytest.mark.parametrize("kept", [{"source": {}, "eval": {}, "points": {}}, {"source": 1}, {"source": None}])
def test_a_damaged_list_of_data_is_told(alone, store, tmp_path, kept):
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    (folder / "work" / "data.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"data\.json is damaged or of another version.*: "):
        run_job(SETTINGS, folder, store=store)


def test_without_evaluation_only_the_decoder_is_trained(alone):
    run = json.loads((alone / "run.json").read_text())
    assert run["compare"] == "none" and list(json.loads((alone / "metrics.json").read_text())["methods"]) == [
        "saot_decoder"
    ]
    trained = {name for name in run["stages"] if name.startswith(("train", "refine", "cost", "score"))}
    assert trained == {"train teacher-0", "train taught-plan-1.0-1", "score saot_decoder"}
    assert not (alone / "cost.safetensors").exists()
    assert "The masks below are the result" in (alone / "report.html").read_text()


def test_a_later_call_may_ask_for_more_and_the_decoder_stays(alone, store, tmp_path):
    before = (alone / "decoder.safetensors").read_bytes()
    told = []
    for compare, methods in (("none", ["saot_decoder"]), ("points", SAME_LABELS), ("all", None)):
        outcome = run_job(SETTINGS, tmp_path, store=store, compare=compare, progress=lambda *said: told.append(said[0]))
        assert not outcome.resumed
        assert outcome.run["compare"] == compare
        found = set(outcome.metrics["methods"])
        assert found == set(methods) if methods is not None else found > set(SAME_LABELS)
        assert (tmp_path / "decoder.safetensors").read_bytes() == before
        assert (tmp_path / "cost.safetensors").exists() == (compare != "none")
        assert told.count("train teacher-0") <= TAUGHT.decoder.steps + 1  # trained once
    again = run_job(SETTINGS, tmp_path, store=store, compare="points")
    assert again.resumed and again.run["compare"] == "all"  # what is there is more


def test_what_sees_other_labels_is_not_among_the_rivals_with_the_same(tmp_path, store):
    outcome = run_job(SETTINGS, tmp_path, store=store, compare="points")
    assert {entry["label_budget"] for entry in outcome.metrics["methods"].values()} == {outcome.run["label_budget"]}


def test_an_added_evaluation_set_trains_nothing_again(alone, store, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    before, told = (folder / "decoder.safetensors").read_bytes(), []
    outcome = run_job(SETTINGS, folder, store=store, compare="none", progress=lambda *said: told.append(said[0]))
    assert not outcome.resumed and outcome.metrics["methods"]["saot_decoder"]["miou"] is not None
    assert (folder / "decoder.safetensors").read_bytes() == before
    assert not {name for name in told if name.startswith(("train", "points", "source", "plan", "labels"))}
    assert run_job(SETTINGS, folder, store=store, compare="none").resumed
    with pytest.raises(ValueError, match="eval is None now but was"):
        run_job(replace(SETTINGS, eval=None), folder, store=store)
