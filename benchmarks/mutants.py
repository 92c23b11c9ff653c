"""Do the tests see the defining lines? Changed equations, one at a time, each beside the tests of its room.

    python benchmarks/mutants.py --out runs/mutants --sample 400 --seed 0 --workers 2

Every function of the rooms transport, transfer, match and adapt whose text names a numbered equation is listed
(--list). Of all small changes to them (a sign, a constant, a sum for a mean, source for target, a `detach` left out)
a seeded sample is drawn, and four larger ones are named below. Each is made in a copy of the package, and the tests of
its file, then those of its room, are run until one fails. Results are kept in mutants.jsonl; what is there already is
not run again. A survivor is no proof of a gap: it may mean the same. It is to be judged.
"""

import argparse
import ast
import copy
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("transport", "transfer", "match", "adapt")
LEFT_OUT = ("triton_kernels.py",)  # runs on a GPU
LIMIT = 1200  # seconds of one mutant's tests, twice what a room takes: longer is an endless loop, and killed
TIMEOUT = "timeout"  # in the place of the tests' names
SWAPS = [
    ("source", "target"),
    ("rows", "cols"),
    ("student", "teacher"),
    ("first", "second"),
    ("f", "g"),
    ("a", "b"),
    ("in_source", "in_target"),
    ("positives", "negatives"),
    ("translated", "source"),
]
CALLS = [("mean", "sum"), ("amax", "amin"), ("max", "min"), ("argmax", "argmin"), ("exp", "log"), ("sin", "cos")]
NAMED = [
    (
        "adapt/trainer.py",
        'batch.translated if recipe.queries == "pseudo_target" else batch.source',
        "batch.source",
        "queries come from the untranslated source",
    ),
    (
        "adapt/trainer.py",
        "source = self.teacher(batch.source, project=True).projected",
        "source = self.teacher(batch.translated, project=True).projected",
        "the teacher's keys come from the translated source",
    ),
    (
        "match/shape_of_you.py",
        "anchors = select_anchors(result.plan, in_source,",
        "anchors = select_anchors(_solve(semantic, settings).plan, in_source,",
        "anchors stay those of the first plan",
    ),
    (
        "tables/match/adapter_training.py",
        'if plan.labels == "nearest":',
        'if plan.labels in ("nearest", "fused"):',
        "the fused adapter is trained on nearest neighbours",
    ),
]


@dataclass(frozen=True)
class Mutant:
    """One change: file below `src/saot`, function, line, what is changed, and the number of the change in its file."""

    file: str
    function: str
    line: int
    change: str
    number: int


def main() -> None:
    options = _options()
    mutants = [*named(), *sampled(options.sample, options.seed)]
    if options.list:
        for name in sorted({f"{one.file}: {one.function}" for file in _files() for one, _ in changes(file)}):
            print(name)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "mutants.jsonl"
    done = {_key(row) for row in _rows(kept)}
    left = [(mutant, text_of(mutant)) for mutant in mutants if _key(asdict(mutant)) not in done]
    writing = Lock()

    def try_one(mutant: Mutant, text: str) -> None:
        began = time.monotonic()
        folder = free.get()
        try:
            killer = killed_by(mutant, text, options.tests, folder)
        finally:
            free.put(folder)
        row = {
            **asdict(mutant),
            "killed": killer is not None,
            "by": killer,
            "seconds": round(time.monotonic() - began, 1),
        }
        with writing, kept.open("a") as file:
            file.write(json.dumps(row) + "\n")
            state = "killed" if killer else "SURVIVES"
            print(f"{state} {mutant.file}:{mutant.line} {mutant.change}", flush=True)

    free: SimpleQueue[Path] = SimpleQueue()
    with ExitStack() as stack, ThreadPoolExecutor(options.workers) as pool:
        for _ in range(options.workers):
            free.put(stack.enter_context(copied_package(options.tests)))
        list(pool.map(lambda one: try_one(*one), left))
    print(report([row for row in _rows(kept) if _key(row) in {_key(asdict(one)) for one in mutants}]))


