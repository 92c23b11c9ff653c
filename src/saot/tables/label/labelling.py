"""Tables of labelling: rows are methods of the main job under some settings, cells their scores and costs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from saot.label import points_request
from saot.recipes import PAPER_POINTS, RecipeDifference, differences
from saot.tables.drawing import draw
from saot.tables.experiment import Column, Experiment, Row, Size
from saot.tables.fusion import fuse
from saot.tables.label.quantities import DIGITS, measured, method_score, oracle_iou
from saot.tables.label.runs import Runs, scored
from saot.tables.label.settings import BASE_SIZE, fused_rows, settings_for
from saot.tables.label_room import classes_of, grid_of
from saot.tables.request import Request
from saot.tables.results import TableResult
from saot.tables.table import Places, Planned, Table, Value, class_mean, run_name, same_names

SCENES = {"source": "scenes:game:train", "target": "scenes:street:train", "eval": "scenes:street:val"}
# what a method that trains on points is where no point is declared; None: it does not exist
WITHOUT_POINTS: dict[str, str | None] = {
    "linear_probe_points": "linear_probe",
    "mlp_points": "mlp",
    "mlp_points_ema": "mlp_ema",
    "mlp_points_ema_pull": "mlp_ema_pull",
    "semantic_prior": None,
}


class Labelling(Table):
    """A table of the SAOT paper, or one of ours like it."""

    words = "labelling"
    recorded = same_names("source target eval points backbone weights size counts set seeds backbones mask_map")
    digits = DIGITS

    def __init__(self, experiment: Experiment, request: Request, places: Places) -> None:
        request = completed(request)
        self.classes = classes_of(request.source, request.mask_map)
        super().__init__(with_data_rows(experiment, request, self.classes.names), request, places)
        self.made = Runs(places, request.device, request.strict)
        self.finished = self.made.finished

    def plan(self, row: Row, column: Column, seed: int) -> Planned | None:
        return planned(self.request, self.experiment, row, column, seed)

    def make(self, wanted: Mapping[str, Sequence[Planned]]) -> None:
        self.made.make(wanted)
        if any(row.role == "fused" for row in self.experiment.rows):
            fuse(self.experiment, self.request, self.made, self.classes)

    def value(self, plan: Planned) -> Value:
        return measured(plan, self.finished[plan.run], self.classes)

    def counts(self, plan: Planned) -> Tensor | None:
        result = method_score(self.finished[plan.run], plan.method)
        return None if result is None else result.counts

    def values(self, row: Row, column: Column) -> list[Value]:
        if not row.quoted and is_oracle(row, column):
            return self._oracle_values(row, column)
        plans = self.plans[row.label, column.key]
        if (row.quantity or column.quantity) != "difference":
            return super().values(row, column)
        pairs = zip(plans, self.reference_plans(row, column), strict=False)
        own = [tuple(p and self.value(replace(p, quantity="miou")) for p in pair) for pair in pairs]
        return [a - b if isinstance(a, float) and isinstance(b, float) else None for a, b in own]

    def _oracle_values(self, row: Row, column: Column) -> list[Value]:
        """The best of the neighbours class by class: of the row's columns, or of the column's rows."""
        if column.role == "oracle":
            places = [(row.label, other.key) for other in self.experiment.columns if other.role == "run"]
            quantity = row.quantity or column.quantity
        else:
            places = [(other.label, column.key) for other in fused_rows(self.experiment)]
            quantity = column.quantity
        found: list[Value] = []
        for plans in zip(*(self.plans[place] for place in places), strict=True):
            best = oracle_iou([(self.finished[plan.run], plan.method) for plan in plans if plan is not None])
            if best is None or quantity not in ("miou", "iou"):
                found.append(None)
            else:
                found.append(class_mean(quantity, row.of, best, self.classes))
        return found

    @property
    def images(self) -> int:
        results = [run.outcome.methods.values() for run in self.finished.values() if run.outcome is not None]
        return max((len(result.counts) for one in results for result in one), default=0)

    def notes(self) -> list[str]:
        """A sentence for each method that a run left out, and on pictures without a mask of their size."""
        names = [
            method
            for plan in self.planned()
            for method in scored(plan)
            if self.finished[plan.run].outcome is not None and method_score(self.finished[plan.run], method) is None
        ]
        told = [sentence for run in self.finished.values() if run.outcome for sentence in run.outcome.left_out]
        nothing = [f"Nothing is shown for {name}: the run left it out, see its folder." for name in names]
        return list(dict.fromkeys([*told, *nothing]))

    def runs(self) -> dict[str, dict]:
        return dict(sorted(super().runs().items()))

    def differences(self) -> list[RecipeDifference]:
        """Data, backbone, size, points, then every field of the recipe."""
        experiment, request = self.experiment, self.request
        settings = settings_for(request, experiment, {}, request.seeds[0])
        grid = grid_of(settings.backbone, settings.weights, settings.size, request.eval)
        found = [
            RecipeDifference(
                "data", experiment.data, f"{request.source}, {request.target}, {request.eval}", "as asked"
            ),
            RecipeDifference("backbone", "as above", settings.backbone, "as asked"),
            RecipeDifference("seeds", "1", f"{len(request.seeds)} ({', '.join(map(str, request.seeds))})", "as asked"),
        ]
        size, used = experiment.base.get("size", BASE_SIZE), f"{grid.height}x{grid.width}"
        if isinstance(size, Size) and size.paper != used:
            why = "whole patches" if request.counts == "paper" and request.size is None else "as asked, or the default"
            found.append(RecipeDifference("input size", size.paper, used, why))
        if settings.points != PAPER_POINTS:
            found.append(RecipeDifference("points", PAPER_POINTS, settings.points, "as asked"))
        for name, count in zip(("source_pictures", "target_pictures"), experiment.pictures, strict=True):
            asked = getattr(settings, name)
            if asked != count:
                told = "all" if asked is None else str(asked)
                found.append(RecipeDifference(name, f"{count}", told, "what there is"))
        found += differences(settings.recipe)
        return [difference for difference in found if difference.field not in experiment.base]

    def figures(self, result: TableResult) -> dict[str, bytes]:
        return draw(self.experiment, result)


def completed(request: Request) -> Request:
    """The request with the built-in scenes and the paper's points where it has none."""
    return replace(request.with_sets(**SCENES), points=request.points or PAPER_POINTS)


def with_data_rows(experiment: Experiment, request: Request, names: Sequence[str]) -> Experiment:
    """The preset for this data: rows of further classes and of the backbones asked for."""
    rows = list(experiment.rows)
    if experiment.every_class == "rows":
        shown = {row.of for row in rows}
        places = [place for place, row in enumerate(rows) if row.of is not None]
        end, like = places[-1] + 1, rows[places[-1]]
        rows[end:end] = [replace(like, label=name, of=name, paper={}) for name in names if name not in shown]
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


def planned(request: Request, experiment: Experiment, row: Row, column: Column, seed: int) -> Planned | None:
    """What stands behind a cell for one seed; None for a quoted, derived or empty one."""
    quantity, method = row.quantity or column.quantity, column.method or row.method
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
    of = row.of if row.of is not None else column.of
    return Planned(run_name(settings), settings, quantity, of, method or "", seed)
