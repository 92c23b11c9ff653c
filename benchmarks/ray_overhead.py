"""What `--engine ray` costs a picture, and what it loses when workers and machines die.

    python benchmarks/ray_overhead.py overhead --out runs/ray --count 2000
    python benchmarks/ray_overhead.py faults --out runs/ray --count 400 --kills 5 --removals 2 --seed 0
    python benchmarks/ray_overhead.py restart --out runs/ray --count 100000

`overhead` labels the same pictures with one thread in this process and on a local Ray with one worker, in turn, both
after everything is open, and prints the time of a picture from the second chunk on. Nothing else may run meanwhile.
`faults` labels them on a cluster of three machines of one CPU in this one; workers are killed and machines removed, and
others added, at moments drawn from the seed. It ends with 1 if a byte is another than that of one process, or a picture
was lost or made twice that was not under way. `restart` extracts tiny pictures three times, with nothing to
make in the second and third, the third on a local Ray, and prints seconds and peak memory of the command.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from soak_predict import draw, tiny_run

from saot.deploy import connected, predict_on
from saot.features import FeatureSettings, load_backbone
from saot.label import LabelledPictures, predict_pictures
from saot.tables import ALL_WINGS

MACHINES = 3


class Told:
    """A backbone that writes process and picture down each time it is asked.

    Args:
        settings: `weights` is the file to write to.
    """

    concurrent = True

    def __init__(self, settings: FeatureSettings) -> None:
        self._backbone = load_backbone("filterbank", size=settings.size, l2_norm=settings.l2_norm)
        self._log = str(settings.weights)

    def __getattr__(self, name: str):
        return getattr(self._backbone, name)

    def tokens(self, image):
        with open(self._log, "a") as file:
            file.write(f"{os.getpid()} {hashlib.sha256(image.tobytes()).hexdigest()[:16]}\n")
        return self._backbone.tokens(image)


TOLD = replace(ALL_WINGS, backbones={**ALL_WINGS.backbones, "told": Told})


def inputs(out: Path, count: int, seed: int) -> tuple[Path, Path]:
    """Pictures and a tiny run, made if they are not there."""
    new, run = out / f"new-{count}-{seed}", out / "run"
    if not new.exists():
        draw(new, count, seed)
    if not (run / "run.json").exists():
        tiny_run(run, seed)
    return new, run


def digest(folder: Path) -> str:
    """Of names and contents of all files below, but those that a killed worker was writing."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".tmp-" not in path.name:
            found.update(f"{path.relative_to(folder)} ".encode() + path.read_bytes())
    return found.hexdigest()


