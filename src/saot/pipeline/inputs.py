"""What a run reads: opened and checked before anything is written, and recognised when the run goes on."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from saot.data import ClassSet, ImageSet, LabelledSet, open_images, open_labelled, sha256_file, write_atomic
from saot.features import Backbone, load_backbone
from saot.pipeline.settings import RunSettings, parse_size
from saot.pipeline.workspace import Workspace

Manifest = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Inputs:
    """The opened inputs of a run.

    Attributes:
        source: Labelled pictures.
        target: Pictures to adapt to; no way to their labels.
        truth: Labelled pictures to score on, or None.
        classes: Those of the source.
        backbone: The frozen network; its weights load when first used.
    """

    source: LabelledSet
    target: ImageSet
    truth: LabelledSet | None
    classes: ClassSet
    backbone: Backbone


def open_inputs(settings: RunSettings, device: str) -> Inputs:
    """Open everything a run reads. Nothing is written, so a slip in the command costs nothing.

    Raises:
        ValueError: If a set, the backbone or the request for points is not as it should be.
    """
    source = open_labelled(settings.source)
    classes = source.classes
    target = open_images(settings.target, classes)
    truth = None if settings.eval is None else open_labelled(settings.eval, classes)
    for spec, pictures in ((settings.source, source), (settings.target, target), (settings.eval, truth)):
        if pictures is not None and len(pictures) == 0:
            raise ValueError(f"expected at least one picture in {spec}; got none")
    _, count = points_request(settings.points)
    if count is None and not Path(settings.points).exists():
        raise ValueError(
            "expected --points as a number, total:N, resample:N, a CSV file (image,x,y,class) or a folder of "
            f"scribbles; got {settings.points!r}, which is none of them"
        )
    backbone = load_backbone(settings.backbone, settings.weights, size=parse_size(settings.size), device=device)
    return Inputs(source, target, truth, classes, backbone)


def points_request(text: str) -> tuple[str, int | None]:
    """How points are to be had: ("picture" | "total" | "resample", N), or ("file", None).

    Example:
        >>> points_request("20"), points_request("total:5"), points_request("clicks.csv")
        (('picture', 20), ('total', 5), ('file', None))
    """
    scope, _, number = text.rpartition(":")
    if number.isdecimal() and scope in ("", "total", "resample"):
        return (scope or "picture"), int(number)
    return "file", None


def manifest(inputs: Inputs, settings: RunSettings) -> Manifest:
    """The content of every picture, mask and points file, by name. Masks of the target are not looked at."""

    def labelled(data: LabelledSet) -> dict[str, str]:
        return {
            key: f"{data.images.fingerprint(number)} {data.mask_fingerprint(number)}"
            for number, key in enumerate(data.keys)
        }

    found: Manifest = {
        "source": labelled(inputs.source),
        "target": {key: inputs.target.fingerprint(number) for number, key in enumerate(inputs.target.keys)},
        "eval": {} if inputs.truth is None else labelled(inputs.truth),
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
    """What the run in this folder was made from; None while it has nothing that hangs on it."""
    path = space.work("data.json")
    return json.loads(path.read_text()) if path.exists() else None


def keep_manifest(space: Workspace, found: Manifest) -> None:
    """Write down what the run is made from, just before the first file that hangs on it."""
    write_atomic(space.work("data.json"), json.dumps(found, indent=1).encode())


def check_manifest(found: Manifest, kept: Manifest) -> None:
    """Refuse to go on with other data than a run began with.

    Raises:
        ValueError: If a picture, mask or points file was added, removed or changed; names the first.
    """
    for role, entries in found.items():
        before = kept[role]
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
