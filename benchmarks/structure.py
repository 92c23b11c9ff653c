"""How the code is built: lines of each room, imports past a room's front, import circles, and settings handed back.

    python benchmarks/structure.py [--root CHECKOUT] [--start cli/jobs.py:run] [--json]

A room is a folder of src/saot, or a file that stands there alone. A *hand-back* is a call that gives the settings of a
run (`RunSettings`, its `Recipe`, or a value that holds one of them) to a file where they have been before and which
they have left. A call within one file is a return as well, and is counted apart. The calls are followed in the order in
which they are written, from the command line's `run`, each function once, branches one after the other; classes are
known by annotations. A part of the recipe alone (`recipe.decoder`) is no settings, and a function that is chosen while
the program runs is not followed.
"""

import argparse
import ast
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CORE = (
    *("__init__", "recipes", "transport", "data", "runs", "features", "evaluate", "transfer", "decoder", "certify"),
    *("report", "label"),
)
WINGS = ("scenes", "match", "adapt", "tables")
SETTINGS = ("RunSettings", "Recipe")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class File:
    """One file: its names, and what each imported name stands for, as (module, name or None)."""

    path: str
    module: str
    room: str
    lines: int
    tree: ast.Module
    defs: dict[str, Function | ast.ClassDef] = field(default_factory=dict)
    bound: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    imports: list[tuple[str, tuple[str, ...], bool, int]] = field(default_factory=list)  # last: at the top, line


