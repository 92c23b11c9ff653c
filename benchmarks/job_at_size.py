"""The whole main job on random features of GTA5's sizes, on a device or a CPU: seconds and memory of every stage.

    python benchmarks/job_at_size.py --out runs/job-at-size --device cuda               # 1,000 + 1,000 pictures, best
    python benchmarks/job_at_size.py --out runs/job-at-size --source 24966 --target 2975 --preset paper --device cuda
    python benchmarks/job_at_size.py --out runs/job-tiny --source 4 --target 4 --tokens 6x12 --dim 32 --steps 5

Pictures are numbers, masks are random blocks and tokens random draws about the mean of their class, so nothing is read
from a data set and nothing can be learned that means anything; the work is that of real features of the same shape. The
same command again goes on where it stopped. Features take tokens x width x 2 bytes a picture on the disk.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saot.data import DataSpec, ImageSet, LabelledSet, class_set
from saot.features import FeatureKey, FeatureSettings, Keyed
from saot.label import RunSettings, Wings, run_job
from saot.recipes import Recipe, preset
from saot.runs import resolve_device

PATCH = 14
CLASSES = 19


class RandomTokens(Keyed):
    """Tokens about the mean of their class; the picture is its number, spread over its pixels."""

    def __init__(self, grid: tuple[int, int], dim: int, settings: FeatureSettings) -> None:
        self._size = (grid[0] * PATCH, grid[1] * PATCH)
        self.device, self.grid = settings.device, grid
        self.means = torch.randn(CLASSES, dim, generator=torch.Generator().manual_seed(0))
        self._key = FeatureKey(
            *("random", "0", f"{self._size[0]}x{self._size[1]}", ("none",), False, True, False, PATCH, dim),
            *("pillow-bilinear", (0.0,) * 3, (1.0,) * 3),
        )

    def tokens(self, image: np.ndarray) -> Tensor:
        number = int(image[0, 0].astype(int) @ [1, 256, 65536])
        labels = torch.from_numpy(blocks(number, self.grid).astype(np.int64)).flatten()
        noise = torch.randn(len(labels), self._key.dim, generator=torch.Generator().manual_seed(number))
        return self.means[labels] + 2 * noise


def blocks(number: int, grid: tuple[int, int]) -> np.ndarray:
    """The class of each token of a picture: blocks of 3 x 3 tokens."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, CLASSES, (-(-grid[0] // 3), -(-grid[1] // 3)), dtype=np.uint8)
    return np.kron(coarse, np.ones((3, 3), np.uint8))[: grid[0], : grid[1]]


def pictures(grid: tuple[int, int], spec: str, parts: DataSpec) -> LabelledSet:
    """`random:FIRST:COUNT`: numbers from FIRST on."""
    first, count = int(parts.path), int(parts.split or 1)
    size = (grid[0] * PATCH, grid[1] * PATCH)

    def load(index: int) -> np.ndarray:
        number = first + index
        color = np.array([number % 256, number // 256 % 256, number // 65536], np.uint8)
        return np.broadcast_to(color, (*size, 3))

    def mask(index: int) -> np.ndarray:
        return np.kron(blocks(first + index, grid), np.ones((PATCH, PATCH), np.uint8))

    keys = tuple(f"{first + index:07d}" for index in range(count))
    images = ImageSet(spec, class_set("cityscapes19"), keys, load, lambda index: f"{spec} {index}", lambda index: size)
    return LabelledSet(images, mask, lambda index: f"mask {spec} {index}")


def main() -> None:
    options = _options()
    grid = tuple(int(side) for side in options.tokens.split("x"))
    wings = Wings(
        readers={"random": partial(pictures, grid)},
        backbones={"random": partial(RandomTokens, grid, options.dim)},
        say=print,
    )
    settings = RunSettings(
        f"random:0:{options.source}",
        f"random:{options.source}:{options.target}",
        points="total:20",
        backbone="random",
        recipe=shortened(preset(options.preset), options.steps),
    )
    outcome = run_job(settings, options.out, wings=wings, device=resolve_device(options.device), compare="none")
    stages = json.loads((options.out / "run.json").read_text())["stages"]
    print(f"{options.source:,} + {options.target:,} pictures, {options.tokens} tokens of {options.dim} numbers")
    print(f"preset {options.preset}, {outcome.run['device']}\n")
    print("| stage | seconds | memory, MiB | of the device, MiB |\n| --- | --- | --- | --- |")
    for name, one in stages.items():
        device = f"{one['device_memory_bytes'] / 2**20:,.0f}" if "device_memory_bytes" in one else "–"
        print(f"| {name} | {one['seconds']:,.1f} | {one['peak_memory_bytes'] / 2**20:,.0f} | {device} |")
    print(f"| all | {sum(one['seconds'] for one in stages.values()):,.1f} | | |")


def shortened(recipe: Recipe, steps: int | None) -> Recipe:
    """The recipe with at most so many steps in every training."""
    if steps is None:
        return recipe
    parts = {name: getattr(recipe, name) for name in ("cost", "decoder", "taught", "refine")}
    return replace(
        recipe,
        name=f"{recipe.name}-{steps}",
        **{name: replace(part, steps=min(part.steps, steps)) for name, part in parts.items()},
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/job-at-size"))
    parser.add_argument("--source", type=int, default=1_000)
    parser.add_argument("--target", type=int, default=1_000)
    parser.add_argument("--tokens", default="36x72")
    parser.add_argument("--dim", type=int, default=1_024)
    parser.add_argument("--preset", default="best")
    parser.add_argument("--steps", type=int, help="at most so many in every training")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
