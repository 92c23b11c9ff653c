"""What to type to get a library that is not installed, wherever this package came from."""

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires


def how_to_install(extra: str) -> str:
    """The command that installs what an extra of this package needs, into the environment that is running.

    It names the libraries themselves: where the package came from, a checkout or a wheel, need not be known.

    Args:
        extra: A name in `[project.optional-dependencies]` of pyproject.toml.

    Raises:
        KeyError: If there is no such extra.
    """
    try:
        needed = [name for name, group in map(_split, requires("saot") or ()) if group == extra]
    except PackageNotFoundError:  # run from a folder of sources that was never installed
        needed = [f".[{extra}]"]
    if not needed:
        raise KeyError(f"saot has no extra {extra!r}")
    command = shlex.join([sys.executable, "-m", "pip", "install", *needed])
    return f"install what the extra {extra!r} needs: {command}"


def _split(requirement: str) -> tuple[str, str | None]:
    """A requirement of the package's metadata without its marker, and the extra it belongs to."""
    name, _, marker = requirement.partition(";")
    found = re.search(r"extra\s*==\s*[\"']([^\"']+)[\"']", marker)
    return name.strip(), found[1] if found else None