def report(rows: list[dict]) -> str:
    """Killed and all, by room, then the survivors."""
    lines = ["| room | mutants | killed | of them by the time limit alone |", "| --- | --- | --- | --- |"]
    for room in (*ROOMS, "tables", ""):
        mine = [row for row in rows if row["file"].startswith(f"{room}/" if room else "")]
        late = sum(row["by"] == TIMEOUT for row in mine)
        if mine or not room:
            lines.append(f"| {room or 'all'} | {len(mine)} | {sum(row['killed'] for row in mine)} | {late} |")
    left = [f"- {row['file']}:{row['line']} `{row['function']}`: {row['change']}" for row in rows if not row["killed"]]
    return "\n".join([*lines, "", *left])


def named() -> list[Mutant]:
    """The four changes with a name."""
    return [Mutant(file, "", 0, words, -1 - number) for number, (file, _, _, words) in enumerate(NAMED)]


def sampled(count: int, seed: int) -> list[Mutant]:
    """A seeded sample of all small changes to functions that carry an equation."""
    every = [one for file in _files() for one, _ in changes(file)]
    random.Random(seed).shuffle(every)
    return every[:count]


def _files() -> list[Path]:
    package = ROOT / "src" / "saot"
    return [p for room in ROOMS for p in sorted((package / room).rglob("*.py")) if p.name not in LEFT_OUT]


def changes(path: Path) -> Iterator[tuple[Mutant, str]]:
    """Every change of a file with the text of the whole file after it."""
    text = path.read_text()
    tree, file = ast.parse(text), path.relative_to(ROOT / "src" / "saot").as_posix()
    number = 0
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        if "Eq" not in (ast.get_source_segment(text, function) or ""):
            continue
        for node in _body(function):
            for old, new in _variants(node):
                changed = _replaced(text, node, new)
                if changed is not None:
                    yield (
                        Mutant(file, function.name, node.lineno, f"{old} -> {ast.unparse(new)}"[:120], number),
                        changed,
                    )
                    number += 1


def _body(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Expressions of a function without annotations, docstring and what inner functions with equations have."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Raise | ast.Assert):
            continue
        if isinstance(node, ast.expr):
            yield node
        skipped = {id(part) for part in (getattr(node, "annotation", None), getattr(node, "returns", None)) if part}
        stack += [child for child in ast.iter_child_nodes(node) if id(child) not in skipped]


def _variants(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """What an expression may be changed to."""
    other = copy.deepcopy(node)
    old = ast.unparse(node)
    match node:
        case ast.Constant(value=bool() as value):
            yield old, ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield old, ast.Constant(value + 1)
        case ast.Constant(value=float() as value):
            yield old, ast.Constant(value * 2 if value else 1.0)
        case ast.BinOp(op=op):
            swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
            if type(op) in swaps and not isinstance(node.left, ast.Constant | ast.JoinedStr):
                yield old, _with(other, op=swaps[type(op)]())
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield old, copy.deepcopy(operand)
        case ast.Compare(ops=[op]):
            swaps = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq}
            if type(op) in swaps:
                yield old, _with(other, ops=[swaps[type(op)]()])
        case ast.Call(func=ast.Attribute(value=value, attr="detach")):
            yield old, copy.deepcopy(value)
        case ast.Call(func=ast.Attribute(attr=name)):
            for pair in CALLS:
                if name in pair:
                    assert isinstance(other, ast.Call) and isinstance(other.func, ast.Attribute)
                    other.func.attr = pair[1 - pair.index(name)]
                    yield old, other
        case ast.Name(id=name, ctx=ast.Load()):
            for pair in SWAPS:
                if name in pair:
                    yield old, ast.Name(pair[1 - pair.index(name)], ast.Load())
        case ast.Attribute(attr=name, ctx=ast.Load()):
            for pair in SWAPS:
                if name in pair and len(name) > 1:
                    yield old, _with(other, attr=pair[1 - pair.index(name)])


def _with(node: ast.expr, **fields: object) -> ast.expr:
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def _replaced(text: str, node: ast.expr, new: ast.expr) -> str | None:
    """The file with an expression replaced, or None if that is no Python (as inside a formatted text)."""
    lines = text.splitlines(keepends=True)
    before = "".join(lines[: node.lineno - 1]) + lines[node.lineno - 1].encode()[: node.col_offset].decode()
    assert node.end_lineno is not None
    after = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode() + "".join(lines[node.end_lineno :])
    changed = f"{before}({ast.unparse(new)}){after}"
    try:
        return changed if ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)) else None
    except SyntaxError:
        return None


