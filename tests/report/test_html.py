import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from saot.data.classes import folder_class_set
from saot.evaluate import ConfusionMatrix, method_entry
from saot.report import Panel, ReportData, html, render_report, write_report
from saot.report.pictures import _crop

VOID = {"meta", "img", "input", "br", "wbr", "path", "use"}


class Checker(HTMLParser):
    """Tags must close in order; collects text, addresses and sections."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.sections, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "section":
            self.sections.append(found["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)


def checked(text):
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    loaded = set(checker.addresses) - {"explore.html"}  # a page to go to
    assert all(address.startswith(("data:", "#")) for address in loaded)  # self-contained
    assert not re.search(r"@import|url\((?!data:|#)", text)
    return checker, re.sub(r"\s+", " ", " ".join(checker.text))


def test_full_report(made_up, tmp_path):
    data = made_up()
    write_report(tmp_path / "report.html", data)
    text = (tmp_path / "report.html").read_text()
    checker, words = checked(text)
    assert checker.sections == [
        "quality",
        "pictures",
        "classes",
        "methods",
        "training",
        "stories",
        "mass",
        "run",
        "differences",
        "reading",
        "use",
    ]
    assert len(text) < html.MAX_BYTES
    best = data.metrics["methods"]["saot_decoder"]["miou"]
    for expected in (
        f"{100 * best:.1f}", "SAOT + decoder", "1,204,551 pixels", "380 points", "the truth itself",
        "scenes:street:val",
        "1.49 GiB", "74.0 s", "two cores instead of a GPU", "left out of the mean: wall, fence",
        "3 ran out of iterations",
        "Confusion of SAOT + decoder", "42 %", "unlabelled", "uncovered: 3.1 %", "For scale, not competitors",
    ):  # fmt: skip
        assert expected in words, expected
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert render_report(made_up()) == text  # nothing in it depends on the hour


def test_masks_in_the_report_are_the_predictions(made_up):
    data = made_up(panels=1)
    text = render_report(data)
    match = re.search(
        r'<figure data-method="saot_decoder"><div class="pic photo-1"><img src="data:image/png;base64,([^"]+)"', text
    )
    assert match
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))))
    np.testing.assert_array_equal(mask, data.panels[0].predictions["saot_decoder"])
    match = re.search(r'alt="mask of SAOT \+ decoder"><img class="errors" src="data:image/png;base64,([^"]+)"', text)
    assert match
    errors = np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1])))) == 0
    truth = data.panels[0].truth
    np.testing.assert_array_equal(errors, (mask != truth) & (truth != 255))
    first = re.search(r'alt="errors of SAOT \+ decoder"', text), re.search(r"<b>errors</b><span>([0-9.]+) %", text)
    assert all(first), "the report opens on an error map"
    map_of_errors = re.search(
        r'<figure class="wrong"><div class="pic photo-1"><img src="data:image/png;base64,([^"]+)"', text
    )
    assert map_of_errors
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(map_of_errors[1])))) == 0, errors)
    labelled = truth != 255
    assert first[1] and first[1][1] == f"{100 * errors.sum() / labelled.sum():.1f}"
    legend = re.findall(r'<div class="legend">(.*?)</div>', text)[0]
    occurring = {data.classes.names[c] for c in np.unique([mask, truth]) if c != 255}
    assert set(re.findall(r"</span>([^<]+)</span>", legend)) == occurring


def test_without_evaluation_labels(made_up):
    checker, words = checked(render_report(made_up(labels=False)))
    assert "classes" not in checker.sections
    assert "pictures" in checker.sections
    assert "no evaluation labels" in words
    assert "mark errors" not in words
    assert "truth ✓" not in words


def test_nearly_empty_run():
    data = ReportData("empty", {}, {"classes": ["a"], "methods": {}}, folder_class_set(["a"]))
    checker, words = checked(render_report(data))
    assert "saot predict RUN new/" in words  # nothing says where the run lies
    assert checker.sections == ["quality", "methods", "run", "reading", "use"]


def test_a_class_that_is_predicted_but_absent_is_told_with_the_other_mean():
    classes, matrix = folder_class_set(["a", "b"]), ConfusionMatrix.from_list([[3, 1], [0, 0]])
    metrics = {"classes": ["a", "b"], "methods": {"saot": method_entry(matrix, classes, 0)}}
    _, words = checked(render_report(ReportData("run", {}, metrics, classes)))
    assert "counted as 0, as in some evaluators, the means would be: SAOT 37.5." in " ".join(words.split())
    metrics["methods"]["uot"] = {"miou": 0.5, "iou": {}, "label_budget": 0}  # of a version that did not count it
    _, words = checked(render_report(ReportData("run", {}, metrics, classes)))
    assert "the means would be: SAOT 37.5." in " ".join(words.split())


def test_the_mean_at_edges_is_explained_where_it_stands():
    classes, matrix = folder_class_set(["a", "b"]), ConfusionMatrix.from_list([[3, 1], [0, 4]])
    for edges, shown in ((matrix, True), (None, False)):
        metrics = {"classes": ["a", "b"], "methods": {"saot": method_entry(matrix, classes, 0, edges)}}
        _, words = checked(render_report(ReportData("run", {}, metrics, classes)))
        assert ("is over the pixels that have another class within three pixels" in words) is shown


def test_names_cannot_break_the_page():
    nasty = "</script><b>&\"'$x$"
    classes = folder_class_set([nasty, "b"])
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    data = ReportData(
        nasty,
        {"source": nasty, "stages": {nasty: {}}},
        {"classes": list(classes.names), "methods": {nasty: method_entry(matrix, classes, 3)}},
        classes,
        panels=(Panel(nasty, image, mask, {nasty: mask}, {nasty: None}),),
        confusions={nasty: matrix.counts},
        curves={nasty: [(0, 1.0)]},
        notes=(nasty,),
    )
    _, words = checked(render_report(data))
    assert words.count(nasty) > 8


def test_report_stays_under_its_size(made_up, monkeypatch):
    data = made_up(panels=5, size=(128, 288))
    few = [dataclasses.replace(panel, predictions={"saot": panel.truth}) for panel in data.panels]
    data = dataclasses.replace(data, panels=tuple(few))
    bare = len(render_report(dataclasses.replace(data, panels=(), stories=(), maps=())).encode())
    full = len(render_report(data).encode())
    monkeypatch.setattr(html, "MAX_BYTES", full - 1)
    text = render_report(data)
    assert len(text.encode()) < full
    assert "to keep this file small" not in text  # smaller pictures were enough
    monkeypatch.setattr(html, "MAX_BYTES", int(bare + 0.6 * (full - bare)))
    monkeypatch.setattr(html, "WIDTHS", (288,))
    text = render_report(data)
    assert len(text.encode()) <= html.MAX_BYTES
    assert "left out to keep this file small" in text


def test_confusion_falls_back_to_what_there_is(made_up):
    data = made_up(panels=1)
    renamed = dataclasses.replace(data, confusions={"oracle": data.confusions["saot_decoder"]})
    assert "Confusion of Oracle" in render_report(renamed)


UNITS = {"GiB", "MiB"}


@pytest.fixture(scope="module")
def small(made_up):
    title = "Labels carried from scenes:game:train,count=32 to a_b"
    return dataclasses.replace(made_up(panels=3, size=(64, 128)), title=title, folder="my runs/a")


@pytest.fixture(scope="module")
def page(small):
    return render_report(small)


def test_every_abbreviation_is_explained_where_it_stands(page):
    text = page
    body = re.sub(r"(?s)<(script|style|pre|code|svg|abbr)\b.*?</\1>", " ", text.split("<body>")[1])
    words = set(re.findall(r"\b\w*[A-Z]\w*[A-Z]\w*\b", re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<dl>.*?</dl>", " ", body))))
    assert words <= UNITS
    meanings = dict(re.findall(r'<abbr title="([^"]+)">([^<]+)</abbr>', text))
    assert {"mIoU", "IoU", "SAOT", "OT", "UOT", "RWOT", "kNN", "MLP", "EMA", "mIoU-13"} <= set(meanings.values())
    listed = text.split('<section id="reading">')[1]
    for name in set(meanings.values()) - {"mIoU-13", "mIoU-16"}:
        assert f"<dt>{name}</dt><dd>{html.ABBREVIATIONS[name]}</dd>" in listed
    assert "<abbr" not in "".join(re.findall(r"(?s)<svg.*?</svg>|<script.*?</script>|<pre.*?</pre>", text))


def test_the_papers_differences_and_the_stages_are_folded(page):
    assert re.search(r'<section id="differences">\s*<details><summary><h2>[^<]*\(3\)</h2></summary>', page)
    assert "<details open" not in page


def test_rows_lead_to_pictures(small, page):
    data, text = small, page
    table = text.split('<section id="classes">')[1].split("</table>")[0]
    for index, name in enumerate(data.classes.names):
        pixels = [int((panel.truth == index).sum()) for panel in data.panels]
        link = re.search(rf'<a href="#panel-(\d)">{name}</a>', table)
        assert (link is None) == (max(pixels) == 0), name
        assert link is None or pixels[int(link[1]) - 1] == max(pixels)
    methods = text.split('<section id="methods">')[1].split("</table>")[0]
    shown = re.findall(r'<a href="#pictures" data-show="(\w+)">', methods)
    assert sorted(shown) == sorted(data.panels[0].predictions)
    assert all(f'<input type="checkbox" data-method="{name}"' in text for name in shown)


def test_pictures_can_be_enlarged_and_ours_come_first(page):
    text = page
    assert '<dialog id="large"' in text
    panel = text.split('id="panel-1"')[1].split("</section>")[0]
    assert re.findall(r'data-method="(\w+)"', panel)[0] == "saot_decoder"
    assert 'alt="mask of SAOT + decoder"' in text.split('<section id="pictures">')[0]  # one beside the verdict


def test_the_verdict_in_plain_words():
    classes = folder_class_set(["road", "pole", "sky"])
    matrix = ConfusionMatrix(3)
    matrix.counts += torch.tensor([[80, 0, 0], [10, 5, 0], [0, 0, 5]])
    metrics = {"images": 1, "methods": {"saot_decoder": method_entry(matrix, classes, 3)}}
    calibration = {"methods": {"saot_decoder": {"abstain": {
        "0.01": {"threshold": None, "basis": None},
        "0.1": {"threshold": 0.9, "basis": "points", "points": {"coverage": 0.48}},
    }}}}  # fmt: skip
    data = ReportData("t", {}, metrics, classes, confusions={"saot_decoder": matrix.counts}, calibration=calibration)
    verdict = html._verdict(html.table_rows(metrics), data)
    assert verdict["right"] == 0.9
    names = [[name for name, _, _ in found] for _, found in verdict["strengths"]]
    assert names == [["sky", "road"], [], ["pole"]]  # IoU 5/5, 80/90 and 5/15
    assert verdict["sure"] == [("0.1", 0.48)]


def test_without_truth_the_verdict_speaks_of_what_is_expected():
    classes = folder_class_set(["road", "pole"])
    estimate = {"miou": 0.55, "low": 0.5, "high": 0.6, "level": 0.9, "points": 9, "basis": "held-out", "pictures": 2}
    run = {"estimate": {**estimate, "classes": {"road": [0.8, 0.7, 0.9], "pole": [0.3, 0.2, 0.4]}}}
    _, words = checked(render_report(ReportData("t", run, {"methods": {}}, classes)))
    assert "Strong ( IoU of 70% or more, as expected): road 80." in words
    assert "Weak (below 40%, as expected): pole 30." in words
    assert "no mIoU was measured" in words


def test_the_page_ends_with_the_line_that_labels_more_pictures(page):
    last = page.split("<section")[-1].replace("&#39;", "'")
    assert last.startswith(' id="use">')
    assert "saot predict 'my runs/a' new/ --out masks --format png,color<" in last


def test_the_page_leads_to_the_explorer_where_there_can_be_one():
    classes = folder_class_set(["road"])
    for run, there in (({"estimate": {"miou": None, "why": "no point"}}, True), ({}, False)):
        last = render_report(ReportData("t", run, {"methods": {}}, classes)).split("<section")[-1]
        assert ('<a href="explore.html">' in last and "saot explore RUN<" in last) is there


def test_long_titles_may_break_on_a_phone(page):
    assert "scenes:<wbr>game:<wbr>train,<wbr>count=<wbr>32 to a_<wbr>b</h1>" in page
    assert re.search(r"h1[^{}]*\{[^}]*overflow-wrap: anywhere", page)


def test_mask_of_other_size_is_refused():
    image = np.zeros((20, 30, 3), np.uint8)
    panel = Panel("a.png", image, None, {"saot": np.zeros((20, 29), np.uint8)})
    data = ReportData("t", {}, {"methods": {}}, folder_class_set(["a"]), panels=(panel,))
    with pytest.raises(ValueError, match="mask saot of a"):
        render_report(data)


@pytest.mark.parametrize("box", [(0.0, 0.0, 16.0, 16.0), (90.0, 44.0, 100.0, 50.0), (40.0, 20.0, 56.0, 36.0)])
def test_enlarged_patch_holds_its_box(box):
    image = np.zeros((50, 100, 3), np.uint8)
    view = _crop(image, box, 160)
    numbers = [float(value) for value in re.findall(r"([\d.]+)%", view["box"])]
    assert numbers[0] >= 0
    assert numbers[1] >= 0
    assert numbers[0] + numbers[2] <= 100.01
    assert numbers[1] + numbers[3] <= 100.01


@pytest.mark.parametrize(
    ("value", "words"), [(None, "–"), (0.04, "0.0 s"), (119.0, "119.0 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_seconds_are_readable(value, words):
    assert html._seconds(value) == words
