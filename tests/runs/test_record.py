"""Which device is meant."""

import pytest
import torch

from saot.runs import record, resolve_device


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
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device() == "cuda:1"
    assert resolve_device("cuda:0") == "cuda:0"


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="such as auto, cpu or cuda; 'abacus' is none here"):
        resolve_device("abacus")
