"""Labels carried along sequences of labelled frames: rows are ways to carry them, columns distances in frames."""

import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from safetensors.torch import load_file, save
from torch import Tensor

from saot.data import ImageSet, soft_patch_labels, write_atomic
from saot.evaluate import ConfusionMatrix, iou_from_counts, mean_over, predict_mask
from saot.features import Backbone, FeatureStore
from saot.label import store_folder
from saot.match import MatchSide, PropagationSettings, propagate_labels
from saot.recipes import RecipeDifference, as_dict
from saot.tables.experiment import Column, Experiment, Row
from saot.tables.match.matching import RECORDED
from saot.tables.match.viewer import feature_note, network_of
from saot.tables.replace import with_changes
from saot.tables.request import Request
from saot.tables.table import Places, Planned, Table, Value, digest
from saot.tables.wings import ALL_WINGS

EVERY = 10  # a new first frame after so many: clips that overlap would count frames twice, and a bootstrap be fooled


class Carried(Table):
    """A table of labels that are carried along frames: what its kinds share."""

    recorded = RECORDED
    network: Backbone

    def extracted(self, images: ImageSet) -> FeatureStore:
        """The features of all these frames; those that are kept are not made again."""
        key, told = self.network.key, self.places.progress
        folder = self.places.store / hashlib.sha256(key.to_json().encode()).hexdigest()[:8]
        store = FeatureStore(store_folder(folder, images.spec), key)
        store.ensure(images, self.network, None if told is None else lambda d, t: told("features", d, t))
        return store

    def carried(
        self,
        store: FeatureStore,
        keys: Sequence[str],
        mask: UInt8[np.ndarray, "h w"],
        settings: PropagationSettings,
    ) -> Iterator[UInt8[Tensor, "h w"]]:
        """The predicted mask of each frame after the first, whose true one is given."""
        device, classes = self.request.device, self.classes.num_classes
        grids = [store.grid(key) for key in keys]
        labels, _ = soft_patch_labels(mask, grids[0], num_classes=classes)
        sides = (
            MatchSide.of(store.read(key).tokens.to(device), (grid.height, grid.width))
            for key, grid in zip(keys, grids, strict=True)
        )
        found = propagate_labels(sides, labels.to(device), settings)
        for place, (one, grid) in enumerate(zip(found, grids, strict=True)):
            if place:
                yield predict_mask(one.probs.cpu(), grid)

    def notes(self) -> list[str]:
        return [feature_note(self.network)]

    def runs(self) -> dict[str, dict]:
        return {}

    def differences(self) -> list[RecipeDifference]:
        return [
            RecipeDifference("data", "ours", self.request.source or "", "as asked"),
            RecipeDifference("features", "ours", self.network.key.to_json(), "as asked"),
        ]


class Sequences(Carried):
    """A table of labels carried forward. A run is one folder of confusion counts, clip by clip."""

    words = "sequences"
    counted = "clips"

    def __init__(self, experiment: Experiment, request: Request, places: Places) -> None:
        if not request.source:
            raise ValueError(f"{experiment.name} needs a labelled sequence; pass --source {experiment.data}")
        super().__init__(experiment, request, places)
        self.frames = ALL_WINGS.labelled(request.source)
        self.classes = self.frames.classes
        self.length = max(column.of for column in experiment.columns)
        self.clips = clips(self.frames.keys, self.length, experiment.base.get("every", EVERY))
        if not self.clips:
            raise ValueError(f"expected at least two frames of one sequence in {request.source}; names differ too much")
        self.network = network_of(request)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Nothing is drawn."""
        return self.request.seeds[:1]

    def plan(self, row: Row, column: Column, seed: int) -> Planned:
        settings = propagation_of(self.experiment, row)
        run = digest([as_dict(settings), self.network.key.to_json(), self.request.source])
        return Planned(run, settings, str(column.quantity), column.of, row.label)

    def make(self, wanted: Mapping[str, Sequence[Planned]]) -> None:
        told, places = self.places.progress, self.places
        store = self.extracted(self.frames.images)
        for name, plans in wanted.items():
            parts = []
            for number, clip in enumerate(self.clips):
                if told is not None:
                    told(plans[0].method, number, len(self.clips))
                parts.append(self._clip_counts(store, clip, plans[0].settings, places.runs / name))
            self.finished[name] = torch.stack(parts)

    def _clip_counts(
        self, store: FeatureStore, clip: list[int], settings: PropagationSettings, folder: Path
    ) -> Int64[Tensor, "steps k k"]:
        """Confusion counts at each distance; zero beyond the clip's end."""
        path = folder / f"{clip[0]:06d}-{len(clip)}.safetensors"
        if path.is_file():
            return load_file(path)["counts"]
        frames, num_classes = self.frames, self.classes.num_classes
        counts = torch.zeros(self.length, num_classes, num_classes, dtype=torch.int64)
        masks = self.carried(store, [frames.keys[frame] for frame in clip], frames.mask(clip[0]), settings)
        for step, mask in enumerate(masks):
            matrix = ConfusionMatrix(num_classes)
            matrix.update(mask, torch.from_numpy(frames.mask(clip[step + 1])))
            counts[step] = matrix.counts
        write_atomic(path, save({"counts": counts}))
        return counts

    def counts(self, plan: Planned) -> Tensor:
        """Of the clips that are so long."""
        found = self.finished[plan.run][:, plan.of - 1]
        return found[found.sum((-2, -1)) > 0]

    def value(self, plan: Planned) -> Value:
        counts = self.counts(plan)
        return 100 * float(mean_over(iou_from_counts(counts.sum(0)), self.classes.scored)) if len(counts) else None

    @property
    def images(self) -> int:
        return len(self.clips)


def propagation_of(experiment: Experiment, row: Row) -> PropagationSettings:
    """How a row carries labels: its changes are fields of these settings, or dotted paths into their `match`.

    The labelled frame alone is asked unless a row says otherwise.
    """
    changes = {path: value for path, value in {**experiment.base, **row.changes}.items() if path != "every"}
    return with_changes(PropagationSettings(memory=0), changes, "match")


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
