"""One field of nested frozen settings replaced, named by its dotted path."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from saot.recipes import replaced

T = TypeVar("T")


def with_changes(settings: T, changes: Mapping[str, Any], inner: str = "") -> T:
    """The settings with every change made; what is no field of theirs is one of their field `inner`."""
    own = {each.name for each in dataclasses.fields(settings)}  # type: ignore[arg-type]
    for path, value in changes.items():
        inside = inner and path.partition(".")[0] not in own
        settings = replaced(settings, f"{inner}.{path}" if inside else path, value)
    return settings
