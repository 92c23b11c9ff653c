"""Published networks: where their files are, what is told of a file that will not do, and their weights, name by name.

A network is named by a folder or by OWNER/NAME on the hub. Weights are read without unpickling code, checked name by
name, and hashed; normalisations are folded into the layers where a network of ours has none.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saot.data import LARGEST_RECORD, how_to_install, sha256_file

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
STATISTICS_FILE = "preprocessor_config.json"


INSIDES = re.compile(r"PytorchStreamReader|weights_only|[Uu]npickl|miniz|pickle|deserializ|HeaderToo|invalid load key")


class OneSentence:
    r"""Any error within it becomes a `ValueError` of one sentence: what went wrong, its first line, what to do.

    Other people's readers end in other kinds of error in each version: unreachable, gated, damaged, of another shape.

    Example:
        >>> with OneSentence("a.npz cannot be read", "write it again"):
        ...     raise OSError("it is cut short\nat byte 7")
        Traceback (most recent call last):
        ValueError: a.npz cannot be read (it is cut short); write it again
    """

    def __init__(self, what: str, remedy: str) -> None:
        self._what, self._remedy = what, remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise ValueError(f"{self._what} ({first_line(error)}); {self._remedy}") from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, at most 160 characters; its class if it says nothing.

    What torch and safetensors say of a file they cannot read is about their insides: it becomes plain words.

    Example:
        >>> first_line(RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory"))
        'it is cut off, damaged or no such file'
    """
    if INSIDES.search(str(error)):
        return "it is cut off, damaged or no such file"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def require_libraries(what: str, *libraries: str, extra: str = "vit") -> None:
    """Refuse a network whose libraries are not installed.

    Raises:
        ValueError: If one is absent; it names the extra of this package that brings it.
    """
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        raise ValueError(f"{what} needs {missing[0]}, which is not installed; {how_to_install(extra)}")


def is_repository(name: str) -> bool:
    """Whether it reads as OWNER/NAME of a hub model.

    Example:
        >>> is_repository("facebook/dinov2-base"), is_repository("a/b/c"), is_repository("vgg")
        (True, False, False)
    """
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def local_folder(folder: Path, weights: Sequence[str] = (), name: str = "") -> Path:
    """The folder of a model of `transformers`, if it looks like one.

    Args:
        folder: As `save_pretrained` writes it.
        weights: Names of weight files, one of which must be there; none asks for the configuration alone.
        name: Of the network, for the message.

    Raises:
        ValueError: If it has no configuration or no weights.
    """
    if not (folder / "config.json").is_file() or (weights and not any((folder / file).is_file() for file in weights)):
        raise ValueError(
            f"expected a folder with config.json and model.safetensors{f' for {name}' if name else ''} at {folder}, "
            "found none; pass the folder that save_pretrained wrote or a hub snapshot"
        )
    size = (folder / "config.json").stat().st_size
    if size > LARGEST_RECORD:
        raise ValueError(f"{folder / 'config.json'} has {size:,} bytes, which no configuration has; fetch it again")
    return folder


