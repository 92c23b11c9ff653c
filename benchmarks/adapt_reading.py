"""What reading costs `saot adapt` at the sizes of GTA5 and Cityscapes, and the paper's run with it.

    python benchmarks/adapt_reading.py [--batches 12] [--workers 1 2 4]

Writes pictures as large as GTA5's (1914x1052) and Cityscapes' (2048x1024), as PNG files that compress about as well,
with masks, draws batches of each paper recipe by several numbers of threads, and prints seconds a batch. Caches are
off, as they are where a set does not fit into memory. Reading hides behind the device where a batch takes less than a
step; the last columns say how long 40,000 steps take then and where it does not, for the step times of bench_adapt.py.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from saot.adapt import pictures as pictures_file
from saot.adapt.pictures import TrainingPictures
from saot.adapt.recipe import adapt_preset
from saot.adapt.sampling import count_pixels
from saot.data import Ahead, open_images, open_labelled

COUNT = 6
STEPS = 40_000
STEP_SECONDS = {"paper": 17e12 / 125e12, "paper-cnn": 8.7e12 / 125e12, "paper-hrda": 39e12 / 125e12}  # 40 % of an A100


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    pictures_file.CACHE_BYTES = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = write(root / "source", (1052, 1914)), write(root / "target", (1024, 2048))
        print(f"{os.cpu_count()} cores; files of {sizes[0]:.1f} and {sizes[1]:.1f} MB\n")
        print("| preset | workers | a batch, s | 40,000 batches, h | device alone, h | together, h |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name in options.presets:
            for workers in options.workers:
                seconds = measured(root, name, workers, options.batches)
                step = STEP_SECONDS[name]
                hours = [STEPS * one / 3600 for one in (seconds, step, max(seconds, step))]
                print(f"| `{name}` | {workers} | {seconds:.2f} | {hours[0]:.1f} | {hours[1]:.1f} | {hours[2]:.1f} |")


def write(root: Path, size: tuple[int, int]) -> float:
    """Pictures with the detail of photographs, and masks; the mean size of a picture's file, MB."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(f"class {number}" for number in range(19)) + "\n")
    rng, total = np.random.default_rng(0), 0
    for number in range(COUNT):
        coarse = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-3, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
        path = root / "images" / f"{number}.png"
        Image.fromarray(noisy).save(path)
        total += path.stat().st_size
        blocks = rng.integers(0, 19, (size[0] // 40 + 1, size[1] // 40 + 1), dtype=np.uint8)
        mask = np.kron(blocks, np.ones((40, 40), np.uint8))[: size[0], : size[1]]
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return total / COUNT / 1e6


def measured(root: Path, preset: str, workers: int, batches: int) -> float:
    """Seconds a batch where nothing else is done."""
    recipe = adapt_preset(preset)
    source, target = open_labelled(f"folder:{root / 'source'}"), open_images(f"folder:{root / 'target'}")
    pixels = count_pixels([source.mask(number) for number in range(len(source))], 19)
    pictures = TrainingPictures(source, target, pixels, recipe, seed=0)
    reader = Ahead(lambda number: pictures.draw(number), batches + workers, workers)
    reader(0)
    began = time.perf_counter()
    for number in range(1, batches + 1):
        reader(number)
    seconds = (time.perf_counter() - began) / batches
    reader.close()
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--presets", nargs="+", default=["paper", "paper-hrda"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
