"""All wings together, for whoever calls the main job with everything this package has."""

from saot import deploy
from saot.adapt import BACKBONES, FINISHED, FrozenPull
from saot.annotate import FORMATS
from saot.label import Wings
from saot.scenes import READERS

ALL_WINGS = Wings(
    readers={**READERS, **deploy.READERS}, backbones=BACKBONES, finished=FINISHED, pull=FrozenPull(), formats=FORMATS
)
