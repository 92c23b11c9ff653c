"""Features of Stable Diffusion's UNet through `diffusers`, as DIFT and sd-dino use them.

The picture, scaled to [-1, 1], is encoded by the VAE (mean of the posterior, times the scaling factor), mixed with
noise for one timestep, and given to the UNet with the empty prompt; maps inside its upward path are the features.

What the two papers' programs do, and what we do:

| | DIFT | sd-dino | here |
| --- | --- | --- | --- |
| model | SD 2.1 | SD 1.5 inside ODISE | SD 1.5, or any SD 1 or 2 folder |
| input, pixels | 768 x 768, stretched | 960, padded to a square | long side 960, not padded; `pad:960` pads |
| timestep of 1000 | 261 | 100 | 100; a layer `up1@261` says otherwise |
| noise | mean of 8 draws | seed 42, drawn 64 x 64 and enlarged | seed 42, drawn at the latent's own size |
| posterior | sampled | mean | mean |
| prompt | `a photo of a CLASS` | ODISE's learned caption of the picture | empty |
| layer | `up1` | `s3`, `s4`, `s5`, reduced by a PCA of each pair | `up1`; the PCA is `--pca` of matching |

Layers: `up0`, `up1`, ... are the outputs of the UNet's up-blocks; for SD 1.5 `up1` has 1280 numbers for every 16
pixels. sd-dino's `s5` .. `s2` lie inside the same blocks: what enters the last residual block of `up0` .. `up3`
before the skip is joined on, thus before the block enlarges its map (SD 1.5: 1280, 1280, 640, 320 numbers for
every 64, 32, 16, 8 pixels). So sd-dino's `s4` is not the output of `up1`: it is half as fine and one residual
block earlier. Several layers are resampled to the finest of their grids and concatenated, unnormalised.
"""

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.data import read_record
from saot.features.base import FeatureSettings, Keyed, Padded, check_size, pixels_on, resample_tokens
from saot.features.grid import FeatureKey
from saot.features.published import OneSentence, download, hash_files, is_repository, require_libraries

_DEFAULT = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_LAYER = "up1"  # DIFT's
_TIMESTEP = 100  # sd-dino's
_LONG_SIDE = 960  # sd-dino's
_SEED = 42  # sd-dino's
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*.json",
    "tokenizer/merges.txt",
    *(f"{part}/{name}" for part in _WEIGHTS for name in ("config.json", "*.index.json")),
    *(f"{part}/{stem}{end}.safetensors" for part, stem in _WEIGHTS.items() for end in ("", "-*")),
)


@dataclass(frozen=True)
class _Layer:
    """A map of the UNet: of which up-block, inside it or at its end, pixels a token, numbers a token."""

    block: int
    inner: bool
    patch_size: int
    dim: int


@dataclass(frozen=True)
class _Network:
    """What one pass needs."""

    vae: Any
    unet: Any
    scheduler: Any
    prompt: Float[Tensor, "1 t d"]


