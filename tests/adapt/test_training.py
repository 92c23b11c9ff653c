"""What Accelerate is told of the machine: the device that was asked for, and no process but those that have met."""

import os
from types import SimpleNamespace

import accelerate
import pytest
import torch
from helpers.adapt import tiny_recipe

from saot.adapt.training import Pace, new_accelerator

LAUNCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "PMI_SIZE": "4"}


@pytest.fixture
def told(monkeypatch):
    """What is in the environment when Accelerate looks; its device is what the test says."""
    seen = SimpleNamespace(environment={}, device="cpu")

    def look(**options):
        seen.environment = {name: os.environ[name] for name in LAUNCH if name in os.environ}
        return SimpleNamespace(device=torch.device(seen.device), options=options)

    monkeypatch.setattr(accelerate, "Accelerator", look)
    for name, value in LAUNCH.items():
        monkeypatch.setenv(name, value)
    return seen


def test_numbers_of_another_launch_are_kept_from_accelerate(told):
    new_accelerator("cpu", tiny_recipe())
    assert told.environment == {}
    assert os.environ["WORLD_SIZE"] == "4"


def test_processes_that_have_met_share_the_training(told):
    new_accelerator("cpu", tiny_recipe(), together=True)
    assert told.environment == LAUNCH


def test_another_device_than_was_asked_for_is_refused(told):
    """ACCELERATE_USE_CPU and ACCELERATE_TORCH_DEVICE go before what we ask."""
    told.device = "meta"
    with pytest.raises(ValueError, match="expected the device cpu; accelerate takes meta: see that ACCELERATE_TORCH"):
        new_accelerator("cpu", tiny_recipe())


@pytest.mark.parametrize("said", ["many", "-2", "", "0"])
def test_a_number_of_processes_that_is_none_counts_as_one(monkeypatch, said):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = Pace.of_this_machine()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", said)
    assert Pace.of_this_machine() == alone


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"])
def test_processes_of_a_launch_share_the_cores_whoever_launched_them(monkeypatch, name):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.setenv(name, "4")
    assert Pace.of_this_machine().workers == 2
