"""T(x^s) of each kind: what changes, what stays, where draws come from; FDA against Fourier sums by matrices."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.adapt.mixing import gaussian_blur, kernel_size
from saot.adapt.translate import (
    TranslatorSettings,
    fit_to_size,
    fourier_translate,
    fourier_translate_batch,
    simclr_jitter,
    translate,
    window_half_width,
)

ROUNDING = 2e-5  # of single precision at 255
KINDS = ("fda", "colour-jitter", "blur", "colour-jitter+blur", "none")


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int = 3, height: int = 30, width: int = 50) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width))).float()


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.2])
def test_fda_of_tensors_is_that_of_pictures(beta):
    source, target = picture(1), picture(2)
    made = translate(source, target, TranslatorSettings(beta=beta), dice())
    wanted = fourier_translate(*(x.permute(1, 2, 0).numpy().astype(np.uint8) for x in (source, target)), beta)
    assert_close(made, torch.from_numpy(wanted).permute(2, 0, 1), rtol=0, atol=2e-3)  # single precision of 0-255
    state = dice().get_state()
    generator = dice()
    translate(source, target, TranslatorSettings(beta=beta), generator)
    assert torch.equal(generator.get_state(), state)  # nothing is drawn


@pytest.mark.parametrize("kind", KINDS[1:])
def test_the_others_need_no_target_and_do_not_look_at_it(kind):
    settings = TranslatorSettings(kind=kind)
    made = translate(picture(), None, settings, dice(4))
    assert torch.equal(made, translate(picture(), picture(2), settings, dice(4)))
    assert made.shape == (3, 30, 50) and float(made.min()) >= 0 and float(made.max()) <= 255.001
    if kind == "none":
        assert_close(made, picture(), rtol=0, atol=1e-4)  # by way of 0 to 1
    else:
        assert not torch.equal(made, translate(picture(), None, settings, dice(5)))
        assert float((made - picture()).abs().mean()) > 1


def test_fda_without_a_target():
    with pytest.raises(ValueError, match=r"expected a target picture .* choose another translator"):
        translate(picture(), None, TranslatorSettings(), dice())


def test_blur_keeps_the_mean_and_takes_away_detail():
    settings = TranslatorSettings(kind="blur", sigma=(1.5, 1.5))
    made = translate(picture(), None, settings, dice())
    by_hand = gaussian_blur(picture() / 255, 1.5, (kernel_size(30, 0.1), kernel_size(50, 0.1))) * 255
    assert_close(made, by_hand)
    assert_close(made.mean(), picture().mean(), rtol=0.02, atol=0)
    assert float(made.std()) < 0.5 * float(picture().std())


def test_sigma_is_drawn_between_its_ends():
    settings = TranslatorSettings(kind="blur", sigma=(0.5, 2.0))
    share = float(torch.rand((), generator=dice(8)))
    by_hand = gaussian_blur(picture() / 255, 0.5 + 1.5 * share, (kernel_size(30, 0.1), kernel_size(50, 0.1))) * 255
    assert_close(translate(picture(), None, settings, dice(8)), by_hand)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_of_one_grey_only_the_brightness_changes(seed, strength):
    """Contrast moves away from the mean grey, saturation from each pixel's: nothing to move in a grey picture."""
    grey = torch.full((3, 4, 5), 0.3)
    move = (2 * float(torch.rand((), generator=dice(seed))) - 1) * 0.8 * strength
    assert_close(simclr_jitter(grey, strength, dice(seed)), grey * (1 + move), rtol=0, atol=1e-6)


