"""What POT answers on a sparse support, BSP-OT on points, and ours beside them, against an exact linear program.

    python benchmarks/transport/sparse_peers.py [--points 1000] [--k 32] [--repeats 3]

One balanced problem: points in 8 dimensions, squared distances, each point's k nearest and one permutation, so that the
support has a plan. Each contender runs in a process of its own. `excess` is <plan, C> over the exact minimum, less 1;
`marginals` is the L1 distance of the plan's row and column sums from the weights; MiB are those of a call over what its
process held before. Needs POT and scipy, as the extra `test` has them. Let nothing else run on the machine meanwhile.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata

import numpy as np
import ot
import scipy.sparse as sp
import torch
from scipy.optimize import linprog
from scipy.spatial import cKDTree
from tables import number, table
from worker import memory_mib, reset_peak

from saot.transport import SparseCost, Support, solve_transport

DIM, RELATIVE_EPSILON = 8, (1e-1, 1e-2)  # of the mean cost of the support's pairs


def problem(points: int, k: int) -> tuple[np.ndarray, np.ndarray, sp.coo_array]:
    """Points (n, 8) of both sides and the cost on the support, in float64 and CSR order."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((points, DIM)), rng.standard_normal((points, DIM)) + 0.5
    near, back = cKDTree(y).query(x, k)[1], cKDTree(x).query(y, k)[1]
    every = np.repeat(np.arange(points), k)
    rows = np.concatenate([every, back.ravel(), np.arange(points)])
    cols = np.concatenate([near.ravel(), every, rng.permutation(points)])
    rows, cols = np.divmod(np.unique(rows * points + cols), points)
    return x, y, sp.coo_array((((x[rows] - y[cols]) ** 2).sum(1), (rows, cols)), shape=(points, points))


def exact(cost: sp.coo_array) -> float:
    """The minimum by HiGHS."""
    rows, cols = (sp.csr_array((np.ones(cost.nnz), (side, np.arange(cost.nnz)))) for side in (cost.row, cost.col))
    both = np.full(2 * cost.shape[0], 1 / cost.shape[0])
    return linprog(cost.data, A_eq=sp.vstack([rows, cols]), b_eq=both, method="highs").fun


def contenders(x: np.ndarray, y: np.ndarray, cost: sp.coo_array) -> dict[str, Callable[[], sp.coo_array]]:
    """Each gives a plan."""
    weights = np.full(len(x), 1 / len(x))
    pairs = np.stack([cost.row, cost.col])
    support = Support.from_pairs(*(torch.from_numpy(side) for side in pairs), cost.shape)

    def ours(share: float) -> Callable[[], sp.coo_array]:
        sparse = SparseCost(torch.from_numpy(cost.data), support)
        epsilon = share * float(cost.data.mean())

        def run() -> sp.coo_array:
            uniform = torch.from_numpy(weights)
            found = solve_transport(sparse, uniform, uniform, epsilon, float("inf"), max_iter=5000, gradient="none")
            return sp.coo_array((found.plan_values.numpy(), tuple(pairs)), shape=cost.shape)

        return run

    def bijection() -> sp.coo_array:
        _, perm, _ = ot.compute_bspot_bijection(x, y)
        return sp.coo_array((weights, (np.arange(len(x)), perm)), shape=cost.shape)

    return {
        "POT emd, sparse cost": lambda: ot.emd(weights, weights, cost, numItermax=10**7),
        "POT emd, dense cost, all pairs": lambda: sp.coo_array(ot.emd(weights, weights, ot.dist(x, y), 10**7)),
        "POT BSP-OT, all pairs, 64 plans": bijection,
        **{f"saot, balanced, epsilon {share:g} of the mean cost": ours(share) for share in RELATIVE_EPSILON},
    }


def measure(name: str, points: int, k: int, repeats: int) -> dict[str, float]:
    """Cost of its plan, distance of its marginals, best seconds, MiB."""
    x, y, cost = problem(points, k)
    run = contenders(x, y, cost)[name]
    contenders(*problem(50, 5))[name]()  # what is loaded by a first call
    reset_peak()
    before = memory_mib("VmRSS")
    plan, peak = run(), memory_mib("VmHWM")
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    away = sum(np.abs(np.asarray(plan.sum(axis)).ravel() - 1 / points).sum() for axis in (0, 1))
    value = float((((x[plan.row] - y[plan.col]) ** 2).sum(1) * plan.data).sum())
    return {"value": value, "marginals": float(away), "seconds": min(seconds), "mib": peak - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one contender, in this process
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps(measure(options.only, options.points, options.k, options.repeats)))
        return
    x, y, cost = problem(options.points, options.k)
    least, everywhere, rows = exact(cost), float(ot.emd2([], [], ot.dist(x, y), numItermax=10**7)), []
    for name in contenders(x, y, cost):
        given = ["--points", options.points, "--k", options.k, "--repeats", options.repeats, "--only", name]
        run = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, *map(str, given)], capture_output=True, text=True
        )
        if run.returncode:
            rows.append([name, "-", "-", "-", "-", f"not run: {run.stderr.splitlines()[-1][:120]}"])
            continue
        found = json.loads(run.stdout.splitlines()[-1])
        excess = found["value"] / (everywhere if "all pairs" in name else least) - 1
        numbers = [f"{excess:.1e}", f"{found['marginals']:.1e}", number(1e3 * found["seconds"]), number(found["mib"])]
        rows.append([name, *numbers])
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("POT", "torch", "scipy"))
    print(f"{options.points} points a side, {cost.nnz} pairs, float64; {versions}\n")
    print("\n".join(table(["contender", "excess", "marginals", "best ms", "extra MiB"], rows)))


if __name__ == "__main__":
    main()
