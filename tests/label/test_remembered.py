"""A second start does not read the pictures and masks again; a changed one is noticed."""

import os
import time
from dataclasses import replace

import pytest
from helpers.opened_files import opened_below
from helpers.runs import TINY, make_folder, run_job, tiny_settings

from saot.cli import app
from saot.data import fingerprints
from saot.label import fingerprints_file
from saot.runs import load_tensors

NO_SEARCH = replace(TINY, name="tiny-none")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED_NS", -(10**12))  # files made here count as settled
    sets = {name: make_folder(tmp_path / name, seed) for seed, name in enumerate(("source", "target", "eval"))}
    return tiny_settings(**sets, size="28x56", recipe=NO_SEARCH)


def files_of(settings, tmp_path):
    return [tmp_path / name / part for name in ("source", "target", "eval") for part in ("images", "masks")]


@pytest.mark.parametrize("with_store", [False, True])
def test_a_finished_run_opens_no_picture_and_no_mask(asked, tmp_path, with_store):
    store = tmp_path / "store" if with_store else None
    out, places = tmp_path / "run", files_of(asked, tmp_path)
    with opened_below(*places) as opened:
        first = run_job(asked, out, store=store, compare="none")
    assert len(opened) > 10 and not first.resumed
    with opened_below(*places) as opened:
        again = run_job(asked, out, store=store, compare="none")
    assert again.resumed and again.metrics == first.metrics and opened == []
    assert fingerprints_file(out, store).exists()
    assert fingerprints_file(out, store) == (tmp_path / "store" if with_store else out / "work") / "fingerprints.jsonl"


def test_a_mask_of_the_same_size_is_noticed(asked, tmp_path):
    out = tmp_path / "run"
    run_job(asked, out, compare="none")
    mask = tmp_path / "source" / "masks" / "1.png"
    content, stat = bytearray(mask.read_bytes()), mask.stat()
    time.sleep(0.02)
    content[-1] ^= 1
    mask.write_bytes(content)
    os.utime(mask, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ValueError, match=r"in the source 1\.png has changed"):
        run_job(asked, out, compare="none")


def test_extract_leaves_its_fingerprints_to_a_run(asked, tmp_path, capsys):
    store, images = tmp_path / "store", tmp_path / "source" / "images"
    words = ["extract", asked.source, "--backbone", "filterbank", "--size", "28x56", "--out", str(store), "--json"]
    for expected in (4, 0):  # two pictures, to fingerprint and to look at; then none
        with opened_below(images) as opened, pytest.raises(SystemExit) as ended:
            app([*words, "--device", "cpu"])
        assert ended.value.code == 0 and len(opened) == expected
    with opened_below(images) as opened:
        run_job(asked, tmp_path / "run", store=store, compare="none")
    assert load_tensors(tmp_path / "run" / "decoder.safetensors") is not None
    assert len(opened) <= 8  # heads, and the pictures of the report; none is read for fingerprint or features
