"""Frozen features: networks that make tokens, and the files that keep them."""

from saot.features.backbone import Backbone, FeatureSettings, extract, load_backbone
from saot.features.grid import FeatureGrid, FeatureKey, Provenance
from saot.features.store import FeatureStore

__all__ = [
    "Backbone",
    "FeatureGrid",
    "FeatureKey",
    "FeatureSettings",
    "FeatureStore",
    "Provenance",
    "extract",
    "load_backbone",
]
