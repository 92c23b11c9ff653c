"""The main job, stage by stage, each stage resumable."""

from saot.pipeline.apply import evaluate_run, predict_pictures
from saot.pipeline.matching import match_pictures
from saot.pipeline.matching_inputs import MatchRequest
from saot.pipeline.run import RunOutcome, run_job
from saot.pipeline.settings import RunSettings
from saot.pipeline.workspace import Workspace

__all__ = [
    "MatchRequest",
    "RunOutcome",
    "RunSettings",
    "Workspace",
    "evaluate_run",
    "match_pictures",
    "predict_pictures",
    "run_job",
]
