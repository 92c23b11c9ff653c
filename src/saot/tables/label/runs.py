"""Runs of the main job behind a table: one folder for equal settings, made once, gone on with after a stop."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saot.label import RunSettings
from saot.tables.label_room import Scored, score, shared_folder
from saot.tables.mass import wrong_class_mass
from saot.tables.presets.names import FUSED
from saot.tables.table import Places, Planned

GAP_METHODS = ("mlp", "oracle")  # the ends of the gap that "closed_gap" measures
_UNSCORED = ("setting", "words", "parameters", "tokens", "wrong_mass")  # quantities that need no method scored


@dataclass(frozen=True)
class Finished:
    """One run of a table, finished.

    Attributes:
        settings: Behind it.
        folder: Where it lies.
        outcome: Counts of its methods; None where the table needs none.
        mass: Method -> share of plan mass between different classes, overall (None) and by class name.
    """

    settings: RunSettings
    folder: Path
    outcome: Scored | None = None
    mass: Mapping[str, Mapping[str | None, float | None]] | None = None


def scored(plan: Planned) -> tuple[str, ...]:
    """The methods that must be scored for a cell."""
    if plan.quantity in _UNSCORED or plan.method == FUSED:
        return ()
    return (plan.method, *GAP_METHODS) if plan.quantity == "closed_gap" else (plan.method,)


class Runs:
    """Runs by name; accumulates what is finished.

    Args:
        places: Of runs and features.
        device: Where networks and transport run.
        strict: Whether a mask that has not the size of its picture is an error.
    """

    def __init__(self, places: Places, device: str, strict: bool = False) -> None:
        self.places, self.folder, self.device, self.strict = places, places.runs, device, strict
        self.finished: dict[str, Finished] = {}

    def make(self, wanted: Mapping[str, Sequence[Planned]]) -> None:
        """Do every run, each with all the methods asked of it.

        Raises:
            ValueError: If an input is not as it should be; what is made so far is kept.
        """
        for number, (name, plans) in enumerate(wanted.items()):
            settings, folder = plans[0].settings, self.folder / name
            store, told = self.store_of(settings), self.places.telling(f"run {number + 1}/{len(wanted)}")
            outcome, mass = None, None
            if methods := list(dict.fromkeys(method for plan in plans for method in scored(plan))):
                outcome = score(settings, folder, methods, store, self.device, told, self.strict)
            if any(plan.quantity == "wrong_mass" for plan in plans):
                shared = shared_folder(folder)
                mass = wrong_class_mass(settings, folder, store=store, shared=shared, device=self.device, progress=told)
            self.finished[name] = Finished(settings, folder, outcome, mass)

    def store_of(self, settings: RunSettings) -> Path:
        """Where the features of these settings lie: one folder for each backbone, its weights and its input size."""
        weights = hashlib.sha256(str(settings.weights).encode()).hexdigest()[:8]
        backbone = settings.backbone.replace("/", "--")
        return self.places.store / f"{backbone}-{weights}-{settings.size or 'default'}"
