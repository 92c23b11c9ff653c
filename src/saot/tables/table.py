"""The one way from a preset to a finished table. An adapter says what a run is and what can be read from it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from saot.data import ClassSet
from saot.evaluate import mean_over
from saot.recipes import RecipeDifference
from saot.tables.bootstrap import PairedDifference, paired_bootstrap
from saot.tables.experiment import Column, Experiment, Row
from saot.tables.label_room import Progress
from saot.tables.request import Request
from saot.tables.results import ResultRow, TableResult, cell_of

Value = float | str | None  # what one cell shows for one seed; None where there is nothing to say


@dataclass(frozen=True)
class Planned:
    """What one cell shows for one seed.

    Attributes:
        run: Name of the run's folder or file.
        settings: Of the run.
        quantity: What is shown.
        of: As in `Column`.
        method: That is scored; of ways of matching, the label of the row.
        seed: Of the run.
    """

    run: str
    settings: Any
    quantity: str
    of: Any = None
    method: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Places:
    """Where things lie, and who is told how far it is.

    Attributes:
        runs: Holds one folder a run.
        store: Holds the features of all runs.
        progress: Called with (stage, done, total).
    """

    runs: Path
    store: Path
    progress: Progress | None = None

    def telling(self, prefix: str) -> Progress | None:
        """The callback with a prefix before every stage."""
        tell = self.progress
        return None if tell is None else lambda stage, done, total: tell(f"{prefix}: {stage}", done, total)


class Table:
    """One table on the data at hand: plans every cell, makes every run once, reads the cells and their differences.

    Adapters say how a row, a column and a seed become a run (`plan`), make runs (`make`), and read them (`value`,
    `counts`).

    Attributes:
        experiment: The preset, with the rows and columns that this data adds.
        request: What was asked, completed by what this kind of table takes where nothing is given.
        finished: Run -> what it left, once made.
        plans: (row label, column key) -> a plan a seed; None where nothing is run.
    """

    words: ClassVar[str]  # of what the tables are, after "tables of"
    recorded: ClassVar[Mapping[str, str]]  # name in table.json -> field of the request
    digits: ClassVar[Mapping[str, int]] = {}  # decimals of a quantity; 1 for all others
    compared: ClassVar[tuple[str, ...]] = ("miou",)  # quantities with a paired difference
    measure = "mIoU"
    counted = "evaluation pictures"

    def __init__(self, experiment: Experiment, request: Request, places: Places) -> None:
        self.experiment, self.request, self.places = experiment, request, places
        self.finished: dict[str, Any] = {}
        self.plans: dict[tuple[str, str], list[Planned | None]] = {}

    # what an adapter says

    classes: ClassSet

    def plan(self, row: Row, column: Column, seed: int) -> Planned | None:
        """What stands behind a cell for one seed; None for a quoted, derived or empty one."""
        raise NotImplementedError

    def make(self, wanted: Mapping[str, Sequence[Planned]]) -> None:
        """Do every run that is wanted, or go on with it; `finished` has them all then."""
        raise NotImplementedError

    def value(self, plan: Planned) -> Value:
        """What the cell shows for this seed."""
        raise NotImplementedError

    def counts(self, plan: Planned) -> Tensor | None:
        """(N, K, K) confusion counts of each scored picture, rows truth."""
        raise NotImplementedError

    def differences(self) -> list[RecipeDifference]:
        """Where the whole table departs from the paper."""
        raise NotImplementedError

    @property
    def images(self) -> int:
        """How many pictures, pairs or clips were scored."""
        raise NotImplementedError

    @property
    def seeds(self) -> tuple[int, ...]:
        """One run each."""
        return self.request.seeds

    def notes(self) -> list[str]:
        """Beyond the preset's: what the runs said."""
        return []

    def runs(self) -> dict[str, Any]:
        """Settings of each run, for table.json."""
        return {plan.run: plan.settings.to_dict() for plan in self.planned()}

    def figures(self, result: TableResult) -> dict[str, bytes]:
        """File name -> SVG markup or PNG bytes."""
        return {}

    # what all tables have in common

    def result(self) -> TableResult:
        """The finished table."""
        experiment = self.experiment
        self.plans = self.plan_all()
        wanted: dict[str, list[Planned]] = {}
        for plan in self.planned():
            wanted.setdefault(plan.run, []).append(plan)
        self.make(wanted)
        result = TableResult(
            name=experiment.name,
            title=experiment.title,
            location=experiment.location,
            columns=tuple((column.key, column.title) for column in experiment.columns),
            rows=tuple(self.rows()),
            reference=experiment.reference,
            images=self.images,
            notes=(*experiment.notes, *self.notes()),
            differences=tuple(self.differences()),
            request=self.request.to_dict(self.recorded),
            runs=self.runs(),
            measure=self.measure,
            counted=self.counted,
        )
        return replace(result, figures=self.figures(result))

    def plan_all(self) -> dict[tuple[str, str], list[Planned | None]]:
        """A plan a seed for every cell."""
        return {
            (row.label, column.key): [self.plan(row, column, seed) for seed in self.seeds]
            for row in self.experiment.rows
            for column in self.experiment.columns
        }

    def planned(self) -> list[Planned]:
        """Every plan, seed by seed."""
        return [plan for of_seed in zip(*self.plans.values(), strict=True) for plan in of_seed if plan is not None]

    def rows(self) -> list[ResultRow]:
        """The lines of the table."""
        return [
            ResultRow(
                row.label,
                {
                    column.key: cell_of(
                        row.paper.get(column.key),
                        self.values(row, column),
                        self.digits.get(row.quantity or column.quantity or "", 1),
                        self.difference(row, column),
                    )
                    for column in self.experiment.columns
                },
                row.quoted,
                row.section,
            )
            for row in self.experiment.rows
        ]

    def values(self, row: Row, column: Column) -> list[Value]:
        """What the cell shows, one a seed."""
        return [None if plan is None else self.value(plan) for plan in self.plans[row.label, column.key]]

    def reference_plans(self, row: Row, column: Column) -> list[Planned | None]:
        """What a cell is compared with: the reference row under the same column, or the reference column."""
        reference = self.experiment.reference
        if reference is None or reference in (row.label, column.key):
            return []
        return self.plans.get((reference, column.key)) or self.plans.get((row.label, reference)) or []

    def difference(self, row: Row, column: Column) -> PairedDifference | None:
        """Against the reference, points; None where nothing is compared."""
        if (row.quantity or column.quantity) not in self.compared:
            return None
        mine, theirs = self.plans[row.label, column.key], self.reference_plans(row, column)
        if not theirs or None in mine or None in theirs:
            return None
        return self.paired([plan for plan in mine if plan], [plan for plan in theirs if plan])

    def paired(self, mine: Sequence[Planned], theirs: Sequence[Planned]) -> PairedDifference | None:
        """mIoU minus that of the reference; the counts of all seeds are added picture by picture."""
        first, second = _added(self.counts(plan) for plan in mine), _added(self.counts(plan) for plan in theirs)
        if first is None or second is None or first.shape != second.shape or int(first.sum()) == 0:
            return None
        found = paired_bootstrap(first, second, classes=self.classes.scored)
        return PairedDifference(100 * found.difference, 100 * found.low, 100 * found.high, found.probability)


