"""Does `converged` mean what it says? Random problems of every kind, each checked by a second solver.

    python benchmarks/transport/random_problems.py --out runs/random-problems --seed 0 --count 10000

writes one line of JSON a problem, goes on where it was stopped, and prints the table of docs/transport.md. It ends
with 1 if the solver broke its word once. The problems and the second solver are those of tests/helpers.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers.random_problems import Checked, as_json, check

from saot.transport import passes, updates

KINDS: dict[str, Callable[[Checked], bool]] = {
    "all": lambda one: True,
    "tau/epsilon below 8.5": lambda one: one.tau / one.epsilon < 8.5,
    "tau/epsilon from 8.5": lambda one: 8.5 <= one.tau / one.epsilon < math.inf,
    "balanced": lambda one: math.isinf(one.tau) and one.feasible,
    "balanced, without a plan": lambda one: math.isinf(one.tau) and not one.feasible,
    "epsilon below 1e-3": lambda one: one.epsilon < 1e-3,
    "epsilon from 1": lambda one: one.epsilon >= 1,
    "dense": lambda one: not one.sparse,
    "sparse": lambda one: one.sparse,
    "empty rows, zero weights": lambda one: one.holes,
    "mass ratio beyond 10": lambda one: not 0.1 <= one.mass_ratio <= 10,
    "constant beyond 10 scales": lambda one: abs(one.offset) > 10,
    "counting reference": lambda one: one.counting,
    "float32": lambda one: one.single,
    "float64": lambda one: not one.single,
}


def main() -> int:
    options = _options()
    kind = "" if options.how == "cold" else f"-{options.how}"
    kind += "-machine-code" if options.machine_code else ""
    path = options.out / f"seed-{options.seed}{kind}.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    done = {one.number: one for one in _read(path)}
    missing = [number for number in range(options.count) if number not in done]
    with ProcessPoolExecutor(options.workers, initializer=_prepare, initargs=(options.machine_code,)) as pool:
        found = pool.map(partial(check, options.seed, how=options.how), missing, chunksize=8)
        with path.open("a") as file:
            for one in tqdm(found, total=len(missing), disable=not missing):
                done[one.number] = one
                file.write(json.dumps(as_json(one)) + "\n")
                file.flush()
    checked = [done[number] for number in range(options.count)]
    print(table(checked))
    wrong = [one for one in checked if one.wrong]
    for one in wrong:
        print(f"wrong: {one}")
    return 1 if wrong else 0


def _prepare(machine_code: bool) -> None:
    """A process of one thread; with machine code for small problems too, which are torch's otherwise."""
    torch.set_num_threads(1)
    if machine_code:
        passes._LEAST = updates._MIN_PAIRS = 0
        if not passes.serves(torch.zeros(1)):
            raise ValueError("there is no machine code here; install numba, and torch as its wheels for Linux have it")


def table(checked: list[Checked]) -> str:
    """Markdown: for each kind, how many problems, and what the solver said of them."""
    lines = [
        "| kind | problems | converged | largest error | rounding | max_iter | no plan | out of range | wrong |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, belongs in KINDS.items():
        some = [one for one in checked if belongs(one)]
        sure = [one.error for one in some if one.converged and one.sure]
        counts = [
            sum(one.status == status for one in some) for status in ("ROUNDING", "MAX_ITER", "INFEASIBLE", "NON_FINITE")
        ]
        numbers = [len(some), sum(one.converged for one in some), f"{max(sure, default=0.0):.1e}", *counts]
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {sum(one.wrong for one in some)} |")
    unsure = sum(one.converged and not one.sure for one in checked)
    return "\n".join([*lines, "", f"Converged, but the second solver vouches for no plan: {unsure}."])


def _read(path: Path) -> Iterator[Checked]:
    """What an earlier run wrote; a line cut short by a kill is left out."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield Checked(**json.loads(line))
        except ValueError:
            continue


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the lines; the same one goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument(
        "--how",
        choices=("cold", "warm", "joined"),
        default="cold",
        help="warm: from the potentials of a problem like it; joined: as a member of a block diagonal",
    )
    parser.add_argument(
        "--machine-code",
        action="store_true",
        help="for supports in float32, however small",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
