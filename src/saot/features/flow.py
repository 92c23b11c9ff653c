"""Many pictures on their way to tokens: read ahead of the device, in batches there, side by side on a CPU.

Each picture's tokens are what it would get alone: on a CPU pictures are never joined, and networks that allow it (the
small ones) work on several at once with one thread each, so that tokens do not depend on the number of cores. That is
faster than to share each small matrix product among cores, and far faster where other programs use them too.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from saot.data import ahead
from saot.features.base import Backbone, extract, fitted, grid_of, tokens_of
from saot.features.grid import FeatureGrid

BATCH = 8  # pictures of one size that an accelerator sees at once
WORKERS = 8  # at most so many pictures at once on a CPU; each needs some 150 MB with mobile-sam


@dataclass(frozen=True)
class Picture:
    """A picture that is still to be read.

    Attributes:
        name: What it is called, for errors and stores.
        load: Reads it: (h, w, 3), RGB 0-255.
        fingerprint: Of its content.
    """

    name: str
    load: Callable[[], UInt8[np.ndarray, "h w 3"]]
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Extracted:
    """A picture and its features."""

    picture: Picture
    image: UInt8[np.ndarray, "h w 3"]
    features: FeatureGrid


def extract_each(backbone: Backbone, pictures: Iterable[Picture], batch: int = BATCH) -> Iterator[Extracted]:
    """Frozen features of pictures, in their order, as `extract` makes them.

    Args:
        backbone: From `load_backbone`.
        pictures: Read one after another, in a background thread, ahead of the network.
        batch: Pictures of one input size that go through an accelerator at once; a CPU takes them one by one.

    Raises:
        ValueError: If a picture cannot be read, is empty or does not fit the backbone's size; names it.
    """
    reading = Lock()  # readers of data sets need not bear several threads

    def read(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
        with reading:
            return picture.load()

    if getattr(backbone, "device", "cpu") == "cpu":
        yield from _on_cpu(backbone, pictures, read)
    else:
        yield from _on_accelerator(backbone, pictures, read, batch)


def _on_cpu(
    backbone: Backbone, pictures: Iterable[Picture], read: Callable[[Picture], UInt8[np.ndarray, "h w 3"]]
) -> Iterator[Extracted]:
    def make(picture: Picture) -> Extracted:
        image = read(picture)
        with torch.inference_mode():
            return Extracted(picture, image, extract(backbone, image, picture.fingerprint))

    if getattr(backbone, "concurrent", False):
        threads = torch.get_num_threads()
        workers = max(1, min(threads, WORKERS))
        one = partial(torch.set_num_threads, 1)  # holds for the thread that says so
        try:
            yield from ahead(make, pictures, depth=2 * workers, workers=workers, name=_name, begin=one)
        finally:
            torch.set_num_threads(threads)  # what threads yet to come begin with
        return
    for picture, image in ahead(lambda one: (one, read(one)), pictures, name=_name):
        with torch.inference_mode():
            features = extract(backbone, image, picture.fingerprint)
        yield Extracted(picture, image, features)


def _on_accelerator(
    backbone: Backbone, pictures: Iterable[Picture], read: Callable[[Picture], UInt8[np.ndarray, "h w 3"]], batch: int
) -> Iterator[Extracted]:
    def prepare(picture: Picture) -> tuple[Picture, Any, Any]:
        image = read(picture)
        return picture, image, fitted(backbone, image)

    def finish(group: list[tuple[Picture, Any, Any]]) -> list[Extracted]:
        with torch.inference_mode():
            tokens: list[Tensor] = tokens_of(backbone, [resized for _, _, resized in group])
            return [
                Extracted(picture, image, grid_of(backbone, own, image, resized, picture.fingerprint))
                for own, (picture, image, resized) in zip(tokens, group, strict=True)
            ]

    group: list[tuple[Picture, Any, Any]] = []
    for one in ahead(prepare, pictures, depth=2 * batch, workers=4, name=_name):
        if group and (len(group) == batch or group[0][2].shape != one[2].shape):
            yield from finish(group)
            group = []
        group.append(one)
    if group:
        yield from finish(group)


def _name(picture: Picture) -> str:
    return picture.name
