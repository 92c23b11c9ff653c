"""What a run leaves to look at: one HTML file, figures, and masks as files for other tools."""

from saot.report.contents import Figure, MassMap, Panel, PatchStory, ReportData, SourcePatch, Table
from saot.report.export import (
    CocoItem,
    is_coco,
    overlay,
    palette_png,
    png_mark,
    write_coco,
    write_color_overlay,
    write_index_png,
)
from saot.report.figures import (
    INK,
    SERIES,
    WIDTH,
    _ink,
    _plain,
    figure_png,
    figure_svg,
    per_class_bars,
    png_uri,
    shrink,
    shrink_mask,
)
from saot.report.html import render_report, write_report

__all__ = [
    "INK",
    "SERIES",
    "WIDTH",
    "CocoItem",
    "Figure",
    "MassMap",
    "Panel",
    "PatchStory",
    "ReportData",
    "SourcePatch",
    "Table",
    "_ink",
    "_plain",
    "figure_png",
    "figure_svg",
    "is_coco",
    "overlay",
    "palette_png",
    "per_class_bars",
    "png_mark",
    "png_uri",
    "render_report",
    "shrink",
    "shrink_mask",
    "write_coco",
    "write_color_overlay",
    "write_index_png",
    "write_report",
]
