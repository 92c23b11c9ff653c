"""What a run writes down about the machine and the code."""

import os
import platform
import subprocess
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def commit_of_code() -> str:
    """The commit the code stands at, or the installed version where it is no checkout.

    A checkout is one that has this very file: an environment may lie in somebody else's repository.
    """
    here = Path(__file__).resolve().parent
    ask = partial(subprocess.run, capture_output=True, text=True, timeout=10, check=False)
    git = ["git", "-C", str(here)]
    try:
        ours = ask([*git, "ls-files", "--error-unmatch", Path(__file__).name])
        answer = ask([*git, "describe", "--always", "--dirty", "--abbrev=12"])
        if ours.returncode == answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        return f"saot {version('saot')}"
    except PackageNotFoundError:
        return "unknown"


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: If torch cannot put a tensor on it.
    """
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"expected a device torch can use, such as auto, cpu or cuda; {name!r} is none here: take --device auto"
        ) from error


def resolve_device(name: str = "auto") -> str:
    """The device that is meant, once it is known to be there: "auto" is cuda, else mps, else cpu.

    Where a launcher started several processes (LOCAL_RANK), each takes the GPU of its number; with fewer GPUs than
    processes, or in a shell that has inherited that number, one that is there.

    Args:
        name: "auto", or what torch calls a device, such as "cpu" or "cuda:1".

    Raises:
        ValueError: If torch cannot put a tensor on it.

    Example:
        >>> resolve_device("cpu")
        'cpu'
    """
    if name == "auto":
        if torch.cuda.is_available():
            local = os.environ.get("LOCAL_RANK", "")
            name = f"cuda:{int(local) % torch.cuda.device_count()}" if local.isdecimal() else "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(name)
    return name


def device_name(device: torch.device) -> str:
    """What the numbers were made on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {platform.system()}"


def versions(names: Sequence[str]) -> dict[str, str | None]:
    """The installed version of each distribution; None where it is missing."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
