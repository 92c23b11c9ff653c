"""The small network of Shape-of-You (sec. 4): frozen feature maps in, one refined map out."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """A ResNet bottleneck: 1x1 to `hidden`, 3x3, 1x1 to `out`, plus the input or, if widths differ, its 1x1 projection.

    GroupNorm after every convolution, none of which has a bias; ReLU between them and after the sum (FACTS S-11).

    Args:
        width: Channels of the input.
        hidden: Channels in between.
        out: Channels of the result.
        groups: Most groups of a GroupNorm; where they do not divide the channels, the greatest common divisor.
    """

    def __init__(self, width: int, hidden: int, out: int, groups: int = 32) -> None:
        super().__init__()
        self.reduce = _convolution(width, hidden, 1, groups)
        self.mix = _convolution(hidden, hidden, 3, groups)
        self.expand = _convolution(hidden, out, 1, groups)
        self.shortcut = nn.Identity() if width == out else _convolution(width, out, 1, groups)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        """The refined map."""
        inner = F.relu(self.mix(F.relu(self.reduce(x))))
        return F.relu(self.expand(inner) + self.shortcut(x))


class Adapter(nn.Module):
    """Feature maps of a picture, each through a bottleneck of its own, added with learned shares (sec. 4).

    The architecture of GeoAware, "same as [39]" in the paper: 5.15M parameters for the maps of SD and DINOv2, 0.63M for
    DINOv2 alone. The temperature of Eq. (10) is learned too and lives here.

    Args:
        widths: Channels of each input map.
        out: Channels of the result.
        hidden: Channels inside the bottlenecks; a quarter of `out` if not given.
        groups: Most groups of a GroupNorm.
        temperature: Where the learned temperature starts.

    Raises:
        ValueError: If there is no input, or a width is not positive.

    Example:
        >>> adapter = Adapter((6, 4), out=8)
        >>> maps = torch.randn(1, 6, 3, 5), torch.randn(1, 4, 2, 2)
        >>> adapter(maps, (3, 5)).shape, round(float(adapter.scale.detach()), 3)  # 1 / 0.07
        (torch.Size([1, 8, 3, 5]), 14.286)
    """

    def __init__(
        self,
        widths: Sequence[int] = (640, 1280, 1280, 768),
        out: int = 768,
        hidden: int | None = None,
        groups: int = 32,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        hidden = max(1, out // 4) if hidden is None else hidden
        if not widths or min(*widths, out, hidden, groups) < 1 or not temperature > 0:
            raise ValueError(
                "expected widths, out, hidden and groups of at least 1 and a temperature above 0, "
                f"got {tuple(widths)}, {out}, {hidden}, {groups} and {temperature}"
            )
        self.widths, self.out, self.hidden = tuple(widths), out, hidden
        self.bottlenecks = nn.ModuleList(Bottleneck(width, hidden, out, groups) for width in widths)
        self.mixing = nn.Parameter(torch.zeros(len(widths)))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """One over the temperature of Eq. (10); learned by its logarithm, so always above 0."""
        return self.log_scale.exp()

    @property
    def shares(self) -> Float[Tensor, " inputs"]:
        """What each input has in the result; they sum to 1."""
        return torch.softmax(self.mixing, dim=0)

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]], shape: tuple[int, int]) -> Float[Tensor, "b out h w"]:
        """The refined map on a grid of `shape` rows and columns; maps of another size are resized bilinearly.

        Raises:
            ValueError: If a map is missing or has the wrong number of channels.
        """
        found = tuple(one.shape[1] for one in maps)
        if found != self.widths:
            raise ValueError(f"expected maps of {self.widths} channels, got {found}; pass the features it was made for")
        resized = (
            one if one.shape[2:] == shape else F.interpolate(one, shape, mode="bilinear", align_corners=False)
            for one in maps
        )
        parts = (share * layer(one) for share, layer, one in zip(self.shares, self.bottlenecks, resized, strict=True))
        return torch.stack(list(parts)).sum(0)

    def tokens(self, maps: Sequence[Float[Tensor, "_ _ _"]], shape: tuple[int, int]) -> Float[Tensor, "n out"]:
        """Refined features of one picture's tokens, row by row, each of length 1: what is matched in the end (4.2)."""
        refined = self([one.unsqueeze(0) for one in maps], shape)
        return F.normalize(refined[0].flatten(1).T, dim=-1)


def token_map(tokens: Float[Tensor, "n d"], shape: tuple[int, int]) -> Float[Tensor, "d h w"]:
    """Tokens, row by row, as the map that an `Adapter` takes.

    Example:
        >>> token_map(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), (1, 2)).tolist()
        [[[1.0, 3.0]], [[2.0, 4.0]]]
    """
    if len(tokens) != shape[0] * shape[1]:
        raise ValueError(f"a {shape[0]} x {shape[1]} grid has {shape[0] * shape[1]} tokens, but got {len(tokens)}")
    return tokens.T.reshape(-1, *shape)


def _convolution(width: int, out: int, size: int, groups: int) -> nn.Sequential:
    layer = nn.Conv2d(width, out, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.GroupNorm(math.gcd(groups, out), out))
