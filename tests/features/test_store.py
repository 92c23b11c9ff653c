import dataclasses
import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.stores import Counting, files, filterbank, image_set
from safetensors import safe_open

from saot.data import Fingerprints
from saot.features import FeatureStore, extract, load_backbone
from saot.features.record import DamagedFile
from saot.features.store import StoreSize, check_room


def test_what_is_read_is_what_was_extracted_in_half_precision(tmp_path):
    images, backbone = image_set(), filterbank()
    store = FeatureStore(tmp_path / "store", backbone.key)
    seen = []
    assert store.ensure(images, backbone, lambda done, total: seen.append((done, total))) == 5
    assert seen == [(i, 5) for i in range(1, 6)]
    for index, key in enumerate(images.keys):
        wanted = extract(backbone, images.image(index), images.fingerprint(index))
        found = store.read(key)
        torch.testing.assert_close(found.tokens, wanted.tokens.half().float(), rtol=0, atol=0)
        assert found.tokens.dtype == torch.float32
        assert found.provenance == wanted.provenance
        assert store.grid(key) == found.grid == wanted.grid
        assert store.provenance(key) == wanted.provenance
    assert store.keys() == images.keys
    assert store.grids() == {key: store.grid(key) for key in images.keys}


def test_files_are_plain_safetensors(tmp_path):
    backbone = filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(image_set(1), backbone)
    with safe_open(files(tmp_path)[0], "pt") as file:
        torch.testing.assert_close(file.get_tensor("tokens").float(), store.read("train/0000.png").tokens)
        assert file.metadata()["key"] == "train/0000.png"


def test_rows(tmp_path):
    backbone = filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(image_set(1), backbone)
    tokens = store.read("train/0000.png").tokens.half()
    count = len(tokens)
    spread = [list(range(0, count, step)) for step in (1, 3, 17, 40)]  # gaps that are read over and gaps that are not
    for indices in ([3], [5, 4, 4, 0, 7], *spread, [count - 1, 0], []):
        wanted = torch.tensor(indices, dtype=torch.int64)
        found = store.rows("train/0000.png", wanted)
        assert found.dtype == torch.float16
        torch.testing.assert_close(found, tokens[wanted], rtol=0, atol=0)
    for indices in ([len(tokens)], [-1, 0]):
        with pytest.raises(ValueError, match=f"tokens 0 to {len(tokens) - 1}"):
            store.rows("train/0000.png", torch.tensor(indices))


def test_a_file_that_another_process_has_made_anew_is_read_anew(tmp_path):
    backbone = filterbank()
    store, other = (FeatureStore(tmp_path, backbone.key) for _ in range(2))
    store.ensure(image_set(1), backbone)
    place, wanted = image_set(1).keys[0], torch.tensor([3])
    features, rows = store.read(place), store.rows(place, wanted)
    other.write(place, replace(features, tokens=features.tokens.flip(0)))
    assert torch.equal(store.rows(place, len(features.tokens) - 1 - wanted), rows)
    other.ensure(image_set(1, version="new"), backbone)
    assert store.provenance(place).source != features.provenance.source


def test_a_complete_store_asks_nothing_of_the_network(tmp_path):
    images, backbone = image_set(), Counting(filterbank())
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(images, backbone)
    before = [path.stat().st_mtime_ns for path in files(tmp_path)]
    backbone.calls = 0
    assert FeatureStore(tmp_path, backbone.key).ensure(images, backbone) == 0
    assert backbone.calls == 0
    assert before == [path.stat().st_mtime_ns for path in files(tmp_path)]


def test_a_changed_picture_is_made_again(tmp_path):
    backbone = filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(image_set(), backbone)
    assert store.ensure(image_set(version="new"), backbone) == 5
    assert store.ensure(image_set(version="new"), backbone) == 0


def _damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[:-100]
    elif how == "empty":
        data = bytearray()
    elif how == "longer":
        data += b"\0" * 8
    elif how == "payload":
        data[-7] ^= 4
    elif how == "header":
        position = data.index(b'"l2_norm') + 1
        data[position] ^= 1
    elif how == "length":
        data[5] ^= 64
    elif how == "not text":
        data[8:40] = b"\xff" * 32
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "empty", "longer", "payload", "header", "length", "not text"])
def test_damaged_files_are_found_and_made_again(tmp_path, how):
    images, backbone = image_set(3), filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(images, backbone)
    whole = files(tmp_path)[1].read_bytes()
    _damage(files(tmp_path)[1], how)
    with pytest.raises(DamagedFile, match="extract the features again"):
        store.read(images.keys[1])
    assert store.ensure(images, backbone) == 1
    assert files(tmp_path)[1].read_bytes() == whole


