"""Vision transformers through `transformers`: DINOv2 with and without registers, DINOv3, plain ViT.

How positions and norms are treated, against the published DINOv2 hub settings and transformers 5.23:

- DINOv2 without registers resizes its position embedding by a scale factor of (side + 0.1) / 37, bicubic
  without antialias. transformers passes the size instead of the factor, which samples at slightly other
  places. We resize as DINOv2 does.
- DINOv2 with registers resizes to the size itself, bicubic with antialias (its hub entries say so); transformers
  does the same.
- `hidden_states` of all four families are taken before the last normalisation. With `final_norm` we apply it
  to every chosen layer, as DINOv2's `get_intermediate_layers` does by default; on the last layer that is
  `x_norm_patchtokens`.
- A plain ViT's position embedding is resized as transformers does (bicubic to the size, no antialias); its
  authors published no rule. DINOv3 has rotary positions and resizes nothing.
- transformers takes every table of positions for a square: one trained on 4 x 9 patches is read as 6 x 6, and one
  of 4 x 6 not at all. We take its sides from `image_size` of the configuration, and resize it ourselves where they
  differ.
"""

import hashlib
import re
import shutil
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from saot.features.base import FeatureSettings, Keyed, Padded, check_size, pixels_on
from saot.features.grid import FeatureKey
from saot.features.published import (
    STATISTICS_FILE,
    download,
    hash_files,
    is_repository,
    load_model,
    local_folder,
    pixel_statistics,
    require_libraries,
)

_IMAGENET = tuple(255 * x for x in (0.485, 0.456, 0.406)), tuple(255 * x for x in (0.229, 0.224, 0.225))
_HALF = ((127.5,) * 3, (127.5,) * 3)
_CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "vit": "ViTModel",
}
Rule = Literal["dinov2", "registers", "plain"]
_RULES: dict[str, Rule] = {"dinov2": "dinov2", "dinov2_with_registers": "registers", "vit": "plain"}
_DINOV3 = {"small": "vits16", "base": "vitb16", "large": "vitl16", "huge": "vith16plus", "7b": "vit7b16"}
_HEADS = ("classifier.", "pooler.", "head.")  # parts of a published model that tokens do not pass through
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "*.index.json",
)


def hub_name(name: str) -> str | None:
    """The hub's name of a known backbone, `OWNER/NAME` unchanged, None for anything else.

    Example:
        >>> hub_name("dinov2-large"), hub_name("dinov2-large-reg"), hub_name("vgg")
        ('facebook/dinov2-large', 'facebook/dinov2-with-registers-large', None)
    """
    if match := re.fullmatch(r"dinov2-(small|base|large|giant)(-reg)?", name):
        return f"facebook/dinov2-{'with-registers-' if match[2] else ''}{match[1]}"
    if match := re.fullmatch(r"dinov3-(\w+)", name):
        return f"facebook/dinov3-{_DINOV3[match[1]]}-pretrain-lvd1689m" if match[1] in _DINOV3 else None
    if match := re.fullmatch(r"vit-(base|large)", name):
        return f"google/vit-{match[1]}-patch16-224-in21k"
    return name if is_repository(name) else None


