"""A packed store: read as the files were, found by its index alone, damage told, additions beside it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.opened_files import opened_below
from helpers.stores import Counting, files, filterbank, image_set

from saot.data import Fingerprints
from saot.features import FeatureStore, compact_store, compact_stores, in_form
from saot.features.packed import INDEX, Index, hashed, index_bytes, read_index
from saot.features.record import DamagedFile

SHARD = 8000  # bytes: two pictures a shard


def made(root: Path, count: int = 5, form: str = "half") -> FeatureStore:
    images = image_set(count)
    backbone = in_form(filterbank(), form, (), images)
    store = FeatureStore(root, backbone.key)
    store.ensure(images, backbone)
    return store


@pytest.mark.parametrize("form", ["half", "int8", "projected:20"])
def test_a_packed_store_is_read_as_its_files_were(tmp_path, form):
    plain = made(tmp_path / "plain", form=form)
    told = []
    found = compact_store(plain.root, tmp_path / "packed", lambda *so_far: told.append(so_far), shard_size=4000)
    assert found.pictures == 5 and found.left_out == () and found.made == len(found.shards) > 1
    assert told[-1] == (5, 5)
    assert not files(tmp_path / "packed") and len(list((tmp_path / "packed").iterdir())) == len(found.shards) + 3
    assert found.size == sum(path.stat().st_size for path in (*found.shards, tmp_path / "packed" / INDEX))
    store = FeatureStore(tmp_path / "packed", plain.key)
    assert store.keys() == plain.keys() and store.grids() == plain.grids()
    for key in plain.grids():
        assert torch.equal(store.read(key).tokens, plain.read(key).tokens)
        assert store.provenance(key) == plain.provenance(key)
        chosen = torch.tensor([7, 0, 0, 3])
        assert torch.equal(store.rows(key, chosen), plain.rows(key, chosen))
    with pytest.raises(ValueError, match="no features of x"):
        store.read("x")


def test_a_complete_one_asks_for_no_file_a_picture(tmp_path, monkeypatch):
    images, backbone = image_set(6), Counting(filterbank())
    compact_store(made(tmp_path / "plain", 6).root, tmp_path / "packed", shard_size=SHARD)
    seen, asked, real = Fingerprints(), [], os.stat
    FeatureStore(tmp_path / "packed", backbone.key).ensure(images, backbone, seen=seen)
    monkeypatch.setattr(os, "stat", lambda path, *so, **named: (asked.append(str(path)), real(path, *so, **named))[1])
    with opened_below(tmp_path) as opened:
        store = FeatureStore(tmp_path / "packed", backbone.key)
        size = store.size(backbone, images)
        assert store.ensure(images, backbone, seen=seen) == 0
    assert size.pictures == size.missing == backbone.calls == 0
    assert {path.name for path in opened} == {INDEX, "store.json"}  # of the shards too what is remembered suffices
    assert not [path for path in asked if path.endswith(".safetensors")]
    assert size.there == sum(path.stat().st_size for path in files(tmp_path / "plain"))


def test_what_is_missing_or_has_changed_is_made_beside_it(tmp_path):
    compact_store(made(tmp_path / "plain").root, tmp_path / "packed", shard_size=SHARD)
    backbone = Counting(filterbank())
    store = FeatureStore(tmp_path / "packed", backbone.key)
    more = image_set(7)
    assert store.size(backbone, more).pictures == 2
    assert store.ensure(more, backbone) == 2 and len(files(store.root)) == 2
    assert store.keys() == more.keys
    changed = dataclasses.replace(
        more, fingerprint=lambda n: more.fingerprint(n) if n else "other", load=lambda n: more.load(n or 9)
    )
    before = store.read(more.keys[0]).tokens
    assert store.ensure(changed, backbone) == 1 and len(files(store.root)) == 3
    for one in (store, FeatureStore(store.root, backbone.key)):
        assert one.provenance(more.keys[0]).source == "other"
        assert one.read(more.keys[0]).tokens.shape != before.shape
        assert one.ensure(changed, backbone) == 0 and one.keys() == more.keys
    assert backbone.calls == 3
    again = compact_store(store.root, tmp_path / "again", shard_size=SHARD)  # files beside it go first there, too
    assert again.pictures == 7
    assert FeatureStore(tmp_path / "again").provenance(more.keys[0]).source == "other"


@pytest.mark.parametrize("harm", ["a byte", "cut short", "gone", "a pipe"])
def test_a_damaged_shard_is_told_and_its_damaged_pictures_are_made_again(tmp_path, harm):
    plain, images, backbone = made(tmp_path / "plain"), image_set(), Counting(filterbank())
    found = compact_store(plain.root, tmp_path / "packed", shard_size=SHARD)
    seen = Fingerprints()
    assert FeatureStore(tmp_path / "packed").ensure(images, backbone, seen=seen) == 0
    shard = found.shards[0]
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.unlink()
    if harm == "a pipe":
        os.mkfifo(shard)
    elif harm != "gone":
        shard.write_bytes(content if harm == "a byte" else content[:-100])
    store, told = FeatureStore(tmp_path / "packed"), []
    for key in images.keys:
        try:
            store.read(key)
        except DamagedFile as error:
            told.append(str(error))
    assert len(told) == (2 if harm in ("gone", "a pipe") else 1)
    assert all(str(shard) in one and "extract the features again" in one and "\n" not in one for one in told)
    assert store.ensure(images, backbone, seen=seen) == len(told)
    for key in images.keys:
        assert torch.equal(store.read(key).tokens, plain.read(key).tokens)
    assert FeatureStore(tmp_path / "packed").ensure(images, backbone, seen=seen) == 0
    assert backbone.calls == len(told)


def test_every_flipped_byte_of_an_index_is_found(tmp_path):
    compact_store(made(tmp_path / "plain", 2).root, tmp_path / "packed")
    path = tmp_path / "packed" / INDEX
    whole = path.read_bytes()
    spoilt = [whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :] for at in range(0, len(whole), 7)]
    for content in (*spoilt, b"", whole[:-1], whole + b"\0", whole[:20]):
        path.write_bytes(content)
        with pytest.raises(DamagedFile, match="the index of a packed store, is damaged"):
            FeatureStore(tmp_path / "packed")
    os.truncate(path, 2**33)  # a hole: it takes no room
    with pytest.raises(DamagedFile, match="is damaged"):
        FeatureStore(tmp_path / "packed")


def test_an_index_of_another_store_is_refused(tmp_path):
    compact_store(made(tmp_path / "plain", 2).root, tmp_path / "packed")
    other = made(tmp_path / "other", 2, "int8")
    (other.root / INDEX).write_bytes((tmp_path / "packed" / INDEX).read_bytes())
    with pytest.raises(ValueError, match="its packed part has form 'half'"):
        FeatureStore(other.root)


KILLED = """
import os, signal, sys
from pathlib import Path
from saot.features import compact, compact_store
at, real = sys.argv[3], compact.write_atomic
def killing(path, data):
    if path.name.startswith(at):
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, data)
compact.write_atomic = killing
compact_store(Path(sys.argv[1]), Path(sys.argv[2]), shard_size=8000)
"""


@pytest.mark.parametrize("at", ["shard-00001.pack.part", INDEX, "store.json"])
def test_a_killed_packing_leaves_nothing_that_opens_and_goes_on(tmp_path, at):
    plain, out = made(tmp_path / "plain", 6), tmp_path / "packed"
    whole = compact_store(plain.root, tmp_path / "undisturbed", shard_size=SHARD)
    words = [sys.executable, "-c", KILLED, str(plain.root), str(out), at]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    with pytest.raises(ValueError, match="run saot extract first"):
        FeatureStore(out)
    found = compact_store(plain.root, out, shard_size=SHARD)
    done = {"shard-00001.pack.part": 1, INDEX: len(whole.shards), "store.json": len(whole.shards)}[at]
    assert found.made == (0 if at == "store.json" else len(whole.shards) - done)
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    assert content == {path.name: path.read_bytes() for path in (tmp_path / "undisturbed").iterdir()}
    assert compact_store(plain.root, out, shard_size=SHARD).made == 0  # and once more, with nothing to do
    found.shards[0].unlink()
    compact_store(plain.root, out, shard_size=SHARD)
    assert content == {path.name: path.read_bytes() for path in out.iterdir()}


def test_two_do_not_pack_into_one_folder_at_once(tmp_path):
    plain, out = made(tmp_path / "plain"), tmp_path / "packed"

    def second(done, total):
        with pytest.raises(ValueError, match=r"another `saot compact` is writing .*packed; wait for it to end"):
            compact_store(plain.root, out)
        told.append(done)

    told: list[int] = []
    assert compact_store(plain.root, out, second).made == 1 and told == [5]
    assert compact_store(plain.root, out).made == 0


def test_a_shard_of_a_killed_packing_that_is_not_whole_is_written_anew(tmp_path):
    plain, out = made(tmp_path / "plain", 6), tmp_path / "packed"
    words = [sys.executable, "-c", KILLED, str(plain.root), str(out), INDEX]
    subprocess.run(words, check=False)
    path = out / "shard-00000.pack"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert compact_store(plain.root, out, shard_size=SHARD).made == 1
    assert FeatureStore(out).ensure(image_set(6), filterbank()) == 0


def test_damaged_files_are_left_out_and_named(tmp_path):
    plain = made(tmp_path / "plain")
    harmed, swapped = files(plain.root)[1:3]
    harmed.write_bytes(harmed.read_bytes()[:-3])
    swapped.write_bytes(files(plain.root)[3].read_bytes())
    found = compact_store(plain.root, tmp_path / "packed", shard_size=SHARD)
    assert found.left_out == (harmed.name, swapped.name) and found.pictures == 3
    assert FeatureStore(tmp_path / "packed").ensure(image_set(), filterbank()) == 2


def test_places_that_are_none_for_a_packed_store(tmp_path):
    plain = made(tmp_path / "plain", 2)
    with pytest.raises(ValueError, match="expected another folder"):
        compact_store(plain.root, plain.root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("1")
    with pytest.raises(ValueError, match="is neither: choose another --out"):
        compact_store(plain.root, tmp_path / "full")
    compact_store(plain.root, tmp_path / "packed")
    made(plain.root, 3)
    with pytest.raises(ValueError, match="holds another packed store than is asked for"):
        compact_store(plain.root, tmp_path / "packed")
    with pytest.raises(ValueError, match="expected a store with features"):
        compact_stores(tmp_path / "full", tmp_path / "new")
    FeatureStore(tmp_path / "empty", plain.key)
    with pytest.raises(ValueError, match="expected features to pack"):
        compact_store(tmp_path / "empty", tmp_path / "new")
    with pytest.raises(ValueError, match="outside the store"):
        compact_stores(tmp_path / "plain", tmp_path / "plain" / "packed")


def test_all_stores_below_a_folder_with_what_is_known_of_their_pictures(tmp_path):
    root, out = tmp_path / "stores", tmp_path / "out"
    for name in ("a", "b/c"):
        made(root / name, 2)
    FeatureStore(root / "empty", filterbank().key)
    lines = ['["/a.png", 1, 2, 3, "cafe", 5]', '["/x/y.safetensors", 1, 2, 3, "cafe", 5]']
    (root / "fingerprints.jsonl").write_text("\n".join(lines) + "\n")
    (root / "projection-1-2.safetensors").write_bytes(b"p")
    told = []
    found = compact_stores(root, out, lambda *so_far: told.append(so_far))
    assert sorted(found) == ["a", "b/c"] and {name for name, *_ in told} == {"a", "b/c"}
    assert (out / "projection-1-2.safetensors").read_bytes() == b"p"
    kept = [json.loads(line)[0] for line in (out / "fingerprints.jsonl").read_text().splitlines()]
    assert kept == ["/a.png", *(str(path) for one in found.values() for path in one.shards)]
    seen = Fingerprints(out / "fingerprints.jsonl")
    with opened_below(out) as opened:
        assert FeatureStore(out / "a").ensure(image_set(2), filterbank(), seen=seen) == 0
    assert not [path for path in opened if path.suffix == ".pack"]  # known whole since they were written
    again = compact_stores(root, out)
    assert sum(one.made for one in again.values()) == 0


def test_an_index_finds_each_of_many_and_no_other(tmp_path):
    keys = [f"train/{number}.png" for number in range(5000)]
    numbers = np.arange(len(keys))
    columns = {"names": np.array([hashed(key) for key in keys], np.uint64)}
    columns |= dict.fromkeys(("sources", "offsets", "lengths", "shards"), numbers)
    (tmp_path / INDEX).write_bytes(index_bytes(Index({}, (), columns)))
    index = read_index(tmp_path / INDEX)
    assert len(index) == 5000
    for number, key in enumerate(keys):
        entry = index.find(hashed(key))
        assert entry is not None and index.columns["offsets"][entry] == number
    strange = [hashed(f"val/{number}.png") for number in range(5000)]
    assert all(index.find(name) is None for name in (*strange, 0, 2**64 - 1))
    there, entries = index.find_all([hashed(keys[7]), *strange[:3], hashed(keys[4999])])
    assert there.tolist() == [True, False, False, False, True]
    assert index.columns["offsets"][entries[there]].tolist() == [7, 4999]
    nothing = Index({}, (), dict.fromkeys(index.columns, numbers[:0]))
    assert not nothing.find_all([1])[0].any() and nothing.find(1) is None


def test_parts_that_several_processes_make_begin_with_what_is_in_no_shard(tmp_path):
    images, backbone = image_set(7), Counting(filterbank())
    compact_store(made(tmp_path / "plain", 5).root, tmp_path / "packed", shard_size=SHARD)
    store = FeatureStore(tmp_path / "packed", backbone.key)
    assert store.begin(images) == [5, 6, 0, 1, 2, 3, 4]
    assert store.file(images.keys[0]).name.startswith("shard") and store.file(images.keys[5]).suffix == ".safetensors"
    assert store.ensure(images, backbone, only=[5, 0]) == 1 == backbone.calls
    assert store.begin(images) == [6, 0, 1, 2, 3, 4, 5]
