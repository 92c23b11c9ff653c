"""The paper's 14,000 steps of cost training on this machine, and what they would take on one GPU.

    python benchmarks/cost_budget.py train --steps 14000 --out runs/cost    # the scenes; resumes where it stopped
    python benchmarks/cost_budget.py estimate                         # GTA5 -> Cityscapes at the paper's size

`estimate` times the parts of one step at 2,592 x 2,592 tokens of 1,024 numbers, k = 128, and compares each with what
this machine can do at best (its product and copy speed, measured beside it). The same share of the best is assumed on
the GPU, plus a launch for every operation counted; nothing is measured on one.
"""

import argparse
import json
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

    from saot.label import RunSettings
    from saot.label.paper import learned_cost
    from saot.recipes import DEMO_SIZE, DEMO_SOURCE, DEMO_TARGET, PAPER_SMALL
    from saot.tables.label_room import opened

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
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **stage,
    }
    print(json.dumps(found))


def estimate(options: argparse.Namespace) -> None:
    """Time the parts of a step at full size; print the table and the sums."""
    product, copy = machine_speed()
    measured, memory = parts()
    print(f"this machine: {product / 1e9:.0f} GFLOP/s in float32 products, {copy / 1e9:.1f} GB/s in copies")
    gpu_product, gpu_copy = options.tflops * 1e12, options.bandwidth * 1e9
    print(f"{'part':<28}{'here, ms':>10}{'best here':>11}{'share':>8}{'launches':>10}{'GPU, ms':>9}")
    here = there = 0.0
    for name, seconds, flops, volume, launches in measured:
        bound = max(flops / product, volume / copy)
        share = min(1.0, bound / seconds)
        gpu = max(flops / gpu_product, volume / gpu_copy) / share + launches * options.launch * 1e-6
        print(f"{name:<28}{1e3 * seconds:>10.1f}{1e3 * bound:>11.1f}{share:>8.2f}{launches:>10}{1e3 * gpu:>9.2f}")
        here, there = here + seconds, there + gpu
    steps = options.steps
    print(f"one step: {here:.3f} s here, {1e3 * there:.1f} ms estimated on the GPU")
    print(
        f"{steps:,} steps: {steps * here / 60:.0f} minutes here, {steps * there / 60:.1f} minutes estimated on the GPU"
    )
    print(f"memory of one step, weights, features and optimiser included: {memory / 2**30:.2f} GiB")
    print(f"\n{'the whole of preset paper':<36}{'times':>8}{'one here, s':>13}{'one GPU, s':>12}{'GPU, min':>10}")
    pair = [part for part in measured if part[0] != "adjoint, gradient, AdamW"]
    total = 0.0
    for name, times, works in [
        *stages(),
        ("pseudo-labels, a pair", 5 * 1_000, pair),
        ("cost, a step", steps, measured),
    ]:
        gpu = 0.0
        for _, seconds, flops, volume, count in works:
            share = min(1.0, max(flops / product, volume / copy) / seconds)
            gpu += max(flops / gpu_product, volume / gpu_copy) / share + count * options.launch * 1e-6
        total += times * gpu
        own = sum(part[1] for part in works)
        print(f"{name:<36}{times:>8,}{own:>13.3f}{gpu:>12.4f}{times * gpu / 60:>10.1f}")
    print(f"{'in all':<36}{'':>8}{'':>13}{'':>12}{total / 60:>10.1f}")


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


def parts() -> tuple[list[tuple[str, float, float, float, int]], int]:
    """Name, seconds, operations, bytes that must move at least, and launches of each part of a step; its memory."""
    import saot
    from saot.recipes import PAPER
    from saot.transfer import point_loss
    from saot.transport import topk_support

    torch.manual_seed(0)
    nothing = resident("VmRSS")
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

    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    backward()
    memory = resident("VmHWM") - nothing
    fixed = values()
    detached = saot.SparseCost(fixed.values.detach().requires_grad_(), support)
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
    rest = ("adjoint, gradient, AdamW", max(whole - forward, 1e-4), gradient, moved, max(0, all_launches - used))
    return [*found, rest], memory


def resident(field: str) -> int:
    """VmRSS, what is resident now, or VmHWM, its peak; bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


VIEWS = {"view", "reshape", "expand", "t", "transpose", "permute", "unsqueeze", "squeeze", "detach", "slice", "select"}
VIEWS |= {"as_strided", "alias", "empty", "empty_like", "empty_strided", "resize_", "_unsafe_view", "split"}


def stages() -> list[tuple[str, int, list[tuple[str, float, float, float, int]]]]:
    """Name, how often and the measured parts of what else the preset does: features and the decoder's steps.

    The backbone has random weights (its speed does not depend on them) and is timed once.
    """
    from transformers import Dinov2Config, Dinov2Model

    from saot.decoder import make_decoder
    from saot.recipes import PAPER

    layers = 24
    config = Dinov2Config(hidden_size=DIM, num_hidden_layers=layers, num_attention_heads=16)
    backbone, picture = Dinov2Model(config).eval(), torch.randn(1, 3, 504, 1_008)
    began = time.perf_counter()
    with torch.inference_mode():
        backbone(picture)
    seconds, tokens = time.perf_counter() - began, TOKENS + 1
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    flops = 2.0 * weights * tokens + layers * 4.0 * tokens**2 * DIM
    features = ("features", seconds, flops, 4.0 * (weights + 20 * layers * tokens * DIM), 15 * layers)
    del backbone
    decoder, batch = make_decoder(DIM, CLASSES, PAPER.decoder), 2 * PAPER.decoder.batch
    inputs, classes = torch.randn(batch, DIM), torch.randint(0, CLASSES, (batch,))
    optimizer = torch.optim.AdamW(decoder.parameters())

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(decoder(inputs), classes).backward()
        optimizer.step()

    weights = sum(parameter.numel() for parameter in decoder.parameters())
    trained = ("step", best_time(step), 6.0 * weights * batch, 4.0 * (6 * weights + 30 * batch * DIM), launches(step))
    counts = PAPER.decoder.steps + PAPER.refine.steps
    return [("features, a picture", 2_500, [features]), ("decoder, a step of stage 1 or 2", counts, [trained])]


def launches(work: Callable[[], object]) -> int:
    """Kernels that would be launched: operations without children of their own, less views and allocations."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    names = [event.name.removeprefix("aten::") for event in found.events() if not event.cpu_children]
    return sum(1 for name in names if name not in VIEWS and not name.startswith(("autograd", "Optimizer", "profiler")))


if __name__ == "__main__":
    main()
