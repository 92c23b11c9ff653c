"""A recipe of adaptation from what stands on a command line."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from saot.adapt.recipe import AdaptRecipe, adapt_preset, changed, with_method
from saot.label import parse_size


def recipe_from_words(
    preset: str, method: str, encoder: str | None, steps: int | None, crop: str | None, changes: Sequence[str]
) -> AdaptRecipe:
    """The preset with the method's switches, then single settings by their dotted paths.

    Raises:
        ValueError: If a name, a size or a path is not known, or a value does not fit.

    Example:
        >>> recipe = recipe_from_words("small", "t2s-da", None, 60, "128x128", ["pull.weight=0.2", "mix=null"])
        >>> recipe.optimizer.warmup, recipe.pictures.crop, recipe.pull.weight, recipe.mix
        (5, (128, 128), 0.2, None)
    """
    recipe = adapt_preset(preset)
    if encoder is not None:
        head = "deeplab-v2" if "resnet" in encoder else "daformer"
        recipe = replace(recipe, network=replace(recipe.network, encoder=encoder, head=head))
    if steps is not None:
        recipe = with_steps(recipe, steps)
    if crop is not None:
        size = parse_size(crop)
        if not isinstance(size, tuple):
            raise ValueError(f"expected --crop as HEIGHTxWIDTH in pixels; got {crop!r}")
        recipe = replace(recipe, pictures=replace(recipe.pictures, crop=size))
    recipe = with_method(recipe, method)
    for change in changes:
        recipe = _with_word(recipe, change)
    return recipe


def with_steps(recipe: AdaptRecipe, steps: int) -> AdaptRecipe:
    """The recipe with so many steps; the warm-up keeps its share of them."""
    warmup = round(recipe.optimizer.warmup * steps / recipe.optimizer.steps)
    return replace(recipe, optimizer=replace(recipe.optimizer, steps=steps, warmup=warmup))


def _with_word(recipe: AdaptRecipe, change: str) -> AdaptRecipe:
    path, equals, word = change.partition("=")
    if not equals:
        raise ValueError(f"expected --set PATH=VALUE, such as pull.weight=0.2; got {change!r}")
    if path in ("name", "method"):
        option = "--method" if path == "method" else "--preset"
        raise ValueError(f"expected {option} for what decides several settings at once; got --set {change}")
    hint = _hint(recipe, path)
    try:
        value: Any = json.loads(word)
    except json.JSONDecodeError:
        value = word
    if isinstance(value, list):
        value = tuple(value)
    if not _fits(value, hint):
        raise ValueError(f"expected {_described(hint)} for {path}; got {word!r}")
    try:
        return changed(recipe, path, value)
    except ValueError as error:
        raise ValueError(f"--set {change}: {error}") from error


def _hint(recipe: Any, path: str) -> Any:
    """The declared type of the field at a dotted path.

    Raises:
        ValueError: If there is no such field; it says which ones there are.
    """
    hint, before = None, ""
    for name in path.split("."):
        if not dataclasses.is_dataclass(recipe):
            what = "null" if recipe is None else repr(recipe)
            raise ValueError(f"expected a setting that exists; got {path}, but {before} is {what} and has no fields")
        known = [each.name for each in dataclasses.fields(recipe)]
        if name not in known:
            raise ValueError(
                f"expected a setting that exists; got {path}, but {before or '--set'} knows {', '.join(known)}"
            )
        hint, recipe = get_type_hints(type(recipe))[name], getattr(recipe, name)
        before = f"{before}.{name}".lstrip(".")
    return hint


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type; a whole number is a number, true is neither."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is tuple:
        parts = inner[:1] * len(value) if inner[-1] is ... and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if inner:
        return any(_fits(value, each) for each in inner)
    if hint is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is hint and not dataclasses.is_dataclass(hint)


def _described(hint: Any) -> str:
    """A declared type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(str(each) for each in inner)}"
    if origin is tuple:
        kind, example = ("whole numbers", "512") if inner[0] is int else ("numbers", "0.5")
        return f"{'' if inner[-1] is ... else '2 '}{kind} in brackets, such as [{example},{example}]"
    if inner:
        return " or ".join(_described(each) for each in inner)
    if dataclasses.is_dataclass(hint):
        return "a value for one of its fields: " + ", ".join(each.name for each in dataclasses.fields(hint)) + ";"
    return {int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}.get(hint, "a word")
