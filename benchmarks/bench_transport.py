"""Our sparse unbalanced solver beside POT's dense one, one run, the same problem, alternating; ratios first.

    python benchmarks/bench_transport.py [--tokens 2592] [--repeats 5]

Both do 30 iterations in float32 on two feature sets with planted classes; ours on the 128 best pairs a source.
"""

import argparse
import time

import numpy as np
import ot
import torch

import saot


def planted(tokens: int, seed: int, dim: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(19, dim, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 19, (tokens,), generator=generator)
    noise = torch.randn(tokens, dim, generator=generator)
    return torch.nn.functional.normalize(centres[label] + 1.5 * noise, dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2592)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    source, target = planted(options.tokens, 1), planted(options.tokens, 2)
    support = saot.topk_support(source, target, k=128)
    sparse = saot.squared_euclidean_cost(source, target, support=support)
    dense = saot.squared_euclidean_cost(source, target).numpy()
    weights = np.full(options.tokens, 1 / options.tokens, dtype=np.float32)

    def ours() -> None:
        saot.solve_transport(sparse, max_iter=30, tol=0, gradient="none")

    def peer() -> None:
        ot.unbalanced.sinkhorn_unbalanced(
            weights, weights, dense, 0.1, 0.3, reg_type="kl", numItermax=30, stopThr=0.0, warn=False
        )

    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(options.repeats + 1):
        for name, solve in (("ours", ours), ("peer", peer)):
            began = time.perf_counter()
            solve()
            times[name].append(time.perf_counter() - began)
    best = {name: min(values[1:]) for name, values in times.items()}
    print(f"ratio POT {ot.__version__} / saot: {best['peer'] / best['ours']:.1f}")
    print(
        f"ours {1e3 * best['ours']:.1f} ms, POT (dense, numpy) {1e3 * best['peer']:.1f} ms; best of {options.repeats}"
    )
    print(f"n = m = {options.tokens}, k = 128, float32, 30 iterations, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