def _added(parts: Any) -> Tensor | None:
    total = None
    for part in parts:
        if part is None:
            return None
        total = part if total is None else total + part
    return total


def class_mean(quantity: str, of: str | None, iou: Tensor, classes: ClassSet) -> float | None:
    """mIoU over all or some classes, or the IoU of one; None where no such class occurs."""
    if quantity == "iou":
        value = iou[classes.names.index(of)] if of in classes.names else None
    elif quantity == "miou":
        value = mean_over(iou, classes.scored)
    else:
        value = mean_over(iou, classes.subsets[quantity]) if quantity in classes.subsets else None
    return None if value is None or bool(value.isnan()) else float(value)


def same_names(names: str) -> dict[str, str]:
    """Fields of a request that table.json has under their own names; names with spaces."""
    return {name: name for name in names.split()}


def run_name(settings: Any) -> str:
    """The folder of a run: 16 characters that stand for its settings.

    Example:
        >>> from saot.label import RunSettings
        >>> a, b = RunSettings("scenes:game", "scenes:street"), RunSettings("scenes:game", "scenes:street", seed=1)
        >>> run_name(a) == run_name(a), run_name(a) == run_name(b)
        (True, False)
    """
    return digest(settings.to_dict())


def digest(plain: Any) -> str:
    """16 characters that stand for plain JSON values."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]
