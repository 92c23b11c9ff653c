"""What the readers of pairs share: JSON with clear errors, folders, options behind a split, optical-flow files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from saot.data import read_text
from saot.match.pairs.pairs import DenseFlow

FLOW_MAGIC = 202021.25  # first number of a Middlebury .flo file
UNKNOWN_FLOW = 1e9  # Middlebury: larger numbers mean that nobody knows


def home(root: Path, name: str, wanted: str) -> Path:
    """`root`, or the folder `name` in it, whichever holds the folder `wanted`.

    Raises:
        ValueError: If neither does.
    """
    for folder in (root, root / name):
        if (folder / wanted).is_dir():
            return folder
    raise ValueError(f"expected the folder {wanted} in {root} or {root / name}, but there is none; check the path")


def read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: If the file is missing, no JSON object, or lacks one of `keys`.
    """
    if not path.is_file():
        raise ValueError(f"the annotation {path} is missing; copy the whole release, or check the split")
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the annotation {path} is no JSON ({error}); copy or download it again") from error
    if not isinstance(value, dict):
        raise ValueError(f"the annotation {path} holds a {type(value).__name__}, but a JSON object is expected")
    missing = [key for key in keys if key not in value]
    if missing:
        raise ValueError(f"the annotation {path} lacks {', '.join(missing)}; is it of another release?")
    return value


def numbers(value: object, shape: tuple[int | None, ...], what: str) -> Float64[np.ndarray, "..."]:
    """`value` as finite numbers of a shape; None in `shape` is any length.

    Raises:
        ValueError: If it is something else; names `what`.
    """
    wanted = " x ".join("any" if size is None else str(size) for size in shape)
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} should be {wanted} numbers, but is {str(value)[:60]}") from error
    fits = array.ndim == len(shape) and all(w is None or s == w for s, w in zip(array.shape, shape, strict=True))
    if not fits or not np.isfinite(array).all():
        raise ValueError(f"{what} should be {wanted} finite numbers, but is {str(value)[:60]}")
    return array


def options(text: str | None, first: str, defaults: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The first word of a SPLIT and its options NAME=VALUE, separated by commas.

    Args:
        text: What stands behind the second colon of a spec; None takes everything as it is by default.
        first: The first word by default.
        defaults: Options that are known; a value is read as the type of its default, "yes" and "no" as truth.

    Raises:
        ValueError: If an option is unknown or its value is of another type.

    Example:
        >>> options("val,count=3", "train", {"count": 8, "seed": 0})
        ('val', {'count': 3, 'seed': 0})
    """
    words = (text or first).split(",")
    if "=" in words[0]:
        words = [first, *words]
    found = dict(defaults)
    for word in words[1:]:
        name, _, value = (part.strip() for part in word.partition("="))
        if name not in defaults:
            raise ValueError(
                f"{word!r} is no option here; known are {', '.join(f'{k}={v}' for k, v in defaults.items())}"
            )
        found[name] = _value(name, value, defaults[name])
    return words[0].strip(), found


def _value(name: str, text: str, default: object) -> object:
    if isinstance(default, bool):
        if text not in ("yes", "no"):
            raise ValueError(f"{name}= takes yes or no, but {text!r} came")
        return text == "yes"
    try:
        return {int: int, float: float}.get(type(default), str)(text)
    except ValueError as error:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"{name}= takes {kind}, but {text!r} came") from error


def read_flow(path: Path) -> DenseFlow:
    """The flow in a Middlebury .flo file; unknown pixels are not valid.

    Raises:
        ValueError: If the file is missing, has another magic number or another length than it says.
    """
    if not path.is_file():
        raise ValueError(f"the flow {path} is missing; copy the whole release")
    with path.open("rb") as file:
        data = file.read(12)
    magic = float(np.frombuffer(data[:4], "<f4")[0]) if len(data) >= 12 else None
    if magic != FLOW_MAGIC:
        raise ValueError(
            f"{path} begins with {magic} but a .flo file with {FLOW_MAGIC}; it is cut off, of another format, or was "
            "written with the bytes in another order"
        )
    width, height = (int(size) for size in np.frombuffer(data[4:12], "<i4"))
    size = path.stat().st_size
    if min(width, height) < 1 or size != 12 + 8 * width * height:
        raise ValueError(
            f"{path} has {size} bytes, but its head says {width}x{height} pixels, which need "
            f"{12 + 8 * width * height}; copy or download it again"
        )
    flow: Float32[np.ndarray, "h w 2"] = (
        np.frombuffer(path.read_bytes()[12:], "<f4").reshape(height, width, 2).astype(np.float32)
    )
    known: Bool[np.ndarray, "h w"] = np.all(np.isfinite(flow) & (np.abs(flow) < UNKNOWN_FLOW), axis=-1)
    return DenseFlow(np.where(known[..., None], flow, 0).astype(np.float32), known)
