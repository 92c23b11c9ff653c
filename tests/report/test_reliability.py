import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from saot.report import figures, render_report
from saot.report.reliability import calibration_view, reliability_figure, risk_coverage_figure

BINS = {"share": [0.25, 0.75], "confidence": [0.4, 0.9], "accuracy": [0.5, 0.8]}
MEASURE = {
    "accuracy": 0.7, "confidence": 0.8, "ece": 0.0432, "ece_equal_mass": 0.05, "classwise_ece": 0.02,
    "nll": 0.612, "impossible": 0.0, "brier": 0.3, "equal_width": BINS, "equal_mass": BINS,
}  # fmt: skip
RANK = {"aurc": 0.1, "best_aurc": 0.05, "auroc": 0.8, "coverage_at": {"0.1": 0.77}, "curve": [[0.1, 0.0], [1.0, 0.3]]}
POINTS = {"threshold": 0.95, "units": 90, "held_out_coverage": 0.5, "held_out_error": 0.1, "coverage": 0.4567}
RECORD = {
    "alphas": [0.1], "delta": 0.1, "held_out": {"points": 90, "pictures": 6}, "split": "val", "notes": ["A <note>."],
    "methods": {
        "saot_decoder": {
            "temperature": 1.2345, "before": MEASURE, "after": {**MEASURE, "ece": 0.0123, "nll": None},
            "ranking": {"confidence": RANK, "unmatched": {**RANK, "aurc": 0.2, "auroc": None}},
            "abstain": {"0.1": {"threshold": 0.95, "basis": "points", "points": {**POINTS, "error": 0.0321}}},
        },
    },
}  # fmt: skip


def words(svg):
    root = ET.fromstring(svg)
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_figures_are_valid_and_reproducible():
    for draw in (
        lambda: reliability_figure({"as it is $": BINS, "after": BINS}),
        lambda: risk_coverage_figure({"as it is $": RANK["curve"], "one": [[1.0, 0.5]]}, [0.05, 0.1]),
        lambda: reliability_figure({}),
        lambda: risk_coverage_figure({}),
    ):
        texts = [figures.figure_svg(draw(), "x") for _ in range(2)]
        assert texts[0] == texts[1]
        ET.fromstring(texts[0])
    assert "as it is $" in words(figures.figure_svg(reliability_figure({"as it is $": BINS}), "x"))
    with pytest.raises(ValueError, match="lengths differ"):
        reliability_figure({"a": {**BINS, "share": [1.0]}})


def test_dots_lie_where_the_bins_are():
    figure = reliability_figure({"a": BINS})
    (dots,) = figure.axes[0].collections
    assert dots.get_offsets().tolist() == [[40.0, 50.0], [90.0, 80.0]]
    assert dots.get_sizes()[0] < dots.get_sizes()[1]
    curve = risk_coverage_figure({"a": RANK["curve"]}, [0.1]).axes[0].lines
    assert [list(line.get_ydata()) for line in curve] == [[10.0, 10.0], [0.0, 30.0]]


def test_the_page_shows_the_numbers(made_up):
    page = render_report(replace(made_up(), calibration=RECORD))
    for expected in ("A &lt;note&gt;.", "4.32", "1.23", "temperature 1.23", "0.612", "90 held-out", "95.00", "45.7",
                     "3.21", "77.0", "<b>confidence</b>", "at 90 % certainty", "classes alike"):  # fmt: skip
        assert expected in page, expected
    assert 'href="#calibration"' in page and 'id="calibration"' in page
    assert 'id="calibration"' not in render_report(made_up())


def test_the_page_without_held_out_points_or_without_truth(made_up):
    bare = json.loads(json.dumps(RECORD))
    bare["held_out"] = {"points": 0, "pictures": 0}
    entry = bare["methods"]["saot_decoder"]
    entry |= {"temperature": None, "after": None, "abstain": {"0.1": {"threshold": None, "basis": None}}}
    page = render_report(replace(made_up(), calibration=bare))
    assert "4.32" in page and "least confidence" not in page and "0 held-out" in page
    blind = json.loads(json.dumps(RECORD))
    blind["methods"]["saot_decoder"] |= {"before": None, "after": None, "ranking": None}
    blind["methods"]["saot_decoder"]["abstain"]["0.1"]["points"] = {"threshold": 0.95}
    page = render_report(replace(made_up(labels=False), calibration=blind))
    assert "least confidence" in page and "wrong among them" not in page and "ECE, equal" not in page
    assert calibration_view(None) is None
