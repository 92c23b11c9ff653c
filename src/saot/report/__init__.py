"""What a run leaves to look at: one HTML file, figures, and masks as files for other tools."""

from saot.report.export import (
    CocoItem,
    coco_document,
    overlay,
    palette_png,
    write_coco,
    write_color_overlay,
    write_index_png,
)
from saot.report.html import (
    Difference,
    Figure,
    MassMap,
    Panel,
    PatchStory,
    ReportData,
    SourcePatch,
    Table,
    render_report,
    write_report,
)

__all__ = [
    "CocoItem",
    "Difference",
    "Figure",
    "MassMap",
    "Panel",
    "PatchStory",
    "ReportData",
    "SourcePatch",
    "Table",
    "coco_document",
    "overlay",
    "palette_png",
    "render_report",
    "write_coco",
    "write_color_overlay",
    "write_index_png",
    "write_report",
]