def test_every_flipped_byte_is_found(tmp_path):
    images, backbone = image_set(1), filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(images, backbone)
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    for position in [*range(0, 1700, 3), *range(1700, len(whole), 997)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 8]) + whole[position + 1 :])
        assert not store._is_whole(images.keys[0], images.fingerprint(0)), position


def test_files_of_two_pictures_swapped(tmp_path):
    images, backbone = image_set(2), filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(images, backbone)
    first, second = files(tmp_path)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(ValueError, match=r"holds the features of train/0001\.png"):
        store.read(images.keys[0])
    assert store.keys() == ()
    assert store.ensure(images, backbone) == 2


@pytest.mark.parametrize("what", ["pipe", "link to itself"])
def test_what_is_no_file_in_a_pictures_place_is_replaced(tmp_path, what):
    backbone, images = filterbank(), image_set(1)
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(images, backbone)
    (path,) = files(tmp_path)
    path.unlink()
    os.mkfifo(path) if what == "pipe" else path.symlink_to(path)
    with pytest.raises(ValueError, match="remove it and extract the features again"):
        store.read(images.keys[0])
    assert store.keys() == () and store.size(backbone, images).pictures == 0
    assert store.ensure(images, backbone) == 1 and path.is_file() and not path.is_symlink()


def test_other_settings_are_refused_by_name(tmp_path):
    backbone = filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(image_set(1), backbone)
    with pytest.raises(
        ValueError, match=r"this run has l2_norm False, but the features in .* were made with l2_norm True"
    ):
        FeatureStore(tmp_path, filterbank(l2_norm=False).key)
    with pytest.raises(ValueError, match="the backbone has size '56x56'"):
        store.ensure(image_set(1), load_backbone("filterbank", size=(56, 56)))
    other = dataclasses.replace(backbone.key, weights_sha256="0" * 64)
    with pytest.raises(ValueError, match="weights_sha256"):
        FeatureStore(tmp_path, other)


def test_a_file_made_otherwise_is_refused_and_made_again(tmp_path):
    backbone, other = filterbank(), filterbank(l2_norm=False)
    images = image_set(1)
    FeatureStore(tmp_path / "a", backbone.key).ensure(images, backbone)
    FeatureStore(tmp_path / "b", other.key).ensure(images, other)
    path = files(tmp_path / "a")[0]
    path.write_bytes(files(tmp_path / "b")[0].read_bytes())
    store = FeatureStore(tmp_path / "a")
    with pytest.raises(ValueError, match=r"the file of train/0000\.png has l2_norm False"):
        store.read(images.keys[0])
    with pytest.raises(ValueError, match="l2_norm"):
        store.rows(images.keys[0], torch.tensor([0]))
    assert store.ensure(images, backbone) == 1
    assert store.read(images.keys[0]).provenance.l2_norm


