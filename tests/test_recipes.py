"""Fields replaced by path and by words, and what is said to differ from the paper, for any nested frozen dataclass."""

import ast
import functools
import json
import math
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

import saot
from saot.recipes import (
    BEST,
    PAPER,
    PRESETS,
    RecipeDifference,
    TransportRecipe,
    as_dict,
    differences,
    preset,
    replaced,
    setting_paths,
    with_value,
    with_words,
)


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


def test_preset_paper_is_the_printed_paper_and_says_where_it_cannot_be():
    assert (PAPER.cost.reduction, PAPER.transport.reference, PAPER.baselines.nearest) == ("sum", "counting", "top1")
    (only,) = differences(PAPER)  # U^T V x does not fit the printed V
    assert (only.field, only.paper, only.used) == ("cost.head", "full", "shared") and "0.52M" in only.reason
    small = {each.field for each in differences(preset("paper-small"))}
    assert {"cost.reduction", "transport.reference", "baselines.nearest", "cost.head", "cost.steps"} <= small


@pytest.mark.parametrize("name", PRESETS)
def test_every_departure_of_a_preset_has_a_reason(name):
    assert all(each.reason for each in differences(preset(name)))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cost.steps=10.5", "expected a whole number of 0 or more for cost.steps; got '10.5'"),
        ("cost.steps=-1", "expected a whole number of 0 or more for cost.steps; got '-1'"),
        ("transport.k=0", "expected a whole number of 1 or more for transport.k; got '0'"),
        ("transport.epsilon=0", "expected a number above 0 for transport.epsilon; got '0'"),
        ("transport.epsilon=inf", "expected a number above 0 for transport.epsilon; got 'inf'"),
        ("transport.tau=-inf", "expected a number above 0, or inf, for transport.tau; got '-inf'"),
        ("transport.tau=nan", "expected a number above 0, or inf, for transport.tau; got 'nan'"),
        (
            "transport.search=best",
            "expected one of exact, fast, multiscale, faiss, hierarchical for transport.search; got 'best'",
        ),
        ("transport.recall=0", "expected a number above 0 and at most 1 for transport.recall; got '0'"),
        ("transport.recall=1.1", "expected a number above 0 and at most 1 for transport.recall; got '1.1'"),
        ("transport.clusters=12.5", "expected a whole number of 0 or more for transport.clusters; got '12.5'"),
        ("transport.probes=1.5", "expected a whole number of 0 or more for transport.probes; got '1.5'"),
        ("transport.probes=-1", "expected a whole number of 0 or more for transport.probes; got '-1'"),
        ("transport.alpha=-0.1", "expected a number of 0 or more for transport.alpha; got '-0.1'"),
        ("transport.alpha=inf", "expected a number of 0 or more for transport.alpha; got 'inf'"),
        ("transport.structure=depth", "expected one of grid, features for transport.structure; got 'depth'"),
        ("transport.structure_steps=2.5", "expected a whole number of 1 or more for transport.structure_steps"),
        ("taught.teachers=-1", "expected a whole number of 0 or more for taught.teachers; got '-1'"),
        ("decoder.dropout=1", "expected a number of 0 or more and below 1 for decoder.dropout; got '1'"),
        ("decoder.mlp_widths=[1, 0]", "expected 2 numbers above 0 in brackets, such as"),
        (
            "interventions.finetune_rates=[]",
            "expected numbers above 0 in brackets, .* for interventions.finetune_rates",
        ),
        ("bridge.beta=0.6", "expected a number from 0 to 0.5 for bridge.beta; got '0.6'"),
        ("cost.spectral_norm=1", "expected true or false for cost.spectral_norm; got '1'"),
    ],
)
def test_a_setting_of_the_main_job_is_refused_where_it_is_read(word, said):
    with pytest.raises(ValueError, match=said):
        with_words(BEST, [word])


@pytest.mark.parametrize(("path", "value"), [("k", 1.5), ("k", True), ("tau", "inf"), ("reference", "own")])
def test_a_value_of_another_type_is_refused(path, value):
    with pytest.raises(ValueError, match=rf"for transport\.{path}; got"):
        with_value(PAPER, f"transport.{path}", value)


def test_python_may_not_set_what_words_may_not():
    with pytest.raises(ValueError, match=r"expected a number above 0 for TransportRecipe\.epsilon; got -0\.1"):
        TransportRecipe(epsilon=-0.1)


