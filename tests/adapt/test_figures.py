import io
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from saot.adapt.figures import masks_figure, separation_figure, similarity_figure, tsne_figure
from saot.data.classes import folder_class_set
from saot.report.figures import figure_png

NAMES = ("road", "sky", "$x$ & <b>")
CLASSES = folder_class_set(NAMES)
NASTY = "</script><b>&\"'"


def picture(figure):
    data = figure_png(figure, dpi=60)
    assert data.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def words(figure):
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return texts + [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def groups(seed=0, count=8):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(2 * count) % 2
    features = torch.randn(2 * count, 4, generator=generator) + 20.0 * labels[:, None]
    labels[0] = 255
    return features, labels


def test_tsne_draws_both_domains_and_is_reproducible():
    figures = [tsne_figure(*groups(0), *groups(1), CLASSES, seed=3) for _ in range(2)]
    first, second = (picture(figure) for figure in figures)
    assert np.array_equal(first, second)
    colors = first.reshape(-1, 3)
    for color in CLASSES.colors[:2]:
        assert (np.abs(colors - np.array(color)).max(1) < 8).any()
    assert words(figures[0]) == ["road", "sky", "source", "target", "road", "sky"]  # classes without features are not
    axes = figures[0].axes[0]
    assert [len(points.get_offsets()) for points in axes.collections] == [15, 15]  # ignored ones are left out
    tokens = torch.cat([torch.as_tensor(np.asarray(points.get_offsets())) for points in axes.collections])
    labels = torch.cat([groups(0)[1][1:], groups(1)[1][1:]])
    middles = torch.stack([tokens[labels == index].mean(0) for index in (0, 1)])
    assert torch.equal(torch.cdist(tokens.double(), middles.double()).argmin(1), labels)  # far groups stay apart


def test_masks_stand_side_by_side_with_names_that_fit_and_a_legend():
    image = np.full((20, 40, 3), 7, np.uint8)
    road, sky, none = (np.full((20, 40), value, np.uint8) for value in (0, 1, 255))
    long = "T2S-DA without its pull loss, $x$ of the paper's table S2 and more words"
    figure = masks_figure([image] * 2, [road, none], {"Source only": [sky, road], long: [road, road]}, CLASSES)
    drawn = picture(figure)
    assert [axes.get_title().replace("\n", " ").replace("\\$", "$") for axes in figure.axes] == [
        *("picture", "truth", "Source only", long), *[""] * 4,
    ]  # fmt: skip
    assert words(figure) == ["road", "sky"]
    assert [len(axes.images) for axes in figure.axes] == [1] * 8
    assert np.array_equal(figure.axes[2].images[0].get_array()[0, 0], CLASSES.colors[1])
    assert not np.asarray(figure.axes[5].images[0].get_array()).any()  # not labelled: black
    boxes = [axes.title.get_window_extent() for axes in figure.axes[:4]]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.x1 and max(box.y1 for box in boxes) <= figure.bbox.y1
    legend = figure.legends[0].get_window_extent()
    assert legend.y0 >= 0 and legend.y1 <= min(axes.get_window_extent().y0 for axes in figure.axes)
    assert drawn.shape[1] > drawn.shape[0] / 2
    for wrong in ({"a": [road]}, {"truth": [road, road]}):
        with pytest.raises(ValueError, match="a mask of each of the 2 by every method"):
            masks_figure([image] * 2, [road, none], wrong, CLASSES)


def test_tsne_takes_few_features_of_one_channel():
    few, label = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 2])
    picture(tsne_figure(few, label, few, label, CLASSES))
    same = torch.ones(2, 3)
    picture(tsne_figure(same, label, same[:1], label[:1], CLASSES))


def test_tsne_refuses_what_does_not_fit():
    features, labels = groups()
    for source, classes, message in (
        (features, labels[:-1], "source has 16 features"),
        (features, labels.where(labels != 1, 3), r"source labels must lie in \[0, 3\)"),
        (features.where(labels[:, None] != 1, torch.inf), labels, "source features are infinite"),
        (features[:, :3], labels, "3 channels"),
    ):
        with pytest.raises(ValueError, match=message):
            tsne_figure(source, classes, features, labels, CLASSES)
    with pytest.raises(ValueError, match="at least three"):
        tsne_figure(features[1:2], labels[1:2], features[:1], labels[:1], CLASSES)


def test_tsne_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(ValueError, match=r"the extra 'adapt' needs: .*scikit-learn"):
        tsne_figure(*groups(), *groups(), CLASSES)


def test_separation_takes_missing_infinite_and_negative_values():
    ccd = {"source only": [0.5, None, float("inf")], "ours": [0.25, float("nan"), 12.345]}
    pdd = {"source only": [0.9, None, 0.5], "ours": [-0.125, None, 0.0]}
    figure = separation_figure(NAMES, ccd, pdd)
    picture(figure)
    left, right = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert left == ["0.500", "–", "∞", "0.250", "–", "12.3"]
    assert right == ["0.900", "–", "0.500", "-0.125", "–", "0.000"]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths[2] == max(widths)
    nothing = {"m": [None, None, None]}
    picture(separation_figure(NAMES, nothing, nothing))


def test_similarity_names_each_class_once_and_gives_the_correlation():
    similarity = {"source only": [0.2, 0.5, 0.8], "$ours": [0.9, None, 0.9]}
    iou = {"source only": [0.1, 0.4, 0.7], "$ours": [0.5, 0.5, None]}
    figure = similarity_figure(NAMES, similarity, iou)
    picture(figure)
    assert words(figure) == ["road", "sky", r"\$x\$ & <b>", "source only (r = 1.00)", r"\$ours (r = –)"]
    nothing = {"m": [None, float("nan"), None]}
    picture(similarity_figure(NAMES, nothing, nothing))


def test_names_of_close_points_do_not_lie_on_each_other():
    figure = similarity_figure(NAMES, {"m": [0.5, 0.501, 0.9]}, {"m": [0.5, 0.501, 0.9]})
    first, second, _ = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not first.overlaps(second)


@pytest.mark.parametrize("draw", [separation_figure, similarity_figure])
def test_figures_of_methods_refuse_what_does_not_fit(draw):
    with pytest.raises(ValueError, match="one value for each of the 3 classes"):
        draw(NAMES, {"a": [1.0]}, {"a": [1.0, 1.0, 1.0]})
    with pytest.raises(ValueError, match="same methods"):
        draw(NAMES, {"a": [1.0] * 3}, {"b": [1.0] * 3})
    with pytest.raises(ValueError, match="same methods"):
        draw(NAMES, {}, {})
