"""The Triton kernels in Triton's interpreter (numbers), and compiled for GPUs that need not be here (types).

Triton settles at its first import whether it interprets, so the interpreted tests run in a process of their own.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.interpreter import CPU, INTERPRETED, compiled, count_launches, interpreted
from helpers.transport import sample
from torch.testing import assert_close

from saot.transport import SparseCost, Support, block_diagonal, solve_transport, split_result, triton_kernels
from saot.transport.triton_kernels import has_triton, segment_logsumexp, segment_sum_product

triton = pytest.importorskip("triton", minversion="3.7", reason="needs triton 3.7 or above")

RTOL = {torch.float32: 5e-6, torch.float64: 1e-13}  # rounding of sums of a few hundred terms
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def segments(lengths, size, dtype, spread=1.0):
    """Random values, offsets, index and vector for segments of these lengths."""
    generator = torch.Generator().manual_seed(sum(lengths))
    count = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    index = torch.randint(0, size, (count,), generator=generator).int()
    values = spread * torch.randn(count, generator=generator, dtype=torch.float64)
    return values.to(dtype), offsets, index, (spread * torch.randn(size, generator=generator).double()).to(dtype)


def parts(terms, offsets):
    return [terms[i:j] for i, j in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


def naive_logsumexp(values, offsets, index, vector):
    """The sums in float64, of the terms as the type rounds them."""
    terms = values + vector[index.long()]
    return torch.stack([torch.logsumexp(t.double(), 0) for t in parts(terms, offsets)]).to(values.dtype)


def naive_sums(values, offsets, index, vector):
    terms = values.double() * vector.double()[index.long()]
    return torch.stack([t.sum() for t in parts(terms, offsets)]).to(values.dtype)


SHAPES = {
    "one entry": [1],
    "short": [3, 0, 8, 1, 7, 2, 9, 16, 0],
    "k = 32": [32] * 40,
    "k = 64, several programs": [64] * 33,
    "k = 128": [128] * 9,
    "no multiple of anything": [33, 31, 65, 100, 5],
    "one segment far longer than the rest": [2] * 70 + [3000] + [1] * 70,
    "long ones beside each other": [1] * 9 + [300, 0, 257, 64, 65] + [2] * 90,
    "a long one last in its program": [1] * 127 + [3000] + [1] * 40,
    "long ones only": [2500, 1024, 1025],
    "all empty": [0, 0, 0],
}


@pytest.mark.skipif(INTERPRETED, reason="would start itself")
def test_under_the_interpreter():
    here = Path(__file__)
    files = [str(here.with_name(name)) for name in (here.name, "test_gpu_updates.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *files, "-p", "no:cacheprovider", "-p", "no:xdist", "-rs"]
    run = subprocess.run(command, cwd=here.parents[2], env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "runs inside" not in run.stdout, "the interpreter was not on"


@interpreted
@TYPES
@pytest.mark.parametrize("name", SHAPES)
def test_sums_are_those_of_torch(name, dtype):
    problem = segments(SHAPES[name], 50, dtype)
    assert_close(segment_logsumexp(*problem), naive_logsumexp(*problem), rtol=RTOL[dtype], atol=RTOL[dtype])
    sums = segment_sum_product(*problem)
    assert_close(sums, naive_sums(*problem), rtol=RTOL[dtype], atol=100 * RTOL[dtype])
    assert sums.dtype == dtype


@interpreted
@TYPES
@pytest.mark.parametrize("name", ["short", "one segment far longer than the rest"])
def test_each_segment_has_its_own_maximum(name, dtype):
    """Terms 1e4 and more apart, in a segment and between them: nothing over- or underflows."""
    problem = segments(SHAPES[name], 50, dtype, spread=1e4)
    expected = naive_logsumexp(*problem)
    assert expected[expected.isfinite()].abs().max() > 1e4
    assert_close(segment_logsumexp(*problem), expected, rtol=RTOL[dtype], atol=0)


@interpreted
@TYPES
@pytest.mark.parametrize("length", [4, 300])
def test_infinities_and_nan_are_those_of_torch(length, dtype):
    """For a segment in a tile and for one that a program takes alone, wherever in the segment they are."""
    inf, nan = torch.inf, torch.nan
    kinds = [[-inf], [inf], [nan], [inf, -inf], [inf, inf], [nan, inf], [nan, -inf], [-inf, nan, inf, inf]]
    rows = []
    for kind in kinds:
        for filling in (0.5, -inf, -1e4):
            for place in (0, length // 2, length - 1):
                row = torch.full((length,), filling, dtype=dtype)
                row[[(place + i * (length // 4)) % length for i in range(len(kind))]] = torch.tensor(kind, dtype=dtype)
                rows.append(row)
    short = [torch.zeros(1, dtype=dtype)] * 40 * len(rows)  # keeps the mean low: the rows of 300 count as long
    lengths = torch.tensor([0] + [r.numel() for r in rows + short])
    index = torch.zeros(int(lengths.sum()), dtype=torch.int32)
    problem = (torch.cat(rows + short), lengths.cumsum(0).int(), index, torch.zeros(1, dtype=dtype))
    assert_close(segment_logsumexp(*problem), naive_logsumexp(*problem), rtol=RTOL[dtype], atol=0, equal_nan=True)


@interpreted
@TYPES
def test_scale_takes_it_from_the_costs(dtype):
    """exp(scale values + vector), +inf for no pair, also where the scale is negative."""
    cost, offsets, index, vector = segments(SHAPES["long ones beside each other"], 50, dtype)
    cost[::7] = torch.inf
    scale = torch.tensor([-2.5], dtype=dtype)
    expected = naive_logsumexp(cost * scale, offsets, index, vector)
    tolerance = 4 * RTOL[dtype]
    assert_close(segment_logsumexp(cost, offsets, index, vector, scale), expected, rtol=tolerance, atol=tolerance)


@interpreted
def test_the_examples_of_the_docstrings():
    logs = torch.tensor([1.0, 3.0, 2.0, 4.0]).log()
    offsets, index = torch.tensor([0, 2, 2]).int(), torch.tensor([0, 1]).int()
    assert_close(segment_logsumexp(logs[:2], offsets, index, logs[2:]).exp(), torch.tensor([14.0, 0.0]))
    products = segment_sum_product(torch.tensor([1.0, 2.0]), offsets, index, torch.tensor([3.0, 4.0]))
    assert_close(products, torch.tensor([11.0, 0.0]))


@interpreted
def test_same_bits_again_and_strides_do_not_matter():
    values, offsets, index, vector = segments(SHAPES["long ones beside each other"], 50, torch.float32)
    strided = torch.stack([vector, torch.full_like(vector, 7.0)], 1)[:, 0]
    for kernel in (segment_logsumexp, segment_sum_product):
        first = kernel(values, offsets, index, vector)
        assert torch.equal(first, kernel(values, offsets, index, strided))
        assert torch.equal(first, kernel(values, offsets, index, vector))


@interpreted
@pytest.mark.filterwarnings("error")
def test_no_segments_at_all():
    empty = torch.zeros(0), torch.zeros(1, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(3)
    assert segment_logsumexp(*empty).shape == segment_sum_product(*empty).shape == (0,)


@interpreted
def test_errors_say_what_to_do():
    values, offsets, index, vector = segments([2, 3], 4, torch.float32)
    with pytest.raises(ValueError, match="convert them first"):
        segment_logsumexp(values, offsets, index, vector.double())
    with pytest.raises(ValueError, match="convert them first"):
        segment_sum_product(values.half(), offsets, index, vector.half())
    with pytest.raises(ValueError, match=r"scale.to\(values\)"):
        segment_logsumexp(values, offsets, index, vector, torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="detach"):
        segment_logsumexp(values.requires_grad_(), offsets, index, vector)


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that were launched."""
    return count_launches(monkeypatch)


