"""A finished run elsewhere: one file that labels pictures, large rasters."""

from saot.deploy.label_raster import LabelledRaster, RasterSettings, predict_raster, raster_output
from saot.deploy.raster_set import READERS

__all__ = ["READERS", "LabelledRaster", "RasterSettings", "predict_raster", "raster_output"]
