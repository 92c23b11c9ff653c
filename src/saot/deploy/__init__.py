"""A finished run elsewhere: one file that labels pictures, large rasters."""

from saot.deploy.export import Answer, Comparison, Exported, Form, answer_of, compare, export_run, exportable, opened

__all__ = [
    "Answer",
    "Comparison",
    "Exported",
    "Form",
    "answer_of",
    "compare",
    "export_run",
    "exportable",
    "opened",
]
