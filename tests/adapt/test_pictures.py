"""Batches: picture, translation and label of one window; drawn from seed, step and process alone; no target label."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers.adapt import labelled, mask_of, tiny_recipe, told_picture, training_pictures, unlabelled
from torch.testing import assert_close

from saot.adapt import pictures as module
from saot.adapt.pictures import check_sizes, own_step, resized, resized_mask
from saot.adapt.recipe import OptimizerRecipe, PicturesRecipe
from saot.adapt.sampling import RareClassSettings
from saot.adapt.translate import TranslatorSettings, fourier_translate, fourier_translate_batch
from saot.data import ImageSet, LabelledSet


def same(a, b) -> bool:
    parts = [(getattr(a, each.name), getattr(b, each.name)) for each in fields(a)]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in parts)


def place(crop: torch.Tensor) -> tuple[int, int, bool]:
    """Top, left and whether it is mirrored, as the colours of a source picture tell it."""
    flip = bool(crop[0, 0, 0] > crop[0, 0, -1])
    return int(crop[1, 0, 0]), int(crop[0].min()), flip


@pytest.mark.parametrize("kind", ["fda", "none", "colour-jitter"])
@pytest.mark.parametrize("rare", [None, RareClassSettings(min_pixels=20)])
def test_picture_and_label_agree_pixel_by_pixel(kind, rare):
    drawn = training_pictures(tiny_recipe(translator=TranslatorSettings(kind=kind), rare=rare))
    places = set()
    for step in range(8):
        batch = drawn.draw(step)
        assert batch.source.shape == (2, 3, 32, 32) and batch.labels.shape == (2, 32, 32)
        told = torch.where(batch.source[:, 2] == 200, 255, batch.source[:, 2] / 20)
        assert torch.equal(told.long(), batch.labels)
        for crop in batch.source:
            top, left, flip = place(crop)
            columns = torch.arange(left, left + 32).float()
            assert torch.equal(crop[0], (columns.flip(0) if flip else columns).expand(32, 32))
            assert torch.equal(crop[1], torch.arange(top, top + 32).float()[:, None].expand(32, 32))
            places.add((top, left, flip))
    assert {flip for *_, flip in places} == {False, True}
    assert len({top for top, *_ in places}) > 4 and len({left for _, left, _ in places}) > 4


@pytest.mark.parametrize("rare", [None, RareClassSettings(min_pixels=20)])
def test_no_picture_is_mirrored_where_none_is_wanted(rare):
    sizes = PicturesRecipe(source_size=None, target_size=None, crop=(32, 32), flip=0.0)
    drawn = training_pictures(tiny_recipe("source-only", pictures=sizes, rare=rare))
    assert not any(place(crop)[2] for step in range(8) for crop in drawn.draw(step).source)


def test_the_translation_is_the_window_of_the_translated_frame(monkeypatch):
    """The frame has the target's size, holds the window and falls anywhere around it (FACTS T-7)."""
    calls, real = [], module.translate

    def spied(source, target, settings, generator):
        calls.append((source, target))
        return real(source, target, settings, generator)

    monkeypatch.setattr(module, "translate", spied)
    settings = TranslatorSettings(beta=0.05)
    drawn = training_pictures(tiny_recipe(translator=settings, rare=None))
    margins, reds = set(), set()
    for step in range(6):
        calls.clear()
        batch = drawn.draw(step)
        for i, (frame, target) in enumerate(calls):
            assert frame.shape == target.shape == (3, 48, 80)  # the smaller of both, 56x112 and 48x80
            (top, left, flip), (frame_top, frame_left, mirrored) = place(batch.source[i]), place(frame)
            assert not mirrored
            down, across = top - frame_top, left - frame_left
            assert 0 <= down <= 48 - 32 and 0 <= across <= 80 - 32
            assert batch.translated is not None and batch.target is not None
            window = fourier_translate_batch(frame, target, 0.05)[:, down : down + 32, across : across + 32]
            assert torch.equal(batch.translated[i], window.flip(-1) if flip else window)
            whole = fourier_translate(*(x.permute(1, 2, 0).numpy().astype(np.uint8) for x in (frame, target)), 0.05)
            blue = torch.from_numpy(whole[down : down + 32, across : across + 32, 2])  # no frequency of it is empty
            assert_close(window[2], blue, rtol=0, atol=0.01)  # single precision
            assert not torch.equal(batch.translated[i], batch.source[i])
            assert batch.target[i, 0].unique() == target[0].unique()  # the batch's own target picture
            margins.add((down, across))
            reds.add(float(target[0, 0, 0]))
    assert len(margins) == 12 and reds == {40, 80, 120}


def test_a_frame_of_the_whole_picture_and_a_smaller_target():
    """A target that is smaller than the crop is scaled up to the frame."""
    recipe = tiny_recipe(pictures=PicturesRecipe(source_size=None, target_size=(40, 32), crop=(32, 32)), rare=None)
    batch = training_pictures(recipe, source=labelled(2, 32, 48)).draw(0)
    assert batch.translated is not None and batch.target is not None
    assert batch.translated.shape == batch.target.shape == (2, 3, 32, 32)
    assert bool((batch.translated >= 0).all()) and bool((batch.translated <= 255).all())


def test_no_translation_and_no_target_where_none_is_asked_for():
    batch = training_pictures(tiny_recipe("source-only")).draw(0)
    assert batch.translated is None and batch.target is None
    batch = training_pictures(tiny_recipe("dacs")).draw(0)
    assert batch.translated is None and batch.target is not None
    plain = training_pictures(tiny_recipe(translator=TranslatorSettings(kind="none"))).draw(0)
    assert plain.translated is not None
    assert_close(plain.translated, plain.source, rtol=0, atol=1e-4)  # by way of 0 to 1 and back


