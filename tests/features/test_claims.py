"""Several processes on one store, each picture made once, whoever is killed."""

import dataclasses
import errno
import fcntl
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.stores import Counting, files, filterbank, image_set, picture

from saot.features import FeatureStore
from saot.features.claims import Claims, place_of


@pytest.mark.parametrize(("rank", "world"), [("3", "4"), ("0", "4"), ("7", "2"), ("one", "two"), ("0", "0")])
def test_a_rank_from_elsewhere_leaves_nothing_out(tmp_path, monkeypatch, rank, world):
    """A shell within another launcher has its RANK and WORLD_SIZE; they say where to begin, and nothing else."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    images, backbone, told = image_set(5), filterbank(), []
    store = FeatureStore(tmp_path, backbone.key)
    assert store.ensure(images, backbone, lambda done, total: told.append((done, total))) == 5
    assert store.keys() == images.keys and told[-1] == (5, 5)


def test_ranks_of_one_launch_begin_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    starts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        starts.append(Claims(tmp_path).start(10))
    assert starts == [0, 3, 6]


OTHER = """
import fcntl, os, sys
claims = open(sys.argv[1], "ab")
fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
print("claimed", flush=True)
sys.stdin.readline()
os.replace(sys.argv[3], sys.argv[4])
"""


def other_process(store: FeatureStore, key: str, made: Path) -> subprocess.Popen:
    """One that claims a picture, and puts its file in place when it reads a line."""
    path = store._path(key)
    words = [sys.executable, "-c", OTHER, str(store.root / ".claims"), str(place_of(path.name)), str(made), str(path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "claimed\n"
    return process


def test_what_another_process_makes_is_waited_for(tmp_path):
    images, elsewhere = image_set(5), FeatureStore(tmp_path / "elsewhere", filterbank().key)
    elsewhere.ensure(images, filterbank())
    store, backbone, told = FeatureStore(tmp_path / "store", filterbank().key), Counting(filterbank()), []
    with other_process(store, images.keys[1], elsewhere._path(images.keys[1])) as other:

        def tell(done: int, total: int) -> None:
            told.append(done)
            if done == 4:  # all but the one that is claimed
                other.communicate("go\n")

        assert store.ensure(images, backbone, tell) == 4 == backbone.calls
    assert told == [1, 2, 3, 4, 5] and len(files(store.root)) == 5


def test_what_a_killed_process_had_claimed_is_made(tmp_path):
    images, backbone, told = image_set(2), filterbank(), []
    store = FeatureStore(tmp_path, backbone.key)
    with other_process(store, images.keys[0], tmp_path / "nothing") as other:

        def tell(done: int, total: int) -> None:
            told.append(done)
            if done == 1:
                other.kill()
                other.wait()

        assert store.ensure(images, backbone, tell) == 2
    assert told == [1, 2]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    """Everything is made, from a place of its own on, so that processes side by side seldom make a file twice."""

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(secrets, "randbelow", lambda count: count - 2)
    order = []
    images = dataclasses.replace(image_set(5), load=lambda index: order.append(index) or picture(index))
    store = FeatureStore(tmp_path, filterbank().key)
    assert store.ensure(images, filterbank()) == 5
    assert order == [3, 4, 0, 1, 2] and store.keys() == images.keys


def test_a_store_that_is_whole_need_not_be_writable(tmp_path, monkeypatch):
    backbone = filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(image_set(2), backbone)
    (tmp_path / ".claims").unlink()
    (tmp_path / ".claims").mkdir()  # cannot be opened
    assert store.ensure(image_set(2), backbone) == 0


SLOW = """
import sys; sys.path.insert(0, {tests!r})
from helpers.stores import Counting, filterbank, image_set
from saot.features import FeatureStore
backbone = Counting(filterbank(), 0.05)
print("go", flush=True)
FeatureStore({root!r}, backbone.key).ensure(image_set(30), backbone)
"""


def test_killed_and_resumed(tmp_path):
    root = tmp_path / "store"
    code = SLOW.format(tests=str(Path(__file__).parents[1]), root=str(root))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 60
    while len(files(root)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = len(files(root))
    assert 3 <= done < 30
    backbone = Counting(filterbank())
    store = FeatureStore(root, backbone.key)
    assert store.ensure(image_set(30), backbone) == 30 - done == backbone.calls
    fresh = FeatureStore(tmp_path / "fresh", backbone.key)
    fresh.ensure(image_set(30), backbone)
    for one, other in zip(files(root), files(tmp_path / "fresh"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def _ensure(root: str, start) -> None:
    torch.set_num_threads(1)
    backbone = Counting(filterbank(), 0.002)
    start.wait()
    for version in ("", "second"):
        FeatureStore(root, backbone.key).ensure(image_set(8, version), backbone)


def test_two_processes_at_once_on_the_same_pictures(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    processes = [context.Process(target=_ensure, args=(str(tmp_path), start)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    backbone = Counting(filterbank())
    store = FeatureStore(tmp_path)
    assert len(files(tmp_path)) == 8
    assert store.ensure(image_set(8, "second"), backbone) == 0
    assert backbone.calls == 0
    assert not list(tmp_path.glob("*.tmp-*"))


def test_fifty_processes_on_one_store_make_each_picture_once(tmp_path):
    """Forked, and held until all are there; nothing is torn, nothing left over, and every one of them ends."""
    images, backbone = image_set(12), filterbank()
    store = FeatureStore(tmp_path / "store", backbone.key)
    reading, writing = os.pipe()
    waiting, going = os.pipe()
    children = []
    for number in range(50):
        child = os.fork()
        if child == 0:
            made = 255
            try:
                os.environ.update(RANK=str(number % 7), WORLD_SIZE="7")
                os.close(going)
                os.read(waiting, 1)  # ends when the parent lets go
                made = FeatureStore(store.root, backbone.key).ensure(images, backbone)
            finally:
                os.write(writing, bytes([made]))
                os._exit(0)
        children.append(child)
    os.close(going)
    made = b"".join(os.read(reading, 1) for _ in children)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 50
    for end in (reading, writing, waiting):
        os.close(end)
    assert 255 not in made and sum(made) == 12
    assert not list(store.root.glob("*.tmp-*")) and store.keys() == images.keys
    counting = Counting(backbone)
    assert store.ensure(images, counting) == counting.calls == 0  # each whole, by its check sum
