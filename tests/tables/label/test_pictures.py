"""Which pictures a qualitative figure shows."""

import torch

from saot.tables import PictureGrid
from saot.tables.label.pictures import best_picture, spread_pictures


def test_figures_that_share_an_evaluation_set_show_different_pictures():
    four, eight = PictureGrid((), pictures=4), PictureGrid((), pictures=8, skip=4)
    last = PictureGrid((), pictures=8, skip=12)
    shown = [*spread_pictures(500, four), *spread_pictures(500, eight), *spread_pictures(500, last)]
    assert len(set(shown)) == 20 and min(shown) > 0 and max(shown) < 500
    assert spread_pictures(1, last) == [0]


def test_the_best_picture_of_a_class():
    counts = torch.tensor([[[1, 3], [0, 4]], [[3, 1], [0, 4]], [[0, 0], [0, 8]]])
    assert best_picture(counts, 0) == 1
    assert best_picture(torch.zeros(2, 2, 2, dtype=torch.int64), 0) == 0
