"""What the tables of matching share, and two that no paper has: photographs under known warps, labels carried along."""

from functools import partial
from typing import Any

from saot.tables.experiment import Changes, Column, Experiment, Pck, Row

table = partial(Experiment, kind="matching", data="")


def pck(key: str, title: str, alpha: float = 0.1, **more: Any) -> Column:
    """A percentage of correct key points."""
    return Column(key, title, quantity="pck", of=Pck(alpha, **more))


PAIRS = "scenes-pairs:turned:val"
DIFFUSE_UOT: Changes = {"method": "uot", "uot.epsilon": 1.0, "uot.tau": 0.75}  # Shape-of-You's "Semantic UOT"
NEAREST: Changes = {"method": "nn"}
SPAIR_GWOT: Changes = {"method": "gwot", "gwot.cost": 0.6, "gwot.structure": 0.1, "gwot.marginal": 0.01}
TSS_GWOT: Changes = {"method": "gwot"}
SHAPE: Changes = {"method": "shape-of-you"}


def points(*alphas: float) -> tuple[Column, ...]:
    return tuple(pck(f"{alpha:g}", f"PCK@{alpha:g}", alpha) for alpha in alphas)


GENERATED_NOTE = (
    "Pairs of the built-in scenes' objects at headings of their own, exact key points; each seed draws others."
)


WARPS = table(
    name="match-warps",
    title="Photographs under known warps",
    location="ours: the papers have no such table",
    columns=(
        *(pck(f"{alpha:g}", f"PCK@{alpha:g}", alpha, threshold="image") for alpha in (0.01, 0.05, 0.1)),
        Column("seconds", "seconds a pair", quantity="seconds"),
    ),
    rows=(
        Row("Nearest neighbour", changes=NEAREST),
        Row("Mutual nearest neighbour", changes={"method": "mutual-nn"}),
        Row("Unbalanced OT", changes=DIFFUSE_UOT),
        Row("GWOT", changes=TSS_GWOT),
    ),
    data="warps:FOLDER",
    reference="GWOT",
    notes=("Pictures of a folder under thin-plate or projective warps with changed light; the truth is exact.",),
)

FROM_BEFORE: Changes = {"memory": 1, "first": False}
FIRST_AND_LAST: Changes = {"memory": 1}
_BEFORE, _BOTH = "From the frame before alone", "From first and last frame"

SEQUENCE = Experiment(
    name="match-sequence",
    title="Labels carried along a sequence",
    location="ours: GWOT names it as future work",
    kind="sequences",
    columns=tuple(
        Column(str(d), f"{d} listed frame{'s' * (d > 1)} on", quantity="miou", of=d, listed=f"{d} frames")
        for d in (1, 2, 3, 5, 10)
    ),
    rows=(
        Row("Nearest neighbour", changes=NEAREST),
        Row("Unbalanced OT", changes={"method": "uot"}),
        Row("GWOT", changes=SPAIR_GWOT),
        Row("GWOT, weights of TSS", changes=TSS_GWOT),
        Row("GWOT, mean of labels", changes={**SPAIR_GWOT, "take": "mean"}),
        Row("Nearest neighbour, frame by frame", changes={**NEAREST, **FROM_BEFORE}, section=_BEFORE),
        Row("GWOT, frame by frame", changes={**SPAIR_GWOT, **FROM_BEFORE}, section=_BEFORE),
        Row("Nearest neighbour, first and last", changes={**NEAREST, **FIRST_AND_LAST}, section=_BOTH),
        Row("GWOT, first and last", changes={**SPAIR_GWOT, **FIRST_AND_LAST}, section=_BOTH),
    ),
    data="camvid:PATH:day.txt",
    reference="Nearest neighbour",
    notes=(
        "mIoU at pixel level from counts summed over all clips; the first frame of each clip has its labels.",
        "GWOT's weights, those of SPair-71k, and best labels in place of means were chosen on dusk-train.txt.",
        "Distances count frames of the list; CamVid's day.txt has every 60th or 120th of the video: 2 or 4 seconds.",
    ),
)
