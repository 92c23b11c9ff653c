"""Networks that make tokens, the files that keep them, and encoders that can be trained."""

from saot.features.backbone import (
    NO_BACKBONES,
    Backbone,
    FeatureSettings,
    Keyed,
    OpenBackbone,
    check_size,
    extract,
    fit_size,
    load_backbone,
    resize_image,
)
from saot.features.grid import FeatureGrid, FeatureKey, Provenance
from saot.features.sam_decoder import FRAME, NUM_MASKS, SamDecoder
from saot.features.segmenter import EncodedPicture, GridSettings, PictureMasks, Prompt, Segmenter
from saot.features.store import FeatureStore
from saot.features.tinyvit import PIXEL_DEVIATION, PIXEL_MEAN, TinyViT
from saot.features.weights import read_weights

__all__ = [
    "FRAME",
    "NO_BACKBONES",
    "NUM_MASKS",
    "PIXEL_DEVIATION",
    "PIXEL_MEAN",
    "Backbone",
    "EncodedPicture",
    "FeatureGrid",
    "FeatureKey",
    "FeatureSettings",
    "FeatureStore",
    "GridSettings",
    "Keyed",
    "OpenBackbone",
    "PictureMasks",
    "Prompt",
    "Provenance",
    "SamDecoder",
    "Segmenter",
    "TinyViT",
    "check_size",
    "extract",
    "fit_size",
    "load_backbone",
    "read_weights",
    "resize_image",
]
