import io
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from saot.report import figures


def test_svg_is_valid_themed_and_reproducible():
    names = ("a & <b>", "$x$ and $y$", "_under")
    series = {"One $": (0.5, None, 1.0), "_two": (0.1, None, 0.0)}
    texts = [figures.figure_svg(figures.per_class_bars(names, series), 'IoU "all" <>') for _ in range(2)]
    assert texts[0] == texts[1]
    root = ET.fromstring(texts[0])
    words = " ".join("".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text"))
    for expected in ("a & <b>", "$x$ and $y$", "_under", "absent", "One $"):
        assert expected in words
    assert figures.INK not in texts[0]
    assert "currentColor" in texts[0]
    assert "width" not in root.attrib


def test_bars_refuse_a_missing_class():
    with pytest.raises(ValueError, match="each of the 2 classes"):
        figures.per_class_bars(("a", "b"), {"m": (0.1,)})


def test_confusion_shows_rows_in_percent_and_leaves_absent_rows_empty():
    counts = torch.tensor([[30, 10, 0], [0, 0, 0], [1, 0, 999]])
    root = ET.fromstring(figures.figure_svg(figures.confusion_figure(counts, ("a", "b", "c")), "confusion"))
    words = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(word for word in words if word.isdigit()) == ["100", "25", "75"]
    with pytest.raises(ValueError, match="2 names"):
        figures.confusion_figure(counts, ("a", "b"))


def test_many_classes_stay_small():
    counts = torch.randint(0, 99, (150, 150), generator=torch.Generator().manual_seed(0))
    text = figures.figure_svg(figures.confusion_figure(counts, [f"c{i}" for i in range(150)]), "large")
    assert len(text) < 400_000


def test_curves_take_gaps_length_and_nothing():
    long = [(step, 1.0 / (1 + step)) for step in range(50_000)]
    curves = {
        "long": long,
        "gap": [(0, 1.0), (1, float("nan")), (2, 2.0)],
        "inf": [(0, float("inf"))],
        "none": [],
    }
    text = figures.figure_svg(figures.curves_figure(curves, columns=2), "curves")
    ET.fromstring(text)
    assert len(text) < 100_000
    steps, values = figures._thinned(long)
    assert len(steps) <= 2 * figures.CURVE_POINTS
    assert values[0] == pytest.approx(np.mean([1 / (1 + step) for step in range(125)]), rel=0.02)


def test_figures_leave_no_global_state():
    before = dict(matplotlib.rcParams)
    figures.figure_svg(figures.curves_figure({"a": [(0, 1.0)]}), "a")
    assert dict(matplotlib.rcParams) == before


def test_side_by_side_is_a_picture():
    image = np.zeros((30, 60, 3), np.uint8)
    data = figures.figure_png(figures.side_by_side([("a", image), ("b", image)], [("road", (128, 64, 128))]), dpi=50)
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert picture.shape[1] == 260
    assert (picture == [128, 64, 128]).all(-1).any()  # the legend
    with pytest.raises(ValueError, match="at least one"):
        figures.side_by_side([])


def test_mass_map_is_bright_where_the_value_is_high():
    image = np.full((8, 12, 3), 90, np.uint8)
    values = np.array([[0.0, 0.5, 1.0], [np.nan, 0.5, 2.0]])
    drawn = figures.mass_map(image, values)
    light = drawn.mean(2)
    assert light[0, 0] < light[0, 5] < light[0, 11]
    assert drawn[7, 0].tolist() == [90, 90, 90]
    assert drawn[7, 11].tolist() == drawn[0, 11].tolist()  # clipped
    assert (
        np.ptp(figures.mass_map(image, np.full((2, 3), 0.3), 0.3, 0.3)) < 256
    )  # constant values do not divide by zero


def test_shrinking_keeps_picture_and_mask_in_step():
    image = np.zeros((301, 611, 3), np.uint8)
    mask = np.zeros((301, 611), np.uint8)
    image[:, 305:] = 255
    mask[:, 305:] = 18
    small, small_mask = figures.shrink(image, 100), figures.shrink_mask(mask, 100)
    assert small.shape[:2] == small_mask.shape
    assert set(np.unique(small_mask)) == {0, 18}
    assert ((small[..., 0] > 127) == (small_mask == 18)).mean() > 0.98
    assert figures.shrink(image, 2000) is image
    assert figures.shrink_mask(mask, 2000) is mask