@interpreted
@pytest.mark.parametrize("tau", [0.3, torch.inf])
@pytest.mark.parametrize("gradient", ["implicit", "unrolled"])
def test_a_solve_and_its_gradient_are_the_same_with_the_kernels(launches, gradient, tau):
    """Against the dense twin after as many iterations, whose code has no part of them."""
    problem = sample(3, n=23, m=17, balanced=tau == torch.inf)
    row, col = problem.support.row.long(), problem.support.col.long()
    weight = torch.linspace(0, 1, row.numel(), dtype=torch.float64)
    sparse, dense = problem.sparse, problem.masked.requires_grad_()
    sparse.values.requires_grad_()
    settings = {"epsilon": 0.1, "tau": tau, "tol": 0, "max_iter": 12, "gradient": gradient}
    result = solve_transport(sparse, problem.a, problem.b, **settings)
    (result.plan_values * weight).sum().backward()
    if gradient == "implicit":
        assert {"_update_kernel", "_sum_product_kernel"} <= set(launches)
    else:
        assert set(launches) == {"_logsumexp_kernel"}
    launches.clear()
    twin = solve_transport(dense, problem.a, problem.b, **settings)
    (twin.plan_values[row, col] * weight).sum().backward()
    assert not launches
    assert_close(result.plan_values, twin.plan_values[row, col], rtol=1e-11, atol=1e-15)
    # conjugate gradients stop at 1e-12 of the right-hand side
    assert_close(sparse.values.grad, dense.grad[row, col], rtol=1e-9, atol=1e-11)


