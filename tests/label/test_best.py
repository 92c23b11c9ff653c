import shutil
from dataclasses import replace

import pytest
import torch
from helpers.runs import TINY, opened, score_some, tiny_settings
from torch.testing import assert_close

from saot.data import PatchGrid
from saot.label import saot_decoder
from saot.label.best import Lesson
from saot.label.data import class_frequencies
from saot.label.networks import inside_cells, point_cells, source_shares
from saot.recipes import TaughtRecipe
from saot.runs import load_tensors

RECIPE = replace(
    TINY,
    decoder=replace(TINY.decoder, architecture="fine", subdivision=2, context=2, rounds=1),
    taught=TaughtRecipe(teachers=2, steps=4),
)
SETTINGS = tiny_settings(recipe=RECIPE)
METHODS = ("saot_decoder", "best_no_transport", "decoder_stage1", "mlp")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    out = tmp_path_factory.mktemp("taught") / "run"
    return out, score_some(SETTINGS, out, METHODS)


@pytest.fixture(scope="module")
def contest(scored):
    with opened(SETTINGS, scored[0]) as contest:
        yield contest


@pytest.mark.training
def test_plan_and_its_absence_teach_different_networks_from_the_same_start(scored):
    _, outcome = scored
    counts = {name: outcome.methods[name].counts for name in METHODS}
    assert all(int(part.sum()) == int(counts["mlp"].sum()) for part in counts.values())
    assert not torch.equal(counts["saot_decoder"], counts["best_no_transport"])
    assert not torch.equal(counts["saot_decoder"], counts["decoder_stage1"])
    names = sorted(path.name for path in (scored[0] / "work" / "log").glob("t*.jsonl"))
    assert names == [
        "taught-plan-1.0-1-stage1.jsonl",
        "taught-plan-1.0-2-stage1.jsonl",
        "taught-self-1-stage1.jsonl",
        "taught-self-2-stage1.jsonl",
        "teacher-0-stage1.jsonl",
        "teacher-1-stage1.jsonl",
    ], "two teachers, trained once"


def test_a_killed_run_ends_with_the_same_networks(scored, tmp_path):
    """Scores gone, the last network half trained, the second round's labels unmade: all of it comes back the same."""
    out, first = scored
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "work" / "scores")
    by_age = sorted((again / "work" / "models").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in by_age[3:]:  # both teachers and the first round stay
        path.unlink()
    for path in (again / "work").glob("taught-*-2*"):
        path.unlink()

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "train taught-plan-1.0-2" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_some(SETTINGS, again, METHODS, progress=stop)
    finished = score_some(SETTINGS, again, METHODS)
    for name in METHODS:
        assert torch.equal(finished.methods[name].counts, first.methods[name].counts), name
    for path in (out / "work" / "models").iterdir():
        other = load_tensors(again / "work" / "models" / path.name)
        assert other is not None and all(torch.equal(other[k], v) for k, v in load_tensors(path).items()), path.name


def test_without_points_it_runs_on_the_source_alone(tmp_path):
    outcome = score_some(replace(SETTINGS, points="0"), tmp_path / "run", ["saot_decoder", "best_no_transport"])
    assert outcome.methods["saot_decoder"].budget == 0
    assert int(outcome.methods["saot_decoder"].counts.sum()) > 0


@pytest.mark.training
def test_the_plan_moves_shares_towards_the_source(scored, contest):
    bench, data = contest.bench, contest.data
    plan = load_tensors(scored[0] / "work" / "taught-plan-1.0-1.safetensors")
    assert plan is not None and bool(plan["correction"].any())
    assert not (scored[0] / "work" / "taught-self-1.safetensors").exists()  # without a plan there is nothing to keep
    source = source_shares(bench, data, bench.recipe.decoder)
    counts = sum(torch.bincount(torch.from_numpy(data.source.masks.mask(n)).flatten(), minlength=256) for n in range(3))
    pixels = counts[:19].double() / counts[:19].sum()
    patches = class_frequencies(data.source.labels, data.num_classes)
    assert (source - pixels).abs().sum() < (patches - pixels).abs().sum()  # cells see what patches hide

    def distance(shares):
        known = source > 0
        return float((source[known] * (source[known] / shares[known]).log()).sum())

    assert distance(plan["after"]) < distance(plan["before"])
    assert set(saot_decoder(bench, data).facts["taught"]) == {"plan-1.0-1", "plan-1.0-2"}


def test_held_out_points_are_on_no_cell(contest):
    held, cells = set(contest.data.points.tokens.held().picture.tolist()), point_cells(contest.bench, contest.data, 2)
    assert held and all(bool((part == 255).all()) == (number in held) for number, part in enumerate(cells))


def test_cells_in_padding_have_no_say(contest, monkeypatch):
    grid = PatchGrid(30, 42, 30, 42, 14, 3, 3)  # the last row of tokens holds 2 of 14 pixels
    target = contest.data.target
    monkeypatch.setattr(type(target), "grid", lambda self, number: grid)
    inside = inside_cells(target, 0, 2)
    assert inside.shape == (9, 4) and bool(inside[:6].all())
    assert inside[6:].tolist() == [[True, True, False, False]] * 3


@pytest.mark.training
def test_answers_that_are_kept_are_those_that_would_be_given_anew(contest):
    teachers = (saot_decoder(contest.bench, contest.data, refined=False),)
    lesson = Lesson(contest.bench, contest.data, teachers, 1.0, "test", replace(RECIPE.decoder, batch=1))
    assert not lesson.keeps, "four steps draw fewer tokens than there are"
    keeps = replace(lesson, recipe=replace(RECIPE.decoder, batch=10_000))
    assert keeps.keeps
    chosen = torch.tensor([5, 0, 5])
    for picture in range(2):
        anew, inside = lesson.said(picture)
        kept, _ = keeps.said(picture)
        assert_close(kept.softmax(-1), anew.softmax(-1), rtol=0, atol=2e-3)  # kept in half precision
        assert_close(lesson.said(picture, chosen)[0], anew[chosen], rtol=1e-4, atol=1e-4)
        assert torch.equal(keeps.said(picture, chosen)[0], kept[chosen])
        assert torch.equal(keeps.said(picture, chosen)[1], inside[chosen])


def test_answers_are_gone_when_they_have_been_learned(scored):
    assert not list((scored[0] / "work").glob("said-plan*"))
