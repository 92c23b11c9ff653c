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

VOID = {"meta", "img", "input", "br", "path", "use"}


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
    assert all(address.startswith(("data:", "#")) for address in checker.addresses)  # self-contained
    assert not re.search(r"@import|url\((?!data:|#)", text)
    return checker, re.sub(r"\s+", " ", " ".join(checker.text))


def test_full_report(made_up, tmp_path):
    data = made_up()
    write_report(tmp_path / "report.html", data)
    text = (tmp_path / "report.html").read_text()
    checker, words = checked(text)
    assert checker.sections == [
        "run",
        "methods",
        "differences",
        "pictures",
        "classes",
        "training",
        "stories",
        "mass",
        "reading",
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
        r'<figure data-method="saot_decoder"><div class="pic"><img src="data:image/png;base64,([^"]+)"', text
    )
    assert match
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))))
    np.testing.assert_array_equal(mask, data.panels[0].predictions["saot_decoder"])
    match = re.search(r'alt="mask of SAOT \+ decoder"><img class="errors" src="data:image/png;base64,([^"]+)"', text)
    assert match
    errors = np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1])))) == 0
    truth = data.panels[0].truth
    np.testing.assert_array_equal(errors, (mask != truth) & (truth != 255))


def test_without_evaluation_labels(made_up):
    checker, words = checked(render_report(made_up(labels=False)))
    assert "classes" not in checker.sections
    assert "pictures" in checker.sections
    assert "no evaluation labels" in words
    assert "mark errors" not in words
    assert "truth ✓" not in words


def test_nearly_empty_run():
    data = ReportData("empty", {}, {"classes": ["a"], "methods": {}}, folder_class_set(["a"]))
    checker, _ = checked(render_report(data))
    assert checker.sections == ["run", "methods", "reading"]


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
    assert "left out" not in text.split("<section", 1)[0]  # smaller pictures were enough
    monkeypatch.setattr(html, "MAX_BYTES", int(bare + 0.6 * (full - bare)))
    monkeypatch.setattr(html, "WIDTHS", (288,))
    text = render_report(data)
    assert len(text.encode()) <= html.MAX_BYTES
    assert "left out to keep this file small" in text


def test_confusion_falls_back_to_what_there_is(made_up):
    data = made_up(panels=1)
    renamed = dataclasses.replace(data, confusions={"oracle": data.confusions["saot_decoder"]})
    assert "Confusion of Oracle" in render_report(renamed)


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
