"""What a run learns from and what it is scored on, opened once; nothing that trains sees the second."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from saot.data import (
    ClassSet,
    ImageSet,
    LabelledSet,
    Points,
    draw_points,
    read_points_csv,
    read_scribbles,
    write_points_csv,
)
from saot.features import FeatureStore
from saot.label.domains import Domain, TokenPoints, fingerprints, label_maps, points_on_tokens
from saot.label.inputs import Inputs, Manifest, points_request, shared_pictures, target_labels
from saot.label.settings import RunSettings, store_folder
from saot.label.wings import PullWing
from saot.recipes import Recipe
from saot.runs import Workspace, identity_of


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
    """

    classes: ClassSet
    source: Source
    target: Domain
    points: DeclaredPoints
    translated: Domain | None = None
    pull: PullWing | None = None

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


def open_points(settings: RunSettings, inputs: Inputs, space: Workspace, *, fresh: bool) -> Points:
    """The points of RUN/points.csv: drawn from the target's masks once, or read from what a person clicked.

    The masks are opened here, before anything else sees the target; what comes back has no way to them.

    Raises:
        ValueError: If the points cannot be read, or are to be drawn from a target without masks.
    """
    kept, classes = space.path("points.csv"), inputs.classes
    scope, count = points_request(settings.points)
    path = Path(settings.points)
    if count == 0 or scope == "resample":
        points = Points((), (), (), ())
    elif kept.exists() and not fresh:
        return read_points_csv(kept, inputs.target, classes)
    elif count is not None:
        points = draw_points(
            target_labels(settings, inputs),
            per_class=count,
            seed=settings.seed,
            scope="total" if scope == "total" else "picture",
            progress=space.tell("points"),
        )
    elif path.is_dir():
        points = read_scribbles(path, inputs.target, classes)
    else:
        points = read_points_csv(path, inputs.target, classes)
    write_points_csv(kept, points, classes)
    return points


@dataclass(frozen=True)
class Tokens:
    """The frozen tokens of every set of a run."""

    source: Domain
    target: Domain
    translated: Domain | None
    test: Domain


def open_features(
    settings: RunSettings, inputs: Inputs, found: Manifest, space: Workspace, store: Path | None, device: str
) -> Tokens:
    """The features of every set; those missing in the store are made."""
    root, key = store or space.path("features"), inputs.backbone.key

    def domain(spec: str, images: ImageSet, stage: str, content: object) -> Domain:
        features = FeatureStore(store_folder(root, spec), key)
        with space.stage(stage):
            features.ensure(images, inputs.backbone, space.tell(stage))
        return Domain(images, features, key.dim, torch.device(device), identity_of(key, content, device.split(":")[0]))

    source = domain(settings.source, inputs.source.images, "features source", found["source"])
    target = domain(settings.target, inputs.target, "features target", found["target"])
    translated, bridge = None, settings.recipe.bridge
    if bridge.weight != 0:
        if inputs.wings.pull is None:
            raise ValueError("expected bridge.weight 0, since no pull loss was handed in; pass wings with one, or 0")
        pictures = inputs.wings.pull.translate(inputs.source.images, inputs.target, bridge, settings.seed)
        translated = domain(settings.source, pictures, "features translated", pictures.keys)
    test = target
    if inputs.truth is not None:
        test = domain(str(settings.eval), inputs.truth.images, "features eval", found["eval"])
    return Tokens(source, target, translated, test)


def label_source(inputs: Inputs, domain: Domain, spec: str, bench: Bench) -> Source:
    """The source with the label of each patch.

    Raises:
        ValueError: If no pixel has a label.
    """
    labels = label_maps(bench.space, "source labels", inputs.source, domain, bench.recipe.transfer.ignored_patches)
    if not any(bool((part != 255).any()) for part in labels):
        raise ValueError(f"expected labelled pixels in {spec}; every patch is 'ignore': check the masks' class indices")
    return Source(domain, inputs.source, labels)


def check_truth(inputs: Inputs, space: Workspace) -> None:
    """Open every evaluation mask once, so that a bad one is found before hours of training."""
    if inputs.truth is None:
        return
    for number in range(len(inputs.truth)):
        inputs.truth.mask(number)
        space.tell("evaluation masks")(number + 1, len(inputs.truth))


def declare(
    settings: RunSettings, inputs: Inputs, found: Manifest, points: Points, source: Source, target: Domain, bench: Bench
) -> DeclaredPoints:
    """The declared points on the token grid; some pictures' are held out, to choose settings on."""
    scores = bench.recipe.scores
    share = scores.holdout_points
    if shared_pictures(found) or share * len(points) < scores.holdout_least:
        share = 0.0
    tokens, budget = points_on_tokens(points, target, share, bench.seed), len(points)
    scope, count = points_request(settings.points)
    if scope == "resample" and count:
        masks = target_labels(settings, inputs, all_of_them=True)
        ignored, content = bench.recipe.transfer.ignored_patches, fingerprints(masks)
        maps = label_maps(bench.space, "target labels", masks, target, ignored, content)
        budget = sum(int((part != 255).sum()) for part in maps)
        tokens = replace(tokens, resample=count, dense=maps)
    seen = torch.zeros(256, dtype=torch.bool)
    for part in source.labels:
        seen[part.unique().long()] = True
    unknown = [inputs.classes.names[c] for c in tokens.classes.unique().tolist() if not bool(seen[c])]
    return DeclaredPoints(tokens, points, budget, tuple(unknown))


def class_frequencies(labels: Iterable[Tensor], num_classes: int) -> Tensor:
    """Share of each class among labelled patches or cells, one map a picture."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for part in labels:
        counts += torch.bincount(part[part != 255].long(), minlength=num_classes).double()
    return counts / max(float(counts.sum()), 1.0)
