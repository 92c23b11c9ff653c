"""Masks and points in the formats of annotation tools, both ways, without the tools' own packages."""

from saot.annotate.clicks import Suggestion, check_ending, write_clicks
from saot.annotate.coco import is_coco, read_coco, write_coco
from saot.annotate.cvat import is_cvat, read_cvat, write_cvat
from saot.annotate.cvat_mask import is_cvat_mask, read_cvat_mask, write_cvat_mask
from saot.annotate.explore import write_explorer
from saot.annotate.importing import READERS, Imported, classes_named, import_annotations
from saot.annotate.label_studio import is_label_studio, labelling_config, read_label_studio, write_label_studio
from saot.annotate.labelme import read_labelme, write_labelme
from saot.annotate.layouts import is_our_folder, read_fiftyone, read_yolo, write_fiftyone, write_yolo
from saot.annotate.regions import Click, Marked, Region
from saot.annotate.runs import brush_rle, coco_counts, mask_of_brush, mask_of_coco
from saot.annotate.serve import Limits, RunServer, is_loopback, version_of
from saot.annotate.suggest import RULES, suggest
from saot.annotate.tags import Tags, tags_of
from saot.report import JoinedFormat

FORMATS = {
    "coco": JoinedFormat("annotations/instances_default.json", is_coco, write_coco),  # place and name readers know
    "cvat": JoinedFormat("annotations/cvat.xml", is_cvat, write_cvat),
    "cvat-mask": JoinedFormat("annotations/cvat-mask.zip", is_cvat_mask, write_cvat_mask),
    "label-studio": JoinedFormat("annotations/label-studio.json", is_label_studio, write_label_studio),
    "labelme": JoinedFormat("annotations/labelme", is_our_folder, write_labelme),
    "fiftyone": JoinedFormat("annotations/fiftyone", is_our_folder, write_fiftyone),
    "yolo": JoinedFormat("annotations/yolo", is_our_folder, write_yolo),
}

__all__ = [
    "FORMATS",
    "READERS",
    "RULES",
    "Click",
    "Imported",
    "Limits",
    "Marked",
    "Region",
    "RunServer",
    "Suggestion",
    "Tags",
    "brush_rle",
    "check_ending",
    "classes_named",
    "coco_counts",
    "import_annotations",
    "is_loopback",
    "labelling_config",
    "mask_of_brush",
    "mask_of_coco",
    "read_coco",
    "read_cvat",
    "read_cvat_mask",
    "read_fiftyone",
    "read_label_studio",
    "read_labelme",
    "read_yolo",
    "suggest",
    "tags_of",
    "version_of",
    "write_clicks",
    "write_coco",
    "write_cvat",
    "write_cvat_mask",
    "write_explorer",
    "write_fiftyone",
    "write_label_studio",
    "write_labelme",
    "write_yolo",
]