def test_jitter_reaches_all_four_and_stays_in_range():
    image = picture() / 255
    made = [simclr_jitter(image, 1.0, dice(seed)) for seed in range(8)]
    assert all(float(each.min()) >= 0 and float(each.max()) <= 1 for each in made)
    weak = [simclr_jitter(image, 0.1, dice(seed)) for seed in range(8)]
    away, near = (sum(float((each - image).abs().mean()) for each in several) for several in (made, weak))
    assert near < 0.3 * away
    red = torch.tensor([0.8, 0.2, 0.2]).view(3, 1, 1).expand(3, 2, 2)
    hues = [simclr_jitter(red, 1.0, dice(seed)).argmax(0).unique().tolist() for seed in range(20)]
    assert [0] in hues and any(hue != [0] for hue in hues)  # turned by up to a fifth: red is not always largest


@pytest.mark.parametrize(
    "wrong", [{"beta": 0.6}, {"beta": -0.1}, {"strength": 2.0}, {"sigma": (0.0, 1.0)}, {"sigma": (2.0, 1.0)}]
)
def test_settings_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"expected beta between 0 and 0\.5"):
        TranslatorSettings(**wrong)


def raw_picture(size, low=60, high=190, seed=0):
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
    source, target = raw_picture(size), raw_picture(size, 0, 256, seed=1)
    made = fourier_translate(source, target, beta)
    assert made.dtype == np.float32 and made.shape == source.shape
    np.testing.assert_allclose(made, by_matrices(source, target, beta), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_batch_is_the_single_picture(beta):
    sources, targets = ([raw_picture((6, 9), seed=seed) for seed in seeds] for seeds in ((0, 1), (2, 3)))
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
    source = raw_picture((12, 17), 0, 256)
    np.testing.assert_allclose(fourier_translate(source, source, beta), source, rtol=0, atol=ROUNDING)


def test_beta_zero_moves_the_mean_colour_alone():
    source, target = raw_picture((11, 8), 90, 120), raw_picture((11, 8), 100, 170, seed=1)
    made = fourier_translate(source, target, beta=0.0)
    means = [each.reshape(-1, 3).mean(0, dtype=np.float64) for each in (source, target, made)]
    np.testing.assert_allclose(means[2], means[1], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(made - means[2], source - means[0], rtol=0, atol=ROUNDING)


def test_a_wider_window_comes_closer_to_the_target():
    source, target = raw_picture((16, 16)), raw_picture((16, 16), seed=5)
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
    assert (fourier_translate(raw_picture((8, 8)), light) == fourier_translate(raw_picture((8, 8)), light)).all()
    assert (fourier_translate(dark, light, 0.2) == 255).all()  # a black source has no phase; its angle counts as 0


def test_half_width_and_range():
    assert [window_half_width((512, 1024), beta) for beta in (0.01, 0.05, 0.09)] == [5, 25, 46]
    for beta in (-0.1, 0.51):
        with pytest.raises(ValueError, match="expected beta between 0"):
            fourier_translate(raw_picture((4, 4)), raw_picture((4, 4)), beta)


def test_another_size_is_scaled_to_cover_and_cut_at_the_centre():
    image = raw_picture((4, 10))
    assert fit_to_size(image, (4, 10)) is image
    assert (fit_to_size(image, (4, 6)) == image[:, 2:8]).all()  # covers already: only cut
    assert (fit_to_size(np.ascontiguousarray(image[:, :4]), (4, 3)) == image[:, :3]).all()
    for size in ((8, 5), (3, 3), (7, 20), (1, 1), (40, 3)):
        assert fit_to_size(image, size).shape == (*size, 3)
    steps = np.repeat(np.arange(0, 160, 10), 8)[None, :, None].repeat(96, 0).repeat(3, 2).astype(np.uint8)
    halved = fit_to_size(steps, (48, 32))  # half the size, then the middle half of its columns
    assert abs(halved[:, :, 0].astype(int) - np.repeat(np.arange(40, 120, 10), 4)).max() <= 6
    made = fourier_translate(raw_picture((6, 6)), image, 0.2)
    assert (made == fourier_translate(raw_picture((6, 6)), fit_to_size(image, (6, 6)), 0.2)).all()