def test_opening_without_a_key(tmp_path):
    backbone = filterbank()
    FeatureStore(tmp_path / "store", backbone.key)
    assert FeatureStore(tmp_path / "store").key == backbone.key
    with pytest.raises(ValueError, match="run saot extract first"):
        FeatureStore(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    for size in (2, 2**31):
        (tmp_path / "store" / "store.json").write_text("{}")
        os.truncate(tmp_path / "store" / "store.json", size)
        with pytest.raises(ValueError, match=r"store\.json is damaged"):
            FeatureStore(tmp_path / "store", backbone.key)


def test_a_store_that_another_process_is_putting_in_place(tmp_path, monkeypatch):
    """Where a file system in user space replaces an open file, there is none for a moment."""
    backbone, calls, real = filterbank(), [], Path.read_text
    FeatureStore(tmp_path, backbone.key)

    def gone_at_first(path, *words, **named):
        calls.append(path)
        if len(calls) < 3:
            raise FileNotFoundError(2, "no such file", str(path))
        return real(path, *words, **named)

    monkeypatch.setattr(Path, "read_text", gone_at_first)
    assert FeatureStore(tmp_path).key == backbone.key and len(calls) == 3


def test_missing_picture(tmp_path):
    store = FeatureStore(tmp_path, filterbank().key)
    for ask in (store.read, store.grid, lambda key: store.rows(key, torch.tensor([0]))):
        with pytest.raises(ValueError, match="no features of x"):
            ask("x")


def test_names_that_look_alike_or_are_odd(tmp_path):
    keys = ("a/b.png", "a_b.png", "A_b.png", "../up.png", "/abs.png", "ü ß.png", "x" * 400 + ".png", ".png")
    images = dataclasses.replace(image_set(len(keys)), keys=keys)
    backbone = filterbank()
    store = FeatureStore(tmp_path / "store", backbone.key)
    store.ensure(images, backbone)
    assert set(store.keys()) == set(keys)
    assert len(files(tmp_path / "store")) == len(keys)
    assert len(list(tmp_path.iterdir())) == 1  # nothing outside the store
    for index, key in enumerate(keys):
        assert store.provenance(key).image_size == (30 + index, 60)


def test_tokens_that_half_precision_cannot_hold(tmp_path):
    class Loud(Counting):
        def tokens(self, image):
            return self.backbone.tokens(image) * 1e6

    backbone = Loud(filterbank(l2_norm=False))
    store = FeatureStore(tmp_path, backbone.key)
    with pytest.raises(ValueError, match="not finite in half precision"):
        store.ensure(image_set(1), backbone)
    assert files(tmp_path) == []


def test_full_disk(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    backbone = filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk is full"):
        store.ensure(image_set(2), backbone)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".claims", "store.json"]
    assert store.ensure(image_set(2), backbone) == 2


def test_left_over_temporary_files(tmp_path):
    backbone = filterbank()
    store = FeatureStore(tmp_path, backbone.key)
    old, young = tmp_path / "a.safetensors.tmp-1", tmp_path / "b.safetensors.tmp-2"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    store.ensure(image_set(1), backbone)
    assert not old.exists()
    assert young.exists()  # another process may be at it
    assert store.keys() == ("train/0000.png",)


MANY = """
import dataclasses, json, resource, sys; sys.path.insert(0, {tests!r})
import numpy as np
import torch
from helpers.stores import image_set
from saot.features import FeatureStore, load_backbone
backbone = load_backbone("filterbank", size=504)  # 0.5 MB a picture
backbone.tokens = lambda image: torch.ones(1296, backbone.dim)
store = FeatureStore({root!r}, backbone.key)
peaks = []
for count in (5, 100):
    images = image_set(count)
    images = dataclasses.replace(images, load=lambda index: np.zeros((504, 504, 3), np.uint8))
    store.ensure(images, backbone)
    for key in images.keys:
        store.read(key), store.rows(key, torch.arange(0, 1000, 3))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(peaks))
"""


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    code = MANY.format(tests=str(Path(__file__).parents[1]), root=str(tmp_path))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    few, many = json.loads(out)
    assert many - few < 20  # MB; 95 more pictures hold 50 MB of features


@pytest.mark.parametrize("size", [56, (28, 56)])
def test_the_size_is_known_before_anything_is_made(tmp_path, size):
    """Against the files that are then there: payload to the byte, headers below 2 kB each."""
    backbone, images = load_backbone("filterbank", size=size), image_set(6)
    counting = Counting(backbone)
    store = FeatureStore(tmp_path / "store", backbone.key)
    asked = store.size(counting, images)
    assert asked.pictures == 6 and asked.there == 0 and counting.calls == 0
    store.ensure(image_set(2), backbone)
    rest = store.size(backbone, images, images)  # a picture in two sets counts once
    assert rest.pictures == 4 and rest.there == sum(path.stat().st_size for path in store.root.glob("*.safetensors"))
    store.ensure(images, backbone)
    payload = sum(store.grid(key).num_tokens * backbone.dim * 2 for key in images.keys)
    assert asked.missing == payload and rest.missing == sum(
        store.grid(key).num_tokens * backbone.dim * 2 for key in images.keys[2:]
    )
    all_there = store.size(backbone, images)
    assert all_there.pictures == all_there.missing == 0 and payload < all_there.there < payload + 6 * 2000


def test_a_fixed_size_asks_no_picture_for_its_own(tmp_path):
    def refuse(number):
        raise AssertionError("no picture need be opened")

    images = dataclasses.replace(image_set(6), load=refuse, measure=refuse)
    backbone = load_backbone("filterbank", size=(28, 56))
    assert FeatureStore(tmp_path, backbone.key).size(backbone, images).missing == 6 * 2 * 4 * backbone.dim * 2


def test_a_disk_without_room_is_refused_in_one_sentence(tmp_path):
    size = StoreSize(27_941, 147_400_000_000, 3_000_000)
    with pytest.raises(ValueError, match=r"expected 147\.4 GB free for the features of 27,941 pictures in ") as caught:
        check_room(tmp_path / "not" / "yet" / "there", size, free=30_000_000_000)
    assert "got 30.0 GB: free some space" in str(caught.value) and "\n" not in str(caught.value)
    said = check_room(tmp_path, size, free=147_400_000_000)
    assert said.startswith("the features of 27,941 pictures take 147.4 GB more in ")
    assert said.endswith("GB are free; 3.0 MB are there")
    assert "free; 0.0 kB are there" in check_room(tmp_path / "not" / "yet", StoreSize(1, 10, 0))  # asks the disk
    with pytest.raises(ValueError, match=r"expected 1,000,000,000\.0 GB free"):
        check_room(tmp_path, StoreSize(1, 10**18, 0))


def test_a_second_start_opens_no_feature_file(tmp_path):
    backbone, images, file = filterbank(), image_set(4), tmp_path / "fingerprints.jsonl"
    store, read = FeatureStore(tmp_path / "store", backbone.key), []
    real = os.pread

    def counted(*arguments):
        read.append(len(real(*arguments)))
        return real(*arguments)

    def start() -> tuple[int, int]:
        """Files made, and bytes read."""
        seen = Fingerprints(file)
        read.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pread", counted)
            made = FeatureStore(store.root, backbone.key).ensure(images, backbone, seen=seen)
        seen.save()
        return made, sum(read)

    payload = store.size(backbone, images).missing
    assert start()[0] == 4
    assert start() == (0, 0) and payload > 10_000
    file.unlink()  # as a store of an earlier version: read once, then never again
    made, size = start()
    assert made == 0 and size >= payload
    assert start() == (0, 0)
    older = Fingerprints(file)  # which knew the check sum alone: the headers once more
    for path in map(store.file, images.keys):
        older.note(path, str(older.known(path)).partition(":")[0])
    older.save()
    made, size = start()
    assert made == 0 and 0 < size < 8000
    assert start() == (0, 0)


def test_fingerprints_that_were_just_asked_for_are_asked_again_only_of_what_is_made(tmp_path):
    backbone, images, asked = filterbank(), image_set(4), []
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(image_set(2), backbone)

    def ask(index: int) -> str:
        asked.append(index)
        return "changed since" if index == 3 else images.fingerprint(index)

    named = {key: images.fingerprint(number) for number, key in enumerate(images.keys)}
    assert store.ensure(dataclasses.replace(images, fingerprint=ask), backbone, named=named) == 2
    assert asked == [2, 3]
    assert [store.provenance(key).source for key in images.keys] == [*list(named.values())[:3], "changed since"]


@pytest.mark.parametrize("harm", ["a byte", "another picture's", "cut short"])
def test_a_file_that_changed_is_found_although_it_was_whole(tmp_path, harm):
    backbone, images, seen = filterbank(), image_set(3), Fingerprints()
    store = FeatureStore(tmp_path, backbone.key)
    store.ensure(images, backbone, seen=seen)
    time.sleep(0.02)
    path = store._path(images.keys[1])
    content, wanted = bytearray(path.read_bytes()), store.read(images.keys[1]).tokens
    if harm == "a byte":
        content[-5] ^= 1
    elif harm == "cut short":
        content = content[:-2]
    else:
        content = bytearray(store._path(images.keys[2]).read_bytes())
    path.write_bytes(content)
    assert store.ensure(images, backbone, seen=seen) == 1
    assert torch.equal(store.read(images.keys[1]).tokens, wanted)
    assert store.ensure(image_set(3, version="other"), backbone, seen=seen) == 3  # whole, but of other pictures
