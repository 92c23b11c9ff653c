"""Peak memory of the main job with few and with many pictures, each in a fresh process.

    python benchmarks/memory_run.py --out runs/memory 40 160

Pictures are built-in scenes; each run has as many source as target pictures, half of the count given.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import torch

    print(f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print(f"{'pictures':>8} {'peak MiB':>9}  highest stage")
    for count in options.counts:
        out = options.out / str(count)
        shutil.rmtree(out, ignore_errors=True)
        subprocess.run([sys.executable, __file__, "--child", str(count), str(out)], check=True)
        stages = json.loads((out / "run.json").read_text())["stages"]
        name, worst = max(stages.items(), key=lambda item: item[1]["peak_memory_bytes"])
        print(f"{count:>8} {worst['peak_memory_bytes'] / 2**20:>9.0f}  {name}", flush=True)


def child(count: int, out: Path) -> None:
    from dataclasses import replace

    from saot.label import RunSettings, run_job
    from saot.recipes import DEMO
    from saot.tables import ALL_WINGS

    recipe = replace(
        DEMO,
        name="memory",
        cost=replace(DEMO.cost, steps=40),
        decoder=replace(DEMO.decoder, steps=120),
        refine=replace(DEMO.refine, steps=60, regenerate=20),
    )
    half = count // 2
    settings = RunSettings(
        source=f"scenes:game:train,count={half}",
        target=f"scenes:street:train,count={half}",
        eval="scenes:street:val,count=8",
        points="20",
        recipe=recipe,
    )
    run_job(settings, out, wings=ALL_WINGS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
