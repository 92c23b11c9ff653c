"""What is told while a command works, to whoever watches and to a job queue's log."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from saot.cli import shell
from saot.cli.forecast import Forecast
from saot.cli.shell import Bars
from saot.label import ExpectedStage, RunSettings, expected_stages
from saot.label.scoring import ORDER
from saot.recipes import DEMO, DEMO_SIZE, ScoreRecipe, TaughtRecipe, preset


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bars(clock, monkeypatch) -> Bars:
    monkeypatch.delenv("SAOT_PROGRESS", raising=False)
    return Bars(Forecast(clock))


def test_without_a_terminal_there_is_a_line_a_stage_and_a_minute(bars, clock, capsys):
    bars.expect([ExpectedStage("features source", 10, 1.0), ExpectedStage("train teacher-0", 100, 1.0, 1)])
    for done in range(1, 6):
        clock.now += 10
        bars("features source", done, 10)
    assert capsys.readouterr().err == ""
    bars.minute()
    # half of the stage took 50 s, ten times what was expected, and so will the training
    assert capsys.readouterr().err == "features source: 5/10, 50 %, 50 s left; whole run: 18 min left\n"
    for done in range(6, 11):
        clock.now += 10
        bars("features source", done, 10)
    bars("features source", 10, 10)
    assert capsys.readouterr().err == "features source: 10/10 done; whole run: 17 min left\n"
    for done in (1, 2):
        clock.now += 10
        bars("train teacher-0", done, 100)
    bars.minute()
    assert capsys.readouterr().err == "train teacher-0: 2/100, 2 %, 16 min left; whole run: 16 min left\n"


def test_a_stage_of_the_first_picture_alone_tells_no_time(bars, capsys):
    bars("predict", 0, 3)
    bars.minute()
    assert capsys.readouterr().err == "predict: 0/3, 0 %, ? left\n"


def test_stages_side_by_side_share_the_clock(clock):
    forecast = Forecast(clock)
    forecast.expect([ExpectedStage(f"train {name}", 10, 1.0) for name in "abcd"])
    for done in range(1, 11):
        clock.now += 1.0
        forecast.hear("train a", done, 10)
        forecast.hear("train b", done, 10)
    left = forecast.whole_left()
    assert left is not None and left == pytest.approx(10.0, rel=0.1)  # two more pairs of 10 s each: c and d at once


def test_a_phase_that_was_made_before_is_not_waited_for(clock):
    forecast = Forecast(clock)
    forecast.expect([ExpectedStage("features source", 1000, 1.0, 1), ExpectedStage("train a", 10, 1.0, 2)])
    clock.now = 5.0
    forecast.hear("train a", 4, 10)  # it goes on from step 3 of an earlier process
    assert forecast.stage_left("train a") is None
    clock.now = 7.0
    forecast.hear("train a", 5, 10)
    assert forecast.stage_left("train a") == pytest.approx(10.0)
    assert forecast.whole_left() == pytest.approx(10.0)


def test_it_can_be_silenced(monkeypatch, capsys):
    monkeypatch.setenv("SAOT_PROGRESS", "0")
    with Bars() as bars:
        bars("predict", 3, 3)
    assert capsys.readouterr().err == ""


def test_what_is_told_loads_no_torch():
    """The command line sets how torch's threads wait, which must stand before torch is loaded."""
    bare = "import sys, types; names = ('saot', 'saot.cli'); root = sys.argv[1]\n"
    bare += "for name in names: sys.modules[name] = types.ModuleType(name)\n"
    bare += "sys.modules['saot'].__path__, sys.modules['saot.cli'].__path__ = [root], [root + '/cli']\n"
    bare += "import saot.cli.shell; print('torch' in sys.modules)"
    root = str(Path(shell.__file__).parents[1])
    answer = subprocess.run([sys.executable, "-c", bare, root], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_the_stages_of_a_run_are_those_that_were_expected(finished):
    """The record of a run names its stages; those that take time are all expected, in this recipe and in the demo's."""
    from helpers.runs import tiny_settings

    pictures = {"source": 3, "target": 3, "eval": 2}
    untold = {"report", "oracle labels", "train semantic_prior"}  # the last is told as "semantic prior"
    made = set(json.loads((finished / "run.json").read_text())["stages"]) - untold
    titles = {one.title for one in expected_stages(tiny_settings(), pictures, ORDER)}
    assert made - titles == set()
    same = {"train mlp_points", "refine mlp_points_ema"}  # as those of best_no_transport in this recipe: done once
    masks = {"source masks", "evaluation masks"}  # told beside the record
    assert titles - made == {"semantic prior"} | same | masks
    settings = RunSettings("scenes:game", "scenes:street", "scenes:street", "20", size=DEMO_SIZE, recipe=DEMO)
    demo = [one.title for one in expected_stages(settings, pictures, ORDER)]
    for title in (
        "source cells",
        "train teacher-1",
        "plan plan-1.0-1",
        "train taught-plan-1.0-1",
        "train taught-self-1",
    ):
        assert title in demo
    two = [one.title for one in expected_stages(settings, pictures, ("saot_decoder",), ("saot_decoder",))]
    assert "score saot_decoder" not in two and "train oracle" not in two


def test_every_stage_of_a_first_start_is_expected_with_its_units(tmp_path):
    from helpers.runs import SIZE, TINY, run_job, tiny_settings

    class Told:
        def __init__(self) -> None:
            self.expected: dict[str, int] = {}
            self.units: dict[str, int] = {}

        def expect(self, stages) -> None:
            self.expected = {one.title: one.units for one in stages}

        def __call__(self, stage: str, done: int, total: int) -> None:
            self.units[stage] = total

    taught = replace(TINY, taught=TaughtRecipe(teachers=1, rounds=1, steps=3), scores=ScoreRecipe())
    told = Told()  # of 4 source, 3 target and 2 evaluation pictures
    settings = tiny_settings(recipe=taught, source=f"scenes:game:train,count=4,{SIZE}")
    run_job(settings, tmp_path, compare="points", progress=told)
    assert {"points", "source masks", "evaluation masks", "train fold-1", "labels self-1"} <= set(told.units)
    assert told.expected | told.units == told.expected


@pytest.mark.parametrize(
    ("changes", "folds"),
    [
        ({}, False),  # as many points as are drawn are held out in part
        ({"points": "total:20"}, True),  # too few
        ({"points": "clicks.csv"}, True),
        ({"points": "resample:20"}, False),
        ({"points": "0"}, False),
        ({"eval": "folder:b"}, True),  # nothing is held out of pictures that are scored on
        ({"recipe": preset("paper-small")}, False),  # its network learns from pairs
    ],
)
def test_folds_are_expected_where_they_are_trained(changes, folds):
    settings = replace(RunSettings("folder:a", "folder:b", points="20", recipe=DEMO), **changes)
    titles = {one.title for one in expected_stages(settings, {"source": 3, "target": 32, "eval": 0}, ())}
    assert ("train fold-0" in titles) == folds
    assert ("points" in titles) == (settings.points in ("20", "total:20"))
