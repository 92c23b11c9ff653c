"""Stores at an address of fsspec: the files of a store in a folder, made and read in the same way."""

import secrets
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from helpers.stores import Counting, files, filterbank, image_set

from saot.data import Fingerprints, check_place
from saot.features import FeatureStore, StoreSize, check_room, compact_store, compact_stores
from saot.features.folders import FetchedPlace, RemoteFolder, folder_of


@pytest.fixture
def address() -> Path:
    """As an argument of a command gives it."""
    return Path(f"memory://{secrets.token_hex(4)}/features")


def objects(address: Path) -> dict[str, bytes]:
    """By name; those of this process alone."""
    memory, place = fsspec.filesystem("memory"), str(address).removeprefix("memory:")
    return {name.rpartition("/")[2]: memory.cat_file(name) for name in memory.find(place)}


def test_its_objects_are_the_files_of_a_folder(tmp_path, address):
    images, backbone = image_set(3), Counting(filterbank())
    local = FeatureStore(tmp_path / "local", backbone.key)
    local.ensure(images, backbone)
    store, told = FeatureStore(address, backbone.key), []
    assert store.ensure(images, backbone, lambda *said: told.append(said), Fingerprints()) == 3
    assert told == [(1, 3), (2, 3), (3, 3)]
    made = objects(address)
    assert made == {path.name: path.read_bytes() for path in [*files(local.root), local.root / "store.json"]}
    assert not (tmp_path / "memory:").exists() and not Path("memory:").exists()


def test_what_is_there_is_read_and_not_made_again(address):
    images, backbone = image_set(3), Counting(filterbank())
    store = FeatureStore(address, backbone.key)
    assert store.begin(images) == [0, 1, 2] and store.size(backbone, images) == StoreSize(3, *_bytes(backbone, images))
    store.ensure(images, backbone, only=[1])
    assert store.begin(images) == [0, 2, 1]
    assert store.ensure(images, backbone) == 2 and backbone.calls == 3
    again = FeatureStore(address)
    assert again.ensure(images, backbone) == 0 and backbone.calls == 3
    assert again.keys() == images.keys and again.size(backbone, images).pictures == 0
    assert again.size(backbone, images).there == sum(map(len, objects(address).values())) - len(
        objects(address)["store.json"]
    )
    grid = again.read(images.keys[1])
    wanted = torch.tensor([5, 0, 5])
    assert torch.equal(again.rows(images.keys[1], wanted), grid.tokens[wanted].half())
    with pytest.raises(ValueError, match="has no features of elsewhere"):
        again.read("elsewhere")
    with pytest.raises(ValueError, match="made with size"):
        FeatureStore(address, replace(backbone.key, size="28"))


def _bytes(backbone, images) -> tuple[int, int]:
    local = [backbone.tokens(images.image(number)) for number in range(len(images))]
    backbone.calls = 0
    return sum(one.shape[0] * one.shape[1] * 2 for one in local), 0


@pytest.mark.parametrize("how", ["cut", "head", "gone", "changed"])
def test_what_is_damaged_or_of_another_picture_is_made_again(address, how):
    images, backbone = image_set(3), Counting(filterbank())
    store, memory = FeatureStore(address, backbone.key), fsspec.filesystem("memory")
    store.ensure(images, backbone)
    before, place = objects(address), str(address).removeprefix("memory:") + "/" + store._path(images.keys[1]).name
    if how == "gone":
        memory.rm_file(place)
    elif how in ("cut", "head"):
        memory.pipe_file(place, before[store._path(images.keys[1]).name][: -1 if how == "cut" else 20])
    else:
        images = image_set(3, "another")
    made = FeatureStore(address).ensure(images, backbone)
    assert made == (3 if how == "changed" else 1)
    assert how == "changed" or objects(address) == before


def test_a_record_that_is_replaced_is_looked_at_anew(address):
    images, backbone = image_set(2), filterbank()
    store = FeatureStore(address, backbone.key)
    store.ensure(images, backbone)
    first = store.provenance(images.keys[0])
    FeatureStore(address).ensure(image_set(2, "another"), backbone)
    assert store.provenance(images.keys[0]) != first


def test_a_payload_is_checked_where_it_is_read_whole(address):
    images, backbone = image_set(1), filterbank()
    store = FeatureStore(address, backbone.key)
    store.ensure(images, backbone)
    name = store._path(images.keys[0]).name
    spoilt = bytearray(objects(address)[name])
    spoilt[-1] ^= 1
    store._folder.write(name, bytes(spoilt))
    with pytest.raises(ValueError, match="check sum differs"):
        store.read(images.keys[0])


def test_few_requests_are_made(address, monkeypatch):
    """Head and first bytes of an object tell whether a picture is there: two, however long its header."""
    images, backbone = image_set(1), filterbank()
    FeatureStore(address, backbone.key).ensure(images, backbone)
    folder = folder_of(address)
    assert isinstance(folder, RemoteFolder)
    fetched = []
    kept = type(folder.files).cat_file
    monkeypatch.setattr(type(folder.files), "cat_file", lambda self, *a, **k: fetched.append(k) or kept(self, *a, **k))
    store = FeatureStore(address)
    fetched.clear()
    store.provenance(images.keys[0])
    assert len(fetched) == 1 and fetched[0]["start"] == 0
    with store._open(images.keys[0]) as place:
        assert isinstance(place, FetchedPlace) and place.read(1 << 30, place.size - 3) == place.read(3, place.size - 3)


def test_errors_are_one_sentence(address, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"expected an address that fsspec knows; nowhere://a needs more"):
        FeatureStore(Path("nowhere://a"))
    with pytest.raises(ValueError, match=r"found no store\.json; run saot extract first"):
        FeatureStore(address)

    def refuse(*_, **__):
        raise RuntimeError("SignatureDoesNotMatch\nby the server")

    store = FeatureStore(address, filterbank().key)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)
    with pytest.raises(OSError, match=r"^memory://.* cannot be used \(SignatureDoesNotMatch\): check address"):
        store.ensure(image_set(1), filterbank())
    with pytest.raises(ValueError, match="features alone may lie at one"):
        check_place(address)
    for packed in (compact_store, compact_stores):
        with pytest.raises(ValueError, match="copy it to a disk first"):
            packed(address, tmp_path / "packed")


def test_room_at_an_address_is_not_asked_for(address):
    said = check_room(address, StoreSize(2, 10**18, 0))
    assert said.endswith(f"more in {str(address).replace(':/', '://')}; 0.0 kB are there")
