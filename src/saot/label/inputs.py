"""What a run reads: opened and checked before anything is written, and recognised when the run goes on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from saot.data import (
    ClassSet,
    Fingerprints,
    ImageSet,
    LabelledSet,
    as_written,
    fitting,
    mask_map_of,
    read_record,
    restrict_images,
    restrict_labelled,
    sha256_file,
    write_atomic,
)
from saot.features import Backbone, Divided, Projected, Tail, in_form, token_count
from saot.label.grown import Grower
from saot.label.settings import RunSettings, parse_size, points_request, sizes_of
from saot.label.wings import NO_WINGS, PullWing, Wings
from saot.runs import BEGIN_ANEW, Workspace

Manifest = dict[str, dict[str, str]]
ROLES = ("source", "target", "eval", "points")


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a run.

    Attributes:
        source: Labelled pictures in use.
        target: Pictures in use to adapt to; no way to their labels.
        truth: Labelled pictures to score on, or None.
        classes: Those of the source.
        backbone: The frozen network; its weights load when first used. Of several input sizes the one with most tokens.
        found: Fingerprints of everything read.
        target_masks: Opens the masks of the target's pictures (`target_labels`), for drawn points and the oracle.
        pull: The pull loss that was handed in, or None.
        seen: Fingerprints of files, to be saved once there is a place for them.
        say: Hears what the user should know.
        sizes: The input sizes with their networks, the one with most tokens first; None is the network's default.
        left_out: Sentences about pictures whose masks have another size; grows when the target's masks are opened.
        divided: Whether a decoder is trained along with the network's last layers.
        grower: Grows declared points to what they lie on, where that is asked for and can be done.
    """

    source: LabelledSet
    target: ImageSet
    truth: LabelledSet | None
    classes: ClassSet
    backbone: Backbone
    found: Manifest
    target_masks: Callable[..., LabelledSet]
    pull: PullWing | None
    seen: Fingerprints
    say: Callable[[str], None]
    sizes: Mapping[str | None, Backbone]
    left_out: list[str]
    divided: bool = False
    grower: Grower | None = None

    def early(self, size: str | None) -> Backbone | None:
        """The network's first layers at an input size, where a decoder is trained along with its last ones."""
        backbone = self.sizes[size]
        return backbone.early() if self.divided and isinstance(backbone, Divided) else None

    def tail(self, size: str | None) -> Callable[[], Tail] | None:
        """Copies its last layers, where they are trained."""
        backbone = self.sizes[size]
        return backbone.tail if self.divided and isinstance(backbone, Divided) else None


def open_inputs(
    settings: RunSettings,
    device: str,
    wings: Wings = NO_WINGS,
    remembered: Path | None = None,
    strict: bool = False,
) -> Inputs:
    """Open everything a run reads. No folder is made, so a slip in the command costs nothing.

    Args:
        settings: What is asked.
        device: Where the backbone runs.
        wings: What the core does not know.
        remembered: The file of fingerprints, so that only pictures and masks that changed are read; None reads all.
        strict: Whether a mask that has not the size of its picture ends the run; else the picture is left out.

    Raises:
        ValueError: If a set, the backbone or the request for points is not as it should be.
    """
    seen = Fingerprints(remembered)
    mask_map = mask_map_of(settings.mask_map)
    wings = replace(wings, seen=seen, mask_map=mask_map)
    source = wings.labelled(settings.source)
    classes = source.classes
    target = wings.images(settings.target, classes)
    truth = None if settings.eval is None else wings.labelled(settings.eval, classes)
    for spec, pictures in ((settings.source, source), (settings.target, target), (settings.eval, truth)):
        if pictures is not None and len(pictures) == 0:
            raise ValueError(f"expected at least one picture in {spec}; got none")
    left_out: list[str] = []
    source, told = _fitting(restrict_labelled(source, source_choice(len(source), settings)), strict)
    left_out += told
    if truth is not None:
        truth, told = _fitting(truth, strict)
        left_out += told
    target = restrict_images(target, target_choice(len(target), settings))
    for number in range(len(target) if target.measure is not None else 0):
        target.size(number)  # the heads of source and evaluation were read above
    _, count = points_request(settings.points)
    if count is None and not Path(settings.points).exists():
        raise ValueError(
            "expected --points as a number, total:N, patches:N, patches:total:N, resample:N, a CSV file "
            f"(image,x,y,class) or a folder of scribbles; got {settings.points!r}, which is none of them"
        )
    kept = [Path(settings.start)] if settings.start is not None else []  # whose features it goes on with
    kept += [] if remembered is None else [remembered.parent]
    sizes = {
        size: in_form(whole, settings.store_form, kept, source.images)
        for size, whole in open_sizes(settings, target, device, wings).items()
    }
    backbone = next(iter(sizes.values()))
    found = manifest(settings, source, target, truth)
    masks = partial(
        target_labels, settings, cache(partial(_target_masks, settings, wings, target, strict, left_out)), target
    )
    for sentence in left_out:
        wings.say(sentence)
    divided = settings.recipe.tail.steps > 0 and all(isinstance(one, Divided) for one in sizes.values())
    if settings.recipe.tail.steps > 0 and not divided:
        why = "mobile-sam alone has last layers that can be trained along (tail.steps)"
        if isinstance(backbone, Projected):
            why = "its last layers cannot be trained on projected tokens"
        wings.say(f"{settings.backbone} stays frozen as a whole: {why}")
    common = found, masks, wings.pull, seen, wings.say, sizes, left_out, divided
    return Inputs(source, target, truth, classes, backbone, *common, _grower(settings, device, wings))


