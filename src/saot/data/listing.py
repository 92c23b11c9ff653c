"""Finding the files of a data set: folders, list files, and pairs of picture and mask."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from saot.data.files import LARGEST_RECORD
from saot.data.images import SUFFIXES

Files = dict[str, Path]  # by key or stem, in the order of the data set


def walk(folder: Path, name: str, ending: str | None = None) -> Files:
    """Every picture file under `folder`, by its path relative to it, sorted; hidden files do not count."""
    if not folder.is_dir():
        raise ValueError(f"{name} expects the folder {folder}, which is missing; check the path and the split you gave")
    found = files_below(folder, ending)
    if not found:
        raise ValueError(f"{folder} holds no file *{ending or ' *'.join(SUFFIXES)}; {name} expects its files there")
    return found


def files_below(folder: Path, ending: str | tuple[str, ...] | None = None) -> Files:
    """Every picture file under `folder`, by its path relative to it, sorted; there may be none.

    Hidden files and folders do not count. Linked folders are followed, but not back to a folder that is above.

    Args:
        folder: One that exists.
        ending: Of the files' names, as it stands; or several, in lower case, of names in any case. What pictures end
            with unless given.

    Raises:
        OSError: If a folder may not be read.
    """
    found = {}
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [
            name for name in folders if not name.startswith(".") and not _leads_back(folder, Path(place, name))
        ]
        here = Path(place)
        before = "" if here == folder else f"{here.relative_to(folder).as_posix()}/"
        for file in files:
            wanted = (
                file.endswith(ending)
                if isinstance(ending, str)
                else os.path.splitext(file)[1].lower() in (ending or SUFFIXES)
            )
            if wanted and not file.startswith("."):
                found[before + file] = here / file
    return {key: found[key] for key in sorted(found)}


def _leads_back(top: Path, folder: Path) -> bool:
    """Whether a folder is, by way of a link, one of those between it and the top."""
    above = [one for one in folder.parents if one == top or top in one.parents]
    return os.path.realpath(folder) in {os.path.realpath(one) for one in above}


def _refuse(error: OSError) -> None:
    raise error  # os.walk would leave out a folder that may not be read


def stem_of(key: str) -> str:
    """A key without its suffix: "city/a.b.png" -> "city/a.b"."""
    if "./" in key or "//" in key or key.endswith(("/", ".")):  # not as `walk` makes it
        return PurePosixPath(key).with_suffix("").as_posix()
    end = key.rfind(".")  # a hundred thousand keys are a matter of seconds
    return key[:end] if end > key.rfind("/") + 1 else key


def by_stem(files: Files, folder: Path) -> Files:
    """The same files by name without suffix.

    Raises:
        ValueError: If two files share a stem.
    """
    stems: Files = {}
    for key, path in files.items():
        stem = stem_of(key)
        if stem in stems:
            other = stems[stem].name
            raise ValueError(f"{folder} has {other} and {path.name}: names must differ before the suffix; rename one")
        stems[stem] = path
    return stems


def pair(keys: dict[str, str], masks: Files, folder: Path, name: str) -> Files:
    """The mask of each key, `keys` being {stem: key}.

    Raises:
        ValueError: If a picture has no mask or a mask no picture.
    """
    without = [stem for stem in keys if stem not in masks]
    if without:
        raise ValueError(
            f"{name}: {len(without)} of {len(keys)} pictures have no mask, the first being "
            f"{keys[without[0]]}; put its mask into {folder} under the same name, or leave the picture out"
        )
    lonely = [stem for stem in masks if stem not in keys]
    if lonely:
        raise ValueError(
            f"{name}: {len(lonely)} of {len(masks)} masks have no picture, the first being "
            f"{masks[lonely[0]]}; add the picture of the same name, or leave the mask out"
        )
    return {key: masks[stem] for stem, key in keys.items()}


def pair_listed(pictures: Files, masks: Files, split: str | None, folder: Path, name: str) -> Files:
    """The mask of each picture; where a list has chosen the pictures, other masks may lie around."""
    keys = {stem_of(key): key for key in pictures}
    if split is not None:
        masks = {stem: path for stem, path in masks.items() if stem in keys}
    return pair(keys, masks, folder, name)


def select(files: Files, root: Path, split: str | None, name: str) -> Files:
    """All files, or those that the list `split` in `root` names, one a line, with or without suffix."""
    stems = by_stem(files, root)
    if split is None:
        return files
    keys = {stem_of(key): key for key in files}
    chosen: Files = {}
    for (line,) in columns(root / split, 1, 1):
        stem = line if line in stems else stem_of(line)
        if stem not in stems:
            raise ValueError(f"{name}: the list {root / split} names {line}, of which there is no picture")
        chosen[keys[stem]] = stems[stem]
    return chosen


def columns(path: Path, least: int, most: int) -> list[list[str]]:
    """The rows of a list file, split at white space; empty lines do not count.

    Raises:
        ValueError: If the file is missing or empty, a line has another number of columns, or repeats a first
            column.
    """
    if not path.is_file():
        raise ValueError(f"the list file {path} is missing; check SPLIT in NAME:PATH:SPLIT")
    rows: list[list[str]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        row = line.split()
        if not row:
            continue
        if not least <= len(row) <= most:
            wanted = "picture and mask" if most == 2 else "one name"
            raise ValueError(
                f"line {number} of {path} has {len(row)} columns, but {wanted} are expected: {line.strip()!r}"
            )
        if row[0] in seen:
            raise ValueError(f"line {number} of {path} names {row[0]} again, after line {seen[row[0]]}; remove one")
        seen[row[0]] = number
        rows.append(row)
    if not rows:
        raise ValueError(f"the list file {path} is empty; give one picture a line")
    return rows


def listed(path: Path, split: str | None) -> Path:
    """`path`, which a list names and which has to exist."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, though the list of split {split or 'train'} names it; check both")
    return path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; ValueError if it is something else, or longer than any list is."""
    if path.stat().st_size > LARGEST_RECORD:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, too many for a list of lines; check the path")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; save it as UTF-8") from error


def picture_finder(keys: Sequence[str], spec: str) -> Callable[[str, str], int]:
    """A look-up of pictures by key, path, file name or stem: (name, where it stands) -> index.

    Args:
        keys: Of the pictures, paths relative to their folder.
        spec: Names the data set in errors.

    Example:
        >>> find = picture_finder(["day/a.png", "day/b.png", "night/b.png"], "folder:mine")
        >>> find("a", "line 1"), find("elsewhere/night/b.png", "line 2")
        (0, 2)
    """
    by_name: dict[str, set[int]] = {}
    for index, key in enumerate(keys):
        for name in {stem_of(key), PurePosixPath(key).name, PurePosixPath(key).stem}:
            by_name.setdefault(name, set()).add(index)
    by_key = {key: index for index, key in enumerate(keys)}

    def of_path(name: str) -> list[int]:
        """A path that ends with a key, the longest; or the end of keys."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        for first in range(len(parts)):
            end = "/".join(parts[first:])
            if end in by_key:
                return [by_key[end]]
            if end in by_name and "/" in end:
                return sorted(by_name[end])
        if not parts or len(parts) == 1:
            return []
        ends = [index for key, index in by_key.items() if f"/{key}".endswith("/" + "/".join(parts))]
        return ends or [i for i in by_name.get(parts[-1], ()) if "/" not in keys[i]]

    def find(name: str, where: str) -> int:
        name = name.replace("\\", "/") if name not in by_key else name
        if name in by_key:
            return by_key[name]
        found = sorted(by_name.get(name, ())) or of_path(name)
        if not found:
            raise ValueError(
                f"{where}: there is no picture {name!r} in {spec}; its {len(keys)} pictures are named like {keys[0]!r}"
            )
        if len(found) > 1:
            raise ValueError(
                f"{where}: {len(found)} pictures are called {name!r}, such as {keys[found[0]]!r} and "
                f"{keys[found[1]]!r}; write the whole of one"
            )
        return found[0]

    return find