class Clock:
    """When pictures were done; `pace` is seconds a picture behind the first eighth, which opens everything."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, done: int, total: int) -> None:
        self.times.append(time.monotonic())

    def pace(self) -> float:
        first = len(self.times) // 8
        return (self.times[-1] - self.times[first]) / (len(self.times) - 1 - first)


def overhead(options: argparse.Namespace) -> int:
    new, run = inputs(options.out, options.count, options.seed)
    torch.set_num_threads(1)
    paces: dict[str, list[float]] = {"local": [], "ray": []}
    for number in range(options.rounds):
        for kind in ("local", "ray"):
            masks, clock = options.out / f"masks-{kind}", Clock()
            shutil.rmtree(masks, ignore_errors=True)
            if kind == "local":
                predict_pictures(run, [new], masks, ("png",), clock, wings=ALL_WINGS)
            else:
                with connected("local", 1, "cpu", print) as cluster:
                    predict_on(cluster, run, [new], masks, ("png",), clock, None, ALL_WINGS)
            paces[kind].append(clock.pace())
            print(f"round {number}, {kind}: {1000 * paces[kind][-1]:.2f} ms a picture", file=sys.stderr)
    if digest(options.out / "masks-local") != digest(options.out / "masks-ray"):
        print("the masks are not the same", file=sys.stderr)
        return 1
    best = {kind: min(found) for kind, found in paces.items()}
    share = best["ray"] / best["local"] - 1
    print(json.dumps({"pictures": options.count, "seconds": paces, "best": best, "overhead": share}))
    return 0 if share <= options.limit else 1


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def faults(options: argparse.Namespace) -> int:
    from ray.cluster_utils import Cluster

    new, run = inputs(options.out, options.count, options.seed)
    told, log, masks = options.out / "run-told", (options.out / "log").absolute(), options.out / "masks-faults"
    for path in (told, masks):
        shutil.rmtree(path, ignore_errors=True)
    log.unlink(missing_ok=True)
    shutil.copytree(run, told)
    said = json.loads((told / "run.json").read_text())
    said["settings"] |= {"backbone": "told", "weights": str(log)}
    (told / "run.json").write_text(json.dumps(said))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"object_store_memory": 80 << 20}
    machines = Cluster(initialize_head=True, head_node_args={**small, "num_cpus": 0, "include_dashboard": False})
    nodes = [machines.add_node(num_cpus=1, **small) for _ in range(MACHINES)]
    rng = random.Random(options.seed)

    def kill() -> None:
        os.kill(int(lines(log)[-1][0]), signal.SIGKILL)

    def remove() -> None:
        machines.remove_node(nodes.pop(rng.randrange(len(nodes))), allow_graceful=False)
        nodes.append(machines.add_node(num_cpus=1, **small))

    acts: list[Callable[[], None]] = [kill] * options.kills + [remove] * options.removals
    rng.shuffle(acts)
    when = sorted(rng.randrange(options.count // 10, options.count * 8 // 10) for _ in acts)
    done: list[str] = []

    def disturb(predicting: "Future[LabelledPictures]") -> None:
        for moment, act in zip(when, acts, strict=True):
            while len(lines(log)) < moment:
                if predicting.done():
                    return
                time.sleep(0.05)
            act()
            done.append(act.__name__)

    # machines are added by the main thread alone, since Ray sets handlers of signals then
    with connected(machines.address, None, "cpu", print) as cluster, ThreadPoolExecutor(1) as beside:
        arguments = (told, [new], masks, ("png",), lambda *said: None, None, TOLD)
        predicting = beside.submit(predict_on, cluster, *arguments)
        disturb(predicting)
        found = predicting.result()
    machines.shutdown()
    counts = Counter(name for _, name in lines(log))
    asked = len(lines(log))
    log.unlink()
    undisturbed = options.out / "masks-undisturbed"
    shutil.rmtree(undisturbed, ignore_errors=True)
    predict_pictures(told, [new], undisturbed, ("png",), wings=TOLD)
    once = Counter(name for _, name in lines(log))
    twice = sum((counts - once).values())
    facts = {
        "pictures": options.count, "masks": len(found.sizes), "failed": len(found.failed), "asked": asked,
        "faults": Counter(done), "made_twice": twice, "lost": sum((once - counts).values()),
        "same": digest(masks) == digest(undisturbed),
    }  # fmt: skip
    print(json.dumps(facts))
    sound = facts["same"] and not facts["lost"] and twice <= 2 * len(done) and len(done) == len(acts)
    return 0 if sound else 1


def restart(options: argparse.Namespace) -> int:
    images, store = options.out / f"tiny-{options.count}" / "images", options.out / f"tiny-{options.count}-store"
    drawn = io.BytesIO()
    Image.fromarray(np.random.default_rng(options.seed).integers(0, 256, (64, 64, 3), np.uint8)).save(drawn, "JPEG")
    for number in range(options.count):  # one picture with other bytes behind its end: each has its own fingerprint
        path = images / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(drawn.getvalue() + number.to_bytes(4, "little"))
    words = [sys.executable, "-m", "saot.cli", "extract", f"folder:{images.parent}", "--backbone", "filterbank"]
    words += ["--size", "28x28", "--out", str(store), "--json"]
    facts: dict[str, dict[str, float]] = {}
    for kind, more in (("first", []), ("local", []), ("ray", ["--engine", "ray", "--address", "local"])):
        began = time.monotonic()
        process = subprocess.Popen([*words, *more], stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        if status:
            return 1
        seconds, peak = time.monotonic() - began, used.ru_maxrss / 1024
        facts[kind] = {"made": json.loads(said)["made"], "seconds": round(seconds, 1), "peak_mb": round(peak)}
        print(kind, facts[kind], file=sys.stderr)
    print(json.dumps({"pictures": options.count} | facts))
    return 0 if facts["local"]["made"] == facts["ray"]["made"] == 0 else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("overhead", "faults", "restart"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.1, help="of the overhead, as a share of the local time")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--removals", type=int, default=2)
    options = parser.parse_args()
    return {"overhead": overhead, "faults": faults, "restart": restart}[options.part](options)


if __name__ == "__main__":
    sys.exit(main())
