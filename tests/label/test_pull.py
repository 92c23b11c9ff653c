"""The pull loss of T2S-DA in a run: translated pictures, their features, and what stays as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import runs
from helpers.runs import TINY, open_images, run_job, score_some, tiny_settings

from saot.adapt.frozen_pull import translated_pictures
from saot.adapt.translate import fourier_translate
from saot.decoder import seen_tokens
from saot.label.networks import pull_of
from saot.recipes import BEST, BridgeRecipe, differences, with_words
from saot.runs.folder import first_difference, load_tensors
from saot.tables.label.settings import tiny

PULLED = with_words(BEST, ["bridge.weight=0.1"])
SETTINGS = tiny_settings(recipe=tiny(PULLED))
ON = SETTINGS.recipe.bridge


def opened(settings, out, store):
    with runs.opened(settings, out, store) as contest:
        return contest.bench, contest.data


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("bridge") / "store"


@pytest.fixture(scope="module")
def pulled(tmp_path_factory, store):
    """A finished run of preset best with the pull loss, cut to a few steps."""
    out = tmp_path_factory.mktemp("bridge") / "run"
    run_job(SETTINGS, out, store=store)
    return out


def test_off_it_is_as_if_there_were_no_bridge():
    """A folder, digest or network made before there was one is still good."""
    recorded = replace(SETTINGS, recipe=BEST).to_dict()
    assert "bridge" not in recorded["recipe"]
    other = replace(BEST, bridge=BridgeRecipe(weight=0.0, beta=0.09))
    assert json.dumps(replace(SETTINGS, recipe=other).to_dict()) == json.dumps(recorded)
    found = first_difference(replace(SETTINGS, recipe=PULLED).to_dict(), recorded)
    assert found is not None
    assert [change.field for change in differences(PULLED, BEST)] == ["bridge.weight"]


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"a number of 0 or more for BridgeRecipe\.weight; got -0\.1"):
        replace(ON, weight=-0.1)


def test_pictures_are_translated_with_partners_of_the_seed():
    source, target = open_images(SETTINGS.source), open_images("scenes:street:train,count=4,height=64,width=128")
    made = translated_pictures(source, target, 0.05, 0)
    others = [translated_pictures(source, target, 0.05, seed) for seed in (0, 1)]
    assert made.keys == others[0].keys != others[1].keys
    assert [key.split("/", 2)[2] for key in made.keys] == list(source.keys)
    assert [made.size(number) for number in range(3)] == [(64, 128)] * 3
    assert translated_pictures(source, target, 0.06, 0).fingerprint(0) != made.fingerprint(0)
    for number in range(len(made)):
        image = made.image(number)
        candidates = [fourier_translate(source.image(number), target.image(n), 0.05) for n in range(4)]
        fits = [np.array_equal(image, np.rint(each).astype(np.uint8)) for each in candidates]
        assert sum(fits) == 1 and not np.array_equal(image, source.image(number))


def test_a_run_pulls_the_teachers_alone_and_ends_with_metrics(pulled):
    metrics = json.loads((pulled / "metrics.json").read_text())
    assert metrics["methods"]["saot_decoder"]["miou"] is not None
    run = json.loads((pulled / "run.json").read_text())
    assert run["preset"] == "best-tiny" and run["settings"]["recipe"]["bridge"]["weight"] == 0.1
    assert "features translated" in run["stages"]
    lines = [json.loads(line) for line in (pulled / "log.jsonl").read_text().splitlines()]
    stages = {line["stage"] for line in lines if "pull" in line}
    assert stages == {"teacher-0-stage1", "teacher-1-stage1"}
    assert all(line["pull"] > 0 for line in lines if line["stage"] in stages)


def test_a_killed_run_ends_with_the_same_bytes(pulled, tmp_path, monkeypatch):
    monkeypatch.setattr("saot.runs.folder.CHECKPOINT_EVERY", 2)  # so that trainings resume in their middle

    for stage in ("features translated", "train teacher-0", "train taught-plan-1.0-1"):

        def stop(name, done, total, stage=stage):
            if name == stage and done == min(3, total - 1):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_job(SETTINGS, tmp_path / "run", progress=stop)
    run_job(SETTINGS, tmp_path / "run")
    for name in ("metrics.json", "decoder.safetensors", "log.jsonl", "points.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (pulled / name).read_bytes(), name


def test_translated_features_are_kept_beside_the_sources_and_made_once(pulled, store, tmp_path, monkeypatch):
    _, data = opened(SETTINGS, pulled, store)
    source = data.source.domain
    assert data.translated is not None and data.translated.store.root == source.store.root
    assert set(data.translated.images.keys) | set(source.images.keys) <= set(source.store.keys())
    assert all(data.translated.shape(n) == source.shape(n) for n in range(len(source)))
    assert not torch.equal(data.translated.tokens(0), source.tokens(0))
    made, write = [], type(source.store).write
    monkeypatch.setattr(
        type(source.store), "write", lambda self, key, features: made.append(key) or write(self, key, features)
    )
    opened(SETTINGS, tmp_path / "same", store)
    assert made == []
    other = opened(replace(SETTINGS, seed=1), tmp_path / "other", store)[1].translated
    assert other is not None and set(made) == set(other.images.keys) - set(data.translated.images.keys)
    opened(SETTINGS, tmp_path / "back", store)
    assert len(made) == len(set(made)), "seeds leave each other's features alone"


@pytest.mark.parametrize("architecture", ["fine", "residual"])
def test_a_token_comes_with_its_translation_and_each_with_its_own_surroundings(pulled, store, architecture):
    bench, data = opened(SETTINGS, pulled, store)
    source = data.source.domain
    recipe = replace(SETTINGS.recipe.decoder, architecture=architecture)
    pull = pull_of(bench, data, recipe)
    assert pull is not None and data.translated is not None
    features, labels = pull.source.read(torch.arange(len(pull.source)))
    pictures, tokens = pull.source.picture, pull.source.token.long()
    for number in range(len(source)):
        mine = pictures == number
        assert torch.equal(labels[mine].to(torch.uint8), data.source.labels[number][tokens[mine]])
        for part, domain in zip(features[mine].chunk(2, dim=-1), (source, data.translated), strict=True):
            whole = domain.tokens(number)
            if architecture == "fine":
                whole = seen_tokens(whole, *source.shape(number), recipe.context)
            torch.testing.assert_close(part.float(), whole[tokens[mine]], atol=1e-3, rtol=0)  # half precision on disk
    assert len(pull.target) == sum(data.target.grid(n).num_tokens for n in range(len(data.target)))


def test_the_papers_decoder_is_pulled_too_and_competitors_only_where_asked(tmp_path, store):
    """Networks without the pull loss are the same files, with and without a bridge in the run."""
    names = ["decoder_stage1", "mlp_ema", "mlp_points_ema"]
    off = tiny_settings(recipe=replace(TINY, decoder=replace(TINY.decoder, points_weight=0.5)))
    on = replace(off, recipe=replace(off.recipe, bridge=ON))
    score_some(off, tmp_path / "off", names, store=store, shared=tmp_path / "shared")
    told = []
    also = [*names, "best_no_transport", "mlp_ema_pull", "mlp_points_ema_pull"]
    outcome = score_some(
        on,
        tmp_path / "on",
        also,
        store=store,
        shared=tmp_path / "shared",
        progress=lambda stage, *_: told.append(stage),
    )
    assert "cost" not in told and "train mlp_ema" not in told, "shared: the bridge has no say in them"
    assert outcome.methods["mlp_ema_pull"].budget == 0 < outcome.methods["mlp_points_ema_pull"].budget
    with pytest.raises(ValueError, match="mlp_ema_pull"):
        score_some(off, tmp_path / "off", ["mlp_ema_pull"], store=store)
    assert {stage for stage in told if stage.startswith("train ")} == {
        *("train saot_decoder-0", "train saot_decoder-1", "train best_no_transport"),
        *("train mlp_ema_pull", "train mlp_points_ema_pull"),
    }
    models = {path.name: load_tensors(path) for path in (tmp_path / "on" / "work" / "models").iterdir()}
    before = {path.name: load_tensors(path) for path in (tmp_path / "off" / "work" / "models").iterdir()}
    kept = set(models) & set(before)
    assert len(kept) == 4 and len(set(models) - kept) == 8  # both stages of the two MLPs; two each of the rest
    logs = {path.stem for path in (tmp_path / "on" / "work" / "log").glob("*.jsonl") if '"pull"' in path.read_text()}
    assert logs == {
        *("saot_decoder-0-stage1", "saot_decoder-1-stage1", "best_no_transport-stage1"),
        *("mlp_ema_pull-stage1", "mlp_points_ema_pull-stage1"),
    }