def download(repository: str, files: Sequence[str], remedy: str, failed: str | None = None) -> Path:
    """Local folder of a hub model, downloaded unless it is in the cache.

    Args:
        repository: OWNER/NAME.
        files: Patterns of what is wanted of it.
        remedy: What else to do than to check the name and the network.
        failed: What to say first; None says that it could not be had.

    Raises:
        ValueError: If the hub does not give it.
    """
    from huggingface_hub import snapshot_download

    failed = failed or f"could not get {repository} from the hub"
    with OneSentence(failed, f"check the name and the network, {remedy}"):
        return Path(snapshot_download(repository, allow_patterns=list(files)))


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 of a file; of the list of hashes of several."""
    hashes = [sha256_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def load_model(model_class: Any, folder: Path, name: str, heads: tuple[str, ...], **options: Any) -> Any:
    """A network of `transformers` from a folder, in float32, its weights checked name by name.

    Args:
        model_class: Of `transformers`.
        folder: With configuration and weights.
        name: Of the network, for the messages.
        heads: Beginnings of names that may be there and are passed over.
        options: Further ones of `from_pretrained`.

    Raises:
        ValueError: If the files cannot be read, or lack or have what the network does not.
    """
    with OneSentence(f"the weights in {folder} cannot be read as {name}", "fetch the published files again"):
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32, **options
        )
    missing = sorted(key for key in info["missing_keys"] if "mask_token" not in key)
    unexpected = sorted(key for key in info["unexpected_keys"] if not key.startswith(heads))
    if missing or unexpected:
        what = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is unexpected"
        raise ValueError(f"the weights in {folder} are not those of {name}: {what}; pass the folder of that model")
    return model


def pixel_statistics(folder: Path, default: Statistics, whole: bool = False) -> Statistics:
    """Mean and deviation of 0-255 RGB, from the folder's `preprocessor_config.json` or else the default.

    Args:
        folder: Of a model of `transformers`.
        default: Where there is no such file.
        whole: Whether a file must have both; otherwise the default stands in for what it lacks.

    Raises:
        ValueError: If the file is not what it should be.
    """
    path = folder / STATISTICS_FILE
    if not path.is_file():
        return default
    try:
        values = json.loads(path.read_text())
        given = [values[name] if whole else values.get(name) for name in ("image_mean", "image_std")]
        mean, deviation = (
            other if numbers is None else tuple(255 * float(number) for number in numbers)
            for numbers, other in zip(given, default, strict=True)
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON with image_mean and image_std; fetch it again or delete it") from error
    return mean, deviation


def read_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a `.pt` or `.safetensors` file, without ever unpickling code.

    Raises:
        ValueError: If there is no such file or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise ValueError(f"expected a weight file at {path}, found none; check --weights")
    with OneSentence(f"{path} cannot be read as plain weights", "fetch the published file again"):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds more than tensors by name; pass a plain state dict")
    return state


class WeightReader:
    """Takes tensors out of a published state dict by name, and complains in one sentence.

    Args:
        state: The published tensors by name.
        model: Whose weights they ought to be, for the messages.
        remedy: What to pass instead, for the messages.
    """

    def __init__(self, state: Mapping[str, Tensor], model: str, remedy: str) -> None:
        self._state, self._model, self._remedy = state, model, remedy
        self._taken: set[str] = set()

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor `name`, in float32.

        Raises:
            ValueError: If it is missing or has another shape.
        """
        value = self._state.get(name)
        if value is None:
            raise ValueError(f"these are not the weights of {self._model}: {name} is missing; pass {self._remedy}")
        if tuple(value.shape) != shape:
            raise ValueError(
                f"these are not the weights of {self._model}: {name} has shape "
                f"{tuple(value.shape)}, expected {shape}; pass {self._remedy}"
            )
        self._taken.add(name)
        return value.float()

    @torch.no_grad()
    def fill(self, parameter: Tensor, name: str) -> None:
        """Copy the tensor `name` into `parameter`."""
        parameter.copy_(self.take(name, tuple(parameter.shape)))

    @torch.no_grad()
    def fill_conv(self, layer: nn.Module, name: str) -> None:
        """Convolution and batch normalisation in one: w' = w s, b' = beta - mean s, s = gamma / sqrt(var +
        1e-5).

        A 1x1 convolution may be a linear layer, which is the same on channels-last maps.
        """
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        assert layer.bias is not None
        width = (layer.weight.shape[0],)
        gamma, beta = self.take(f"{name}.bn.weight", width), self.take(f"{name}.bn.bias", width)
        mean, variance = (
            self.take(f"{name}.bn.running_mean", width),
            self.take(f"{name}.bn.running_var", width),
        )
        scale = gamma / torch.sqrt(variance + 1e-5)
        shape = tuple(layer.weight.shape) + (1,) * (4 - layer.weight.ndim)
        weight = self.take(f"{name}.c.weight", shape) * scale[:, None, None, None]
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(beta - mean * scale)

    @torch.no_grad()
    def fill_normed_linear(
        self, linear: nn.Linear, norm: str, name: str, reorder: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Affine part of a layer normalisation folded into the linear layer behind it: W (g x + c) + b.

        Args:
            linear: Layer to fill.
            norm: Name of the layer normalisation.
            name: Name of the linear layer.
            reorder: Permutation of the output rows.
        """
        gain = self.take(f"{norm}.weight", (linear.in_features,))
        shift = self.take(f"{norm}.bias", (linear.in_features,))
        weight = self.take(f"{name}.weight", tuple(linear.weight.shape))
        bias = self.take(f"{name}.bias", tuple(linear.bias.shape)) + weight @ shift
        weight = weight * gain
        linear.weight.copy_(weight if reorder is None else reorder(weight))
        linear.bias.copy_(bias if reorder is None else reorder(bias))

    def finish(self, ignore: tuple[str, ...]) -> None:
        """Raise if a tensor was never taken, other than step counters and those that begin as in `ignore`."""
        rest = [name for name in self._state if name not in self._taken and not name.startswith(ignore)]
        rest = [name for name in rest if not name.endswith("num_batches_tracked")]
        if rest:
            raise ValueError(
                f"these are not the weights of {self._model}: {rest[0]} is unexpected; pass {self._remedy}"
            )
