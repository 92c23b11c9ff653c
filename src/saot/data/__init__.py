"""Pixels, classes and files: what the other rooms may use."""

from saot.data.ahead import Ahead, ahead
from saot.data.classes import (
    CITYSCAPES_NAMES,
    CLASS_SET_NAMES,
    IGNORE_INDEX,
    ClassSet,
    check_same_names,
    class_groups,
    class_set,
    folder_class_set,
)
from saot.data.datasets import (
    NO_READERS,
    DataSpec,
    ImageSet,
    LabelledSet,
    OpenSet,
    open_images,
    open_labelled,
    parse_spec,
)
from saot.data.files import sha256_file, temporary_name, write_atomic, write_tail
from saot.data.fingerprints import Fingerprints
from saot.data.fitting import Fitting, fitting, restrict_images, restrict_labelled
from saot.data.images import BROKEN, image_size, read_image, read_mask, stored_size
from saot.data.listing import columns, read_text, walk
from saot.data.patches import PatchGrid, patch_labels, point_tokens, soft_patch_labels
from saot.data.points import Points, draw_points, read_points_csv, read_scribbles, write_points_csv
from saot.data.remember import Remembered

__all__ = [
    "BROKEN",
    "CITYSCAPES_NAMES",
    "CLASS_SET_NAMES",
    "IGNORE_INDEX",
    "NO_READERS",
    "Ahead",
    "ClassSet",
    "DataSpec",
    "Fingerprints",
    "Fitting",
    "ImageSet",
    "LabelledSet",
    "OpenSet",
    "PatchGrid",
    "Points",
    "Remembered",
    "ahead",
    "check_same_names",
    "class_groups",
    "class_set",
    "columns",
    "draw_points",
    "fitting",
    "folder_class_set",
    "image_size",
    "open_images",
    "open_labelled",
    "parse_spec",
    "patch_labels",
    "point_tokens",
    "read_image",
    "read_mask",
    "read_points_csv",
    "read_scribbles",
    "read_text",
    "restrict_images",
    "restrict_labelled",
    "sha256_file",
    "soft_patch_labels",
    "stored_size",
    "temporary_name",
    "walk",
    "write_atomic",
    "write_points_csv",
    "write_tail",
]
