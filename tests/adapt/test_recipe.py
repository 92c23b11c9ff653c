"""Presets and methods: which switches each turns, and what is said to differ from the paper."""

from dataclasses import replace

import pytest

from saot.adapt.recipe import (
    METHODS,
    PAPER,
    PRESETS,
    SMALL,
    AdaptRecipe,
    NetworkRecipe,
    OptimizerRecipe,
    PicturesRecipe,
    PullRecipe,
    adapt_preset,
    changed,
    recipe_differences,
    with_method,
)
from saot.adapt.translate import TranslatorSettings


def test_presets_by_name():
    assert list(PRESETS) == ["paper", "paper-cnn", "paper-hrda", "small"]
    assert all(adapt_preset(name).name == name for name in PRESETS)
    with pytest.raises(ValueError, match="one of the presets paper, paper-cnn, paper-hrda, small; got 'tiny'"):
        adapt_preset("tiny")


def test_the_papers_numbers():
    """T2S-DA, sec. 4 and supplement A; FACTS T-1 to T-8."""
    assert PAPER.optimizer == OptimizerRecipe(40_000, 2, 1, 6e-5, 10.0, (0.9, 0.999), 0.01, 1500, 1e-6, 1.0, "no", 0.0)
    assert PAPER.network.encoder == "mit-b5" and PAPER.network.head == "daformer"
    assert PAPER.pictures.source_size == (720, 1280) and PAPER.pictures.target_size == (512, 1024)
    assert PAPER.pictures.crop == (512, 512) and PAPER.pictures.flip == 0.5
    assert (PAPER.teacher.decay, PAPER.teacher.threshold) == (0.999, 0.968)
    assert (PAPER.pull.weight, PAPER.pull.settings.temperature, PAPER.pull.settings.unreliable) == (0.1, 0.2, 0.5)
    assert (PAPER.pull.settings.base_queries, PAPER.pull.settings.negatives) == (128, 1024)
    assert PAPER.feature_distance == 0.005 and PAPER.supervise == "source" and PAPER.translator.kind == "fda"
    assert PAPER.rare is not None and (PAPER.rare.temperature, PAPER.rare.min_pixels) == (0.01, 3000)
    cnn, hrda = adapt_preset("paper-cnn"), adapt_preset("paper-hrda")
    assert (cnn.network.encoder, cnn.network.head) == ("resnet-101", "deeplab-v2")
    assert hrda.network.two_scale and hrda.pictures.crop == (1024, 1024) and hrda.pictures.stride == (512, 512)
    assert hrda.rare is not None and hrda.rare.min_crop_ratio == 2.0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("method", "switches"),
    [  # self-training, pulls, target pictures, target features pulled, translation, feature distance, rare classes
        ("source-only", (False, False, False, False, False, False, False)),
        ("dacs", (True, False, True, False, False, True, True)),
        ("t2s-da", (True, True, True, True, True, True, True)),
        ("t2s-da-dg", (False, True, False, False, True, False, False)),
    ],
)
def test_the_switches_of_every_method(preset, method, switches):
    recipe = with_method(PRESETS[preset], method)
    found = (
        recipe.self_training,
        recipe.pulls,
        recipe.needs_target,
        recipe.pull_uses_target,
        recipe.translates,
        recipe.feature_distance > 0,
        recipe.rare is not None,
    )
    assert recipe.method == method and method in METHODS and found == switches
    assert recipe.network == PRESETS[preset].network and recipe.optimizer == PRESETS[preset].optimizer


def test_domain_generalisation_has_nothing_of_the_target():
    recipe = with_method(PAPER, "t2s-da-dg")
    assert recipe.translator.kind == "colour-jitter+blur"
    assert recipe.pull.reweight == "none" and recipe.pull.settings.negative_sampling == "source"
    for wrong in (
        {"self_training": True},
        {"translator": TranslatorSettings()},
        {"pull": replace(recipe.pull, positives="target")},
    ):
        with pytest.raises(ValueError, match="domain generalisation sees no target picture"):
            replace(recipe, **wrong)
    with pytest.raises(ValueError, match="source-only, dacs, t2s-da, t2s-da-dg; got 't2s'"):
        with_method(PAPER, "t2s")


