"""Whole pictures: windows that cover and average, padding that is cut off, labels at cell centres."""

import numpy as np
import pytest
import torch
from helpers.adapt import Passing, TinyEncoder, mask_of, tiny_network, told_picture
from torch import nn
from torch.testing import assert_close

from saot.adapt.networks import Segmenter, build_segmenter
from saot.adapt.pictures import resized
from saot.adapt.predict import last_features, padded, picture_logits, predict_mask, upsampled, windows
from saot.adapt.recipe import PicturesRecipe

AS_IT_IS = PicturesRecipe(source_size=None, target_size=None)


class FirstMap(nn.Module):
    """Logits are the colours; with `mean`, less the mean of what came in."""

    def __init__(self, mean: bool = False) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, stages):
        return stages[0] - stages[0].mean((2, 3), keepdim=True) if self.mean else stages[0]


def passing(multiple: int = 1, stride: int = 1, mean: bool = False) -> Segmenter:
    return Segmenter(Passing(multiple, stride), FirstMap(mean), None, 3).eval()


def colours(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float()


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (20, 8), (8, 31)])
@pytest.mark.parametrize("window", [(8, 8), (5, 8), (100, 3)])
@pytest.mark.parametrize("stride", [(1, 1), (3, 2), (5, 3)])
def test_windows_cover_every_pixel(size, window, stride):
    count = torch.zeros(size)
    for rows, columns in windows(size, window, stride):
        assert rows.stop - rows.start == min(window[0], size[0]) and columns.stop - columns.start == min(
            window[1], size[1]
        )
        assert rows.start >= 0 and rows.stop <= size[0] and columns.start >= 0 and columns.stop <= size[1]
        count[rows, columns] += 1
    assert bool((count > 0).all())


def test_windows_by_hand():
    """DAFormer's own sliding test: 1024x2048 with windows of 512 and a stride of 341 (two thirds)."""
    places = [(rows.start, columns.start) for rows, columns in windows((1024, 2048), (512, 512), (341, 341))]
    tops, lefts = (0, 341, 512), (0, 341, 682, 1023, 1364, 1536)
    assert places == [(top, left) for top in tops for left in lefts]
    assert len(list(windows((8, 8), (8, 8), (5, 5)))) == 1


@pytest.mark.parametrize("window", [None, (8, 8), (7, 30), (64, 64)])
@pytest.mark.parametrize("multiple", [1, 8])
def test_logits_come_back_where_they_belong(window, multiple):
    image = told_picture(0, 19, 45)
    recipe = PicturesRecipe(target_size=None, window=window)
    assert_close(picture_logits(passing(multiple), image, recipe), colours(image))
    assert torch.equal(predict_mask(passing(), image, recipe), colours(image).argmax(0).to(torch.uint8))


def test_overlapping_windows_are_averaged():
    """Logits that depend on the whole window: a loop over them, and the whole picture where the window holds it."""
    image, network = told_picture(1, 20, 33), passing(mean=True)
    pixels, window, stride = colours(image), (10, 12), (4, 7)
    total, count = torch.zeros(3, 20, 33), torch.zeros(20, 33)
    for top in (0, 4, 8, 10):
        for left in (0, 7, 14, 21):
            part = pixels[:, top : top + 10, left : left + 12]
            total[:, top : top + 10, left : left + 12] += part - part.mean((1, 2), keepdim=True)
            count[top : top + 10, left : left + 12] += 1
    found = picture_logits(network, image, PicturesRecipe(target_size=None, window=window, stride=stride))
    assert_close(found, total / count, rtol=1e-5, atol=1e-3)
    whole = picture_logits(network, image, AS_IT_IS)
    assert_close(whole, pixels - pixels.mean((1, 2), keepdim=True), rtol=1e-5, atol=1e-3)
    for holds in ((20, 33), (99, 99)):
        assert torch.equal(picture_logits(network, image, PicturesRecipe(target_size=None, window=holds)), whole)


def test_padding_repeats_the_edge_and_is_cut_off():
    image = colours(told_picture(0, 13, 21))
    made = padded(image, 8)
    assert made.shape == (3, 16, 24) and torch.equal(made[:, :13, :21], image)
    assert torch.equal(made[:, 13:, :21], image[:, 12:].expand(3, 3, 21))
    assert torch.equal(made[:, :13, 21:], image[:, :, 20:].expand(3, 13, 3))
    assert padded(image[:, :8, :16], 8).shape == (3, 8, 16)
    network = tiny_network().eval()
    logits = picture_logits(network, told_picture(0, 13, 21), AS_IT_IS)
    with torch.no_grad():
        by_hand = upsampled(network(made[None]).logits, (16, 24))[0, :, :13, :21]
    assert_close(logits, by_hand)


def test_pictures_go_to_the_recipes_size_and_their_logits_back():
    image = told_picture(2, 24, 40)
    logits = picture_logits(passing(), image, PicturesRecipe(target_size=(12, 20)))
    assert logits.shape == (3, 24, 40)
    small = colours(resized(image, (12, 20)).copy())
    assert_close(logits, nn.functional.interpolate(small[None], (24, 40), mode="bilinear", align_corners=False)[0])


@pytest.mark.parametrize("size", [(32, 64), (40, 50)])
def test_two_scales_get_the_multiples_they_need(size):
    encoder = TinyEncoder()
    network = build_segmenter(encoder, 5, channels=4, two_scale=True).eval()
    assert network.multiple == 16  # windows of half the input, of which both 8 and twice 4 are a part
    assert predict_mask(network, told_picture(0, *size), AS_IT_IS).shape == size
    features, labels = last_features(network, told_picture(0, *size), mask_of(0, *size), AS_IT_IS)
    cells = len(range(8, size[0], 16)) * len(range(8, size[1], 16))  # of the halved picture: 16 pixels each
    assert features.shape == (cells, 8) and labels.shape == (cells,)


@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("size", [(32, 48), (37, 50)])
def test_labels_lie_at_cell_centres(size, stride):
    """A cell's feature here is the pixel at its centre, whose blue tells its class."""
    image, mask = told_picture(3, *size), mask_of(3, *size)
    features, labels = last_features(passing(max(stride, 2), stride), image, mask, AS_IT_IS)
    assert torch.equal(torch.where(features[:, 2] == 200, 255, features[:, 2] / 20).long(), labels)
    rows, columns = (len(range(stride // 2, side, stride)) for side in size)
    assert len(features) == rows * columns  # no cell of the padding
    assert torch.equal(features[:, 0].long(), torch.arange(stride // 2, size[1], stride).repeat(rows))


def test_labels_of_a_mask_of_another_size():
    mask = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4), np.ones((20, 20), np.uint8))
    image = np.zeros((80, 80, 3), np.uint8)
    features, labels = last_features(passing(8, 8), image, mask, PicturesRecipe(target_size=(32, 32)))
    assert features.shape == (16, 3) and labels.tolist() == list(range(16))
