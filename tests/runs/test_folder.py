import pytest
import torch

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


def test_a_stage_on_a_device_says_what_it_took_there(tmp_path, monkeypatch):
    space = Workspace(tmp_path / "run", {"format": 2})
    with space.stage("on the host"):
        pass
    resets = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda number: (5, 7)[number])
    with space.stage("on a device"):
        assert resets == [0, 1]
    stages = space.facts("stages")
    assert "device_memory_bytes" not in stages["on the host"]
    assert stages["on a device"]["device_memory_bytes"] == 7
    space.close()
