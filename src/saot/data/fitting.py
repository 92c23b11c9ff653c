"""Some of a set's pictures; and those left out whose masks have another size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saot.data.datasets import ImageSet, LabelledSet

NAMED = 5  # pictures at most in one sentence


def restrict_images(images: ImageSet, chosen: Sequence[int]) -> ImageSet:
    """The chosen pictures of a set, in this order."""
    if list(chosen) == list(range(len(images))):
        return images
    return replace(
        images,
        keys=tuple(images.keys[number] for number in chosen),
        load=_at(images.load, chosen),
        fingerprint=_at(images.fingerprint, chosen),
        measure=None if images.measure is None else _at(images.measure, chosen),
        files=None if images.files is None else tuple(images.files[number] for number in chosen),
    )


def restrict_labelled(data: LabelledSet, chosen: Sequence[int]) -> LabelledSet:
    """The chosen pictures of a set with their masks, in this order."""
    if list(chosen) == list(range(len(data))):
        return data
    named = None if data.name_mask is None else _at(data.name_mask, chosen)
    measured = None if data.measure_mask is None else _at(data.measure_mask, chosen)
    return LabelledSet(restrict_images(data.images, chosen), _at(data.mask, chosen), named, measured)


def _at(function: Callable[[int], Any], chosen: Sequence[int]) -> Callable[[int], Any]:
    return lambda index: function(chosen[index])


@dataclass(frozen=True)
class Fitting:
    """A labelled set without the pictures whose masks have another size.

    Attributes:
        data: The others.
        left_out: Keys of those left out, and both sizes in words.
    """

    data: LabelledSet
    left_out: dict[str, str]

    @property
    def sentence(self) -> str:
        """What was left out; empty where nothing was."""
        told = _said(" left out", self.left_out, self.data.images.spec, len(self.left_out) + len(self.data))
        return f"{told}." if self.left_out else ""


def fitting(data: LabelledSet, strict: bool = False) -> Fitting:
    """The pictures whose masks have their size, as the heads of the files say; nothing is decoded.

    GTA5 as released has masks of other sizes than their pictures.

    Args:
        data: Pictures with masks.
        strict: Whether one that does not fit is an error.

    Raises:
        ValueError: If a file cannot be read, no mask fits, or one does not and `strict` is asked.
    """
    wrong = data.misfits()
    if not wrong:
        return Fitting(data, {})
    left_out = {data.keys[number]: words for number, words in wrong.items()}
    if strict or len(wrong) == len(data):
        told = _said("", left_out, data.images.spec, len(data))
        raise ValueError(f"{told}; give picture and mask the same size" + (", or leave --strict out" if strict else ""))
    rest = [number for number in range(len(data)) if number not in wrong]
    return Fitting(restrict_labelled(data, rest), left_out)


def _said(what: str, left_out: dict[str, str], spec: str, total: int) -> str:
    named = ", ".join(f"{key} ({words})" for key, words in list(left_out.items())[:NAMED])
    more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
    verb = "mask has" if len(left_out) == 1 else "masks have"
    return f"{len(left_out)} of {total} pictures of {spec}{what}: their {verb} another size: {named}{more}"
