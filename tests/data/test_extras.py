"""What an error tells to type: names of extras that exist, and what they bring."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import saot
from saot.data import extras, how_to_install

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
METADATA = ["torch>=2.6,<3", *(f'{each}; extra == "{name}"' for name, needs in EXTRAS.items() for each in needs)]


@pytest.fixture
def metadata(monkeypatch):
    """The package's own requirements, as its wheel has them, whatever is installed here."""
    monkeypatch.setattr(extras, "requires", lambda name: METADATA)


def test_it_names_the_libraries_and_the_python_that_runs(metadata):
    said = how_to_install("vit")
    words = [word.strip("'") for word in said.split(f"{sys.executable} -m pip install ")[1].split()]
    assert words == EXTRAS["vit"] and said.startswith("install what the extra 'vit' needs: ")


def test_it_works_from_sources_that_were_never_installed(monkeypatch):
    def unknown(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", unknown)
    assert how_to_install("vit").endswith(" -m pip install '.[vit]'")


def test_a_wrong_name_is_our_own_mistake(metadata):
    with pytest.raises(KeyError, match="no extra 'vision'"):
        how_to_install("vision")


def test_every_extra_that_code_or_documents_name_exists():
    code = "".join(path.read_text() for path in Path(saot.__file__).parent.rglob("*.py"))
    text = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    named = {
        *re.findall(r"how_to_install\(['\"](\w+)", code),
        *re.findall(r"extra(?:: str)? ?= ?['\"](\w+)['\"]", code),
    }
    named |= {*re.findall(r"extra [`'](\w+)[`']", code), *re.findall(r"extra `(\w+)`", text)}
    named |= {each for group in re.findall(r"\.\[([\w,]+)\]'", text) for each in group.split(",")}
    assert {"vit", "diffusion", "synthia", "adapt", "ann"} <= named <= set(EXTRAS)
    assert "saot[" not in code + text  # there is no index to get it from under that name
