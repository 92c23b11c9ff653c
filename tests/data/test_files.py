"""Atomic writing and check sums."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from saot.data import files, sha256_file, write_atomic, write_tail


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["b.bin"]


def test_temporary_name_is_the_agreed_one(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "replace", lambda source, target: seen.append((str(source), str(target))))
    write_atomic(tmp_path / "x.json", b"{}")
    assert seen == [(f"{tmp_path}/x.json.tmp-{os.getpid()}", f"{tmp_path}/x.json")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch, number):
    path = tmp_path / "run.json"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"^the disk is full: 1\.0 MB for .*run\.json did not fit") as caught:
        write_atomic(path, bytes(1_000_000))
    assert caught.value.errno == number
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_other_trouble_stays_what_it_is(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "file" / "x", b"")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", b"")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_tail_is_written_over_whatever_stood_there(tmp_path):
    path = tmp_path / "a" / "log"
    write_tail(path, 0, b"one\n")
    write_tail(path, 4, b"two, and more\n")
    write_tail(path, 4, b"2\n")
    assert path.read_bytes() == b"one\n2\n"
    write_tail(path, 4, b"")
    assert path.read_bytes() == b"one\n"


def test_threads_may_write_one_file_at_once(tmp_path):
    path, barrier = tmp_path / "one", threading.Barrier(4)

    def write(number: int) -> None:
        barrier.wait()
        for _ in range(20):
            write_atomic(path, bytes([number]) * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(set(path.read_bytes())) == 1
    assert [found.name for found in tmp_path.iterdir()] == ["one"]
