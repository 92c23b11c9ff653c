"""Tables as spreadsheets write them: comma, semicolon or tab between columns that people call by several names."""

import csv
import io
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saot.data.files import LARGEST_RECORD

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass(frozen=True)
class Table:
    """A table that was read.

    Attributes:
        columns: What the file calls each column that was asked for and found.
        separator: What stands between columns.
        rows: The number of each line and its cells by column.
    """

    columns: dict[str, str]
    separator: str
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_table(path: str | Path, columns: Mapping[str, Sequence[str]], needed: Collection[str]) -> Table:
    """The columns asked for of a CSV file with a header.

    Args:
        path: CSV file, UTF-8; commas, semicolons or tabs, as its header has them, or as a line `sep=;` before it says.
        columns: What each may be called, in small letters and "_" between words; the first name that is there counts.
        needed: Those that must be there.

    Raises:
        ValueError: If the file is missing or no such table, a column is missing or there twice, or a line has another
            number of columns than the header.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the points file {path} is missing; give a number of points, or a CSV file that exists")
    if path.stat().st_size > LARGEST_RECORD:
        raise ValueError(f"expected a CSV file with a line a point; {path} has {path.stat().st_size:,} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
        told = re.match(r"sep=([,;\t])\r?\n", text)
        mark = told[1] if told else _separator(text, columns)
        lines = _cells(text, mark)[1 if told else 0 :]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV table in UTF-8 ({error}); save it again as such") from error
    header = lines[0][1] if lines else []
    found = _places(header, columns)
    twice = [
        header[place] for place in found.values() if [_name(cell) for cell in header].count(_name(header[place])) > 1
    ]
    if twice or not set(needed) <= set(found):
        what = f"{','.join(header)[:80]!r}" + (f", which has {twice[0]!r} twice" if twice else "")
        other = "; ".join(
            f"{name} may be called {', '.join(columns[name][1:4])}" for name in needed if name not in found
        )
        raise ValueError(
            f"the first line of {path} must name the columns {','.join(needed)}, separated by commas, semicolons or "
            f"tabs, but is {what if lines else repr('missing')}" + (f" ({other})" if other and lines else "")
        )
    for line, row in lines[1:]:
        if len(row) != len(header):
            raise ValueError(f"line {line} of {path} has {len(row)} columns, but its header has {len(header)}")
    rows = tuple((line, {name: row[place] for name, place in found.items()}) for line, row in lines[1:])
    return Table({name: header[place] for name, place in found.items()}, mark, rows)


def _separator(text: str, columns: Mapping[str, Sequence[str]]) -> str:
    """What parts the header into most of the columns asked for; of equals the comma."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    cells = {mark: next(csv.reader([header], delimiter=mark), []) for mark in SEPARATORS}
    return max(SEPARATORS, key=lambda mark: len(_places(cells[mark], columns)))


def _cells(text: str, mark: str) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, each with its number."""
    table = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    return [(table.line_num, [cell.strip() for cell in row]) for row in table if any(cell.strip() for cell in row)]


def _places(header: Sequence[str], columns: Mapping[str, Sequence[str]]) -> dict[str, int]:
    names = [_name(cell) for cell in header]
    there = {name: next((other for other in others if other in names), None) for name, others in columns.items()}
    return {name: names.index(other) for name, other in there.items() if other is not None}


def _name(cell: str) -> str:
    return re.sub(r"[\s_.-]+", "_", cell.strip().lower())
