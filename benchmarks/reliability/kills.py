"""Kill -9 at random moments, a full disk, a store that vanishes, a clock set back: the same bytes in the end.

    python benchmarks/reliability/kills.py --out runs/kills --kills 100 --seed 0

`run`, `extract`, `predict`, `import`, `adapt` and `reproduce` work on tiny pictures, each in a folder of its own, in
children of a process that has loaded the libraries (`child.py`), so that a moment falls into the work and not into
imports. A trial is one disturbance, drawn from the seed and the trial's number; then the same command again, until it
ends by itself, and a comparison with an undisturbed run, byte for byte: what docs/conventions.md promises. A full disk
is a tmpfs of a random size, which needs the right to mount one. What is done is kept in OUT/trials-SEED.jsonl; the
same command goes on. `--only "full disk" --trials 10` takes one disturbance alone, `--job import` one command.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from child import Children, Outcome, load_libraries
from inputs import ADAPT, LONG, RUN, code, differing, digest, environment, lines, make_inputs, prepare

YEAR = 365.0 * 86_400


@dataclass(frozen=True)
class Job:
    """A command, and what of its work has the same bytes each time."""

    name: str
    needs: tuple[str, ...]
    command: list[str]
    made: tuple[str, ...]
    store: str = ""


SETS = ("src", "tgt", "evl")
FEW = ["--size", "28x56", "--device", "cpu"]
JOBS = (
    Job("run", SETS, [*RUN, *LONG, "--points", "4", "--store", "out/store", "--out", "out/run"],
        ("out/run/metrics.json", "out/run/decoder.safetensors", "out/run/points.csv", "out/run/log.jsonl",
         "out/store/*/*.safetensors"), "out/store"),
    Job("extract", ("many",), ["extract", "folder:many", "--backbone", "filterbank", *FEW, "--out", "out/store"],
        ("out/store/*/*.safetensors", "out/store/*/store.json"), "out/store"),
    Job("predict", ("many", "run"), ["predict", "run", "many/images", "--format", "png,color,coco", "--device", "cpu",
        "--out", "out/masks"], ("out/masks/**/*.png", "out/masks/**/instances_default.json")),
    Job("import", ("many", "corrected"), ["import", "corrected/annotations/cvat.xml", "--from", "cvat", "--images",
        "many/images", "--accept", "--out", "out/set"], ("out/set/masks/*.png", "out/set/*.txt", "out/set/*.csv")),
    Job("adapt", (*SETS, "mit"), [*ADAPT, "--out", "out/run"],
        ("out/run/metrics.json", "out/run/network.safetensors", "out/run/encoder.safetensors", "out/run/log.jsonl")),
    Job("reproduce", SETS, ["reproduce", "saot-tau", *RUN[1:7], "--points", "4", "--backbone", "filterbank", "--counts",
        "tiny", *FEW, "--out", "out/table"], ("out/table/table.json", "out/table/table.md"), "out/table/runs/features"),
)  # fmt: skip
WAYS = ("kill", "full disk", "kill", "store vanishes", "kill", "clock set back", "kill", "kill", "kill")


def end(children: Children, job: Job, folder: Path) -> Outcome:
    """Run the command to its end."""
    children.start(None, job.command, folder, environment(), False)
    return children.take()[1]


def ended_badly(outcome: Outcome, when: str = "", allowed: tuple[int, ...] = (0,)) -> list[str]:
    """What is wrong with an exit code, or with what was said of it."""
    last = outcome.said.strip().splitlines()[-1:]
    if outcome.code not in allowed:
        return [f"exit code {outcome.code}{when}: {outcome.said[-300:]}"]
    return [f"no sentence{when}: {last}"] * (outcome.code == 2 and not "".join(last).startswith("saot: "))


def killed(children: Children, job: Job, folder: Path, after: float, also: Path | None = None) -> Outcome:
    """Run the command, and so many seconds later kill it, or remove a folder under its hands."""
    children.start(None, job.command, folder, environment(), False)
    (number,) = children.running

    def act() -> None:
        time.sleep(after)
        if also is not None:
            shutil.rmtree(also, ignore_errors=True)
        elif number in children.running:
            os.kill(number, signal.SIGKILL)

    acting = threading.Thread(target=act)
    acting.start()
    outcome = children.take()[1]
    acting.join()
    return outcome


def full_disk(children: Children, job: Job, folder: Path, draw: random.Random, needed: int) -> tuple[str, list[str]]:
    """Run the command on a disk that is too small, then make it larger."""
    place, size = folder / "out", max(16_384, int(needed * draw.uniform(0.02, 0.9)) // 4096 * 4096)
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True)
    if mounted.returncode:
        return f"skipped: no right to mount a tmpfs ({mounted.stderr.decode().strip()[:80]})", []
    try:
        first = end(children, job, folder)
        wrong = ended_badly(first, " on a full disk", (0, 2))
        if first.code == 2 and "the disk is full" not in first.said and " free " not in first.said:
            wrong.append(f"a full disk told as: {first.said.strip().splitlines()[-1][:200]}")
        subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
        last = end(children, job, folder)
        kept = place.with_name("kept")
        shutil.copytree(place, kept)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    shutil.rmtree(place)
    kept.rename(place)
    return f"{size:,} of {needed:,} bytes, code {first.code}", wrong + ended_badly(last, " with room again")


def clock_back(children: Children, job: Job, folder: Path, after: float) -> tuple[str, list[str]]:
    """Kill it in a year's time, and go on today: the clock of Python's programs, and the times of the files."""
    ahead, now = time.time, time.time_ns
    time.time, time.time_ns = lambda: ahead() + YEAR, lambda: now() + round(YEAR * 1e9)
    try:
        killed(children, job, folder, after)
    finally:
        time.time, time.time_ns = ahead, now
    for path in folder.rglob("*"):
        os.utime(path, (ahead() + YEAR,) * 2, follow_symlinks=False)
    return f"killed after {after:.2f} s, a year ahead", ended_badly(end(children, job, folder))


def planned(number: int) -> tuple[Job, str]:
    """The command of a trial, and what happens to it."""
    job, way = JOBS[number % len(JOBS)], WAYS[(number // len(JOBS)) % len(WAYS)]
    return job, "kill" if way == "store vanishes" and not job.store else way


def trial(number: int, seed: int, base: Path, out: Path, children: Children, sound: dict[str, dict]) -> dict:
    """One disturbance, and what came of it."""
    draw = random.Random(f"{seed} {number}")
    job, way = planned(number)
    folder, known = out / "trials" / str(number), sound[job.name]
    prepare(base, job.needs, folder)
    kills, wrong, said, spared = 0, [], "", ""
    after = draw.random() * known["seconds"]
    if way == "kill":
        moments = [after] + [draw.random() * known["seconds"] for _ in range(draw.choice((0, 0, 1, 2)))]
        codes = [killed(children, job, folder, moment).code for moment in moments]
        kills, said = sum(code == -9 for code in codes), ", ".join(f"{moment:.2f} s" for moment in moments)
        wrong += [f"exit code {code} before a kill" for code in codes if code not in (-9, 0)]
        wrong += ended_badly(end(children, job, folder))
    elif way == "full disk":
        said, wrong = full_disk(children, job, folder, draw, known["bytes"])
    elif way == "store vanishes":
        first = killed(children, job, folder, after, folder / job.store)
        wrong += ended_badly(first, allowed=(0, 2)) + ended_badly(end(children, job, folder))
        said = f"after {after:.2f} s, code {first.code}"
        if job.name == "run" and first.code == 0:
            spared = f"{job.store}/"  # a run that had ended needs it no more, and does not make it again
    else:
        said, wrong = clock_back(children, job, folder, after)
        kills = 1
    if not said.startswith("skipped") and not wrong:
        names = differing(digest(folder, job.made), known["files"])
        names = [name for name in names if not spared or not name.startswith(spared)]
        wrong += [f"other bytes: {', '.join(names[:4])}"] * bool(names)
        left = [str(path.relative_to(folder)) for path in folder.glob("out/**/*.tmp-*")]
        if len(left) > 2 * max(kills, 1):
            wrong.append(f"{len(left)} temporary files are left, such as {left[0]}")
    if not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return {"number": number, "job": job.name, "way": way, "said": said, "kills": kills, "faults": wrong}


def undisturbed(base: Path, out: Path, children: Children) -> dict[str, dict]:
    """What each command makes in peace: its files, how long it takes, and how many bytes lie there."""
    found = {}
    for job in JOBS:
        folder = out / "undisturbed" / job.name
        prepare(base, job.needs, folder)
        outcome = end(children, job, folder)
        if outcome.code:
            raise SystemExit(f"{job.name}: code {outcome.code} undisturbed\n{outcome.said}")
        size = sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.glob("out/**/*") if path.is_file())
        found[job.name] = {"files": digest(folder, job.made), "seconds": outcome.waited, "bytes": size}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", choices=sorted({"", *WAYS}), help="take this disturbance alone")
    parser.add_argument("--job", default="", choices=["", *(job.name for job in JOBS)], help="take this command alone")
    parser.add_argument("--trials", type=int, help="stop after so many trials, however many kills they were")
    options = parser.parse_args()
    out = options.out.absolute()
    base = out / "inputs"
    make_inputs(base)
    os.environ.update(environment())
    load_libraries()
    children, build = Children(1, seconds=600.0, patience=600.0), code()  # it is not a hang that is looked for
    told = out / f"undisturbed-{build}.json"
    if not told.exists():
        told.write_text(json.dumps(undisturbed(base, out, children)))
    sound = json.loads(told.read_text())
    record = out / f"trials-{options.seed}.jsonl"
    done = {one["number"]: one for one in lines(record) if one["build"] == build}
    some: list[dict] = []
    with record.open("a") as file:
        for number in count():
            if sum(one["kills"] for one in some) >= options.kills or len(some) == options.trials:
                break
            job, way = planned(number)
            if options.only not in way or options.job not in job.name:
                continue
            if number not in done:
                done[number] = {**trial(number, options.seed, base, out, children, sound), "build": build}
                file.write(json.dumps(done[number]) + "\n")
                file.flush()
                if wrong := done[number]["faults"]:
                    job, way = planned(number)
                    print(f"{number}: {job.name}, {way} ({done[number]['said']}): {'; '.join(wrong)}", flush=True)
            some.append(done[number])
    print_table(some)
    return 1 if any(one["faults"] for one in some) else 0


def print_table(done: list[dict]) -> None:
    """Trials and faults by command and disturbance."""
    ways = list(dict.fromkeys(WAYS))
    print(f"\n| command | {' | '.join(ways)} | kills | faults |\n| --- |" + " ---: |" * (len(ways) + 2))
    for name in [*(job.name for job in JOBS), "all"]:
        some = [one for one in done if name in (one["job"], "all")]
        ended = Counter(one["way"] for one in some if not one["said"].startswith("skipped"))
        wrong = sum(bool(one["faults"]) for one in some)
        print(f"| {name} | {' | '.join(str(ended[way]) for way in ways)} | {sum(o['kills'] for o in some)} | {wrong} |")
    for why in sorted({one["said"] for one in done if one["said"].startswith("skipped")}):
        print(why)


if __name__ == "__main__":
    sys.exit(main())
