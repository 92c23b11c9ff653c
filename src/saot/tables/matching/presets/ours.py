"""What neither paper has: photographs under known warps, and labels along a sequence."""

from saot.tables.matching.model import MatchColumn, MatchExperiment, MatchRow
from saot.tables.matching.presets.parts import DIFFUSE_UOT, NEAREST, SPAIR_GWOT, TSS_GWOT
from saot.tables.matching.sequence import SequenceExperiment, SequenceRow

WARPS = MatchExperiment(
    name="match-warps",
    title="Photographs under known warps",
    location="ours: the papers have no such table",
    columns=(
        *(MatchColumn(f"{alpha:g}", f"PCK@{alpha:g}", alpha, threshold="image") for alpha in (0.01, 0.05, 0.1)),
        MatchColumn("seconds", "seconds a pair", quantity="seconds"),
    ),
    rows=(
        MatchRow("Nearest neighbour", NEAREST),
        MatchRow("Mutual nearest neighbour", {"method": "mutual-nn"}),
        MatchRow("Unbalanced OT", DIFFUSE_UOT),
        MatchRow("GWOT", TSS_GWOT),
    ),
    data="warps:FOLDER",
    reference="GWOT",
    notes=("Pictures of a folder under thin-plate or projective warps with changed light; the truth is exact.",),
)

SEQUENCE = SequenceExperiment(
    name="match-sequence",
    title="Labels carried along a sequence",
    location="ours: GWOT names it as future work",
    rows=(
        SequenceRow("Nearest neighbour", NEAREST),
        SequenceRow("Unbalanced OT", {"method": "uot"}),
        SequenceRow("GWOT", SPAIR_GWOT),
        SequenceRow("GWOT, weights of TSS", TSS_GWOT),
        SequenceRow("GWOT, mean of labels", SPAIR_GWOT, take="mean"),
        SequenceRow("Nearest neighbour, frame by frame", NEAREST, False, 1, section="From the frame before alone"),
        SequenceRow("GWOT, frame by frame", SPAIR_GWOT, False, 1, section="From the frame before alone"),
        SequenceRow("Nearest neighbour, first and last", NEAREST, True, 1, section="From first and last frame"),
        SequenceRow("GWOT, first and last", SPAIR_GWOT, True, 1, section="From first and last frame"),
    ),
    reference="Nearest neighbour",
    notes=(
        "mIoU at pixel level from counts summed over all clips; the first frame of each clip has its labels.",
        "GWOT's weights, those of SPair-71k, and best labels in place of means were chosen on dusk-train.txt.",
        "Distances count frames of the list; CamVid's day.txt has every 60th or 120th of the video: 2 or 4 seconds.",
    ),
)
