"""What the tables of T2S-DA share: class sets, readings of its switches, and how a row of numbers is written."""

from collections.abc import Mapping
from typing import Any

from saot.data import CITYSCAPES_NAMES
from saot.tables.adapting.model import AdaptColumn, AdaptRow
from saot.tables.model import Number

MIOU = (AdaptColumn("miou", "mIoU %"),)
SYNTHIA = "SYNTHIA -> Cityscapes"
WITHOUT = ("terrain", "truck", "train")  # of Cityscapes' classes, what SYNTHIA lacks
SIXTEEN = tuple(name for name in CITYSCAPES_NAMES if name not in WITHOUT)
TAIL_WEIGHTS = (  # supplement C.2: simple re-weighting
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023, 0.9539, 0.9843, 1.1116, 0.9037,
    1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)  # fmt: skip
PSEUDO: dict[str, Any] = {"supervise": "pseudo_target"}
VANILLA: dict[str, Any] = {
    "pull.queries": "source", "pull.positives": "source", "pull.settings.negative_sampling": "source"
}  # fmt: skip
TO_TARGET: dict[str, Any] = {"pull.queries": "source", "pull.positives": "target"}
TO_PSEUDO: dict[str, Any] = {"pull.queries": "source", "pull.positives": "pseudo_target"}
SOURCE_NEGATIVES: dict[str, Any] = {"pull.settings.negative_sampling": "source"}
NO_CBQS: dict[str, Any] = {"pull.settings.query_sampling": "equalized"}
NO_DENPS: dict[str, Any] = {"pull.settings.negative_sampling": "pooled"}
NO_DRW: dict[str, Any] = {"pull.reweight": "none"}
SMALL_NOTE = (
    "With --counts small the network is MobileSAM's encoder on small crops for hundreds of steps; the paper's is "
    "trained for 40,000. Read the order of rows, not their height."
)
CNN, TRANSFORMER = "DeepLab-V2 with ResNet-101", "DAFormer with MiT-B5"
UNREAD = "The paper prints this table beside its text; its numbers are not at hand and left out."


def by_class(where: str, names: tuple[str, ...], printed: str) -> Mapping[str, Number]:
    """The paper's numbers of a row, class by class, as printed; "-" where it has none."""
    values = printed.split()
    return {f"{where}:{name}": float(v) for name, v in zip(names, values, strict=True) if v != "-"}


def row19(printed: str, miou: Number, where: str = "iou", key: str = "miou") -> Mapping[str, Number]:
    return {key: miou, **by_class(where, CITYSCAPES_NAMES, printed)}


def row16(printed: str, miou16: Number, miou13: Number) -> Mapping[str, Number]:
    return {"miou16": miou16, "miou13": miou13, **by_class("iou", SIXTEEN, printed)}


def quoted(label: str, paper: Mapping[str, Number], section: str) -> AdaptRow:
    return AdaptRow(label, paper=paper, quoted=True, section=section)
