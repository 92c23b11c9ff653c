"""One field of nested frozen settings replaced, named by its dotted path."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def replaced(recipe: T, path: str, value: Any) -> T:
    """The settings with the field at `path` replaced.

    Raises:
        ValueError: If there is no such field; the message names those there are.

    Example:
        >>> from saot.recipes import PAPER
        >>> replaced(PAPER, "transport.k", 64).transport.k
        64
    """

    def walk(inner: Any, names: list[str], before: str) -> Any:
        if not hasattr(inner, "__dataclass_fields__"):
            raise ValueError(f"expected a setting that exists; got {path}, but {before} is {inner!r} and has no fields")
        known = [each.name for each in dataclasses.fields(inner)]
        if names[0] not in known:
            raise ValueError(f"expected a setting that exists; got {path}, but {before} knows {', '.join(known)}")
        new = walk(getattr(inner, names[0]), names[1:], names[0]) if len(names) > 1 else value
        return dataclasses.replace(inner, **{names[0]: new})

    return walk(recipe, path.split("."), type(recipe).__name__)


def with_changes(settings: T, changes: Mapping[str, Any], inner: str = "") -> T:
    """The settings with every change made; what is no field of theirs is one of their field `inner`."""
    own = {each.name for each in dataclasses.fields(settings)}  # type: ignore[arg-type]
    for path, value in changes.items():
        inside = inner and path.partition(".")[0] not in own
        settings = replaced(settings, f"{inner}.{path}" if inside else path, value)
    return settings
