"""Figures, class frequencies and speed of the built-in scenes, for docs/scenes.md.

OMP_NUM_THREADS=1 python benchmarks/scenes_figures.py docs/figures                   # all of it
OMP_NUM_THREADS=1 python benchmarks/scenes_figures.py docs/figures --figures-only    # seconds
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image, ImageDraw

from saot.data.classes import class_set
from saot.scenes import render_scene
from saot.scenes.scene import SCENES_VERSION

LIMIT = 250_000  # bytes of a figure
STRIP = 20  # pixels of the caption
PAIRS = {"game": (("val", 0), ("val", 8)), "street": (("val", 4), ("val", 8))}


def overlay(image: np.ndarray, labels: np.ndarray, share: float = 0.65) -> np.ndarray:
    """The picture with its classes' colours; what belongs to none stays as it is."""
    palette = np.zeros((256, 3))
    palette[:19] = class_set("cityscapes19").colors
    mixed = np.where((labels < 19)[..., None], (1 - share) * image + share * palette[labels], image)
    return mixed.astype(np.uint8)


def save(rows: list[np.ndarray], path: Path, caption: str) -> None:
    """One JPEG below the limit, with a caption above."""
    body = Image.fromarray(np.concatenate(rows)).resize((1008, 252 * len(rows)), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (body.width, body.height + STRIP), (255, 255, 255))
    picture.paste(body, (0, STRIP))
    ImageDraw.Draw(picture).text((3, 4), caption, fill=(40, 40, 40))
    for quality in range(90, 30, -5):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LIMIT:
            return
    raise ValueError(f"{path} is larger than {LIMIT} bytes at quality 35; show fewer pictures")


def frequencies(style: str) -> np.ndarray:
    """Share of each class in the first 200 training pictures, per cent; prints the speed."""
    begin, count = time.process_time(), np.zeros(256)
    for index in range(200):
        count += np.bincount(render_scene(style, "train", index).labels.ravel(), minlength=256)
    rate = 200 / (time.process_time() - begin)
    print(f"{style}: {rate:.1f} pictures/s of 504x1008 on one core, class 255: {count[255] / count.sum():.2%}")
    return 100 * count[:19] / count[:19].sum()


def main() -> None:
    places = [word for word in sys.argv[1:] if not word.startswith("--")]
    folder = Path(places[0] if places else "docs/figures")
    folder.mkdir(parents=True, exist_ok=True)
    names = class_set("cityscapes19").names
    shares = {}
    for style, chosen in PAIRS.items():
        scenes = [render_scene(style, split, index) for split, index in chosen]
        images, labels = [s.image for s in scenes], [overlay(s.image, s.labels) for s in scenes]
        shown = " and ".join(f"{split} {index}" for split, index in chosen)
        told = f"scenes:{style}, version {SCENES_VERSION}, pictures {shown}; right: their classes"
        rows = [np.concatenate([a, b], 1) for a, b in zip(images, labels, strict=True)]
        save(rows, folder / f"scenes_{style}.jpg", told)
        if "--figures-only" not in sys.argv:
            shares[style] = frequencies(style)
    if not shares:
        return
    print("| class | game, % | street, % |\n| --- | ---: | ---: |")
    for name, game, street in zip(names, shares["game"], shares["street"], strict=True):
        print(f"| {name} | {game:.2f} | {street:.2f} |")


if __name__ == "__main__":
    main()
