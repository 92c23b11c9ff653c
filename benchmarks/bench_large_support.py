"""Supports for large problems: seconds, peak memory and recall of ours, of faiss and of brute force.

    python benchmarks/bench_large_support.py [--sizes 30000,100000,300000] [--methods ours,regions,faiss,brute]
        [--data clustered,isotropic] [--full] [--threads 2] [--out results.json]

n = m = size, 64 numbers a token, k = 32, float32; ours and faiss choose their probes for a recall of 0.95. Each case
runs in a process of its own; its peak memory counts the features and torch (and less what it held before the
search in the column "more"). Brute force, `topk_support`, does every source at 30000 tokens; above that it does 4096
sources against all targets and its seconds are multiplied up, marked with ~, unless --full is given.

"regions" is the hierarchical search of SAOT's appendix P: it follows 95 % of the mass between regions and aims at no
recall.

"clustered" has 19 classes of 40 modes of unequal size and a shift between source and target; "isotropic" is Gaussian
noise, without any structure an approximate search could use. Cases already in --out are not run again.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

K, DIM, PARTIAL = 32, 64, 4096
METHODS, DATA = ("ours", "regions", "faiss", "brute"), ("clustered", "isotropic")


def features(data: str, tokens: int, domain: int) -> torch.Tensor:
    """(tokens, 64) of the source (domain 0) or the target (domain 1)."""
    drawn = torch.Generator().manual_seed(1000 + domain)
    if data == "isotropic":
        return torch.randn(tokens, DIM, generator=drawn)
    world = torch.Generator().manual_seed(0)
    modes = torch.randn(19, 1, DIM, generator=world) + 0.6 * torch.randn(19, 40, DIM, generator=world)
    shift = 0.3 * torch.randn(DIM, generator=world) + 0.3 * torch.randn(19, 1, DIM, generator=world)
    weights = torch.rand(19 * 40, generator=world) ** 2
    mode = torch.multinomial(weights, tokens, replacement=True, generator=drawn)
    return (modes + domain * shift).reshape(-1, DIM)[mode] + 0.4 * torch.randn(tokens, DIM, generator=drawn)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def run_case(data: str, size: int, method: str, full: bool, threads: int) -> dict:
    from saot.transport import hierarchical_support, multiscale
    from saot.transport.candidates import topk_support

    torch.set_num_threads(threads)
    source, target = features(data, size, 0), features(data, size, 1)
    result: dict = {"data": data, "size": size, "method": method, "threads": threads, "extrapolated": False}
    result["instructions"] = torch.backends.cpu.get_cpu_capability()
    search = {"ours": multiscale.multiscale_support, "faiss": multiscale.faiss_support, "regions": hierarchical_support}
    if method == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
    if method != "brute":
        search[method](source[:2048], target[:2048], K)  # first calls load and compile
    else:
        topk_support(source[:64], target, K)
    before, began, used = peak_gib(), time.perf_counter(), time.process_time()
    if method != "brute":
        found = search[method](source, target, K)
        result |= {"recall": found.recall.share, "worst_miss": found.recall.worst_miss}
        if method == "regions":
            result |= {"clusters": found.kept.shape[1], "probes": round(float(found.kept.sum(1).float().mean()), 1)}
        else:
            result |= {"clusters": found.clusters, "probes": found.probes}
    else:
        rows = size if full or size <= 30000 else PARTIAL
        topk_support(source[:rows], target, K)
        result |= {"recall": 1.0, "worst_miss": 0.0, "extrapolated": rows < size}
    seconds = time.perf_counter() - began
    # a load above `threads` tells that the processor was shared and the seconds are too many
    result |= {"processor_seconds": time.process_time() - used, "load": os.getloadavg()[0]}
    if result["extrapolated"]:  # processor_seconds stay those of the sources that were searched
        seconds *= size / PARTIAL
    return result | {"seconds": seconds, "peak_gib": peak_gib(), "more_gib": peak_gib() - before}


def table(results: list[dict]) -> str:
    lines = ["data        tokens  method   seconds  peak GiB  more GiB  recall  worst miss  probes"]
    for r in results:
        mark, probes = "~" if r["extrapolated"] else " ", f"{r['probes']}/{r['clusters']}" if "probes" in r else "-"
        lines.append(
            f"{r['data']:10} {r['size']:7}  {r['method']:6} {mark}{r['seconds']:8.1f}  {r['peak_gib']:8.2f}  "
            f"{r['more_gib']:8.2f}  {r['recall']:6.4f}  {r['worst_miss']:10.4f}  {probes}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="30000,100000,300000")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--full", action="store_true", help="brute force for every source, whatever the size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON; cases in it are kept")
    parser.add_argument(
        "--case", nargs=3, metavar=("DATA", "SIZE", "METHOD"), help="one case, as JSON, in this process"
    )
    options = parser.parse_args()
    if options.case:
        data, size, method = options.case
        print(json.dumps(run_case(data, int(size), method, options.full, options.threads)))
        return
    kept = json.loads(options.out.read_text())["cases"] if options.out and options.out.exists() else []
    done = {(r["data"], r["size"], r["method"]): r for r in kept}
    about = {"torch": torch.__version__, "processor": platform.processor(), "threads": options.threads}
    about |= {"instructions": torch.backends.cpu.get_cpu_capability(), "k": K, "numbers": DIM}
    print(", ".join(f"{key} {value}" for key, value in about.items()), file=sys.stderr)
    for data in options.data.split(","):
        for size in map(int, options.sizes.split(",")):
            for method in options.methods.split(","):
                if (data, size, method) in done:
                    continue
                case = ["--case", data, str(size), method, "--threads", str(options.threads)]
                command = [sys.executable, __file__, *case, *(["--full"] if options.full else [])]
                run = subprocess.run(command, capture_output=True, text=True)
                if run.returncode:
                    print(f"{data} {size} {method}: {run.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                    continue
                done[data, size, method] = json.loads(run.stdout.splitlines()[-1])
                print(table([done[data, size, method]]).splitlines()[1], file=sys.stderr, flush=True)
                if options.out:
                    options.out.write_text(json.dumps(about | {"cases": list(done.values())}, indent=1))
    print(table([done[key] for key in sorted(done)]))


if __name__ == "__main__":
    main()
