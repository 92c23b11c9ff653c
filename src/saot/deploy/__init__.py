"""A finished run elsewhere: on a hub, in one file, on large rasters, on videos, and on many machines."""

from saot.deploy.cluster import Cluster, connected
from saot.deploy.export import Answer, Comparison, Exported, Form, answer_of, compare, export_run, exportable, opened
from saot.deploy.hub import is_hub_name, pack_run, pull_run, push_run
from saot.deploy.label_raster import LabelledRaster, RasterSettings, predict_raster, raster_output
from saot.deploy.label_video import VideoSettings, overlay_output, predict_video, video_input
from saot.deploy.licences import licence_of
from saot.deploy.on_machines import Extraction, evaluate_on, extract_on, predict_on
from saot.deploy.raster_set import READERS as RASTERS
from saot.deploy.steady import Own, SteadyRun, SteadySettings, steady_logits
from saot.deploy.video_set import READERS as VIDEOS

READERS = {**RASTERS, **VIDEOS}

__all__ = [
    "READERS",
    "Answer",
    "Cluster",
    "Comparison",
    "Exported",
    "Extraction",
    "Form",
    "LabelledRaster",
    "Own",
    "RasterSettings",
    "SteadyRun",
    "SteadySettings",
    "VideoSettings",
    "answer_of",
    "compare",
    "connected",
    "evaluate_on",
    "export_run",
    "exportable",
    "extract_on",
    "is_hub_name",
    "licence_of",
    "opened",
    "overlay_output",
    "pack_run",
    "predict_on",
    "predict_raster",
    "predict_video",
    "pull_run",
    "push_run",
    "raster_output",
    "steady_logits",
    "video_input",
]
