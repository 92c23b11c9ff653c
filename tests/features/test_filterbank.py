import time

import numpy as np
import pytest
import torch
from helpers.runs import open_labelled

from saot.data import patch_labels
from saot.features import extract, filterbank, load_backbone
from saot.features.base import FeatureSettings
from saot.features.filterbank import FilterBank


def picture(seed: int = 0, height: int = 112, width: int = 168) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_equal_pictures_give_equal_tokens():
    first, second = (extract(load_backbone("filterbank"), picture(), "").tokens for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_one_plain_colour_gives_equal_tokens_in_a_row():
    image = np.full((140, 140, 3), (200, 40, 90), np.uint8)
    tokens = extract(load_backbone("filterbank", size=140), image, "").tokens.view(10, 10, -1)
    torch.testing.assert_close(tokens, tokens[:, :1].expand_as(tokens), rtol=0, atol=1e-5)  # float32 means
    assert (tokens[0, 0] - tokens[9, 0]).norm() > 0.05  # height in the picture


def test_the_light_is_taken_out():
    bright = np.random.default_rng(0).integers(60, 256, (112, 112, 3)).repeat(7, 0).repeat(7, 1)[:112, :112]
    dark = (bright * np.array([0.5, 0.4, 0.6])).round()
    backbone = load_backbone("filterbank", size=112)
    first, second = (extract(backbone, image.astype(np.uint8), "").tokens for image in (bright, dark))
    other = extract(backbone, np.ascontiguousarray(bright[:, ::-1]).astype(np.uint8), "").tokens
    same = (first * second).sum(1).mean()
    assert same > 0.99  # rounding of the dark picture and the small constants in the balance
    assert (first * other).sum(1).mean() < same - 0.05


def test_edges_are_told_apart_by_direction():
    backbone = load_backbone("filterbank", size=112)
    stripes = np.zeros((112, 112, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 255
    upright = extract(backbone, stripes, "").tokens
    lying = extract(backbone, np.ascontiguousarray(stripes.transpose(1, 0, 2)), "").tokens
    moved = extract(backbone, np.roll(stripes, 2, 1), "").tokens
    assert (upright * lying).sum(1).mean() < (upright * moved).sum(1).mean() - 0.1


def test_another_patch_size():
    backbone = FilterBank(FeatureSettings("filterbank", size=(64, 96)), patch_size=8)
    features = extract(backbone, picture(), "")
    assert (features.height, features.width) == (8, 12)
    assert features.tokens.shape[1] == backbone.dim == load_backbone("filterbank").dim


@pytest.mark.parametrize("shape", [(14, 14), (14, 1008), (700, 14)])
def test_thin_pictures_have_finite_tokens(shape):
    tokens = extract(load_backbone("filterbank", size=shape), picture(height=3, width=200), "").tokens
    assert torch.isfinite(tokens).all()
    assert len(tokens) == shape[0] * shape[1] // 196


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_pictures(level):
    tokens = extract(load_backbone("filterbank", size=56), np.full((56, 56, 3), level, np.uint8), "").tokens
    assert torch.isfinite(tokens).all()


@pytest.mark.parametrize("settings", [{"weights": "x.pt"}, {"layers": ("3",)}, {"final_norm": True}])
def test_settings_that_do_not_fit(settings):
    with pytest.raises(ValueError, match="filterbank"):
        load_backbone("filterbank", **settings)


def test_fast_enough():
    backbone = load_backbone("filterbank")
    image = picture(0, 504, 1008)
    seconds = []
    for _ in range(4):
        start = time.process_time()  # of the processor: others may keep it busy
        extract(backbone, image, "")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5  # 0.05 s with AVX-512; ten times that for plainer instructions


def test_a_linear_probe_tells_a_simple_street_apart():
    """Least squares on the tokens of six pictures, scored on two others of the same game."""
    data = open_labelled("scenes:game")
    backbone = load_backbone("filterbank", size=(252, 504))
    tokens, labels = [], []
    for index in range(8):
        features = extract(backbone, data.images.image(index), "")
        tokens.append(torch.cat([features.tokens, torch.ones(len(features.tokens), 1)], 1))
        num_classes = len(data.images.classes.names)
        labels.append(patch_labels(data.mask(index), features.grid, num_classes=num_classes).long())
    x, y = torch.cat(tokens[:6]), torch.cat(labels[:6])
    known = y != 255
    wanted = torch.nn.functional.one_hot(y[known], num_classes).float()
    gram = x[known].T @ x[known] + 0.1 * torch.eye(x.shape[1])
    weights = torch.linalg.solve(gram, x[known].T @ wanted)
    y_test = torch.cat(labels[6:])
    right = ((torch.cat(tokens[6:]) @ weights).argmax(1) == y_test)[y_test != 255].float().mean()
    most_frequent = torch.bincount(y_test[y_test != 255]).max() / (y_test != 255).sum()
    assert right > 0.8
    assert right > most_frequent + 0.2


@pytest.mark.parametrize("side", [3, 9])
def test_means_over_neighbours_are_to_the_bit_those_of_one_channel_after_another(side):
    tokens = torch.rand(1, 11, 36, 17, generator=torch.Generator().manual_seed(0))
    alone = [
        torch.nn.functional.avg_pool2d(one, side, stride=1, padding=side // 2, count_include_pad=False)
        for one in tokens.split(1, 1)
    ]
    assert torch.equal(filterbank._neighbourhood(tokens, side), torch.cat(alone, 1))
