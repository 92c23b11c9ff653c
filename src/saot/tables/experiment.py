"""What a table is: rows, columns, the paper's numbers, and which settings stand behind each cell."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from saot.recipes import PAPER_PICTURES

Number = int | float | str | None  # a paper's cell: a number, its words ("~11", "15 min"), or nothing
Changes = Mapping[str, Any]  # dotted path of a setting -> value, `Count` or `Size`

Kind = Literal["labelling", "pictures", "matching", "sequences", "drives", "adaptation"]
Quantity = Literal[
    # of every kind that scores masks, %
    "miou",  # mean IoU
    "miou16",  # over the 16 classes of SYNTHIA
    "miou13",  # over 13 of them
    "iou",  # of the class `of`
    "miou_edges",  # mean IoU of the pixels within three of another class of the truth
    # of labelling
    "difference",  # mIoU minus that of the reference row, points
    "zero_classes",  # how many occurring classes stay at 0 % IoU, in words
    "stage_seconds",  # of the stages whose names match `of`
    "stage_memory",  # their largest peak memory, GiB
    "budget",  # target labels the method has seen
    "tokens",  # of one evaluation picture
    "source_tokens",  # labelled source tokens of the class `of`
    "source_share",  # their share, %
    "rank_correlation",  # Spearman's, of source share and IoU over the classes
    "wrong_mass",  # plan mass between tokens of different classes, %; of the class `of`, if given
    "closed_gap",  # share of the gap mlp -> oracle that the method closes, %
    "setting",  # the settings, filled into the template `of`
    "words",  # only the paper's words; nothing of ours stands beside them
    # of adaptation
    "source_miou",  # mean IoU on held-out source pictures, %
    "source_iou",  # of the class `of`
    "ccd",  # class centre distance, mean over classes
    "pdd",  # pixel-wise discrimination distance
    "similarity",  # of class centres across domains
    "minutes",  # of training
    # of matching
    "pck",  # percentage of correct key points; `of` says of which
    "flow",  # percentage of pixels whose flow is right; `of` says of which pairs
    "feature_seconds",  # of the features of a pair
    "total_seconds",  # of features and matching
    # of drives
    "flicker",  # pixels whose label changes along the true motion, % of those that can be followed
    # of several kinds
    "seconds",  # labelling: of scoring the evaluation set; matching: of a pair
    "memory",  # labelling: largest peak of all stages, GiB; matching: of matching, MiB
    "parameters",  # labelling: of the decoder; matching: of the network, millions
]


@dataclass(frozen=True)
class Count:
    """A number of steps or pictures of the paper; `--counts` says what becomes of it.

    Attributes:
        paper: The paper's number.
    """

    paper: int


@dataclass(frozen=True)
class Size:
    """An input size of the paper; unless `--counts paper` runs at it, the base size times `ratio`.

    Attributes:
        paper: HEIGHTxWIDTH of the paper, pixels.
        ratio: Of its sides to the paper's base size, 504x1008.
    """

    paper: str
    ratio: float


@dataclass(frozen=True)
class Pck:
    """What a percentage of correct key points counts, and how it is averaged.

    Attributes:
        alpha: Threshold, as a share of the longer side of `threshold`.
        threshold: Of the target's box, or of the picture.
        subset: All common key points, or the geometry-aware ones.
        weight: What is averaged: "points", "images", "categories" (of their points) or "categories_of_images".
        category: That alone.
        attribute: Name and value: pairs of that alone.
        counted: "all" counts every common point also in rows that count within the mask alone.
    """

    alpha: float = 0.1
    threshold: Literal["box", "image"] = "box"
    subset: Literal["all", "geometry"] = "all"
    weight: Literal["points", "images", "categories", "categories_of_images"] = "points"
    category: str | None = None
    attribute: tuple[str, int] | None = None
    counted: Literal["row", "all"] = "row"


@dataclass(frozen=True)
class Column:
    """One column. What it leaves open (method, quantity, `of`) the row says.

    Attributes:
        key: Name in table.json, and in `Row.paper`.
        title: Heading as in the paper.
        method: Method that is scored.
        changes: Settings of this column, over those of the row.
        quantity: What is shown.
        of: Class name, stage pattern, template, `Pck` or distance in frames, as `quantity` needs it.
        role: "oracle" takes the best of the other columns class by class.
        listed: Heading in `--list`, where it is another.
    """

    key: str
    title: str
    method: str | None = None
    changes: Changes = field(default_factory=dict)
    quantity: Quantity | None = None
    of: Any = None
    role: Literal["run", "oracle"] = "run"
    listed: str = ""


QUOTED = "another system, whose numbers the paper quotes"


@dataclass(frozen=True)
class Row:
    """One row. What it leaves open the column says.

    Attributes:
        label: As printed in the paper.
        method: Method that is scored or trained.
        changes: Settings of this row, as dotted paths: `{"transport.tau": inf, "size": Size("672x1344", 4 / 3)}`.
        quantity: What is shown.
        of: Class name, stage pattern or template.
        paper: The paper's numbers by column key.
        quoted: True for numbers that stand alone: of systems the paper itself only quotes; nothing is run.
        why: Why nothing of ours stands beside a quoted row; another system unless given.
        role: "oracle" takes the best of the other rows class by class, "fused" joins their runs by learned weights.
        section: Heading above a group of rows.
    """

    label: str
    method: str | None = None
    changes: Changes = field(default_factory=dict)
    quantity: Quantity | None = None
    of: Any = None
    paper: Mapping[str, Number] = field(default_factory=dict)
    quoted: bool = False
    why: str = ""
    role: Literal["run", "oracle", "fused"] = "run"
    section: str = ""


@dataclass(frozen=True)
class PictureGrid:
    """Which pictures a qualitative figure shows.

    Attributes:
        methods: Method and heading of each column after picture and truth.
        classes: Classes highlighted, one a row; empty shows whole masks.
        pictures: Number of pictures where no class is highlighted.
        skip: Of the pictures spread over the evaluation set, leave out this many at the start: other figures show them.
    """

    methods: tuple[tuple[str, str], ...]
    classes: tuple[str, ...] = ()
    pictures: int = 4
    skip: int = 0


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        name: The preset, such as "saot-table-5".
        title: What it shows.
        location: Where the paper has it; "ours" for what it lacks.
        columns: In the paper's order.
        rows: In the paper's order.
        kind: What its rows are: methods of `saot run`, the masks they leave, ways of matching pairs of pictures or of
            carrying labels along a sequence, or ways of training a network.
        data: Data sets and backbone of the paper, in words.
        source: SPEC that is taken where none is given; empty for the kind's own.
        notes: How ours differs by design, and where the paper contradicts itself.
        base: Settings of all rows.
        pictures: How many source and target pictures the paper takes.
        reference: Label of the row, or key of the column, that paired differences are taken against.
        unscored: Settings are shown, and nothing is run.
        every_class: Add what the paper's table lacks for the classes of the data: "rows", or a column for each class of
            the "target" or the "source" pictures.
        by_backbone: Rows with a backbone of their own are run where `--backbones` names it, and quoted otherwise.
        figure: "bars" or "curve" draws the table as well, "separation" how well features separate classes.
        grid: Of a qualitative figure.
    """

    name: str
    title: str
    location: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    kind: Kind = "labelling"
    data: str = "GTA5 -> Cityscapes, DINOv2 ViT-L/14 at 504x1008"
    source: str = ""
    notes: tuple[str, ...] = ()
    base: Changes = field(default_factory=dict)
    pictures: tuple[int, int] = (PAPER_PICTURES, PAPER_PICTURES)
    reference: str | None = None
    unscored: bool = False
    every_class: Literal["", "rows", "target", "source"] = ""
    by_backbone: bool = False
    figure: Literal["", "bars", "curve", "separation"] = ""
    grid: PictureGrid | None = None

    def describe(self) -> dict[str, Any]:
        """Plain JSON values for `saot reproduce --list --json`."""
        return {
            "title": self.title,
            "rows": [row.label for row in self.rows],
            "makes": [row.label for row in self.rows if not row.quoted],
            "cannot": {row.label: row.why or QUOTED for row in self.rows if row.quoted},
            "columns": [column.listed or column.title for column in self.columns],
            "needs": self.needs,
            "location": self.location,
        }

    @property
    def needs(self) -> str:
        """What it takes to run it."""
        if self.unscored:
            return "nothing is run"
        match self.kind:
            case "matching":
                return f"pairs as --source, such as {self.source or self.data}"
            case "sequences":
                return f"a labelled sequence as --source, such as {self.data}"
            case "adaptation":
                return "--source, --target, --eval and --weights of the encoder; without data the built-in scenes"
        return f"source, target and evaluation pictures with masks (the paper: {self.data})"
