"""What a run learns from and what it is scored on, opened once; nothing that trains sees the second."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.data import (
    ClassSet,
    ImageSet,
    LabelledSet,
    PatchGrid,
    Points,
    patch_labels,
    point_tokens,
)
from saot.decoder import JointDecoder, TailDecoder, TargetTokens, picture_logits
from saot.features import FeatureStore, Tail
from saot.label.grown import Grower
from saot.label.sizes import SizesDecoder
from saot.label.wings import PullWing
from saot.recipes import Recipe
from saot.runs import Kept, Making, Workspace, generator_for, identity_of
from saot.transfer import TargetExample
from saot.transport import grid_points


@dataclass(frozen=True)
class Domain:
    """Pictures and their frozen tokens.

    Attributes:
        images: The pictures.
        store: Their features, complete.
        dim: Feature width.
        device: Where whole pictures' tokens go; single rows stay on the CPU.
        identity: A name for pictures, backbone and kind of device.
        further: The same pictures at further input sizes, which a `SizesDecoder` sees too.
        early: The same pictures as the network's first layers see them, for a `TailDecoder` or a
            `JointDecoder`; None where no such decoder is trained.
    """

    images: ImageSet
    store: FeatureStore
    dim: int
    device: torch.device = torch.device("cpu")
    identity: str = ""
    further: tuple["Domain", ...] = ()
    early: "Domain | None" = None

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

    def places(self, number: int) -> Float[Tensor, "n 2"]:
        """Where the tokens of a picture lie on its grid, row by row, in units of its longer side."""
        return grid_points(*self.shape(number), device=self.device)

    def logits(self, network: Callable[..., Tensor], number: int) -> Float[Tensor, "cells K"]:
        """What a network says of all tokens of a picture, or of their cells; no gradient."""
        with torch.no_grad():
            if isinstance(network, SizesDecoder):
                sizes = list(zip((self, *self.further), network.members, strict=True))
                tokens = [one.seen_by(member).tokens(number) for one, member in sizes]
                return network(tokens, [one.grid(number) for one, _ in sizes])
            return picture_logits(network, self.seen_by(network).tokens(number), *self.shape(number))

    def seen_by(self, network: object) -> "Domain":
        """The tokens that a network is given: early ones, or all others."""
        if not isinstance(network, TailDecoder | JointDecoder):
            return self
        assert self.early is not None, "a decoder with the network's last layers is trained on early tokens"
        return self.early

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

    def example(
        self,
        number: int,
        tokens: Tensor,
        generator: torch.Generator,
        per_class: int,
        places: Tensor | None = None,
    ) -> TargetExample:
        """What one step may see of a picture: at most `per_class` points of each class."""
        if self.resample:
            where, classes = draw_tokens(self.dense[number], self.resample, generator)
            return TargetExample(tokens, where.to(tokens.device), classes.to(tokens.device), places)
        where, classes = self.of(number)
        order = torch.randperm(len(classes), generator=generator)
        order = order[classes[order].argsort(stable=True)]
        sorted_classes = classes[order]
        starts = torch.searchsorted(sorted_classes, sorted_classes)
        keep = torch.arange(len(order)) - starts < per_class
        chosen = where[order[keep]].to(tokens.device)
        return TargetExample(tokens, chosen, sorted_classes[keep].to(tokens.device), places)


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


@dataclass(frozen=True)
class Bench:
    """Where and how things are made: the run folder, the recipe, the seed of every draw, and the device."""

    space: Workspace
    recipe: Recipe
    seed: int
    device: torch.device


@dataclass(frozen=True)
class Source:
    """Labelled pictures with their tokens.

    Attributes:
        domain: Pictures and tokens.
        masks: The same pictures with their masks.
        labels: Patch labels of each picture, 255 for ignore.
    """

    domain: Domain
    masks: LabelledSet
    labels: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.domain)

    @property
    def identity(self) -> str:
        """A name for pictures, masks and labels."""
        return identity_of(self.domain, self.labels)

    def labelled(self, number: int) -> tuple[Tensor, Tensor]:
        """Tokens and labels of a picture, without the ignored ones."""
        labels = self.labels[number].to(self.domain.device)
        keep = labels != 255
        return self.domain.tokens(number)[keep], labels[keep]

    def places(self, number: int) -> Float[Tensor, "n 2"]:
        """Where the tokens of `labelled` lie, in their order."""
        return self.domain.places(number)[self.labels[number].to(self.domain.device) != 255]

    def frequencies(self, num_classes: int) -> Tensor:
        """Share of each class among the labelled patches."""
        return class_frequencies(self.labels, num_classes)


@dataclass(frozen=True)
class DeclaredPoints:
    """The target labels that methods may see.

    Attributes:
        tokens: The points on the token grid.
        pixels: The same at their own pixels; empty where they are drawn anew each step.
        budget: How many they are (all labelled patches where they are drawn anew each step).
        unknown: Classes that points have and the source never does.
    """

    tokens: TokenPoints
    pixels: Points
    budget: int
    unknown: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether any target point was declared."""
        return len(self.tokens) > 0 or self.tokens.resample > 0

    @property
    def identity(self) -> str:
        """A name for the points."""
        return identity_of(self.tokens, self.pixels)


@dataclass(frozen=True)
class TrainingData:
    """Everything that may be learned from.

    Attributes:
        classes: Of source and scores.
        source: Labelled pictures.
        target: Pictures to adapt to, without labels.
        points: Declared target points.
        translated: The source's pictures in the target's colours, number by number; None unless the pull loss is on.
        pull: Makes the pull loss, where it is on.
        tail: A copy of the network's last layers, for a decoder that they are part of; None where none is trained.
        grower: Grows declared points to what they lie on, where that is asked for and can be done.
    """

    classes: ClassSet
    source: Source
    target: Domain
    points: DeclaredPoints
    translated: Domain | None = None
    pull: PullWing | None = None
    tail: Callable[[], Tail] | None = None
    grower: Grower | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes.names)

    @property
    def identity(self) -> str:
        """A name for all of it."""
        return identity_of(self.classes.names, self.source, self.target, self.points, self.translated)


@dataclass(frozen=True)
class EvaluationData:
    """What is scored and shown.

    Attributes:
        domain: The evaluation pictures; the target's own where no evaluation set was given.
        truth: Their masks, or None.
        declared: Whether some of them are target pictures too, so that their points were declared.
        split: The SPEC they were asked for by, or None.
    """

    domain: Domain
    truth: LabelledSet | None
    declared: bool
    split: str | None = None

    def __len__(self) -> int:
        return len(self.domain)

    @property
    def identity(self) -> str:
        """A name for pictures and masks."""
        return identity_of(self.domain, self.truth is None)


def class_frequencies(labels: Iterable[Tensor], num_classes: int) -> Tensor:
    """Share of each class among labelled patches or cells, one map a picture."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for part in labels:
        counts += torch.bincount(part[part != 255].long(), minlength=num_classes).double()
    return counts / max(float(counts.sum()), 1.0)
