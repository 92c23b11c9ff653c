"""One way from a picture to frozen tokens, whichever network makes them.

A backbone says how large it wants the picture and turns the resized picture into tokens; `extract` does
everything that is the same for all of them: resize, L2 normalise, write down the provenance.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from saot.data import PatchGrid
from saot.features.forms import rounded
from saot.features.grid import FeatureGrid, FeatureKey, Provenance, grid_under


@dataclass(frozen=True)
class Padded:
    """A square network input: the long side of a picture is brought to `side`, the rest is black, right and below.

    Tokens wholly in the black are dropped.

    Attributes:
        side: Height and width of the square, pixels of network input.
    """

    side: int


InputSize = tuple[int, int] | int | Padded
SizePolicy = InputSize | None
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class FeatureSettings:
    """What a caller chooses; None leaves the choice to the backbone, whose `key` says what it chose.

    Attributes:
        name: One of the known names, or `OWNER/NAME` of a hub model.
        weights: File (mobile-sam, adapted) or folder (transformers) of the weights; None is the published place.
        size: `(height, width)` of network input, an int for the long side, pixels; `Padded` for a square that the
            picture fills in one direction.
        layers: Layers to concatenate: block numbers of a ViT (negative from the end), `neck` or
            `stage0`..`stage3` of mobile-sam.
        final_norm: Whether the network's last normalisation is applied.
        l2_norm: Whether each token is scaled to length 1.
        pad: Zero padding to a square where the published pre-processing has it (mobile-sam).
        device: Where the network runs.
        precision: `"float32"`, or `"bf16"` for a network that computes in bfloat16.
    """

    name: str
    weights: str | None = None
    size: SizePolicy = None
    layers: tuple[str, ...] | None = None
    final_norm: bool | None = None
    l2_norm: bool = True
    pad: bool = True
    device: str = "cpu"
    precision: str = "float32"


@runtime_checkable
class Backbone(Protocol):
    """What `extract` and `FeatureStore` need of a network."""

    @property
    def key(self) -> FeatureKey:
        """The resolved settings."""
        ...

    @property
    def patch_size(self) -> int:
        """Pixels of network input per token."""
        ...

    @property
    def dim(self) -> int:
        """Numbers per token."""
        ...

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a picture of `height` x `width` pixels is resized."""
        ...

    def tokens(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "n d"]:
        """Tokens of a picture of its input size already: row-major, float32, on the CPU, before L2."""
        ...


