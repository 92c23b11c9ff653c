"""Everything a stage of the main job may use, opened once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from saot.data import (
    ClassSet,
    LabelledSet,
    Points,
    draw_points,
    open_images,
    open_labelled,
    read_points_csv,
    read_scribbles,
    write_points_csv,
)
from saot.features import Backbone, FeatureStore, load_backbone
from saot.pipeline.domains import (
    Domain,
    TokenPoints,
    load_maps,
    patch_label_maps,
    points_on_tokens,
    save_maps,
)
from saot.pipeline.settings import RunSettings, parse_size, store_folder
from saot.pipeline.workspace import Workspace
from saot.recipes import Recipe


@dataclass(frozen=True)
class Job:
    """The opened inputs of a run.

    Attributes:
        settings: What was asked.
        space: The run folder.
        classes: Classes of source, target and scores.
        backbone: The frozen network; loaded when first used.
        source: Labelled pictures.
        source_labels: Patch labels of each, 255 for ignore.
        target: Pictures to adapt to, without labels.
        test: Pictures that are scored and shown; the target's own where no evaluation set was given.
        truth: The evaluation set with its masks, or None.
        points: Declared target points.
        label_budget: How many of them (all labelled patches where they are drawn anew each step).
    """

    settings: RunSettings
    space: Workspace
    classes: ClassSet
    backbone: Backbone
    source: Domain
    source_labels: list[Tensor]
    target: Domain
    test: Domain
    truth: LabelledSet | None
    points: TokenPoints
    label_budget: int

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


def open_job(settings: RunSettings, space: Workspace, store: Path | None = None, device: str = "cpu") -> Job:
    """Open pictures, draw points, make what features are missing, label the source's patches.

    The target's masks are opened here, before anything else sees the target, if points are to be drawn from them;
    what comes back has no way to them.

    Raises:
        ValueError: If an input is not as it should be.
    """
    recipe = settings.recipe
    source_set = open_labelled(settings.source)
    classes = source_set.classes
    target_images = open_images(settings.target, classes)
    truth = None if settings.eval is None else open_labelled(settings.eval, classes)
    _require_pictures(settings.source, len(source_set))
    _require_pictures(settings.target, len(target_images))
    backbone = load_backbone(settings.backbone, settings.weights, size=parse_size(settings.size), device=device)
    with space.stage("points"):
        points = declared_points(settings, classes, space)
    root = store or space.path("features")

    def domain(spec: str, images, stage: str) -> Domain:
        features = FeatureStore(store_folder(root, spec), backbone.key)
        with space.stage(stage):
            features.ensure(images, backbone, space.tell(stage))
        return Domain(images, features, backbone.key.dim, torch.device(device))

    source = domain(settings.source, source_set.images, "features source")
    target = domain(settings.target, target_images, "features target")
    test = target if truth is None else domain(str(settings.eval), truth.images, "features eval")
    with space.stage("source labels"):
        labels = load_maps(space.work("source-labels.safetensors"))
        if labels is None:
            labels = patch_label_maps(source_set, source.grid, len(classes.names), recipe, space.tell("source labels"))
            save_maps(space.work("source-labels.safetensors"), labels)
    if not any(bool((part != 255).any()) for part in labels):
        raise ValueError(
            f"expected labelled pixels in {settings.source}; every patch is 'ignore': check the masks' class indices"
        )
    token_points = points_on_tokens(points, target, recipe.scores.holdout_points, settings.seed)
    budget = len(points)
    if settings.points.startswith("resample:"):
        token_points, budget = _resampled(settings, token_points, target, classes, space)
    _note_unknown_classes(token_points, labels, classes, space)
    return Job(settings, space, classes, backbone, source, labels, target, test, truth, token_points, budget)


def declared_points(settings: RunSettings, classes: ClassSet, space: Workspace) -> Points:
    """The points of RUN/points.csv: drawn from the target's masks once, or read from what a person clicked.

    Raises:
        ValueError: If the request cannot be read, or points are to be drawn from a target without masks.
    """
    kept, images = space.path("points.csv"), open_images(settings.target, classes)
    text = settings.points
    scope, _, number = text.rpartition(":")
    drawn = number.isdecimal() and scope in ("", "total", "resample")
    if drawn and (int(number) == 0 or scope == "resample"):
        points = Points((), (), (), ())
    elif kept.exists():
        return read_points_csv(kept, images, classes)
    elif drawn:
        points = draw_points(
            open_labelled(settings.target, classes),
            per_class=int(number),
            seed=settings.seed,
            scope="total" if scope == "total" else "picture",
            progress=space.tell("points"),
        )
    else:
        path = Path(text)
        if path.is_dir():
            points = read_scribbles(path, images, classes)
        elif path.is_file():
            points = read_points_csv(path, images, classes)
        else:
            raise ValueError(
                "expected --points as a number, total:N, resample:N, a CSV file (image,x,y,class) or a folder of "
                f"scribbles; got {text!r}, which is none of them"
            )
    write_points_csv(kept, points, classes)
    return points


def _require_pictures(spec: str, count: int) -> None:
    if count == 0:
        raise ValueError(f"expected at least one picture in {spec}; got none")


def _resampled(
    settings: RunSettings, points: TokenPoints, target: Domain, classes: ClassSet, space: Workspace
) -> tuple[TokenPoints, int]:
    """The paper's supervision: every labelled patch of the target may be drawn, so all of them are the budget."""
    maps = load_maps(space.work("target-labels.safetensors"))
    if maps is None:
        labelled = open_labelled(settings.target, classes)
        maps = patch_label_maps(labelled, target.grid, len(classes.names), settings.recipe, space.tell("target labels"))
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


def data_fingerprint(domain: Domain) -> str:
    """One name for the content of a set of pictures."""
    import hashlib

    digest = hashlib.sha256()
    for number, key in enumerate(domain.images.keys):
        digest.update(f"{key} {domain.images.fingerprint(number)}\n".encode())
    return digest.hexdigest()


def class_frequencies(labels: list[Tensor], num_classes: int) -> Tensor:
    """Share of each class among the labelled source patches."""
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for part in labels:
        counts += torch.bincount(part[part != 255].long(), minlength=num_classes).double()
    return counts / max(float(counts.sum()), 1.0)


def adjustment_bias(frequencies: Tensor, strength: float) -> Tensor:
    """-tau log f_c of appendix E.6; a class the source never has is left where it is."""
    known = frequencies > 0
    logs = torch.where(known, frequencies.clamp_min(1e-300).log(), torch.zeros_like(frequencies))
    return (-strength * logs).float()


def finite_or_none(value: float) -> float | None:
    """A number for JSON."""
    return None if math.isnan(value) else value


def merge_facts(space: Workspace, name: str, values: Mapping[str, object]) -> None:
    """Add to the facts of a stage."""
    space.set_facts(name, {**space.facts(name), **values})
