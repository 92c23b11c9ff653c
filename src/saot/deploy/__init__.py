"""A finished run elsewhere: on a hub, in one file that labels pictures, on large rasters."""

from saot.deploy.hub import is_hub_name, pack_run, pull_run, push_run
from saot.deploy.licences import licence_of

__all__ = [
    "is_hub_name",
    "licence_of",
    "pack_run",
    "pull_run",
    "push_run",
]
