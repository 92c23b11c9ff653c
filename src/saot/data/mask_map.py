"""What the numbers or colours of masks mean where they are no class indices: 0 and 255, RGB palettes."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8

from saot.data.classes import IGNORE_INDEX, MAX_CLASSES, ClassSet, folder_class_set
from saot.data.images import read_mask_colours
from saot.data.listing import read_text
from saot.data.readers import check_indices

Color = tuple[int, int, int]

BINARY = "0=background,255=foreground"
IGNORE = "ignore"  # what a value is called that stands for no class

FORMS = (
    "expected VALUE=CLASS with commas between them, such as 0=background,255=foreground or #000000=sky,#ff0000=road "
    "(`ignore` for no class, * for every other value), or binary, grey, or a file with a line for each"
)


@dataclass(frozen=True)
class MaskMap:
    """Which class a value in a mask stands for.

    Attributes:
        numbers: Value of one channel, or of all three where they are equal -> name of its class.
        colors: RGB -> name of its class.
        others: Name of the class of every other value; None refuses them.
    """

    numbers: Mapping[int, str] = field(default_factory=dict, hash=False)
    colors: Mapping[Color, str] = field(default_factory=dict, hash=False)
    others: str | None = None

    def __str__(self) -> str:
        """The map as `parse_mask_map` reads it."""
        if not self.numbers and not self.colors:
            return "grey"
        entries = [f"{value}={name}" for value, name in self.numbers.items()]
        entries += ["#{:02x}{:02x}{:02x}={}".format(*value, name) for value, name in self.colors.items()]
        return ",".join(entries + [f"*={self.others}"] * (self.others is not None))

    @property
    def names(self) -> tuple[str, ...]:
        """The classes it names, in order."""
        found = dict.fromkeys([*self.numbers.values(), *self.colors.values(), self.others or IGNORE])
        return tuple(name for name in found if name != IGNORE)

    def classes(self, known: ClassSet | None = None) -> ClassSet | None:
        """The classes of a folder, with the colours that the map gives them; None where neither names any.

        Args:
            known: Those of a `classes.txt`.

        Raises:
            ValueError: If the map names a class that is not among those known.
        """
        if known is None and not self.names:
            return None
        found = known or folder_class_set(self.names)
        own = {self._index(name, found.names): color for color, name in reversed(tuple(self.colors.items()))}
        return replace(found, colors=tuple(own.get(index, color) for index, color in enumerate(found.colors)))

    def read(self, path: Path, classes: ClassSet) -> UInt8[np.ndarray, "h w"]:
        """The class index of each pixel of a mask, 255 for ignore.

        Args:
            path: The mask.
            classes: Those that its indices stand for.

        Raises:
            ValueError: If the mask cannot be read, has a value that the map does not name, or the map names a class
                that is not there.
        """
        pixels, clear = self._values(path)
        if not self.numbers and not self.colors:
            return check_indices(np.where(clear, IGNORE_INDEX, pixels), classes, path)
        known = self._packed(classes.names)
        keys = np.array(sorted(known), np.int64)
        places = np.searchsorted(keys, pixels).clip(max=len(keys) - 1)
        indices = np.array([known[key] for key in keys.tolist()], np.uint8)[places]
        strange = (keys[places] != pixels) & ~clear
        if strange.any() and self.others is None:
            value = int(pixels[strange][0])
            told = f"colour #{value:06x}" if self.colors else f"value {value}"
            raise ValueError(
                f"mask {path} has the {told} in {int(strange.sum())} pixels, which --mask-map does not name: add it, "
                "or *=ignore for every other value"
            )
        indices[strange] = IGNORE_INDEX if self.others is None else self._index(self.others, classes.names)
        indices[clear] = IGNORE_INDEX
        return indices

    def _values(self, path: Path) -> tuple[Integer[np.ndarray, "h w"], np.ndarray]:
        """The value of each pixel, RGB as one number where the map has colours, and which are transparent."""
        found = read_mask_colours(path, palette=bool(self.colors)).astype(np.int64)
        if found.ndim == 2:
            return found * 0x010101 if self.colors else found, np.zeros(found.shape, bool)
        clear = found[..., 3] == 0 if found.shape[2] == 4 else np.zeros(found.shape[:2], bool)
        red, green, blue = (found[..., channel] for channel in range(3))
        if self.colors:
            return red << 16 | green << 8 | blue, clear
        coloured = ((red != green) | (red != blue)) & ~clear
        if coloured.any():
            y, x = (int(one[0]) for one in np.nonzero(coloured))
            raise ValueError(
                f"mask {path} has the colour #{red[y, x]:02x}{green[y, x]:02x}{blue[y, x]:02x} in "
                f"{int(coloured.sum())} pixels, but --mask-map {self} names numbers alone: give colours, such as "
                f"#{red[y, x]:02x}{green[y, x]:02x}{blue[y, x]:02x}=road"
            )
        return red, clear

    def _packed(self, names: Sequence[str]) -> dict[int, int]:
        """Value of a pixel, as `_values` gives it -> class index."""
        one = 0x010101 if self.colors else 1
        found = {value * one: self._index(name, names) for value, name in self.numbers.items()}
        return found | {r << 16 | g << 8 | b: self._index(name, names) for (r, g, b), name in self.colors.items()}

    def _index(self, name: str, names: Sequence[str]) -> int:
        if name == IGNORE:
            return IGNORE_INDEX
        if name in names:
            return list(names).index(name)
        if name.isdecimal() and int(name) < len(names):
            return int(name)
        raise ValueError(f"--mask-map names the class {name!r}, which is not among {', '.join(names)}; use one of them")


def parse_mask_map(text: str) -> MaskMap:
    """The map behind "0=background,255=foreground", "binary" (the same), "grey" (R = G = B is the index) or a file.

    A line of a file is `VALUE CLASS`, `R G B CLASS` or `CLASS R G B`, with spaces, tabs, commas, semicolons or "="
    between, as class lists of many data sets have it; a header without a number and lines with "//" are passed over.

    Raises:
        ValueError: If it is none of these, or gives a value two classes.

    Example:
        >>> parse_mask_map("binary").numbers
        {0: 'background', 255: 'foreground'}
        >>> str(parse_mask_map("#ff0000=road, 0 = sky, *=ignore"))
        '0=sky,#ff0000=road,*=ignore'
    """
    text = text.strip()
    if text in ("grey", "gray"):
        return MaskMap()
    if text == "binary":
        text = BINARY
    path = os.path.expanduser(text)
    from_file = os.path.isfile(path)  # Path.is_file raises OSError for a long map, Path.expanduser for ~nobody
    if "=" not in text and not from_file:
        raise ValueError(f"{FORMS}; got {text!r}, which is none of these")
    lines = _lines(Path(path)) if from_file else [part.strip() for part in text.split(",")]
    numbers: dict[int, str] = {}
    colors: dict[Color, str] = {}
    others: str | None = None
    for line in lines:
        value, name = _entry(line, text)
        name = IGNORE if name.lower() == IGNORE else name
        if isinstance(value, int):
            known = numbers.setdefault(value, name)
        elif isinstance(value, tuple):
            known = colors.setdefault(value, name)
        else:
            known = others = others or name
        if known != name:
            raise ValueError(f"expected one class for each value in --mask-map {text}; got {known!r} and {name!r}")
    found = MaskMap(numbers, colors, others)
    if len(found.names) > MAX_CLASSES or (not numbers and not colors):
        raise ValueError(f"{FORMS}; got {text!r}, which names {len(found.names)} classes")
    return found


def mask_map_of(text: str | None) -> MaskMap | None:
    """As `parse_mask_map`; None where masks hold class indices, so that there is no map."""
    return None if text is None else parse_mask_map(text)


def said_of_masks(text: str | None, *specs: str | None) -> str | None:
    """What a mask map says, read from its file if it is one, for a record; None where there is none.

    Args:
        text: As `parse_mask_map` takes it.
        specs: The data sets that it is for.

    Raises:
        ValueError: If it is no map, or none of the sets is a folder, whose masks alone it explains.

    Example:
        >>> said_of_masks("binary", "folder:a", None)
        '0=background,255=foreground'
    """
    if text is None:
        return None
    named = [spec for spec in specs if spec is not None]
    if not any(spec.startswith("folder:") for spec in named):
        raise ValueError(
            f"expected a mask map with a folder: set, whose masks it explains; got {', '.join(named)}, which know what "
            "their masks mean: leave it out"
        )
    return str(parse_mask_map(text))


def _lines(path: Path) -> list[str]:
    lines = [line.split("//")[0].strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line]
    return lines[1:] if lines and not re.search(r"\d|\*", lines[0]) else lines


BETWEEN = r"\s*[\s,;:=]\s*"


def _entry(line: str, text: str) -> tuple[int | Color | str, str]:
    """Value and name of one entry."""
    code = re.fullmatch(rf"#([0-9a-fA-F]{{6}}){BETWEEN}(.+)", line)
    if code is not None:
        red, green, blue = bytes.fromhex(code[1])
        return (red, green, blue), _name(code[2], text)
    first = re.fullmatch(rf"(\d+){BETWEEN}(\d+){BETWEEN}(\d+){BETWEEN}(.+)", line)
    last = re.fullmatch(rf"(.*\D.*?){BETWEEN}(\d+){BETWEEN}(\d+){BETWEEN}(\d+)", line)
    found = (first.groups()[:3], first[4]) if first else (last.groups()[1:], last[1]) if last else None
    if found is not None:
        color = tuple(int(channel) for channel in found[0])
        if max(color) > 255:
            raise ValueError(f"expected channels from 0 to 255 in --mask-map {text}; got {line!r}")
        return (color[0], color[1], color[2]), _name(found[1], text)
    number = re.fullmatch(rf"(\d{{1,5}}|\*){BETWEEN}(.+)", line)
    if number is None:
        raise ValueError(f"{FORMS}; got {line!r} in {text!r}")
    return number[1] if number[1] == "*" else int(number[1]), _name(number[2], text)


def _name(name: str, text: str) -> str:
    name = name.strip().strip("\"'").strip()
    if not name or re.search(r"[,=]", name):
        raise ValueError(f"expected the name of a class, without comma or '=', in --mask-map {text}; got {name!r}")
    return name
