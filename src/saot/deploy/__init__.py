"""A finished run elsewhere: one file that labels pictures, large rasters."""
