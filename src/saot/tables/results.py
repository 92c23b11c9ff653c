"""What a table ends with, as frozen values and as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saot.recipes import RecipeDifference
from saot.tables.bootstrap import PairedDifference
from saot.tables.experiment import Number

FORMAT = 1


@dataclass(frozen=True)
class Cell:
    """The paper's number and ours.

    Attributes:
        paper: The paper's, as printed; None where it has none.
        values: Ours, one a seed; empty where nothing of ours stands here.
        text: Ours in words, where it is no number.
        digits: Decimals to show.
        difference: mIoU against the reference, points; pictures drawn with replacement, seeds together.
    """

    paper: Number = None
    values: tuple[float, ...] = ()
    text: str | None = None
    digits: int = 1
    difference: PairedDifference | None = None

    @property
    def mean(self) -> float | None:
        """Mean over seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def words(self) -> str:
        """Ours as a reader sees it: "12.6", "12.6 ± 0.3", the words, or a dash."""
        if self.text is not None:
            return self.text
        if self.mean is None:
            return "–"
        shown = f"{self.mean:,.{self.digits}f}"
        return shown if self.deviation is None else f"{shown} ± {self.deviation:.{self.digits}f}"

    def paper_words(self) -> str:
        """The paper's as a reader sees it."""
        if self.paper is None:
            return "–"
        return self.paper if isinstance(self.paper, str) else f"{self.paper:,}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        found: dict[str, Any] = {"paper": self.paper}
        if self.text is not None:
            found["text"] = self.text
        if self.values:
            found |= {
                "mean": self.mean,
                "deviation": self.deviation,
                "seeds": len(self.values),
                "values": list(self.values),
            }
        if self.difference is not None:
            found["difference"] = {name: getattr(self.difference, name) for name in DIFFERENCE_FIELDS}
        return found


DIFFERENCE_FIELDS = ("difference", "low", "high", "probability")


@dataclass(frozen=True)
class ResultRow:
    """One line of a finished table; `cells` by column key."""

    label: str
    cells: Mapping[str, Cell]
    quoted: bool = False
    section: str = ""


@dataclass(frozen=True)
class TableResult:
    """A finished table.

    Attributes:
        name: The preset.
        title: What it shows.
        location: Where the paper has it.
        columns: (key, title) of each, with the section above it.
        rows: In the paper's order.
        reference: Row or column that differences are taken against.
        images: Evaluation pictures scored.
        notes: Of the preset, and what the runs said.
        differences: Settings that are not the paper's, of the whole table.
        request: What was asked.
        runs: Folder name -> settings of each run behind the table.
        figures: File name -> SVG markup or PNG bytes.
        measure: What differences are taken of.
        counted: What is counted in `images`.
    """

    name: str
    title: str
    location: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[ResultRow, ...]
    reference: str | None
    images: int
    notes: tuple[str, ...]
    differences: tuple[RecipeDifference, ...]
    request: Mapping[str, Any]
    runs: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, bytes] = field(default_factory=dict)
    measure: str = "mIoU"
    counted: str = "evaluation pictures"

    def to_dict(self) -> dict[str, Any]:
        """Contents of table.json."""
        return {
            "format": FORMAT,
            "table": self.name,
            "title": self.title,
            "location": self.location,
            "reference": self.reference,
            "images": self.images,
            "columns": [{"key": key, "title": title} for key, title in self.columns],
            "rows": [
                {
                    "label": row.label,
                    "section": row.section,
                    "quoted": row.quoted,
                    "cells": {key: cell.to_dict() for key, cell in row.cells.items()},
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
            "differences_from_paper": [vars(difference) for difference in self.differences],
            "request": dict(self.request),
            "runs": dict(self.runs),
            "figures": sorted(self.figures),
        }


def cell_of(
    paper: Number,
    values: Sequence[float | str | None],
    digits: int,
    difference: PairedDifference | None = None,
) -> Cell:
    """A cell from what each seed gave: numbers are averaged, equal words are shown once, gaps are left out.

    Example:
        >>> cell_of(12.6, [12.0, None, 13.0], 1).words(), cell_of(None, ["a", "a"], 1).words()
        ('12.5 ± 0.7', 'a')
    """
    numbers = tuple(float(value) for value in values if isinstance(value, int | float))
    words = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    return Cell(paper, numbers, "; ".join(words) if words else None, digits, difference)
