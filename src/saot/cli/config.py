"""Options of `saot run` from a TOML file and from the command line, and the file that says them all."""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saot.data import read_text
from saot.label import RunSettings
from saot.recipes import PAPER, preset, setting_paths, with_value, with_words

# options a file may have, in the order in which they are written
KINDS: dict[str, type] = {
    "source": str,
    "target": str,
    "eval": str,
    "out": str,
    "points": str,
    "start": str,
    "backbone": str,
    "weights": str,
    "size": str,
    "precision": str,
    "mask_map": str,
    "preset": str,
    "seed": int,
    "source_pictures": int,
    "target_pictures": int,
    "store": str,
    "store_form": str,
    "device": str,
    "compare": str,
    "strict": bool,
}
USUAL: dict[str, Any] = {
    "points": "0",
    "backbone": "dinov2-large",
    "preset": "best",
    "seed": 0,
    "device": "auto",
    "strict": False,
}
_OF_SETTINGS = [name for name in KINDS if name not in ("out", "preset", "store", "device", "compare", "strict")]


@dataclass(frozen=True)
class RunOptions:
    """All that `saot run` was asked for.

    Attributes:
        settings: Of the run.
        out: The run folder, if it was named.
        store: Of features, if it was named.
        device: Where networks and transport run.
        compare: What is trained beside the decoder, if it was said.
        strict: Whether a mask that has not the size of its picture is an error.
    """

    settings: RunSettings
    out: str | None
    store: str | None
    device: str
    compare: Any = None
    strict: bool = False

    @property
    def folder(self) -> Path:
        """The run folder.

        Raises:
            ValueError: If it was not named.
        """
        if self.out is None:
            raise ValueError("expected --out FOLDER for what the run leaves; none came, nor `out` in a --config file")
        return Path(self.out)

    def toml(self) -> str:
        """Everything as TOML: read again with `--config`, it asks for the same."""
        settings = self.settings
        options = {name: getattr(settings, name) for name in _OF_SETTINGS}
        options |= {"preset": settings.recipe.name}
        options |= {name: getattr(self, name) for name in ("out", "store", "device", "compare", "strict")}
        lines = [f"{name} = {_written(options[name])}" for name in KINDS if options[name] is not None]
        part = ""
        for path, value in setting_paths(settings.recipe).items():
            table, _, name = path.partition(".")
            if table != part:
                lines += ["", f"[{table}]"]
                part = table
            lines.append(f"{name} = {_written(value)}")
        return "\n".join(lines) + "\n"


def run_options(given: Mapping[str, Any], changes: Sequence[str] = (), config: Path | None = None) -> RunOptions:
    """What a command line and a file ask for together; where both speak, the command line is heard.

    Args:
        given: Options of the command line, None where one is not there.
        changes: "PATH=VALUE" of the recipe each, over those of the file.
        config: A TOML file with options at its top and settings of the recipe in tables.

    Raises:
        ValueError: If the file or an option is not as it should be, or source or target is missing.
    """
    options, fields = ({}, {}) if config is None else read_config(config)
    asked = options | {name: _plain(value) for name, value in given.items() if value is not None}
    options = USUAL | asked
    for name, what in (("source", "labelled pictures"), ("target", "pictures to label")):
        if name not in options:
            raise ValueError(f"expected --{name} SPEC, {what}; none came, nor `{name}` in a --config file")
    recipe = preset(options["preset"])
    if recipe.name == PAPER.name:
        options |= _of_the_paper(options, asked)
    for path, value in fields.items():
        recipe = with_value(recipe, path, value)
    settings = RunSettings(
        **{name: options[name] for name in _OF_SETTINGS if name in options}, recipe=with_words(recipe, changes)
    )
    outside: dict[str, Any] = {name: options.get(name) for name in ("out", "store", "device", "compare")}
    return RunOptions(settings, **outside, strict=options["strict"])


def _of_the_paper(options: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the paper's runs are asked beside their recipe, where the user says nothing."""
    from saot.tables import paper_request

    return paper_request(options["source"], options["target"], options["backbone"], options.get("weights"), asked)


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a TOML file, and settings of the recipe by dotted path: `[transport] k = 64`, or so in `[set]`.

    Raises:
        ValueError: If there is no such file, it is no TOML, or it has a key that is not known or not of its type.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise ValueError("it is no file")
        loaded = tomllib.loads(read_text(Path(path)))
    except OSError as error:
        raise ValueError(f"expected a TOML file for --config; {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected TOML in {path}; {error}") from error
    options: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    known = [*KINDS, *setting_paths(PAPER)]
    for key, value in _flat(loaded):
        name, inside = key.replace("-", "_"), key.removeprefix("set.")
        if name in KINDS:
            options[name] = _option(path, name, value)
        elif inside in known[len(KINDS) :]:
            fields[inside] = value
        else:
            near = difflib.get_close_matches(inside, known, 1, cutoff=0)[0]
            raise ValueError(
                f"expected options of saot run and settings of its recipe in {path}; got {key}: the nearest is {near}"
            )
    return options, fields


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with its dotted key."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _option(path: Path, name: str, value: Any) -> str | int | bool:
    """The value of an option; a whole number may stand for a word, as in `points = 20`."""
    if type(value) is int and KINDS[name] is str:
        return str(value)
    if type(value) is not KINDS[name]:
        what = {int: "a whole number", bool: "true or false", str: "a text in quotes"}[KINDS[name]]
        raise ValueError(f"expected {what} for {name} in {path}; got {value!r}")
    return value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _written(value: Any) -> str:
    """A value in TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(_written, value))}]" if isinstance(value, tuple) else repr(value)
