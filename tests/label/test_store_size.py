"""What the feature store will take is said before the first picture is extracted; a full disk is refused."""

from dataclasses import replace

import pytest
from helpers.runs import make_folder, tiny_settings

from saot import label
from saot.cli import app, main
from saot.features import store as store_file
from saot.tables import ALL_WINGS, all_rivals


def begun(settings, out, say, progress=None):
    """A run up to its features, and a little further."""
    wings = replace(ALL_WINGS, say=say)
    label.score_some(settings, out, ["nearest_neighbor"], wings=wings, rivals=all_rivals, progress=progress)


def test_a_run_says_it_once_before_the_first_picture(tmp_path):
    heard = []

    def progress(stage, done, total):
        if stage.startswith("features"):
            heard.append(stage)

    for _ in range(2):  # the second time everything is there
        begun(tiny_settings(), tmp_path / "run", heard.append, progress)
    assert heard[0].startswith("the features of 8 pictures take 103.9 kB more in ") and heard[1] == "features source"
    assert sum("take" in sentence for sentence in heard) == 1


def test_a_set_in_two_roles_counts_once(tmp_path):
    heard, settings = [], tiny_settings()
    begun(replace(settings, eval=settings.target), tmp_path / "run", heard.append)
    assert heard[0].startswith("the features of 6 pictures take ")


def test_a_run_and_extract_refuse_a_full_disk(tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(store_file.shutil, "disk_usage", lambda place: usage)
    opened, heard = [], []
    monkeypatch.setattr(store_file, "extract_each", lambda *arguments: opened.append(arguments))
    expected = r"expected 103\.9 kB free for the features of 8 pictures in .*; got 1\.0 kB: free some space"
    with pytest.raises(ValueError, match=expected):
        begun(tiny_settings(), tmp_path / "run", heard.append)
    words = ["extract", make_folder(tmp_path / "set", 0), "--backbone", "filterbank", "--size", "28x56"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "store"), "--device", "cpu"])
    said = capsys.readouterr()
    assert ended.value.code == 2 and "Traceback" not in said.err
    assert "got 1.0 kB: free some space" in " ".join(said.err.split()) and not opened and not heard


def test_extract_says_it_on_standard_error(tmp_path, capsys):
    words = ["extract", make_folder(tmp_path / "set", 0), "--backbone", "filterbank", "--size", "28x56", "--json"]
    for expected in (True, False):
        with pytest.raises(SystemExit):
            app([*words, "--out", str(tmp_path / "store"), "--device", "cpu"])
        said = capsys.readouterr()
        assert ("the features of 2 pictures take" in " ".join(said.err.split())) is expected
        assert said.out.startswith('{"store"')
