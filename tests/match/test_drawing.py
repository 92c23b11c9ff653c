"""The picture of `saot match`: what can be read off the rendered pixels, and what is written."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image

from saot.match import drawing as matches


def pair(lines, sure=None, names=("a.png", "b.png"), point_names=(), grey=255, shape=(200, 300)):
    """Two pictures of one grey, matched nowhere but by the lines."""
    picture, nowhere = np.full((*shape, 3), grey, np.uint8), np.zeros(shape, bool)
    lines = np.array(lines, np.float32).reshape(-1, 4)
    sure = np.ones(len(lines), np.float32) if sure is None else np.array(sure, np.float32)
    field = np.full((*shape, 2), 0.5, np.float32)
    return matches.DrawnMatch(picture, picture, names, field, nowhere, nowhere, lines, sure, point_names)


def rendered(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255


def contrast(drawn):
    """WCAG contrast of each pixel of the lines' row with the same picture without lines: 1 is invisible."""
    bare = dataclasses.replace(drawn, lines=drawn.lines[:0], sure=drawn.sure[:0])
    light = []
    for one in (drawn, bare):
        image = rendered(matches.draw_matches([one], "nn"))
        part = image[image.shape[0] // 2 :]
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        light.append(linear @ np.array([0.2126, 0.7152, 0.0722]) + 0.05)
    return np.maximum(light[0] / light[1], light[1] / light[0])


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, kept."""
    kept, png = [], matches.figure_png

    def keep(figure):
        kept.append(figure)
        return png(figure)

    monkeypatch.setattr(matches, "figure_png", keep)
    return kept


@pytest.mark.parametrize("place", [(150, 100), (290, 100), (10, 100), (70, 5), (150, 195)])
@pytest.mark.parametrize("grey", [255, 235, 128, 0])
def test_a_line_of_any_colour_can_be_seen_on_any_picture(place, grey):
    seen = contrast(pair([[100, place[1], *place]], grey=grey)).max(0)
    first, *_, last = np.flatnonzero(seen > 1)
    line = seen[first + 20 : last - 20]  # between the markers
    assert len(line) > 120
    assert line.min() > 2  # in every column; an outline makes up for a line of the picture's own colour


def test_the_order_of_nearly_equal_confidences_shows():
    lines = [[100, y, 150, y] for y in (20, 60, 100, 140, 180)]
    seen = contrast(pair(lines, [0.00201, 0.00204, 0.0, 0.00203, 0.00202]))
    gap = seen[:, seen.shape[1] // 2]
    found = [part.max() for part in np.array_split(gap, 5)]
    assert np.argsort(found).tolist() == [2, 0, 4, 3, 1]
    assert min(found) > 1.5
    assert max(found) > 3 * min(found)


def test_equal_confidences_look_equal_and_the_only_one_is_strong():
    assert matches._opacity(np.array([0.3, 0.3])).tolist() == [1.0, 1.0]
    assert matches._opacity(np.array([0.002])).tolist() == [1.0]
    assert matches._opacity(np.array([0.0, 0.9])).tolist() == [matches._FAINT, 1.0]
    assert matches._opacity(np.zeros(0)).tolist() == []


def test_names_stand_at_both_ends_apart_from_each_other_and_inside(figures):
    corners = [(2, 2), (297, 2), (2, 197), (297, 197), (150, 100), (154, 100)]
    names = ("top left", "top right", "low left", "low right", "mid", "middle")
    matches.draw_matches([pair([[*place, *place] for place in corners], point_names=names)], "nn")
    figures[0].draw_without_rendering()  # at its own resolution again
    texts = figures[0].findobj(Annotation)
    assert sorted(text.get_text() for text in texts) == sorted([*names, *names])
    boxes = [text.get_window_extent() for text in texts]
    axes, half = figures[0].axes[1].bbox, figures[0].bbox.width / 2
    for number, box in enumerate(boxes):
        left, right = (axes.x0, half) if number < len(names) else (half, axes.x1)  # of its own picture
        assert left <= box.x0 and box.x1 <= right and axes.y0 <= box.y0 and box.y1 <= axes.y1
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_no_names_for_too_many_points_or_none(figures):
    many = [[x, 50, x, 150] for x in range(matches.NAMED + 1)]
    matches.draw_matches([pair(many, point_names=tuple("n" * len(many))), pair(many)], "nn")
    assert not figures[0].findobj(Annotation)


def test_a_dollar_in_a_name_is_a_dollar(figures):
    names = ("$x^{.png", r"a\$b$_.png")
    png = matches.draw_matches([pair([[10, 10, 20, 20]], names=names, point_names=("$_{$",))], "nn")
    assert png[:4] == b"\x89PNG"
    assert figures[0].findobj(Annotation)[0].get_text() == r"\$_{\$"


def test_many_targets_make_several_pictures_that_viewers_open(figures):
    shape = (600, 500)  # higher than wide: the highest rows there are
    pairs = [pair([[1, 1, 2, 2]], names=("a", f"target {number}"), shape=shape) for number in range(23)]
    pages = dict(matches.draw_pages(pairs, "nn"))
    assert list(pages) == ["matches.png", "matches-2.png", "matches-3.png"]
    heights = [Image.open(io.BytesIO(png)).height for png in pages.values()]
    assert max(heights) < 16384 and heights[2] < heights[0]
    titles = [
        axes.get_title("left") for figure in figures for axes in figure.findobj(lambda one: hasattr(one, "get_title"))
    ]
    shown = [title.split("  →  ")[1].split("   ")[0] for title in titles if "→" in title]
    assert sorted(shown, key=lambda name: int(name.split()[1])) == [f"target {number}" for number in range(23)]


def test_one_target_is_one_picture():
    (page,) = matches.draw_pages([pair([[1, 1, 2, 2]])], "nn")
    assert page[0] == "matches.png"
