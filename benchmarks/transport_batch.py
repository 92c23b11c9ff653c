"""Many small sparse problems solved together beside one after another, in one process, in turn.

    python benchmarks/transport_batch.py --problems 64 --tokens 500 --k 32

The same problems are solved as one block diagonal and by one call each, `--repeats` times in turn, so that whatever
else the machine does slows both. Prints the median of the ratios, the largest difference of a plan in L1 over its mass,
and the iterations of both. With `--gradient` each solve is followed by a backward pass.
"""

import argparse
import math
import statistics
import time
import warnings

import torch

from saot.transport import SparseCost, block_diagonal, solve_transport, split_result, topk_candidates


def problems(count, tokens, k):
    """Costs 2 - 2 cos on the k best pairs of random features in clusters."""
    found = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(8, 32, generator=generator)
        sides = [
            centres[torch.randint(8, (tokens,), generator=generator)] + torch.randn(tokens, 32, generator=generator)
            for _ in range(2)
        ]
        found.append(topk_candidates(*sides, k=k, cover=1).squared_euclidean_cost())
    return found


def timed(work):
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gradient", action="store_true")
    options = parser.parse_args()
    costs = problems(options.problems, options.tokens, options.k)
    warnings.filterwarnings("ignore", "transport ended")

    def together(tau):
        held = [SparseCost(c.values.clone().requires_grad_(options.gradient), c.support) for c in costs]
        result = solve_transport(block_diagonal(held), epsilon=options.epsilon, tau=tau)
        if options.gradient:
            result.plan_values.square().sum().backward()
        return split_result(result)

    def alone(tau):
        held = [SparseCost(c.values.clone().requires_grad_(options.gradient), c.support) for c in costs]
        results = [solve_transport(cost, epsilon=options.epsilon, tau=tau) for cost in held]
        if options.gradient:
            for result in results:
                result.plan_values.square().sum().backward()
        return results

    threads = torch.get_num_threads()
    print(f"{options.problems} problems of {options.tokens} tokens a side, k {options.k}, {threads} threads")
    for tau in (0.3, 3.0) if options.gradient else (0.3, 3.0, math.inf):
        ours, theirs = together(tau), alone(tau)
        rows = [
            [timed(lambda work=work, tau=tau: work(tau))[0] for work in (alone, together)]
            for _ in range(options.repeats)
        ]
        ratio = statistics.median(one / joint for one, joint in rows)
        seconds = [statistics.median(column) for column in zip(*rows, strict=True)]
        off = max(
            float((x.plan_values - y.plan_values).detach().abs().sum() / y.mass.detach())
            for x, y in zip(ours, theirs, strict=True)
        )
        iterations = [max(int(x.iterations) for x in some) for some in (theirs, ours)]
        print(
            f"tau {tau}: one after another {seconds[0]:.3f} s, together {seconds[1]:.3f} s, ratio {ratio:.1f}; plans "
            f"differ by {off:.1e}; iterations at most {iterations[0]} and {iterations[1]}"
        )


if __name__ == "__main__":
    main()
