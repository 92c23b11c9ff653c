"""Our transport beside its peers and beside what the machine can do: ratios first, tables and JSON.

    python benchmarks/transport/bench.py [--only solve,gradient,pair,step,growth,iterations] [--repeats 9]
        [--out runs/bench-transport] [--peers-python .venv-bench/bin/python] [--figure docs/figures/transport.png]
        [--base CHECKOUT]

`--base` names a checkout of another commit (`git worktree add CHECKOUT COMMIT`), whose library is measured beside this
one: its contenders are "..., at the base", and the list of claims begins with ratios to it.

Every contender runs in a process of its own and they take turns, one repeat each. What is done stays done: the same
command again goes on where it stopped, `--again` measures anew. A contender that cannot run says why in its line.
Let nothing else run on the machine meanwhile.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figure
import machine
import numpy as np
import pairing
import scaling
import solving
import torch
from problems import write_json
from race import Setting
from tables import Claim, claims_table

import saot

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Section:
    """A part of the benchmark: its units of work, each kept in a file, and how they are reported."""

    units: tuple[str, ...]
    run: Callable[[Setting, str], dict[str, Any]]
    report: Callable[[dict[str, dict[str, Any]]], tuple[list[str], list[Claim]]]


SECTIONS = {
    "solve": Section(("all",), lambda s, _: solving.solve(s), lambda units: solving.solve_report(units["all"])),
    "gradient": Section(
        ("all",), lambda s, _: solving.gradient(s), lambda units: solving.gradient_report(units["all"])
    ),
    "pair": Section(tuple(pairing.SIZES), pairing.pair, pairing.pair_report),
    "step": Section(("all",), lambda s, _: pairing.step(s), lambda units: pairing.step_report(units["all"])),
    "growth": Section(scaling.GROWTH_UNITS, scaling.growth, scaling.growth_report),
    "iterations": Section(scaling.COUNT_UNITS, scaling.iterations, scaling.iterations_report),
}


def main() -> None:
    options = _options()
    setting = Setting(
        options.out.resolve(), options.repeats, options.threads, _peers(options.peers_python), _base(options.base)
    )
    units = options.out / "units"
    units.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        for unit in SECTIONS[name].units:
            path = units / f"{name}.{unit}.json"
            if path.exists() and not options.again:
                continue
            print(f"{name} {unit}", file=sys.stderr, flush=True)
            outcome = SECTIONS[name].run(setting, unit)
            write_json(path, {"circumstances": _circumstances(setting), "outcomes": outcome})
    _report(options, units)


def _report(options: argparse.Namespace, folder: Path) -> None:
    """Everything measured so far: tables on standard output and in report.md, results.json, the picture."""
    results, records = {}, {}
    for name, section in SECTIONS.items():
        paths = {unit: folder / f"{name}.{unit}.json" for unit in section.units}
        found = {unit: json.loads(path.read_text()) for unit, path in paths.items() if path.exists()}
        if found:
            results[name] = {unit: content["outcomes"] for unit, content in found.items()}
            records[name] = {unit: content["circumstances"] for unit, content in found.items()}
    lines, claims = [], []
    for name, measured in results.items():
        section_lines, section_claims = SECTIONS[name].report(measured)
        lines += section_lines
        claims += section_claims
    newest = max((one for units in records.values() for one in units.values()), key=lambda c: c["date"], default=None)
    head = ["## Transport benchmark", ""]
    if newest is not None:
        wanted = ("date", "commit", "cpu", "instructions", "cores", "threads", "repeats", "memory_gib")
        wanted = [key for key in (*wanted, "python", "torch", "numpy") if key in newest]  # what is kept may be older
        wanted += ["base"] if newest.get("base") else []
        head += [", ".join(f"{key} {newest[key]}" for key in wanted) + "; best of the repeats.", ""]
    text = "\n".join([*head, *claims_table(claims), *lines])
    print(text)
    (options.out / "report.md").write_text(text + "\n")
    kept = [{"what": c.what, "value": c.value, "goal": c.goal, "at_least": c.least, "met": c.met} for c in claims]
    write_json(options.out / "results.json", {"claims": kept, "circumstances": records, "sections": results})
    if options.figure is not None:
        told = "" if newest is None else f"{newest['cpu']}, {newest['threads']} threads, commit {newest['commit'][:7]}"
        figure.draw(options.out / "report.md", options.figure, told)


def _circumstances(setting: Setting) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(_ROOT),
        **machine.description(),
        "base": "" if setting.base is None else _commit(setting.base),
        "threads": setting.threads,
        "repeats": setting.repeats,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "saot": getattr(saot, "__version__", "here"),
    }


def _commit(checkout: Path) -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    git = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    return git.stdout.strip() if git.returncode == 0 else "unknown"


def _base(given: Path | None) -> Path | None:
    """The checkout to compare with, if one is given."""
    if given is not None and not (given / "benchmarks" / "transport" / "worker.py").exists():
        raise SystemExit(f"--base {given} is no checkout with benchmarks/transport; make one with git worktree add")
    return None if given is None else given.resolve()


def _peers(given: Path | None) -> Path | None:
    """The peers' interpreter, if there is one; not resolved, since a virtual environment's is a link."""
    path = given or _ROOT / ".venv-bench" / "bin" / "python"
    if not path.exists():
        print(f"no peers' interpreter at {path}: they will show as not run", file=sys.stderr)
        return None
    return path.absolute()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bench-transport"))
    parser.add_argument("--peers-python", type=Path, help="default: .venv-bench/bin/python")
    parser.add_argument("--base", type=Path, help="a checkout of another commit, to measure beside this one")
    parser.add_argument("--figure", type=Path, help="where to draw the tables as PNG")
    parser.add_argument("--again", action="store_true", help="measure anew what has been measured")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = sorted(set(options.only) - set(SECTIONS))
    if unknown:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but is {options.repeats}")
    return options


if __name__ == "__main__":
    main()
