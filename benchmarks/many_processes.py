"""Many processes of several containers on one store at once: what is made, made twice, torn or left over.

    python benchmarks/many_processes.py --processes 50 --containers 2 --pictures 200 --seed 0

`make many-processes SEED=1` calls it. A container here is a namespace of process numbers of its own (`unshare`); where
that is not allowed, all processes share one, and the answer says so. Prints one JSON object; ends with 1 if anything
was torn, left over or not made.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

UNSHARE = ("unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork")


def pictures(count: int, seed: int):
    """Small pictures of noise, drawn by number."""
    from saot.data import ImageSet

    return ImageSet(
        spec="made:here",
        classes=None,
        keys=tuple(f"{number:05d}.png" for number in range(count)),
        load=lambda number: np.random.default_rng((seed, number)).integers(0, 256, (56, 84, 3), dtype=np.uint8),
        fingerprint=lambda number: hashlib.sha256(f"{seed} {number}".encode()).hexdigest(),
    )


def crew(root: Path, processes: int, count: int, seed: int) -> int:
    """The processes of one container: they begin together, and each leaves what it has made and its number."""
    import torch

    from saot.features import FeatureStore, load_backbone

    torch.set_num_threads(1)
    images, backbone = pictures(count, seed), load_backbone("filterbank", size=56)
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                while not (root / "go").exists():
                    time.sleep(0.01)
                made = FeatureStore(root / "store", backbone.key).ensure(images, backbone)
                handle, _ = tempfile.mkstemp(dir=root / "said")
                os.write(handle, json.dumps({"made": made, "process": os.getpid()}).encode())
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    print("ready", flush=True)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 50), ("containers", 2), ("pictures", 200), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path("runs/many-processes"))
    parser.add_argument("--crew", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    root: Path = options.out.resolve()
    if options.crew:
        return crew(root, options.processes, options.pictures, options.seed)
    shutil.rmtree(root, ignore_errors=True)
    (root / "said").mkdir(parents=True)
    apart = (
        shutil.which("unshare") is not None and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode
    )
    each = options.processes // options.containers
    words = [*UNSHARE] * apart + [sys.executable, __file__, "--crew", "--out", str(root), "--processes", str(each)]
    words += ["--pictures", str(options.pictures), "--seed", str(options.seed)]
    crews = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(options.containers)]
    for one in crews:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    began = time.monotonic()
    (root / "go").touch()
    failed = sum(one.wait() for one in crews)
    seconds = time.monotonic() - began

    from saot.features import FeatureStore, load_backbone

    said = [json.loads(path.read_text()) for path in (root / "said").iterdir()]
    made = sum(one["made"] for one in said)
    backbone = load_backbone("filterbank", size=56)
    torn = FeatureStore(root / "store", backbone.key).ensure(pictures(options.pictures, options.seed), backbone)
    answer = {
        "processes": len(said),
        "containers": options.containers if apart else 1,
        "equal_process_numbers": len(said) - len({one["process"] for one in said}),
        "pictures": options.pictures,
        "made": made,
        "made_again": made + torn - options.pictures,
        "torn_or_missing": torn,
        "left_over": len(list((root / "store").glob("*.tmp-*"))),
        "failed_processes": failed,
        "seconds": round(seconds, 1),
    }
    print(json.dumps(answer))
    return int(bool(torn or failed or answer["left_over"] or len(said) != each * options.containers))


if __name__ == "__main__":
    sys.exit(main())