@interpreted
@pytest.mark.parametrize("tau", [0.3, torch.inf])
def test_many_problems_take_the_launches_of_one(launches, tau):
    """One for each row and one for each column update, and every member is what it is alone."""
    members = [sample(seed, n=11, m=8, balanced=True).sparse for seed in range(5)]
    settings = {"tau": tau, "tol": 0, "max_iter": 6, "gradient": "none"}
    alone = [solve_transport(members[0], **settings)]
    of_one = list(launches)
    assert of_one.count("_update_kernel") == 12
    alone += [solve_transport(member, **settings) for member in members[1:]]
    launches.clear()
    joint = solve_transport(block_diagonal(members), **settings)
    assert launches == of_one
    for one, member in zip(split_result(joint), alone, strict=True):
        assert_close(one.plan_values, member.plan_values, rtol=1e-11, atol=1e-15)


@interpreted
@pytest.mark.parametrize("tau", [0.3, torch.inf])
def test_a_warm_start_is_the_same_with_the_kernels(launches, tau):
    problem = sample(3, n=23, m=17)
    plan = torch.rand(problem.support.nnz, dtype=torch.float64) + 0.1
    cost = SparseCost(plan, problem.support).dense()
    plan = torch.where(cost.isfinite(), cost, 0.0) / plan.sum()
    weights = plan.sum(1), plan.sum(0)
    cold = solve_transport(problem.sparse, *weights, tau=tau, tol=1e-8, max_iter=500)
    assert "_update_kernel" in launches
    warm = solve_transport(problem.sparse, *weights, tau=tau, tol=1e-8, max_iter=500, init=cold.potentials)
    assert int(warm.iterations) <= 2 < int(cold.iterations)
    assert_close(warm.plan_values, cold.plan_values, rtol=0, atol=1e-6)


@interpreted
def test_second_derivatives_are_the_same_with_the_kernels():
    cost = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for gradient in ("implicit", "unrolled"):
        dense, sparse = (
            torch.autograd.functional.hessian(
                lambda c, kind=kind, gradient=gradient: (
                    solve_transport(kind(c), epsilon=0.3, tol=0, max_iter=30, gradient=gradient).mass
                ),
                cost,
            )
            for kind in (lambda c: c, lambda c: SparseCost(c.flatten(), Support.full(4, 3)))
        )
        assert_close(sparse, dense, rtol=0, atol=1e-10)


@pytest.fixture
def benchmark(monkeypatch):
    """Runs bench_gpu.py with the given words; its answer is the exit code."""
    path = Path(__file__).parents[2] / "benchmarks" / "bench_gpu.py"
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("bench_gpu", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["bench_gpu", *map(str, words)])
        return module.main()

    return run


