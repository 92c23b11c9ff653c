import json
import re
import threading
import traceback
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.mobile_sam import published_state
from helpers.runs import TINY, evaluate_run, opened, predict_pictures, run_job, tiny_settings
from PIL import Image

from saot.decoder import IGNORE, JointDecoder
from saot.label import open_run
from saot.label.expected import expected_stages
from saot.label.networks import points_cell_pool, source_cell_pool
from saot.recipes import TailRecipe, TaughtRecipe, with_words
from saot.runs import read_kept, side
from saot.tables import ALL_WINGS

TAIL = TailRecipe(steps=3, taught_steps=2, crop=4, points_crop=4, width=16, warm_up=1)
RECIPE = replace(
    TINY,
    decoder=replace(TINY.decoder, architecture="fine", subdivision=4, rounds=1),
    taught=TaughtRecipe(teachers=1, steps=2, rounds=1),
    tail=TAIL,
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(published_state(), path)
    return tiny_settings(recipe=RECIPE, backbone="mobile-sam", weights=str(path), size="64x128")


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("tail") / "run"
    told = []
    outcome = run_job(settings, out, compare="none", progress=lambda stage, *_: told.append(stage))
    return out, outcome, list(dict.fromkeys(told))


@pytest.mark.training
def test_two_kinds_of_network_are_trained_taught_and_joined(run, settings, tmp_path):
    out, outcome, stages = run
    files = list((out / "features").rglob("*.safetensors"))
    assert len(files) == 16 and sum("early" in path.parts for path in files) == 8
    assert {"train teacher-0", "train teacher-tail", "plan plan-1.0-joint"} <= set(stages)
    assert {"train taught-plan-1.0-joint", "train taught-plan-1.0-joint-tail"} <= set(stages)
    assert isinstance(open_run(out, ALL_WINGS).decoder, JointDecoder)
    assert outcome.run["divided"] and outcome.run["features"]["layers"] == ["stage1"]
    assert list(outcome.run["taught"]) == ["plan-1.0-joint"]
    wider = run_job(settings, out, compare="points")
    assert not wider.resumed
    assert wider.metrics["methods"]["saot_decoder"] == outcome.metrics["methods"]["saot_decoder"]
    assert wider.metrics["methods"]["mlp_points"] and wider.metrics["methods"]["best_no_transport"]
    anew = run_job(settings, tmp_path / "at-once", compare="points")
    assert anew.metrics == wider.metrics


def test_stages_are_told_before_they_come(run, settings):
    _, _, stages = run
    expected = expected_stages(settings, {"source": 3, "target": 3, "eval": 2}, ["saot_decoder"], divided=True)
    assert set(stages) - {one.title for one in expected} <= {"report", "held-out points"}


def test_masks_of_new_pictures_are_those_that_were_scored(run, settings, tmp_path):
    out, outcome, _ = run
    again = evaluate_run(out, settings.eval)
    assert again["methods"]["saot_decoder"] == outcome.metrics["methods"]["saot_decoder"]
    path = tmp_path / "stranger.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)).save(path)
    predict_pictures(out, [path], tmp_path / "out", ("png",))
    assert np.asarray(Image.open(tmp_path / "out" / "stranger.png")).shape == (50, 90)


def test_other_weights_of_the_first_layers_are_refused(run, tmp_path):
    out, _, _ = run
    record = json.loads((out / "run.json").read_text())
    other = tmp_path / "other.pt"
    torch.save(published_state(1), other)
    record["settings"]["weights"] = str(other)
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "decoder.safetensors").write_bytes((out / "decoder.safetensors").read_bytes())
    with pytest.raises(ValueError, match="expected the backbone the run was made with; weights_sha256"):
        open_run(tmp_path, ALL_WINGS)


def test_early_tokens_and_targets_of_cells_are_what_windows_show(run, settings):
    out, _, _ = run
    with opened(settings, out) as contest:
        bench, data = contest.bench, contest.data
        early = data.target.early
        assert early is not None and data.target.seen_by(contest.decoder().decoder) is early
        source, points = source_cell_pool(bench, data, TAIL), points_cell_pool(bench, data, TAIL)
        assert source.dim == points.dim == 160 and source.soft is not None and points.soft is not None
        everywhere = torch.arange(data.target.grid(0).num_tokens)
        assert torch.equal(points.features(0, everywhere), early.rows(0, everywhere))
        cells = points.soft(0, everywhere)
        x, _, _ = data.points.pixels.of(data.target.images.keys[0])
        assert cells.shape == (len(everywhere), 16) and 0 < int((cells != IGNORE).sum()) <= len(x)
        known = points.token[points.picture == 0].long().unique()
        assert torch.equal((cells != IGNORE).any(-1).nonzero().squeeze(-1), known)
        held = int(data.points.tokens.held().picture[0])
        assert bool((points.soft(held, everywhere) == IGNORE).all()), "held-out points are not learned from"


