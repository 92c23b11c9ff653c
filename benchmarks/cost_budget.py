"""The paper's 14,000 steps of cost training on this machine, and what they would take on one GPU.

    python benchmarks/cost_budget.py train --steps 14000 --out runs/cost    # the scenes; resumes where it stopped
    python benchmarks/cost_budget.py estimate                         # GTA5 -> Cityscapes at the paper's size

`estimate` times the parts of one step at 2,592 x 2,592 tokens of 1,024 numbers, k = 128, and compares each with what
this machine can do at best (its product and copy speed, measured beside it). The same share of the best is assumed on
the GPU, plus a launch for every operation counted; nothing is measured on one.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

TOKENS, DIM, CLASSES, K, WIDTH = 2_592, 1_024, 19, 128, 256
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    train_parser = commands.add_parser("train")
    train_parser.add_argument("--steps", type=int, default=14_000)
    train_parser.add_argument("--out", type=Path, required=True)
    train_parser.set_defaults(run=train)
    estimate_parser = commands.add_parser("estimate")
    estimate_parser.add_argument("--steps", type=int, default=14_000)
    estimate_parser.add_argument("--tflops", type=float, default=19.5, help="of the GPU in float32 (A100: 19.5)")
    estimate_parser.add_argument("--bandwidth", type=float, default=1_555, help="of its memory, GB/s (A100-40GB: 1555)")
    estimate_parser.add_argument("--launch", type=float, default=5.0, help="microseconds a launched operation")
    estimate_parser.set_defaults(run=estimate)
    options = parser.parse_args()
    options.run(options)


def train(options: argparse.Namespace) -> None:
    """Train the cost alone, as `saot run` would, and print what its stage took."""
    from dataclasses import replace

    from saot.pipeline import RunSettings
    from saot.pipeline.cost import learned_cost
    from saot.recipes import DEMO_SIZE, DEMO_SOURCE, DEMO_TARGET, PAPER_SMALL
    from saot.reproduce.pieces import opened

    recipe = replace(PAPER_SMALL, name="cost-alone", cost=replace(PAPER_SMALL.cost, steps=options.steps))
    settings = RunSettings(
        source=DEMO_SOURCE, target=DEMO_TARGET, eval=None, points="20", size=DEMO_SIZE, recipe=recipe
    )
    with opened(settings, options.out, options.out / "features", "cpu") as job:
        learned_cost(job)
        stage, tokens = job.space.facts("stages")["cost"], job.target.grid(0).num_tokens
    found = {
        "steps": options.steps,
        "tokens": tokens,
        "dim": job.target.dim,
        "threads": torch.get_num_threads(),
        **stage,
    }
    print(json.dumps(found))


def estimate(options: argparse.Namespace) -> None:
    """Time the parts of a step at full size; print the table and the sums."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    product, copy = machine_speed()
    print(f"this machine: {product / 1e9:.0f} GFLOP/s in float32 products, {copy / 1e9:.1f} GB/s in copies")
    gpu_product, gpu_copy = options.tflops * 1e12, options.bandwidth * 1e9
    print(f"{'part':<28}{'here, ms':>10}{'best here':>11}{'share':>8}{'launches':>10}{'GPU, ms':>9}")
    here = there = 0.0
    for name, seconds, flops, volume, launches in parts():
        bound = max(flops / product, volume / copy)
        share = min(1.0, bound / seconds)
        gpu = max(flops / gpu_product, volume / gpu_copy) / share + launches * options.launch * 1e-6
        print(f"{name:<28}{1e3 * seconds:>10.1f}{1e3 * bound:>11.1f}{share:>8.2f}{launches:>10}{1e3 * gpu:>9.2f}")
        here, there = here + seconds, there + gpu
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    steps = options.steps
    print(f"one step: {here:.3f} s here, {1e3 * there:.1f} ms estimated on the GPU")
    print(
        f"{steps:,} steps: {steps * here / 60:.0f} minutes here, {steps * there / 60:.1f} minutes estimated on the GPU"
    )
    print(f"peak memory of the step beyond the libraries: {peak:.2f} GiB")


