"""Recipes as plain values and as words of a command line, by dotted paths."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

from saot.recipes.checked import described, fits, hints
from saot.recipes.parts import DecoderRecipe, Recipe, TransportRecipe

T = TypeVar("T")


OPTIONS = {"name": "--preset", "method": "--method"}  # fields that decide several settings at once


def as_dict(recipe: Any) -> dict[str, Any]:
    """A recipe as plain JSON values; infinity becomes the string "inf".

    A bridge, training of the network's last layers, grown points, a structure term, an approximate search and class
    groups that are off are left out: what it was like before there were any, so that older runs go on.

    Example:
        >>> from saot.recipes import BEST
        >>> pulled = with_words(BEST, ["bridge.weight=0.1", "transport.alpha=0.3"])
        >>> "bridge" in as_dict(BEST), as_dict(pulled)["bridge"]["weight"]
        (False, 0.1)
        >>> "alpha" in as_dict(BEST)["transport"], as_dict(pulled)["transport"]["alpha"]
        (False, 0.3)
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        if isinstance(value, float) and math.isinf(value):
            return "inf"
        return value

    values = plain(dataclasses.asdict(recipe))
    if isinstance(recipe, Recipe) and recipe.bridge.weight == 0:
        del values["bridge"]
    if isinstance(recipe, Recipe) and recipe.tail.steps == 0:
        del values["tail"]
    if isinstance(recipe, Recipe) and recipe.scores.decision == "likeliest":
        del values["scores"]["decision"]
    decoder = recipe.decoder if isinstance(recipe, Recipe) else recipe
    if isinstance(decoder, DecoderRecipe) and not decoder.grown_points:
        del (values if decoder is recipe else values["decoder"])["grown_points"]
    transport = recipe.transport if isinstance(recipe, Recipe) else recipe
    if isinstance(transport, TransportRecipe):
        inner = values if transport is recipe else values["transport"]
        off = ("alpha", "structure", "structure_steps") if transport.alpha == 0 else ()
        off += ("search", "recall", "clusters", "probes") if transport.search == "exact" else ()
        off += ("region_share",) if transport.search != "hierarchical" else ()
        for name in off:
            del inner[name]
    if isinstance(recipe, Recipe) and recipe.cost.groups == "one":
        del values["cost"]["groups"]
    return values


def from_dict(kind: type[T], values: Mapping[str, Any]) -> T:
    """The recipe behind its plain values; what is missing is as its class has it.

    Args:
        kind: Class of the recipe.
        values: Of `as_dict`.

    Raises:
        ValueError: If there is no such field, or a value is not of the declared type or out of its range.

    Example:
        >>> from saot.recipes import BEST
        >>> from_dict(Recipe, as_dict(BEST)) == BEST
        True
    """
    known, found = hints(kind), {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"expected settings of {kind.__name__}, {', '.join(known)}; got {name}")
        hint = known[name]
        if isinstance(value, Mapping):
            found[name] = from_dict(hint, value)
            continue
        plain = math.inf if value == "inf" and fits(math.inf, hint) else _plain(value)
        if not fits(plain, hint):
            raise ValueError(f"expected {described(hint)} for {name}; got {value!r}")
        found[name] = _as_declared(plain, hint)
    return kind(**found)


def replaced(recipe: T, path: str, value: Any) -> T:
    """The recipe with one field replaced, named by its dotted path.

    Args:
        recipe: A frozen dataclass, of any depth.
        path: Such as "transport.tau".
        value: What stands there from now on; its class checks it.

    Raises:
        ValueError: If there is no such field; it says which ones there are.

    Example:
        >>> from saot.recipes import PAPER
        >>> replaced(PAPER, "transport.k", 64).transport.k
        64
    """
    changed: Any = value
    for owner, name in reversed(_owners(recipe, path, type(recipe).__name__)):
        changed = dataclasses.replace(owner, **{name: changed})
    return changed


