"""Networks that make tokens, the files that keep them, and how published networks are read."""

from saot.features.base import (
    NO_BACKBONES,
    PRECISIONS,
    Backbone,
    FeatureSettings,
    Keyed,
    OpenBackbone,
    check_size,
    extract,
    fit_size,
    map_widths,
    resize_image,
    token_count,
)
from saot.features.flow import Extracted, Picture, extract_each
from saot.features.grid import FeatureGrid, FeatureKey, Provenance
from saot.features.load import load_backbone
from saot.features.published import (
    OneSentence,
    Statistics,
    download,
    first_line,
    is_repository,
    load_model,
    local_folder,
    pixel_statistics,
    read_weights,
    require_libraries,
)
from saot.features.segmenter import EncodedPicture, GridSettings, PictureMasks, Prompt, PromptSegmenter
from saot.features.store import FeatureStore, StoreSize, check_room
from saot.features.tinyvit import PIXEL_DEVIATION, PIXEL_MEAN, TinyViT

__all__ = [
    "NO_BACKBONES",
    "PIXEL_DEVIATION",
    "PIXEL_MEAN",
    "PRECISIONS",
    "Backbone",
    "EncodedPicture",
    "Extracted",
    "FeatureGrid",
    "FeatureKey",
    "FeatureSettings",
    "FeatureStore",
    "GridSettings",
    "Keyed",
    "OneSentence",
    "OpenBackbone",
    "Picture",
    "PictureMasks",
    "Prompt",
    "PromptSegmenter",
    "Provenance",
    "Statistics",
    "StoreSize",
    "TinyViT",
    "check_room",
    "check_size",
    "download",
    "extract",
    "extract_each",
    "first_line",
    "fit_size",
    "is_repository",
    "load_backbone",
    "load_model",
    "local_folder",
    "map_widths",
    "pixel_statistics",
    "read_weights",
    "require_libraries",
    "resize_image",
    "token_count",
]