@runtime_checkable
class Traceable(Backbone, Protocol):
    """A backbone whose way from pixels to tokens is one of tensors alone, so that it can be written as a graph."""

    def pixel_tokens(self, pixels: Float[Tensor, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """`tokens` of pictures of their input size, RGB of 0 to 255, where the network computes and as it does."""
        ...


@runtime_checkable
class Trainable(Backbone, Protocol):
    """A backbone whose network can be trained further and written as it was published."""

    @property
    def network(self) -> Any:
        """The network, an `nn.Module`; its weights are read when it is first asked for."""
        ...

    @property
    def attention_blocks(self) -> Sequence[Any]:
        """Its blocks that have attention, first to last."""
        ...

    def network_tokens(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b n d"]:
        """`tokens` of several pictures, on the network's device, in its precision and with its gradient."""
        ...

    def save(self, place: Path) -> Path:
        """Write the network as it is now in its published form; where `load_backbone` finds it as `weights`."""
        ...


@runtime_checkable
class Tail(Protocol):
    """The last layers of a network, as a module that can be trained on maps of early tokens.

    Attributes:
        kind: Names it among `make_tail`'s.
        dim: Numbers of a token that it is given.
        out: Numbers of a token that it answers with.
        window: A window of tokens that begins at a multiple of it is seen as in a whole picture.
    """

    kind: str
    dim: int
    out: int
    window: int

    def __call__(self, x: Float[Tensor, "b rows columns d"]) -> Float[Tensor, "b rows columns out"]:
        """The last layers' maps of early ones."""
        ...


@runtime_checkable
class Divided(Backbone, Protocol):
    """A backbone whose first layers can stay frozen while a copy of its last ones is trained along with a decoder."""

    def early(self) -> Backbone:
        """The same network up to where its tail begins: tokens as they are, of whatever length."""
        ...

    def tail(self) -> Any:
        """A copy of the last layers, a `Tail` and an `nn.Module`."""
        ...


class Keyed:
    """What a backbone says of itself from its key and its size, and what all do with a picture first."""

    _key: FeatureKey
    _size: InputSize
    device: str = "cpu"  # where the network runs
    concurrent: bool = False  # whether pictures may be extracted in several threads at once

    @property
    def key(self) -> FeatureKey:
        """The resolved settings."""
        return self._key

    @property
    def patch_size(self) -> int:
        """Pixels of network input per token."""
        return self._key.patch_size

    @property
    def dim(self) -> int:
        """Numbers per token."""
        return self._key.dim

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of each map that a token is joined of: one for each layer of each network."""
        return (self._key.dim,)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """See `fit_size`."""
        return fit_size(height, width, self._size, self.patch_size)

    def on_square(self, images: Float[Tensor, "*b h w 3"]) -> Float[Tensor, "*b H W 3"]:
        """Pictures of their input size on the square that the network is given, where the size is `Padded`."""
        if not isinstance(self._size, Padded):
            return images
        side, (height, width) = self._size.side, images.shape[-3:-1]
        return torch.nn.functional.pad(images, (0, 0, 0, side - width, 0, side - height))

    def off_square(self, tokens: Float[Tensor, "*b n d"], image_size: tuple[int, int]) -> Float[Tensor, "*b m d"]:
        """The tokens of the square of `on_square`, row by row, that show some of a picture of this input size."""
        if not isinstance(self._size, Padded):
            return tokens
        tokens_a_side = self._size.side // self.patch_size
        height, width = (-(-side // self.patch_size) for side in image_size)
        return tokens.unflatten(-2, (tokens_a_side, tokens_a_side))[..., :height, :width, :].flatten(-3, -2)

    def normalised(self, pixels: Float[Tensor, "*b h w 3"]) -> Float[Tensor, "*b h w 3"]:
        """The pixels, 0 to 255, less their mean, over their deviation; one picture or several."""
        return (pixels - pixels.new_tensor(self._key.pixel_mean)) / pixels.new_tensor(self._key.pixel_deviation)


def pixels_on(image: UInt8[np.ndarray, "*b h w 3"], device: str) -> Float[Tensor, "*b h w 3"]:
    """The pixels as they are, in float32 on a device."""
    if device.startswith("cuda"):  # a quarter of the bytes, from memory the GPU reads by itself
        return torch.from_numpy(np.array(image)).pin_memory().to(device, non_blocking=True).float()
    return torch.from_numpy(np.array(image, dtype=np.float32)).to(device)


def map_widths(backbone: Backbone) -> tuple[int, ...]:
    """Numbers of each map that a token of this backbone is joined of; their sum is `backbone.dim`."""
    return getattr(backbone, "widths", (backbone.dim,))


def part_widths(backbone: Backbone) -> tuple[tuple[int, ...], ...]:
    """`map_widths` of each network that a backbone is joined of; of all other backbones there is one."""
    return getattr(backbone, "part_widths", (map_widths(backbone),))


OpenBackbone = Callable[[FeatureSettings], Backbone]
NO_BACKBONES: Mapping[str, OpenBackbone] = MappingProxyType({})


def extract(backbone: Backbone, image: UInt8[np.ndarray, "h w 3"], fingerprint: str) -> FeatureGrid:
    """Frozen features of one picture.

    Args:
        backbone: From `load_backbone`.
        image: RGB, 0 to 255, any size.
        fingerprint: Of the picture's content, for the provenance.

    Returns:
        Tokens in float32 on the CPU, with grid and provenance. A token that is all zero stays zero.

    Raises:
        ValueError: If the picture is empty or does not fit the backbone's size.
    """
    resized = fitted(backbone, image)
    return grid_of(backbone, backbone.tokens(resized), image, resized, fingerprint)


def fitted(backbone: Backbone, image: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture at the backbone's input size.

    Raises:
        ValueError: If the picture is empty or does not fit the backbone's size.
    """
    check_picture(image)
    return resize_image(image, backbone.input_size(image.shape[0], image.shape[1]), backbone.key.resize)


def check_picture(image: UInt8[np.ndarray, "..."]) -> None:
    """Refuse what is no picture.

    Raises:
        ValueError: If it has no pixels or not three channels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] == 0 or image.shape[1] == 0:
        raise ValueError(f"expected an RGB picture (height, width, 3), got shape {image.shape}; convert it to RGB")


def tokens_of(backbone: Backbone, images: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[Float[Tensor, "n d"]]:
    """Tokens of pictures of one input size: at once where the backbone has `batch_tokens`, else one by one."""
    together = getattr(backbone, "batch_tokens", None)
    if together is None or len(images) < 2:
        return [backbone.tokens(image) for image in images]
    return list(together(np.stack(list(images))))


def grid_of(
    backbone: Backbone,
    tokens: Float[Tensor, "n d"],
    image: UInt8[np.ndarray, "h w 3"],
    resized: UInt8[np.ndarray, "H W 3"],
    fingerprint: str,
) -> FeatureGrid:
    """A backbone's tokens of `resized` as the frozen features of `image`: L2 norm, form and provenance."""
    key = backbone.key
    height, width, _ = image.shape
    input_size = (resized.shape[0], resized.shape[1])
    if key.l2_norm:
        tokens = torch.nn.functional.normalize(tokens, dim=-1)
    if key.form == "int8":
        tokens = rounded(tokens)
    provenance = Provenance(
        **asdict(key),
        image_size=(height, width),
        input_size=input_size,
        source=fingerprint,
        versions=library_versions(key.backbone),
    )
    return FeatureGrid(tokens=tokens, grid=provenance.patch_grid, provenance=provenance)


def resize_image(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], resize: str) -> UInt8[np.ndarray, "H W 3"]:
    """The picture at `size` (height, width) by Pillow, whose filters always antialias when they shrink.

    Args:
        image: RGB, 0 to 255.
        size: Height and width, pixels.
        resize: `"pillow-bicubic"` or `"pillow-bilinear"`.
    """
    if image.shape[:2] == tuple(size):
        return image
    from PIL import Image

    kind = {"pillow-bicubic": Image.Resampling.BICUBIC, "pillow-bilinear": Image.Resampling.BILINEAR}[resize]
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), kind))


