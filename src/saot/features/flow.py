"""Many pictures on their way to tokens: read ahead of the device, in batches there, side by side on a CPU.

Each picture's tokens are what it would get alone: on a CPU pictures are never joined, and networks that allow it (the
small ones) work on several at once with one thread each, so that tokens do not depend on the number of cores. That is
faster than to share each small matrix product among cores, and far faster where other programs use them too.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from saot.data import ahead, naming, sentence_of
from saot.features.base import Backbone, check_picture, extract, fitted, grid_of, tokens_of
from saot.features.grid import FeatureGrid

R = TypeVar("R")
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


@dataclass(frozen=True, eq=False)
class Unreadable:
    """A picture that cannot be read or does not fit, and why: one sentence that names it."""

    picture: Picture
    reason: str


Failed = Callable[[Picture, str], None]


def extract_each(
    backbone: Backbone, pictures: Iterable[Picture], batch: int = BATCH, failed: Failed | None = None
) -> Iterator[Extracted]:
    """Frozen features of pictures, in their order, as `extract` makes them.

    Args:
        backbone: From `load_backbone`.
        pictures: Read one after another, in a background thread, ahead of the network.
        batch: Pictures of one input size that go through an accelerator at once; a CPU takes them one by one.
        failed: Hears, where its turn would be, of a picture that cannot be read, and why; the others go on. Unless
            given the first such picture ends it.

    Raises:
        ValueError: If a picture cannot be read, is empty or does not fit the backbone's size; names it.
    """
    return make_each(backbone, pictures, _as_it_is, batch, failed)


def make_each(
    backbone: Backbone,
    pictures: Iterable[Picture],
    make: Callable[[Extracted], R],
    batch: int = BATCH,
    failed: Failed | None = None,
) -> Iterator[R]:
    """What is made of each picture's features, in their order, where it keeps no network waiting.

    Args:
        backbone: From `load_backbone`.
        pictures: As in `extract_each`.
        make: Called without gradients, for several pictures at once: beside a network that works on several at once in
            the same thread, beside an accelerator in a thread of its own; else when the network is done.
        batch: As in `extract_each`.
        failed: As in `extract_each`.

    Raises:
        ValueError: As `extract_each`, or if `make` raises one; names the picture.
    """
    reading = Lock()  # readers of data sets need not bear several threads

    def load(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
        with reading:
            return picture.load()

    read = load if failed is None else readable(load)
    if getattr(backbone, "device", "cpu") == "cpu":
        made = _on_cpu(backbone, pictures, read, make)
    else:
        finish = partial(_finish, make)
        seen = _on_accelerator(backbone, pictures, read, batch)
        made = ahead(finish, seen, depth=2 * batch, workers=2, name=_name_of)
    for one in made:
        if isinstance(one, Unreadable):
            assert failed is not None
            failed(one.picture, one.reason)
        else:
            yield one


def readable(load: Callable[[Picture], UInt8[np.ndarray, "h w 3"]]) -> "Read":
    """The same, giving `Unreadable` where a picture cannot be read or has no pixels.

    Args:
        load: Reads a picture.
    """

    def read(picture: Picture) -> UInt8[np.ndarray, "h w 3"] | Unreadable:
        try:
            image = load(picture)
            check_picture(image)
            return image
        except MemoryError:
            return Unreadable(picture, f"picture {picture.name}: memory does not hold it; shrink it or cut it up")
        except (ValueError, OSError) as error:
            told = sentence_of(error)
            return Unreadable(picture, told if picture.name in told else f"picture {picture.name}: {told}")

    return read


Read = Callable[[Picture], UInt8[np.ndarray, "h w 3"] | Unreadable]


def _on_cpu(
    backbone: Backbone, pictures: Iterable[Picture], read: Read, make: Callable[[Extracted], R]
) -> Iterator[R | Unreadable]:
    def of(picture: Picture, image: UInt8[np.ndarray, "h w 3"] | Unreadable) -> R | Unreadable:
        if isinstance(image, Unreadable):
            return image
        with torch.inference_mode():
            return make(Extracted(picture, image, extract(backbone, image, picture.fingerprint)))

    if getattr(backbone, "concurrent", False):
        threads = torch.get_num_threads()
        workers = max(1, min(threads, WORKERS))
        one = partial(torch.set_num_threads, 1)  # holds for the thread that says so
        try:
            yield from ahead(
                lambda picture: of(picture, read(picture)),
                pictures,
                depth=2 * workers,
                workers=workers,
                name=_name,
                begin=one,
            )
        finally:
            torch.set_num_threads(threads)  # what threads yet to come begin with
        return
    for picture, image in ahead(lambda one: (one, read(one)), pictures, name=_name):
        with naming(picture.name):
            made = of(picture, image)
        yield made


def _as_it_is(one: Extracted) -> Extracted:
    return one


@torch.inference_mode()
def _finish(make: Callable[[Extracted], R], one: Extracted | Unreadable) -> R | Unreadable:
    return one if isinstance(one, Unreadable) else make(one)


def _name_of(one: Extracted | Unreadable) -> str:
    return one.picture.name


def _on_accelerator(
    backbone: Backbone, pictures: Iterable[Picture], read: Read, batch: int
) -> Iterator[Extracted | Unreadable]:
    def prepare(picture: Picture) -> tuple[Picture, Any, Any]:
        image = read(picture)
        return picture, image, image if isinstance(image, Unreadable) else fitted(backbone, image)

    def finish(group: list[tuple[Picture, Any, Any]]) -> list[Extracted]:
        if not group:
            return []
        with torch.inference_mode():
            tokens: list[Tensor] = tokens_of(backbone, [resized for _, _, resized in group])
            return [
                Extracted(picture, image, grid_of(backbone, own, image, resized, picture.fingerprint))
                for own, (picture, image, resized) in zip(tokens, group, strict=True)
            ]

    group: list[tuple[Picture, Any, Any]] = []
    for one in ahead(prepare, pictures, depth=2 * batch, workers=4, name=_name):
        if isinstance(one[1], Unreadable):  # behind those that came before it
            yield from finish(group)
            group = []
            yield one[1]
            continue
        if group and (len(group) == batch or group[0][2].shape != one[2].shape):
            yield from finish(group)
            group = []
        group.append(one)
    yield from finish(group)


def _name(picture: Picture) -> str:
    return picture.name
