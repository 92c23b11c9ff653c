"""Check sums that are remembered: what has not changed is not read, what has is."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import time

import pytest
from helpers.opened_files import opened_below

from saot.data import Fingerprints, fingerprints, sha256_file


@pytest.fixture
def at_once(monkeypatch):
    """Files made in this test count as settled."""
    monkeypatch.setattr(fingerprints, "SETTLED_NS", -(10**12))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(bytes([number]) * 100)
    return folder


def all_of(seen: Fingerprints, folder) -> dict[str, str]:
    return {path.name: seen.sha256(path) for path in sorted(folder.iterdir())}


def started(file, folder) -> tuple[dict[str, str], list[str]]:
    """One start: the check sums, and the names of the files that were read for them."""
    seen = Fingerprints(file)
    with opened_below(folder) as opened:
        sums = all_of(seen, folder)
    seen.save()
    return sums, [path.name for path in opened]


def test_a_second_start_reads_no_file(pictures, tmp_path, at_once):
    file = tmp_path / "store" / "fingerprints.jsonl"
    first, read = started(file, pictures)
    assert read == sorted(first) and first == {path.name: sha256_file(path) for path in pictures.iterdir()}
    written = file.read_bytes()
    assert started(file, pictures) == (first, [])
    assert file.read_bytes() == written  # and nothing is added
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line[0] for line in lines] == [str(pictures / name) for name in first]


@pytest.mark.parametrize("change", ["content", "size", "touched", "replaced", "mtime put back", "a link led elsewhere"])
def test_a_changed_file_is_read_again(pictures, tmp_path, at_once, change):
    file, path = tmp_path / "fingerprints.jsonl", pictures / "3.png"
    if change == "a link led elsewhere":
        other = path.rename(tmp_path / "other.png")
        path.symlink_to(other)
    before, _ = started(file, pictures)
    stat = path.stat()
    time.sleep(0.02)  # a tick of the file system's clock is 4 ms or so
    if change == "size":
        path.write_bytes(b"\x03" * 101)
    elif change == "touched":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 10**9))
    elif change == "replaced":
        (tmp_path / "new").write_bytes(b"\x07" * 100)
        os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "new").replace(path)
    elif change == "a link led elsewhere":
        (tmp_path / "third.png").write_bytes(b"\x07" * 100)
        path.unlink()
        path.symlink_to(tmp_path / "third.png")
    else:
        path.write_bytes(b"\x07" * 100)
        if change == "mtime put back":
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after, read = started(file, pictures)
    assert read in (["3.png"], [])  # the one behind a link lies elsewhere
    assert after["3.png"] == sha256_file(path)
    assert (after["3.png"] == before["3.png"]) is (change == "touched")
    assert {**after, "3.png": ""} == {**before, "3.png": ""}
    assert started(file, pictures) == (after, [])  # of two lines about a file the later one counts


def test_a_file_that_has_just_changed_is_not_trusted(pictures, tmp_path):
    """It may change again within the tick in which it was read."""
    file = tmp_path / "fingerprints.jsonl"
    assert len(started(file, pictures)[1]) == 5
    assert len(started(file, pictures)[1]) == 5 and not file.exists()


def test_a_file_that_changes_while_it_is_read_is_not_trusted(pictures, tmp_path, at_once, monkeypatch):
    def slow(path):
        digest = sha256_file(path)
        path.write_bytes(b"more than before" * 10)
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "sha256_file", slow)
        seen = Fingerprints(tmp_path / "fingerprints.jsonl")
        seen.sha256(pictures / "1.png")
        seen.save()
    assert started(tmp_path / "fingerprints.jsonl", pictures)[0]["1.png"] == sha256_file(pictures / "1.png")


def test_damaged_lines_are_passed_over(pictures, tmp_path, at_once):
    file = tmp_path / "fingerprints.jsonl"
    sums, _ = started(file, pictures)
    lines = file.read_bytes().splitlines(keepends=True)
    for bad in (b"", b"\xff\xfe\n", b"[]\n", b"{}\n", b'["a", 1]\n', b"7\n", b'["a", "b", "c", "d", "e"]\n'):
        file.write_bytes(bad + b"".join(lines[:4]) + lines[4][:30])  # the last one cut short by a kill
        assert started(file, pictures) == (sums, ["4.png"])
        assert started(file, pictures) == (sums, [])  # what was added stands on a line of its own


def test_a_line_that_is_not_as_it_was_written_is_passed_over(pictures, tmp_path, at_once):
    """A wrong check sum of a picture would stand in the provenance of its features."""
    file = tmp_path / "fingerprints.jsonl"
    sums, _ = started(file, pictures)
    whole = file.read_bytes()
    at = whole.index(sums["0.png"].encode())
    for changed in (
        whole[:at] + whole[at : at + 2] + whole[at:],
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
    ):
        file.write_bytes(changed)
        assert started(file, pictures) == (sums, ["0.png"])


def test_a_line_that_is_too_long_to_be_ours_is_passed_over(pictures, tmp_path, at_once):
    file = tmp_path / "fingerprints.jsonl"
    sums, _ = started(file, pictures)
    file.write_bytes(b'["' + b"x" * 300_000 + b'"]\n' + file.read_bytes())
    assert started(file, pictures) == (sums, [])


def test_a_name_with_commas_and_brackets_is_remembered(tmp_path, at_once):
    file, folder = tmp_path / "fingerprints.jsonl", tmp_path / "odd, [1], 2]"
    folder.mkdir()
    (folder / 'a, 3], "b.png').write_bytes(b"1")
    sums, _ = started(file, folder)
    assert started(file, folder) == (sums, [])


def test_a_file_of_gigabytes_is_not_read(pictures, tmp_path, at_once):
    file = tmp_path / "fingerprints.jsonl"
    started(file, pictures)
    os.truncate(file, fingerprints.LARGEST + 1)  # a hole: it takes no room
    seen = Fingerprints(file)
    assert all(seen.known(path) is None for path in pictures.iterdir())


def test_it_is_saved_on_the_way_where_there_is_a_place(pictures, tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(fingerprints, "SAVE_EVERY", 2)
    nowhere = tmp_path / "run" / "fingerprints.jsonl"
    all_of(Fingerprints(nowhere), pictures)
    assert not nowhere.parent.exists()  # a slip in the command leaves no folder
    file = tmp_path / "fingerprints.jsonl"
    all_of(Fingerprints(file), pictures)  # and is killed before it saves
    assert len(file.read_bytes().splitlines()) == 4


ADDING = """
import sys
from pathlib import Path
from saot.data import Fingerprints, fingerprints
fingerprints.SETTLED_NS, fingerprints.SAVE_EVERY = -(10**12), 3
folder, file = Path(sys.argv[1]), Path(sys.argv[2])
seen = Fingerprints(file)
for path in sorted(folder.iterdir())[int(sys.argv[3]) :: 3]:
    seen.sha256(path)
