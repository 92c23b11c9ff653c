"""The runs behind a table: one folder for equal settings, made once, gone on with after a stop."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from saot.adapt import AdaptSettings
from saot.label import RunSettings
from saot.tables.measure import Finished
from saot.tables.pieces import Progress, score, wrong_mass
from saot.tables.plan import Arm


def run_name(settings: RunSettings | AdaptSettings) -> str:
    """The folder of a run: 16 characters that stand for its settings.

    Example:
        >>> a, b = RunSettings("scenes:game", "scenes:street"), RunSettings("scenes:game", "scenes:street", seed=1)
        >>> run_name(a) == run_name(a), run_name(a) == run_name(b)
        (True, False)
    """
    return hashlib.sha256(json.dumps(settings.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


class Runs:
    """Runs by settings; accumulates what is finished.

    Args:
        folder: Holds one folder a run.
        store: Holds the features of all runs.
        device: Where networks and transport run.
        progress: Called with (stage, done, total).
    """

    def __init__(self, folder: Path, store: Path, device: str = "cpu", progress: Progress | None = None) -> None:
        self.folder, self.store, self.device, self.progress = Path(folder), Path(store), device, progress
        self.finished: dict[str, Finished] = {}

    def make(self, arms: Sequence[Arm]) -> None:
        """Do every run that these arms need; equal settings are one run, with all the methods asked of it.

        Raises:
            ValueError: If an input is not as it should be; what is made so far is kept.
        """
        wanted: dict[str, list[Arm]] = {}
        for arm in arms:
            wanted.setdefault(run_name(arm.settings), []).append(arm)
        for number, (name, group) in enumerate(wanted.items()):
            settings, folder = group[0].settings, self.folder / name
            methods = list(dict.fromkeys(method for arm in group for method in arm.scored))
            massed = list(dict.fromkeys(arm.method for arm in group if arm.quantity == "wrong_mass"))
            told = self._telling(f"run {number + 1}/{len(wanted)}")
            outcome, mass = None, None
            if methods:
                outcome = score(settings, folder, methods, self.store_of(settings), self.device, told)
            if massed:
                mass = wrong_mass(settings, folder, self.store_of(settings), self.device, told)
            self.finished[name] = Finished(settings, folder, outcome, mass)

    def of(self, arm: Arm) -> Finished:
        """The run behind an arm."""
        return self.finished[run_name(arm.settings)]

    def store_of(self, settings: RunSettings) -> Path:
        """Where the features of these settings lie: one folder for each backbone, its weights and its input size."""
        weights = hashlib.sha256(str(settings.weights).encode()).hexdigest()[:8]
        backbone = settings.backbone.replace("/", "--")
        return self.store / f"{backbone}-{weights}-{settings.size or 'default'}"

    def _telling(self, prefix: str) -> Progress | None:
        if self.progress is None:
            return None
        tell = self.progress
        return lambda stage, done, total: tell(f"{prefix}: {stage}", done, total)