class StableDiffusion(Keyed):
    """A frozen UNet of Stable Diffusion 1 or 2 as a `Backbone`; its weights are read at the first picture."""

    def __init__(self, settings: FeatureSettings) -> None:
        libraries = ("diffusers", "transformers", "huggingface_hub")
        require_libraries(f"backbone {settings.name}", *libraries, extra="diffusion")
        if settings.final_norm:
            raise ValueError("stable-diffusion has no final norm behind its layers; leave the setting out")
        self._settings, self.device = settings, settings.device
        self._folder = _find_folder(settings.weights or _DEFAULT)
        known, steps = _read_layout(self._folder)
        names, self._timestep = _resolve_layers(settings.layers or (_LAYER,), known, steps)
        self._layers = tuple(known[name] for name in names)
        patch_size = min(layer.patch_size for layer in self._layers)
        self._size = max(1, round(_LONG_SIDE / patch_size)) * patch_size if settings.size is None else settings.size
        size_text = check_size(self._size, patch_size, pads=True)
        self._key = FeatureKey(
            backbone=settings.name,
            weights_sha256=_hash_weights(self._folder),
            size=size_text,
            layers=tuple(f"{name}@{self._timestep}" for name in names),
            final_norm=False,
            l2_norm=settings.l2_norm,
            pad=isinstance(self._size, Padded),
            patch_size=patch_size,
            dim=sum(layer.dim for layer in self._layers),
            resize="pillow-bicubic",
            pixel_mean=(127.5,) * 3,
            pixel_deviation=(127.5,) * 3,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(layer.dim for layer in self._layers)

    @torch.no_grad()
    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n d"]:
        network, device = self._network, self._settings.device
        own, square = (image.shape[0], image.shape[1]), self.on_square(pixels_on(image, device))
        size = (square.shape[0], square.shape[1])
        pixels = square / 127.5 - 1
        posterior = network.vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist
        latents = posterior.mean * network.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(_SEED)).to(device)
        timestep = torch.tensor([self._timestep], device=device)
        noisy = network.scheduler.add_noise(latents, noise, timestep)
        maps = _run_unet(network.unet, noisy, timestep, network.prompt, self._layers)
        blocks = [
            resample_tokens(maps[layer][0].flatten(1).T, size, layer.patch_size, size, self.patch_size)
            for layer in self._layers
        ]
        return self.off_square(torch.cat(blocks, -1), own).float().cpu()

    @cached_property
    def _network(self) -> _Network:
        return _load_network(self._folder, self._settings)


class _Reached(Exception):
    """All chosen maps are there; the rest of the UNet need not run."""


def _run_unet(
    unet: Any,
    noisy: Float[Tensor, "1 c h w"],
    timestep: Tensor,
    prompt: Float[Tensor, "1 t d"],
    layers: tuple[_Layer, ...],
) -> dict[_Layer, Tensor]:
    """Maps of the chosen layers; the UNet stops behind the last of them."""
    maps: dict[_Layer, Tensor] = {}

    def keep(layer: _Layer, output: Any) -> None:
        maps[layer] = output[0] if isinstance(output, tuple) else output
        if len(maps) == len(set(layers)):
            raise _Reached

    hooks = [
        _module_of(unet, layer).register_forward_hook(lambda module, inputs, output, layer=layer: keep(layer, output))
        for layer in set(layers)
    ]
    try:
        unet(noisy, timestep, encoder_hidden_states=prompt)
    except _Reached:
        return maps
    finally:
        for hook in hooks:
            hook.remove()
    raise AssertionError("the UNet ended without its chosen layers")


def _module_of(unet: Any, layer: _Layer) -> Any:
    """The module whose output is the layer."""
    block = unet.up_blocks[layer.block]
    if not layer.inner:
        return block
    return (getattr(block, "attentions", None) or block.resnets)[-2]  # attention follows its residual block


def _resolve_layers(layers: tuple[str, ...], known: dict[str, _Layer], steps: int) -> tuple[tuple[str, ...], int]:
    """Names of the layers, and the timestep that all of them ask for."""
    names, timesteps = [], []
    for layer in layers:
        name, at, step = layer.partition("@")
        if name not in known:
            raise ValueError(f"stable-diffusion has no layer {layer!r}; choose among {', '.join(known)}")
        if at and not (step.isdecimal() and int(step) < steps):
            raise ValueError(f"layer {layer!r} asks for timestep {step!r}; expected a number from 0 to {steps - 1}")
        names.append(name)
        timesteps.append(int(step) if at else _TIMESTEP)
    if len(set(timesteps)) > 1:
        raise ValueError(f"the layers {', '.join(layers)} ask for several timesteps; give all of them the same")
    return tuple(names), timesteps[0]


