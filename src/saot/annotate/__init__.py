"""Masks and points in the formats of annotation tools, both ways, without the tools' own packages."""

from saot.annotate.coco import read_coco
from saot.annotate.cvat import is_cvat, read_cvat, write_cvat
from saot.annotate.cvat_mask import is_cvat_mask, read_cvat_mask, write_cvat_mask
from saot.annotate.label_studio import is_label_studio, labelling_config, read_label_studio, write_label_studio
from saot.annotate.regions import Click, Marked, Region
from saot.annotate.runs import brush_rle, coco_counts, mask_of_brush, mask_of_coco
from saot.report import JoinedFormat

FORMATS = {
    "cvat": JoinedFormat("annotations/cvat.xml", is_cvat, write_cvat),
    "cvat-mask": JoinedFormat("annotations/cvat-mask.zip", is_cvat_mask, write_cvat_mask),
    "label-studio": JoinedFormat("annotations/label-studio.json", is_label_studio, write_label_studio),
}

__all__ = [
    "FORMATS",
    "Click",
    "Marked",
    "Region",
    "brush_rle",
    "coco_counts",
    "labelling_config",
    "mask_of_brush",
    "mask_of_coco",
    "read_coco",
    "read_cvat",
    "read_cvat_mask",
    "read_label_studio",
    "write_cvat",
    "write_cvat_mask",
    "write_label_studio",
]