def _grower(settings: RunSettings, device: str, wings: Wings) -> Grower | None:
    """What grows points, where the backbone's file has Segment Anything's mask decoder."""
    scope, count = points_request(settings.points)
    if not settings.recipe.decoder.grown_points or count == 0 or scope == "resample":
        return None
    if settings.backbone != "mobile-sam" or settings.weights is None:
        wings.say(
            "points are not grown to what they lie on, since that takes the mask decoder of --backbone mobile-sam "
            f"--weights mobile_sam.pt; got --backbone {settings.backbone}"
        )
        return None
    grower = Grower(Path(settings.weights), device)
    try:
        grower.segmenter  # noqa: B018  its weights are read here, before anything is written
    except ValueError as error:
        wings.say(f"points are not grown to what they lie on, since that takes the whole of MobileSAM: {error}")
        return None
    return grower


def _fitting(data: LabelledSet, strict: bool) -> tuple[LabelledSet, list[str]]:
    """The pictures whose masks fit, masks remembered, and a sentence on the others if there are any."""
    found = fitting(data, strict)
    return found.data.remembering(), [found.sentence] if found.left_out else []


def _target_masks(
    settings: RunSettings, wings: Wings, target: ImageSet, strict: bool, left_out: list[str]
) -> LabelledSet:
    """Masks of the target's pictures in use that fit; what does not is told here, since nothing else looks at them."""
    labelled, used = wings.labelled(settings.target, target.classes), set(target.keys)
    labelled = restrict_labelled(labelled, [number for number, key in enumerate(labelled.keys) if key in used])
    found, told = _fitting(labelled, strict)
    for sentence in told:
        wings.say(sentence)
    left_out += told
    return found


def open_sizes(settings: RunSettings, pictures: ImageSet, device: str, wings: Wings) -> dict[str | None, Backbone]:
    """A backbone at each input size, the one that gives the first of the pictures most tokens first.

    Raises:
        ValueError: If the backbone or a size is not as it should be.
    """
    options = {"device": device, "precision": settings.precision}
    found = {
        size: wings.backbone(settings.backbone, settings.weights, size=parse_size(size), **options)
        for size in sizes_of(settings.size)
    }
    if len(found) == 1:
        return found
    shape = pictures.size(0)
    return dict(sorted(found.items(), key=lambda one: -token_count(one[1], shape)))


def source_choice(total: int, settings: RunSettings) -> list[int]:
    """Which source pictures are used: all, or the paper's random choice (E.9), in the order of the data set.

    Raises:
        ValueError: If more are asked for than there are, or fewer than one.

    Example:
        >>> source_choice(5, RunSettings("a:b", "c:d", source_pictures=3))
        [2, 3, 4]
    """
    count = _checked_count("source_pictures", settings.source_pictures, total, settings.source)
    if count is None:
        return list(range(total))
    return sorted(np.random.default_rng(0).choice(total, count, replace=False).tolist())


