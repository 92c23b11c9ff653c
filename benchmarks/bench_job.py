"""The main job of this build beside an older one: time, memory and mIoU, alternating, nothing beside them.

    make bench-job CAMVID=data/camvid WEIGHTS=mobile_sam.pt
    python benchmarks/bench_job.py --out runs/bench-job --base-python runs/bench-job/base/.venv/bin/python \
        --camvid data/camvid --weights mobile_sam.pt --parts job,demo,features,predict,small,neighbours

Each part runs the same command of both builds in processes of their own, `--repeats` times in turn. Every run is kept
in results.jsonl under --out; a part that is there already is not run again. Ratios are printed first: the older
build's time over ours, so more is better.

  job         `saot run --points total:20` without --eval on CamVid day -> dusk, features and all. "Features cached" is
              the same run less its stages of features, "shared stages" are the trainings both builds have; teachers
              that are trained side by side count once.
  demo        `saot demo`.
  features    `saot extract` of CamVid's day pictures with MobileSAM.
  predict     `saot predict` of 40 pictures, and of one: a picture's time is the difference over 39.
  small       `saot predict` of 500 pictures of 252 x 504 of the built-in scenes, and of one, with the demos' networks
              or those of `--small-runs OURS,BASE`.
  neighbours  the demo with a busy process beside it on every core.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = ("train teacher", "labels plan", "train taught-plan")  # stages of the masks that both builds have
PICTURES = 40
SMALL = 500
MAIN = "import sys; from saot.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Build:
    """A build and the interpreter of its environment."""

    name: str
    python: Path


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    builds = [Build("ours", Path(sys.executable)), Build("base", options.base_python)]
    kept = options.out / "results.jsonl"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the first run", flush=True)
    for part in options.parts.split(","):
        for repeat in range(options.repeats):
            for build in builds:
                done = {(row["part"], row["repeat"], row["build"]) for row in _rows(kept)}
                if (part, repeat, build.name) in done:
                    continue
                found = PARTS[part](build, options, repeat)
                found.pop("said")
                row = {"part": part, "repeat": repeat, "build": build.name, **found}
                with kept.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{part} {repeat} {build.name}: {row['seconds']:.1f} s", flush=True)
    print(report(_rows(kept)))


def saot(build: Build, words: list[str]) -> dict[str, Any]:
    """Wall seconds of one command of a build, the machine's load at its end, and what it said."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    begin = time.perf_counter()
    command = [str(build.python), "-c", MAIN, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{build.name}: {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return {"seconds": seconds, "load": os.getloadavg()[0], "said": done.stdout}


def job(build: Build, options: argparse.Namespace, repeat: int) -> dict[str, Any]:
    folder = _fresh(options.out / f"job-{build.name}-{repeat}")
    run = folder / "run"
    words = [
        "run",
        "--source",
        f"camvid:{options.camvid}:day.txt",
        "--target",
        f"camvid:{options.camvid}:dusk-train.txt",
    ]
    words += ["--backbone", "mobile-sam", "--weights", str(options.weights), "--points", "total:20", "--preset", "best"]
    words += ["--seed", str(repeat)]
    found = saot(build, [*words, "--store", str(folder / "store"), "--out", str(run)])
    stages = json.loads((run / "run.json").read_text())["stages"]
    features = _seconds(stages, ("features",))
    scores = json.loads(saot(build, ["evaluate", str(run), f"camvid:{options.camvid}:dusk-eval.txt", "--json"])["said"])
    return {
        **found,
        "features": features,
        "cached": found["seconds"] - features,
        "memory": max(one["peak_memory_bytes"] for one in stages.values()),
        "miou": scores["methods"]["saot_decoder"]["miou"],
        "stages": {name: one["seconds"] for name, one in stages.items()},
    }


def demo(build: Build, options: argparse.Namespace, repeat: int, part: str = "demo") -> dict[str, Any]:
    run = _fresh(options.out / f"{part}-{build.name}-{repeat}")
    found = saot(build, ["demo", "--out", str(run)])
    record = json.loads((run / "run.json").read_text())
    scores = json.loads((run / "metrics.json").read_text())["methods"]
    return {
        **found,
        "memory": max(one["peak_memory_bytes"] for one in record["stages"].values()),
        "miou": {name: one["miou"] for name, one in scores.items()},
        "stages": {name: one["seconds"] for name, one in record["stages"].items()},
    }


def features(build: Build, options: argparse.Namespace, repeat: int) -> dict[str, Any]:
    store = _fresh(options.out / f"features-{build.name}-{repeat}")
    words = ["extract", f"camvid:{options.camvid}:day.txt", "--backbone", "mobile-sam"]
    found = saot(build, [*words, "--weights", str(options.weights), "--out", str(store)])
    count = len(_pictures(options.camvid))
    return {**found, "pictures": count, "a_minute": 60 * count / found["seconds"]}


def predict(build: Build, options: argparse.Namespace, repeat: int) -> dict[str, Any]:
    """With the network of this build's own job, so that both have been trained alike."""
    run, folder = options.out / f"job-{build.name}-0" / "run", _fresh(options.out / f"predict-{build.name}-{repeat}")
    return _labelled(build, run, folder, _pictures(options.camvid)[:PICTURES])


def small(build: Build, options: argparse.Namespace, repeat: int) -> dict[str, Any]:
    """With the networks of the demos, or those given."""
    runs = dict(zip(("ours", "base"), options.small_runs.split(","), strict=True)) if options.small_runs else {}
    run = Path(runs.get(build.name, options.out / f"demo-{build.name}-0"))
    pictures = options.out / "small-pictures"
    if not pictures.exists():
        from PIL import Image

        from saot.tables import ALL_WINGS

        images = ALL_WINGS.images("scenes:street")
        pictures.mkdir(parents=True)
        for number in range(SMALL):
            Image.fromarray(images.image(number % len(images))).save(pictures / f"{number:03d}.png")
    return _labelled(build, run, _fresh(options.out / f"small-{build.name}-{repeat}"), sorted(pictures.iterdir()))


def _labelled(build: Build, run: Path, folder: Path, pictures: list[Path]) -> dict[str, Any]:
    """Seconds of a picture: of all of them, less those of the first alone."""
    for name, some in (("one", pictures[:1]), ("many", pictures)):
        (folder / name).mkdir(parents=True)
        for picture in some:
            shutil.copy(picture, folder / name)
    one = saot(build, ["predict", str(run), str(folder / "one"), "--out", str(folder / "masks-one")])
    found = saot(build, ["predict", str(run), str(folder / "many"), "--out", str(folder / "masks")])
    return {**found, "a_picture": (found["seconds"] - one["seconds"]) / (len(pictures) - 1)}


def neighbours(build: Build, options: argparse.Namespace, repeat: int) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        return demo(build, options, repeat, "neighbours")
    finally:
        for process in busy:
            process.kill()


PARTS = {"job": job, "demo": demo, "features": features, "predict": predict, "small": small, "neighbours": neighbours}


def report(rows: list[dict[str, Any]]) -> str:
    """Ratios, then what they are made of."""
    rows = [{**row, "shared": _shared(row)} if row["part"] == "job" else row for row in rows]
    lines = ["| what | base | this build | ratio |", "| --- | ---: | ---: | ---: |"]

    def line(what: str, part: str, key: str, unit: str = "s", scale: float = 1, more_is_better: bool = False) -> None:
        base, ours = (
            [row[key] for row in rows if row["part"] == part and row["build"] == name] for name in ("base", "ours")
        )
        if base and ours:
            first, second = statistics.median(base), statistics.median(ours)
            ratio = second / first if more_is_better else first / second
            lines.append(f"| {what} | {first / scale:,.4g} {unit} | {second / scale:,.4g} {unit} | {ratio:.2f} |")

    line("masks from own pictures, features cached", "job", "cached")
    line("shared stages of it (teachers, rounds)", "job", "shared")
    line("the same with features", "job", "seconds")
    line("`saot demo`", "demo", "seconds")
    line("MobileSAM features, pictures a minute", "features", "a_minute", "/min", more_is_better=True)
    line("`saot predict`, a picture", "predict", "a_picture")
    line("`saot predict`, a small picture", "small", "a_picture")
    for part in ("job", "demo"):
        line(f"peak memory, {part}", part, "memory", "MiB", 2**20)
    beside = _slower(rows)
    if beside:
        lines += ["", "| beside a busy process a core | base | this build |", "| --- | ---: | ---: |"]
        lines += [f"| {what} | {base:.1f} times | {ours:.1f} times |" for what, base, ours in beside]
    scores = [
        f"{row['part']} {row['build']} {row['repeat']}: mIoU {json.dumps(row['miou'])}"
        for row in rows
        if row.get("miou")
    ]
    return "\n".join([*lines, "", *scores])


def _slower(rows: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """How much longer the demo takes beside others, as a whole and at its worst stage of two seconds or more."""

    def of(part: str, build: str) -> list[dict[str, Any]]:
        return [row for row in rows if row["part"] == part and row["build"] == build]

    if not all(of(part, build) for part in ("demo", "neighbours") for build in ("base", "ours")):
        return []
    whole, worst = [], []
    for build in ("base", "ours"):
        alone, beside = of("demo", build)[0], of("neighbours", build)[0]
        whole.append(beside["seconds"] / alone["seconds"])
        both = {
            name: beside["stages"][name] / seconds
            for name, seconds in alone["stages"].items()
            if name in beside["stages"] and seconds >= 2
        }
        worst.append(max(both.values()))
    return [("the demo", whole[0], whole[1]), ("its slowest stage", worst[0], worst[1])]


def _seconds(stages: dict[str, Any], names: tuple[str, ...]) -> float:
    return sum(one["seconds"] for name, one in stages.items() if name.startswith(names))


def _pictures(camvid: Path) -> list[Path]:
    """The day pictures; a line of the list names a picture and its mask."""
    return [camvid / line.split()[0] for line in (camvid / "day.txt").read_text().splitlines() if line.strip()]


def _shared(row: dict[str, Any]) -> float:
    """Seconds of the stages that make the masks in both builds; teachers side by side count once in ours."""
    teachers = [seconds for name, seconds in row["stages"].items() if name.startswith("train teacher")]
    beside = sum(teachers) - max(teachers) if row["build"] == "ours" else 0.0
    return sum(seconds for name, seconds in row["stages"].items() if name.startswith(SHARED)) - beside


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base-python", type=Path, required=True, help="of the older build's environment")
    parser.add_argument("--camvid", type=Path, help="folder of CamVid; needed by job, features and predict")
    parser.add_argument("--weights", type=Path, help="mobile_sam.pt")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--small-runs", help="OURS,BASE: finished runs of both builds for the part `small`")
    return parser.parse_args()


if __name__ == "__main__":
    main()
