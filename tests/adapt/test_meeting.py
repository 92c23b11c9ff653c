"""Processes that wait for the first: by a file, however long it takes; and what happens if it is lost."""

import threading
import time

import pytest

from saot.adapt import meeting as meeting_file
from saot.adapt.meeting import Meeting


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
