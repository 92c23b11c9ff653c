"""The problems of the benchmark, written once to a folder that every contender reads."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES, MODES, DIM, NOISE_DIM = 19, 6, 1024, 32
EPSILON, TAU, ITERATIONS = 0.1, 0.3, 30


@dataclass(frozen=True)
class Features:
    """Unit features (n, d), (m, d) of two pictures and the classes of both sides."""

    source: np.ndarray
    target: np.ndarray
    source_labels: np.ndarray
    target_labels: np.ndarray


def planted(tokens: int, seed: int = 0, dim: int = DIM) -> Features:
    """19 imbalanced classes of 6 modes each; the target has other shares, a common shift and one for each class.

    Most of the noise lies in few directions, as in features of pictures: nearest neighbours are then often wrong.
    """
    rng = np.random.default_rng(seed)
    centres = 0.6 * rng.standard_normal((CLASSES, 1, dim))
    modes = centres + 0.8 * rng.standard_normal((CLASSES, MODES, dim))
    moved = modes + 0.5 * rng.standard_normal(dim) + 0.4 * rng.standard_normal((CLASSES, 1, dim))
    directions = rng.standard_normal((NOISE_DIM, dim)) / np.sqrt(NOISE_DIM)
    common = 1 / np.arange(1, CLASSES + 1) ** 1.2

    def draw(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = common * rng.gamma(4.0, size=CLASSES)
        labels = rng.choice(CLASSES, size=tokens, p=share / share.sum())
        tokens_ = means[labels, rng.integers(MODES, size=tokens)]
        tokens_ = tokens_ + 2 * rng.standard_normal((tokens, NOISE_DIM)) @ directions
        tokens_ = tokens_ + 0.5 * rng.standard_normal((tokens, dim))
        return (tokens_ / np.linalg.norm(tokens_, axis=1, keepdims=True)).astype(np.float32), labels.astype(np.uint8)

    source, source_labels = draw(modes)
    target, target_labels = draw(moved)
    return Features(source, target, source_labels, target_labels)


def make_folder(root: Path, tokens: int, k: int, dense: bool) -> Path:
    """The folder of the planted problem of this size; made once.

    It holds the features and labels, and if `dense` the cost 2 - 2 cos as a matrix and on each source's k best
    targets (`row`, `col`, `values`), with the fixed weights `w` of the loss on the plan.
    """
    folder = root / f"planted-{tokens}-{k}{'-dense' if dense else ''}"
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    data = planted(tokens)
    for name in ("source", "target", "source_labels", "target_labels"):
        np.save(folder / f"{name}.npy", getattr(data, name))
    if dense:
        cosine = data.source @ data.target.T
        col = np.sort(np.argpartition(-cosine, k - 1, axis=1)[:, :k], axis=1).astype(np.int32).ravel()
        row = np.repeat(np.arange(tokens, dtype=np.int32), k)
        cost = np.maximum(2 - 2 * cosine, 0).astype(np.float32)
        np.save(folder / "cost.npy", cost)
        np.save(folder / "row.npy", row)
        np.save(folder / "col.npy", col)
        np.save(folder / "values.npy", cost[row, col])
        np.save(folder / "w.npy", np.random.default_rng(1).standard_normal((tokens, tokens)).astype(np.float32))
    (folder / "complete").touch()
    return folder


def load(folder: str | Path, *names: str) -> list[np.ndarray]:
    """The arrays of these names, writable."""
    return [np.load(Path(folder) / f"{name}.npy") for name in names]


def cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array at `path`, made if it is not there."""
    if not path.exists():
        half = path.with_suffix(".half.npy")
        np.save(half, make())
        os.replace(half, path)
    return np.load(path)


def write_json(path: Path, content: object) -> None:
    """Written whole or not at all."""
    half = path.with_suffix(".half")
    half.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(half, path)
