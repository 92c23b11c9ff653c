"""A finished run elsewhere: on a hub, in one file that labels pictures, on large rasters."""

from saot.deploy.export import Answer, Comparison, Exported, Form, answer_of, compare, export_run, exportable, opened
from saot.deploy.hub import is_hub_name, pack_run, pull_run, push_run
from saot.deploy.label_raster import LabelledRaster, RasterSettings, predict_raster, raster_output
from saot.deploy.licences import licence_of
from saot.deploy.raster_set import READERS

__all__ = [
    "READERS",
    "Answer",
    "Comparison",
    "Exported",
    "Form",
    "LabelledRaster",
    "RasterSettings",
    "answer_of",
    "compare",
    "export_run",
    "exportable",
    "is_hub_name",
    "licence_of",
    "opened",
    "pack_run",
    "predict_raster",
    "pull_run",
    "push_run",
    "raster_output",
]