def check_size(size: InputSize, patch_size: int, pads: bool = False) -> str:
    """The size policy as text, once it is known to fit the patch size.

    Args:
        size: The policy.
        patch_size: Pixels of network input per token.
        pads: Whether the backbone takes a `Padded` one.

    Raises:
        ValueError: If an explicit side is not a positive multiple of the patch size; says the nearest that
            is. Or if the backbone does not pad.

    Example:
        >>> check_size((504, 1008), 14), check_size(1008, 14), check_size(Padded(840), 14, pads=True)
        ('504x1008', 'long side 1008', 'padded to 840')
    """
    if isinstance(size, Padded) and not pads:
        raise ValueError(
            f"size pad:{size.side} is for mobile-sam, stable-diffusion and ViTs, whose tokens know where they lie in "
            f"the square; take {size.side}, the long side"
        )
    side = size.side if isinstance(size, Padded) else size
    sides = side if isinstance(side, tuple) else (side,)
    if any(side <= 0 or side % patch_size for side in sides):
        nearest = "x".join(str(_nearest_multiple(side, patch_size)) for side in sides)
        came = "x".join(str(side) for side in sides)
        raise ValueError(
            f"size {came} is not a multiple of the patch size {patch_size}; the nearest valid size is {nearest}"
        )
    if isinstance(size, Padded):
        return f"padded to {size.side}"
    return f"{size[0]}x{size[1]}" if isinstance(size, tuple) else f"long side {size}"


