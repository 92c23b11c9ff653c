"""What a training keeps while it runs: bytes linear in its steps, and a state that any kill leaves whole."""

import math
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saot.data import files
from saot.runs import Checkpoint, History, generator_for, train_steps, training

WIDTH = 8


class Walk:
    """A training whose every step hangs on all before: weights, momentum, and a record of seven numbers."""

    def __init__(self, seed: int = 0) -> None:
        self.net = torch.nn.Linear(WIDTH, 1, bias=False)
        torch.nn.init.ones_(self.net.weight)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, momentum=0.9)
        self.seed, self.taken = seed, []

    def step(self, number: int) -> dict[str, float]:
        self.taken.append(number)
        loss = (self.net(torch.randn(4, WIDTH, generator=generator_for(self.seed, number))) - 1).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        value = float(loss.detach())
        return {"loss": value, "third": value / 3, "bad": math.inf, **{f"n{n}": value * n for n in range(4)}}

    def train(self, steps: int, checkpoint: Checkpoint | None, stop: int | None = None) -> History:
        def progress(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        return train_steps(self.step, steps, {"net": self.net, "optimizer": self.optimizer}, checkpoint, progress)


def same(mine: Walk, theirs: Walk) -> bool:
    buffers = [[group["momentum_buffer"] for group in one.optimizer.state.values()] for one in (mine, theirs)]
    return torch.equal(mine.net.weight, theirs.net.weight) and all(map(torch.equal, *buffers))


@pytest.fixture
def written(monkeypatch) -> Callable[[], int]:
    """Bytes handed to the disk since it was asked last."""
    seen = []
    for name in ("write_atomic", "write_tail"):
        real = getattr(files, name)

        def counted(*arguments, real=real):
            seen.append(len(arguments[-1]))
            return real(*arguments)

        monkeypatch.setattr(training, name, counted)

    def count() -> int:
        total = sum(seen)
        seen.clear()
        return total

    return count


def test_bytes_written_are_linear_in_the_steps(tmp_path, written):
    Walk().train(200, Checkpoint(tmp_path / "short.pt", every=20))
    short = written()
    Walk().train(2000, Checkpoint(tmp_path / "long.pt", every=20))
    assert 9 < written() / short < 11
    record = (tmp_path / "long.pt.records").stat().st_size / 2000
    assert record == pytest.approx((tmp_path / "short.pt.records").stat().st_size / 200, rel=0.1)
    assert (tmp_path / "long.pt").stat().st_size == pytest.approx((tmp_path / "short.pt").stat().st_size, abs=64)


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def half(path: Path, start: int, data: bytes) -> None:
    """The process dies with half of the records written."""
    files.write_tail(path, start, data[: len(data) // 2])
    raise KeyboardInterrupt


KILLS = {"before the records": ("write_tail", interrupt), "within the records": ("write_tail", half)}
KILLS["between records and state"] = ("write_atomic", interrupt)


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("at", [3, 9])  # the first checkpoint, and one with others before it
def test_killed_at_a_checkpoint_it_ends_with_the_same_bytes(tmp_path, monkeypatch, kill, at):
    whole, path = Walk(), tmp_path / "whole.pt"
    history = whole.train(20, Checkpoint(path, every=3))
    checkpoint, killed = Checkpoint(tmp_path / "killed.pt", every=3), Walk()
    with monkeypatch.context() as patch:
        name, broken = KILLS[kill]
        real, calls = getattr(files, name), []

        def write(*arguments):
            calls.append(name)
            (broken if len(calls) == at // 3 else real)(*arguments)

        patch.setattr(training, name, write)
        with pytest.raises(KeyboardInterrupt):
            killed.train(20, checkpoint)
    again = Walk()
    assert again.train(20, checkpoint) == history
    assert again.taken == list(range(at - 3, 20)) and same(again, whole)
    assert checkpoint.records.read_bytes() == Checkpoint(path).records.read_bytes()
    assert checkpoint.path.read_bytes() == path.read_bytes()


def test_killed_again_and_again_it_ends_with_the_same_bytes(tmp_path):
    whole, checkpoint, taken = Walk(), Checkpoint(tmp_path / "state.pt", every=4), []
    history = whole.train(30, None)
    for stop in (3, 7, 8, 9, 21, 30):
        walk = Walk()
        with pytest.raises(KeyboardInterrupt):
            walk.train(30, checkpoint, stop)
        taken.append(walk.taken[0])
    last = Walk()
    assert last.train(30, checkpoint) == history and same(last, whole)
    assert [*taken, last.taken[0]] == [0, 0, 4, 8, 8, 20, 28]
    checkpoint.clear()
    assert not list(tmp_path.iterdir())


def test_a_state_of_an_earlier_version_is_taken_up(tmp_path):
    whole, old, checkpoint = Walk(), Walk(), Checkpoint(tmp_path / "state.pt", every=5)
    history = whole.train(20, None)
    past = old.train(7, None)
    state = {"net": dict(old.net.state_dict()), "optimizer": dict(old.optimizer.state_dict())}
    checkpoint.save({"history": past, **state})
    stopped = Walk()
    with pytest.raises(KeyboardInterrupt):
        stopped.train(20, checkpoint, stop=11)
    assert stopped.taken[0] == 7
    again = Walk()
    assert again.train(20, checkpoint) == history and again.taken[0] == 10 and same(again, whole)


@pytest.mark.parametrize("harm", ["gone", "cut", "changed", "a later one", "a pipe", "a device", "itself"])
def test_a_state_without_its_records_begins_anew(tmp_path, harm):
    """A run whose log would lie is worse than one that takes its steps again."""
    checkpoint, walk = Checkpoint(tmp_path / "state.pt", every=5), Walk()
    history = walk.train(10, checkpoint)
    content = checkpoint.records.read_bytes()
    checkpoint.records.unlink()
    if harm == "cut":
        checkpoint.records.write_bytes(content[:-2])
    elif harm == "changed":
        checkpoint.records.write_bytes(content.replace(b"3", b"4", 1))
    elif harm == "a pipe":
        os.mkfifo(checkpoint.records)
    elif harm == "a device":
        checkpoint.records.symlink_to("/dev/zero")
    elif harm == "itself":
        checkpoint.records.symlink_to(checkpoint.records)
    elif harm == "a later one":
        Walk(seed=1).train(15, Checkpoint(tmp_path / "other.pt", every=5))
        checkpoint.records.write_bytes(Checkpoint(tmp_path / "other.pt").records.read_bytes())
    again = Walk()
    assert again.train(10, checkpoint) == history and again.taken == list(range(10))
    assert checkpoint.records.read_bytes() == content and Path("/dev/zero").is_char_device()


@pytest.mark.parametrize("harm", ["zip", "holes"])
def test_another_file_in_place_of_a_state_begins_anew(tmp_path, harm):
    checkpoint, walk = Checkpoint(tmp_path / "state.pt", every=5), Walk()
    history = walk.train(10, checkpoint)
    if harm == "zip":
        with zipfile.ZipFile(checkpoint.path, "w") as archive:
            archive.writestr("a.txt", "not torch's")
    else:
        checkpoint.path.write_bytes(b"")
        os.truncate(checkpoint.path, 2**33)
    tracemalloc.start()
    again = Walk()
    assert again.train(10, checkpoint) == history and again.taken == list(range(10))
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_a_full_disk_is_told_and_leaves_the_state_before(tmp_path, monkeypatch):
    checkpoint, walk = Checkpoint(tmp_path / "state.pt", every=5), Walk()
    walk.train(5, checkpoint)

    def full(number: int) -> None:
        raise OSError(28, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match=r"the disk is full: .*state\.pt\.records did not fit"):
            Walk().train(10, checkpoint)
    again = Walk()
    again.train(10, checkpoint)
    assert again.taken == [5, 6, 7, 8, 9]


def test_a_flipped_bit_in_a_checkpoint_starts_the_training_anew(tmp_path):
    """torch's reader does not look at the check sums of a zip archive."""
    undisturbed = Walk()
    undisturbed.train(7, None)
    checkpoint = Checkpoint(tmp_path / "walk.pt", every=3)
    with pytest.raises(KeyboardInterrupt):
        Walk().train(7, checkpoint, stop=4)
    whole = checkpoint.path.read_bytes()
    assert torch.load(checkpoint.path, weights_only=True).keys() == {"records", "net", "optimizer"}
    weights = whole.index(checkpoint.load()["net"]["weight"].numpy().tobytes())
    for place in (weights, len(whole) - 1, 40):
        data = bytearray(whole)
        data[place] ^= 1
        checkpoint.path.write_bytes(data)
        assert checkpoint.load() is None
    again = Walk()
    again.train(7, checkpoint)
    assert same(again, undisturbed) and again.taken == list(range(7))


@pytest.mark.parametrize("state", [torch.zeros(2), [1], None, 3])
def test_a_checkpoint_that_holds_something_else_is_none(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    assert Checkpoint(tmp_path / "a.pt").load() is None


def test_a_folder_in_a_checkpoints_place_is_none(tmp_path):
    assert Checkpoint(tmp_path).load() is None
