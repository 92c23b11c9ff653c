"""Types of settings with their ranges: a value that does not fit is refused wherever a recipe is made."""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Range:
    """What a value of a declared type must be besides: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]
    infinite: bool = False  # infinity is a value, too


Count = Annotated[int, Range("of 1 or more", lambda value: value >= 1)]
Number = Annotated[int, Range("of 0 or more", lambda value: value >= 0)]
Weight = Annotated[float, Range("of 0 or more", lambda value: value >= 0)]
Positive = Annotated[float, Range("above 0", lambda value: value > 0)]
Share = Annotated[float, Range("from 0 to 1", lambda value: 0 <= value <= 1)]
Reached = Annotated[float, Range("above 0 and at most 1", lambda value: 0 < value <= 1)]
Dropped = Annotated[float, Range("of 0 or more and below 1", lambda value: 0 <= value < 1)]
Tau = Annotated[float, Range("above 0, or inf,", lambda value: value > 0, infinite=True)]
ClassTau = Annotated[float, Range("of 0 or more, or inf,", lambda value: value >= 0, infinite=True)]
SOME = Range("(at least one)", lambda values: len(values) > 0)


class Checked:
    """A part of a recipe: a value that is not of its field's type, or outside of its range, is refused."""

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            if not fits(getattr(self, name), hint):
                told = f"{type(self).__name__}.{name}"
                raise ValueError(f"expected {described(hint)} for {told}; got {getattr(self, name)!r}")


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """The declared type of each field of a dataclass, with its range."""
    return get_type_hints(kind, include_extras=True)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a declared type and in its range; a whole number is a number, true is neither."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        infinite = inner[1].infinite and type(value) is float and math.isinf(value)
        return (infinite or fits(value, inner[0])) and inner[1].holds(value)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin is tuple:
        parts = inner[:1] * len(value) if inner[-1] is ... and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if inner:
        return any(fits(value, each) for each in inner)
    if hint is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is hint and not dataclasses.is_dataclass(hint)


def described(hint: Any) -> str:
    """A declared type and its range in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{described(inner[0])} {inner[1].words}"
    if origin is Literal:
        return f"one of {', '.join(str(each) for each in inner)}"
    if origin is tuple:
        number, *ranges = get_args(inner[0]) or inner[:1]
        kind, example = ("whole numbers", "512") if number is int else ("numbers", "0.5")
        kind += "".join(f" {each.words}" for each in ranges)
        return f"{'' if inner[-1] is ... else '2 '}{kind} in brackets, such as [{example},{example}]"
    if inner:
        return " or ".join(described(each) for each in inner)
    if dataclasses.is_dataclass(hint):
        return "a value for one of its fields: " + ", ".join(each.name for each in dataclasses.fields(hint)) + ";"
    return {int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}.get(hint, "a word")
