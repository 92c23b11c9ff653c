"""What runs have in common: the learned cost, the plan's pseudo-labels, and networks trained on the same labels.

A part lies in a folder beside the runs, under a digest of everything it depends on. A run that finds it there links the
files into its own folder and takes over how long they took to make; so each run is whole by itself, and can be moved.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from saot.data import sha256_file, write_atomic
from saot.label.inputs import digest
from saot.label.job import Job, merge_facts
from saot.recipes import as_dict
from saot.runs import RUN_FORMAT

RECORD = "record.json"


@dataclass(frozen=True)
class Part:
    """Files of a run that another run may take over.

    Attributes:
        name: Of its folder, with a digest of what it depends on.
        files: Relative to the run folder; of a folder, the files in it. They are taken over in this order.
        stage: Whose time and memory they cost.
        facts: Whose facts tell of them.
    """

    name: str
    files: tuple[str, ...]
    stage: str
    facts: str


def cost_part(job: Job) -> Part:
    """The learned cost."""
    name = f"cost-{_digest(_cost_identity(job))}"
    return Part(name, ("work/log/cost.jsonl", "cost.safetensors"), "cost", "cost")


def pseudo_part(job: Job, folder: str) -> Part:
    """The pseudo-labels of the first round, those of the plan alone."""
    identity = {
        **_cost_identity(job),
        "cost file": sha256_file(job.space.path("cost.safetensors")),
        "transfer": as_dict(job.recipe.transfer),
    }
    return Part(f"pseudo-{_digest(identity)}", (f"work/{folder}",), "pseudo-labels", "cost")


SOURCE_TERMS = frozenset({"source", "source-cells"})
POINT_TERMS = frozenset({"points", "points-cells"})


def network_part(job: Job, files: tuple[Path, Path], stage: str, terms: Iterable[str], training: Any) -> Part | None:
    """A network trained on source labels and declared points, or on source labels alone; None for any other.

    Without points among its terms it is the same for every label budget.

    Args:
        job: The run.
        files: Where the run keeps its log and its weights, in this order.
        stage: That trains it; equal trainings of another name are kept apart, as their logs are.
        terms: Names of all terms of its training.
        training: Everything else that distinguishes it.
    """
    names = set(terms)
    if not names <= SOURCE_TERMS | POINT_TERMS:
        return None
    identity = {
        **_source_identity(job),
        "target": digest(job.found["target"]),
        "transfer": as_dict(job.recipe.transfer),
        "points": _points_identity(job) if names & POINT_TERMS else None,
        "training": [stage, training],
    }
    names_of_files = tuple(str(path.relative_to(job.space.root)) for path in files)
    return Part(f"network-{_digest(identity)}", names_of_files, stage, "networks")


def adopt(job: Job, part: Part) -> None:
    """Take over a part that another run has left, if there is one; without a shared folder nothing happens."""
    if job.shared is None or not (job.shared / part.name).is_dir():
        return
    folder = job.shared / part.name
    record = json.loads((folder / RECORD).read_text())
    job.space.set_facts("stages", {**job.space.facts("stages"), part.stage: record["stage"]})
    merge_facts(job.space, part.facts, record["facts"])
    for name in _listed(folder, part.files):
        _link(folder / name, job.space.path(name))


def publish(job: Job, part: Part) -> None:
    """Leave a part for other runs, all of it or nothing; what is there already stays."""
    if job.shared is None or (job.shared / part.name).exists():
        return
    unfinished = job.shared / f"{part.name}.tmp-{os.getpid()}"
    try:
        for name in _listed(job.space.root, part.files):
            _link(job.space.path(name), unfinished / name)
        record = {"stage": job.space.facts("stages")[part.stage], "facts": job.space.facts(part.facts)}
        write_atomic(unfinished / RECORD, json.dumps(record, indent=1).encode())
        try:
            unfinished.rename(job.shared / part.name)
        except OSError:
            if not (job.shared / part.name).exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _source_identity(job: Job) -> dict[str, Any]:
    return {
        "format": RUN_FORMAT,
        "backbone": json.loads(job.inputs.backbone.key.to_json()),
        "source": digest(job.found["source"]),
        "source labels": _tensors_digest(job.source_labels),
        "classes": list(job.classes.names),
        "seed": job.settings.seed,
        "device": job.source.device.type,  # an accelerator adds up in another order
    }


def _points_identity(job: Job) -> list[Any]:
    points = job.points
    places = job.space.path("points.csv")
    placed = (points.picture, points.token, points.classes, points.held_out, *points.dense)
    return [points.resample, _tensors_digest(placed), sha256_file(places) if places.exists() else None]


def _cost_identity(job: Job) -> dict[str, Any]:
    """Everything that the learned cost of a run depends on."""
    return {
        **_source_identity(job),
        "target": digest(job.found["target"]),
        "points": _points_identity(job),
        "transport": as_dict(job.recipe.transport),
        "cost": as_dict(job.recipe.cost),
    }


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _tensors_digest(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _listed(root: Path, names: tuple[str, ...]) -> list[str]:
    """The files behind these names, relative to a folder."""
    found = []
    for name in names:
        path = root / name
        inside = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        found += [str(file.relative_to(root)) for file in inside]
    return found


def _link(source: Path, place: Path) -> None:
    """One more name for a file, or a copy where the disk is another; files of a run are replaced, never changed."""
    temporary = place.with_name(f"{place.name}.tmp-{os.getpid()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, temporary)
        os.replace(temporary, place)
    except OSError:
        write_atomic(place, source.read_bytes())
    finally:
        with contextlib.suppress(FileNotFoundError):  # gone, unless both were names of one file already
            temporary.unlink()
