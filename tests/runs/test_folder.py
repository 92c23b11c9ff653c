import errno
import fcntl
import gc
import json
import os
import warnings
from contextlib import closing
from pathlib import Path

import pytest
import torch

from saot.runs import Kept, Making, train_steps
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


def lines(space: Workspace) -> list[tuple[str, int]]:
    records = [json.loads(line) for line in space.path("log.jsonl").read_text().splitlines()]
    return [(one["stage"], one["step"]) for one in records]


def test_the_log_grows_with_the_training_and_survives_a_kill(tmp_path):
    def step(number: int) -> dict[str, float]:
        if number == stop_at:
            raise KeyboardInterrupt
        return {"loss": float(number)}

    def make(making: Making) -> Kept:
        making.log(train_steps(step, 250, {}, making.checkpoint))
        return Kept()

    whole = [("b", number) for number in range(250)]
    with closing(Workspace(tmp_path / "run", {"format": 2})) as space:
        stop_at = 120
        with pytest.raises(KeyboardInterrupt):
            space.once("work/b", "", make, title="train b", log="b")
        assert lines(space) == whole[:100]
        with open(space.path("log.jsonl"), "a") as file:
            file.write('{"stage": "b", "st')  # cut short by the kill
    with closing(Workspace(tmp_path / "run", {"format": 2})) as space:
        stop_at = 220
        with pytest.raises(KeyboardInterrupt):
            space.once("work/b", "", make, title="train b", log="b")
        assert lines(space) == whole[:200]
    with closing(Workspace(tmp_path / "run", {"format": 2})) as space:
        stop_at = -1
        space.once("work/b", "", make, title="train b", log="b")
        assert lines(space) == whole
        part = space.part("504x1008", {"format": 2})
        part.once("work/a", "", make, title="train a", log="a")
        assert lines(space) == [*whole, *(("504x1008: a", number) for number in range(250))]
        grown = set(space.path("log.jsonl").read_text().splitlines())
        space.write_log()  # in the order of names, so that an interrupted run ends with the same bytes
        assert set(space.path("log.jsonl").read_text().splitlines()) == grown
        assert lines(space)[0] == ("504x1008: a", 0)


@pytest.mark.parametrize("harm", ["pipe", "device"])
def test_a_log_that_is_no_file_is_made_again_or_refused(tmp_path, harm):
    """log.jsonl is joined of the records of the stages; those of a stage are made by its training alone."""

    def spoil(path: Path) -> None:
        path.unlink()
        os.mkfifo(path) if harm == "pipe" else path.symlink_to("/dev/zero")

    with closing(Workspace(tmp_path / "run", {"format": 2})) as space:
        space.log("b", [{"loss": 1.0}])
        spoil(space.path("log.jsonl"))
    with closing(Workspace(tmp_path / "run", {"format": 2})) as space:
        space.log("a", [{"loss": 1.0}])
        assert lines(space) == [("a", 0)]
        space.write_log()
        assert lines(space) == [("a", 0), ("b", 0)]
        spoil(space.log_path("b"))
        with pytest.raises(ValueError, match=r"expected the file \S+work/log/b\.jsonl; it is no file: put it back"):
            space.write_log()
        space.log("b", [{"loss": 1.0}])  # the stage is made again
        space.write_log()
        assert lines(space) == [("a", 0), ("b", 0)]


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_refused_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unclosed lock would be told
        with pytest.raises(ValueError, match=r"notes\.txt' but no run"):
            Workspace(tmp_path, {"format": 2})
        gc.collect()
    assert everything(tmp_path) == ["notes.txt"]


def test_a_run_that_made_nothing_leaves_nothing(tmp_path):
    space = Workspace(tmp_path / "runs" / "mine", {"format": 2})
    with pytest.raises(KeyboardInterrupt), space.stage("points"):
        raise KeyboardInterrupt
    part = space.part("504x1008", {"format": 2})
    part.work("said").mkdir()
    space.close()
    assert everything(tmp_path) == []
    (tmp_path / "mine").mkdir()  # somebody's
    Workspace(tmp_path / "mine", {"format": 2}).close()
    assert everything(tmp_path) == ["mine"]
    space = Workspace(tmp_path / "run", {"format": 2})
    space.path("points.csv").write_text("image,x,y,class\n")
    space.close()
    assert "run/work/settings.json" in everything(tmp_path)


def test_a_lock_that_was_taken_away_is_not_held(tmp_path, monkeypatch):
    """Between opening and locking the file, the process before may have removed it with all it left."""
    real, stolen = fcntl.flock, []

    def flock(file, how) -> None:
        if not stolen:
            stolen.append((tmp_path / ".lock").unlink())
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with closing(Workspace(tmp_path, {"format": 2})) as space:
        with pytest.raises(ValueError, match="another process is working"):
            Workspace(tmp_path, {"format": 2})
        assert space.path(".lock").exists()


def keep(space: Workspace, name: str) -> None:
    space.path(name).parent.mkdir(parents=True, exist_ok=True)
    space.path(name).write_text("")


def test_new_settings_are_taken_where_nothing_was_trained(tmp_path):
    old = {"format": 2, "seed": 0, "eval": None}
    with closing(Workspace(tmp_path / "run", old)) as space:
        for name in ("points.csv", "work/data.json", "features/a.safetensors", "work/fingerprints.jsonl", "mine.txt"):
            keep(space, name)
    new = {**old, "seed": 1}
    with closing(Workspace(tmp_path / "run", new)) as space:
        assert not space.path("points.csv").exists() and not space.work("data.json").exists()
        assert {"mine.txt", "features/a.safetensors", "work/fingerprints.jsonl"} <= set(everything(space.root))
        keep(space, "work/checkpoints/decoder.pt")
    with pytest.raises(ValueError, match="seed is 0 now but was 1"):
        Workspace(tmp_path / "run", old)
    with pytest.raises(ValueError, match="eval is 'a' now but was None"):
        Workspace(tmp_path / "run", {**new, "eval": "a"})
    with closing(Workspace(tmp_path / "run", {**new, "eval": "a"}, later=("eval",))) as space:
        assert space.work("checkpoints/decoder.pt").exists()
    with pytest.raises(ValueError, match="eval is 'b' now but was 'a'"):
        Workspace(tmp_path / "run", {**new, "eval": "b"}, later=("eval",))


def test_a_second_process_is_kept_out(tmp_path):
    space = Workspace(tmp_path / "run", {"format": 2})
    with pytest.raises(ValueError, match=r"another process is working in .*run: wait for it"):
        Workspace(tmp_path / "run", {"format": 2})
    space.close()
    Workspace(tmp_path / "run", {"format": 2}).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_no_reason_to_stop(tmp_path, monkeypatch, caplog, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    Workspace(tmp_path / "run", {"format": 2}).close()
    assert "has no locks" in caplog.text and "another process is working" not in caplog.text


def test_other_trouble_with_the_lock_is_told_as_it_is(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        Workspace(tmp_path / "run", {"format": 2})