@pytest.mark.parametrize(
    ("queries", "positives", "supervise", "weight", "translates"),
    [
        ("pseudo_target", "source", "source", 0.1, True),
        ("source", "source", "source", 0.1, False),
        ("source", "pseudo_target", "source", 0.1, True),
        ("source", "target", "source", 0.1, False),
        ("pseudo_target", "source", "source", 0.0, False),
        ("source", "source", "pseudo_target", 0.0, True),
    ],
)
def test_pictures_are_translated_only_where_a_loss_looks(queries, positives, supervise, weight, translates):
    recipe = replace(PAPER, pull=PullRecipe(weight, queries=queries, positives=positives), supervise=supervise)
    assert recipe.translates is translates


def test_fda_needs_a_target_even_where_nothing_else_does():
    source = replace(with_method(PAPER, "source-only"), supervise="pseudo_target")
    assert source.needs_target
    assert not replace(source, translator=TranslatorSettings(kind="blur")).needs_target


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptRecipe(optimizer=OptimizerRecipe(steps=0)),
        lambda: AdaptRecipe(optimizer=OptimizerRecipe(batch=0)),
        lambda: AdaptRecipe(optimizer=OptimizerRecipe(accumulate=0)),
        lambda: PicturesRecipe(crop=(0, 64)),
        lambda: PicturesRecipe(target_size=(64, -1)),
        lambda: PicturesRecipe(flip=1.5),
        lambda: PicturesRecipe(cat_max_ratio=0.0),
        lambda: PicturesRecipe(window=(64, 64), stride=(64, 65)),
    ],
)
def test_numbers_out_of_range(make):
    with pytest.raises(ValueError, match=r"expected .* came"):
        make()


FIXED = replace(PAPER, pull=PullRecipe(reweight="fixed", fixed_weights=(1.0, 2.0)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PullRecipe(weight=-0.1), "pull.weight of 0 or more; got -0.1"),
        (lambda: PullRecipe(fixed_weights=(0.0, 0.0)), "pull.fixed_weights of 0 or more, not all 0"),
        (lambda: AdaptRecipe(feature_distance=-1.0), "feature_distance of 0 or more"),
        (lambda: replace(PAPER, pictures=PicturesRecipe(crop=(128, 128))), "got 135 ignored rows of 128"),
        (lambda: PAPER.check_classes(3) or FIXED.check_classes(3), "a weight for each of 3 classes; got 2"),
    ],
)
def test_slips_are_told_before_anything_is_trained(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_source_pictures_are_scored_at_their_own_size():
    assert PAPER.pictures.of_source().target_size == (720, 1280) and PAPER.pictures.of_source().crop == (512, 512)


def test_one_field_is_replaced_and_the_others_stay():
    recipe = changed(PAPER, "pull.settings.negatives", 7)
    assert recipe.pull.settings.negatives == 7
    assert changed(recipe, "pull.settings.negatives", 1024) == PAPER
    with pytest.raises(ValueError, match=r"field of PullRecipe among weight, .*; got 'weigh'"):
        changed(PAPER, "pull.weigh", 1)
    with pytest.raises(ValueError, match="'classes_of' here: what it would belong to is None"):
        changed(replace(PAPER, mix=None), "mix.classes_of", "batch")
    with pytest.raises(ValueError, match="'x' here: what it would belong to is 0"):
        changed(PAPER, "pull.weight.x", 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_the_paper_differs_in_nothing(method):
    assert recipe_differences(with_method(PAPER, method)) == []


def test_differences_from_the_paper_have_a_reason():
    found = {path: (paper, used, why) for path, paper, used, why in recipe_differences(SMALL)}
    assert found["optimizer.steps"] == ("40000", str(SMALL.optimizer.steps), "time on two cores")
    assert found["pictures.crop"][:2] == ("(512, 512)", str(SMALL.pictures.crop))
    assert all(why for *_, why in found.values())
    assert "name" not in found and "method" not in found
    off = recipe_differences(replace(PAPER, mix=None, network=NetworkRecipe(projector_kernel=3)))
    assert [row[0] for row in off] == ["network.projector_kernel", "mix"] and off[1][2] == "None"
