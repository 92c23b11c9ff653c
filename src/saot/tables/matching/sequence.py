"""Labels carried along sequences of labelled frames: mIoU by distance in frames, one way of matching a row."""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int64
from safetensors.torch import load_file, save
from torch import Tensor

from saot.data import LabelledSet, soft_patch_labels, write_atomic
from saot.evaluate import (
    ConfusionMatrix,
    iou_from_counts,
    mean_over,
    predict_mask,
)
from saot.features import Backbone, FeatureStore
from saot.label import store_folder
from saot.match import MatchSide as Side
from saot.match import PropagationSettings, propagate_labels
from saot.recipes import as_dict
from saot.tables.bootstrap import PairedDifference, paired_bootstrap
from saot.tables.matching.model import MatchRow, MatchTableRequest
from saot.tables.matching.sides import feature_note, network_of
from saot.tables.model import Changes
from saot.tables.output import check_folder, write_table
from saot.tables.pieces import Progress
from saot.tables.results import Cell, ResultRow, SettingDifference, TableResult, cell_of
from saot.tables.wings import ALL_WINGS


@dataclass(frozen=True)
class SequenceRow:
    """One way to carry labels.

    Attributes:
        label: As printed.
        changes: Dotted paths into `MatchSettings`.
        first: Whether the labelled frame is always asked.
        memory: How many frames before the new one are asked.
        take: As in `PropagationSettings`.
        section: Heading above a group of rows.
    """

    label: str
    changes: Changes
    first: bool = True
    memory: int = 0
    take: Literal["best", "mean"] = "best"
    section: str = ""

    def settings(self) -> PropagationSettings:
        """The settings behind the row."""
        return PropagationSettings(MatchRow(self.label, self.changes).settings({}), self.take, self.first, self.memory)


@dataclass(frozen=True)
class SequenceExperiment:
    """A table of labels carried forward.

    Attributes:
        name, title, location: As of any table.
        rows: Ways to carry labels.
        distances: In frames; one column each.
        every: A new first frame after so many frames.
        data: What is needed.
        reference: Label of the row that differences are taken against.
        notes: How to read it.
    """

    name: str
    title: str
    location: str
    rows: tuple[SequenceRow, ...]
    distances: tuple[int, ...] = (1, 2, 3, 5, 10)
    every: int = 10  # clips that overlap would count frames twice, and a bootstrap would take them for others
    data: str = "camvid:PATH:day.txt"
    reference: str | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def describe(self) -> dict[str, Any]:
        """Plain JSON values for `saot reproduce --list --json`."""
        return {
            "title": self.title,
            "rows": [row.label for row in self.rows],
            "columns": [f"{distance} frames" for distance in self.distances],
            "needs": f"a labelled sequence as --source, such as {self.data}",
            "location": self.location,
        }


def sequences(keys: Sequence[str]) -> list[list[int]]:
    """Numbers of the frames of each sequence in their order.

    Names that are alike up to their last digits are one drive; where these digits jump by more than half as much again
    as they usually do, a new sequence begins.

    Example:
        >>> sequences(["b/x_2.png", "a_f1.png", "b/x_10.png", "b/x_4.png", "b/x_6.png"])
        [[1], [0, 3, 4], [2]]
    """
    drives: dict[str, list[tuple[int, int]]] = {}
    for number, key in enumerate(keys):
        stem = key.rpartition(".")[0] or key
        start = stem.rstrip("0123456789")
        drives.setdefault(start, []).append((int(stem[len(start) :] or 0), number))
    found: list[list[int]] = []
    for start in sorted(drives):
        frames = sorted(drives[start])
        steps = [after[0] - before[0] for before, after in pairwise(frames)]
        usual = statistics.median(steps) if steps else 0
        found.append([frames[0][1]])
        for step, (_, number) in zip(steps, frames[1:], strict=True):
            if step > 1.5 * usual:
                found.append([])
            found[-1].append(number)
    return found


def clips(keys: Sequence[str], length: int, every: int) -> list[list[int]]:
    """Frames of each clip: a labelled one and up to `length` after it, beginning anew after `every` frames.

    Example:
        >>> clips(["a_1", "a_2", "a_3"], 2, 1)
        [[0, 1, 2], [1, 2]]
    """
    return [
        frames[start : start + length + 1] for frames in sequences(keys) for start in range(0, len(frames) - 1, every)
    ]


