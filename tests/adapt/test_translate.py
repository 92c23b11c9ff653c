"""T(x^s) of each kind: what changes, what stays, and that every draw comes from the generator."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.adapt.fourier import fourier_translate
from saot.adapt.mixing import gaussian_blur, kernel_size
from saot.adapt.translate import TranslatorSettings, simclr_jitter, translate

KINDS = ("fda", "colour-jitter", "blur", "colour-jitter+blur", "none")


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int = 3, height: int = 30, width: int = 50) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width))).float()


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.2])
def test_fda_is_that_of_the_data_room(beta):
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
