"""What training does to the source and to features, and one of ours: the same pictures down the frozen road."""

from saot.tables.adapting.model import AdaptColumn, AdaptExperiment, AdaptRow
from saot.tables.adapting.presets.names import MIOU, SMALL_NOTE, row19

SOURCE = AdaptExperiment(
    name="t2s-da-source",
    title="What is left of the source",
    location="T2S-DA, Tab. S11",
    columns=(AdaptColumn("source_miou", "mIoU % on the source", "source_miou"),),
    classes="source",
    reference="Source only",
    rows=(
        AdaptRow("Source only", "source-only", paper=row19(
            "97.6 89.7 91.8 72.4 58.9 66.2 66.6 68.1 86.1 76.1 96.6 79.8 70.0 92.7 90.8 94.4 87.5 73.7 53.9", 79.6,
            "source_iou", "source_miou")),
        AdaptRow("DAFormer", "dacs", paper=row19(
            "97.2 87.9 91.2 68.9 55.9 65.7 67.5 71.5 85.9 74.7 96.6 79.9 75.6 92.4 89.9 93.9 92.7 80.3 64.9", 80.7,
            "source_iou", "source_miou")),
        AdaptRow("T2S-DA", paper=row19(
            "97.2 88.1 91.3 69.2 57.0 66.6 68.2 71.4 86.0 74.8 96.6 79.7 76.0 92.4 90.2 94.7 91.2 80.4 64.7", 80.9,
            "source_iou", "source_miou")),
    ),
    notes=(SMALL_NOTE, "Held-out source pictures: --source-eval."),
)  # fmt: skip

FEATURES = AdaptExperiment(
    name="t2s-da-features",
    title="How alike features are across domains, and how well they separate classes",
    location="T2S-DA, Figs. 1, 5 and S1",
    columns=(
        *MIOU,
        AdaptColumn("similarity", "similarity across domains", "similarity"),
        AdaptColumn("ccd", "CCD (lower is better)", "ccd"),
        AdaptColumn("pdd", "PDD (lower is better)", "pdd"),
    ),
    reference="DAFormer",
    figure=True,
    rows=(AdaptRow("Source only", "source-only"), AdaptRow("DAFormer", "dacs"), AdaptRow("T2S-DA")),
    notes=(
        SMALL_NOTE,
        "Means over the classes that occur; distances.png and similarity.png show them class by class, and each run's "
        "report has t-SNE of 256 cells a class. The paper shows figures alone, no numbers.",
    ),
)

ROADS = AdaptExperiment(
    name="t2s-da-roads",
    title="Trained end to end, and frozen, on the same pictures",
    location="ours",
    columns=(
        *MIOU,
        AdaptColumn("source_miou", "mIoU % on the source", "source_miou"),
        AdaptColumn("similarity", "similarity", "similarity"),
        AdaptColumn("ccd", "CCD", "ccd"),
        AdaptColumn("pdd", "PDD", "pdd"),
        AdaptColumn("minutes", "minutes of training", "minutes"),
    ),
    figure=True,
    reference="DACS",
    rows=(
        AdaptRow("Source only", "source-only", section="The whole network is trained"),
        AdaptRow("DACS", "dacs", section="The whole network is trained"),
        AdaptRow("T2S-DA", section="The whole network is trained"),
        AdaptRow("SAOT + decoder, preset best", frozen="saot_decoder", section="Frozen features, no target label"),
    ),
    notes=(SMALL_NOTE, "The frozen row has the same encoder where --weights names MobileSAM's, else filterbank."),
)
