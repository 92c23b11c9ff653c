"""Atomic writing and check sums."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from saot.data import (
    as_written,
    files,
    lock_byte,
    lock_file,
    read_record,
    read_text,
    sha256_file,
    temporary_name,
    unlock_byte,
    write_atomic,
    write_tail,
)


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
    ((temporary, target),) = seen
    assert re.fullmatch(rf"x\.json\.tmp-{os.getpid()}-[0-9a-f]{{16}}", os.path.basename(temporary))
    assert target == f"{tmp_path}/x.json" and os.path.dirname(temporary) == str(tmp_path)


WRITING = """
import importlib.util, os, sys
if sys.argv[4] == "pretended":
    os.getpid = lambda: 1
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
wrong = 0
for number in range(60):
    mine = sys.argv[3].encode() * 200_000
    files.write_atomic(sys.argv[2], mine)
    with open(sys.argv[2], "rb") as file:
        found = file.read()
    wrong += len(found) != len(mine) or len(set(found)) != 1
print(os.getpid(), wrong)
"""
UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork")  # a container's process numbers


@pytest.mark.parametrize("how", ["pretended", "namespaces"])
def test_containers_with_equal_process_numbers_do_not_share_a_temporary_name(tmp_path, how):
    """Each writes one file over and over, and reads it; it must always be the whole work of one of them."""
    words = [sys.executable, "-c", WRITING, files.__file__, str(tmp_path / "x")]
    if how == "namespaces":
        try:
            subprocess.run([*UNSHARE, "true"], check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"this machine gives no process namespaces: {error}")
        words = [*UNSHARE, *words]
    writers = [subprocess.Popen([*words, letter, how], stdout=subprocess.PIPE, text=True) for letter in "ab"]
    assert [(writer.communicate()[0], writer.returncode) for writer in writers] == [("1 0\n", 0)] * 2
    assert os.listdir(tmp_path) == ["x"]


def test_a_fork_draws_a_name_of_its_own(tmp_path, monkeypatch):
    names = [temporary_name(tmp_path / "x")]
    monkeypatch.setattr(os, "getpid", lambda: 7)
    names.append(temporary_name(tmp_path / "x"))
    assert names[0].name.split("-")[2] != names[1].name.split("-")[2] and names[1] == temporary_name(tmp_path / "x")


NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]


@pytest.mark.parametrize("number", [*NO_LOCKS, errno.EWOULDBLOCK])
def test_no_locks_is_another_answer_than_a_lock_that_is_taken(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    wanted = "none" if number in NO_LOCKS else "taken"
    with open(tmp_path / "lock", "wb") as file:
        assert lock_file(file) == lock_file(file, wait=True) == lock_byte(file, 1) == wanted


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_trouble_with_a_lock_stays_what_it_is(tmp_path, monkeypatch, number):
    """A byte that another has may be EACCES, says POSIX; a whole file never is."""

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with open(tmp_path / "lock", "wb") as file:
        with pytest.raises(OSError, match=os.strerror(number)):
            lock_file(file)
        if number == errno.EACCES:
            assert lock_byte(file, 1) == "taken"
            return
        with pytest.raises(OSError, match=os.strerror(number)):
            lock_byte(file, 1)


def test_one_holds_a_lock_and_closing_lets_go(tmp_path):
    with open(tmp_path / "lock", "wb") as first, open(tmp_path / "lock", "wb") as second:
        assert lock_file(first) == "held" and lock_file(second) == "taken"
        first.close()
        assert lock_file(second) == "held"


HOLDING = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.lockf(file, fcntl.LOCK_EX, 1, 5)
print("held", flush=True)
sys.stdin.read()
"""


def test_bytes_are_locked_one_by_one(tmp_path):
    words = [sys.executable, "-c", HOLDING, str(tmp_path / "claims")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with open(tmp_path / "claims", "ab") as file:
            assert (lock_byte(file, 4), lock_byte(file, 5), lock_byte(file, 2**62)) == ("held", "taken", "held")
            other.kill()
            other.wait()
            assert lock_byte(file, 5) == "held"
            unlock_byte(file, 5)


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged, it is no JSON: do"),
        (b"{", "is damaged, it is no JSON: do"),
        (b'{"a": "\xff"}', "is damaged, it is no JSON: do"),
        (b'{"a": ' + b"[" * 100_000, "is damaged, it is no JSON: do"),
        (b"[1]", "it holds a list, not an object): do"),
        (b"null", "it holds a NoneType, not an object): do"),
        (None, "it is missing: do"),
    ],
)
def test_a_record_that_is_not_one_is_a_sentence(tmp_path, content, said):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_record(path, "do")
    assert str(path) in str(caught.value) and str(caught.value).endswith(said)


def test_a_record_is_read_from_plain_files_of_a_likely_size_alone(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    os.mkfifo(path)  # opened, it would wait for a writer
    with pytest.raises(ValueError, match="it is no file: do"):
        read_record(path, "do")
    path.unlink()
    path.symlink_to("/dev/zero")  # read, it would never end
    with pytest.raises(ValueError, match="it is no file: do"):
        read_record(path, "do")
    path.unlink()
    path.write_text('{"a": 1}')
    assert read_record(path, "do") == {"a": 1}
    monkeypatch.setattr(files, "LARGEST_RECORD", 7)
    with pytest.raises(ValueError, match=r"it has 8 bytes\): do"):
        read_record(path, "do")


def test_a_list_of_unlikely_length_is_not_read(tmp_path):
    path = tmp_path / "list.txt"
    path.touch()
    os.truncate(path, files.LARGEST_RECORD + 1)  # a hole: it takes no room
    with pytest.raises(ValueError, match="has 268,435,457 bytes, too many for a list"):
        read_text(path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("k"), "damaged or of another version, it lacks 'k': do"),
        (TypeError("no int\nat all"), "damaged or of another version (no int): do"),
        (RuntimeError("size mismatch"), "damaged or of another version (size mismatch): do"),
        (AttributeError(), "damaged or of another version (AttributeError): do"),
        (ValueError("a sentence"), "a sentence"),
    ],
)
def test_what_follows_from_a_damaged_file_is_one_sentence(error, said):
    with pytest.raises(ValueError) as caught, as_written("run.json", "do"):
        raise error
    assert str(caught.value).endswith(said)


def test_a_full_memory_is_no_damaged_file():
    with pytest.raises(RuntimeError, match="out of memory"), as_written("run.json", "do"):
        raise RuntimeError("CUDA out of memory")


def test_the_bytes_of_what_is_no_file_are_not_awaited(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "zeros", tmp_path):
        with pytest.raises(ValueError, match="it is a folder, a pipe or a device"):
            sha256_file(path)
