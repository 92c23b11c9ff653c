"""Encoders that can be trained: pixels to maps of several scales, for the networks of T2S-DA.

Three kinds, all with raw RGB between 0 and 255 as input:

- MiT-B0 .. B5 (SegFormer's encoder, that of DAFormer) through `transformers`, which uses 1e-5 in every layer
  normalisation where the authors have 1e-6 in most; drop path as the weights' configuration has it (published: 0.1).
- ResNet-101 through `transformers`, made stride 8 as DeepLab-V2 has it: the strides of the last two stages become
  dilations of 2 and 4 behind them. What came before keeps its dilation, so the published weights see what they were
  trained on: every second (fourth) cell is that of the network with strides. The published weights have a 7x7 stem
  and the stride in the 3x3 convolution; DAFormer's CNN baseline has ResNet-101-v1c, with a stem of three 3x3
  convolutions (FACTS T-5).
- MobileSAM's TinyViT. Its batch normalisation, and the affine part of its layer normalisations, are folded into the
  weights and trained with them: frozen batch normalisation. The last map is that of stage 3, before the neck: the
  neck was made for SAM's mask decoder, and a head of ours embeds each stage itself.
"""

import json
import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saot.data.files import write_atomic
from saot.features.tinyvit import PIXEL_DEVIATION, PIXEL_MEAN, TinyViT
from saot.features.weights import read_weights

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_FORMAT = "saot-encoder-1"
_MIT_DEPTHS = ((2, 2, 2, 2), (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 18, 3), (3, 8, 27, 3), (3, 6, 40, 3))  # B0 .. B5
_MIT_WIDTHS = ((32, 64, 160, 256), *((64, 128, 320, 512),) * 5)
_RESNET_DEPTHS = (3, 4, 23, 3)  # ResNet-101
_MODELS = {"segformer": "Segformer", "resnet": "ResNet"}  # family: what its classes in transformers begin with
_HEADS = ("classifier.", "decode_head.")  # parts of a published model that the maps do not pass through
_NAMES = "mit-b0 .. mit-b5, resnet-101, mobile-sam"
_HUB_FILES = ("config.json", "preprocessor_config.json")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # the second where nobody converted the first


class Encoder(nn.Module):
    """Pixels to maps of several scales.

    Attributes:
        name: As given to `load_encoder`.
        family: `segformer`, `resnet` or `tinyvit`.
        widths: Channels of each map, finest first.
        strides: Pixels per cell of each map.
        multiple: Both sides of the input must be a multiple of it, pixels.
        pixel_mean, pixel_deviation: What is taken off R, G, B and what they are divided by, 0 to 255.
        final_norm: Whether the last map comes out of a normalisation.
    """

    family: str
    final_norm: bool = False
    model: Any
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, name: str, widths: tuple[int, ...], strides: tuple[int, ...], multiple: int, statistics: Statistics
    ) -> None:
        super().__init__()
        self.name, self.widths, self.strides, self.multiple = name, widths, strides, multiple
        self.pixel_mean, self.pixel_deviation = statistics
        self.register_buffer("mean", torch.tensor(self.pixel_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(self.pixel_deviation).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """Maps (b, d, h / stride, w / stride), finest first.

        Args:
            pixels: RGB between 0 and 255; both sides multiples of `multiple`.

        Raises:
            ValueError: If they are not.
        """
        height, width = pixels.shape[-2:]
        if height % self.multiple or width % self.multiple or not height or not width:
            raise ValueError(
                f"encoder {self.name} needs both sides to be multiples of {self.multiple}, but the input is "
                f"{height}x{width} (height x width); crop or resize it"
            )
        return self.maps((pixels - self.mean) / self.deviation)

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The maps, from normalised pixels."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """All that is needed to build the network again, but for its weights; plain JSON."""
        found = {"family": self.family, "pixel_mean": self.pixel_mean, "pixel_deviation": self.pixel_deviation}
        return found if self.family == "tinyvit" else {**found, "network": self.model.config.to_dict()}


class MixTransformer(Encoder):
    """SegFormer's encoder; each map ends in a layer normalisation."""

    family = "segformer"
    final_norm = True

    def __init__(self, name: str, model: Any, statistics: Statistics) -> None:
        config = model.config
        strides = tuple(accumulate(config.strides, mul))
        # keys and values of a stage are `sr_ratio` times coarser; nothing may be left over at the edge
        multiple = math.lcm(*(stride * ratio for stride, ratio in zip(strides, config.sr_ratios, strict=True)))
        super().__init__(name, tuple(config.hidden_sizes), strides, multiple, statistics)
        self.model = model

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(pixels, output_hidden_states=True).hidden_states)


class DilatedResNet(Encoder):
    """A ResNet whose last two stages are as fine as the one before them."""

    family = "resnet"

    def __init__(self, name: str, model: Any, statistics: Statistics) -> None:
        config, stages = model.config, model.encoder.stages
        first = 8 if config.downsample_in_first_stage else 4
        kept = max(1, len(stages) - 2)
        strides = tuple(first * 2 ** min(stage, kept - 1) for stage in range(len(stages)))
        super().__init__(name, tuple(config.hidden_sizes), strides, strides[-1], statistics)
        dilation = 1
        for stage in stages[kept:]:
            _dilate(stage, dilation)
            dilation *= 2
        self.model = model

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(pixels, output_hidden_states=True).hidden_states[1:])


class TinyViTEncoder(Encoder):
    """MobileSAM's TinyViT without its neck: stem, stages 0 and 1, and stage 3, which is as coarse as stage 1."""

    family = "tinyvit"

    def __init__(self, name: str, statistics: Statistics = (PIXEL_MEAN, PIXEL_DEVIATION)) -> None:
        super().__init__(name, (64, 128, 160, 320), (4, 8, 16, 16), 16, statistics)
        self.model = TinyViT(neck=False)

    def maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixels.permute(0, 2, 3, 1))
        return tuple(outputs[name].permute(0, 3, 1, 2) for name in ("stem", "stage0", "stage1", "stage3"))


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


def _dilate(stage: Any, dilation: int) -> None:
    """Stride 2 becomes 1; 3x3 convolutions up to there reach `dilation` far, those behind it twice as far."""
    reach = dilation
    for layer in stage.layers:
        for conv in _convolutions(layer.shortcut):
            conv.stride = (1, 1)  # 1x1, nothing to dilate
        for conv in _convolutions(layer.layer):
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (reach, reach)
            if conv.stride == (2, 2):
                conv.stride, reach = (1, 1), 2 * dilation


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]


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
