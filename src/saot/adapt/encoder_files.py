"""Trainable encoders from the hub, from a folder or file, from a seed, and from an `encoder.safetensors` of ours."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from saot.adapt.encoders import DilatedResNet, Encoder, MixTransformer, TinyViTEncoder
from saot.data import write_atomic
from saot.features import (
    PIXEL_DEVIATION,
    PIXEL_MEAN,
    OneSentence,
    Statistics,
    download,
    first_line,
    is_repository,
    load_model,
    local_folder,
    pixel_statistics,
    read_weights,
    require_libraries,
)
from saot.runs import check_sum, first_weights

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
        >>> import torch
        >>> encoder = load_encoder("mobile-sam", "random")
        >>> encoder.strides, [tuple(each.shape) for each in encoder(torch.zeros(1, 3, 32, 64))][-1]
        ((4, 8, 16, 16), (1, 320, 2, 4))
    """
    repository = _repository(name)
    with first_weights(seed):
        if name == "mobile-sam":
            encoder: Encoder = _load_tinyvit(name, weights)
        elif weights == "random":
            encoder = _wrap(name, _new_model(*_published_settings(name)), (PIXEL_MEAN, PIXEL_DEVIATION))
        else:
            _require_transformers(name)
            folder = _download(repository) if weights is None else local_folder(Path(weights), _WEIGHT_FILES, name)
            statistics = pixel_statistics(folder, (PIXEL_MEAN, PIXEL_DEVIATION), whole=True)
            encoder = _wrap(name, _load_model(name, folder), statistics)
    return encoder.eval()


def save_encoder(path: Path, encoder: Encoder) -> None:
    """One safetensors file with all that `read_encoder` needs.

    Raises:
        OSError: If it cannot be written.
    """
    from safetensors.torch import save

    # channels-last weights are stored as their shape says; reading gives them back in the network's own order
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    told: dict[str, Any] = {"format": _FORMAT, "name": encoder.name, "config": encoder.settings()}
    told["check"] = check_sum(told, tensors)
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
        check = told.pop("check", None)
        if check is not None and check != check_sum(told, tensors):  # files of earlier versions have none
            raise ValueError("it is damaged: its check sum differs")
        if told["format"] != _FORMAT:
            raise ValueError(f"its format is {told['format']}, not {_FORMAT}")
        name, settings = str(told["name"]), told["config"]
        family, network = settings["family"], dict(settings.get("network", {}))
        mean, deviation = (tuple(map(float, settings[name])) for name in ("pixel_mean", "pixel_deviation"))
        if len(mean) != 3 or len(deviation) != 3:
            raise ValueError("pixel_mean and pixel_deviation have not three numbers each")
        statistics = mean, deviation
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} was not written by save_encoder ({first_line(error)}); pass the encoder.safetensors of a run"
        ) from error
    # a configuration of other values fails in the words of transformers
    unlike = OneSentence(f"the encoder that {path} describes cannot be built", "write it again")
    with first_weights(0), unlike:  # all of them are read over
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
    if name == "mobile-sam" or is_repository(name):
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
    return load_model(getattr(transformers, f"{_MODELS[config.model_type]}Model"), folder, name, _HEADS, config=config)


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
    require_libraries(f"encoder {name}", "transformers")


def _download(repository: str) -> Path:
    """Local folder of a hub model; plain pickles only if there is no other."""
    for file in _WEIGHT_FILES:
        folder = download(repository, (*_HUB_FILES, file), "or pass the folder of a copy")
        if (folder / file).is_file():
            return folder
    raise ValueError(f"{repository} on the hub has none of {', '.join(_WEIGHT_FILES)}; pass the folder of a copy")


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    from safetensors import safe_open

    with OneSentence(f"{path} is not a whole safetensors file", "write it again"), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
