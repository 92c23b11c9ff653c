"""Trainable encoders from the hub, from a folder or file, from a seed, and from an `encoder.safetensors` of ours."""

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saot.adapt.encoders import DilatedResNet, Encoder, MixTransformer, Statistics, TinyViTEncoder
from saot.data import write_atomic
from saot.features import PIXEL_DEVIATION, PIXEL_MEAN, read_weights

_FORMAT = "saot-encoder-1"
_MIT_DEPTHS = ((2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 18, 3), (3, 8, 27, 3), (3, 6, 40, 3))  # B0 .. B5
_MIT_WIDTHS = ((32, 64, 160, 256), *((64, 128, 320, 512),) * 5)
_RESNET_DEPTHS = (3, 4, 23, 3)  # ResNet-101
_RESNETS = {  # kind of layer and depths
    ("basic", (2, 2, 2, 2)): "resnet-18",
    ("bottleneck", (2, 2, 2, 2)): "resnet-26",
    ("basic", (3, 4, 6, 3)): "resnet-34",
    ("bottleneck", (3, 4, 6, 3)): "resnet-50",
    ("bottleneck", _RESNET_DEPTHS): "resnet-101",
    ("bottleneck", (3, 8, 36, 3)): "resnet-152",
}
_MODELS = {"segformer": "Segformer", "resnet": "ResNet"}  # family: what its classes in transformers begin with
_HEADS = ("classifier.", "decode_head.")  # parts of a published model that the maps do not pass through
_NAMES = "mit-b0 .. mit-b5, resnet-101, mobile-sam"
_HUB_FILES = ("config.json", "preprocessor_config.json")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the second where nobody converted the first


