"""What the paper says in its text without a table: sensitivity, wrong mass, class balance, rarity, SYNTHIA."""

import math
from collections.abc import Sequence

from saot.tables.experiment import Column, Count, Experiment, Number, Row
from saot.tables.presets.names import CITYSCAPES, DECODER, MAIN_METHODS, MIOU, SAOT
from saot.tables.presets.resolutions import BASE

RANGE = Column("range", "stated as robust", quantity="words")


def _sweep(name: str, symbol: str, path: str, values: Sequence[tuple[float, Number, str]], note: str) -> Experiment:
    """Raw SAOT over values of one setting: (value, the paper's mIoU or None, whether it is in the stated range)."""
    rows = tuple(
        Row(
            f"{symbol} = {'∞' if value == math.inf else value}",
            SAOT,
            {path: value},
            paper={"miou": miou, "range": told},
        )
        for value, miou, told in values
    )
    default = next(row.label for row, (_, miou, _) in zip(rows, values, strict=True) if miou == 12.6)
    return Experiment(
        name=name,
        title=f"Sensitivity of raw SAOT to {symbol}",
        location="SAOT, appendix E.3 (text)",
        columns=(MIOU, RANGE),
        rows=rows,
        reference=default,
        figure="curve",
        notes=(note, "The paper states the range and gives no numbers for it; its other numbers are from table 5."),
    )


EPSILON = _sweep(
    "saot-epsilon",
    "ε",
    "transport.epsilon",
    ((0.02, None, "no"), (0.05, None, "yes"), (0.1, 12.6, "yes"), (0.2, None, "yes"), (0.5, None, "no")),
    "λ_sem stays 0.1, so the weight λ_sem/ε of the semantic prior changes with ε.",
)
TAU = _sweep(
    "saot-tau",
    "τ",
    "transport.tau",
    ((0.03, None, "no"), (0.1, None, "yes"), (0.3, 12.6, "yes"), (0.5, None, "yes"), (math.inf, 0.0, "no")),
    "Labels depend on τ through the row weights alone, since a column's scale cancels in Eq. (2).",
)
K = _sweep(
    "saot-k",
    "k",
    "transport.k",
    ((16, None, "no"), (64, None, "yes"), (128, 12.6, "yes"), (256, None, "yes")),
    "A k above the number of target tokens means all of them.",
)
LAMBDA_SEM = _sweep(
    "saot-lambda-sem",
    "λ_sem",
    "cost.lambda_sem",
    ((0.0, 5.7, "no"), (0.05, None, "yes"), (0.1, 12.6, "yes"), (0.3, None, "yes"), (1.0, None, "no")),
    "The paper says that above 0.3 the prior dominates.",
)

MASS = Experiment(
    name="saot-mass",
    title="Plan mass between tokens of different classes",
    location="SAOT, sec. 7 (text)",
    columns=(
        Column("all", "wrong mass (%)", quantity="wrong_mass"),
        *(Column(name, label, quantity="wrong_mass", of=name) for label, name in CITYSCAPES.items()),
    ),
    rows=(
        Row("Fixed-cost UOT", "uot", paper={"all": 68}),
        Row("SAOT", SAOT, paper={"all": 41}),
    ),
    notes=(
        "Share of the plan's mass that joins a source token with an evaluation token of another true class, mean over "
        "evaluation pictures; the classes are those of the source token. Masks are read to measure this alone.",
    ),
)

_STAGE_1 = "decoder_stage1"
_BALANCE_COLUMNS = (MIOU, Column("person", "person", quantity="iou", of="person"))

CLASS_BALANCE = Experiment(
    name="saot-class-balance",
    title="The decoder without class-balanced sampling",
    location="SAOT, sec. 7 and appendix E.4 (text)",
    columns=_BALANCE_COLUMNS,
    rows=(
        Row("Class-balanced sampling", _STAGE_1, paper={"miou": 22.0, "person": 31.8}),
        Row(
            "w/o class-balanced sampling",
            _STAGE_1,
            {"decoder.class_power": 1.0},
            paper={"miou": 17.6, "person": 0.7},
        ),
    ),
    reference="Class-balanced sampling",
    notes=(
        "Tokens are drawn in proportion to their classes' frequency in the second row.",
        "The paper's 22.0 is a decoder without stage 2, of which table 6 says that person has 1.4, not 31.8.",
    ),
)

_RARITY = (
    Column("tokens", "source tokens", quantity="source_tokens"),
    Column("share", "share (%)", quantity="source_share"),
    Column("iou", "SAOT+D IoU (%)", quantity="iou"),
)
_RARITY_PAPER: dict[str, tuple[Number, Number, Number]] = {
    "bicycle": (145, 0.006, 0.0),
    "motorcycle": (865, 0.037, 0.0),
    "rider": (739, 0.032, 0.0),
    "tr. light": (1_891, 0.082, 0.0),
    "train": (412, 0.018, 0.0),
    "road": (886_000, 38.4, 90.3),
}

RARITY = Experiment(
    name="saot-rarity",
    title="How rare a class is in the source, and its IoU",
    location="SAOT, appendix K.1 (text)",
    columns=_RARITY,
    rows=(
        *(
            Row(
                label,
                DECODER,
                of=name,
                paper=dict(zip(("tokens", "share", "iou"), _RARITY_PAPER.get(label, (None, None, None)), strict=True)),
            )
            for label, name in CITYSCAPES.items()
        ),
        Row("rank correlation of share and IoU", DECODER, quantity="rank_correlation"),
    ),
    every_class="rows",
    notes=(
        "Shares are of labelled source tokens, as the paper's are (886,000 is 38.4% of 2.31M).",
        "The last row is Spearman's, over the classes that occur in the evaluation set.",
    ),
)

OVERTRAINING = Experiment(
    name="saot-overtraining",
    title="More steps of the cost at the base size",
    location="SAOT, appendix K.5 (text)",
    columns=(Column("steps", "steps", quantity="setting", of="{cost.steps}"), MIOU),
    rows=tuple(
        Row(
            f"{steps:,} steps",
            DECODER,
            {"size": BASE, "cost.steps": Count(steps)},
            paper={"steps": steps, "miou": miou},
        )
        for steps, miou in ((500, 23.3), (1_000, None), (2_000, None), (4_000, 16.6), (14_000, 25.7))
    ),
    reference="500 steps",
    figure="curve",
    notes=("The paper's main result at the same size trains 14,000 steps and has 25.7, which contradicts the text.",),
)

SYNTHIA = Experiment(
    name="saot-synthia",
    title="SYNTHIA -> Cityscapes",
    location="SAOT, limitations and appendix P (named there, not run)",
    columns=(
        Column("miou16", "mIoU over 16 classes (%)", quantity="miou16"),
        Column("miou13", "mIoU over 13 classes (%)", quantity="miou13"),
    ),
    rows=tuple(Row(label, method) for label, method in MAIN_METHODS.items()),
    data="SYNTHIA-RAND-CITYSCAPES -> Cityscapes",
    notes=("The paper has no numbers for it. 16 and 13 classes are those the field counts.",),
)