def fit_size(height: int, width: int, size: InputSize, patch_size: int) -> tuple[int, int]:
    """Height and width of network input before padding; multiples of the patch size where nothing is padded.

    With a long side, both sides keep the aspect ratio up to half a patch and have at least one patch. On a padded
    square they keep it up to half a pixel.

    Example:
        >>> fit_size(1052, 1914, 1008, 14), fit_size(10, 4000, 1008, 14)
        ((560, 1008), (14, 1008))
        >>> fit_size(1052, 1914, Padded(840), 14)
        (462, 840)
    """
    if isinstance(size, Padded):
        scale = size.side / max(height, width)
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    if isinstance(size, tuple):
        return size
    scale = size / max(height, width)
    return _nearest_multiple(height * scale, patch_size), _nearest_multiple(width * scale, patch_size)


def token_count(backbone: Backbone, size: tuple[int, int]) -> int:
    """How many tokens a backbone makes of a picture of this height and width, pixels."""
    height, width = backbone.input_size(*size)
    return -(-height // backbone.patch_size) * -(-width // backbone.patch_size)


def patch_grid(backbone: Backbone, height: int, width: int) -> PatchGrid:
    """How a picture of this height and width, pixels, lies under a backbone's tokens; nothing is extracted."""
    return grid_under((height, width), backbone.input_size(height, width), backbone.patch_size)


def resample_tokens(
    tokens: Float[Tensor, "n d"],
    size: tuple[int, int],
    patch_size: int,
    wanted_size: tuple[int, int],
    wanted_patch_size: int,
) -> Float[Tensor, "m d"]:
    """Tokens of a picture on another grid, bilinearly; beyond the outermost centres the outermost token counts.

    Where both grids end with the picture, this is `F.interpolate(..., mode="bilinear", align_corners=False)`.
    If a grid reaches beyond the picture (padding), each token keeps its true place.

    Args:
        tokens: Row-major; one for each begun patch.
        size: Height and width of the picture under them, pixels.
        patch_size: Pixels a token, in the same measure.
        wanted_size: Height and width of the picture under the wanted grid, pixels of that input.
        wanted_patch_size: Pixels a wanted token, in that measure.

    Example:
        >>> resample_tokens(torch.tensor([[0.0], [1.0]]), (8, 16), 8, (8, 32), 8).flatten()
        tensor([0.0000, 0.2500, 0.7500, 1.0000])
    """
    if (size, patch_size) == (wanted_size, wanted_patch_size):
        return tokens
    down, across = (_hats(size[i], patch_size, wanted_size[i], wanted_patch_size).to(tokens) for i in (0, 1))
    grid = tokens.unflatten(0, (down.shape[1], across.shape[1]))
    return torch.einsum("yr,rcd,xc->yxd", down, grid, across).flatten(0, 1)


def _hats(side: int, patch_size: int, wanted_side: int, wanted_patch_size: int) -> Float[Tensor, "wanted given"]:
    """Weight of each given token in each wanted one, along one axis; rows sum to 1."""
    given, wanted = -(-side // patch_size), -(-wanted_side // wanted_patch_size)
    shares = (torch.arange(wanted, dtype=torch.float64) + 0.5) * wanted_patch_size / wanted_side
    places = (shares * side / patch_size - 0.5).clamp(0, given - 1)
    return (1 - (places[:, None] - torch.arange(given)).abs()).clamp_min(0)


def library_versions(backbone: str) -> tuple[tuple[str, str], ...]:
    """Names and versions of the libraries that take part in an extraction."""
    from importlib.metadata import version
    from importlib.util import find_spec

    parts = set(backbone.split("+"))
    through = parts - {"filterbank", "mobile-sam", "adapted"}  # an adapted encoder may or may not be
    names = ["torch", "pillow"]
    if through or ("adapted" in parts and find_spec("transformers") is not None):
        names.append("transformers")
    names += ["diffusers"] if "stable-diffusion" in parts else []
    return tuple((name, version(name)) for name in names)


def _nearest_multiple(side: int | float, patch_size: int) -> int:
    return max(1, int(side / patch_size + 0.5)) * patch_size
