"""Warm starts beside cold ones, in one process, in turn: iterations and seconds.

    python benchmarks/warm_starts.py --tokens 60 --steps 50

1. A sequence of costs that changes a little from one problem to the next, dense and on a support.
2. GWOT between grids of `--tokens` x `--tokens`, `--steps` steps: its balanced form, whose steps are transport
   problems, and the paper's own (semi-relaxed), which solves none and differs by machine code alone.
3. A whole pseudo-label of Shape-of-You: cold with torch's operations, and warm with machine code.

What is compared stands in each line. Machine code is that of the extra `fast`; it is compiled before anything is
measured.
"""

import argparse
import contextlib
import statistics
import time
from dataclasses import replace

import torch
from bench_gwot import random_sides

from saot.match import machine_code
from saot.match.gwot import GwotSettings, solve_gwot
from saot.match.shape_of_you import ShapeOfYouSettings, pseudo_label, shape_of_you
from saot.transport import SparseCost, sinkhorn, solve_transport, topk_candidates


@contextlib.contextmanager
def iterations():
    """Counts those of all solves inside."""
    found, plain = [], sinkhorn.iterate

    def counting(*arguments):
        end = plain(*arguments)
        found.append(int(end.iterations.sum()))
        return end

    sinkhorn.iterate = counting
    try:
        yield found
    finally:
        sinkhorn.iterate = plain


@contextlib.contextmanager
def torch_alone():
    """As if the extra `fast` were not installed."""
    plain, machine_code._compiled = machine_code._compiled, lambda name: None
    try:
        yield
    finally:
        machine_code._compiled = plain


def run(work):
    """Seconds, iterations and the result."""
    with iterations() as found:
        started = time.perf_counter()
        result = work()
        return time.perf_counter() - started, sum(found), result


def compare(name, before, after, off, repeats):
    """One line: both in turn, `repeats` times; `off` tells how far two results are apart."""
    rows = [(run(before), run(after)) for _ in range(repeats)]
    seconds = [statistics.median(row[i][0] for row in rows) for i in (0, 1)]
    ratio = statistics.median(row[0][0] / row[1][0] for row in rows)
    (_, cold, one), (_, warm, other) = rows[0]
    print(
        f"{name}: iterations {cold} and {warm}; {seconds[0]:.3f} s and {seconds[1]:.3f} s, ratio {ratio:.2f}; "
        f"results differ by {off(one, other):.1e}",
        flush=True,
    )


def sequence(tokens, repeats):
    """Costs of twenty steps, each moved by a hundredth of epsilon at most."""
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(tokens, 64, generator=generator) for _ in range(2)]
    sparse = topk_candidates(*sides, k=64, cover=1).squared_euclidean_cost()
    dense = 1 - torch.nn.functional.normalize(sides[0]) @ torch.nn.functional.normalize(sides[1]).T
    for name, values, support in (("support, k 64", sparse.values, sparse.support), ("dense", dense, None)):
        drift = torch.rand(values.shape, generator=generator)
        costs = [values + 0.001 * step * drift for step in range(20)]
        costs = costs if support is None else [SparseCost(one, support) for one in costs]
        for tau in (0.3, 10.0):

            def solve(warm, costs=costs, tau=tau):
                init, plans = None, []
                for cost in costs:
                    result = solve_transport(cost, epsilon=0.1, tau=tau, gradient="none", init=init)
                    init = result.potentials if warm else None
                    plans.append(result.plan_values)
                return plans

            compare(
                f"sequence, {tokens} tokens, {name}, tau {tau}: cold, warm",
                lambda solve=solve: solve(False),
                lambda solve=solve: solve(True),
                lambda x, y: max(float((p - q).abs().sum() / p.sum()) for p, q in zip(x, y, strict=True)),
                repeats,
            )


def gwot(tokens, steps, repeats):
    generator = torch.Generator().manual_seed(0)
    side, cost = (tokens, tokens), torch.rand(1, tokens**2, tokens**2, generator=generator)

    def off(x, y):
        return float((x.plan - y.plan).abs().sum())

    plain = GwotSettings(steps=steps)
    solve_gwot(cost, side, side, replace(plain, steps=1))

    def before(settings):
        with torch_alone():
            return solve_gwot(cost, side, side, settings)

    compare(
        f"GWOT, semi-relaxed, {tokens} x {tokens}, {steps} steps: torch alone, machine code",
        lambda: before(plain),
        lambda: solve_gwot(cost, side, side, plain),
        off,
        repeats,
    )
    balanced = replace(plain, marginals="balanced")
    compare(
        f"GWOT, balanced, {tokens} x {tokens}, {steps} steps: cold and torch alone, warm and machine code",
        lambda: before(replace(balanced, warm=False)),
        lambda: solve_gwot(cost, side, side, balanced),
        off,
        repeats,
    )


def label(tokens, repeats):
    sides = random_sides(tokens)

    def work(settings):
        match = shape_of_you(*sides, settings)
        return match.plan, pseudo_label(match, settings)

    def before(settings):
        with torch_alone():
            return work(settings)

    warm = ShapeOfYouSettings()
    work(replace(warm, refinements=1))
    compare(
        f"Shape-of-You, {tokens} x {tokens}, a pseudo-label: cold and torch alone, warm and machine code",
        lambda: before(replace(warm, warm=False)),
        lambda: work(warm),
        lambda x, y: float((x[0] - y[0]).abs().sum() / x[0].sum()),
        repeats,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=60, help="of a grid's side")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("sequence", "gwot", "label"))
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    if options.only in (None, "sequence"):
        sequence(2000, options.repeats)
    if options.only in (None, "gwot"):
        gwot(options.tokens, options.steps, options.repeats)
    if options.only in (None, "label"):
        label(options.tokens, options.repeats)


if __name__ == "__main__":
    main()
