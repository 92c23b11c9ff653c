"""What a report may hold, and how the figures and tables that others add are shown."""

import dataclasses

import pytest
from matplotlib.figure import Figure as Drawing

from saot.data import folder_class_set
from saot.report import Figure, ReportData, Table, figure_png, render_report
from saot.report.figures import png_uri
from saot.report.html import ABBREVIATIONS

NASTY = "</script><b>&\"'"
CLASSES = folder_class_set(["road", NASTY, "sky"])


def small(**parts):
    return ReportData("t", {}, {"methods": {}}, CLASSES, **parts)


def png():
    return figure_png(Drawing(figsize=(1, 1)), dpi=20)


def test_report_shows_figures_and_tables_escaped():
    figure = Figure(f"drawing {NASTY}", f"about {NASTY}", png())
    table = Table(f"table {NASTY}", "", ("class", f"CCD {NASTY}"), ((NASTY, "0.25"), ("sky", "–")))
    text = render_report(small(figures=(figure,), tables=(table,)))
    assert '<section id="further">' in text
    assert '<a href="#further">' in text
    safe = "&lt;/script&gt;&lt;b&gt;&amp;&#34;&#39;"
    assert f'<img src="{png_uri(figure.png)}" alt="drawing {safe}">' in text
    for part in (f"<h3>drawing {safe}</h3>", f"about {safe}", f"<h3>table {safe}</h3>"):
        assert part in text
    assert f'<th>class</th><th class="n"><abbr title="{ABBREVIATIONS["CCD"]}">CCD</abbr> {safe}</th>' in text
    assert f'<td>{safe}</td><td class="n">0.25</td>' in text
    assert NASTY not in text


def test_section_is_absent_without_figures_and_tables_and_follows_the_curves(made_up):
    assert "further" not in render_report(small()).split("<body>")[1]
    data = dataclasses.replace(
        made_up(panels=1, size=(64, 128)), stories=(), maps=(), figures=(Figure("f", "", png()),)
    )
    sections = [part.split('"', 1)[0] for part in render_report(data).split('<section id="')[1:]]
    assert sections[sections.index("training") + 1] == "further"


def test_contents_refuse_what_cannot_be_shown():
    with pytest.raises(ValueError, match="bytes of a PNG"):
        Figure("f", "", b"<svg/>")
    with pytest.raises(ValueError, match="2 columns but a row of 1 cells"):
        Table("t", "", ("a", "b"), (("1", "2"), ("1",)))
