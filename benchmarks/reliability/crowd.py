"""Fifty processes at once on one store, and on one run folder: nothing torn, nothing made over and over.

    python benchmarks/reliability/crowd.py --out runs/crowd --processes 50 --seed 0

- `store`: all extract the same pictures into one store, at the same moment.
- `containers`: the same, each in a process namespace of its own, so that all have the same process number, as on two
  machines that share a disk. Needs the right to `unshare`.
- `slow`: the same, where each opening, sync and renaming of a file waits up to 50 ms, drawn from the seed.
- `fuse`: the same, on a file system in user space that waits up to 5 ms before each operation (`slow_disk.py`). Needs
  mfusepy, libfuse and /dev/fuse.
- `run`: all give the same `saot run` at once. One works, or one after another; the others are told so in a sentence.

They begin when all have loaded their libraries. Meanwhile the files that are there are read over and over: each has to
be whole. At the end the bytes are those that one process alone makes. How often each file was made is counted in the
children. Nothing is kept: the same command begins anew.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from inputs import code, differing, digest, environment, make_inputs, prepare, saot
from kills import JOBS

UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork")

CHILD = """
import builtins, io, os, random, sys, time
_, slow, draw, number, *words = sys.argv
slow = float(slow)
from saot.cli import main
from saot.features import FeatureStore
import saot.features.filterbank, saot.label, saot.tables
write = FeatureStore.write
def counted(self, key, features):
    found = write(self, key, features)
    with open("made.txt", "ab", buffering=0) as file:
        file.write(f"{self.root.name}/{key}\\n".encode())
    return found
FeatureStore.write = counted
def late(function):
    def waits(*words, **named):
        time.sleep(random.random() * slow)
        return function(*words, **named)
    return waits
open(f"ready-{number}", "x").close()
if slow:
    random.seed(draw)
    builtins.open = io.open = late(io.open)
    os.fsync, os.replace, os.rename = late(os.fsync), late(os.replace), late(os.rename)
while not os.path.exists("go"):
    time.sleep(0.01)
main(words)
"""


def crowd(words: list[str], folder: Path, count: int, seed: int, slow: float, before: tuple[str, ...]) -> list:
    """So many processes with one command line, which all begin when each has said that it is ready."""
    started = []
    for number in range(count):
        said = (folder / f"said-{number}.txt").open("wb")
        command = [*before, sys.executable, "-c", CHILD, str(slow), f"{seed} {number}", str(number), *words]
        started.append(subprocess.Popen(command, cwd=folder, env=os.environ | environment(), stdout=said, stderr=said))
        said.close()
    while len(list(folder.glob("ready-*"))) < count and all(one.poll() is None for one in started):
        time.sleep(0.05)
    (folder / "go").touch()
    return started


def mounted(folder: Path, seed: int) -> subprocess.Popen:
    """`out` of the folder as a slow file system, passed on to `behind`."""
    for name in ("behind", "out"):
        (folder / name).mkdir()
    script = Path(__file__).with_name("slow_disk.py")
    command = [sys.executable, script, folder / "behind", folder / "out", "0.005", str(seed)]
    disk = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not os.path.ismount(folder / "out"):
        if disk.poll() is not None:
            raise SystemExit("expected the slow file system to be mounted; it ended")
        time.sleep(0.05)
    return disk


def skipped(part: str) -> str:
    """Why a part cannot be tried here; empty where it can."""
    if part == "containers" and (
        not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
    ):
        return "no right to make process namespaces"
    if part == "fuse":
        if not os.access("/dev/fuse", os.R_OK | os.W_OK):
            return "no right to /dev/fuse"
        if not shutil.which("fusermount3") and not shutil.which("fusermount"):
            return "no fusermount (Debian: fuse3)"
        try:
            import mfusepy  # noqa: F401
        except (ImportError, OSError) as error:
            return f"no mfusepy, or no libfuse: {error}"
    return ""


def watch(started: list, store: Path) -> tuple[list[int], int, list[str]]:
    """Their exit codes when all have ended; how often files were read meanwhile, and those that were not whole."""
    from saot.features import FeatureStore

    reads, torn = 0, []
    while any(one.poll() is None for one in started):
        time.sleep(0.05)
        for place in store.glob("*/store.json"):
            for path in sorted(place.parent.glob("*.safetensors")):
                try:
                    with path.open("rb") as file:
                        head = file.read(8)
                    name = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(head, "little")])["__metadata__"]["key"]
                    FeatureStore(place.parent).read(name)
                    reads += 1
                except FileNotFoundError:
                    continue
                except (ValueError, KeyError) as error:
                    torn.append(f"{path.name}: {error}")
    return [one.wait() for one in started], reads, torn


def told(folder: Path, codes: list[int], allowed: tuple[int, ...]) -> list[str]:
    """What is wrong with how processes ended."""
    wrong = []
    for number, ended in enumerate(codes):
        said = (folder / f"said-{number}.txt").read_text(errors="replace")
        if ended not in allowed or "Traceback" in said:
            wrong.append(f"code {ended}: {said.strip()[-200:]}")
    return wrong[:5]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default="store,containers,slow,fuse,run")
    options = parser.parse_args()
    out = options.out.absolute()
    base = out / "inputs"
    make_inputs(base)
    extract, run = (next(job for job in JOBS if job.name == name) for name in ("extract", "run"))
    sound = {}
    for job in (extract, run):
        folder = out / f"alone-{job.name}-{code()}"
        if not (folder / "done").exists():
            prepare(base, job.needs, folder)
            saot(*job.command, folder=folder)
            (folder / "done").touch()
        sound[job.name] = digest(folder, job.made)
    faults = 0
    print("| part | processes | codes | whole reads meanwhile | torn | made once | twice | more | most | other bytes |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for part in options.parts.split(","):
        job, before, slow, allowed = extract, (), 0.0, (0,)
        if why := skipped(part):
            print(f"| {part} | skipped: {why} | | | | | | | | |")
            continue
        if part == "containers":
            before = UNSHARE
        if part == "slow":
            slow = 0.05
        if part == "run":
            job, allowed = run, (0, 2)
        folder = out / part
        prepare(base, job.needs, folder)
        disk = mounted(folder, options.seed) if part == "fuse" else None
        started = crowd(job.command, folder, options.processes, options.seed, slow, before)
        codes, reads, torn = watch(started, folder / job.store)
        wrong = told(folder, codes, allowed)
        if 0 not in codes:
            wrong.append("none of them ended well")
        made = Counter((folder / "made.txt").read_text().splitlines()) if (folder / "made.txt").exists() else Counter()
        other = differing(digest(folder, job.made), sound[job.name])
        left = len(list(folder.glob("out/**/*.tmp-*")))
        times = Counter(min(number, 3) for number in made.values())
        ended = ", ".join(f"{code}: {number}" for code, number in sorted(Counter(codes).items()))
        cells = (part, options.processes, ended, reads, len(torn), times[1], times[2], times[3])
        print(f"| {' | '.join(map(str, cells))} | {max(made.values(), default=0)} | {len(other)} |", flush=True)
        for one in (*wrong, *torn[:3], *other[:3], *[f"{left} temporary files are left"] * bool(left)):
            print(f"  {part}: {one}", flush=True)
        faults += len(wrong) + len(torn) + len(other) + left
        if disk is not None:
            subprocess.run([shutil.which("fusermount3") or "fusermount", "-u", str(folder / "out")], check=True)
            disk.wait()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