def test_a_network_without_last_layers_to_train_is_told_and_gets_the_other_decoder(tmp_path):
    said = []
    settings = tiny_settings(recipe=RECIPE)
    wings = replace(ALL_WINGS, say=said.append)
    outcome = run_job(settings, tmp_path / "plain", compare="none", wings=wings)
    assert any("filterbank stays frozen as a whole" in sentence for sentence in said)
    fast = run_job(replace(settings, recipe=replace(RECIPE, tail=TailRecipe())), tmp_path / "fast", compare="none")
    assert outcome.metrics == fast.metrics and not outcome.run["divided"]


def test_the_pull_loss_is_one_of_the_network_on_frozen_tokens(run, settings, tmp_path):
    plain, _, _ = run
    pulled = replace(settings, recipe=with_words(RECIPE, ["bridge.weight=0.1"]))
    run_job(pulled, tmp_path / "pulled", compare="none")
    models = [{path.name: path for path in (out / "work" / "models").iterdir()} for out in (plain, tmp_path / "pulled")]
    both = [read_kept(models[1][name]) for name in models[0].keys() & models[1].keys()]
    assert {one.about["shape"]["architecture"] for one in both if one is not None} == {"tail"}
    assert len(both) >= 1 and len(models[1].keys() - models[0].keys()) >= 3  # all that has learned from the other


def test_both_networks_must_answer_for_the_same_cells(settings, tmp_path):
    coarse = replace(settings, recipe=with_words(RECIPE, ["decoder.subdivision=2"]))
    with pytest.raises(ValueError, match=re.escape("decoder.subdivision 4 with tail.steps above 0; got fine and 2")):
        run_job(coarse, tmp_path / "coarse", compare="none")


def test_several_sizes_each_train_their_own_layers(settings, tmp_path):
    two = replace(settings, size="64x128,96x192")
    outcome = run_job(two, tmp_path / "two", compare="none")
    kept = read_kept(tmp_path / "two" / "decoder.safetensors")
    assert kept is not None and [shape["architecture"] for shape in kept.about["shapes"]] == ["joint", "joint"]
    again = evaluate_run(tmp_path / "two", two.eval)
    assert again["methods"]["saot_decoder"] == outcome.metrics["methods"]["saot_decoder"]


def test_no_training_takes_the_draws_of_the_network_made_beside_it(settings, tmp_path, monkeypatch, two_threads):
    made, outside = [], []

    def watched(draw):
        def drawn(*args, **kwargs):
            thread = threading.current_thread().name
            if thread.startswith("training"):
                (made if side._first_weights._is_owned() else outside).append(traceback.format_stack()[-8:-1])
            return draw(*args, **kwargs)

        return drawn

    for name in ("kaiming_uniform_", "uniform_", "normal_", "trunc_normal_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, watched(getattr(torch.nn.init, name)))
    run_job(settings, tmp_path / "run", compare="points")
    assert made and not outside, "".join(outside[0])


@pytest.mark.training
def test_a_second_round_of_clicks_goes_on_with_both_networks(run, settings, tmp_path):
    out, outcome, _ = run
    again = run_job(replace(settings, points=str(out / "points.csv"), start=str(out)), tmp_path / "run", compare="none")
    trained = {name for name in again.run["stages"] if name.startswith("train")}
    taught = {"train taught-plan-1.0-joint", "train taught-plan-1.0-joint-tail"}
    assert trained == {"train again", "train again-tail", *taught}
    before, after = (open_run(one, ALL_WINGS).decoder for one in (out, tmp_path / "run"))
    assert isinstance(before, JointDecoder) and isinstance(after, JointDecoder)
    for one, other in ((before.fine, after.fine), (before.trained, after.trained)):
        assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.frozen.parameters(), after.frozen.parameters(), strict=True))
    assert again.run["label_budget"] == outcome.run["label_budget"]
