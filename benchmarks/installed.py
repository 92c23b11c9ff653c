"""Whether the package works where a wheel was installed: run by that environment's Python, away from the checkout.

    cd EMPTY_FOLDER; VENV/bin/python -I CHECKOUT/benchmarks/installed.py CHECKOUT [PART ...]

`make test-wheel` builds the wheel and the environment, and calls it. It prints what it tried, all parts unless some are
named, and ends with 1 if anything failed.
"""

import json
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import metadata
from pathlib import Path

CHECKOUT = Path(sys.argv[1]).resolve()
SAOT = Path(sysconfig.get_path("scripts")) / "saot"
SIZE = "height=64,width=128"
SHORT = ("cost.steps=5", "decoder.steps=8", "refine.steps=6", "baselines.bank=400")


def ended(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """A command that ends with this exit code, and no traceback."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{shlex.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def where() -> None:
    """The package is that of the environment, with the extras and the licence of pyproject.toml."""
    import saot

    assert not Path(saot.__file__).is_relative_to(CHECKOUT / "src"), saot.__file__
    assert Path(saot.__file__).with_name("py.typed").exists()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert set(metadata("saot").get_all("Provides-Extra")) == set(project["optional-dependencies"])
    assert metadata("saot")["License-Expression"] == project["license"]


def version() -> None:
    """The version names no commit of whichever repository lies around it."""
    said = json.loads(ended(SAOT, "--version", "--json").stdout)
    assert said["commit"] == f"saot {said['saot']}" and said["torch"] and said["device"], said


def help_and_lists() -> None:
    """Every command is there."""
    from saot.cli import app

    for command in sorted(name for name in app if not name.startswith("-")):
        done = ended(SAOT, command, "--help")
        assert f"saot {command}" in done.stdout + done.stderr
    assert len(ended(SAOT, "reproduce", "--list").stdout.split()) > 5
    assert "_saot" in ended(SAOT, "completion", "bash").stdout


def job() -> None:
    """The main job, with its report and with masks; a second time it is done."""
    words = [SAOT, "run", "--source", f"scenes:game:train,count=2,{SIZE}", "--backbone", "filterbank"]
    words += ["--target", f"scenes:street:train,count=2,{SIZE}", "--eval", f"scenes:street:val,count=1,{SIZE}"]
    words += ["--points", "4", "--size", "56x112", "--preset", "paper-small", "--compare", "none", "--out", "run"]
    for setting in SHORT:
        words += ["--set", setting]
    ended(*words)
    page = Path("run/report.html").read_text()
    assert "<html" in page and "</html>" in page
    before = Path("run/metrics.json").read_bytes()
    ended(*words)
    assert Path("run/metrics.json").read_bytes() == before
    from PIL import Image

    Image.new("RGB", (128, 64), (90, 120, 200)).save("new.png")
    ended(SAOT, "predict", "run", "new.png", "--out", "masks")
    assert Image.open("masks/new.png").size == (128, 64)


def readme() -> None:
    """The first Python block of the README."""
    block = re.search(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    ended(sys.executable, "-I", "-c", block[1])


def extras() -> None:
    """What an error says to type works: pip finds all of it. The environment has none of the extras."""
    done = ended(SAOT, "extract", "scenes:game", "--backbone", "dinov2-small", "--out", "features", code=2)
    said = re.fullmatch(r"saot: .* install what the extra 'vit' needs: (.+)\n", done.stderr)
    assert said is not None, done.stderr
    assert not Path("features").exists()
    words = shlex.split(said[1])
    assert Path(words[0]).parent.resolve() == Path(sys.executable).parent.resolve(), words
    ended(*words, "--dry-run", "--quiet", "-c", CHECKOUT / "constraints.txt")


def main() -> int:
    """Try everything; the number of what failed, at most 1."""
    failed, named = 0, sys.argv[2:]
    for part in (where, version, help_and_lists, job, readme, extras):
        if named and part.__name__ not in named:
            continue
        try:
            part()
            print(f"installed: {part.__name__}: as it should be", flush=True)
        except AssertionError as error:
            failed = 1
            print(f"installed: {part.__name__}: FAILED\n{error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
