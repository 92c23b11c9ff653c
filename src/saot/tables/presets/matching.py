"""What the tables of matching share, and three that no paper has: sets at hand, known warps, labels carried along."""

import math
from functools import partial
from typing import Any

from saot.match import Readout
from saot.tables.experiment import Changes, Column, Experiment, Pck, Row
from saot.tables.match.way import AdapterPlan

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

_IN_MASKS: Changes = {"masks": "object"}
_GRID: Changes = {**SHAPE, "shape_of_you.structure": "grid2d"}
_ADAPTER = AdapterPlan("", count=200, space="grid", label_changes={"structure": "grid2d"}, changes={"steps": 2_000})
_VIEWS = ("viewpoint alike", "viewpoint apart", "viewpoint opposite")  # 0, 1 and 2 of SPair-71k
_WITHIN, _LEARNED = "Within the objects' masks", "Trained on pseudo-labels of other pairs; whole pictures"

REAL = table(
    name="match-real",
    title="Matching on {set}",
    location="ours: the methods of both papers beside nearest neighbours, on the same features",
    columns=(
        *(pck(f"{a:g}", f"PCK@{a:g}, points", a) for a in (0.05, 0.1, 0.15)),
        *(pck(f"images-{a:g}", f"PCK@{a:g}, mean of pairs", a, weight="images") for a in (0.05, 0.1, 0.15)),
        *(pck(f"viewpoint-{v}", f"{words}, PCK@0.1", attribute=("viewpoint", v)) for v, words in enumerate(_VIEWS)),
        Column("seconds", "seconds a pair", quantity="seconds"),
    ),
    rows=(
        Row("Nearest neighbour", changes=NEAREST),
        Row("Mutual nearest neighbour", changes={"method": "mutual-nn"}),
        Row("OT", changes={"method": "uot", "uot.tau": math.inf}),
        Row("Unbalanced OT", changes={"method": "uot"}),
        Row("GWOT", changes=TSS_GWOT),
        Row("GWOT, weights of SPair-71k", changes=SPAIR_GWOT),
        Row("Nearest neighbour, position removed", changes={**NEAREST, "position": "95%"}),
        Row("Nearest neighbour, masked", changes={**NEAREST, **_IN_MASKS}, section=_WITHIN),
        Row("GWOT, masked", changes={**TSS_GWOT, **_IN_MASKS}, section=_WITHIN),
        Row("Shape-of-You's labels, structure of the grid", changes={**_GRID, **_IN_MASKS}, section=_WITHIN),
        Row(
            "Shape-of-You's adapter",
            changes={**NEAREST, "readout": Readout("window"), "adapter": _ADAPTER},
            section=_LEARNED,
        ),
        Row(
            "Nearest neighbour, read as the adapter is",
            changes={**NEAREST, "readout": Readout("window")},
            section=_LEARNED,
        ),
    ),
    data="spair:PATH:test or pf-willow:PATH",
    reference="Nearest neighbour",
    notes=(
        "No setting was chosen on these pairs: GWOT has the weights that its paper has for TSS and for SPair-71k, "
        "Shape-of-You those of its paper, transport SAOT's.",
        "The adapter needs pairs of another set as --target, and --sam where a set has no masks.",
    ),
)

FROM_BEFORE: Changes = {"memory": 1, "first": False}
FIRST_AND_LAST: Changes = {"memory": 1}
_BEFORE, _BOTH = "From the frame before alone", "From first and last frame"
SLOW_CONSISTENT: Changes = {"consistency": 0.1, "between.locality": 0.005}  # frames are seconds apart
_STEADY = "Plans consistent along time"

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
        Row("Nearest neighbour, consistent", changes={**NEAREST, **SLOW_CONSISTENT}, section=_STEADY),
        Row("GWOT, consistent", changes={**SPAIR_GWOT, **SLOW_CONSISTENT}, section=_STEADY),
    ),
    data="camvid:PATH:day.txt",
    reference="Nearest neighbour",
    notes=(
        "mIoU at pixel level from counts summed over all clips; the first frame of each clip has its labels.",
        "GWOT's weights, those of SPair-71k, and best labels in place of means were chosen on dusk-train.txt.",
        "Of consistent plans the weight 0.1 and the locality 0.005 were chosen there too, for nearest neighbour.",
        "Distances count frames of the list; CamVid's day.txt has every 60th or 120th of the video: 2 or 4 seconds.",
    ),
)

SHARP: Changes = {"method": "uot", "uot.epsilon": 0.02, "take": "mean"}
CONSISTENT: Changes = {"consistency": 0.2}

DRIVE = Experiment(
    name="match-drive",
    title="Labels carried through a drive",
    location="ours: SAOT names it as future work (appendix P)",
    kind="drives",
    columns=(
        Column("miou", "mIoU", quantity="miou"),
        Column("flicker", "flicker, %", quantity="flicker"),
    ),
    rows=(
        Row("Nearest neighbour", changes=NEAREST),
        Row("Unbalanced OT", changes={"method": "uot"}),
        Row("Unbalanced OT, epsilon 0.02, mean of labels", changes=SHARP),
        Row("Nearest neighbour, frame by frame", changes={**NEAREST, **FROM_BEFORE}, section=_BEFORE),
        Row("Unbalanced OT, frame by frame", changes={"method": "uot", **FROM_BEFORE}, section=_BEFORE),
        Row("Nearest neighbour, first and last", changes={**NEAREST, **FIRST_AND_LAST}, section=_BOTH),
        Row("Nearest neighbour, consistent", changes={**NEAREST, **CONSISTENT}, section=_STEADY),
        Row("Unbalanced OT, consistent", changes={"method": "uot", **CONSISTENT}, section=_STEADY),
        Row("Unbalanced OT, mean of labels, consistent", changes={**SHARP, **CONSISTENT}, section=_STEADY),
    ),
    data="scenes:street:val,drives=4,frames=31",
    reference="Nearest neighbour",
    notes=(
        "Ten frames a second, camera at 8 m/s; the first frame of each drive has its labels; each seed draws others.",
        "mIoU at pixel level from counts summed over all frames after the first.",
        "Flicker: of the pixels followed along the exact motion, seen in two consecutive frames with one true label, "
        "those whose predicted label changes.",
        "The weight of consistency, epsilon 0.02 and the plan between frames were chosen on scenes:street:train.",
    ),
)
