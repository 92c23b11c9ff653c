"""Opening what a run works on: points, features, source labels; bad input is found before anything long begins."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saot.data import (
    Fingerprints,
    ImageSet,
    LabelledSet,
    Points,
    draw_points,
    mask_counts,
    one_class_alone,
    points_said,
    read_points_csv,
    read_scribbles,
    write_points_csv,
)
from saot.features import Backbone, FeatureStore, StoreSize, check_room, patch_grid
from saot.label.data import Bench, DeclaredPoints, Domain, Source, fingerprints, label_maps, points_on_tokens
from saot.label.inputs import Inputs
from saot.label.settings import RunSettings, points_request, size_folder, store_folder
from saot.runs import Workspace, identity_of

EARLY = "early"  # folder of a store in which early tokens are kept


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
    """

    def made(stage: str, pictures: tuple[str, ImageSet, object], network: Backbone) -> Domain:
        spec, images, content = pictures
        folder, key = root if network is not early else root / EARLY, network.key
        features = FeatureStore(store_folder(folder, spec), key)
        with space.stage(stage):
            named = {key: said.split()[0] for key, said in content.items()} if isinstance(content, Mapping) else {}
            features.ensure(images, network, space.tell(stage), seen, named)
        seen.save()
        return Domain(images, features, key.dim, torch.device(device), identity_of(key, content, device.split(":")[0]))

    def domain(stage: str, *pictures: Any) -> Domain:
        own = made(stage, pictures, backbone)
        return own if early is None else replace(own, early=made(f"early {stage}", pictures, early))

    source, target = domain("features source", *sets.source), domain("features target", *sets.target)
    translated = None if sets.translated is None else domain("features translated", *sets.translated)
    test = target if sets.test is None else domain("features eval", *sets.test)
    return Tokens(source, target, translated, test)


def tell_size(inputs: Inputs, sets: PictureSets, root: Path) -> None:
    """Say what the features will take, before the first is made; say nothing where all are there.

    Args:
        inputs: The backbone at each input size, and who is told.
        sets: What features are needed of.
        root: Of the stores.

    Raises:
        ValueError: If the disk has not room for them.
    """
    total = StoreSize(0, 0, 0)
    for folder, backbone, pictures in stores_of(inputs, sets, root):
        total += FeatureStore(folder, backbone.key).size(backbone, *pictures)
    if total.pictures:
        inputs.say(check_room(root, total))


def stores_of(inputs: Inputs, sets: PictureSets, root: Path) -> Iterator[tuple[Path, Backbone, list[ImageSet]]]:
    """Folder, backbone and pictures of each store below `root` that a run needs.

    Args:
        inputs: The backbone at each input size.
        sets: What features are needed of.
        root: Of the stores.
    """
    for size, backbone in inputs.sizes.items():
        place, early = size_folder(root, size, inputs.sizes), inputs.early(size)
        for below, network in [(place, backbone), *([] if early is None else [(place / EARLY, early)])]:
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
