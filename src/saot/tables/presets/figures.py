"""Figures 2 to 10: bars of IoU, and pictures with their masks."""

from saot.tables.experiment import Column, Experiment, PictureGrid, Row
from saot.tables.presets.main_tables import KEYS_10, METHODS_10, PER_CLASS_10, TABLE_1, VOC_BASE, VOC_DATA, VOC_PICTURES
from saot.tables.presets.names import CITYSCAPES, DECODER, MIOU, NN, SAOT, class_rows

_OVER_5 = {label: name for label, name in CITYSCAPES.items() if max(PER_CLASS_10[label]) > 5}

FIGURE_2 = Experiment(
    name="saot-figure-2",
    title="Per-class IoU as bars, classes above 5 % by any method of the paper",
    location="SAOT, figure 2",
    columns=tuple(Column(key, key, method=method) for key, method in METHODS_10),
    rows=tuple(class_rows(_OVER_5, PER_CLASS_10, KEYS_10)),
    figure="bars",
    notes=("The numbers beside ours are those of table 10.",),
)

FIGURE_6 = Experiment(
    name="saot-figure-6",
    title="Overall mIoU as bars",
    location="SAOT, figure 6",
    columns=(MIOU,),
    rows=tuple(Row(row.label, row.method, paper={"miou": row.paper["miou"]}) for row in TABLE_1.rows),
    figure="bars",
    notes=("The numbers beside ours are those of table 1.",),
)

_COMPARED = ((NN, "NN"), ("uot", "UOT"), (DECODER, "SAOT+Decoder"))


def _columns(grid: PictureGrid) -> tuple[Column, ...]:
    quantity = "iou" if grid.classes else "miou"
    return tuple(Column(method, title, method=method, quantity=quantity) for method, title in grid.methods)


def _qualitative(
    number: int, title: str, grid: PictureGrid, paper: dict[str, float] | None = None, voc: bool = False
) -> Experiment:
    rows = tuple(
        Row(name, of=name, paper={DECODER: paper[name]} if paper and name in paper else {}) for name in grid.classes
    )
    picked = (
        "For each class the picture is shown on which the last method scores highest, as the paper picks them: the "
        "best case, not the typical one."
        if grid.classes
        else "Pictures are spread evenly over the evaluation set; no score takes part in the choice."
    )
    score = "IoU of the class" if grid.classes else "mIoU over the classes that occur"
    return Experiment(
        name=f"saot-figure-{number}",
        title=title,
        location=f"SAOT, figure {number}",
        columns=_columns(grid),
        rows=rows,
        data=VOC_DATA if voc else Experiment.data,
        base=VOC_BASE if voc else {},
        pictures=VOC_PICTURES if voc else Experiment.pictures,
        kind="pictures",
        grid=grid,
        notes=(picked, f"The number over a mask is the {score} on this picture alone, %."),
    )


FIGURE_3 = _qualitative(
    3,
    "Single classes: road, sidewalk, car",
    PictureGrid(((NN, "NN"), ("uot", "UOT"), (SAOT, "SAOT")), classes=("road", "sidewalk", "car")),
)
FIGURE_4 = _qualitative(4, "Whole masks on Cityscapes", PictureGrid(_COMPARED, pictures=4))
FIGURE_5 = _qualitative(5, "Whole masks on VOC", PictureGrid(_COMPARED, pictures=4), voc=True)
FIGURE_7 = _qualitative(
    7,
    "Single classes where SAOT+Decoder scores highest",
    PictureGrid(_COMPARED, classes=("car", "building", "vegetation", "sky", "sidewalk")),
    paper={"car": 86, "building": 89, "vegetation": 72, "sky": 85, "sidewalk": 83},
)
FIGURE_8 = _qualitative(8, "More masks on Cityscapes, part 1", PictureGrid(_COMPARED, pictures=8, skip=4))
FIGURE_9 = _qualitative(9, "More masks on Cityscapes, part 2", PictureGrid(_COMPARED, pictures=8, skip=12))
FIGURE_10 = _qualitative(10, "More masks on VOC", PictureGrid(_COMPARED, pictures=8, skip=4), voc=True)
FIGURES = (FIGURE_2, FIGURE_3, FIGURE_4, FIGURE_5, FIGURE_6, FIGURE_7, FIGURE_8, FIGURE_9, FIGURE_10)
