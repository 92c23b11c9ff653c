"""What a report shows, as frozen values; `html.py` lays it out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from saot.data import ClassSet
from saot.recipes import RecipeDifference

Box = tuple[int | float, int | float, int | float, int | float]  # x0, y0, x1, y1, pixels of the picture
Curve = Sequence[tuple[int | float, int | float]]  # step, value


@dataclass(frozen=True)
class Panel:
    """One picture, masks of several methods at its size, and the mIoU on this picture, in [0, 1]."""

    key: str
    image: UInt8[np.ndarray, "h w 3"]
    truth: UInt8[np.ndarray, "h w"] | None
    predictions: Mapping[str, UInt8[np.ndarray, "..."]]
    miou: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class SourcePatch:
    """A source patch that sent label mass: box, class or 255, share of the target's mass in [0, 1]."""

    key: str
    image: UInt8[np.ndarray, "h w 3"]
    box: Box
    label: int
    share: float


@dataclass(frozen=True)
class PatchStory:
    """A target patch and where its label came from; `truth` is None if unknown."""

    target_key: str
    target_image: UInt8[np.ndarray, "h w 3"]
    box: Box
    predicted: int
    truth: int | None
    confidence: float
    sources: tuple[SourcePatch, ...]


@dataclass(frozen=True)
class MassMap:
    """For each token: whether it is covered (1 or 0), and the share of its weight left unmatched."""

    key: str
    image: UInt8[np.ndarray, "h w 3"]
    covered: Float[np.ndarray, "gh gw"]
    unmatched: Float[np.ndarray, "gh gw"]


@dataclass(frozen=True)
class Figure:
    """A drawing for the report: heading, what it shows, and the bytes of a PNG, which is never shrunk.

    Raises:
        ValueError: If `png` is no PNG.
    """

    title: str
    text: str
    png: bytes

    def __post_init__(self) -> None:
        if not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise ValueError(f"expected the bytes of a PNG for {self.title!r}; draw it with `figure_png`")


@dataclass(frozen=True)
class Table:
    """A table for the report: heading, what it shows, names of the columns, and cells as they are printed.

    Raises:
        ValueError: If a row has another number of cells than there are columns.
    """

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"table {self.title!r} has {len(self.columns)} columns but a row of {len(wrong[0])} cells")


@dataclass(frozen=True)
class ReportData:
    """Everything the report shows; every part but the first four may be left empty.

    Args:
        title: Heading.
        run: Contents of run.json. Read are `source, target, eval, backbone, preset, points, label_budget,
            seed, device, commit` (at the top or under `settings`), and `stages`: name -> `seconds` and
            `peak_memory_bytes`; `estimate` (what may be expected without masks), if there is one.
        metrics: Contents of metrics.json.
        classes: Names and colours of the classes.
        differences: Departures from the paper's recipe.
        panels: Pictures with masks.
        confusions: Method -> counts, rows truth.
        curves: Quantity -> (step, value) pairs.
        stories: Target patches and their sources.
        maps: Uncovered and unmatched mass.
        notes: Sentences printed at the top, such as warnings of the run.
        calibration: Contents of calibration.json.
        figures: Further drawings.
        tables: Further tables.
        folder: The run folder as a command names it, for the line that labels more pictures.
    """

    title: str
    run: Mapping[str, Any]
    metrics: Mapping[str, Any]
    classes: ClassSet
    differences: tuple[RecipeDifference, ...] = ()
    panels: tuple[Panel, ...] = ()
    confusions: Mapping[str, Int64[Tensor, "..."]] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    stories: tuple[PatchStory, ...] = ()
    maps: tuple[MassMap, ...] = ()
    notes: tuple[str, ...] = ()
    calibration: Mapping[str, Any] | None = None
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    folder: str = ""