@interpreted
def test_the_benchmark_runs_to_its_end(benchmark, tmp_path, capsys):
    """Every part, and peers that cannot run here say why."""
    assert benchmark("--interpret-smoke", "--out", tmp_path / "gpu.json") == 0
    said = capsys.readouterr().out
    assert "mean nothing" in said and "left out: flash-sinkhorn refuses tensors that are not on CUDA" in said
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert not results["left_out"] and not results["failed"]
    (size,), (clouds,) = results["sizes"], results["points"]
    assert set(size["plan_error"]) == {"fused", "csr", "triton", "torch"} and max(size["plan_error"].values()) < 1e-5
    ours = [clouds["all_pairs"][f"saot, all pairs as a {form}"] for form in ("support", "matrix")]
    assert max(entry[kind] for entry in [clouds["nearest"], *ours] for kind in ("plan_error", "potential_error")) < 1e-5
    assert "left_out" in clouds["all_pairs"]["flash-sinkhorn, TF32 off"]
    assert 0 < clouds["nearest"]["mass_of_all_pairs_on_these"] < 1
    assert results["gwot"][0]["ms"] > 0 and results["step"][0]["ms"] > 0


@interpreted
def test_the_benchmark_begins_nothing_once_its_time_is_over(benchmark, tmp_path, capsys):
    assert benchmark("--interpret-smoke", "--budget", 0, "--out", tmp_path / "gpu.json") == 0
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["left_out"] == ["sizes 12:3", "gwot 4:2", "step 40:4", "points 12:3"]
    assert not any(results[section] for section in ("sizes", "gwot", "step", "points"))
    assert "left out, for the time was over: gwot 4:2" in capsys.readouterr().out


@interpreted
def test_a_part_of_the_benchmark_that_fails_does_not_stop_the_others(benchmark, monkeypatch, capsys):
    import gpu.sizes

    monkeypatch.setattr(gpu.sizes, "synthetic", lambda *given: 1 / 0)
    assert benchmark("--interpret-smoke", "--sections", "sizes", "gwot") == 1
    said = capsys.readouterr().out
    assert "failed: sizes 12:3: ZeroDivisionError" in said and "GWOT, 4x4 tokens a picture, 2 steps: " in said


@compiled
def test_the_benchmark_without_a_gpu_says_so(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark() == 2
    assert "needs a CUDA device" in capsys.readouterr().err


@compiled
@pytest.mark.parametrize("arch", [80, "gfx942"])
@pytest.mark.parametrize("scalar", ["fp32", "fp64"])
def test_kernels_compile(arch, scalar, tmp_path, monkeypatch):
    """The interpreter is lax where the compiler is strict: a loop must not change the type of a variable."""
    backends = pytest.importorskip("triton.backends.compiler")
    source = pytest.importorskip("triton.compiler").ASTSource
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    target = backends.GPUTarget("cuda", arch, 32) if isinstance(arch, int) else backends.GPUTarget("hip", arch, 64)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    constexprs = ("ROWS", "BLOCK", "LIMIT", "WIDE", "SCALED")
    for name in ("_logsumexp_kernel", "_sum_product_kernel", "_update_kernel"):
        kernel = triton_kernels._jit(getattr(triton_kernels, name))
        types = {
            "offsets": "*i32",
            "index": "*i32",
            "rows": "i32",
            "each": "i32",
            **dict.fromkeys(constexprs, "constexpr"),
        }
        types = {name: types.get(name, f"*{scalar}") for name in kernel.arg_names}
        for scaled in {True, False} if "SCALED" in kernel.arg_names else {None}:
            constants = {"ROWS": 16, "BLOCK": 64, "LIMIT": 256, "WIDE": 1024, "SCALED": scaled}
            given = {(i,): constants[name] for i, name in enumerate(kernel.arg_names) if name in constants}
            made = triton.compile(source(kernel, types, constexprs=given), target=target, options=options)
            assert "atomic" not in str(made.asm["ttir"])


@compiled
def test_importing_the_transport_room_does_not_import_triton():
    code = "import sys, saot.transport, saot.transport.triton_kernels; sys.exit('triton' in sys.modules)"
    path = [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in path if p)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@compiled
def test_a_cpu_without_the_interpreter_is_refused():
    assert not has_triton(CPU)
    with pytest.raises(ValueError, match="has_triton"):
        segment_sum_product(*segments([2, 3], 4, torch.float32))
