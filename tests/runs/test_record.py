"""Which device is meant."""

import shutil
import subprocess

import pytest
import torch

from saot.runs import commit_of_code, record, resolve_device


@pytest.fixture
def machine(monkeypatch):
    """A machine with these accelerators, whatever is really there."""

    def pretend(*, cuda: bool, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(record, "check_device", lambda name: None)

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "wanted"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_cuda_then_mps_then_cpu(machine, cuda, mps, wanted):
    machine(cuda=cuda, mps=mps)
    assert resolve_device() == resolve_device("auto") == wanted
    assert resolve_device("cpu") == "cpu"


def test_each_process_of_a_launcher_takes_the_gpu_of_its_number(machine, monkeypatch):
    machine(cuda=True, mps=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device() == "cuda:1"
    assert resolve_device("cuda:0") == "cuda:0"


@pytest.mark.parametrize(("local", "wanted"), [("3", "cuda:0"), ("one", "cuda"), ("-1", "cuda")])
def test_a_number_from_another_launch_asks_for_no_gpu_that_is_not_there(machine, monkeypatch, local, wanted):
    machine(cuda=True, mps=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", local)
    assert resolve_device() == wanted


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="such as auto, cpu or cuda; 'abacus' is none here"):
        resolve_device("abacus")


def git(folder, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_commit_is_of_our_code_and_not_of_whose_folder_it_lies_in(tmp_path, monkeypatch):
    """An environment in somebody's project: its repository is not that of this package."""
    (tmp_path / "theirs.txt").write_text("x")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "theirs")
    place = tmp_path / "env" / "saot" / "runs" / "record.py"
    place.parent.mkdir(parents=True)
    shutil.copy(record.__file__, place)
    monkeypatch.setattr(record, "__file__", str(place))
    assert commit_of_code() in (f"saot {record._version('saot')}", "unknown")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "ours")
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit_of_code() == head.stdout[:12]
