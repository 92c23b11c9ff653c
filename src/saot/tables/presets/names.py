"""The paper's words for methods and classes, and small helpers of the presets."""

from collections.abc import Mapping, Sequence

from saot.tables.experiment import Column, Number, Row

NN, KNN, SAOT, MULTI, DECODER = "nearest_neighbor", "knn_global", "saot", "saot_multi", "saot_decoder"
FUSED = "saot_fused"  # decoders of several input sizes, weighed class by class

# Table 1 of the paper, in its order: label -> method.
MAIN_METHODS = {
    "LinearProbe": "linear_probe",
    "ProtoNet": "prototypes",
    "OT (ε=0.1, bal., k=128)": "ot",
    "NN (k=1)": NN,
    "UOT (ε=0.1, τ=0.3)": "uot",
    "RWOT (ε=0.1, τ=0.3)": "rwot",
    "KNN-Global (k=10)": KNN,
    "LabelProp (k=10)": "label_propagation",
    "SAOT (single source)": SAOT,
    "SAOT (multi-source, K=3)": MULTI,
    "SAOT+Decoder": DECODER,
}

# Label in the paper -> class name.
CITYSCAPES = {
    "road": "road",
    "sidewalk": "sidewalk",
    "building": "building",
    "wall": "wall",
    "fence": "fence",
    "pole": "pole",
    "tr. light": "traffic light",
    "tr. sign": "traffic sign",
    "vegetation": "vegetation",
    "terrain": "terrain",
    "sky": "sky",
    "person": "person",
    "rider": "rider",
    "car": "car",
    "truck": "truck",
    "bus": "bus",
    "train": "train",
    "motorcycle": "motorcycle",
    "bicycle": "bicycle",
}

MIOU = Column("miou", "mIoU (%)", quantity="miou")


def class_rows(labels: Mapping[str, str], numbers: Mapping[str, Sequence[Number]], keys: Sequence[str]) -> list[Row]:
    """A row a class: its IoU under each column, with the paper's numbers in the order of `keys`."""
    return [
        Row(label, quantity="iou", of=name, paper=dict(zip(keys, numbers[label], strict=True)))
        for label, name in labels.items()
    ]