def test_a_structure_term_or_search_that_is_off_is_as_if_there_were_none():
    """A folder made before there was one is still good."""
    off = with_words(BEST, ["transport.structure=features", "transport.structure_steps=3"])
    assert json.dumps(as_dict(off)) == json.dumps(as_dict(BEST))
    assert list(as_dict(PAPER.transport)) == ["k", "cover", "epsilon", "tau", "max_iter", "tol", "reference"]
    off = with_words(
        BEST,
        ["transport.recall=0.5", "transport.clusters=9", "transport.probes=2", "transport.region_share=0.5"],
    )
    assert json.dumps(as_dict(off)) == json.dumps(as_dict(BEST))
    searched = as_dict(with_words(BEST, ["transport.search=multiscale", "transport.probes=2"]))["transport"]
    assert list(searched)[-4:] == ["search", "recall", "clusters", "probes"] and searched["probes"] == 2
    regions = as_dict(with_words(BEST, ["transport.search=hierarchical", "transport.region_share=0.5"]))["transport"]
    assert regions["region_share"] == 0.5 and "region_share" not in searched
    assert "groups" not in as_dict(BEST)["cost"]
    assert as_dict(with_words(BEST, ["cost.groups=classes"]))["cost"]["groups"] == "classes"
    on = as_dict(with_words(BEST, ["transport.alpha=0.1"]))["transport"]
    assert (on["alpha"], on["structure"], on["structure_steps"]) == (0.1, "grid", 30)


def test_a_whole_number_is_the_number_that_is_declared():
    """So that 1 and 1.0 are one setting, and one run."""
    recipe = with_words(PAPER, ["transport.tau=1", "scores.logit_adjustment=[0, 1]", "cost.learning_rate=1e-3"])
    assert as_dict(recipe)["transport"]["tau"] == 1 and type(recipe.transport.tau) is float
    assert [type(value) for value in recipe.scores.logit_adjustment] == [float, float]
    assert with_words(PAPER, ["transport.tau=inf"]).transport.tau == math.inf == TransportRecipe(tau=math.inf).tau


def _changed(value, hint):
    """Another value of the type of a field, as a word."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return next(each for each in typing.get_args(hint) if each != value)
    if isinstance(value, bool):
        return "false" if value else "true"
    if isinstance(value, tuple):
        return json.dumps([each / 2 for each in value])
    return json.dumps(value + 1 if hint is int else value / 2 + 0.01)


@pytest.mark.parametrize("path", setting_paths(BEST))
def test_every_setting_can_be_set(path):
    part, name = path.split(".")
    owner = getattr(BEST, part)
    word = _changed(getattr(owner, name), typing.get_type_hints(type(owner), include_extras=True)[name])
    assert [each.field for each in differences(with_words(BEST, [f"{path}={word}"]), BEST)] == [path]


@functools.cache
def _reads(part: str) -> set[str]:
    """Names of attributes that files read which are given this part of a recipe, by its class or by its name."""
    kind, found = type(getattr(PAPER, part)).__name__, set()
    for path in Path(saot.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if not {"recipes", "presets"} & set(path.parts) and re.search(rf"\b{kind}\b|\.{part}\b", text):
            nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
            found |= {node.attr for node in nodes if isinstance(node.ctx, ast.Load)}
    return found


@pytest.mark.parametrize("path", setting_paths(PAPER))
def test_every_setting_is_read_somewhere(path):
    part, name = path.split(".")
    assert name in _reads(part), f"{path} changes nothing: remove it"


def test_a_setting_that_nothing_reads_would_be_found():
    assert "propagation_alpha" in _reads("baselines") and "propagation_alpha" not in _reads("bridge")


NOTES = (Path(__file__).parents[1] / "docs" / "paper-notes.md").read_text()
READINGS = [word for words in re.findall(r"`--set ([^`]+)`", NOTES) for word in words.split(" --set ")]


@pytest.mark.parametrize("word", READINGS)
def test_every_reading_of_the_paper_is_a_command(word):
    assert with_words(BEST, [word]) and with_words(PAPER, [word])


def test_the_notes_name_settings_that_exist():
    parts = {path.split(".")[0] for path in setting_paths(PAPER)}
    named = {name for name in re.findall(r"`(\w+\.\w+)", NOTES) if name.split(".")[0] in parts}
    assert len(READINGS) > 20 and named
    assert named <= set(setting_paths(PAPER)), named - set(setting_paths(PAPER))
    assert not re.findall(r"`\w+\.\w+=", NOTES), "a reading is written with --set"
