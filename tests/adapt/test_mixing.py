"""ClassMix, colour jitter and blur against loops, Python's colorsys and the numbers of FACTS T-2."""

import colorsys
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.adapt.mixing import (
    MixSettings,
    adjust_colours,
    augment,
    class_masks,
    class_mix,
    gaussian_blur,
    hsv_to_rgb,
    jitter_colours,
    kernel_size,
    rgb_to_hsv,
)

DOUBLE = torch.float64


def dice(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pasted(labels, mask) -> set:
    """Classes under the mask; each must be wholly in or wholly out."""
    inside, outside = set(labels[mask].tolist()), set(labels[~mask].tolist())
    assert not inside & outside
    return inside


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_half_of_the_classes_rounded_up(count):
    labels = torch.arange(count).repeat(2, 3, 4)
    masks = class_masks(labels, dice(count))
    for label, mask in zip(labels, masks, strict=True):
        assert len(pasted(label, mask)) == int((count + count % 2) / 2)  # the formula of DACS


def test_classes_are_those_of_the_batch_or_of_the_picture():
    labels = torch.stack([torch.zeros(4, 4), torch.arange(1, 5).repeat(4, 1), torch.full((4, 4), 255)]).long()
    union = {0, 1, 2, 3, 4, 255}
    seen = set()
    for seed in range(60):
        masks = class_masks(labels, dice(seed))
        for label, mask in zip(labels, masks, strict=True):
            seen |= {(int(label[0, 0]), value) for value in pasted(label, mask)}
        single = class_masks(labels, dice(seed), "picture")
        assert single[0].all() and single[2].all() and len(pasted(labels[1], single[1])) == 2
    assert {value for _, value in seen} == union
    share = np.mean([bool(class_masks(labels, dice(seed))[0].any()) for seed in range(300)])
    assert 0.38 < share < 0.62  # three of six classes of the batch: a picture of one is pasted half of the time
    assert class_masks(labels[:, :1, :1].to(torch.uint8), dice()).shape == (3, 1, 1)


def test_every_half_is_equally_likely():
    labels = torch.arange(4).repeat(1, 1, 1)
    draws = [tuple(class_masks(labels, dice(seed))[0, 0].tolist()) for seed in range(1200)]
    assert len(set(draws)) == 6
    for half in set(draws):
        assert 140 < draws.count(half) < 260  # 200, sd 13


def test_pictures_of_a_batch_are_masked_apart():
    labels = torch.arange(6).repeat(2, 1, 1)
    masks = [class_masks(labels, dice(seed)) for seed in range(20)]
    assert any(not torch.equal(mask[0], mask[1]) for mask in masks)
    assert all(torch.equal(class_masks(labels, dice(seed)), mask) for seed, mask in enumerate(masks))


def test_mix_by_loop():
    images, onto = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    labels, pseudo, weights = torch.randint(9, (2, 4, 5)), torch.randint(9, (2, 4, 5)), torch.rand(2, 4, 5)
    masks = class_masks(labels, dice())
    mixed = class_mix(images, labels.to(torch.uint8), onto, pseudo, weights, masks)
    for i, r, c in np.ndindex(2, 4, 5):
        from_source = bool(masks[i, r, c])
        assert torch.equal(mixed.images[i, :, r, c], (images if from_source else onto)[i, :, r, c])
        assert mixed.labels[i, r, c] == (labels if from_source else pseudo)[i, r, c]
        assert mixed.weights[i, r, c] == (1.0 if from_source else weights[i, r, c])
    assert torch.equal(mixed.masks, masks)


def colours() -> torch.Tensor:
    """Random colours and the corners of the cube, greys and ties among them."""
    corners = torch.tensor([[r, g, b] for r in (0, 0.5, 1) for g in (0, 0.5, 1) for b in (0, 0.5, 1)])
    return torch.cat([corners, torch.rand(53, 3)]).T.reshape(3, 8, 10).to(DOUBLE)


def test_hsv_is_colorsys():
    image = colours()
    found, back = rgb_to_hsv(image), hsv_to_rgb(rgb_to_hsv(image))
    for r, c in np.ndindex(8, 10):
        expected = colorsys.rgb_to_hsv(*image[:, r, c].tolist())
        assert_close(found[:, r, c], torch.tensor(expected, dtype=DOUBLE))
    assert_close(back, image)
    other = torch.rand(3, 8, 10, dtype=DOUBLE)  # any hue, saturation and value
    made = hsv_to_rgb(other)
    for r, c in np.ndindex(8, 10):
        assert_close(made[:, r, c], torch.tensor(colorsys.hsv_to_rgb(*other[:, r, c].tolist()), dtype=DOUBLE))


@pytest.mark.parametrize("move", [-0.2, 0.0, 0.13, 0.2])
@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation", "hue"])
def test_changes_by_loop(change, move):
    image = colours()
    found = adjust_colours(image, change, move)
    for r, c in np.ndindex(8, 10):
        rgb = image[:, r, c].tolist()
        if change == "brightness":
            expected = [min(max(x + move, 0), 1) for x in rgb]
        elif change == "contrast":
            expected = [min(max(x * (1 + move), 0), 1) for x in rgb]
        else:
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            h, s = ((h + move) % 1, s) if change == "hue" else (h, min(s * (1 + move), 1))
            expected = list(colorsys.hsv_to_rgb(h, s, v))
        assert_close(found[:, r, c], torch.tensor(expected, dtype=DOUBLE))


def test_jitter_is_four_changes_in_a_random_order():
    image, seen = colours(), set()
    names = ("brightness", "contrast", "saturation", "hue")
    for seed in range(30):
        generator = dice(seed)
        moves = [0.2 * (2 * u - 1) for u in torch.rand(4, generator=generator).tolist()]
        order = torch.randperm(4, generator=generator).tolist()
        expected = image
        for which in order:
            expected = adjust_colours(expected, names[which], moves[which])
        assert_close(jitter_colours(image, 0.2, dice(seed)), expected)
        assert expected.min() >= 0 and expected.max() <= 1
        seen.add(tuple(order))
    assert len(seen) > 10


def test_kernel_sizes_are_dafomers():
    for side in range(1, 1200):
        part = math.ceil(0.1 * side)
        expected = math.floor(part - 0.5 + part % 2)
        assert kernel_size(side) == expected and expected % 2 == 1


@pytest.mark.parametrize("kernel", [(1, 1), (3, 5), (5, 1), (7, 7)])
@pytest.mark.parametrize("sigma", [0.15, 1.15])
def test_blur_by_loop(kernel, sigma):
    image = torch.rand(2, 6, 9, dtype=DOUBLE)
    found = gaussian_blur(image, sigma, kernel)
    half = [length // 2 for length in kernel]

    def mirrored(place, side):  # without repeating the edge
        place = abs(place)
        return 2 * (side - 1) - place if place >= side else place

    for channel, r, c in np.ndindex(2, 6, 9):
        total = scale = 0.0
        for dr in range(-half[0], half[0] + 1):
            for dc in range(-half[1], half[1] + 1):
                weight = math.exp(-(dr * dr + dc * dc) / (2 * sigma**2))
                total += weight * float(image[channel, mirrored(r + dr, 6), mirrored(c + dc, 9)])
                scale += weight
        assert_close(float(found[channel, r, c]), total / scale)


def test_blur_says_which_kernels_fit():
    for kernel in ((2, 3), (3, 19), (13, 1)):
        with pytest.raises(ValueError, match=r"expected an odd kernel that fits \(6, 9\)"):
            gaussian_blur(torch.rand(3, 6, 9), 1.0, kernel)


def test_how_often_pictures_are_changed():
    images = torch.rand(2, 3, 40, 50)
    never, always = MixSettings(jitter_above=1, blur_above=1), MixSettings(jitter_above=-1, blur_above=-1)
    jitter, blur = MixSettings(blur_above=1), MixSettings(jitter_above=1)
    assert torch.equal(augment(images, dice(), never), images)
    counts = [0, 0]
    for seed in range(200):
        for which, settings in enumerate((jitter, blur)):
            changed = [
                not torch.equal(a, b) for a, b in zip(augment(images, dice(seed), settings), images, strict=True)
            ]
            assert len(set(changed)) == 1  # one draw decides for the batch
            counts[which] += changed[0]
    assert 140 < counts[0] < 180 and 75 < counts[1] < 125  # .8 and .5 of 200, sd 5.7 and 7.1
    made = augment(images, dice(), always)
    assert made.min() >= 0 and made.max() <= 1 and torch.equal(made, augment(images, dice(), always))
    alike = augment(images[:1].expand(2, -1, -1, -1), dice(), always)
    assert not torch.equal(alike[0], alike[1])  # but each picture is changed in its own way


def test_one_pixel_and_settings():
    assert augment(torch.rand(1, 3, 1, 1), dice(), MixSettings(blur_above=-1, jitter_above=-1)).shape == (1, 3, 1, 1)
    for wrong in ({"jitter_strength": 0.6}, {"blur_sigma": (0.0, 1.0)}, {"blur_sigma": (2.0, 1.0)}):
        with pytest.raises(ValueError, match="expected a jitter_strength"):
            dataclasses.replace(MixSettings(), **wrong)
