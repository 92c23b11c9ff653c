"""Everything a stage of the main job may use, opened once."""

from collections.abc import Iterable, Mapping
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
from saot.label.domains import Domain, TokenPoints, load_maps, patch_label_maps, points_on_tokens, save_maps
from saot.label.inputs import (
    Inputs,
    Manifest,
    check_manifest,
    keep_manifest,
    kept_manifest,
    manifest,
    points_request,
    shared_pictures,
    target_labels,
)
from saot.label.settings import RunSettings, store_folder
from saot.recipes import Recipe
from saot.runs import Workspace


@dataclass(frozen=True)
class Job:
    """Everything a stage may use.

    Attributes:
        settings: What was asked.
        space: The run folder.
        inputs: The opened sets and the backbone.
        found: Fingerprints of everything read.
        source: Labelled pictures.
        source_labels: Patch labels of each, 255 for ignore.
        target: Pictures to adapt to, without labels.
        test: Pictures that are scored and shown; the target's own where no evaluation set was given.
        points: Declared target points.
        label_budget: How many of them (all labelled patches where they are drawn anew each step).
        may_choose: False where evaluation pictures are target pictures too: then nothing is chosen on points.
        shared: Folder of what runs have in common that differ in their decoders alone, or None.
        translated: The source's pictures in the target's colours, number by number; None unless the pull loss is on.
    """

    settings: RunSettings
    space: Workspace
    inputs: Inputs
    found: Manifest
    source: Domain
    source_labels: list[Tensor]
    target: Domain
    test: Domain
    points: TokenPoints
    label_budget: int
    may_choose: bool
    shared: Path | None = None
    translated: Domain | None = None

    @property
    def classes(self) -> ClassSet:
        """Classes of source, target and scores."""
        return self.inputs.classes

    @property
    def truth(self) -> LabelledSet | None:
        """The evaluation set with its masks, or None."""
        return self.inputs.truth

    @property
    def recipe(self) -> Recipe:
        """The settings of every method."""
        return self.settings.recipe

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes.names)

    def labelled_source(self, number: int) -> tuple[Tensor, Tensor]:
        """Tokens and labels of a source picture, without the ignored ones."""
        labels = self.source_labels[number].to(self.source.device)
        keep = labels != 255
        return self.source.tokens(number)[keep], labels[keep]


def open_job(
    settings: RunSettings, space: Workspace, inputs: Inputs, store: Path | None = None, device: str = "cpu"
) -> Job:
    """Draw points, make what features are missing, label the source's patches.

    The target's masks are opened here, before anything else sees the target, if points are to be drawn from them;
    what comes back has no way to them. Until every input has proved readable nothing is kept that hangs on it, so
    that a bad file can be mended and the same command given again.

    Raises:
        ValueError: If an input is not as it should be, or not the one the run began with.
    """
    recipe, classes = settings.recipe, inputs.classes
    found, kept = manifest(inputs, settings), kept_manifest(space)
    if kept is not None:
        check_manifest(found, kept)
    with space.stage("points"):
        points = declared_points(settings, inputs, space, fresh=kept is None)
    root = store or space.path("features")

    def domain(spec: str, images: ImageSet, stage: str) -> Domain:
        features = FeatureStore(store_folder(root, spec), inputs.backbone.key)
        with space.stage(stage):
            features.ensure(images, inputs.backbone, space.tell(stage))
        return Domain(images, features, inputs.backbone.key.dim, torch.device(device))

    source = domain(settings.source, inputs.source.images, "features source")
    target = domain(settings.target, inputs.target, "features target")
    translated = None
    if recipe.bridge.weight != 0:
        if inputs.wings.pull is None:
            raise ValueError("expected bridge.weight 0 where no pull loss is handed in; pass wings with one, or 0")
        pictures = inputs.wings.pull.translate(inputs.source.images, inputs.target, recipe.bridge, settings.seed)
        translated = domain(settings.source, pictures, "features translated")
    test = target if inputs.truth is None else domain(str(settings.eval), inputs.truth.images, "features eval")
    with space.stage("source labels"):
        path = space.work("source-labels.safetensors")
        labels = None if kept is None else load_maps(path)
        if labels is None:
            labels = patch_label_maps(
                inputs.source, source.grid, len(classes.names), recipe, space.tell("source labels")
            )
            _require_labels(settings.source, labels)
            _check_truth(inputs, space)
            keep_manifest(space, found)
            save_maps(path, labels)
    overlap = shared_pictures(found)
    share = recipe.scores.holdout_points
    if overlap or share * len(points) < recipe.scores.holdout_least:
        share = 0.0
    token_points = points_on_tokens(points, target, share, settings.seed)
    budget = len(points)
    scope, count = points_request(settings.points)
    if scope == "resample" and count:
        token_points, budget = _resampled(settings, inputs, token_points, target, space)
    _note_unknown_classes(token_points, labels, classes, space)
    made = settings, space, inputs, found, source, labels, target, test, token_points, budget
    return Job(*made, may_choose=overlap == 0, translated=translated)


