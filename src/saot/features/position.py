"""Where a token stands, taken out of what it says: the positional subspace of a network, projected out.

Tokens of ViTs carry their place in the picture, and DINOv3's carry it most; two parts of one kind that stand in
different places are then less alike than they are. INSID3 (arXiv:2603.28480) finds the directions of place from one
black picture, which has no content, and removes 500 of DINOv3-L's 1,024. Here they come from noise pictures, and as
many are removed as carry a given share of what place changes.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saot.features.base import Backbone, extract

NOISE_PICTURES = 16  # half of them on each side of the product, so that their content cancels
SQUARE = 1024  # pixels of the noise pictures, before the network's own size


@dataclass(frozen=True, eq=False)
class PositionSubspace:
    """The directions of tokens along which a network says where they stand.

    Attributes:
        directions: Orthonormal columns, (d, r), the strongest first.
        share: Of the variance that place makes, how much they carry, 0 to 1.
    """

    directions: Float[Tensor, "d r"]
    share: float

    def removed(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The tokens without these directions, x - V V^T x, of length 1.

        Raises:
            ValueError: If they have another number of entries.

        Example:
            >>> PositionSubspace(torch.eye(3)[:, :1], 1.0).removed(torch.tensor([[0.6, 0.0, 0.8]])).tolist()
            [[0.0, 0.0, 1.0]]
        """
        if tokens.shape[1] != len(self.directions):
            raise ValueError(
                f"expected tokens of {len(self.directions)} numbers, those of the network that the positions were "
                f"found of; got {tokens.shape[1]}"
            )
        directions = self.directions.to(tokens)
        return F.normalize(tokens - (tokens @ directions) @ directions.T, dim=-1)


def read_keep(text: str, dim: int) -> float | int:
    """How much is removed behind "95%" (share of the variance of place) or "500" (directions).

    Raises:
        ValueError: If it is neither, or leaves nothing of tokens of `dim` numbers.

    Example:
        >>> read_keep("95%", 256), read_keep("100", 256)
        (0.95, 100)
    """
    number = text.strip().removesuffix("%")
    if text.strip().endswith("%"):
        try:
            share = float(number) / 100
        except ValueError:
            share = 0.0
        if 0 < share < 1:
            return share
    elif number.isdecimal() and 1 <= int(number) < dim:
        return int(number)
    raise ValueError(
        f"expected --remove-position as a share of what place changes, such as 95%, or a number of directions from 1 "
        f"to {dim - 1}; got {text!r}"
    )


def position_subspace(network: Backbone, removed: float | int, seed: int = 0) -> PositionSubspace:
    """The directions in which tokens of noise pictures differ from place to place.

    Of two sets of noise pictures, each of its own mean tokens A and B over its pictures, place by place, centred over
    places, the symmetric part of A^T B is the covariance of place: what the noise shows is independent in the two and
    cancels. Its leading eigenvectors are the directions. They are those of one input size, that of a square picture.

    Args:
        network: Whose tokens they are.
        removed: A share of the covariance's positive eigenvalues, 0 to 1, or a number of directions.
        seed: Of the noise.

    Raises:
        ValueError: If place changes nothing, or more directions are asked for than it changes.
    """
    height, width = network.input_size(SQUARE, SQUARE)
    generator, sides = np.random.default_rng(seed), []
    for _ in range(2):
        pictures = generator.integers(0, 256, (NOISE_PICTURES // 2, height, width, 3), dtype=np.uint8)
        tokens = [extract(network, picture, "noise").tokens.double() for picture in pictures]
        mean = torch.stack(tokens).mean(0)
        sides.append(mean - mean.mean(0))
    first, second = sides
    values, vectors = torch.linalg.eigh((first.T @ second + second.T @ first) / 2)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shares = values.cumsum(0) / values.sum()
    positive = int((values > 1e-12 * values[0]).sum()) if values[0] > 0 else 0
    count = removed if isinstance(removed, int) else int((shares < removed).sum()) + 1
    if not 1 <= count <= min(positive, len(values) - 1):
        raise ValueError(
            f"place changes tokens of {network.key.backbone} along {positive} directions of {len(values)}; got "
            f"{removed} to remove: ask for fewer, or leave --remove-position out"
        )
    return PositionSubspace(vectors[:, :count].float(), float(shares[count - 1]))
