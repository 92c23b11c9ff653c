"""Does the memory of `saot predict` grow with the number of pictures? Thousands of small ones, in one process.

    python benchmarks/soak_predict.py --out runs/soak --count 5000 --seed 0

Pictures of noise of a few sizes are drawn from the seed; one in a hundred is cut off. Their masks are written as PNG,
overlay and COCO by a tiny run, which is made first. Memory is what the process has resident (Linux), looked at every 50
pictures; the slope is the least-squares one behind the first fifth. Ends with 1 if it is not below --limit, MiB per
1,000 pictures.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from saot.label import RunSettings, predict_pictures, run_job
from saot.recipes import DEMO, with_words
from saot.tables import ALL_WINGS

EVERY = 50  # pictures between two looks
SIZES = ((64, 96), (96, 64), (80, 80))  # height and width, pixels


def draw(folder: Path, count: int, seed: int) -> None:
    """Pictures that are the same for the same seed; one in a hundred is broken."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        height, width = SIZES[number % len(SIZES)]
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((width, height)).save(path)
        if number % 100 == 99:
            path.write_bytes(path.read_bytes()[:400])


def tiny_run(folder: Path, seed: int) -> None:
    """A run of seconds; what it has learned does not matter."""
    words = ["decoder.steps=8", "decoder.hidden=16", "taught.steps=4", "taught.teachers=1", "cost.steps=2"]
    pictures = "train,count=2,height=64,width=128"
    settings = RunSettings(
        f"scenes:game:{pictures}", f"scenes:street:{pictures}", points="4", backbone="filterbank", size="56x112",
        seed=seed, recipe=with_words(DEMO, words),
    )  # fmt: skip
    run_job(settings, folder, wings=ALL_WINGS)


def resident() -> float:
    """Memory of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=1.0)
    options = parser.parse_args()
    new, run, masks = options.out / f"new-{options.count}-{options.seed}", options.out / "run", options.out / "masks"
    if not new.exists():
        draw(new, options.count, options.seed)
    if not (run / "run.json").exists():
        tiny_run(run, options.seed)
    shutil.rmtree(masks, ignore_errors=True)
    looks: list[tuple[int, float]] = []
    began = time.time()

    def look(done: int, total: int) -> None:
        if done % EVERY == 0:
            looks.append((done, resident()))

    found = predict_pictures(run, [new], masks, ("png", "color", "coco"), look, wings=ALL_WINGS)
    behind = np.array([each for each in looks if each[0] > options.count // 5])
    slope = float(np.polyfit(behind[:, 0], behind[:, 1], 1)[0]) * 1000
    facts = {
        "pictures": options.count, "masks": found.made, "failed": len(found.failed), "seed": options.seed,
        "mib_first": looks[0][1], "mib_last": looks[-1][1], "mib_at_the_end": resident(),
        "slope_mib_per_1000": slope, "seconds": round(time.time() - began, 1),
    }  # fmt: skip
    (options.out / "soak.json").write_text(json.dumps({**facts, "looks": looks}, indent=1))
    print(json.dumps(facts, indent=1))
    print(f"slope {slope:+.2f} MiB per 1,000 pictures; below {options.limit:g} is wanted")
    return 0 if slope < options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
