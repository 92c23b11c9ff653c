"""The house: which file may know which. Imports inside functions count as well.

Across rooms one imports the room (`saot.room`, `saot.room.sub`), which may be one file, never a file in it. Inside a
room one imports files, and no circle of them. No room of the core imports a wing.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import saot

ROOT = Path(saot.__file__).parent
CORE = (
    *("recipes", "transport", "data", "runs", "features", "evaluate"),
    *("transfer", "decoder", "certify", "report", "label"),
)
WINGS = ("scenes", "match", "adapt", "annotate", "deploy", "tables", "api", "cli")
ROOMS_OF_ONE_FILE = {"saot.api"}

# what is left to mend; a line that is no longer needed fails
KNOWN_CIRCLES: list[set[str]] = []
KNOWN_FILES: list[tuple[str, str]] = []


def name_of(path: Path) -> str:
    parts = ("saot", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = {name for name, path in FILES.items() if path.name == "__init__.py"}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def offered(text: str) -> set[str]:
    """What a package took from its files; such a name may be that of a file as well."""
    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


OFFERED = {name: offered(FILES[name].read_text()) for name in PACKAGES}


def imported(name: str, text: str) -> Iterator[str]:
    """Files and packages of ours that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            here = name.split(".")[: len(name.split(".")) - node.level + (name in PACKAGES)]
            base = ".".join((here if node.level else []) + ([node.module] if node.module else []))
            names = {alias.name for alias in node.names}
            files = {each for each in names - OFFERED.get(base, set()) if f"{base}.{each}" in FILES}
            found = [f"{base}.{each}" for each in files] + [base] * bool(names - files)
        else:
            continue
        yield from (each for each in found if each in FILES)


IMPORTS = {name: set(imported(name, path.read_text())) - {name} for name, path in FILES.items()}


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files each of which reaches all others of its set."""
    reached = {}
    for name in imports:
        reached[name], ahead = set(), [name]
        while ahead:
            new = imports.get(ahead.pop(), set()) - reached[name]
            reached[name] |= new
            ahead += new
    found = []
    for name in sorted(imports):
        around = {other for other in reached[name] if name in reached[other]}
        if around and around not in found:
            found.append(around)
    return found


def test_every_file_stands_in_a_room_that_is_known():
    assert {room(name) for name in FILES} == {"", *CORE, *WINGS}


@pytest.mark.parametrize("where", [*CORE, *WINGS])
def test_no_circle_of_files_within_a_room(where):
    inside = {name: {n for n in IMPORTS[name] if room(n) == where} for name in FILES if room(name) == where}
    found = circles(inside)
    assert [each for each in found if each not in KNOWN_CIRCLES] == []
    known = [each for each in KNOWN_CIRCLES if room(min(each)) == where]
    assert [each for each in known if each not in found] == [], "a circle is gone: take it off the list"


@pytest.mark.parametrize("where", [*CORE, *WINGS])
def test_other_rooms_are_used_through_what_they_offer(where):
    found = [
        (name, other)
        for name in FILES
        for other in sorted(IMPORTS[name])
        if room(name) == where != room(other) and other not in PACKAGES | ROOMS_OF_ONE_FILE
    ]
    assert [each for each in found if each not in KNOWN_FILES] == []
    known = [each for each in KNOWN_FILES if room(each[0]) == where]
    assert [each for each in known if each not in found] == [], "an import is mended: take it off the list"


def test_the_core_knows_no_wing():
    found = {(name, other) for name in FILES for other in IMPORTS[name] if room(name) in CORE and room(other) in WINGS}
    assert found == set()


def test_what_is_looked_for_would_be_found():
    """Each rule on a small house of its own."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    text = (
        "def f():\n    from .store import FeatureStore\nfrom saot.data import files\nimport saot.match.run\nimport os"
    )
    assert list(imported("saot.features.base", text)) == ["saot.data.files", "saot.match.run", "saot.features.store"]
    assert list(imported("saot.features", "from . import base\nfrom .load import x")) == [
        "saot.features.base", "saot.features.load"
    ]  # fmt: skip


def test_every_name_that_is_used_is_known():
    """Neither ruff nor the type checker asks: both take one-axis shapes such as Float[Tensor, " n"] for names."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "json"]
    found = json.loads(
        subprocess.run(
            [*command, "src", "tests", "benchmarks", "examples"], cwd=ROOT.parents[1], capture_output=True
        ).stdout
    )
    assert found, "the shapes are among them"
    unknown = []
    for one in found:
        place = one["location"]
        line = Path(one["filename"]).read_text().splitlines()[place["row"] - 1]
        if line[: place["column"] - 1].count('"') % 2 == 0:  # not within a string
            unknown.append(f"{one['filename']}:{place['row']}: {one['message']}")
    assert not unknown


def test_slow_tests_are_there():
    """A test that is renamed is not slow without a word."""
    for one in (Path(__file__).parent / "slow.txt").read_text().split():
        file, _, name = one.partition("::")
        tree = ast.parse((Path(__file__).parent / file).read_text())
        assert name in {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef)}, one
