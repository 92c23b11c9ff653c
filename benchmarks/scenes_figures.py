"""Figures, class frequencies and speed of the built-in scenes, for docs/scenes.md.

OMP_NUM_THREADS=1 python benchmarks/scenes_figures.py docs/figures
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from saot.data.classes import class_set
from saot.scenes.scene import render_scene

LIMIT = 250_000  # bytes of a figure
PAIRS = {"game": (("val", 0), ("val", 8)), "street": (("val", 4), ("val", 8))}


def overlay(image: np.ndarray, labels: np.ndarray, share: float = 0.65) -> np.ndarray:
    """The picture with its classes' colours; what belongs to none stays as it is."""
    palette = np.zeros((256, 3))
    palette[:19] = class_set("cityscapes19").colors
    mixed = np.where((labels < 19)[..., None], (1 - share) * image + share * palette[labels], image)
    return mixed.astype(np.uint8)


def save(rows: list[np.ndarray], path: Path) -> None:
    """One JPEG below the limit."""
    picture = Image.fromarray(np.concatenate(rows)).resize((1008, 252 * len(rows)), Image.Resampling.LANCZOS)
    for quality in range(90, 30, -5):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LIMIT:
            return
    raise ValueError(f"{path} is larger than {LIMIT} bytes at quality 35; show fewer pictures")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures")
    folder.mkdir(parents=True, exist_ok=True)
    names = class_set("cityscapes19").names
    shares = {}
    for style, chosen in PAIRS.items():
        scenes = [render_scene(style, split, index) for split, index in chosen]
        images, labels = [s.image for s in scenes], [overlay(s.image, s.labels) for s in scenes]
        save([np.concatenate([a, b], 1) for a, b in zip(images, labels, strict=True)], folder / f"scenes_{style}.jpg")
        begin, count = time.process_time(), np.zeros(256)
        for index in range(200):
            count += np.bincount(render_scene(style, "train", index).labels.ravel(), minlength=256)
        rate = 200 / (time.process_time() - begin)
        print(f"{style}: {rate:.1f} pictures/s of 504x1008 on one core, class 255: {count[255] / count.sum():.2%}")
        shares[style] = 100 * count[:19] / count[:19].sum()
    print("| class | game, % | street, % |\n| --- | ---: | ---: |")
    for name, game, street in zip(names, shares["game"], shares["street"], strict=True):
        print(f"| {name} | {game:.2f} | {street:.2f} |")


if __name__ == "__main__":
    main()