def declared_points(settings: RunSettings, inputs: Inputs, space: Workspace, fresh: bool) -> Points:
    """The points of RUN/points.csv: drawn from the target's masks once, or read from what a person clicked.

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


def _require_labels(spec: str, labels: list[Tensor]) -> None:
    if not any(bool((part != 255).any()) for part in labels):
        raise ValueError(f"expected labelled pixels in {spec}; every patch is 'ignore': check the masks' class indices")


def _check_truth(inputs: Inputs, space: Workspace) -> None:
    """Open every evaluation mask once, so that a bad one is found before hours of training."""
    if inputs.truth is None:
        return
    for number in range(len(inputs.truth)):
        inputs.truth.mask(number)
        space.tell("evaluation masks")(number + 1, len(inputs.truth))


def _resampled(
    settings: RunSettings, inputs: Inputs, points: TokenPoints, target: Domain, space: Workspace
) -> tuple[TokenPoints, int]:
    """The paper's supervision: every labelled patch of the target may be drawn, so all of them are the budget."""
    maps = load_maps(space.work("target-labels.safetensors"))
    if maps is None:
        labelled, size = target_labels(settings, inputs, all_of_them=True), len(inputs.classes.names)
        maps = patch_label_maps(labelled, target.grid, size, settings.recipe, space.tell("target labels"))
        save_maps(space.work("target-labels.safetensors"), maps)
    budget = sum(int((part != 255).sum()) for part in maps)
    count = int(settings.points.rpartition(":")[2])
    return replace(points, resample=count, dense=tuple(maps)), budget


def _note_unknown_classes(points: TokenPoints, labels: list[Tensor], classes: ClassSet, space: Workspace) -> None:
    """Write down which classes the points have and the source never does; transport cannot carry those."""
    seen = torch.zeros(256, dtype=torch.bool)
    for part in labels:
        seen[part.unique().long()] = True
    missing = [classes.names[c] for c in points.classes.unique().tolist() if not bool(seen[c])]
    space.set_facts("points", {"classes_without_source": missing, "count": len(points)})


def source_weights(similarities: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The most similar sources of one target picture and their weights, softmax(sim / T) (E.4).

    Example:
        >>> source_weights(torch.tensor([0.1, 0.9]), 1, 0.1)
        (tensor([1]), tensor([1.]))
    """
    usable = int((similarities > -torch.inf).sum())
    values, index = similarities.topk(min(count, usable))
    return index, torch.softmax(values / temperature, dim=-1)


def class_frequencies(labels: Iterable[Tensor], num_classes: int) -> Tensor:
    """Share of each class among labelled patches or cells, one map a picture."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for part in labels:
        counts += torch.bincount(part[part != 255].long(), minlength=num_classes).double()
    return counts / max(float(counts.sum()), 1.0)


def adjustment_bias(frequencies: Tensor, strength: float) -> Tensor:
    """-tau log f_c of appendix E.6; a class the source never has is left where it is."""
    known = frequencies > 0
    logs = torch.where(known, frequencies.clamp_min(1e-300).log(), torch.zeros_like(frequencies))
    return (-strength * logs).float()


def merge_facts(space: Workspace, name: str, values: Mapping[str, object]) -> None:
    """Add to the facts of a stage."""
    space.set_facts(name, {**space.facts(name), **values})