def text_of(mutant: Mutant) -> str:
    """The whole file after the change."""
    path = ROOT / "src" / "saot" / mutant.file
    if mutant.number >= 0:
        return _texts(path)[mutant.number]
    _, before, after, _ = NAMED[-1 - mutant.number]
    assert before in path.read_text(), f"{before!r} is no longer in {mutant.file}"
    return path.read_text().replace(before, after, 1)


@cache
def _texts(path: Path) -> dict[int, str]:
    return {one.number: text for one, text in changes(path)}


def killed_by(mutant: Mutant, text: str, tests: Path, folder: Path) -> str | None:
    """The test files that fail with this text of the file in the copy of the package; None if all pass."""
    changed, original = folder / "saot" / mutant.file, ROOT / "src" / "saot" / mutant.file
    changed.write_text(text)
    try:
        for group in tests_of(mutant.file, tests):
            passed = _passes(group, folder) if group else True
            if passed is None:
                return TIMEOUT
            if not passed:
                return " ".join(sorted(file.relative_to(tests).as_posix() for file in group))[:200]
    finally:
        shutil.copy2(original, changed)
    return None


@contextmanager
def copied_package(tests: Path) -> Iterator[Path]:
    """A folder with a copy of the package and its byte code, which is read and never written by what is tried in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "src" / "saot", folder / "saot", ignore=shutil.ignore_patterns("__pycache__"))
        _passes([tests / room for room in ROOMS], folder, "--collect-only")
        yield folder


def tests_of(file: str, tests: Path) -> list[list[Path]]:
    """The tests of a file: its own, then those of its room that name it or the room's functions."""
    room, stem = file.split("/")[0], Path(file).stem
    folder = tests.joinpath(*Path(file).parts[:-1])
    own = [path for path in [folder / f"test_{stem}.py"] if path.exists()]
    rest = sorted(path for path in (tests / room).rglob("test_*.py") if path not in own)
    return [own, rest]


def _passes(files: list[Path], folder: Path, *options: str) -> bool | None:
    """None if it takes too long. In a process of its own, forked from one that has loaded libraries, but not `saot`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision", "pytest", "numpy", "PIL.Image", "jaxtyping", "beartype"])
    process = context.Process(target=_test, args=(files, folder, options))
    process.start()
    process.join(LIMIT)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None
    return process.exitcode == 0


def _test(files: list[Path], folder: Path, options: tuple[str, ...]) -> None:
    import pytest  # here: the parent of all needs neither this nor torch
    import torch

    os.setsid()
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    sys.pycache_prefix, sys.dont_write_bytecode = str(folder / "bytecode"), not options
    os.environ.update(PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1")
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *options, *map(str, files)]))


def _key(row: dict) -> tuple:
    return row["file"], row["function"], row["line"], row["change"], row["number"]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mutants"))
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="changes tried at once, each by tests of one thread")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests", help="of another build, to compare with")
    parser.add_argument("--list", action="store_true", help="name the functions that carry an equation")
    return parser.parse_args()


if __name__ == "__main__":
    main()
