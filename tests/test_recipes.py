"""Fields replaced by path and by words, and what is said to differ from the paper, for any nested frozen dataclass."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from saot.recipes import BEST, PAPER, PRESETS, RecipeDifference, differences, preset, replaced, with_words


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b", 3] = "a"
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"expected a rate of 0 or more; got {self.rate}")


@dataclass(frozen=True)
class Middle:
    inner: Inner = field(default_factory=Inner)
    pair: tuple[int, int] | None = None


@dataclass(frozen=True)
class Outer:
    name: str = "outer"
    middle: Middle | None = field(default_factory=Middle)
    steps: int = 10
    on: bool = True


def test_one_field_is_replaced_and_the_others_stay():
    recipe = replaced(Outer(steps=7), "middle.inner.rate", 0.25)
    assert recipe == Outer(steps=7, middle=Middle(Inner(rate=0.25)))
    assert replaced(recipe, "middle.inner.rate", 0.5) == Outer(steps=7)
    assert replaced(recipe, "middle", None) == Outer(steps=7, middle=None)
    assert replaced(PAPER, "transport.tau", 1.0).transport.tau == 1.0 and PAPER.transport.tau == 0.3


@pytest.mark.parametrize(
    ("recipe", "path", "said"),
    [
        (Outer(), "midle.inner", "got midle.inner, but Outer knows name, middle, steps, on"),
        (Outer(), "middle.iner", "got middle.iner, but middle knows inner, pair"),
        (Outer(), "middle.inner.x", "got middle.inner.x, but middle.inner knows rate, kind, sizes"),
        (Outer(), "steps.x", "got steps.x, but steps is 10 and has no fields"),
        (Outer(middle=None), "middle.inner", "got middle.inner, but middle is null and has no fields"),
        (Outer(), "middle.inner.rate", "expected a rate of 0 or more; got -1"),
    ],
)
def test_a_field_that_is_not_there_is_told_with_those_that_are(recipe, path, said):
    with pytest.raises(ValueError, match=said):
        replaced(recipe, path, -1)


def test_words_are_read_by_the_declared_type_one_after_the_other():
    words = ["steps=20", "on=false", "middle.pair=[3, 4]", "middle.inner.kind=b", "middle.inner.sizes=[1,2,3]"]
    recipe = with_words(Outer(), [*words, "steps=30", "middle.inner.rate=1"])
    assert recipe == Outer("outer", Middle(Inner(1, "b", (1, 2, 3)), (3, 4)), 30, False)
    assert with_words(recipe, ["middle.inner.kind=3"]).middle.inner.kind == 3
    assert with_words(recipe, ["middle=null"]).middle is None and with_words(recipe, []) is recipe
    assert with_words(BEST, ["taught.rounds=1", "scores.logit_adjustment=[0, 0.5]"]).scores.logit_adjustment == (0, 0.5)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("steps", "expected --set PATH=VALUE"),
        ("name=x", "expected --preset for what decides several settings at once; got --set name=x"),
        ("method=x", "got method, but --set knows name, middle, steps, on"),
        ("steps=2.5", "a whole number for steps; got '2.5'"),
        ("steps=true", "a whole number for steps"),
        ("on=1", "true or false for on; got '1'"),
        ("middle=3", "a value for one of its fields: inner, pair; or null for middle"),
        ("middle.pair=[1]", "2 whole numbers in brackets, such as .512,512. or null for middle.pair"),
        ("middle.inner.kind=c", "one of a, b, 3 for middle.inner.kind; got 'c'"),
        ("middle.inner.rate=NaN", "a number for middle.inner.rate"),
        ("middle.inner.rate=-1", "--set middle.inner.rate=-1: expected a rate of 0 or more; got -1"),
    ],
)
def test_a_word_that_does_not_fit_is_refused(word, said):
    with pytest.raises(ValueError, match=said):
        with_words(Outer(), [word])


def test_differences_go_as_deep_as_the_recipe_does():
    used = Outer("mine", Middle(Inner(rate=1.0), (1, 2)), 20)
    assert differences(used, Outer(), {"steps": "time"}) == (
        RecipeDifference("middle.inner.rate", "0.5", "1.0", ""),
        RecipeDifference("middle.pair", "None", "(1, 2)", ""),
        RecipeDifference("steps", "10", "20", "time"),
    )
    assert [each.field for each in differences(Outer(middle=None), Outer())] == ["middle"]
    assert differences(used, used) == ()


@pytest.mark.parametrize("name", PRESETS)
def test_every_departure_of_a_preset_has_a_reason(name):
    assert all(each.reason for each in differences(preset(name)))
