import pytest

from saot.runs.folder import Workspace


@pytest.fixture
def space(tmp_path, monkeypatch):
    ticks = iter(range(0, 1_000, 10))  # every look at the clock is ten seconds later
    monkeypatch.setattr("saot.runs.folder.time.perf_counter", lambda: float(next(ticks)))
    space = Workspace(tmp_path / "run", {})
    yield space
    space.close()


def interrupted(space: Workspace, **how: bool) -> float:
    with pytest.raises(KeyboardInterrupt), space.stage("work", **how):
        raise KeyboardInterrupt
    with space.stage("work", **how):
        pass
    return space.facts("stages")["work"]["seconds"]


def test_a_stage_that_goes_on_counts_the_time_before_its_interruption(space):
    assert interrupted(space) == 20.0


def test_a_stage_that_begins_anew_does_not(space):
    assert interrupted(space, resumes=False) == 10.0