def load_encoder(name: str, weights: str | Path | None = None, seed: int = 0) -> Encoder:
    """An encoder by name, in evaluation mode, every weight trainable.

    Args:
        name: `mit-b0` .. `mit-b5`, `resnet-101`, `mobile-sam`, or `OWNER/NAME` of a Segformer or ResNet.
        weights: mobile-sam: the published `.pt` or a `.safetensors`; the others: a folder that `save_pretrained`
            wrote, or None for the hub (`nvidia/mit-b5`, `microsoft/resnet-101`). "random" asks for random ones.
        seed: Of random weights.

    Raises:
        ValueError: If the name is not known, or the weights are missing or of another network.

    Example:
        >>> encoder = load_encoder("mobile-sam", "random")
        >>> encoder.strides, [tuple(each.shape) for each in encoder(torch.zeros(1, 3, 32, 64))][-1]
        ((4, 8, 16, 16), (1, 320, 2, 4))
    """
    repository = _repository(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "mobile-sam":
            encoder: Encoder = _load_tinyvit(name, weights)
        elif weights == "random":
            encoder = _wrap(name, _new_model(*_published_settings(name)), (PIXEL_MEAN, PIXEL_DEVIATION))
        else:
            _require_transformers(name)
            folder = _download(repository) if weights is None else _local_folder(name, Path(weights))
            encoder = _wrap(name, _load_model(name, folder), _pixel_statistics(folder))
    return encoder.eval()


def save_encoder(path: Path, encoder: Encoder) -> None:
    """One safetensors file with all that `read_encoder` needs.

    Raises:
        OSError: If it cannot be written.
    """
    from safetensors.torch import save

    # channels-last weights are stored as their shape says; reading gives them back in the network's own order
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    told = {"format": _FORMAT, "name": encoder.name, "config": encoder.settings()}
    # one key alone: safetensors writes several in any order, and equal encoders should be equal files
    write_atomic(path, save(tensors, {"saot": json.dumps(told, sort_keys=True)}))


def read_encoder(path: Path) -> Encoder:
    """The encoder that `save_encoder` wrote, in evaluation mode, every weight trainable.

    Raises:
        ValueError: If there is no such file, it was not written by `save_encoder`, or it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"expected an encoder at {path}, found no file; pass the encoder.safetensors of an adaptation")
    tensors, metadata = _read_file(path)
    try:
        told = json.loads(metadata["saot"])
        if told["format"] != _FORMAT:
            raise ValueError(f"its format is {told['format']}, not {_FORMAT}")
        name, settings = told["name"], told["config"]
        family, network = settings["family"], settings.get("network", {})
        statistics = (tuple(settings["pixel_mean"]), tuple(settings["pixel_deviation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} was not written by save_encoder ({_first_line(error)}); pass the encoder.safetensors of a run"
        ) from error
    with torch.random.fork_rng(devices=[]):
        if family == TinyViTEncoder.family:
            encoder: Encoder = TinyViTEncoder(name, statistics)
        else:
            _require_transformers(name)
            encoder = _wrap(name, _new_model(family, network), statistics)
    own = encoder.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) or [key for key in own if own[key].shape != tensors[key].shape]
    if wrong:
        raise ValueError(
            f"{path} does not hold the weights of the {name} it describes: {wrong[0]} is missing, unexpected or of "
            "another shape; write it again with this version of transformers"
        )
    encoder.load_state_dict(tensors)
    return encoder.eval()


def _repository(name: str) -> str:
    """The hub's name of an encoder; of mobile-sam, which is not there, its own."""
    if re.fullmatch(r"mit-b[0-5]", name):
        return f"nvidia/{name}"
    if name == "resnet-101":
        return f"microsoft/{name}"
    if name == "mobile-sam" or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    raise ValueError(f"encoder {name!r} is not known; use one of {_NAMES}, or OWNER/NAME of a Segformer or ResNet")


def _published_settings(name: str) -> tuple[str, dict[str, Any]]:
    """Family and configuration, without a look at the hub; the rest of the configuration is transformers' default."""
    if "/" in name:
        raise ValueError(f"random weights need a name whose size is known, but {name} came; use one of {_NAMES}")
    _require_transformers(name)
    if name == "resnet-101":
        return "resnet", {"depths": list(_RESNET_DEPTHS)}
    number = int(name[-1])
    return "segformer", {"depths": list(_MIT_DEPTHS[number]), "hidden_sizes": list(_MIT_WIDTHS[number])}


def _published_name(config: Any) -> str | None:
    """Which of the published sizes a configuration has; None for a network of another size."""
    if config.model_type == "resnet":
        return _RESNETS.get((config.layer_type, tuple(config.depths)))
    for number, size in enumerate(zip(_MIT_DEPTHS, _MIT_WIDTHS, strict=True)):
        if (tuple(config.depths), tuple(config.hidden_sizes)) == size:
            return f"mit-b{number}"
    return None


def _new_model(family: str, settings: Mapping[str, Any]) -> Any:
    """A network of transformers with random weights."""
    import transformers

    config = getattr(transformers, f"{_MODELS[family]}Config").from_dict(dict(settings))
    return getattr(transformers, f"{_MODELS[family]}Model")(config)


def _wrap(name: str, model: Any, statistics: Statistics) -> Encoder:
    kind = MixTransformer if model.config.model_type == "segformer" else DilatedResNet
    return kind(name, model, statistics)


def _load_model(name: str, folder: Path) -> Any:
    """The network in the folder, its weights checked name by name."""
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # damaged and unknown configurations end in different kinds of error
        raise ValueError(f"{folder / 'config.json'} cannot be read by transformers; fetch it again") from error
    wanted = "segformer" if name.startswith("mit-") else "resnet" if name == "resnet-101" else None
    if config.model_type not in _MODELS or wanted not in (None, config.model_type):
        raise ValueError(
            f"encoder {name} needs a model of type {wanted or ' or '.join(_MODELS)}, but {folder} holds "
            f"{config.model_type!r}; pass another folder"
        )
    published = _published_name(config)
    if published is not None and "/" not in name and published != name:
        raise ValueError(f"encoder {name} was asked for, but {folder} holds {published}; pass its folder or its name")
    config.reshape_last_stage = True  # of a Segformer: a map like the others
    try:
        model, info = getattr(transformers, f"{_MODELS[config.model_type]}Model").from_pretrained(
            folder, config=config, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # other shapes, damaged files and missing ones, too
        raise ValueError(
            f"the weights in {folder} cannot be read as {name} ({_first_line(error)}); fetch the published files again"
        ) from error
    missing = sorted(info["missing_keys"])
    unexpected = sorted(key for key in info["unexpected_keys"] if not key.startswith(_HEADS))
    if missing or unexpected:
        what = f"{missing[0]} is missing" if missing else f"{unexpected[0]} is unexpected"
        raise ValueError(f"the weights in {folder} are not those of {name}: {what}; pass the folder of that model")
    return model


def _load_tinyvit(name: str, weights: str | Path | None) -> TinyViTEncoder:
    """With published weights, or random ones that keep the size of what passes: no normalisation would."""
    if weights is None:
        raise ValueError(
            f"encoder {name} needs its weights; pass the path of the published mobile_sam.pt, or random for none"
        )
    encoder = TinyViTEncoder(name)
    if weights != "random":
        encoder.model.load_published(read_weights(Path(weights)))
        return encoder
    for layer in encoder.model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return encoder


def _require_transformers(name: str) -> None:
    if find_spec("transformers") is None:
        raise ValueError(f"encoder {name} needs transformers, which is not installed; pip install 'saot[vit]'")


def _local_folder(name: str, folder: Path) -> Path:
    if not (folder / "config.json").is_file() or not any((folder / file).is_file() for file in _WEIGHT_FILES):
        raise ValueError(
            f"expected a folder with config.json and model.safetensors for {name} at {folder}, found none; pass the "
            "folder that save_pretrained wrote or a hub snapshot"
        )
    return folder


def _download(repository: str) -> Path:
    """Local folder of a hub model, downloaded unless it is in the cache; plain pickles only if there is no other."""
    from huggingface_hub import snapshot_download

    try:
        for file in _WEIGHT_FILES:
            folder = Path(snapshot_download(repository, allow_patterns=[*_HUB_FILES, file]))
            if (folder / file).is_file():
                return folder
    except Exception as error:  # unreachable, unknown, gated and offline are different classes in each version
        raise ValueError(
            f"could not get {repository} from the hub ({_first_line(error)}); check the name and the network, or pass "
            "the folder of a copy"
        ) from error
    raise ValueError(f"{repository} on the hub has none of {', '.join(_WEIGHT_FILES)}; pass the folder of a copy")


def _pixel_statistics(folder: Path) -> Statistics:
    """Mean and deviation of 0-255 RGB, from the folder or else ImageNet's, which both families have."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return PIXEL_MEAN, PIXEL_DEVIATION
    try:
        values = json.loads(path.read_text())
        mean, deviation = (tuple(255 * float(value) for value in values[key]) for key in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not JSON with image_mean and image_std; fetch it again or delete it") from error
    return mean, deviation


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # damaged files end in several kinds of error
        raise ValueError(f"{path} is not a whole safetensors file ({_first_line(error)}); write it again") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