def read(root: Path) -> dict[str, File]:
    """All files of the package by module."""
    package, files = root / "src" / "saot", {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        parts = ("saot", *inside.with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text()
        room = inside.parts[0].removesuffix(".py")
        files[module] = File(str(path.relative_to(root)), module, room, text.count("\n"), ast.parse(text))
    for file in files.values():
        for node in file.tree.body:
            if isinstance(node, Function | ast.ClassDef):
                file.defs[node.name] = node
        top = set(map(id, file.tree.body))
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    file.imports.append((alias.name, (), id(node) in top, node.lineno))
                    file.bound[alias.asname or alias.name.split(".")[0]] = (alias.name, None)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                if node.level:
                    base = file.module.split(".") + [""] * file.path.endswith("__init__.py")
                    module = ".".join([*base[: -node.level], *([module] if module else [])])
                names = tuple(alias.name for alias in node.names)
                file.imports.append((module, names, id(node) in top, node.lineno))
                for alias in node.names:
                    file.bound[alias.asname or alias.name] = (module, alias.name)
    return files


# ---- lines, imports, circles


def lines_of_rooms(files: dict[str, File]) -> dict[str, int]:
    """Lines of each room."""
    counts: Counter[str] = Counter()
    for file in files.values():
        counts[file.room] += file.lines
    return dict(counts)


def imported_files(files: dict[str, File], file: File, top_only: bool) -> Iterator[tuple[str, int]]:
    """Modules of the package that a file imports, with the line."""
    for module, names, top, line in file.imports:
        if top_only and not top:
            continue
        within = {f"{module}.{name}" for name in names} & set(files)
        others = set(names) - {one.rsplit(".", 1)[1] for one in within}
        yield from ((one, line) for one in sorted(within))
        if module in files and (others or not names):
            yield module, line


def across_rooms(files: dict[str, File]) -> tuple[int, list[str]]:
    """How many imports go to another room, and those that go past its `__init__`."""
    total, past = 0, []
    for file in files.values():
        for module, line in sorted(set(imported_files(files, file, False))):
            if files[module].room != file.room and module != "saot":
                total += 1
                if module.count(".") > 1:
                    past.append(f"{file.path}:{line} -> {module}")
    return total, past


def circles(files: dict[str, File], top_only: bool) -> list[list[str]]:
    """Files that import each other in a circle: strongly connected components of more than one (Tarjan)."""
    graph = {name: [m for m, _ in imported_files(files, file, top_only) if m != name] for name, file in files.items()}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in graph[name]:
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in number:
            visit(name)
    return found


# ---- the walk of the settings


@dataclass(frozen=True)
class Place:
    """A function or class, the file it stands in, and the class it belongs to."""

    file: File
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None = None

    @property
    def name(self) -> str:
        return f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name


Types = dict[str, Place]  # classes of a function's names, as far as they can be known


@dataclass
class Walk:
    """Follows the settings from call to call."""

    files: dict[str, File]
    steps: list[tuple[str, Place]] = field(default_factory=list)  # where the call stands, what it calls
    been: set[int] = field(default_factory=set)
    holders: set[str] = field(default_factory=lambda: set(SETTINGS))

    def __post_init__(self) -> None:
        """What has a field with the settings holds them, and so on."""
        fields = [
            (name, {part.id for part in named_in(line.annotation)})
            for file in self.files.values()
            for name, node in file.defs.items()
            if isinstance(node, ast.ClassDef)
            for line in node.body
            if isinstance(line, ast.AnnAssign)
        ]
        while more := {name for name, inside in fields if inside & self.holders} - self.holders:
            self.holders |= more

    def resolve(self, module: str, name: str | None) -> File | Place | None:
        """What a name of a module stands for, through every front that hands it on."""
        for _ in range(9):
            whole = module if name is None else f"{module}.{name}"
            if whole in self.files:
                return self.files[whole]
            file = self.files.get(module)
            if file is None or name is None:
                return None
            if name in file.defs:
                return Place(file, file.defs[name])
            if name not in file.bound:
                return None
            module, name = file.bound[name]
        return None

    def named(self, file: File, name: str) -> File | Place | None:
        if name in file.defs:
            return Place(file, file.defs[name])
        return self.resolve(*file.bound[name]) if name in file.bound else None

    def class_of(self, file: File, annotation: ast.expr | None) -> Place | None:
        """The class of the package that an annotation names first."""
        for part in named_in(annotation):
            found = self.named(file, part.id)
            if isinstance(found, Place) and isinstance(found.node, ast.ClassDef):
                return found
        return None

    def method(self, owner: Place, name: str) -> Place | None:
        assert isinstance(owner.node, ast.ClassDef)
        for part in owner.node.body:
            if isinstance(part, Function) and part.name == name:
                return Place(owner.file, part, owner.node)
        return None

    def type_of(self, value: ast.expr, file: File, types: Types) -> Place | None:
        """The class of a value: of a known name, of a field or property, of what a call returns."""
        if isinstance(value, ast.Name):
            return types.get(value.id)
        if isinstance(value, ast.Attribute):
            owner = self.type_of(value.value, file, types)
            for part in owner.node.body if owner else ():
                if isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == value.attr:
                    return self.class_of(owner.file, part.annotation)
                if isinstance(part, Function) and part.name == value.attr:
                    return self.class_of(owner.file, part.returns)
        if isinstance(value, ast.Call):
            if isinstance(value.func, ast.Name) and value.func.id == "replace" and value.args:
                return self.type_of(value.args[0], file, types)
            called = self.called(value.func, file, types)
            if called is not None and not isinstance(called.node, ast.ClassDef):
                return self.class_of(called.file, called.node.returns)
            return called
        return None

    def called(self, function: ast.expr, file: File, types: Types) -> Place | None:
        """The function or class that a call calls, if it stands in the package and can be known."""
        if isinstance(function, ast.Name):
            found = self.named(file, function.id)
            return found if isinstance(found, Place) else None
        if not isinstance(function, ast.Attribute):
            return None
        if isinstance(function.value, ast.Name):
            found = self.named(file, function.value.id)
            if isinstance(found, File):
                found = self.resolve(found.module, function.attr)
                return found if isinstance(found, Place) else None
            if isinstance(found, Place) and isinstance(found.node, ast.ClassDef):
                return self.method(found, function.attr)
        owner = self.type_of(function.value, file, types)
        return self.method(owner, function.attr) if owner is not None else None

    def follow(self, place: Place, given: Types) -> None:
        """Walk through a function, once; `given` are the classes of its arguments."""
        if isinstance(place.node, ast.ClassDef):
            made = self.method(place, "__init__") or self.method(place, "__post_init__")
            if made is None:
                return
            place = made
        node = place.node
        assert isinstance(node, Function)
        if id(node) in self.been:
            return
        self.been.add(id(node))
        types: Types = {}
        for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            found = self.class_of(place.file, one.annotation) or given.get(one.arg)
            if found is not None:
                types[one.arg] = found
        if place.owner is not None:
            types |= {name: Place(place.file, place.owner) for name in ("self", "cls")}
        for statement in node.body:
            self.go(statement, place.file, types)

    def go(self, node: ast.AST, file: File, types: Types) -> None:
        """Go through a statement or expression in the order in which it is worked out."""
        for part in ast.iter_child_nodes(node):
            self.go(part, file, types)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            to, value = node.targets[0], node.value
            pairs = (
                zip(to.elts, value.elts, strict=False)
                if isinstance(value, ast.Tuple) and isinstance(to, ast.Tuple)
                else [(to, value)]
            )
            learned = [(one, self.type_of(of, file, types)) for one, of in pairs]
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            learned = [(node.optional_vars, self.type_of(node.context_expr, file, types))]
        else:
            learned = []
        for name, found in learned:
            if isinstance(name, ast.Name) and found is not None:
                types[name.id] = found
        if isinstance(node, ast.Call):
            self.call(node, file, types)

    def call(self, node: ast.Call, file: File, types: Types) -> None:
        function, arguments = node.func, list(node.args)
        if isinstance(function, ast.Name) and function.id == "partial" and arguments:
            function, arguments = arguments[0], arguments[1:]
        place = self.called(function, file, types)
        classes = [self.type_of(value, file, types) for value in arguments]
        named = {word.arg: self.type_of(word.value, file, types) for word in node.keywords}
        if place is None or not any(one and one.node.name in self.holders for one in (*classes, *named.values())):
            return
        self.steps.append((f"{file.path}:{node.lineno}", place))
        made = self.method(place, "__init__") if isinstance(place.node, ast.ClassDef) else place
        names = [one.arg for one in (*made.node.args.posonlyargs, *made.node.args.args)] if made else []
        if names[:1] in (["self"], ["cls"]):
            names = names[1:]
        given = dict(zip(names, classes, strict=False)) | {str(word): one for word, one in named.items()}
        self.follow(place, {name: one for name, one in given.items() if one is not None})


def named_in(annotation: ast.expr | None) -> Iterator[ast.Name]:
    """Names in an annotation, but not what a function in it takes or gives."""
    if isinstance(annotation, ast.Name):
        yield annotation
    elif annotation is not None and not (
        isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Callable"
    ):
        for part in ast.iter_child_nodes(annotation):
            if isinstance(part, ast.expr):
                yield from named_in(part)


def hand_backs(walk: Walk, start: Place, by: str) -> tuple[int, list[str], list[str]]:
    """Moves between places; the calls that bring settings back to one that they had left; a place's calls of its own.

    The last hand nothing back: who calls a function beside itself has had the settings all along.
    """
    places = {file.path: file.room if by == "room" else file.path for file in walk.files.values()}
    here = places[start.file.path]
    seen, moves, back, own = {here}, 0, [], []
    for line, place in walk.steps:
        caller, to = places[line.rpartition(":")[0]], places[place.file.path]
        if to == here:
            continue
        moves += 1
        if to in seen:
            (own if to == caller else back).append(f"{line} -> {place.file.path} {place.name}")
        seen.add(to)
        here = to
    return moves, back, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--start", default="cli/jobs.py:run", help="FILE:FUNCTION below src/saot where the walk begins")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sys.setrecursionlimit(10_000)
    files = read(given.root.resolve())
    rooms = lines_of_rooms(files)
    total, past = across_rooms(files)
    file, function = given.start.split(":")
    first = files["saot." + file.removesuffix(".py").replace("/", ".")]
    start, walk = Place(first, first.defs[function]), Walk(files)
    walk.follow(start, {})
    by_room, by_file = (hand_backs(walk, start, by) for by in ("room", "file"))
    found = {
        "lines": rooms,
        "core": sum(count for room, count in rooms.items() if room in CORE),
        "wings": sum(count for room, count in rooms.items() if room in WINGS),
        "imports_across_rooms": total,
        "past_the_front": past,
        "circles": circles(files, False),
        "circles_at_the_top": circles(files, True),
        "calls_with_settings": len(walk.steps),
        "moves": {"rooms": by_room[0], "files": by_file[0]},
        "hand_backs": {"rooms": by_room[1], "files": by_file[1]},
        "own_calls": {"rooms": by_room[2], "files": by_file[2]},
    }
    print(json.dumps(found, indent=1) if given.json else page(found))


def page(found: dict) -> str:
    """The findings as text."""
    rooms, wings = found["lines"], [*WINGS, "cli"]
    others = [room for room in rooms if room not in CORE and room not in wings]
    lines = [f"{rooms[room]:>7}  {room}" for room in (*CORE, *wings, *others) if room in rooms]
    lines += [f"{found['core']:>7}  core: {', '.join(room for room in CORE if room in rooms)}"]
    lines += [f"{found['wings']:>7}  wings: {', '.join(room for room in WINGS if room in rooms)}"]
    lines += [f"{sum(rooms.values()):>7}  all", ""]
    past = found["past_the_front"]
    lines += [f"{found['imports_across_rooms']} imports across rooms, {len(past)} past a room's __init__", *past, ""]
    for what, name in (("circles", "anywhere"), ("circles_at_the_top", "at the top of files")):
        lines += [f"{len(found[what])} import circles, imports {name}", *map(", ".join, found[what]), ""]
    lines += [f"{found['calls_with_settings']} calls of `saot run` hand settings on"]
    for what in ("rooms", "files"):
        back, own = found["hand_backs"][what], found["own_calls"][what]
        lines += [
            f"between {what}: {found['moves'][what]} moves, {len(back) + len(own)} of them to where they have been: "
            f"{len(back)} handed back, {len(own)} calls of the caller's own"
        ]
    for what in ("rooms", "files"):
        lines += ["", f"handed back, by {what}:", *found["hand_backs"][what]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
