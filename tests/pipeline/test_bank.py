from dataclasses import replace

import pytest
import torch

from saot.pipeline.bank import label_bank, point_cells
from saot.pipeline.inputs import open_inputs
from saot.pipeline.job import open_job
from saot.pipeline.partial import score_some
from saot.pipeline.workspace import Workspace, load_tensors
from saot.recipes import BankRecipe
from tests.pipeline.conftest import TINY, tiny_settings

RECIPE = replace(
    TINY,
    decoder=replace(TINY.decoder, architecture="fine", subdivision=2, rounds=1),
    bank=BankRecipe(per_class=8, teachers=2, steps=4),
)
SETTINGS = tiny_settings(recipe=RECIPE)
METHODS = ("saot_decoder", "best_no_transport", "decoder_stage1", "mlp")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    out = tmp_path_factory.mktemp("bank") / "run"
    return out, score_some(SETTINGS, out, METHODS)


@pytest.fixture(scope="module")
def job(scored):
    space = Workspace(scored[0], SETTINGS.to_dict(), None)
    yield open_job(SETTINGS, space, open_inputs(SETTINGS, "cpu"))
    space.close()


def test_plan_and_its_absence_teach_different_networks_from_the_same_start(scored):
    _, outcome = scored
    counts = {name: outcome.methods[name].counts for name in METHODS}
    assert all(int(part.sum()) == int(counts["mlp"].sum()) for part in counts.values())
    assert not torch.equal(counts["saot_decoder"], counts["best_no_transport"])
    assert not torch.equal(counts["saot_decoder"], counts["decoder_stage1"])
    names = sorted(path.name for path in (scored[0] / "work" / "log").glob("t*.jsonl"))
    assert names == [
        "taught-plan-0.5-stage1.jsonl",
        "taught-self-stage1.jsonl",
        "teacher-0-stage1.jsonl",
        "teacher-1-stage1.jsonl",
    ], "two teachers, trained once"


def test_the_plan_moves_labels_and_its_absence_does_not(scored):
    folder = scored[0] / "work"
    plan = load_tensors(folder / "taught-plan-0.5" / "000000.safetensors")
    alone = load_tensors(folder / "taught-self" / "000000.safetensors")
    assert plan is not None and alone is not None
    assert plan["correction"].any() and not alone["correction"].any()


def test_a_second_call_changes_nothing(scored):
    out, first = scored
    files = {path: path.stat().st_mtime_ns for path in (out / "work" / "models").iterdir()}
    again = score_some(SETTINGS, out, METHODS)
    assert {path: path.stat().st_mtime_ns for path in (out / "work" / "models").iterdir()} == files
    for name in METHODS:
        assert torch.equal(again.methods[name].counts, first.methods[name].counts)


def test_held_out_points_are_on_no_cell_and_in_no_bank(job):
    held, cells = set(job.points.held().picture.tolist()), point_cells(job, job.points, 2)
    assert held and all(bool((part == 255).all()) == (number in held) for number, part in enumerate(cells))
    _, classes = label_bank(job)
    source = sum(min(8, int((torch.cat(job.source_labels) == c).sum())) for c in range(job.num_classes))
    points = torch.bincount(job.points.training().classes, minlength=job.num_classes).clamp_max(8).sum()
    assert len(classes) == source + int(points)
