"""`saot reproduce`: from the name of a table and a request to table.json, table.md, table.html and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from saot.tables.adaptation import Adaptation
from saot.tables.experiment import Experiment, Kind
from saot.tables.label.labelling import Labelling
from saot.tables.label.pictures import Pictures
from saot.tables.label_room import Progress
from saot.tables.match.drives import Drives
from saot.tables.match.matching import Matching
from saot.tables.match.sequences import Sequences
from saot.tables.output import check_folder, write_table
from saot.tables.presets import experiment_named
from saot.tables.request import Request
from saot.tables.results import TableResult
from saot.tables.table import Places, Table

ADAPTERS: Mapping[Kind, type[Table]] = {
    "labelling": Labelling,
    "pictures": Pictures,
    "matching": Matching,
    "sequences": Sequences,
    "drives": Drives,
    "adaptation": Adaptation,
}


def reproduce(
    table: str | Experiment,
    request: Request,
    out: Path,
    *,
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    runs: Path | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
) -> TableResult:
    """A table or figure of the papers on the data at hand; the same call again goes on where it stopped.

    Args:
        table: A preset, such as "saot-table-5", or a table of your own.
        request: Data, backbone, counts and seeds.
        out: Where table.json, table.md, table.html and figures go.
        columns: Keys of the columns to make; all unless given.
        rows: Labels of the rows to make; all unless given.
        runs: Where the runs lie; tables that share it share trainings. `out/runs` unless given.
        store: Where features lie; `runs/features` unless given.
        progress: Called with (stage, done, total).

    Returns:
        The paper's numbers beside ours; also written to `out`.

    Raises:
        ValueError: If the preset, a column or a row is not known, or an input is not as it should be; what is made so
            far is kept.
    """
    experiment = experiment_named(table) if isinstance(table, str) else table
    adapter = ADAPTERS[experiment.kind]
    check_fields(request, experiment)
    check_folder(out, experiment.name, request.set)
    folder = runs or out / "runs"
    made = adapter(experiment, request, Places(folder, store or folder / "features", progress))
    made.experiment = only(made.experiment, columns, rows)
    result = made.result()
    write_table(out, result)
    return result


def only(experiment: Experiment, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> Experiment:
    """The table with these columns and rows alone, in its own order; all of them where none is given.

    Raises:
        ValueError: If the table has no such column or row; the message lists those it has.
    """
    kept_columns = _chosen("columns", columns, [column.key for column in experiment.columns], experiment.name)
    kept_rows = _chosen("rows", rows, [row.label for row in experiment.rows], experiment.name)
    return replace(
        experiment,
        columns=tuple(column for column in experiment.columns if column.key in kept_columns),
        rows=tuple(row for row in experiment.rows if row.label in kept_rows),
    )


def _chosen(what: str, wanted: Sequence[str], known: Sequence[str], table: str) -> Sequence[str]:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"expected {what} of {table} among {'; '.join(known)}; got {unknown[0]!r}")
    return wanted or known


def check_fields(request: Request, experiment: Experiment) -> None:
    """Refuse what this kind of table does not take.

    Raises:
        ValueError: If there is any; the message says which tables take it.
    """
    taken = {*ADAPTERS[experiment.kind].recorded.values(), "device", "strict"}
    given = [name for name in request.given() if name not in taken]
    if given:
        *others, last = dict.fromkeys(kind.words for kind in ADAPTERS.values() if given[0] in kind.recorded.values())
        takers = f"{', '.join(others)} and {last}" if others else last
        option = f"--{given[0].replace('_', '-')}"
        raise ValueError(f"{option} is of tables of {takers}, not of {experiment.name}; leave it out")
