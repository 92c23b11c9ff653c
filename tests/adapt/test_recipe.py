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
    recipe_differences,
    recipe_from_words,
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


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_the_paper_differs_in_nothing(method):
    assert recipe_differences(with_method(PAPER, method)) == ()


def test_differences_from_the_paper_have_a_reason():
    found = {each.field: (each.paper, each.used, each.reason) for each in recipe_differences(SMALL)}
    assert found["optimizer.steps"] == ("40000", str(SMALL.optimizer.steps), "time on two cores")
    assert found["pictures.crop"][:2] == ("(512, 512)", str(SMALL.pictures.crop))
    assert all(why for *_, why in found.values())
    assert "name" not in found and "method" not in found
    off = recipe_differences(replace(PAPER, mix=None, network=NetworkRecipe(projector_kernel=3)))
    assert [each.field for each in off] == ["network.projector_kernel", "mix"] and off[1].used == "None"


def test_words_become_a_recipe():
    recipe = recipe_from_words("paper", "dacs", "resnet-101", 400, "256x128", ["optimizer.betas=[0.8, 0.9]"])
    assert recipe.method == "dacs" and not recipe.pulls
    assert (recipe.network.encoder, recipe.network.head) == ("resnet-101", "deeplab-v2")
    assert (recipe.optimizer.steps, recipe.optimizer.warmup, recipe.optimizer.betas) == (400, 15, (0.8, 0.9))
    assert recipe.pictures.crop == (256, 128)
    assert recipe_from_words("paper", "t2s-da", None, None, None, []) == PAPER
    single = [
        "pull.weight=1", "translator.kind=blur", "mix=null", "self_training=false", "pictures.window=[64,64]",
        "pull.fixed_weights=[1,2.5]", "network.projector_kernel=3", "pictures.source_size=null",
    ]  # fmt: skip
    recipe = recipe_from_words("paper", "t2s-da", None, None, None, single)
    assert recipe.pull.weight == 1 and recipe.translator.kind == "blur" and recipe.mix is None
    assert not recipe.self_training and recipe.pictures.window == (64, 64) and recipe.pictures.source_size is None
    assert recipe.pull.fixed_weights == (1, 2.5) and recipe.network.projector_kernel == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("pull.weight", "--set PATH=VALUE, such as pull.weight=0.2; got 'pull.weight'"),
        ("pul.weight=1", "got pul.weight, but --set knows name, method, network"),
        ("pull.weigh=1", "got pull.weigh, but pull knows weight, settings"),
        ("pull.settings.tau=1", "but pull.settings knows loss, temperature"),
        ("pull.weight.x=1", "got pull.weight.x, but pull.weight is 0.1 and has no fields"),
        ("method=dacs", "expected --method for what decides several settings at once"),
        ("name=best", "expected --preset"),
        ("optimizer.steps=null", "a whole number for optimizer.steps; got 'null'"),
        ("optimizer.steps=2.5", "a whole number for optimizer.steps; got '2.5'"),
        ("optimizer.steps=true", "a whole number"),
        ("pull.weight=much", "a number for pull.weight; got 'much'"),
        ("pull.weight=NaN", "a number for pull.weight"),
        ("self_training=1", "true or false for self_training; got '1'"),
        ("network.encoder=5", "a word for network.encoder"),
        ("pull.queries=target", "one of pseudo_target, source for pull.queries; got 'target'"),
        ("network.projector_kernel=2", "one of 1, 3 for"),
        ("pictures.crop=64", "2 whole numbers in brackets"),
        ("pictures.crop=[64]", "2 whole numbers in brackets"),
        ("pictures.crop=[64,6.5]", "2 whole numbers in brackets"),
        ("pictures.window=all", "2 whole numbers in brackets, such as .512,512. or null for pictures.window"),
        ("mix=3", "a value for one of its fields: classes_of, .*or null for mix; got '3'"),
        ("pull={}", "a value for one of its fields: weight"),
        ("teacher.decay=2", "--set teacher.decay=2: expected decay and threshold between 0 and 1"),
        ("optimizer.batch=0", "--set optimizer.batch=0: expected steps, batch"),
    ],
)
def test_a_change_that_cannot_be_made_says_why(change, said):
    with pytest.raises(ValueError, match=said):
        recipe_from_words("small", "t2s-da", None, None, None, [change])


def test_changes_build_on_each_other():
    with pytest.raises(ValueError, match=r"got mix.classes_of, but mix is null and has no fields"):
        recipe_from_words("small", "t2s-da", None, None, None, ["mix=null", "mix.classes_of=picture"])
    with pytest.raises(ValueError, match="domain generalisation sees no target picture"):
        recipe_from_words("small", "t2s-da-dg", None, None, None, ["translator.kind=fda"])
    for words in (("smal", "t2s-da"), ("small", "t2s")):
        with pytest.raises(ValueError, match="expected one of the"):
            recipe_from_words(*words, None, None, None, [])
    for crop in ("64", "64xa", "64x0"):
        with pytest.raises(ValueError, match="HEIGHTxWIDTH"):
            recipe_from_words("small", "t2s-da", None, None, crop, [])
