"""Tokens of one picture, and what a frozen feature must say about where it came from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saot.data import PatchGrid

FORMAT_VERSION = 1
_USUAL = {"precision": "float32", "form": "half"}  # fields that came later, as all features were before


@dataclass(frozen=True)
class FeatureKey:
    """Everything that makes two feature files comparable: equal keys, comparable tokens.

    Libraries disagree on the defaults behind these fields (final norm, layer, resize filter, size), so the
    same weights give different features; hence every one of them is recorded, and a difference is an error.

    Attributes:
        backbone: Name as given to `load_backbone`.
        weights_sha256: Of the weight file; of the descriptor's version for a backbone without weights.
        size: Size policy, `"504x1008"` (height x width), `"long side 1008"` or, on a square, `"padded to 840"`, pixels
            of network input.
        layers: Names of the layers whose outputs are concatenated.
        final_norm: Whether the network's last normalisation was applied to them.
        l2_norm: Whether each token was scaled to length 1.
        pad: Whether the picture was padded with zeros, right and below, to a square.
        patch_size: Pixels of network input per token.
        dim: Numbers per token.
        resize: Filter with which the picture was brought to its size.
        pixel_mean, pixel_deviation: What was taken off each of R, G, B and what it was divided by, 0 to 255.
        format_version: Of the files of a `FeatureStore`.
        precision: `"float32"`, or `"bf16"` where the network computed in bfloat16; written down only if it is not
            the first, so that older stores stay what they are.
        form: How tokens are kept: `"half"`, `"int8"` or `"projected:NUMBERS:NAME"`, the name being that of the matrix;
            written down as the precision is.
    """

    backbone: str
    weights_sha256: str
    size: str
    layers: tuple[str, ...]
    final_norm: bool
    l2_norm: bool
    pad: bool
    patch_size: int
    dim: int
    resize: str
    pixel_mean: tuple[float, ...]
    pixel_deviation: tuple[float, ...]
    format_version: int = FORMAT_VERSION
    precision: str = "float32"
    form: str = "half"

    def differences(self, other: "FeatureKey") -> tuple[str, ...]:
        """Names of the fields in which two keys differ."""
        names = (field.name for field in fields(self))
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))

    def to_json(self) -> str:
        """One JSON object, keys sorted."""
        values = {name: value for name, value in asdict(self).items() if (name, value) not in _USUAL.items()}
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "FeatureKey":
        """What `to_json` wrote.

        Raises:
            ValueError: If the text is not such an object.
        """
        return cls(**_read_fields(cls, text))


@dataclass(frozen=True, kw_only=True)
class Provenance(FeatureKey):
    """Where the tokens of one picture came from: the fields of its `FeatureKey`, and those of the picture.

    Attributes:
        image_size: Height and width of the picture, pixels.
        input_size: Height and width after resizing and before padding, pixels of network input.
        source: Fingerprint of the picture's content.
        versions: Name and version of each library that took part. Recorded, never compared: another patch
            release is no reason to throw features away.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    source: str
    versions: tuple[tuple[str, str], ...]

    @property
    def key(self) -> FeatureKey:
        """The fields that all pictures of a store share."""
        return FeatureKey(**{field.name: getattr(self, field.name) for field in fields(FeatureKey)})

    @property
    def patch_grid(self) -> PatchGrid:
        """How the picture lies under its tokens; tokens wholly in padding are not counted."""
        return grid_under(self.image_size, self.input_size, self.patch_size)

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """As of `FeatureKey`."""
        return cls(**_read_fields(cls, text))


def grid_under(image_size: tuple[int, int], input_size: tuple[int, int], patch_size: int) -> PatchGrid:
    """How a picture lies under its tokens, one for each begun patch; sizes are heights and widths, pixels.

    Example:
        >>> grid = grid_under((360, 480), (192, 256), 16)
        >>> grid.height, grid.width
        (12, 16)
    """
    return PatchGrid(
        image_height=image_size[0],
        image_width=image_size[1],
        input_height=input_size[0],
        input_width=input_size[1],
        patch_size=patch_size,
        height=-(-input_size[0] // patch_size),
        width=-(-input_size[1] // patch_size),
    )


@dataclass(frozen=True)
class FeatureGrid:
    """Frozen features of one picture.

    Attributes:
        tokens: `(n, d)`, row-major over `grid.height` x `grid.width`.
        grid: How the picture lies under the tokens.
        provenance: Where they came from.
    """

    tokens: Float[Tensor, "n d"]
    grid: PatchGrid
    provenance: Provenance

    def __post_init__(self) -> None:
        expected = (self.grid.height * self.grid.width, self.provenance.dim)
        if tuple(self.tokens.shape) != expected:
            raise ValueError(
                f"tokens has shape {tuple(self.tokens.shape)}, but {self.height}x{self.width} tokens "
                f"of {self.provenance.dim} numbers need {expected}; pass them row-major, without padding"
            )

    @property
    def height(self) -> int:
        """Rows of tokens."""
        return self.grid.height

    @property
    def width(self) -> int:
        """Tokens a row."""
        return self.grid.width


def _read_fields(cls: type, text: str) -> dict[str, Any]:
    """The JSON object `text` as keyword arguments of the dataclass `cls`; lists become tuples."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected the JSON of a {cls.__name__}, got {text[:40]!r}; extract the features again"
        ) from error
    names = {field.name for field in fields(cls)}
    if isinstance(values, Mapping):
        values = {**_USUAL, **values}
    if not isinstance(values, Mapping) or set(values) != names:
        came = sorted(set(values) ^ names) if isinstance(values, Mapping) else type(values).__name__
        raise ValueError(f"a {cls.__name__} lacks or does not know {came}; extract the features again")
    return {name: _tuples(value) for name, value in values.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
