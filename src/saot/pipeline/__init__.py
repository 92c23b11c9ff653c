"""The main job, stage by stage, each stage resumable."""

from saot.pipeline.apply import evaluate_run, predict_pictures
from saot.pipeline.run import RunOutcome, run_job
from saot.pipeline.settings import RunSettings
from saot.pipeline.workspace import Workspace

__all__ = ["RunOutcome", "RunSettings", "Workspace", "evaluate_run", "predict_pictures", "run_job"]
