"""The three sets of pictures of a run, with their features; the target has no way to its labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.data import ImageSet, LabelledSet, PatchGrid, Points, patch_labels, point_tokens
from saot.decoder import TargetTokens, picture_logits
from saot.features import FeatureStore
from saot.runs import Kept, Making, Workspace, generator_for, identity_of
from saot.transfer import TargetExample


@dataclass(frozen=True)
class Domain:
    """Pictures and their frozen tokens.

    Attributes:
        images: The pictures.
        store: Their features, complete.
        dim: Feature width.
        device: Where whole pictures' tokens go; single rows stay on the CPU.
        identity: A name for pictures, backbone and kind of device.
    """

    images: ImageSet
    store: FeatureStore
    dim: int
    device: torch.device = torch.device("cpu")
    identity: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def tokens(self, number: int) -> Float[Tensor, "n d"]:
        """All tokens of a picture, float32."""
        return self.store.read(self.images.keys[number]).tokens.to(self.device).float()

    def rows(self, number: int, tokens: Int[Tensor, " k"]) -> Tensor:
        """Some tokens of a picture, half precision."""
        return self.store.rows(self.images.keys[number], tokens)

    def grid(self, number: int) -> PatchGrid:
        """How a picture lies under its tokens."""
        return self.store.grid(self.images.keys[number])

    def all_tokens(self) -> TargetTokens:
        """The unlabelled tokens, for self-training."""
        return TargetTokens(len(self), self.tokens, self.rows, self.dim, self.shape)

    def shape(self, number: int) -> tuple[int, int]:
        """Rows and columns of a picture's token grid."""
        grid = self.grid(number)
        return grid.height, grid.width

    def logits(self, network: Callable[..., Tensor], number: int) -> Float[Tensor, "cells K"]:
        """What a network says of all tokens of a picture, or of their cells; no gradient."""
        with torch.no_grad():
            return picture_logits(network, self.tokens(number), *self.shape(number))

    def embeddings(self) -> Float[Tensor, "N d"]:
        """The global embedding of each picture, the mean of its tokens at unit length (E.2)."""
        means = [self.tokens(number).mean(0).cpu() for number in range(len(self))]
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def label_maps(
    space: Workspace,
    title: str,
    data: LabelledSet,
    domain: Domain,
    ignore: Literal["exclude", "include"],
    content: object = None,
) -> tuple[UInt8[Tensor, " n"], ...]:
    """Majority label of every token of every picture, 255 for ignore; made once.

    Args:
        space: Keeps them.
        title: Of the stage.
        data: The pictures of the domain with their masks.
        domain: Their tokens.
        ignore: Whether pixels marked "ignore" take part in the vote.
        content: Names the masks where the domain does not.
    """
    size = len(data.classes.names)

    def make(making: Making) -> Kept:
        maps = {}
        for number in range(len(data)):
            mask, grid = data.mask(number), domain.grid(number)
            maps[f"{number:06d}"] = patch_labels(mask, grid, num_classes=size, ignore=ignore)
            making.progress(number + 1, len(data))
        return Kept(maps)

    identity = identity_of(domain, content, size, ignore)
    kept = space.once(f"work/{title.replace(' ', '-')}", identity, make, title=title)
    return tuple(kept.tensors[name] for name in sorted(kept.tensors))


def fingerprints(data: LabelledSet) -> list[str]:
    """Names of the contents of all masks."""
    return [data.mask_fingerprint(number) for number in range(len(data))]


@dataclass(frozen=True)
class TokenPoints:
    """The declared points on the token grid.

    Attributes:
        picture: (p,) target picture of each point.
        token: (p,) token under it.
        classes: (p,) its class.
        held_out: (p,) True for points of pictures that are kept from training, to choose settings on.
        resample: Draw this many a class anew at each step from `dense` (the paper); 0 keeps to the points.
        dense: Label maps of the target, only ever present with `resample`.
    """

    picture: Int[Tensor, " p"]
    token: Int[Tensor, " p"]
    classes: Int[Tensor, " p"]
    held_out: Tensor
    resample: int = 0
    dense: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.picture)

    def training(self) -> "TokenPoints":
        """Those that may be trained on."""
        return self._chosen(~self.held_out)

    def held(self) -> "TokenPoints":
        """Those kept from training."""
        return self._chosen(self.held_out)

    def _chosen(self, mask: Tensor) -> "TokenPoints":
        return TokenPoints(
            self.picture[mask], self.token[mask], self.classes[mask], self.held_out[mask], self.resample, self.dense
        )

    def of(self, number: int) -> tuple[Tensor, Tensor]:
        """Tokens and classes of one picture's points."""
        mine = self.picture == number
        return self.token[mine], self.classes[mine]

    def example(self, number: int, tokens: Tensor, generator: torch.Generator, per_class: int) -> TargetExample:
        """What one step may see of a picture: at most `per_class` points of each class."""
        if self.resample:
            where, classes = draw_tokens(self.dense[number], self.resample, generator)
            return TargetExample(tokens, where.to(tokens.device), classes.to(tokens.device))
        where, classes = self.of(number)
        order = torch.randperm(len(classes), generator=generator)
        order = order[classes[order].argsort(stable=True)]
        sorted_classes = classes[order]
        starts = torch.searchsorted(sorted_classes, sorted_classes)
        keep = torch.arange(len(order)) - starts < per_class
        chosen = where[order[keep]].to(tokens.device)
        return TargetExample(tokens, chosen, sorted_classes[keep].to(tokens.device))


def draw_tokens(labels: Tensor, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most `per_class` tokens of each class of a label map, without replacement (E.3)."""
    tokens, classes = [], []
    for label in labels.unique().tolist():
        if label == 255:
            continue
        where = (labels == label).nonzero().squeeze(-1)
        chosen = where[torch.randperm(len(where), generator=generator)[:per_class]]
        tokens.append(chosen)
        classes.append(torch.full_like(chosen, label))
    if not tokens:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    return torch.cat(tokens), torch.cat(classes)


def points_on_tokens(points: Points, target: Domain, share_held_out: float, seed: int) -> TokenPoints:
    """Points in pixels to points on tokens; a share of the pictures that carry points is held out."""
    pictures, tokens, classes = [], [], []
    for number, key in enumerate(target.images.keys):
        x, y, labels = points.of(key)
        pictures.append(torch.full((len(labels),), number, dtype=torch.int64))
        tokens.append(point_tokens(x, y, target.grid(number)).long())
        classes.append(labels.long())
    picture = torch.cat(pictures)
    carrying = picture.unique()
    order = carrying[torch.randperm(len(carrying), generator=generator_for(seed, "held-out pictures"))]
    held = order[: int(share_held_out * len(order))]
    return TokenPoints(picture, torch.cat(tokens), torch.cat(classes), torch.isin(picture, held))
