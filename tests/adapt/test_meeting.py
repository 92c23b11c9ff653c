"""Processes that wait for the first: by a file, however long it takes; and what happens if it is lost."""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from saot.adapt import meeting as meeting_file
from saot.adapt.meeting import Meeting, alone, meet_launch


class Process:
    """One of two processes, whose library barriers are counted."""

    num_processes = 2

    def __init__(self, barrier: threading.Barrier) -> None:
        self.waits, self.barrier = 0, barrier

    def wait_for_everyone(self) -> None:
        self.waits += 1
        self.barrier.wait(timeout=10)


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.setattr(meeting_file, "_token", lambda accelerator: "token")
    monkeypatch.setattr(meeting_file, "SIGN_EVERY", 0.05)
    barrier = threading.Barrier(2)
    return Meeting(tmp_path / "run", Process(barrier)), Meeting(tmp_path / "run", Process(barrier))


def test_others_wait_as_long_as_the_first_gives_signs_of_life(pair):
    first, other = pair
    order: list[str] = []

    def wait() -> None:
        other.wait(patience=0.4)  # less than the preparation takes
        order.append("other")

    waiting = threading.Thread(target=wait)
    waiting.start()
    with first.preparing():
        time.sleep(1.0)
        order.append("prepared")
        assert other.accelerator.waits == 0
    waiting.join(timeout=10)
    assert order == ["prepared", "other"] and (first.accelerator.waits, other.accelerator.waits) == (1, 1)
    assert not first.file.exists()


def test_a_first_process_that_fails_or_is_lost_ends_the_others(pair):
    first, other = pair
    with pytest.raises(ValueError, match="no such weights"), first.preparing():
        raise ValueError("no such weights")
    with pytest.raises(RuntimeError, match="has ended with an error"):
        other.wait()
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="no sign of life for 0 seconds"):
        other.wait(patience=0.3)
    assert time.monotonic() - began < 5


def test_one_process_alone_writes_nothing(tmp_path):
    process = Process(threading.Barrier(1))
    process.num_processes = 1
    with Meeting(tmp_path / "run", process).preparing():
        assert list(tmp_path.iterdir()) == []
    assert process.waits == 0


@pytest.fixture
def launched(monkeypatch):
    """Sets what a launcher sets, and nothing else of its kind."""

    def say(**variables: object) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    for name in [*(name for names in meeting_file._NUMBERS.values() for name in names), "MASTER_ADDR", "MASTER_PORT"]:
        monkeypatch.delenv(name, raising=False)
    return say


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("rank", [0, 3])
def test_a_launch_whose_others_do_not_come_is_refused(launched, capfd, rank):
    """A shell inside another launch has all of its variables; half a training would be the worst answer."""
    launched(RANK=rank, WORLD_SIZE=4, LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    with pytest.raises(ValueError, match=rf"process {rank} of 4, .* within 0.5 seconds: .* unset RANK, WORLD_SIZE"):
        meet_launch(patience=0.5)
    assert "frame #" not in capfd.readouterr().err  # torch prints its inner trace where it is let


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": 3, "WORLD_SIZE": 4},
        {"OMPI_COMM_WORLD_SIZE": 4, "OMPI_COMM_WORLD_RANK": 1},
        {"RANK": 5, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1},
    ],
)
def test_numbers_without_a_place_to_meet_are_of_another_launch(launched, variables, caplog):
    launched(**variables)
    assert meet_launch() is False
    assert "this one works alone" in caplog.text


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": 1, "RANK": 0}, {"RANK": 2}, {"WORLD_SIZE": "many"}])
def test_one_process_has_nobody_to_meet(launched, variables, caplog):
    launched(**variables)
    assert meet_launch() is False and caplog.text == ""


def test_no_library_sees_numbers_of_another_launch(launched):
    launched(RANK=3, WORLD_SIZE=4, LOCAL_RANK=3, OMPI_COMM_WORLD_SIZE=2)
    with alone():
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"} & set(os.environ)
    assert os.environ["RANK"] == "3" and os.environ["OMPI_COMM_WORLD_SIZE"] == "2"


def test_processes_of_one_launch_meet_every_time(launched):
    """Without an agent that keeps the words, as where a cluster's job script sets the variables."""
    launched(WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port(), RANK=0)
    code = "from saot.adapt.meeting import meet_launch; print(meet_launch(60), meet_launch(60))"
    other = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "RANK": "1"}, stdout=subprocess.PIPE)
    assert meet_launch(60) and meet_launch(60)
    assert other.communicate()[0] == b"True True\n"
