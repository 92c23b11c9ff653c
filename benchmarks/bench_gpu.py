"""Transport on a CUDA device, in one run: the solver's ways of summing, peers, a training step and GWOT; ratios first.

    python benchmarks/bench_gpu.py --out gpu.json
    python benchmarks/bench_gpu.py --sections sizes --sizes 2592:128 1000000:32 --repeats 9 --budget 3600

`sizes`: --iterations (30) in float32 without a tolerance, and the gradient of a weighting of the plan, four ways in
turn:

    fused    one launch an update: gather, log-sum-exp and relaxed marginal (what the solver chooses on a device)
    csr      the scaling form by torch's CSR products (cuSPARSE)
    triton   the log domain by a fused log-sum-exp, with torch's operations between
    torch    the log domain by index_select, segment_reduce and index_add

The support is synthetic: k random targets a source, some targets far more often than others, so rows are even and
columns ragged, and caches get no help from locality. `bound` is two passes an iteration over 8 bytes a pair at the
read bandwidth of memory, measured in the same run; pairs that stay in a cache can beat it. The scaling form also
waits for the device in each update, to see that its kernel is still exact; the single passes listed last have no
such waits.

`points`: clouds of unit vectors. Ours on each source's k nearest targets; flash-sinkhorn (TF32 on and off), POT and
OTT on all pairs. These are two problems. Errors are those to the float64 solution of a contender's own problem. A
peer that cannot run here says why.

`step`, `gwot`: a training step of Algorithm 1, and GWOT between pictures of 60x60 tokens.

Nothing is begun once --budget seconds have passed; what was left out is named. --out is written after each part.

    python benchmarks/bench_gpu.py --interpret-smoke

runs the same code on the CPU in Triton's interpreter at a tiny size. Its times mean nothing.

    python benchmarks/bench_gpu.py --job --device cuda [--source 1000 --target 1000]

runs the whole main job on random features of GTA5's sizes, with the memory of the device (`job_at_size.py`).
"""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "transport")]

SIZES = ("2592:128", "7200:64", "30000:64", "300000:32")
POINTS = ("30000:64", "2592:64")
STEPS = ("2592:128",)
SECTIONS = ("sizes", "gwot", "step", "points")


def main() -> int:
    if "--job" in sys.argv:
        from job_at_size import main as whole_job

        sys.argv.remove("--job")
        whole_job()
        return 0
    options = parsed()
    if options.interpret_smoke:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton's first import
        options.sizes, options.points, options.steps = ["12:3"], ["12:3"], ["40:4"]
        options.iterations, options.repeats, options.dim, options.step_dim, options.gwot = 3, 1, 16, 16, "4:2"
    elif not torch.cuda.is_available():
        print(
            "bench_gpu needs a CUDA device, but torch finds none here; --interpret-smoke runs without", file=sys.stderr
        )
        return 2
    device = torch.device("cpu") if options.interpret_smoke else torch.device("cuda", torch.cuda.current_device())
    from saot.transport.triton_kernels import has_triton

    if not has_triton(device):
        print(f"Triton does not serve {device} here; install a torch build that brings triton", file=sys.stderr)
        return 2
    results = run(options, device)
    from gpu.report import report

    if options.interpret_smoke:
        print("Smoke run in Triton's interpreter on the CPU: the times below mean nothing.\n")
    report(results)
    if options.out:
        print(f"\nevery number: {options.out}")
    return 1 if results["failed"] else 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="tokens:k")
    parser.add_argument("--points", nargs="+", default=list(POINTS), help="tokens:k of the clouds")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), help="tokens:k of the training step")
    parser.add_argument("--gwot", default="60:50", help="tokens along a side:steps")
    parser.add_argument("--dim", type=int, default=64, help="numbers a point of the clouds")
    parser.add_argument("--step-dim", type=int, default=1024, help="numbers a feature of the training step")
    parser.add_argument("--iterations", type=int, default=30, help="of each solve, but for GWOT")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--budget", type=float, default=420, help="seconds after which nothing more is begun")
    parser.add_argument("--out", type=Path, help="a JSON file for every number")
    parser.add_argument("--interpret-smoke", action="store_true", help="only see whether this script runs, on the CPU")
    return parser.parse_args()


def run(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All parts in turn; one that fails is named and does not stop the others."""
    from gpu.clock import Budget, Clock, bandwidths, machine
    from gpu.report import ratios

    clock, budget = Clock(device), Budget(options.budget)
    results: dict[str, Any] = machine(device)
    results["iterations"], results["repeats"] = options.iterations, options.repeats
    results["bandwidth_gb_per_s"] = bandwidths(clock, options.repeats, 2**16 if options.interpret_smoke else 2**28)
    results |= {name: [] for name in SECTIONS} | {"failed": {}, "left_out": budget.left_out}
    for section, name, work in parts(options, clock, results["bandwidth_gb_per_s"]["read"]):
        if budget.allows(name):
            try:
                results[section].append(work())
            except Exception as error:  # noqa: BLE001  of a peer, or of memory: the other parts go on
                traceback.print_exc()
                results["failed"][name] = f"{type(error).__name__}: {error}"
        results["ratios"], results["seconds"] = ratios(results), budget.spent
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    return results


def parts(options: argparse.Namespace, clock: Any, read: float) -> list[tuple[str, str, Callable[[], Any]]]:
    """Section, name and work of each part, those first that the others would leave no time for."""
    from gpu.points import points
    from gpu.sizes import race
    from gpu.tasks import gwot, step

    repeats, iterations, dim = options.repeats, options.iterations, options.dim
    made: dict[str, list[tuple[str, Callable[[], Any]]]] = {
        "sizes": [(size, lambda n, k: race(n, k, iterations, clock, repeats, read)) for size in options.sizes],
        "gwot": [(options.gwot, lambda side, steps: gwot(side, steps, clock, repeats))],
        "step": [
            (size, lambda n, k: step(n, k, options.step_dim, iterations, clock, repeats)) for size in options.steps
        ],
        "points": [(size, lambda n, k: points(n, k, dim, iterations, clock, repeats)) for size in options.points],
    }
    return [
        (section, f"{section} {size}", lambda work=work, size=size: work(*(int(part) for part in size.split(":"))))
        for section in SECTIONS
        if section in options.sections
        for size, work in made[section]
    ]


if __name__ == "__main__":
    sys.exit(main())
