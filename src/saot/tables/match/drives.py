"""Labels carried through drives of the built-in scenes: how right they are, and how steady along the true motion."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Int64
from safetensors.torch import load_file, save
from torch import Tensor

from saot.data import parse_spec, write_atomic
from saot.evaluate import ConfusionMatrix, flicker_counts, iou_from_counts, mean_over
from saot.features import FeatureStore
from saot.match import PropagationSettings
from saot.recipes import as_dict
from saot.scenes import DriveSet, Frame, drives_of
from saot.tables.bootstrap import PairedDifference, paired_bootstrap
from saot.tables.experiment import Column, Experiment, Row
from saot.tables.match.sequences import Carried, propagation_of
from saot.tables.match.viewer import network_of
from saot.tables.request import Request
from saot.tables.table import Places, Planned, Value, digest
from saot.tables.wings import ALL_WINGS


class Drives(Carried):
    """A table of labels carried through drives. Each seed draws other drives; a run is a folder of counts, by drive."""

    words = "drives"
    counted = "drives"
    digits: ClassVar[Mapping[str, int]] = {"flicker": 2}

    def __init__(self, experiment: Experiment, request: Request, places: Places) -> None:
        if not request.source:
            raise ValueError(f"{experiment.name} needs drives; pass --source {experiment.data}")
        super().__init__(experiment, request, places)
        drives = drives_of(request.source, parse_spec(request.source))
        if drives.frames < 3:
            raise ValueError(f"flicker needs drives of at least 3 frames; {request.source} has {drives.frames}")
        first, number = drives.drives.start, len(drives.drives)
        self.specs = {seed: f"{request.source},first={first + seed * number}" for seed in request.seeds}
        self.sets = {seed: ALL_WINGS.labelled(spec) for seed, spec in self.specs.items()}
        self.drives = {seed: drives_of(spec, parse_spec(spec)) for seed, spec in self.specs.items()}
        self.classes = next(iter(self.sets.values())).classes
        self.network = network_of(request)

    def plan(self, row: Row, column: Column, seed: int) -> Planned:
        settings = propagation_of(self.experiment, row)
        run = digest([as_dict(settings), self.network.key.to_json(), self.specs[seed]])
        return Planned(run, settings, str(column.quantity), column.of, row.label, seed)

    def make(self, wanted: Mapping[str, Sequence[Planned]]) -> None:
        places, told = self.places, self.places.progress
        for seed, frames in self.sets.items():
            drives = self.drives[seed]
            store = self.extracted(frames.images)
            mine = {name: plans[0] for name, plans in wanted.items() if plans[0].seed == seed}
            for number in range(len(drives.drives)):
                render = lru_cache(maxsize=drives.frames)(drives.frame)  # once for all rows
                for name, plan in mine.items():
                    if told is not None:
                        told(plan.method, number, len(drives.drives))
                    counts = self._drive_counts(store, drives, number, render, plan.settings, places.runs / name)
                    self.finished.setdefault(name, []).append(counts)

    def _drive_counts(
        self,
        store: FeatureStore,
        drives: DriveSet,
        number: int,
        render: Callable[[int], Frame],
        settings: PropagationSettings,
        folder: Path,
    ) -> dict[str, Int64[Tensor, "..."]]:
        """Of all frames after the first: confusion counts, and (changed, followed) pixels between each and the next."""
        path = folder / f"{drives.drives[number]:06d}.safetensors"
        if path.is_file():
            return load_file(path)
        clip = range(number * drives.frames, (number + 1) * drives.frames)
        matrix, flicker = ConfusionMatrix(self.classes.num_classes), torch.zeros(2, dtype=torch.int64)
        before = None
        masks = self.carried(store, [drives.key(index) for index in clip], render(clip[0]).labels, settings)
        for index, mask in zip(clip[1:], masks, strict=True):
            frame = render(index)
            truth = torch.from_numpy(frame.labels)
            matrix.update(mask, truth)
            if before is not None:
                flicker += flicker_counts((before[0], mask), (before[1], truth), frame.motion)
            before = mask, truth
        counts = {"confusion": matrix.counts, "flicker": flicker}
        write_atomic(path, save(counts))
        return counts

    def counts(self, plan: Planned) -> Tensor:
        return torch.stack([drive["confusion"] for drive in self.finished[plan.run]])

    def value(self, plan: Planned) -> Value:
        if plan.quantity == "flicker":
            changed, followed = torch.stack([drive["flicker"] for drive in self.finished[plan.run]]).sum(0).tolist()
            return 100 * changed / followed if followed else None
        return 100 * float(mean_over(iou_from_counts(self.counts(plan).sum(0)), self.classes.scored))

    def paired(self, mine: Sequence[Planned], theirs: Sequence[Planned]) -> PairedDifference:
        """mIoU minus that of the reference, over the drives of all seeds."""
        first, second = (torch.cat([self.counts(plan) for plan in plans]) for plans in (mine, theirs))
        found = paired_bootstrap(first, second, classes=self.classes.scored)
        return PairedDifference(100 * found.difference, 100 * found.low, 100 * found.high, found.probability)

    @property
    def images(self) -> int:
        return sum(len(drives.drives) for drives in self.drives.values())
