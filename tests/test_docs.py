"""What README.md and docs/*.md point at exists: files, headings, commands with their options, tables."""

import contextlib
import functools
import importlib.util
import io
import json
import re
import shlex
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

from saot.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(text: str) -> list[str]:
    """Anchors as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    heads = re.findall(r"^#+ (.*)$", _without_code(text), flags=re.MULTILINE)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", head).lower() for head in heads)
    return [re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in plain]


def _commands(text: str) -> list[list[str]]:
    """Every `saot ...` of a page, in blocks and in lines, as words; `python -m saot.cli` is one too."""
    shown = r"^```sh\n(.*?)^```|^((?:    saot .*\n(?:        .*\n)*)+)"
    blocks = re.findall(shown, text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(a or b for a, b in blocks).replace("\\\n", " ").splitlines()
    lines += re.findall(r"`((?:\.venv/bin/)?saot [^`]*)`", _without_code(text))
    found = (re.search(r"(?:^|[ /])saot(?:\.cli)? +(.*)", line) for line in lines)
    return [shlex.split(match[1], comments=True) for match in found if match]


@functools.cache
def _tables() -> list[str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        app(["reproduce", "--list", "--json"])
    return list(json.loads(out.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_anchor_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", _without_code(page.read_text())):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), f"{page.name} -> {target}: no such file"
        assert not anchor or anchor in _anchors(other.read_text()), f"{page.name} -> {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_anchors_are_unique_where_a_link_needs_them(page):
    anchors = _anchors(page.read_text())
    assert len(anchors) == len(set(anchors)), [a for a in anchors if anchors.count(a) > 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    for words in _commands(page.read_text()):
        command, *rest = words
        assert command in app, f"{page.name}: no command saot {command}"
        known = {name for argument in app[command].assemble_argument_collection() for name in argument.names}
        asked = {word.split("=")[0] for word in rest if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word)}
        assert asked <= known | {"--help"}, f"{page.name}: saot {command} has no {sorted(asked - known)}"
        if command == "reproduce" and rest and re.fullmatch(r"[a-z0-9-]+", rest[0]) and not rest[0].startswith("--"):
            assert rest[0] in _tables(), f"{page.name}: saot reproduce has no table {rest[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_with_their_folder_exist(page):
    for name in re.findall(r"(?<![\w/.])((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|html|txt))\b", page.read_text()):
        assert any((root / name).exists() for root in (ROOT, ROOT / "src" / "saot")), f"{page.name}: no file {name}"


def _supply_chain():
    path = ROOT / "benchmarks" / "supply_chain.py"
    spec = importlib.util.spec_from_file_location("supply_chain", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _direct() -> dict[str, set[str]]:
    """What pyproject.toml names, and in which extras; "" is no extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, set[str]] = {}
    for extra, needs in {"": project["dependencies"], **project["optional-dependencies"]}.items():
        for need in needs:
            name = re.match(r"[\w.-]+", need)
            assert name is not None
            if name[0] != "saot":
                found.setdefault(name[0], set()).add(extra)
    return found


def test_every_dependency_has_its_licence_and_reason():
    text = (ROOT / "docs" / "supply-chain.md").read_text()
    table = text.partition("| distribution |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = {name: (extras, licence, why) for name, extras, licence, why in (re.findall(r"[^|]+", row) for row in table)}
    told = {name.strip(): {each.strip() for each in extras.split(",")} for name, (extras, _, _) in rows.items()}
    assert told == _direct()
    module = _supply_chain()
    for name, (_, licence, why) in rows.items():
        assert len(why.strip()) > 3
        with contextlib.suppress(PackageNotFoundError):  # not all of them need be installed
            assert licence.strip() == module.licence(metadata(name.strip())), name


def test_every_dependency_is_pinned_and_what_it_brings_too():
    module = _supply_chain()
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    made = module.bill("saot", extras)
    names = {part["name"] for part in made["components"]}
    pinned = set(module.pinned()) | module.UNPINNED
    assert names <= pinned and {"torch", "markupsafe"} <= names
    assert {module.canonical(name) for name in _direct()} <= pinned
    references = {part["bom-ref"] for part in made["components"]} | {made["metadata"]["component"]["bom-ref"]}
    assert {one["ref"] for one in made["dependencies"]} == references
    assert all(set(one["dependsOn"]) <= references for one in made["dependencies"])
    assert module.bill("saot", extras) == made


@pytest.mark.parametrize(
    ("parts", "code", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 of 1 pinned versions were looked up, 0 known holes"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}]}], 1, "a 1: PYSEC-1"),
        (
            [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}],
            2,
            "1 (b): that is no",
        ),
        ([{"name": "b", "skip_reason": "not found"}], 2, "0 of 1 pinned versions were looked up"),
        ([], 2, "no clean bill"),
    ],
)
def test_an_audit_without_an_answer_is_no_clean_bill(parts, code, said):
    ended, words = _supply_chain().verdict({"dependencies": parts})
    assert ended == code and said in words


def test_the_results_are_short():
    lines = (ROOT / "docs" / "results.md").read_text().splitlines()
    assert len(lines) <= 250, f"results.md has {len(lines)} lines; what was tried belongs into log.md"
