"""Feature maps of a pair reduced by one PCA: sd-dino's "co-PCA" of Stable Diffusion's layers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saot.match.sides import MatchSide

Reduce = Callable[[MatchSide], MatchSide]
Basis = Callable[[MatchSide, MatchSide], Reduce]  # from a pair to what reduces its sides
Widths = tuple[tuple[int, ...], ...]  # numbers of each map, network by network


def as_it_is(source: MatchSide, target: MatchSide) -> Reduce:
    """The basis of pairs whose features are not reduced."""
    return lambda side: side


@dataclass(frozen=True, eq=False)
class PairBasis:
    """The basis that both pictures of a pair are brought to, map by map.

    Attributes:
        widths: Numbers of each map that a token is joined of, network by network.
        means: Mean token of each map over both pictures, (w,).
        directions: Its principal directions as columns, (w, k), the strongest first, each with its entry of largest
            magnitude positive; None for a map that stays as it is.
    """

    widths: Widths
    means: tuple[Float[Tensor, "_"], ...]
    directions: tuple[Float[Tensor, "_ _"] | None, ...]

    def reduced(self, side: MatchSide) -> MatchSide:
        """A side with its reduced tokens, of length 1.

        The maps of a network are reduced, (x - mean) V, and concatenated; the token of the network is then scaled to
        the length it had, so that networks keep their shares in a cosine (sd-dino scales each to length 1).

        Raises:
            ValueError: If its tokens are not joined of these maps.
        """
        flat = [width for part in self.widths for width in part]
        if side.tokens.shape[1] != sum(flat):
            raise ValueError(
                f"expected tokens of {sum(flat)} numbers, those of maps of {self.widths}; got {side.tokens.shape[1]}"
            )
        found, first, pieces = [], 0, side.tokens.split(flat, dim=-1)
        for part in self.widths:
            own = range(first, first + len(part))
            first += len(part)
            before = torch.cat([pieces[number] for number in own], -1)
            if all(self.directions[number] is None for number in own):
                found.append(before)
                continue
            after = torch.cat([self._map(number, pieces[number]) for number in own], -1)
            found.append(F.normalize(after, dim=-1) * before.norm(dim=-1, keepdim=True))
        return replace(side, tokens=F.normalize(torch.cat(found, -1), dim=-1))

    def _map(self, number: int, tokens: Float[Tensor, "n w"]) -> Float[Tensor, "n k"]:
        directions = self.directions[number]
        return tokens if directions is None else (tokens - self.means[number]) @ directions


def pair_basis(source: MatchSide, target: MatchSide, widths: Widths, dims: Widths) -> PairBasis:
    """The principal directions of a pair's maps, of the tokens of both pictures together.

    Of each map the directions are the leading eigenvectors of the covariance of all tokens of both pictures, whether
    they may be matched or not: the leading right singular vectors of the centred tokens. It is computed in float64.

    Args:
        source, target: The two pictures, tokens of length 1.
        widths: Numbers of each map that a token is joined of, network by network: `part_widths` of the backbone.
        dims: Numbers that each map is reduced to, 0 for one that stays as it is; sd-dino has 256 for each of SD's s5,
            s4 and s3.

    Raises:
        ValueError: If the numbers do not fit the maps, or there are fewer tokens than a map is to have numbers.

    Example:
        >>> side = MatchSide.of(torch.tensor([[3.0, 0.0, 1.0], [-3.0, 0.0, 1.0]]), (1, 2))
        >>> basis = pair_basis(side, side, ((2, 1),), ((1, 0),))
        >>> basis.directions[0].flatten().tolist(), basis.reduced(side).tokens[:, 0].sign().tolist()
        ([1.0, 0.0], [1.0, -1.0])
    """
    if tuple(map(len, widths)) != tuple(map(len, dims)):
        raise ValueError(f"expected a number for each map of {widths}; got {dims}: give 0 for one that stays as it is")
    flat, wanted = [w for part in widths for w in part], [k for part in dims for k in part]
    both = torch.cat([source.tokens, target.tokens]).double()
    means, directions = [], []
    for tokens, width, kept in zip(both.split(flat, dim=-1), flat, wanted, strict=True):
        if not 0 <= kept <= min(width, len(both)):
            raise ValueError(
                f"expected a map of {width} numbers and {len(both)} tokens to be reduced to at most "
                f"{min(width, len(both))}; got {kept}: ask for fewer, or 0 to leave it as it is"
            )
        mean = tokens.mean(0)
        means.append(mean.to(source.tokens.dtype))
        directions.append(_principal(tokens - mean, kept).to(source.tokens.dtype) if kept else None)
    return PairBasis(widths, tuple(means), tuple(directions))


def _principal(centred: Float[Tensor, "n w"], count: int) -> Float[Tensor, "w k"]:
    """Leading eigenvectors of the covariance, the strongest first, each entry of largest magnitude positive."""
    vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].flip(-1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return vectors * largest.sign()


def read_dims(text: str, widths: Widths) -> Widths:
    """The numbers behind "256,256,256+": networks apart by +, their maps by commas, empty for what stays as it is.

    One number stands for all maps of its network.

    Args:
        text: As above.
        widths: Numbers of each map, network by network.

    Raises:
        ValueError: If a piece is no number from 1 to the map's width, or there is not one for each map.

    Example:
        >>> read_dims("256+", ((640, 1280), (768,))), read_dims(",256+", ((640, 1280), (768,)))
        (((256, 256), (0,)), ((0, 256), (0,)))
    """
    parts = [[piece.strip() for piece in part.split(",")] for part in text.split("+")]
    if len(parts) == len(widths):
        parts = [part * len(own) if len(part) == 1 else part for part, own in zip(parts, widths, strict=True)]
    fits = tuple(map(len, parts)) == tuple(map(len, widths)) and all(
        piece == "" or (piece.isdecimal() and 1 <= int(piece) <= width)
        for part, own in zip(parts, widths, strict=True)
        for piece, width in zip(part, own, strict=True)
    )
    if not fits or not text.strip("+, "):
        shown = "+".join(",".join(map(str, part)) for part in widths)
        raise ValueError(
            f"expected --pca as a number for each map, networks apart by + and maps by commas, empty to leave one as "
            f"it is, none above the maps' own {shown}; got {text!r}"
        )
    return tuple(tuple(int(piece or 0) for piece in part) for part in parts)
