"""GWOT with sums over disks beside the same descent with matrices, in one run.

    python benchmarks/bench_gwot.py --tokens 60 --steps 50 --out runs/bench-gwot.json

Both take the same steps on the same costs; the plans are compared. The matrix form computes C^p T C^q by products of
n x n with n x m with m x m, as Eq. (2) has it. Peak memory is measured in processes of their own. Nothing else may run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from saot.match.gwot import GwotSettings, solve_gwot
from saot.match.neighbours import LocalStructure
from saot.match.shape_of_you import ShapeOfYouSettings, pseudo_label, shape_of_you
from saot.match.sides import MatchSide


class Matrices(LocalStructure):
    """The same local structure by matrix products: the form that the paper's equation has."""

    def rows(self, plan, start, stop):
        near, far = self.held
        return (near @ plan.flatten(-3, -2) @ far).unflatten(-2, self.source)[..., start:stop, :, :]

    def blocks(self, plan):
        return [(0, self.source[0])]


def matrix_form(cost, side, settings):
    """`solve_gwot` with the products in place of the sums."""
    import saot.match.gwot as gwot

    held = LocalStructure(side, side, settings.near, settings.far, settings.centre).matrices()

    def local(*arguments):
        made = Matrices(*arguments)
        object.__setattr__(made, "held", held)
        return made

    plain, gwot.LocalStructure = gwot.LocalStructure, local
    try:
        return solve_gwot(cost, side, side, settings)
    finally:
        gwot.LocalStructure = plain


def timed(work, repeats):
    """Median seconds, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def peak(form, tokens):
    """Peak memory of a process of its own that solves for 3 steps, less that of one that only makes the cost, MiB."""
    found = []
    for steps in (0, 3):
        words = [sys.executable, __file__, "--peak", form, "--tokens", str(tokens), "--steps", str(steps)]
        said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found.append(float(said.strip().splitlines()[-1]))
    return found[1] - found[0]


def one_peak(form, tokens, steps):
    """Print the peak memory of this process, MiB."""
    cost = torch.rand(1, tokens**2, tokens**2)
    if steps:
        settings = GwotSettings(steps=steps)
        work = matrix_form if form == "matrices" else lambda c, s, g: solve_gwot(c, s, s, g)
        work(cost, (tokens, tokens), settings)
    # not ru_maxrss: a child begins with that of its parent
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def random_sides(tokens):
    """Two pictures of random features and places, tokens x tokens."""
    generator = torch.Generator().manual_seed(0)
    return [
        MatchSide.of(
            torch.randn(tokens**2, 256, generator=generator),
            (tokens, tokens),
            points=torch.randn(tokens**2, 3, generator=generator),
        )
        for _ in range(2)
    ]


def shape_seconds(tokens, repeats):
    """Seconds of a whole pseudo-label of Shape-of-You."""
    sides, settings = random_sides(tokens), ShapeOfYouSettings()
    return timed(lambda: pseudo_label(shape_of_you(*sides, settings), settings), repeats)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", choices=("disks", "matrices"))
    arguments = parser.parse_args()
    if arguments.peak:
        one_peak(arguments.peak, arguments.tokens, arguments.steps)
        return
    side, settings = (arguments.tokens,) * 2, GwotSettings(steps=arguments.steps)
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(1, arguments.tokens**2, arguments.tokens**2, generator=generator)
    ours, mine = timed(lambda: solve_gwot(cost, side, side, settings), arguments.repeats)
    few = GwotSettings(steps=max(2, arguments.steps // 10))
    theirs, _ = timed(lambda: matrix_form(cost, side, few), 1)
    theirs *= (arguments.steps + 1) / (few.steps + 1)
    same = matrix_form(cost, side, GwotSettings(steps=3)).plan, solve_gwot(cost, side, side, GwotSettings(steps=3)).plan
    small = (24, 24)
    batch = torch.rand(8, 576, 576, generator=generator)
    together, _ = timed(lambda: solve_gwot(batch, small, small, settings), arguments.repeats)
    alone, _ = timed(
        lambda: [solve_gwot(batch[i : i + 1], small, small, settings) for i in range(8)], arguments.repeats
    )
    plan = 4 * arguments.tokens**4 / 2**20
    result = {
        "tokens": arguments.tokens,
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "disks_seconds": ours,
        "matrices_seconds": theirs,
        "ratio": theirs / ours,
        "largest_difference_of_plans": float((same[0] - same[1]).abs().max() * arguments.tokens**2),
        "batch_of_8_seconds": together,
        "8_singles_seconds": alone,
        "plan_mib": plan,
        "disks_peak_in_plans": peak("disks", arguments.tokens) / plan,
        "matrices_peak_in_plans": peak("matrices", arguments.tokens) / plan,
        "shape_of_you_label_seconds": shape_seconds(arguments.tokens, arguments.repeats),
        "last_objective": float(mine.objective[-1]),
    }
    for name, value in result.items():
        print(f"{name:30} {value:.4g}" if isinstance(value, float) else f"{name:30} {value}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
