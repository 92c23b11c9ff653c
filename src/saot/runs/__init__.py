"""A run folder: what was asked, what is done, how long it took; safe to kill at any moment."""

from saot.runs.folder import BEGIN_ANEW, RUN_FORMAT, Workspace, load_tensors, save_tensors
from saot.runs.memory import peak_bytes, reset_peak
from saot.runs.once import Kept, Making, Shared, check_sum, code_version, identity_of, read_kept, room_of, write_kept
from saot.runs.record import check_device, commit_of_code, device_name, resolve_device, versions
from saot.runs.side import check_stopped, first_weights, side_by_side
from saot.runs.training import (
    Checkpoint,
    History,
    Mark,
    Progress,
    check_finite,
    cosine_rate,
    descend,
    generator_for,
    set_rate,
    train_steps,
)

__all__ = [
    "BEGIN_ANEW",
    "RUN_FORMAT",
    "Checkpoint",
    "History",
    "Kept",
    "Making",
    "Mark",
    "Progress",
    "Shared",
    "Workspace",
    "check_device",
    "check_finite",
    "check_stopped",
    "check_sum",
    "code_version",
    "commit_of_code",
    "cosine_rate",
    "descend",
    "device_name",
    "first_weights",
    "generator_for",
    "identity_of",
    "load_tensors",
    "peak_bytes",
    "read_kept",
    "reset_peak",
    "resolve_device",
    "room_of",
    "save_tensors",
    "set_rate",
    "side_by_side",
    "train_steps",
    "versions",
    "write_kept",
]