def machine_speed() -> tuple[float, float]:
    """Operations a second of a large product, bytes a second of a large copy (read and write counted)."""
    a, b = torch.randn(2_048, 2_048), torch.randn(2_048, 2_048)
    buffer, other = torch.randn(64 * 2**20), torch.empty(64 * 2**20)
    product = 2 * 2_048**3 / best_time(lambda: a @ b)
    return product, 2 * 4 * len(buffer) / best_time(lambda: other.copy_(buffer))


def best_time(work: Callable[[], object], repeats: int = REPEATS) -> float:
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def parts() -> list[tuple[str, float, float, float, int]]:
    """Name, seconds, operations, bytes that must move at least, and launched operations of each part of a step."""
    import saot
    from saot.recipes import PAPER
    from saot.transfer import point_loss
    from saot.transport import topk_support

    torch.manual_seed(0)
    centres = torch.nn.functional.normalize(torch.randn(60, DIM), dim=-1)

    def tokens() -> torch.Tensor:
        near = centres[torch.randint(60, (TOKENS,))] + 0.02 * torch.randn(TOKENS, DIM)
        return torch.nn.functional.normalize(near, dim=-1)

    source, target = tokens(), tokens()
    labels = torch.randint(0, CLASSES, (TOKENS,))
    prototypes = saot.class_prototypes(source, labels, CLASSES)
    cost = saot.SemanticCost(DIM, PAPER.cost, prototypes)
    optimizer = torch.optim.AdamW(cost.parameters(), lr=5e-4)
    where, classes = torch.randint(0, TOKENS, (20 * CLASSES,)), torch.randint(0, CLASSES, (20 * CLASSES,))
    pairs = TOKENS * K
    support = topk_support(source, target, k=K)

    def values() -> saot.SparseCost:
        return cost(source, labels, target, support=support)

    def solved(of: saot.SparseCost) -> saot.TransportResult:
        return saot.solve_transport(of, epsilon=0.1, tau=0.3, max_iter=30, tol=0, gradient="implicit")

    def loss_of(result: saot.TransportResult) -> torch.Tensor:
        transfer = saot.transfer_labels(result, labels, CLASSES)
        return point_loss(transfer.probs, where, classes, "drop_points", "mean")[0]

    def backward() -> None:
        loss = loss_of(solved(values()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    fixed = values()
    detached = saot.SparseCost(support, fixed.values.detach().requires_grad_())
    forward = best_time(lambda: loss_of(solved(values())))
    works: list[tuple[str, Callable[[], object], float, float]] = [
        (
            "support: product and top-k",
            lambda: topk_support(source, target, k=K),
            2.0 * TOKENS**2 * DIM,
            4.0 * TOKENS**2,
        ),
        ("cost on the support", values, 4 * 2.0 * TOKENS * DIM * WIDTH, 2 * 4.0 * pairs * WIDTH),
        ("30 sweeps", lambda: solved(detached), 30 * 2 * 4.0 * pairs, 30 * 2 * 8.0 * pairs),
        ("labels and loss", lambda: loss_of(solved(detached)), 2.0 * pairs, 12.0 * pairs),
    ]
    found = [(name, best_time(work), flops, volume, launches(work)) for name, work, flops, volume in works]
    sweeps = found[2]
    name, seconds, flops, volume, count = found[3]  # it had to solve first
    found[3] = (name, max(seconds - sweeps[1], 1e-4), flops, volume, max(0, count - sweeps[4]))
    whole, all_launches = best_time(backward), launches(backward)
    used = sum(part[4] for part in found[1:])
    gradient = 2 * 4 * 2.0 * TOKENS * DIM * WIDTH + 25 * 2 * 4.0 * pairs
    moved = 2 * 2 * 4.0 * pairs * WIDTH + 25 * 2 * 8.0 * pairs
    return [
        *found,
        ("adjoint, gradient, AdamW", max(whole - forward, 1e-4), gradient, moved, max(0, all_launches - used)),
    ]


def launches(work: Callable[[], object]) -> int:
    """Operations that would be launched one by one: those the profiler sees without children of their own."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    return sum(1 for event in found.events() if event.name.startswith("aten::") and not event.cpu_children)


if __name__ == "__main__":
    main()
