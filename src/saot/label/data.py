"""What a run learns from and what it is scored on, opened once; nothing that trains sees the second."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from saot.data import (
    ClassSet,
    Fingerprints,
    ImageSet,
    LabelledSet,
    PatchGrid,
    Points,
    draw_points,
    mask_counts,
    one_class_alone,
    patch_labels,
    point_tokens,
    points_said,
    read_points_csv,
    read_scribbles,
    write_points_csv,
)
from saot.decoder import TailDecoder, TargetTokens, picture_logits
from saot.features import Backbone, FeatureStore, StoreSize, Tail, check_room, patch_grid
from saot.label.grown import Grower
from saot.label.inputs import Inputs
from saot.label.settings import RunSettings, points_request, size_folder, store_folder
from saot.label.sizes import SizesDecoder
from saot.label.wings import PullWing
from saot.recipes import Recipe
from saot.runs import Kept, Making, Workspace, generator_for, identity_of
from saot.transfer import TargetExample
from saot.transport import grid_points

EARLY = "early"  # folder of a store in which early tokens are kept


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
        early: The same pictures as the network's first layers see them, for a `TailDecoder`; None where no such
            decoder is trained. Where there are any the tokens need not be there.
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
        return (self if self.early is None else self.early).store.grid(self.images.keys[number])

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
        if not isinstance(network, TailDecoder):
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


def open_points(
    settings: RunSettings, inputs: Inputs, masks: Callable[..., LabelledSet], space: Workspace, *, fresh: bool
) -> Points:
    """The points of RUN/points.csv: drawn from the target's masks once, or read from what a person clicked.

    Of several input sizes, patches are drawn on the tokens of the one with most tokens.

    `masks` opens the target's masks, here, before anything else sees the target; what comes back has no way to them.

    Raises:
        ValueError: If the points cannot be read, or are to be drawn from a target without masks.
    """
    kept, classes = space.path("points.csv"), inputs.classes
    scope, count = points_request(settings.points)
    path = Path(settings.points)
    if scope == "resample" and count:  # drawn at each step, from all of them: known before features are made
        masks_to_draw_from(settings.points, settings.target, masks, all_of_them=True)
    if count == 0 or scope == "resample":
        points = Points((), (), (), ())
    elif kept.exists() and not fresh:
        return read_points_csv(kept, inputs.target, classes)
    elif count is not None:
        points = draw_points(
            masks_to_draw_from(settings.points, settings.target, masks),
            per_class=count,
            seed=settings.seed,
            scope="total" if scope.endswith("total") else "picture",
            progress=space.tell("points"),
            grid_of=partial(patch_grid, inputs.backbone) if scope.startswith("patches") else None,
            ignore=settings.recipe.transfer.ignored_patches,
        )
    elif path.is_dir():
        points = read_scribbles(path, inputs.target, classes)
    else:
        points = read_points_csv(path, inputs.target, classes)
    if count is None:
        inputs.say(points_said(path, points, inputs.target, classes))
    write_points_csv(kept, points, classes)
    return points


def masks_to_draw_from(asked: str, target: str, masks: Callable[..., LabelledSet], **wanted: bool) -> LabelledSet:
    """The target's masks, or a sentence on why points that are drawn need them and what can be given instead.

    Raises:
        ValueError: If there are none, or they are not as they should be.
    """
    try:
        return masks(**wanted)
    except ValueError as error:
        raise ValueError(
            f"--points {asked} draws points from masks of {target}, which stand in for a person who labels them, but: "
            f"{error}. Without masks give --points FILE.csv (image,x,y,class: what a person clicked), --points FOLDER "
            "of scribbles, or --points 0 to use no target label"
        ) from error


@dataclass(frozen=True)
class Tokens:
    """The frozen tokens of every set of a run."""

    source: Domain
    target: Domain
    translated: Domain | None
    test: Domain


@dataclass(frozen=True)
class PictureSets:
    """The pictures of a run whose features are needed, each with its SPEC and a name for its content; None if not.

    Attributes:
        source: Labelled pictures.
        target: Pictures to adapt to.
        translated: The source in the target's colours, where the pull loss is on.
        test: Pictures to score on, where they are not the target's own.
    """

    source: tuple[str, ImageSet, object]
    target: tuple[str, ImageSet, object]
    translated: tuple[str, ImageSet, object] | None
    test: tuple[str, ImageSet, object] | None

    def __iter__(self) -> Iterator[tuple[str, ImageSet, object]]:
        """Those there are."""
        return (one for one in (self.source, self.target, self.translated, self.test) if one is not None)


def picture_sets(settings: RunSettings, inputs: Inputs) -> PictureSets:
    """What features are needed of.

    Raises:
        ValueError: If the pull loss is asked for and none was handed in.
    """
    found, bridge, translated, test = inputs.found, settings.recipe.bridge, None, None
    if bridge.weight != 0:
        if inputs.pull is None:
            raise ValueError("expected bridge.weight 0, since no pull loss was handed in; pass wings with one, or 0")
        pictures = inputs.pull.translate(inputs.source.images, inputs.target, bridge, settings.seed)
        translated = settings.source, pictures, pictures.keys
    if inputs.truth is not None:
        test = str(settings.eval), inputs.truth.images, found["eval"]
    source, target = inputs.source.images, inputs.target
    return PictureSets(
        (settings.source, source, found["source"]), (settings.target, target, found["target"]), translated, test
    )


def open_features(
    sets: PictureSets,
    backbone: Backbone,
    space: Workspace,
    root: Path,
    device: str,
    seen: Fingerprints,
    early: Backbone | None = None,
    tokens: bool = True,
) -> Tokens:
    """The features of every set at one input size; those missing in the store at `root` are made.

    Args:
        sets: Pictures.
        backbone: Makes the tokens.
        space: Of the run.
        root: Of the stores.
        device: Where whole pictures' tokens go.
        seen: Remembers which files were found whole.
        early: Makes early tokens, where a decoder is trained on them.
        tokens: Whether the backbone's own are needed; without early ones they are.
    """

    def made(stage: str, pictures: tuple[str, ImageSet, object], network: Backbone, wanted: bool) -> Domain:
        spec, images, content = pictures
        folder, key = root if network is not early else root / EARLY, network.key
        features = FeatureStore(store_folder(folder, spec), key)
        if wanted:
            with space.stage(stage):
                features.ensure(images, network, space.tell(stage), seen=seen)
            seen.save()
        return Domain(images, features, key.dim, torch.device(device), identity_of(key, content, device.split(":")[0]))

    def domain(stage: str, *pictures: Any) -> Domain:
        own = made(stage, pictures, backbone, tokens or early is None)
        return own if early is None else replace(own, early=made(f"early {stage}", pictures, early, True))

    source, target = domain("features source", *sets.source), domain("features target", *sets.target)
    translated = None if sets.translated is None else domain("features translated", *sets.translated)
    test = target if sets.test is None else domain("features eval", *sets.test)
    return Tokens(source, target, translated, test)


def tell_size(inputs: Inputs, sets: PictureSets, root: Path, tokens: bool = True) -> None:
    """Say what the features will take, before the first is made; say nothing where all are there.

    Args:
        inputs: The backbone at each input size, and who is told.
        sets: What features are needed of.
        root: Of the stores.
        tokens: Whether the backbone's own tokens are needed where there are early ones.

    Raises:
        ValueError: If the disk has not room for them.
    """
    total = StoreSize(0, 0, 0)
    for folder, backbone, pictures in stores_of(inputs, sets, root, tokens):
        total += FeatureStore(folder, backbone.key).size(backbone, *pictures)
    if total.pictures:
        inputs.say(check_room(root, total))


def stores_of(
    inputs: Inputs, sets: PictureSets, root: Path, tokens: bool = True
) -> Iterator[tuple[Path, Backbone, list[ImageSet]]]:
    """Folder, backbone and pictures of each store below `root` that a run needs.

    Args:
        inputs: The backbone at each input size.
        sets: What features are needed of.
        root: Of the stores.
        tokens: Whether the backbone's own tokens are needed where there are early ones.
    """
    for size, backbone in inputs.sizes.items():
        place, early = size_folder(root, size, inputs.sizes), inputs.early(size)
        wanted = [(place, backbone)] if tokens or early is None else []
        for below, network in [*wanted, *([] if early is None else [(place / EARLY, early)])]:
            by_folder: dict[Path, list[ImageSet]] = {}
            for spec, images, _ in sets:
                by_folder.setdefault(store_folder(below, spec), []).append(images)
            yield from ((folder, network, pictures) for folder, pictures in by_folder.items())


def label_source(inputs: Inputs, domain: Domain, spec: str, bench: Bench) -> Source:
    """The source with the label of each patch.

    Raises:
        ValueError: If no pixel has a label.
    """
    labels = label_maps(bench.space, "source labels", inputs.source, domain, bench.recipe.transfer.ignored_patches)
    if not any(bool((part != 255).any()) for part in labels):
        raise ValueError(f"expected labelled pixels in {spec}; every patch is 'ignore': check the masks' class indices")
    return Source(domain, inputs.source, labels)


def check_masks(inputs: Inputs, space: Workspace, added: bool = False) -> None:
    """Open every mask of source and evaluation once, so that a bad one is found before hours of features and training.

    Args:
        inputs: What the run has.
        space: Of the run.
        added: Whether only the evaluation set is new.

    Raises:
        ValueError: If one cannot be read or has other classes; names it.
    """
    sets = {"source masks": None if added else inputs.source, "evaluation masks": inputs.truth}
    for title, data in sets.items():
        if data is None:
            continue
        seen = np.zeros(256, bool)
        for number in range(len(data)):
            seen |= mask_counts(data.mask(number)) > 0
            space.tell(title)(number + 1, len(data))
        sentence = one_class_alone(data.images.spec, data.classes.names, seen)
        if sentence:
            inputs.say(sentence)


def declare(
    asked: str,
    points: Points,
    source: Source,
    target: Domain,
    masks: Callable[..., LabelledSet],
    bench: Bench,
    share: float,
) -> DeclaredPoints:
    """The declared points on the token grid; a share of the pictures that carry some is held out, to choose on."""
    if share * len(points) < bench.recipe.scores.holdout_least:
        share = 0.0
    tokens, budget, classes = points_on_tokens(points, target, share, bench.seed), len(points), source.masks.classes
    scope, count = points_request(asked)
    if scope == "resample" and count:
        labelled = masks_to_draw_from(asked, target.images.spec, masks, all_of_them=True)
        ignored = bench.recipe.transfer.ignored_patches
        maps = label_maps(bench.space, "target labels", labelled, target, ignored, fingerprints(labelled))
        budget = sum(int((part != 255).sum()) for part in maps)
        tokens = replace(tokens, resample=count, dense=maps)
    seen = torch.zeros(256, dtype=torch.bool)
    for part in source.labels:
        seen[part.unique().long()] = True
    unknown = [classes.names[c] for c in tokens.classes.unique().tolist() if not bool(seen[c])]
    return DeclaredPoints(tokens, points, budget, tuple(unknown))


def class_frequencies(labels: Iterable[Tensor], num_classes: int) -> Tensor:
    """Share of each class among labelled patches or cells, one map a picture."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for part in labels:
        counts += torch.bincount(part[part != 255].long(), minlength=num_classes).double()
    return counts / max(float(counts.sum()), 1.0)