seen.save()
"""


def test_several_processes_add_to_one_file(tmp_path, at_once):
    folder, file = tmp_path / "many", tmp_path / "fingerprints.jsonl"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:03d}-{'long name ' * 15}.png").write_bytes(f"{number}".encode())
    words = [sys.executable, "-c", ADDING, str(folder), str(file)]
    for process in [subprocess.Popen([*words, str(share)]) for share in range(3)]:
        assert process.wait() == 0
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert len(lines) == 300
    sums, read = started(file, folder)
    assert read == [] and sums == {path.name: sha256_file(path) for path in folder.iterdir()}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_them_all_the_same(pictures, tmp_path, at_once, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    started(tmp_path / "fingerprints.jsonl", pictures)
    assert started(tmp_path / "fingerprints.jsonl", pictures)[1] == []


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Fingerprints().sha256(tmp_path / "gone.png")


def test_another_process_is_told_what_is_known_and_tells_what_it_found_out(tmp_path, monkeypatch, at_once):
    for name in "ab":
        (tmp_path / name).write_text(name)
    mine, other = Fingerprints(tmp_path / "known.jsonl"), Fingerprints()
    digest = mine.sha256(tmp_path / "a")
    other.adopt(mine.some([tmp_path / "a", tmp_path / "b"]))
    monkeypatch.setattr(fingerprints, "sha256_file", lambda path: f"read {path.name}")
    assert [other.sha256(tmp_path / name) for name in "ab"] == [digest, "read b"]
    found = other.drain()
    assert [name for name, _, _ in found] == [str(tmp_path / "b")] and not other.drain()
    mine.add(found)
    mine.save()
    again = Fingerprints(tmp_path / "known.jsonl")
    assert [again.known(tmp_path / name) for name in "ab"] == [digest, "read b"]
    (tmp_path / "b").write_text("another")
    assert again.known(tmp_path / "b") is None
