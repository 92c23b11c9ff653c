"""Tables of matching on tiny pairs."""

from dataclasses import replace
from functools import lru_cache

from saot.match.pairs.readers import open_pairs
from saot.tables import EXPERIMENTS, Column, Experiment, Pck, Request

PAIRS = "scenes-pairs:turned:val,count=3,size=84,classes=car"
REQUEST = Request(source=PAIRS, size="84x84", seeds=(0, 1))
NEAREST = {"method": "nn"}


@lru_cache
def opened(spec):
    """Pairs that are drawn once for all tests."""
    pairs = open_pairs(spec)
    return replace(pairs, make=lru_cache(pairs.make))


def tiny(name):
    """The preset with few steps."""
    experiment, rows = EXPERIMENTS[name], []
    for row in experiment.rows:
        if "adapter" in row.changes:
            plan = row.changes["adapter"]
            plan = replace(plan, pairs=PAIRS, count=2, changes={**plan.changes, "steps": 2})
            row = replace(row, changes={**row.changes, "adapter": plan})
        rows.append(row)
    return replace(experiment, rows=tuple(rows), base={**experiment.base, "gwot.steps": 2})


def rows_of(*rows, **more):
    """A table of these rows."""
    columns = (
        Column("0.1", "PCK", quantity="pck", of=Pck()),
        Column("geometry", "geometry-aware", quantity="pck", of=Pck(subset="geometry")),
    )
    return Experiment("x", "x", "ours", columns, rows, "matching", reference=rows[0].label, **more)
