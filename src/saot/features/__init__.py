"""Networks that make tokens, the files that keep them, and encoders that can be trained."""

from saot.features.backbone import Backbone, FeatureSettings, extract, load_backbone
from saot.features.encoder_files import load_encoder, read_encoder, save_encoder
from saot.features.encoders import Encoder
from saot.features.grid import FeatureGrid, FeatureKey, Provenance
from saot.features.store import FeatureStore

__all__ = [
    "Backbone",
    "Encoder",
    "FeatureGrid",
    "FeatureKey",
    "FeatureSettings",
    "FeatureStore",
    "Provenance",
    "extract",
    "load_backbone",
    "load_encoder",
    "read_encoder",
    "save_encoder",
]