def with_words(recipe: T, changes: Sequence[str]) -> T:
    """The recipe with fields replaced as a command line spells them, one after the other.

    Args:
        recipe: A frozen dataclass, of any depth.
        changes: "PATH=VALUE" each; the value in JSON (`0.5`, `true`, `null`, `[512,512]`), `inf` or a bare word.

    Raises:
        ValueError: If a path is not known or a value is not of the declared type or out of its range.

    Example:
        >>> from saot.recipes import PAPER
        >>> with_words(PAPER, ["transport.tau=inf", "refine.pseudo=soft"]).transport.tau
        inf
    """
    for change in changes:
        path, equals, word = change.partition("=")
        if not equals:
            raise ValueError(f"expected --set PATH=VALUE, such as pull.weight=0.2; got {change!r}")
        if path in OPTIONS and hasattr(recipe, path):
            raise ValueError(f"expected {OPTIONS[path]} for what decides several settings at once; got --set {change}")
        hint = _declared(recipe, path, "--set")
        values = [_plain(value) for value in _readings(word) if fits(_plain(value), hint)]
        if not values:
            raise ValueError(f"expected {described(hint)} for {path}; got {word!r}")
        try:
            recipe = with_value(recipe, path, values[0])
        except ValueError as error:
            raise ValueError(f"--set {change}: {error}") from error
    return recipe


def with_value(recipe: T, path: str, value: Any) -> T:
    """The recipe with one field replaced by a value as JSON and TOML have it: lists are tuples, 1 is 1.0 of a number.

    Raises:
        ValueError: If the path is not known or the value is not of the declared type or out of its range.

    Example:
        >>> from saot.recipes import PAPER
        >>> with_value(PAPER, "decoder.mlp_widths", [1, 0.5]).decoder.mlp_widths
        (1.0, 0.5)
    """
    hint, plain = _declared(recipe, path, type(recipe).__name__), _plain(value)
    if not fits(plain, hint):
        raise ValueError(f"expected {described(hint)} for {path}; got {value!r}")
    return replaced(recipe, path, _as_declared(plain, hint))


def setting_paths(recipe: Any, before: str = "") -> dict[str, Any]:
    """Every setting by its dotted path, in reading order, without the name.

    Example:
        >>> from saot.recipes import PAPER
        >>> list(setting_paths(PAPER))[:3]
        ['transport.k', 'transport.cover', 'transport.epsilon']
    """
    found: dict[str, Any] = {}
    for each in dataclasses.fields(recipe):
        value, path = getattr(recipe, each.name), f"{before}{each.name}"
        if dataclasses.is_dataclass(value):
            found |= setting_paths(value, f"{path}.")
        elif path not in OPTIONS:
            found[path] = value
    return found


def _readings(word: str) -> list[Any]:
    """What a word may stand for, the likeliest first; itself if it is no value."""
    found: list[Any] = []
    for read in (json.loads, float):
        with contextlib.suppress(ValueError):
            found.append(read(word))
    return found or [word]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _declared(recipe: Any, path: str, top: str) -> Any:
    """The declared type of the field at a dotted path."""
    owner, name = _owners(recipe, path, top)[-1]
    return hints(type(owner))[name]


def _as_declared(value: Any, hint: Any) -> Any:
    """A whole number as the number that is declared, so that 1 and 1.0 are one setting."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _as_declared(value, inner[0])
    if origin is tuple:
        parts = inner[:1] * len(value) if inner[-1] is ... else inner
        return tuple(map(_as_declared, value, parts))
    return float(value) if hint is float else value


def _owners(recipe: Any, path: str, top: str) -> list[tuple[Any, str]]:
    """The values along a dotted path, each with the name of its field that the path goes on with."""
    found, before = [], ""
    for name in path.split("."):
        if not dataclasses.is_dataclass(recipe):
            what = "null" if recipe is None else repr(recipe)
            raise ValueError(f"expected a setting that exists; got {path}, but {before} is {what} and has no fields")
        known = [each.name for each in dataclasses.fields(recipe)]
        if name not in known:
            raise ValueError(
                f"expected a setting that exists; got {path}, but {before or top} knows {', '.join(known)}"
            )
        found.append((recipe, name))
        recipe, before = getattr(recipe, name), f"{before}.{name}".lstrip(".")
    return found