class HubViT(Keyed):
    """A frozen ViT as a `Backbone`; its weights are read at the first picture."""

    def __init__(self, settings: FeatureSettings) -> None:
        require_libraries(f"backbone {settings.name}", "transformers", "huggingface_hub")
        self._settings, self.device = settings, settings.device
        self._folder = local_folder(Path(settings.weights)) if settings.weights else _download(settings.name)
        self._config = _read_config(self._folder, settings.name)
        patch_size = _patch_size(self._config, self._folder)
        self._config.patch_size = patch_size  # transformers' ViT cannot divide by a pair
        self._grid = _trained_grid(self._config, patch_size, self._folder)
        default = 1008 if patch_size == 14 else max(1, round(1024 / patch_size)) * patch_size
        self._size = default if settings.size is None else settings.size
        size_text = check_size(self._size, patch_size, pads=True)
        self._layers = _resolve_layers(settings.layers, int(self._config.num_hidden_layers))
        published = _HALF if self._config.model_type == "vit" else _IMAGENET
        mean, deviation = pixel_statistics(self._folder, published)
        self._key = FeatureKey(
            backbone=settings.name,
            weights_sha256=_hash_weights(self._folder, self._grid),
            size=size_text,
            layers=tuple(str(layer) for layer in self._layers),
            final_norm=settings.final_norm is not False,
            l2_norm=settings.l2_norm,
            pad=isinstance(self._size, Padded),
            patch_size=patch_size,
            dim=int(self._config.hidden_size) * len(self._layers),
            resize="pillow-bicubic",
            pixel_mean=mean,
            pixel_deviation=deviation,
            precision=settings.precision,
        )

    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n d"]:
        return self.batch_tokens(image[None])[0]

    @property
    def widths(self) -> tuple[int, ...]:
        return (int(self._config.hidden_size),) * len(self._layers)

    @torch.no_grad()
    def batch_tokens(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """`tokens` of several pictures at once."""
        return self.network_tokens(images).float().cpu()

    def network_tokens(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """`tokens` of several pictures, on the network's device, in its precision and with its gradient."""
        return self.pixel_tokens(pixels_on(images, self.device))

    def pixel_tokens(self, pixels: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """See `saot.features.Traceable`."""
        model, (height, width) = self._model, pixels.shape[1:3]
        pixels = self.normalised(self.on_square(pixels)).to(model.dtype)
        options = {"interpolate_pos_encoding": True} if self._config.model_type == "vit" else {}
        outputs = model(pixels.permute(0, 3, 1, 2), output_hidden_states=True, **options)
        extra = 1 + int(getattr(self._config, "num_register_tokens", 0))  # the class token and the registers
        chosen = [outputs.hidden_states[layer + 1][:, extra:] for layer in self._layers]
        if self._key.final_norm:
            norm = model.norm if self._config.model_type == "dinov3_vit" else model.layernorm
            chosen = [norm(tokens) for tokens in chosen]
        return self.off_square(torch.cat(chosen, -1), (height, width))

    @property
    def network(self) -> nn.Module:
        """The network; its weights are read when it is first asked for."""
        return self._model

    @property
    def attention_blocks(self) -> list[nn.Module]:
        """Its blocks, first to last."""
        depth = int(self._config.num_hidden_layers)
        lists = (each for each in self.network.modules() if isinstance(each, nn.ModuleList))
        return list(next(blocks for blocks in lists if len(blocks) == depth))

    def save(self, place: Path) -> Path:
        """Write the network as it is now as a folder that `transformers` and `load_backbone` read.

        Configuration and weights are those of `save_pretrained`; the file of pixel statistics comes along.
        """
        unfinished = place.with_name(f"{place.name}.unfinished")
        for folder in (unfinished, place):
            shutil.rmtree(folder, ignore_errors=True)
        self._model.save_pretrained(unfinished)
        if (self._folder / STATISTICS_FILE).is_file():
            shutil.copyfile(self._folder / STATISTICS_FILE, unfinished / STATISTICS_FILE)
        unfinished.rename(place)
        return place

    @cached_property
    def _model(self) -> Any:
        return _load_model(self._folder, self._config, self._settings, self._grid)


def resize_positions(
    table: Float[Tensor, "1 p d"], height: int, width: int, trained: tuple[int, int], rule: Rule = "dinov2"
) -> Float[Tensor, "1 q d"]:
    """A position embedding for a grid of `height` x `width` patches, bicubic, as the network's authors resize theirs.

    Args:
        table: Class token first, then the trained grid, row-major.
        height: Rows of patches.
        width: Patches a row.
        trained: Rows and columns of the trained grid.
        rule: "dinov2" resizes by the factor (side + 0.1) / trained side, "registers" to the size with antialias,
            "plain" to the size without.
    """
    if (height, width) == trained:
        return table
    grid = table[:, 1:].reshape(1, *trained, -1).permute(0, 3, 1, 2).float()
    if rule == "dinov2":  # the offset guards against rounding down
        factor = ((height + 0.1) / trained[0], (width + 0.1) / trained[1])
        grid = nn.functional.interpolate(grid, scale_factor=factor, mode="bicubic", align_corners=False)
    else:
        size, antialias = (height, width), rule == "registers"
        grid = nn.functional.interpolate(grid, size, mode="bicubic", align_corners=False, antialias=antialias)
    assert tuple(grid.shape[2:]) == (height, width)
    return torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)], 1)


