import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import TINY, evaluate_run, opened, run_job, score_some, tiny_settings

from saot.data import class_set
from saot.decoder import GridDecoder
from saot.evaluate import method_entry
from saot.label.networks import points_pool
from saot.label.run import PartialOutcome
from saot.label.scoring import _logits_at, held_out_scores
from saot.label.settings import RunSettings
from saot.recipes import InterventionRecipe, TaughtRecipe
from saot.runs import read_kept
from saot.runs.folder import load_tensors
from saot.tables.interventions import rare_classes

WITHOUT_COST = ["mlp", "saot_decoder_focal"]
INTERVENTIONS = [
    "saot_decoder_logit_adjusted",
    "saot_decoder_focal",
    "saot_decoder_recalibrated",
    "saot_decoder_finetuned",
    "saot_decoder_spatial",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the runs of this file."""
    return tmp_path_factory.mktemp("partial")


@pytest.fixture(scope="module")
def store(finished) -> Path:
    """Features that are made already."""
    return finished / "features"


@pytest.fixture(scope="module")
def some(finished, folder, store) -> PartialOutcome:
    """What `saot run` does not score, in the folder of a finished run."""
    shutil.copytree(finished, folder / "run", ignore=shutil.ignore_patterns("features"))
    names = ["decoder_stage1", "saot_decoder", *INTERVENTIONS]
    return score_some(tiny_settings(), folder / "run", names, store=store)


def entry(outcome: PartialOutcome, name: str) -> dict:
    """A method as metrics.json has it."""
    result = outcome.methods[name]
    return method_entry(result.matrix, outcome.contest.data.classes, result.budget, result.at_edges)


def without_choices(**changes) -> RunSettings:
    return tiny_settings(recipe=replace(TINY, cost=replace(TINY.cost, steps=2), **changes))


def test_no_more_is_trained_than_a_method_needs(folder, store):
    outcome = score_some(tiny_settings(), folder / "little", WITHOUT_COST, store=store)
    assert list(outcome.methods) == WITHOUT_COST
    assert not (folder / "little" / "cost.safetensors").exists() and "cost" not in outcome.stages
    assert not list((folder / "little" / "work").glob("pseudo-0*"))
    trained = [stage for stage in outcome.stages if stage.startswith("train")]
    assert sorted(trained) == sorted(f"train {name}" for name in WITHOUT_COST)  # two at a time: either may end first


def test_counts_are_those_of_metrics_json(some, finished):
    kept = json.loads((finished / "metrics.json").read_text())["methods"]
    assert entry(some, "saot_decoder") == kept["saot_decoder"]
    result = some.methods["decoder_stage1"]
    assert result.counts.shape == (2, 19, 19) and result.counts.dtype == torch.int64
    assert some.seconds["decoder_stage1"] == some.stages["score decoder_stage1"]["seconds"] > 0
    assert some.contest.data.classes == class_set("cityscapes19")


def test_what_was_scored_is_not_made_again(some, folder, store):
    def told(stage: str, done: int, total: int) -> None:
        assert not stage.startswith(("score", "train", "refine", "cost")), stage

    again = score_some(tiny_settings(), folder / "run", list(some.methods), store=store, progress=told)
    for name, result in some.methods.items():
        assert torch.equal(again.methods[name].counts, result.counts)
    assert set(again.stages) == set(some.stages)


def test_budgets_count_what_each_intervention_has_seen(some, finished):
    budget = json.loads((finished / "metrics.json").read_text())["methods"]["saot"]["label_budget"]
    assert some.methods["saot_decoder_focal"].budget == 0
    assert {some.methods[name].budget for name in some.methods if name != "saot_decoder_focal"} == {budget}


def test_choices_are_made_on_held_out_points(some, folder):
    facts = {name: some.methods[name].facts for name in INTERVENTIONS}
    swept = facts["saot_decoder_logit_adjusted"]["adjustment"]["saot_decoder_logit_adjusted"]
    assert tuple(trial["strength"] for trial in swept["trials"]) == InterventionRecipe().logit_adjustment
    tried = facts["saot_decoder_finetuned"]["trials"]["saot_decoder_finetuned"]
    assert tuple(trial["learning_rate"] for trial in tried) == InterventionRecipe().finetune_rates
    kept = load_tensors(folder / "run" / "work" / "scores" / "saot_decoder_logit_adjusted.safetensors")
    assert kept is not None and ("bias" in kept) == (swept["chosen"] != 0)
    maps = read_kept(folder / "run" / "work" / "source-labels.safetensors")
    assert maps is not None
    counts = torch.bincount(torch.cat(list(maps.tensors.values())).long(), minlength=256)[:19]
    rare = [some.contest.data.classes.names.index(n) for n in facts["saot_decoder_finetuned"]["rare_classes"]]
    others = [c for c in range(19) if counts[c] > 0 and c not in rare]
    assert len(rare) == min(6, (len(rare) + len(others)) // 2)
    assert 0 < max(counts[rare]) <= min(counts[others])
    assert not some.notes


def test_without_held_out_points_nothing_is_chosen_and_a_note_says_so(folder, store):
    names = ["decoder_stage1", "saot_decoder", "saot_decoder_logit_adjusted", "saot_decoder_finetuned"]
    settings = without_choices(
        scores=replace(TINY.scores, holdout_points=0.0), refine=replace(TINY.refine, steps=0, pseudo="soft")
    )
    outcome = score_some(settings, folder / "unchosen", names, store=store)
    stage_1, decoder, adjusted, _ = (outcome.methods[name].counts for name in names)
    assert torch.equal(adjusted, decoder)
    assert torch.equal(stage_1, decoder)  # refine.steps=0 means no stage 2
    assert not any(stage.startswith("refine") for stage in outcome.stages)
    assert "stays 0" in outcome.notes[names[2]] and "smallest" in outcome.notes[names[3]]
    assert [stage for stage in outcome.stages if "finetuned-" in stage] == ["train saot_decoder_finetuned-1e-05"]


def test_a_run_of_the_spatial_architecture_goes_on_from_what_was_scored(some, folder, store):
    settings = tiny_settings(recipe=replace(TINY, decoder=replace(TINY.decoder, architecture="conv")))
    part = score_some(settings, folder / "conv", ["saot_decoder"], store=store)
    assert torch.equal(part.methods["saot_decoder"].counts, some.methods["saot_decoder_spatial"].counts)
    assert not torch.equal(part.methods["saot_decoder"].counts, some.methods["saot_decoder"].counts)
    trained = part.stages["train saot_decoder-1"]["seconds"]
    outcome = run_job(settings, folder / "conv", store=store)
    assert outcome.metrics["methods"]["saot_decoder"] == entry(part, "saot_decoder")
    assert outcome.run["stages"]["train saot_decoder-1"]["seconds"] == trained
    assert set(INTERVENTIONS).isdisjoint(outcome.metrics["methods"])
    found = evaluate_run(folder / "conv", str(settings.eval))  # as `saot predict` labels new pictures
    assert found["methods"]["saot_decoder"] == outcome.metrics["methods"]["saot_decoder"]


def test_points_see_the_neighbours_a_whole_picture_shows(finished):
    with opened(tiny_settings(), finished) as contest:
        data = contest.data
    torch.manual_seed(0)
    decoder, pool = GridDecoder(data.target.dim, 19, 8, 2).eval(), points_pool(data.points.tokens, data.target, 19)
    logits = _logits_at(data, decoder, pool, torch.arange(len(pool)).flip(0)).flip(0)
    for place in range(0, len(pool), 7):
        picture, token = int(pool.picture[place]), int(pool.token[place])
        assert torch.equal(logits[place], data.target.logits(decoder, picture)[token])


def test_a_network_that_calls_everything_one_class_says_nothing_of_shares(finished):
    with opened(tiny_settings(), finished) as contest:
        bench, data = contest.bench, contest.data
    seen = data.points.tokens.held().classes.unique()
    always = torch.nn.functional.one_hot(seen[0], data.num_classes).float()
    scores = held_out_scores(
        bench, data, lambda tokens: always.expand(len(tokens), -1), [torch.zeros(data.num_classes)]
    )
    assert scores is not None
    # the n classes have equal shares then: IoU is 1/n for one of them and 0 for the others
    assert scores[0] == pytest.approx(1 / len(seen) ** 2)


def test_a_decoder_with_cells_has_the_interventions_that_need_no_token_labels(some, folder, store):
    decoder = replace(TINY.decoder, architecture="fine", subdivision=2, rounds=1)
    settings = tiny_settings(recipe=replace(TINY, decoder=decoder, taught=TaughtRecipe(teachers=1, steps=4)))
    names = [name for name in INTERVENTIONS if name not in ("saot_decoder_recalibrated", "saot_decoder_finetuned")]
    outcome = score_some(settings, folder / "cells", names, store=store)
    for name, result in outcome.methods.items():
        assert torch.equal(result.counts.sum(-1), some.methods[name].counts.sum(-1)), name
    with pytest.raises(ValueError, match="got saot_decoder_finetuned"):
        score_some(settings, folder / "cells", INTERVENTIONS[3:], store=store)


def test_wrong_requests_are_refused(some, folder, store):
    with pytest.raises(ValueError, match=r"saot_decoder_spatial, .*saot_multi, .*; got magic"):
        score_some(tiny_settings(), folder / "run", ["mlp", "magic"], store=store)
    with pytest.raises(ValueError, match="expected an evaluation set"):
        score_some(tiny_settings(eval=None), folder / "unscored", ["mlp"])
    assert not (folder / "unscored").exists()


def test_rare_classes_are_those_with_the_fewest_tokens():
    frequencies = torch.tensor([0.4, 0.1, 0.0, 0.2, 0.05, 0.25])
    assert rare_classes(frequencies, 6) == [1, 4]
    assert rare_classes(frequencies, 1) == [4]
    assert rare_classes(torch.tensor([1.0, 0.0]), 6) == [0]