def target_choice(total: int, settings: RunSettings) -> list[int]:
    """Which target pictures are used: all, or the first ones (E.9).

    Raises:
        ValueError: If more are asked for than there are, or fewer than one.
    """
    count = _checked_count("target_pictures", settings.target_pictures, total, settings.target)
    return list(range(total if count is None else count))


def _checked_count(name: str, count: int | None, total: int, spec: str) -> int | None:
    if count is not None and not 1 <= count <= total:
        raise ValueError(
            f"expected {name} from 1 to {total}, the number of pictures in {spec}; got {count}: ask for no more, or "
            "leave it out to use all"
        )
    return count


def target_labels(
    settings: RunSettings, opened: Callable[[], LabelledSet], target: ImageSet, *, all_of_them: bool = False
) -> LabelledSet:
    """The masks of the target pictures in use: to draw points from, and for the oracle. Nothing else may call it.

    Args:
        settings: What was asked.
        opened: Opens those that are there and fit.
        target: The pictures in use.
        all_of_them: Whether every picture in use must have a mask.

    Raises:
        ValueError: If there are no masks, or not all of them.
    """
    labelled = opened()
    if all_of_them and labelled.keys != target.keys:
        missing = next(key for key in target.keys if key not in set(labelled.keys))
        raise ValueError(
            f"expected a mask of every picture in {settings.target}; {missing} has none, or of another size: mend it"
        )
    return labelled


def manifest(settings: RunSettings, source: LabelledSet, target: ImageSet, truth: LabelledSet | None) -> Manifest:
    """The content of every picture, mask and points file, by name. Masks of the target are not looked at."""

    def labelled(data: LabelledSet) -> dict[str, str]:
        return {
            key: f"{data.images.fingerprint(number)} {data.mask_fingerprint(number)}"
            for number, key in enumerate(data.keys)
        }

    found: Manifest = {
        "source": labelled(source),
        "target": {key: target.fingerprint(number) for number, key in enumerate(target.keys)},
        "eval": {} if truth is None else labelled(truth),
        "points": {},
    }
    if points_request(settings.points)[1] is None:
        path = Path(settings.points)
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found["points"] = {file.name: sha256_file(file) for file in files if file.is_file()}
    return found


def digest(entries: dict[str, str]) -> str:
    """One name for the content of a set."""
    return hashlib.sha256(json.dumps(list(entries.items())).encode()).hexdigest()


def kept_manifest(space: Workspace) -> Manifest | None:
    """What the run in this folder was made from; None while it has nothing that hangs on it.

    Raises:
        ValueError: If the file that says it is damaged.
    """
    path = space.work("data.json")
    if not path.exists():
        return None
    kept = read_record(path, BEGIN_ANEW)
    with as_written(path, BEGIN_ANEW):
        return {role: {str(name): str(said) for name, said in kept[role].items()} for role in ROLES}


def keep_manifest(space: Workspace, found: Manifest) -> None:
    """Write down what the run is made from, just before the first file that hangs on it."""
    write_atomic(space.work("data.json"), json.dumps(found, indent=1).encode())


def check_manifest(found: Manifest, kept: Manifest) -> None:
    """Refuse to go on with other data than a run began with; an evaluation set may be added.

    Raises:
        ValueError: If a picture, mask or points file was added, removed or changed; names the first.
    """
    for role, entries in found.items():
        before = kept[role]
        if role == "eval" and not before:
            continue  # added to a run that had none
        if list(entries.items()) == list(before.items()):
            continue
        names = [name for name in {**before, **entries} if entries.get(name) != before.get(name)]
        what = "came in another order"
        if names:
            what = f"{names[0]} " + (
                "was added" if names[0] not in before else "is gone" if names[0] not in entries else "has changed"
            )
        raise ValueError(
            f"expected the data this run was made from; in the {role} {what}: put it back, or choose another --out "
            "(give --store to keep the features)"
        )


def shared_pictures(found: Manifest) -> int:
    """How many evaluation pictures are target pictures too."""
    target = set(found["target"].values())
    return sum(value.split()[0] in target for value in found["eval"].values())
