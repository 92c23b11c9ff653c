"""Which run stands behind each cell: rows and columns of a preset against what was asked."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from saot.data import ClassSet
from saot.label import RunSettings, points_request
from saot.tables.measure import GAP_METHODS
from saot.tables.model import UNSCORED, Column, Experiment, Quantity, Row
from saot.tables.presets.names import FUSED
from saot.tables.request import Request, settings_for

# what a method that trains on points is where no point is declared; None: it does not exist
WITHOUT_POINTS: dict[str, str | None] = {
    "linear_probe_points": "linear_probe",
    "mlp_points": "mlp",
    "mlp_points_ema": "mlp_ema",
    "mlp_points_ema_pull": "mlp_ema_pull",
    "semantic_prior": None,
}


@dataclass(frozen=True)
class Arm:
    """A method under some settings: what one cell of one seed shows.

    Attributes:
        settings: Of the run.
        method: That is scored.
        quantity: What is shown of it.
        of: Class, stages or template.
    """

    settings: RunSettings
    method: str
    quantity: Quantity
    of: str | None

    @property
    def scored(self) -> tuple[str, ...]:
        """The methods that must be scored for it."""
        if self.quantity in UNSCORED or self.quantity == "wrong_mass" or self.method == FUSED:
            return ()
        return (self.method, *GAP_METHODS) if self.quantity == "closed_gap" else (self.method,)


def expanded(experiment: Experiment, request: Request, classes: ClassSet) -> Experiment:
    """The preset for this data: rows of further classes and of the backbones asked for."""
    rows = list(experiment.rows)
    if experiment.every_class:
        shown = {row.of for row in rows}
        places = [place for place, row in enumerate(rows) if row.of is not None]
        end, like = places[-1] + 1, rows[places[-1]]
        rows[end:end] = [replace(like, label=name, of=name, paper={}) for name in classes.names if name not in shown]
    if experiment.by_backbone:
        asked = request.compared()
        rows = [replace(row, quoted=str(row.changes["backbone"]) not in asked) for row in rows]
        known = {str(row.changes["backbone"]) for row in rows}
        rows += [
            replace(rows[0], label=name, changes={"backbone": name}, paper={}, quoted=False)
            for name in asked
            if name not in known
        ]
    return replace(experiment, rows=tuple(rows))


def is_oracle(row: Row, column: Column) -> bool:
    """Whether a cell takes the best of its neighbours."""
    return "oracle" in (row.role, column.role)


def arm_of(request: Request, experiment: Experiment, row: Row, column: Column, seed: int) -> Arm | None:
    """What stands behind a cell for one seed; None for a quoted, derived or empty one."""
    quantity = row.quantity or column.quantity
    method = column.method or row.method
    if row.quoted or is_oracle(row, column) or quantity in (None, "words"):
        return None
    if quantity == "rank_correlation" and column.quantity != "iou":
        return None
    # joined runs are kept with the first of them
    changes = fused_rows(experiment)[0].changes if row.role == "fused" else row.changes
    settings = settings_for(request, experiment, {**changes, **column.changes}, seed)
    if method is not None and points_request(settings.points)[1] == 0:
        method = WITHOUT_POINTS.get(method, method)
        if method is None:
            return None
    assert quantity is not None
    return Arm(settings, method or "", quantity, row.of if row.of is not None else column.of)


def fused_rows(experiment: Experiment) -> list[Row]:
    """The rows whose runs a fused row joins."""
    return [row for row in experiment.rows if row.role == "run" and not row.quoted]


def cells(experiment: Experiment) -> Iterator[tuple[Row, Column]]:
    """Every cell, row by row."""
    for row in experiment.rows:
        for column in experiment.columns:
            yield row, column
