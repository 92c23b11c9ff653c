"""FDA against Fourier sums by matrices, and what the window of low frequencies may change."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.adapt.fourier import fit_to_size, fourier_translate, fourier_translate_batch, window_half_width

ROUNDING = 2e-5  # of single precision at 255


def picture(size, low=60, high=190, seed=0):
    """Far from 0 and 255, so that nothing is clipped."""
    return np.random.default_rng(seed).integers(low, high, (*size, 3)).astype(np.uint8)


def dft(plane, sign):
    """The transform by its definition, sum over all pixels."""
    rows, columns = (np.arange(side) for side in plane.shape)
    down = np.exp(sign * 2j * np.pi * np.outer(rows, rows) / len(rows))
    along = np.exp(sign * 2j * np.pi * np.outer(columns, columns) / len(columns))
    return down @ plane @ along


def by_matrices(source, target, beta):
    height, width = source.shape[:2]
    half = math.floor(beta * min(height, width))
    out = np.empty(source.shape)
    for channel in range(3):
        spectrum, other = (dft(each[..., channel].astype(np.float64), -1) for each in (source, target))
        for u in range(-half, half + 1):  # the centred window of (2b + 1)^2, frequency by frequency
            for v in range(-half, half + 1):
                phase = np.angle(spectrum[u % height, v % width])
                spectrum[u % height, v % width] = abs(other[u % height, v % width]) * np.exp(1j * phase)
        plane = dft(spectrum, 1) / (height * width)
        assert abs(plane.imag).max() < 1e-9  # a centred window keeps the picture real
        out[..., channel] = plane.real
    return out.clip(0, 255)


@pytest.mark.parametrize("size", [(5, 7), (6, 8), (9, 6), (1, 4), (1, 1)])
@pytest.mark.parametrize("beta", [0.0, 0.2, 0.34, 0.5])
def test_translation_by_matrices(size, beta):
    source, target = picture(size), picture(size, 0, 256, seed=1)
    made = fourier_translate(source, target, beta)
    assert made.dtype == np.float32 and made.shape == source.shape
    np.testing.assert_allclose(made, by_matrices(source, target, beta), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_batch_is_the_single_picture(beta):
    sources, targets = ([picture((6, 9), seed=seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
    stacked = [torch.from_numpy(np.stack(each)).permute(0, 3, 1, 2).double() for each in (sources, targets)]
    made = fourier_translate_batch(stacked[0], stacked[1], beta)
    for number in range(2):
        single = fourier_translate(sources[number], targets[number], beta)
        np.testing.assert_allclose(made[number].permute(1, 2, 0).numpy(), single, rtol=0, atol=ROUNDING)
    assert_close(
        fourier_translate_batch(stacked[0].float(), stacked[1].float(), beta).double(), made, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5])
def test_the_same_picture_stays(beta):
    source = picture((12, 17), 0, 256)
    np.testing.assert_allclose(fourier_translate(source, source, beta), source, rtol=0, atol=ROUNDING)


def test_beta_zero_moves_the_mean_colour_alone():
    source, target = picture((11, 8), 90, 120), picture((11, 8), 100, 170, seed=1)
    made = fourier_translate(source, target, beta=0.0)
    means = [each.reshape(-1, 3).mean(0, dtype=np.float64) for each in (source, target, made)]
    np.testing.assert_allclose(means[2], means[1], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(made - means[2], source - means[0], rtol=0, atol=ROUNDING)


def test_a_wider_window_comes_closer_to_the_target():
    source, target = picture((16, 16)), picture((16, 16), seed=5)
    amplitudes = [np.abs(np.fft.fft2(each, axes=(0, 1))) for each in (source, target)]
    distances = []
    for beta in (0.0, 0.2, 0.5):
        made = np.abs(np.fft.fft2(fourier_translate(source, target, beta).astype(np.float64), axes=(0, 1)))
        distances.append(np.abs(made - amplitudes[1]).sum() / np.abs(amplitudes[0] - amplitudes[1]).sum())
    assert distances[0] > distances[1] > distances[2] and distances[0] < 1


def test_values_stay_between_0_and_255_and_draws_nothing():
    dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    checker = np.where(np.indices((8, 8)).sum(0)[..., None] % 2, dark, light)
    made = fourier_translate(checker, light, beta=0.0)
    assert made.min() >= 0 and made.max() == 255
    assert (fourier_translate(picture((8, 8)), light) == fourier_translate(picture((8, 8)), light)).all()
    assert (fourier_translate(dark, light, 0.2) == 255).all()  # a black source has no phase; its angle counts as 0


def test_half_width_and_range():
    assert [window_half_width((512, 1024), beta) for beta in (0.01, 0.05, 0.09)] == [5, 25, 46]
    for beta in (-0.1, 0.51):
        with pytest.raises(ValueError, match="expected beta between 0"):
            fourier_translate(picture((4, 4)), picture((4, 4)), beta)


def test_another_size_is_scaled_to_cover_and_cut_at_the_centre():
    image = picture((4, 10))
    assert fit_to_size(image, (4, 10)) is image
    assert (fit_to_size(image, (4, 6)) == image[:, 2:8]).all()  # covers already: only cut
    assert (fit_to_size(np.ascontiguousarray(image[:, :4]), (4, 3)) == image[:, :3]).all()
    for size in ((8, 5), (3, 3), (7, 20), (1, 1), (40, 3)):
        assert fit_to_size(image, size).shape == (*size, 3)
    steps = np.repeat(np.arange(0, 160, 10), 8)[None, :, None].repeat(96, 0).repeat(3, 2).astype(np.uint8)
    halved = fit_to_size(steps, (48, 32))  # half the size, then the middle half of its columns
    assert abs(halved[:, :, 0].astype(int) - np.repeat(np.arange(40, 120, 10), 4)).max() <= 6
    made = fourier_translate(picture((6, 6)), image, 0.2)
    assert (made == fourier_translate(picture((6, 6)), fit_to_size(image, (6, 6)), 0.2)).all()