def _load_model(folder: Path, config: Any, settings: FeatureSettings, trained: tuple[int, int] | None) -> Any:
    """The network with its weights, checked name by name."""
    import transformers

    model_class = getattr(transformers, _CLASSES[config.model_type])
    extra = {"add_pooling_layer": False} if config.model_type == "vit" else {}
    model = load_model(model_class, folder, settings.name, _HEADS, config=config, use_safetensors=True, **extra)
    if trained is not None and ((rule := _RULES[config.model_type]) == "dinov2" or trained[0] != trained[1]):
        embeddings = model.embeddings
        embeddings.interpolate_pos_encoding = partial(_positions, embeddings, config.patch_size, trained, rule)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    return model.eval().requires_grad_(False).to(settings.device, dtype)


def _positions(
    embeddings: Any, patch_size: int, trained: tuple[int, int], rule: Rule, tokens: Tensor, height: int, width: int
) -> Tensor:
    """Stands in for the method of the last three arguments in transformers."""
    return resize_positions(
        embeddings.position_embeddings, height // patch_size, width // patch_size, trained=trained, rule=rule
    )


def _patch_size(config: Any, folder: Path) -> int:
    """Side of a patch in pixels."""
    rows, columns = _pair(config.patch_size, "patch_size", folder)
    if rows != columns:
        raise ValueError(
            f"expected square patches; {folder / 'config.json'} has patch_size {rows} x {columns}: pass another folder"
        )
    return rows


def _trained_grid(config: Any, patch_size: int, folder: Path) -> tuple[int, int] | None:
    """Rows and columns of patches of the table of positions; None where the network has none."""
    if config.model_type not in _RULES:
        return None
    height, width = _pair(config.image_size, "image_size", folder)
    if min(height, width) < patch_size:
        raise ValueError(
            f"expected an image_size of at least a patch of {patch_size} pixels; {folder / 'config.json'} has {height} "
            f"x {width}: fetch it again"
        )
    return height // patch_size, width // patch_size


def _pair(said: Any, name: str, folder: Path) -> tuple[int, int]:
    """Height and width of what a configuration says, which is one number or both."""
    sides = tuple(said) if isinstance(said, list | tuple) else (said, said)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(
            f"expected {name} in {folder / 'config.json'} to be a whole number of pixels or two, height and width; got "
            f"{said!r}: fetch it again"
        )
    return sides[0], sides[1]


def _download(name: str) -> Path:
    repository = hub_name(name)
    assert repository is not None
    gated = "log in with `hf auth login` if the model is gated, or pass --weights FOLDER with a copy"
    return download(repository, _FILES, gated)


def _read_config(folder: Path, name: str) -> Any:
    """The model's configuration, if it is of the family that `name` says."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(
            f"{folder / 'config.json'} is not a configuration transformers can read; fetch it again"
        ) from error
    repository = hub_name(name) or ""
    expected = next(
        (
            family
            for part, family in (
                ("facebook/dinov2-with-registers", "dinov2_with_registers"),
                ("facebook/dinov2", "dinov2"),
                ("facebook/dinov3", "dinov3_vit"),
                ("google/vit", "vit"),
            )
            if repository.startswith(part)
        ),
        config.model_type,
    )
    if config.model_type not in _CLASSES or config.model_type != expected:
        wanted = expected if expected in _CLASSES else f"one of {', '.join(_CLASSES)}"
        raise ValueError(
            f"backbone {name} needs a model of type {wanted}, but {folder} holds {config.model_type!r}; "
            "pass another folder"
        )
    return config


def _resolve_layers(layers: tuple[str, ...] | None, depth: int) -> tuple[int, ...]:
    """Block numbers from 0; negative ones count from the end."""
    resolved = []
    for layer in layers or ("-1",):
        number = int(layer) if re.fullmatch(r"-?\d+", layer) else depth
        if not -depth <= number < depth:
            raise ValueError(
                f"layer {layer!r} does not exist; this network has blocks 0 to {depth - 1}, or -1 for the last"
            )
        resolved.append(number % depth)
    return tuple(resolved)


def _hash_weights(folder: Path, trained: tuple[int, int] | None) -> str:
    """SHA-256 of the weight file; of the list of hashes if the weights come in several files.

    Of a table of positions that is no square its sides belong to it: 4 x 9, 9 x 4 and 6 x 6 have equal weights.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ValueError(f"expected model.safetensors in {folder}, found no weights; pass the folder of a whole model")
    found = hash_files(files)
    if trained is None or trained[0] == trained[1]:
        return found
    return hashlib.sha256(f"{found} {trained[0]}x{trained[1]}".encode()).hexdigest()
