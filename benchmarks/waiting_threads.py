"""What waiting threads cost: products of torch's threads, alone and beside a busy process on every core.

    python benchmarks/waiting_threads.py

Prints milliseconds of a product of matrices, of a sparse matrix with a vector, of an exponential and of a decoder's
training step, as OpenMP does by itself (its waiting threads spin), with OMP_WAIT_POLICY=passive (they sleep) and as
`saot` sets it (they spin a little, GOMP_SPINCOUNT=2000), medians of `REPEATS` processes each.
Alone means before all others: the measuring threads have real-time priority for that half second, which needs root;
without it, see to it that nothing else runs.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

REPEATS, CALLS = 5, 150
SLEEPING = {"OMP_WAIT_POLICY": "passive"}
POLICIES = {"spinning": {}, "sleeping": SLEEPING, "as saot": {**SLEEPING, "GOMP_SPINCOUNT": "2000"}}
NAMES = ("product", "sparse product", "exponential", "training step")


def measure(first: bool) -> list[float]:
    """Milliseconds of each operation, in this process; `first` goes before all others."""
    import torch

    if first:  # threads of torch start with the first work below, and are as this one
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))
    rows, each = 4_000, 64
    matrix, numbers, vector = torch.randn(256, 256), torch.rand(200_000), torch.rand(rows, 1)
    starts = torch.arange(0, rows * each + 1, each)
    sparse = torch.sparse_csr_tensor(starts, torch.randint(0, rows, (rows * each,)), torch.rand(rows * each))
    found = []
    operations = (lambda: matrix @ matrix, lambda: sparse @ vector, numbers.exp)
    for work, calls in (*((one, CALLS) for one in operations), (training_step(), CALLS // 5)):
        work()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        found.append((time.perf_counter() - start) / calls * 1e3)
    return found


def training_step() -> Callable[[], None]:
    """One step of a decoder of the demo's size on tokens in memory."""
    import torch

    from saot.decoder import make_decoder
    from saot.decoder.distill import adamw
    from saot.recipes import DEMO

    decoder = make_decoder(200, 19, DEMO.decoder).train()
    optimizer = adamw(decoder.parameters(), DEMO.decoder)
    tokens = torch.randn(DEMO.decoder.batch, 8 * 200)
    classes = torch.randint(19, (DEMO.decoder.batch * DEMO.decoder.subdivision**2,))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(decoder(tokens).flatten(0, 1), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    if sys.argv[1:]:
        print(*measure(sys.argv[1] == "alone"))
        return
    cores = len(os.sched_getaffinity(0))
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f}; ms, median of {REPEATS} processes")
    for neighbours in (0, cores):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
        found: dict[str, list[list[float]]] = {name: [] for name in POLICIES}
        try:
            for _ in range(REPEATS):
                for name, policy in POLICIES.items():
                    words = [sys.executable, "-W", "ignore", __file__, "beside" if neighbours else "alone"]
                    done = subprocess.run(words, env=plain | policy, capture_output=True, text=True, check=True)
                    found[name].append([float(part) for part in done.stdout.split()])
        finally:
            for other in others:
                other.kill()
        for name, rows in found.items():
            told = (f"{what} {statistics.median(row[k] for row in rows):.2f}" for k, what in enumerate(NAMES))
            print(f"{neighbours or 'no'} busy neighbours, {name}: {', '.join(told)}")


if __name__ == "__main__":
    main()
