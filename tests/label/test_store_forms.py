"""A run on features in another form: the same tokens from the store and for new pictures, and the form is the run's."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import evaluate_run, opened, run_job, tiny_settings

from saot import label
from saot.decoder import TokenDecoder
from saot.deploy import export_run, pack_run
from saot.features import in_form, load_backbone
from saot.label import FinishedRun, RunSettings, fingerprints_file, open_run
from saot.label.networks import Trained
from saot.label.settings import settings_of
from saot.label.start import Start
from saot.runs import Workspace
from saot.tables import ALL_WINGS


@contextmanager
def sharing(settings: RunSettings, folder: Path, store: Path | None) -> Iterator[label.Contest]:
    """As `opened`, with what the store remembers."""
    inputs = label.open_inputs(settings, "cpu", ALL_WINGS, fingerprints_file(folder, store))
    space = Workspace(folder, settings.to_dict())
    try:
        yield label.open_contest(settings, inputs, space, store)
    finally:
        space.close()


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    """A finished tiny run on 32 numbers a token, and its store."""
    root = tmp_path_factory.mktemp("projected")
    made = run_job(tiny_settings(store_form="projected:32"), root / "run", store=root / "store", compare="none")
    return root, made


def test_new_pictures_are_projected_as_those_of_the_run_were(projected, tmp_path):
    root, made = projected
    run = open_run(root / "run", ALL_WINGS)
    assert isinstance(run, FinishedRun) and made.run["features"]["dim"] == 32
    with opened(tiny_settings(store_form="projected:32"), tmp_path / "again", root / "store") as contest:
        domain = contest.data.target
        assert domain.dim == 32
        for number, key in enumerate(domain.images.keys):
            found = run.features(domain.images.image(number), domain.images.fingerprint(number))
            assert found[0].provenance == domain.store.provenance(key)  # by its form the same directions
            assert torch.equal(found[0].tokens.half().float(), domain.tokens(number))
    entry = evaluate_run(root / "run", tiny_settings().eval)["methods"]["saot_decoder"]
    assert entry == made.metrics["methods"]["saot_decoder"]


def test_runs_that_share_a_store_share_its_projection(projected, tmp_path):
    """The other run has other source pictures, on which it would have fitted other directions."""
    root, made = projected
    shutil.copytree(root / "store", tmp_path / "store")
    other = tiny_settings(source=tiny_settings().source.replace("count=3", "count=4"), store_form="projected:32")
    with sharing(other, tmp_path / "run", tmp_path / "store") as contest:
        assert contest.data.source.domain.store.key.form == made.run["features"]["form"]
        assert contest.data.source.domain.store.root.parent == tmp_path / "store"
    with sharing(other, tmp_path / "alone", None) as contest:
        assert contest.data.source.domain.store.key.form != made.run["features"]["form"]
    half = sharing(tiny_settings(), tmp_path / "half", tmp_path / "store")
    with pytest.raises(ValueError, match="this run has dim 203"), half:
        pass


def test_a_run_without_its_projection_is_refused_and_a_packed_one_has_it(projected, tmp_path):
    root, _ = projected
    (path,) = (root / "run").glob("projection-*.safetensors")
    pack_run(root / "run", tmp_path / "packed")
    assert (tmp_path / "packed" / path.name).read_bytes() == path.read_bytes()
    assert isinstance(open_run(tmp_path / "packed", ALL_WINGS), FinishedRun)
    (tmp_path / "packed" / path.name).unlink()
    with pytest.raises(ValueError, match=r"projection-32-\w+\.safetensors; it is missing: put the file back"):
        open_run(tmp_path / "packed", ALL_WINGS)


def test_no_graph_is_written_of_another_form(projected, tmp_path):
    with pytest.raises(ValueError, match=r"features in the form projected:32:\w+, which no graph has"):
        export_run(projected[0] / "run", "torch", tmp_path / "a.pt2", wings=ALL_WINGS)


def test_the_form_is_written_down_only_if_it_is_another():
    settings = tiny_settings(store_form="int8")
    assert settings_of(settings.to_dict()) == settings and "store_form" not in tiny_settings().to_dict()
    with pytest.raises(ValueError, match="expected the form of a store"):
        replace(settings, store_form="int4")


def test_eight_bits_for_networks_and_for_new_pictures_are_the_same(tmp_path):
    settings = tiny_settings(store_form="int8")
    made = run_job(settings, tmp_path / "run", compare="none")
    assert made.run["features"]["form"] == "int8"
    entry = evaluate_run(tmp_path / "run", settings.eval)["methods"]["saot_decoder"]
    assert entry == made.metrics["methods"]["saot_decoder"]
    assert not list((tmp_path / "run").glob("projection-*"))


def test_a_start_from_a_run_of_another_form_is_refused(tmp_path):
    half = load_backbone("filterbank")
    eight, trained = in_form(half, "int8").key, Trained(TokenDecoder(3, 2), "")
    for before, now, words in ((eight, half.key, "'half' and was 'int8'"), (half.key, eight, "'int8' and was 'half'")):
        start = Start(tmp_path, trained, json.loads(before.to_json()), frozenset())
        start.check_features(before.to_json())
        with pytest.raises(ValueError, match=f"form is {words}: give the same .* --store-form"):
            start.check_features(now.to_json())


def test_a_second_round_takes_the_projection_of_the_first(projected, tmp_path):
    """Its source has grown, on which other directions would be fitted."""
    root, made = projected
    grown = tiny_settings(source=tiny_settings().source.replace("count=3", "count=4"), store_form="projected:32")
    recipe = replace(grown.recipe, taught=replace(grown.recipe.taught, teachers=1))
    inputs = label.open_inputs(replace(grown, recipe=recipe, start=str(root / "run")), "cpu", ALL_WINGS)
    assert inputs.backbone.key.form == made.run["features"]["form"]
    assert label.open_inputs(grown, "cpu", ALL_WINGS).backbone.key.form != made.run["features"]["form"]
