"""A run folder: what was asked, what is done, how long it took; safe to kill at any moment."""

from saot.runs.folder import RUN_FORMAT, Workspace, commit_of_code, load_tensors, peak_bytes, reset_peak, save_tensors
from saot.runs.training import (
    Checkpoint,
    History,
    Progress,
    check_finite,
    cosine_rate,
    generator_for,
    set_rate,
    train_steps,
)

__all__ = [
    "RUN_FORMAT",
    "Checkpoint",
    "History",
    "Progress",
    "Workspace",
    "check_finite",
    "commit_of_code",
    "cosine_rate",
    "generator_for",
    "load_tensors",
    "peak_bytes",
    "reset_peak",
    "save_tensors",
    "set_rate",
    "train_steps",
]