def test_domain_generalisation_never_opens_a_target_picture():
    def refuse(number):
        raise AssertionError("a target picture was opened")

    target = replace(unlabelled(), load=refuse)
    drawn = training_pictures(tiny_recipe("t2s-da-dg"), target=target)
    batch = drawn.draw(0)
    assert batch.target is None and batch.translated is not None
    assert not torch.equal(batch.translated, batch.source)
    with pytest.raises(AssertionError):
        training_pictures(tiny_recipe(), target=target).draw(0)


def test_the_target_has_no_labels_to_give():
    drawn = training_pictures(tiny_recipe())
    assert type(drawn.target) is ImageSet and not isinstance(drawn.target, LabelledSet)
    assert not hasattr(drawn.target, "mask")
    assert {each.name for each in fields(drawn.draw(0))} == {"source", "labels", "translated", "target"}


def test_a_batch_depends_on_seed_step_and_process_alone():
    recipe = tiny_recipe()
    drawn, other = training_pictures(recipe), training_pictures(recipe)
    first = {(step, process): drawn.draw(step, process) for step in range(3) for process in range(2)}
    torch.manual_seed(5)
    torch.rand(3)
    for step, process in ((2, 1), (0, 0), (1, 1), (1, 0), (2, 0), (0, 1)):  # in another order, from another start
        assert same(other.draw(step, process), first[step, process])
    batches = list(first.values())
    assert not any(same(a, b) for i, a in enumerate(batches) for b in batches[:i])
    assert not same(training_pictures(recipe, seed=1).draw(0), first[0, 0])
    assert len({own_step(step, process) for step in range(50) for process in range(50)}) == 2500


def test_rare_classes_are_shown_and_processes_draw_others():
    def mask(number):  # class 4 in one corner of picture 1 alone
        made = np.zeros((56, 112), np.uint8)
        made[:, 56:] = 1
        if number == 1:
            made[40:, 90:] = 4
        return made

    source = replace(labelled(), mask=mask)
    sizes = PicturesRecipe(source_size=None, target_size=None, crop=(32, 32), cat_max_ratio=1.0)
    rare, four = RareClassSettings(min_pixels=100), OptimizerRecipe(batch=4, steps=4)
    recipe = tiny_recipe("dacs", rare=rare, optimizer=four, pictures=sizes)
    drawn = training_pictures(recipe, source=source)
    shown = [bool((label == 4).sum() > 50) for step in range(4) for label in drawn.draw(step).labels]
    assert sum(shown) >= 12  # drawn for it nearly always; eleven windows are tried
    beside = training_pictures(replace(recipe, rare=replace(rare, temperature=10.0)), source=source)
    mine, yours = (
        [list(beside._sources(step, process, torch.Generator())) for step in range(4)] for process in range(2)
    )
    assert all(a != b for a, b in zip(mine, yours, strict=True))
    even = training_pictures(replace(recipe, rare=None), source=source)
    assert sum(bool((label == 4).any()) for step in range(4) for label in even.draw(step).labels) < 12


def test_pictures_and_masks_at_another_size():
    image, mask = told_picture(0, 40, 60), mask_of(0, 40, 60)
    assert resized(image, None) is image and resized_mask(mask, (40, 60)) is mask
    assert resized(image, (20, 30)).shape == (20, 30, 3)
    assert set(np.unique(resized_mask(mask, (17, 23)))) <= set(np.unique(mask))
    assert np.array_equal(resized_mask(mask, (80, 120)), np.repeat(np.repeat(mask, 2, 0), 2, 1))
    recipe = tiny_recipe("dacs", pictures=PicturesRecipe(source_size=(112, 224), target_size=(64, 64), crop=(64, 64)))
    batch = training_pictures(recipe).draw(0)
    assert batch.source.shape == (2, 3, 64, 64) and batch.target is not None
    near = (batch.source[:, 2] / 20 - batch.labels).abs() < 0.01
    assert float(near.float().mean()) > 0.6  # blurred at the edges of blocks, elsewhere the class


def test_what_cannot_be_trained_on_is_refused():
    with pytest.raises(ValueError, match="a set is empty"):
        training_pictures(tiny_recipe(), target=unlabelled(0))
    blank = replace(labelled(), mask=lambda n: np.full((56, 112), 255, np.uint8))
    with pytest.raises(ValueError, match="labelled pixels in made:source; every pixel is 255"):
        training_pictures(tiny_recipe(), source=blank)
    pixels = torch.ones(3, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="target pictures for the method t2s-da; got none: give --target"):
        module.TrainingPictures(labelled(), None, pixels, tiny_recipe(), 0)
    for source, target, who in (
        (labelled(2, 24, 112), unlabelled(), "source"),
        (labelled(), unlabelled(2, 80, 24), "t"),
    ):
        with pytest.raises(ValueError, match=rf"a crop of 32x32 does not fit pictures of .*0 of made:{who}"):
            training_pictures(tiny_recipe(), source=source, target=target)


def test_sizes_are_read_only_where_they_differ():
    def refuse(number):
        raise AssertionError("a picture was opened")

    pictures = replace(unlabelled(), load=refuse)
    check_sizes(pictures, (48, 80), (48, 80))
    with pytest.raises(ValueError, match=r"49x80 does not fit pictures of 48x80 .* made:target, brought to that size"):
        check_sizes(pictures, (48, 80), (49, 80))
    check_sizes(replace(pictures, measure=lambda n: (48, 80)), None, (48, 80))
    with pytest.raises(ValueError, match="2 of made:target"):
        check_sizes(replace(pictures, measure=lambda n: (48, 80 - n)), None, (48, 79))
