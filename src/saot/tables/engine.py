"""`saot reproduce`: from a preset and a request to a finished table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from saot.data import ClassSet
from saot.evaluate import mean_over
from saot.recipes import PAPER, differences
from saot.tables.bootstrap import PairedDifference, paired_bootstrap
from saot.tables.fusion import fuse
from saot.tables.measure import DIGITS, Finished, Value, measured, oracle_iou
from saot.tables.model import Column, Experiment, Row
from saot.tables.pieces import Progress, classes_of, grid_of
from saot.tables.plan import Arm, arm_of, cells, expanded, fused_rows, is_oracle
from saot.tables.presets import experiment_named
from saot.tables.request import PAPER_PICTURES, PAPER_POINTS, Request, settings_for
from saot.tables.results import Cell, ResultRow, SettingDifference, TableResult, cell_of
from saot.tables.runs import Runs, run_name

Place = tuple[str, str]  # label of the row, key of the column
Book = dict[Place, list[Arm | None]]  # one arm a seed


def reproduce(
    name: str,
    request: Request,
    out: Path,
    *,
    columns: Sequence[str] = (),
    runs: Path | None = None,
    store: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TableResult:
    """A table or figure of the paper on the data at hand; the same call again goes on where it stopped.

    Args:
        name: A preset, such as "saot-table-5".
        request: Data, backbone, counts and seeds.
        out: Where table.json, table.md, table.html and figures go.
        columns: Keys of the columns to make; all unless given.
        runs: Where the runs lie; tables that share it share trainings. `out/runs` unless given.
        store: Where features lie; `runs/features` unless given.
        device: Where networks and transport run.
        progress: Called with (stage, done, total).

    Returns:
        The paper's numbers beside ours; also written to `out`.

    Raises:
        ValueError: If the preset or a column is not known or an input is not as it should be.
    """
    from saot.tables.drawing import draw
    from saot.tables.output import write_table
    from saot.tables.qualitative import picture_table

    experiment = experiment_named(name)
    classes = classes_of(request.source)
    experiment = with_columns(expanded(experiment, request, classes), columns)
    folder = runs or Path(out) / "runs"
    made = Runs(folder, store or folder / "features", device, progress)
    if experiment.grid is not None:
        result = picture_table(experiment, request, made, classes)
    else:
        result = _score_table(experiment, request, made, classes)
        result = draw(experiment, result)
    write_table(Path(out), result)
    return result


def with_columns(experiment: Experiment, keys: Sequence[str]) -> Experiment:
    """The table with these columns alone, in its own order; all of them where no key is given.

    Raises:
        ValueError: If the table has no such column; the message lists those it has.
    """
    known = [column.key for column in experiment.columns]
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise ValueError(f"expected columns of {experiment.name} among {', '.join(known)}; got {unknown[0]!r}")
    if not keys:
        return experiment
    return replace(experiment, columns=tuple(column for column in experiment.columns if column.key in keys))


def _score_table(experiment: Experiment, request: Request, made: Runs, classes: ClassSet) -> TableResult:
    book: Book = {
        (row.label, column.key): [arm_of(request, experiment, row, column, seed) for seed in request.seeds]
        for row, column in cells(experiment)
    }
    arms = [arm for found in book.values() for arm in found if arm is not None]
    made.make(arms)
    if any(row.role == "fused" for row in experiment.rows):
        fuse(experiment, request, made, classes)
    rows = [
        ResultRow(
            row.label,
            {column.key: _cell(experiment, row, column, book, made, classes) for column in experiment.columns},
            row.quoted,
            row.section,
        )
        for row in experiment.rows
    ]
    return table_of(experiment, request, made, rows, _missing(arms, made))


def _missing(arms: Sequence[Arm], made: Runs) -> list[str]:
    """A sentence for each method that a run left out."""
    names = [
        method
        for arm in arms
        for method in arm.scored
        if (outcome := made.of(arm).outcome) is not None and method not in outcome.methods
    ]
    return [f"Nothing is shown for {name}: the run left it out, see its folder." for name in dict.fromkeys(names)]


def _cell(experiment: Experiment, row: Row, column: Column, book: Book, made: Runs, classes: ClassSet) -> Cell:
    paper, quantity = row.paper.get(column.key), row.quantity or column.quantity or ""
    digits = DIGITS.get(quantity, 1)
    if row.quoted:
        return Cell(paper)
    if is_oracle(row, column):
        return cell_of(paper, _oracle_values(experiment, row, column, book, made, classes), digits)
    arms = book[row.label, column.key]
    if quantity == "difference":
        own = [_value(arm, made, classes, "miou") for arm in arms]
        beside = [_value(arm, made, classes, "miou") for arm in _reference_arms(experiment, row, column, book)]
        values = [
            None if not isinstance(a, float) or not isinstance(b, float) else a - b
            for a, b in zip(own, beside, strict=False)
        ]
        return Cell(paper) if row.label == experiment.reference else cell_of(paper, values, digits)
    compared = _compared(experiment, row, column, book, made, classes) if quantity == "miou" else None
    return cell_of(paper, [_value(arm, made, classes) for arm in arms], digits, compared)


def _value(arm: Arm | None, made: Runs, classes: ClassSet, quantity=None) -> Value:
    if arm is None:
        return None
    run = made.finished.get(run_name(arm.settings), Finished(arm.settings, Path()))
    return measured(quantity or arm.quantity, arm.of, arm.method, run, classes)


def _oracle_values(
    experiment: Experiment, row: Row, column: Column, book: Book, made: Runs, classes: ClassSet
) -> list[Value]:
    """The best of the neighbours class by class: of the row's columns, or of the column's rows."""
    if column.role == "oracle":
        places = [(row.label, other.key) for other in experiment.columns if other.role == "run"]
        quantity = row.quantity or column.quantity
    else:
        places = [(other.label, column.key) for other in fused_rows(experiment)]
        quantity = column.quantity
    found: list[Value] = []
    for arms in zip(*(book[place] for place in places), strict=True):
        best = oracle_iou([(made.of(arm), arm.method) for arm in arms if arm is not None])
        if best is None or quantity not in ("miou", "iou"):
            found.append(None)
            continue
        if quantity == "miou":
            value = mean_over(best, classes.scored)
        else:
            value = best[classes.names.index(row.of)] if row.of in classes.names else torch.tensor(torch.nan)
        found.append(None if bool(value.isnan()) else float(value))
    return found


def _reference_arms(experiment: Experiment, row: Row, column: Column, book: Book) -> list[Arm | None]:
    """The arms a cell is compared with: the reference row's under the same column, or the reference column's."""
    reference = experiment.reference
    if reference is None or reference in (row.label, column.key):
        return []
    return book.get((reference, column.key)) or book.get((row.label, reference)) or []


def _compared(
    experiment: Experiment, row: Row, column: Column, book: Book, made: Runs, classes: ClassSet
) -> PairedDifference | None:
    """mIoU against the reference, in points; the counts of all seeds are added picture by picture."""
    mine = _counts(book[row.label, column.key], made)
    theirs = _counts(_reference_arms(experiment, row, column, book), made)
    if mine is None or theirs is None or int(mine.sum()) == 0:
        return None
    found = paired_bootstrap(mine, theirs, classes=classes.scored)
    return PairedDifference(100 * found.difference, 100 * found.low, 100 * found.high, found.probability)


def _counts(arms: Sequence[Arm | None], made: Runs) -> Tensor | None:
    parts = []
    for arm in arms:
        outcome = None if arm is None else made.of(arm).outcome
        result = None if outcome is None or arm is None else outcome.methods.get(arm.method)
        if result is None:
            return None
        parts.append(result.counts)
    return torch.stack(parts).sum(0) if parts else None


def table_of(
    experiment: Experiment,
    request: Request,
    made: Runs,
    rows: Sequence[ResultRow],
    notes: Sequence[str] = (),
    figures: dict[str, bytes] | None = None,
) -> TableResult:
    """The finished table around its rows."""
    scored = [run.outcome for run in made.finished.values() if run.outcome is not None]
    images = max((len(result.counts) for one in scored for result in one.methods.values()), default=0)
    return TableResult(
        name=experiment.name,
        title=experiment.title,
        location=experiment.location,
        columns=tuple((column.key, column.title) for column in experiment.columns),
        rows=tuple(rows),
        reference=experiment.reference,
        images=images,
        notes=(*experiment.notes, *notes),
        differences=_differences(experiment, request),
        request=request.to_dict(),
        runs={name: run.settings.to_dict() for name, run in sorted(made.finished.items())},
        figures=figures or {},
    )


def _differences(experiment: Experiment, request: Request) -> tuple[SettingDifference, ...]:
    """Where the whole table departs from the paper: data, backbone, size, points, then every field of the recipe."""
    settings = settings_for(request, experiment, {}, request.seeds[0])
    grid = grid_of(settings.backbone, settings.weights, settings.size, request.eval)
    found = [
        SettingDifference("data", experiment.data, f"{request.source}, {request.target}, {request.eval}", "as asked"),
        SettingDifference("backbone", "as above", settings.backbone, "as asked"),
        SettingDifference("size", "as above", f"{grid.height}x{grid.width}", "as asked, or the backbone's default"),
        SettingDifference("seeds", "1", f"{len(request.seeds)} ({', '.join(map(str, request.seeds))})", "as asked"),
    ]
    if settings.points != PAPER_POINTS:
        found.append(SettingDifference("points", PAPER_POINTS, settings.points, "as asked"))
    for name in ("source_pictures", "target_pictures"):
        used = settings.to_dict().get(name)
        if used != PAPER_PICTURES and "VOC" not in experiment.data:
            found.append(
                SettingDifference(name, f"{PAPER_PICTURES}", "all" if used is None else str(used), "what there is")
            )
    found += [SettingDifference(d.field, d.paper, d.used, d.reason) for d in differences(settings.recipe, PAPER)]
    return tuple(difference for difference in found if difference.field not in experiment.base)
