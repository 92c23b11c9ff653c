"""Crops: picture, translation and label stay aligned; no class fills a window if that can be helped."""

import pytest
import torch

from saot.adapt.crops import Crop, crop_together, draw_crop, largest_share
from saot.adapt.translate import fourier_translate


def dice(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(height=6, width=9) -> torch.Tensor:
    """A map that holds its own row and column: 100 r + c."""
    return torch.arange(height).unsqueeze(1) * 100 + torch.arange(width)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("corner", [(0, 0), (2, 4), (3, 5)])
def test_all_maps_show_the_same_pixels(corner, flip):
    label = places()
    picture, translated = torch.stack([label, label, label]).float(), torch.stack([label + 0.5] * 3)
    parts = crop_together(Crop(corner[0], corner[1], 3, 4, flip), picture, translated, label, label[None, None])
    assert [tuple(part.shape) for part in parts] == [(3, 3, 4), (3, 3, 4), (3, 4), (1, 1, 3, 4)]
    for row in range(3):
        for column in range(4):
            place = corner[1] + (3 - column if flip else column)
            expected = 100 * (corner[0] + row) + place
            assert (parts[0][:, row, column] == expected).all() and (parts[1][:, row, column] == expected + 0.5).all()
            assert parts[2][row, column] == expected == parts[3][0, 0, row, column]


def test_a_translation_cropped_is_aligned_with_its_source():
    """FACTS T-7: FDA sees the whole source; then one window is cut from both."""
    source = torch.randint(80, 170, (16, 20, 3), dtype=torch.uint8)
    target = torch.randint(80, 170, (16, 20, 3), dtype=torch.uint8)
    translated = torch.from_numpy(fourier_translate(source.numpy(), target.numpy(), beta=0.0)).permute(2, 0, 1)
    crop = draw_crop(torch.randint(5, (16, 20)), (8, 8), dice())
    parts = crop_together(crop, source.permute(2, 0, 1), translated)
    shift = (parts[1] - parts[0].float()).flatten(1)  # beta 0 adds one number a channel
    assert (shift.max(1).values - shift.min(1).values < 1e-4).all()


def test_windows_lie_anywhere_and_half_are_mirrored():
    crops = [draw_crop(torch.arange(12).view(3, 4), (2, 2), dice(seed)) for seed in range(300)]
    assert {(crop.top, crop.left) for crop in crops} == {(top, left) for top in range(2) for left in range(3)}
    assert 110 < sum(crop.flip for crop in crops) < 190  # 150, sd 8.7
    assert all((crop.height, crop.width) == (2, 2) for crop in crops)
    assert draw_crop(places(), (2, 3), dice(7)) == draw_crop(places(), (2, 3), dice(7))
    for chance in (0.0, 1.0):
        assert all(draw_crop(places(), (2, 2), dice(seed), flip=chance).flip == bool(chance) for seed in range(20))


def test_no_class_fills_a_window():
    labels = torch.zeros(8, 40, dtype=torch.long)
    labels[:, 20:] = torch.arange(1, 5).repeat(5)  # half of the picture is one class
    labels[0] = 255
    free = 0
    for seed in range(100):
        crop = draw_crop(labels, (8, 8), dice(seed))
        assert largest_share(crop_together(crop, labels)[0]) < 0.75
        free += largest_share(crop_together(draw_crop(labels, (8, 8), dice(seed), 1.0), labels)[0]) >= 0.75
    assert free > 20  # without the rule many windows show one class


@pytest.mark.parametrize("filler", [3, 255])
def test_a_picture_of_one_class_still_gives_a_window(filler):
    crop = draw_crop(torch.full((4, 5), filler), (2, 5), dice(), flip=0.0)
    assert (crop.left, crop.height, crop.width) == (0, 2, 5) and 0 <= crop.top <= 2
    assert draw_crop(torch.tensor([[filler]]), (1, 1), dice(), flip=0.0) == Crop(0, 0, 1, 1)


def test_ten_windows_are_drawn_anew():
    found = draw_crop(torch.zeros(10**6, 1, dtype=torch.long), (1, 1), dice(1), flip=0.0)
    generator = dice(1)
    drawn = [int(torch.randint(limit, (), generator=generator)) for _ in range(11) for limit in (10**6, 1)][::2]
    assert found.top == drawn[-1]


def test_largest_share_leaves_out_what_is_ignored():
    assert largest_share(torch.tensor([[1, 1, 4, 255, 255, 255]], dtype=torch.uint8)) == 2 / 3
    assert largest_share(torch.tensor([[255, 255]])) == 1.0


def test_errors_say_what_does_not_fit():
    with pytest.raises(ValueError, match=r"a crop of 7x2 does not fit a picture of 6x9"):
        draw_crop(places(), (7, 2), dice())
    with pytest.raises(ValueError, match="one height and width"):
        crop_together(Crop(0, 0, 2, 2), places(), places(6, 8))
    with pytest.raises(ValueError, match="leaves maps of height and width"):
        crop_together(Crop(5, 0, 2, 2), places())
