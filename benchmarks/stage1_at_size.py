"""Stage 1 at GTA5's size: how much of a training step is reading, with 24,966 source and 2,975 target pictures?

    python benchmarks/stage1_at_size.py --folder runs/gta5-size [--recipe paper] [--steps 24]

The store is synthetic: its files have true headers and holes for payloads, so that 130 GB of features take 100 MB of
disk. All system calls of reading are made, and no byte comes from a disk: a disk's own time comes on top. The network,
its batch and its pools are the recipe's. Steps that read take turns with steps that train on one batch over and over;
`waiting` is the time that a step waits for its block, `step` is the time of the whole. Peak memory is printed too.
"""

import argparse
import hashlib
import json
import resource
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import saot.decoder.distill as distill
from saot.decoder import BlockReader, Term, TokenPool, fit_decoder, make_decoder, token_pool
from saot.features import FeatureStore, load_backbone
from saot.features.grid import FeatureKey, Provenance
from saot.recipes import preset

PICTURES = {"source": 24_966, "target": 2_975}
ROWS, COLUMNS, PATCH, CLASSES = 36, 72, 16, 19


def main() -> None:
    options = _options()
    recipe = preset(options.recipe).decoder
    if recipe.architecture != "residual":
        raise SystemExit("expected a recipe with a decoder of single tokens: paper or paper-small")
    terms = [Term(name, pool_of(options, name, count)) for name, count in PICTURES.items()]
    print(f"pools: {_gigabytes():.1f} GB of memory", flush=True)
    config = replace(recipe, steps=options.steps)
    waits: list[float] = []
    for repeat in range(options.repeats):
        for kind, reader in (("reading", partial(Timed, waits)), ("one batch", OneBatch)):
            decoder, kept = make_decoder(options.dim, CLASSES, config), distill.BlockReader
            distill.BlockReader = reader  # pyright: ignore[reportAttributeAccessIssue]
            waits.clear()
            begin = time.perf_counter()
            try:
                fit_decoder(decoder, terms, config, seed=repeat)
            finally:
                distill.BlockReader = kept
            seconds = time.perf_counter() - begin
            told = f", waiting {sum(waits) / options.steps * 1e3:.0f} ms of it" if kind == "reading" else ""
            print(f"{kind}: {seconds / options.steps * 1e3:.0f} ms a step{told}; {_gigabytes():.1f} GB", flush=True)


class Timed(BlockReader):
    """A reader that notes how long it is waited for; the first block, for which nothing is ready, is left out."""

    def __init__(self, waits: list[float], *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waits = waits

    def _take(self, number: int) -> None:
        begin = time.perf_counter()
        super()._take(number)
        if number > 0:
            self.waits.append(time.perf_counter() - begin)


class OneBatch(BlockReader):
    """A reader that gives the first batch at every step."""

    def __init__(
        self, pool: TokenPool, batch: int, power: float, generator: Callable[[int], torch.Generator], *rest: Any
    ):
        super().__init__(pool, batch, power, generator, rest[0])

    def _rows(self, step: int) -> torch.Tensor:
        return super()._rows(0)


def pool_of(options: argparse.Namespace, name: str, count: int) -> TokenPool:
    """Tokens of `count` pictures with labels that lie in a few patches a picture."""
    store = sparse_store(options.folder / name, options.dim, count)
    generator = torch.Generator().manual_seed(0)
    labels = [
        torch.randint(CLASSES, (ROWS // 6, COLUMNS // 6), generator=generator, dtype=torch.uint8)
        .repeat_interleave(6, 0)
        .repeat_interleave(6, 1)
        .flatten()
        for _ in range(count)
    ]
    return token_pool(labels, CLASSES, lambda picture, tokens: store.rows(_key(picture), tokens), options.dim)


def sparse_store(root: Path, dim: int, count: int) -> FeatureStore:
    """A feature store whose payloads are holes."""
    plain = load_backbone("filterbank").key
    key = FeatureKey(**{**vars(plain), "dim": dim, "patch_size": PATCH})
    store = FeatureStore(root, key)
    if (root / "made").exists():
        return store
    size = (ROWS * PATCH, COLUMNS * PATCH)
    provenance = Provenance(**vars(key), image_size=size, input_size=size, source="hole", versions=()).to_json()
    bytes_ = 2 * ROWS * COLUMNS * dim
    about = {"dtype": "F16", "shape": [ROWS * COLUMNS, dim], "data_offsets": [0, bytes_]}
    for number in range(count):
        metadata = {"key": _key(number), "provenance": provenance, "payload_checksum": "0" * 32}
        whole = hashlib.blake2b("".join(metadata.values()).encode(), digest_size=16)
        header = json.dumps(
            {"__metadata__": {**metadata, "header_checksum": whole.hexdigest()}, "tokens": about}
        ).encode()
        header += b" " * (-len(header) % 8)
        with open(store._path(_key(number)), "wb") as file:  # the name is the store's own affair
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + bytes_)
    (root / "made").touch()
    return store


def _key(number: int) -> str:
    return f"train/{number:05d}.png"


def _gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the synthetic store goes")
    parser.add_argument("--recipe", default="paper", help="paper or paper-small")
    parser.add_argument("--dim", type=int, default=1024, help="width of a feature")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
