"""Rare-class sampling: probabilities by loop, draws that hold what they promise and depend on seed and step alone."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from saot.adapt import sampling
from saot.adapt.crops import crop_together
from saot.adapt.sampling import RareClassSettings, class_probabilities, count_pixels, draw_rare, draw_rare_crop

PIXELS = torch.tensor([[9000, 100, 3500, 0], [8000, 3200, 3000, 0], [10, 0, 3001, 2900], [50000, 20, 0, 0]])
MILD = RareClassSettings(temperature=0.3)


def dice(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_counts_by_loop():
    rng = np.random.default_rng(0)
    masks = [rng.choice([0, 1, 2, 4, 255], size).astype(np.uint8) for size in ((3, 4), (7, 2), (1, 1))]
    found = count_pixels(masks, 5)
    for number, mask in enumerate(masks):
        assert found[number].tolist() == [int((mask == label).sum()) for label in range(5)]
    assert count_pixels([], 5).shape == (0, 5)
    assert count_pixels([np.full((2, 2), 255, np.uint16)], 3).tolist() == [[0, 0, 0]]
    for wrong in (5, 17, -1):
        with pytest.raises(ValueError, match=rf"mask number 1 has class {wrong}, but allowed are 0-4"):
            count_pixels([np.zeros((1, 1), np.int64), np.array([[0, wrong]])], 5)


@pytest.mark.parametrize("temperature", [0.01, 0.3, 5.0])
def test_probabilities_by_loop(temperature):
    found = class_probabilities(PIXELS, RareClassSettings(temperature=temperature))
    columns, total = PIXELS.T.tolist(), int(PIXELS.sum())
    weights = []
    for column in columns:
        enough = any(count > 3000 for count in column)
        weights.append(math.exp((1 - sum(column) / total - 1) / temperature) if enough else 0.0)
    assert_close(found, torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64))
    assert found[3] == 0  # 2900 pixels are too few
    assert found[1] > found[2] > found[0]  # the rarer, the likelier


def test_draws_by_frequency():
    chances = class_probabilities(PIXELS, MILD)
    draws = draw_rare(PIXELS, 4000, seed=1, step=0, settings=MILD)
    assert (PIXELS[draws.pictures, draws.classes] > 3000).all()
    shares = torch.bincount(draws.classes, minlength=4) / 4000
    assert_close(shares.double(), chances, rtol=0, atol=0.03)  # sd below 0.008
    mine = draws.pictures[draws.classes == 2]  # shown by pictures 0 and 2; 3000 in picture 1 are not more than 3000
    assert sorted(set(mine.tolist())) == [0, 2] and 0.4 < float((mine == 0).double().mean()) < 0.6


def test_a_draw_depends_on_seed_and_step_alone():
    first, again = (draw_rare(PIXELS, 8, 3, 17, MILD) for _ in range(2))
    torch.manual_seed(99)
    third = draw_rare(PIXELS, 8, 3, 17, MILD)
    assert torch.equal(first.pictures, again.pictures) and torch.equal(first.pictures, third.pictures)
    assert torch.equal(first.classes, third.classes)
    others = [draw_rare(PIXELS, 8, seed, step, MILD) for seed, step in ((3, 18), (4, 17))]
    assert all(not torch.equal(first.pictures, other.pictures) for other in others)
    assert draw_rare(PIXELS, 1, 0, 0).pictures.shape == (1,)


def test_nothing_to_draw_is_said():
    for pixels in (PIXELS[:0], torch.full((3, 2), 3000)):
        with pytest.raises(ValueError, match="no source picture has more than 3000 pixels of any class"):
            draw_rare(pixels, 1, 0, 0)
    with pytest.raises(ValueError, match="expected a temperature above 0"):
        RareClassSettings(temperature=0.0)


def test_crops_show_the_class():
    labels = torch.randint(3, (40, 60), generator=dice())
    labels[:12, :12] = 7  # 144 pixels of the rare class in a corner
    settings = RareClassSettings(min_pixels=40)
    shown = [
        int((crop_together(draw_rare_crop(labels, 7, (20, 20), dice(seed), settings), labels)[0] == 7).sum())
        for seed in range(60)
    ]
    plain = [
        int(
            (
                crop_together(
                    draw_rare_crop(labels, 7, (20, 20), dice(seed), RareClassSettings(min_crop_ratio=0)), labels
                )[0]
                == 7
            ).sum()
        )
        for seed in range(60)
    ]
    # a window meets the corner with probability near 1/10 and has eleven chances: 1 - 0.9^11 = 0.69
    assert sum(count > 20 for count in shown) > 30 > 2 * sum(count > 20 for count in plain)


@pytest.mark.parametrize(("ratio", "expected"), [(0.5, 11), (0.0, 1)])
def test_a_crop_is_drawn_anew_ten_times_at_most(monkeypatch, ratio, expected):
    calls, draw = [], sampling.draw_crop
    monkeypatch.setattr(sampling, "draw_crop", lambda *args: calls.append(args) or draw(*args))
    crop = draw_rare_crop(
        torch.zeros(4, 4, dtype=torch.long), 1, (2, 2), dice(), RareClassSettings(min_crop_ratio=ratio)
    )
    assert len(calls) == expected and (crop.height, crop.width) == (2, 2)


def test_more_than_half_of_the_threshold_is_enough(monkeypatch):
    calls, draw = [], sampling.draw_crop
    monkeypatch.setattr(sampling, "draw_crop", lambda *args: calls.append(args) or draw(*args))
    for pixels, expected in ((3, 1), (2, 11)):  # more than .5 * 4
        calls.clear()
        labels = torch.tensor([[1] * pixels + [0] * (6 - pixels)])
        draw_rare_crop(labels, 1, (1, 6), dice(), RareClassSettings(min_pixels=4))
        assert len(calls) == expected
