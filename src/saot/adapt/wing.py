"""What adaptation hands to the main job: its encoders as backbones, its runs at work, the pull loss."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from saot.adapt.backbone import Adapted
from saot.adapt.finished import open_adapted
from saot.features import OpenBackbone
from saot.label import Labeller

BACKBONES: Mapping[str, OpenBackbone] = MappingProxyType({"adapted": Adapted})
FINISHED: Mapping[str, Callable[[Path], Labeller]] = MappingProxyType({"adaptation": open_adapted})