def _read_layout(folder: Path) -> tuple[dict[str, _Layer], int]:
    """The layers of a pipeline by name, and its number of timesteps, from the configurations alone."""
    unet, vae, text = (_read_json(folder, f"{part}/config.json") for part in _WEIGHTS)
    scheduler = _read_json(folder, "scheduler/scheduler_config.json")
    try:
        widths = tuple(int(width) for width in reversed(unet["block_out_channels"]))
        pixels = 2 ** (len(vae["block_out_channels"]) - 1)  # of the picture, per number of the latent, a side
        fits = unet["in_channels"] == vae["latent_channels"] and unet["cross_attention_dim"] == text["hidden_size"]
        steps = int(scheduler["num_train_timesteps"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the configurations in {folder} lack {error}; pass the folder of a Stable Diffusion 1 or 2 pipeline"
        ) from error
    if not fits or unet.get("addition_embed_type") or unet.get("class_embed_type"):
        raise ValueError(
            f"the UNet in {folder} wants other inputs than a latent and a prompt (inpainting, XL and the like do); "
            "pass the folder of a Stable Diffusion 1 or 2 pipeline"
        )
    known = {}
    for block, width in enumerate(widths):
        above = len(widths) - 1 - block  # halvings of the latent that are left at the block's start
        known[f"up{block}"] = _Layer(block, False, pixels * 2 ** max(above - 1, 0), width)
    for block, width in enumerate(widths):
        above = len(widths) - 1 - block
        known[f"s{above + 2}"] = _Layer(block, True, pixels * 2**above, width)
    return known, steps


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ValueError(
            f"expected {name} in {folder}, found none; pass the folder of a whole Stable Diffusion 1 or 2 pipeline"
        )
    return read_record(path, "fetch it again")


def _find_folder(weights: str) -> Path:
    """The folder itself, or the local copy of a hub name."""
    folder = Path(weights)
    if folder.is_dir():
        _read_json(folder, "model_index.json")
        return folder
    if folder.exists() or not is_repository(weights):
        raise ValueError(
            f"expected a folder with model_index.json, unet, vae, text_encoder, tokenizer and scheduler at {weights}, "
            "found none; pass the folder that save_pretrained wrote or OWNER/NAME of a hub model"
        )
    failed = f"there is no folder {weights}, and the hub did not give it either"
    return download(weights, _FILES, "or pass --weights FOLDER with a copy", failed)


def _load_network(folder: Path, settings: FeatureSettings) -> _Network:
    """VAE, UNet, noise schedule and the embedding of the empty prompt; everything frozen."""
    from transformers import CLIPTextModel, CLIPTokenizer

    diffusers: Any = import_module("diffusers")  # it exports its names in a way that type checkers cannot follow
    vae = _load_model(diffusers.AutoencoderKL, folder / "vae", settings.device)
    vae.decoder = None  # half of its memory, and nobody decodes
    unet = _load_model(diffusers.UNet2DConditionModel, folder / "unet", settings.device)
    text_encoder = _load_model(CLIPTextModel, folder / "text_encoder", settings.device)
    unreadable = f"the tokenizer or the scheduler in {folder} cannot be read"
    with OneSentence(unreadable, "fetch the published files again"):
        # any scheduler's file will do: only the schedule of the noise is used, and this class reads it
        scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        length = text_encoder.config.max_position_embeddings
        words = tokenizer("", padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        prompt = text_encoder(words.to(settings.device))[0]
    return _Network(vae, unet, scheduler, prompt)


def _load_model(model_class: Any, folder: Path, device: str) -> Any:
    with OneSentence(f"the weights in {folder} cannot be read", "fetch the published files again"):
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"the weights in {folder} are not whole: {missing[0]} is missing; fetch the files again")
    return model.float().eval().requires_grad_(False).to(device)


def _hash_weights(folder: Path) -> str:
    """SHA-256 of the list of hashes of all weight files: UNet, VAE, text encoder."""
    found = []
    for part, stem in _WEIGHTS.items():
        files = [file for end in ("", "-*") for file in sorted((folder / part).glob(f"{stem}{end}.safetensors"))]
        if not files:
            raise ValueError(f"expected {stem}.safetensors in {folder / part}, found no weights; pass a whole pipeline")
        found += files
    return hash_files(found)
