"""Pictures and a backbone for a feature store."""

import hashlib
import time
from pathlib import Path

import numpy as np

from saot.data import ImageSet
from saot.features import load_backbone


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (30 + index, 60, 3), dtype=np.uint8)


def image_set(count: int = 5, version: str = "") -> ImageSet:
    return ImageSet(
        spec="made:here",
        classes=None,
        keys=tuple(f"train/{index:04d}.png" for index in range(count)),
        load=picture,
        fingerprint=lambda index: hashlib.sha256(f"{version}{index}".encode()).hexdigest(),
    )


def filterbank(**settings):
    return load_backbone("filterbank", size=56, **settings)


class Counting:
    """A backbone that counts what it is asked, and may be slow."""

    def __init__(self, backbone, seconds: float = 0.0) -> None:
        self.backbone, self.seconds, self.calls = backbone, seconds, 0

    @property
    def key(self):
        return self.backbone.key

    @property
    def patch_size(self) -> int:
        return self.backbone.patch_size

    @property
    def dim(self) -> int:
        return self.backbone.dim

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        return self.backbone.input_size(height, width)

    def tokens(self, image):
        self.calls += 1
        time.sleep(self.seconds)
        return self.backbone.tokens(image)


def files(root: Path) -> list[Path]:
    return sorted(root.glob("*.safetensors"))
