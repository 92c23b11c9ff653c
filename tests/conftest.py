"""Shapes in public signatures are checked while tests run; one thread keeps small problems quick."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

HOOK = install_import_hook("saot", "typecheck.checked")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SLOW = Path(__file__).with_name("slow.txt")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The mark `slow` for tests that are named in slow.txt; those with `ray` wait until somebody asks for them."""
    asked = "ray" in config.option.markexpr
    named = set(SLOW.read_text().split())
    for item in items:
        place = Path(item.path).relative_to(SLOW.parent).as_posix()
        if f"{place}::{getattr(item, 'originalname', item.name)}" in named:
            item.add_marker(pytest.mark.slow)
        if not asked and item.get_closest_marker("ray") is not None:
            item.add_marker(pytest.mark.skip(reason="starts a Ray cluster: make test-ray"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def two_threads():
    """Two threads for as long as a test asks for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shared() -> Path:
    """The folder of real pictures and weights beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("the folder `shared` beside the repository is absent")
    return SHARED


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished tiny run."""
    from helpers.runs import run_job, tiny_settings

    out = tmp_path_factory.mktemp("runs") / "run"
    run_job(tiny_settings(), out)
    return out
