"""T2S-DA taken apart: direction, objective, components, sampling, re-weighting, translation."""

from typing import Any

from saot.tables.adapting.model import AdaptExperiment, AdaptRow, Network
from saot.tables.adapting.presets.names import (
    CNN,
    NO_CBQS,
    NO_DENPS,
    NO_DRW,
    PSEUDO,
    SMALL_NOTE,
    SOURCE_NEGATIVES,
    TAIL_WEIGHTS,
    TO_PSEUDO,
    TO_TARGET,
    TRANSFORMER,
    UNREAD,
    VANILLA,
)


def _direction(name: str, location: str, network: Network, papers: tuple[str, ...]) -> AdaptExperiment:
    rows = (
        AdaptRow("Baseline: no pull", "dacs"),
        AdaptRow("Baseline, cross-entropy on the pseudo-target", "dacs", PSEUDO),
        AdaptRow("Vanilla contrast: source to source", changes=VANILLA),
        AdaptRow("Source to target", changes=TO_TARGET),
        AdaptRow("Source to pseudo-target", changes=TO_PSEUDO),
        AdaptRow("Pseudo-target to source, negatives of the source", changes=SOURCE_NEGATIVES),
        AdaptRow("T2S-DA: pseudo-target to source"),
        AdaptRow("T2S-DA, cross-entropy on the pseudo-target", changes=PSEUDO),
    )
    return AdaptExperiment(
        name=name,
        title="What is pulled where",
        location=location,
        main=network,
        reference="Baseline: no pull",
        rows=tuple(
            AdaptRow(row.label, row.method, row.changes, network, paper={"miou": paper or None})
            for row, paper in zip(rows, papers, strict=True)
        ),
        notes=(SMALL_NOTE,),
    )


DIRECTION = _direction(
    "t2s-da-direction",
    "T2S-DA, sec. 4.2, first table",
    "transformer",
    ("68.3 ± 0.5", "68.8 ± 0.8", "68.5 ± 0.3", "68.3 ± 1.1", "69.0 ± 0.3", "", "70.0 ± 0.6", "69.0 ± 1.6"),
)
DIRECTION_CNN = _direction(
    "t2s-da-direction-cnn",
    "T2S-DA, Tab. S3",
    "cnn",
    ("56.3 ± 0.4", "", "57.5 ± 1.2", "57.3 ± 0.9", "58.4 ± 1.4", "60.1 ± 0.4", "60.4 ± 0.6", "58.7 ± 0.4"),
)

MSE: dict[str, Any] = {"pull.settings.loss": "mse"}
OBJECTIVE = AdaptExperiment(
    name="t2s-da-objective",
    title="InfoNCE or squared distance",
    location="T2S-DA, sec. 4.2, second table",
    reference="None",
    rows=(
        AdaptRow("None, CNN", "dacs", network="cnn", paper={"miou": 56.3}, section=CNN),
        AdaptRow("MSE, CNN", changes=MSE, network="cnn", paper={"miou": 58.6}, section=CNN),
        AdaptRow("InfoNCE, CNN", network="cnn", paper={"miou": 60.4}, section=CNN),
        AdaptRow("None", "dacs", paper={"miou": 68.3}, section=TRANSFORMER),
        AdaptRow("MSE", changes=MSE, paper={"miou": 69.4}, section=TRANSFORMER),
        AdaptRow("InfoNCE", paper={"miou": 70.0}, section=TRANSFORMER),
    ),
    notes=(SMALL_NOTE,),
)

COMPONENTS = AdaptExperiment(
    name="t2s-da-components",
    title="Each part of T2S-DA",
    location="T2S-DA, Tab. S4",
    main="cnn",
    reference="Baseline",
    rows=tuple(
        AdaptRow(label, method, changes, "cnn", paper={"miou": paper})  # type: ignore[arg-type]
        for label, method, changes, paper in (
            ("Baseline", "dacs", {}, "56.3 ± 0.4"),
            ("Re-weighting of L_target", "dacs", {"pull.reweight": "target"}, "56.9 ± 0.6"),
            ("Without pseudo-target: source to target", "t2s-da", TO_TARGET, "57.3 ± 0.9"),
            ("L_pull, pseudo-target", "t2s-da", {**NO_CBQS, **NO_DENPS, **NO_DRW}, "59.0 ± 1.5"),
            ("+ class-balanced queries", "t2s-da", {**NO_DENPS, **NO_DRW}, "59.2 ± 0.2"),
            ("+ re-weighting", "t2s-da", NO_DENPS, "59.8 ± 0.6"),
            ("+ equalized negatives", "t2s-da", {}, "60.4 ± 0.6"),
        )
    ),
    notes=(SMALL_NOTE, "Without class-balanced queries, as many are drawn of each class (sec. 3.3: the other way)."),
)

SAMPLING = AdaptExperiment(
    name="t2s-da-sampling",
    title="How queries and negatives are drawn",
    location="T2S-DA, sec. 4.2, sampling",
    reference="Neither",
    rows=(
        AdaptRow("Neither", changes={**NO_CBQS, **NO_DENPS}),
        AdaptRow("Class-balanced queries", changes=NO_DENPS),
        AdaptRow("Domain-equalized negatives", changes=NO_CBQS),
        AdaptRow("Both", paper={"miou": "70.0 ± 0.6"}),
    ),
    notes=(SMALL_NOTE, UNREAD),
)

REWEIGHTING = AdaptExperiment(
    name="t2s-da-reweighting",
    title="Where classes are re-weighted",
    location="T2S-DA, sec. 4.2, re-weighting, and Tab. S5",
    classes="target",
    reference="None",
    rows=(
        AdaptRow("Baseline: no pull", "dacs", paper={"miou": "68.3 ± 0.5"}),
        AdaptRow("L_target alone, no pull", "dacs", {"pull.reweight": "target"}),
        AdaptRow("None", changes=NO_DRW),
        AdaptRow("L_target", changes={"pull.reweight": "target"}),
        AdaptRow(
            "Simple re-weighting of L_pull", changes={"pull.reweight": "fixed", "pull.fixed_weights": TAIL_WEIGHTS}
        ),
        AdaptRow("L_pull", paper={"miou": "70.0 ± 0.6"}),
    ),
    notes=(
        SMALL_NOTE,
        UNREAD,
        "Simple re-weighting has weights for Cityscapes' 19 classes; on another class set that row stops with a word.",
    ),
)

TRANSLATOR = AdaptExperiment(
    name="t2s-da-translator",
    title="The translation engine",
    location="T2S-DA, sec. 4.2, translation",
    reference="Baseline: no pull",
    rows=(
        AdaptRow("Baseline: no pull", "dacs", paper={"miou": "68.3 ± 0.5"}),
        AdaptRow("None: the source itself", changes={"translator.kind": "none"}),
        AdaptRow("Colour jitter", changes={"translator.kind": "colour-jitter"}),
        AdaptRow("Gaussian blur", changes={"translator.kind": "blur"}),
        AdaptRow("Colour jitter and blur", changes={"translator.kind": "colour-jitter+blur"}),
        AdaptRow("FDA, window 0.01", paper={"miou": "70.0 ± 0.6"}),
        AdaptRow("FDA, window 0.05", changes={"translator.beta": 0.05}),
        AdaptRow("FDA, window 0.09", changes={"translator.beta": 0.09}),
    ),
    notes=(SMALL_NOTE, UNREAD),
)