def sequence_table(
    experiment: SequenceExperiment,
    request: MatchTableRequest,
    out: Path,
    *,
    runs: Path | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
) -> TableResult:
    """The table on the sequence at hand; the same call again goes on where it stopped.

    Raises:
        ValueError: If no sequence is given, or it has no two frames in a row.
    """
    if request.pairs is None:
        raise ValueError(f"{experiment.name} needs a labelled sequence; pass --source {experiment.data}")
    check_folder(out, experiment.name)
    frames = ALL_WINGS.labelled(request.pairs)
    wanted = clips(frames.keys, max(experiment.distances), experiment.every)
    if not wanted:
        raise ValueError(f"expected at least two frames of one sequence in {request.pairs}; names differ too much")
    network = network_of(request)
    folder = runs or out / "runs"
    digest = hashlib.sha256(network.key.to_json().encode()).hexdigest()[:8]
    kept = FeatureStore(store_folder((store or folder / "features") / digest, request.pairs), network.key)
    kept.ensure(frames.images, network, None if progress is None else lambda d, t: progress("features", d, t))
    counts: dict[str, Int64[Tensor, "clips steps k k"]] = {}
    for row in experiment.rows:
        identity = [as_dict(row.settings()), network.key.to_json(), request.pairs]
        place = folder / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        parts = []
        for number, clip in enumerate(wanted):
            if progress is not None:
                progress(row.label, number, len(wanted))
            parts.append(_clip_counts(frames, kept, clip, row, place, max(experiment.distances), request.device))
        counts[row.label] = torch.stack(parts)
    return _finish(experiment, request, frames, counts, network, out)


def _clip_counts(
    frames: LabelledSet, kept: FeatureStore, clip: list[int], row: SequenceRow, folder: Path, length: int, device: str
) -> Int64[Tensor, "steps k k"]:
    """Confusion counts at each distance; zero beyond the clip's end."""
    path = folder / f"{clip[0]:06d}-{len(clip)}.safetensors"
    if path.is_file():
        return load_file(path)["counts"]
    number_of_classes = len(frames.classes.names)
    grids = [kept.grid(frames.keys[frame]) for frame in clip]
    labels, _ = soft_patch_labels(frames.mask(clip[0]), grids[0], num_classes=number_of_classes)

    def sides():
        for frame, grid in zip(clip, grids, strict=True):
            yield Side.of(kept.read(frames.keys[frame]).tokens.to(device), (grid.height, grid.width))

    counts = torch.zeros(length, number_of_classes, number_of_classes, dtype=torch.int64)
    for step, carried in enumerate(propagate_labels(sides(), labels.to(device), row.settings())):
        if step == 0:
            continue
        matrix = ConfusionMatrix(number_of_classes)
        matrix.update(predict_mask(carried.probs.cpu(), grids[step]), torch.from_numpy(frames.mask(clip[step])))
        counts[step - 1] = matrix.counts
    write_atomic(path, save({"counts": counts}))
    return counts


def _finish(
    experiment: SequenceExperiment,
    request: MatchTableRequest,
    frames: LabelledSet,
    counts: Mapping[str, Int64[Tensor, "clips steps k k"]],
    network: Backbone,
    out: Path,
) -> TableResult:
    scored = frames.classes.scored

    def cell(row: SequenceRow, distance: int) -> Cell:
        mine = counts[row.label][:, distance - 1]
        there = mine.sum((-2, -1)) > 0
        if not bool(there.any()):
            return Cell()
        value = 100 * float(mean_over(iou_from_counts(mine.sum(0)), scored))
        difference = None
        if experiment.reference not in (None, row.label):
            theirs = counts[str(experiment.reference)][:, distance - 1]
            found = paired_bootstrap(mine[there], theirs[there], classes=scored)
            difference = PairedDifference(100 * found.difference, 100 * found.low, 100 * found.high, found.probability)
        return cell_of(None, [value], 1, difference)

    rows = tuple(
        ResultRow(row.label, {str(d): cell(row, d) for d in experiment.distances}, False, row.section)
        for row in experiment.rows
    )
    result = TableResult(
        name=experiment.name,
        title=experiment.title,
        location=experiment.location,
        columns=tuple((str(d), f"{d} listed frame{'s' * (d > 1)} on") for d in experiment.distances),
        rows=rows,
        reference=experiment.reference,
        images=len(next(iter(counts.values()))),
        notes=(*experiment.notes, feature_note(network)),
        differences=(
            SettingDifference("data", "ours", str(request.pairs), "as asked"),
            SettingDifference("features", "ours", network.key.to_json(), "as asked"),
        ),
        request=request.to_dict(),
        counted="clips",
    )
    write_table(out, result)
    return result
