"""Public data sets in their own layouts, with a few pictures of coloured blocks each."""

from pathlib import Path

import numpy as np
from PIL import Image

from saot.data.classes import CITYSCAPES_IDS, SYNTHIA_IDS

HEIGHT, WIDTH, CELL = 42, 84, 14  # pixels; 3 x 6 tokens of the filterbank
CITYSCAPES_RAW = {index: raw for raw, index in CITYSCAPES_IDS.items()}
SYNTHIA_RAW = {index: raw for raw, index in SYNTHIA_IDS.items()}


def blocks(seed: int, classes: tuple[int, ...], brightness: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture of one-token blocks whose colour tells the class, and its mask of class indices."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(classes, (HEIGHT // CELL, WIDTH // CELL))
    cells.ravel()[: len(classes)] = classes  # every class occurs
    mask = cells.repeat(CELL, 0).repeat(CELL, 1)
    colours = np.random.default_rng(99).integers(30, 220, (256, 3))
    picture = colours[mask] * brightness + rng.integers(-12, 12, (HEIGHT, WIDTH, 3))
    return picture.clip(0, 255).astype(np.uint8), mask.astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def raw(mask: np.ndarray, ids: dict[int, int]) -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[list(ids)] = list(ids.values())
    return table[mask]


STREET = (0, 1, 2, 8, 10, 11, 13)  # road, sidewalk, building, vegetation, sky, person, car


def gta5(root: Path, count: int = 3) -> Path:
    for number in range(count):
        picture, mask = blocks(number, STREET, 1.0)
        save(root / "images" / f"{number:05d}.png", picture)
        save(root / "labels" / f"{number:05d}.png", raw(mask, CITYSCAPES_RAW))
    return root


def cityscapes(root: Path, train: int = 3, val: int = 2) -> Path:
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            picture, mask = blocks(100 + 10 * count + number, STREET, 0.8)
            stem = f"ulm_{number:06d}_000019"
            save(root / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png", picture)
            save(root / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png", raw(mask, CITYSCAPES_RAW))
    return root


def synthia(root: Path, count: int = 2) -> Path:
    import cv2

    for number in range(count):
        picture, mask = blocks(300 + number, STREET, 1.1)
        save(root / "RGB" / f"{number:07d}.png", picture)
        ids = raw(mask, SYNTHIA_RAW).astype(np.uint16)
        (root / "GT" / "LABELS").mkdir(parents=True, exist_ok=True)
        bgr = np.stack([np.zeros_like(ids), np.zeros_like(ids), ids], 2)
        assert cv2.imwrite(str(root / "GT" / "LABELS" / f"{number:07d}.png"), bgr)
    return root


def voc(root: Path) -> Path:
    home = root / "VOCdevkit" / "VOC2012"
    for split, numbers in (("train", (0, 1, 2)), ("val", (3, 4))):
        for number in numbers:
            picture, mask = blocks(400 + number, (0, 7, 12, 15), 1.0)
            save(home / "JPEGImages" / f"2007_{number:06d}.jpg", picture)
            save(home / "SegmentationClass" / f"2007_{number:06d}.png", mask)
        names = "\n".join(f"2007_{number:06d}" for number in numbers)
        listing = home / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text(names + "\n")
    return root


def camvid(root: Path) -> Path:
    for split, numbers in (("day", (0, 1)), ("dusk", (2, 3)), ("test", (4, 5))):
        lines = []
        for number in numbers:
            picture, mask = blocks(500 + number, (0, 1, 3, 5, 8), 1.0 if split == "day" else 0.7)
            save(root / split / f"{number}.png", picture)
            save(root / f"{split}annot" / f"{number}.png", mask)
            lines.append(f"{split}/{number}.png {split}annot/{number}.png")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root
