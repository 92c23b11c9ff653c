"""Kill a `saot` command at random moments, start it again each time, and compare its metrics with an undisturbed run.

    python benchmarks/kill_run.py --undisturbed runs/demo --out runs/killed --kills 5 -- demo

Everything behind `--` is the saot command without `--out`. Moments are drawn uniformly over the time that the
undisturbed run took (sum of its stages), each after the start of a fresh process; kill -9, no warning.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    arguments = sys.argv[1:]
    split = arguments.index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undisturbed", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments[:split])
    command = [sys.executable, "-m", "saot.cli", *arguments[split + 1 :], "--out", str(options.out)]
    stages = json.loads((options.undisturbed / "run.json").read_text())["stages"]
    whole = sum(stage["seconds"] for stage in stages.values())
    draw = random.Random(options.seed)
    for number in range(options.kills):
        after = 5.0 + draw.random() * whole / options.kills * 1.5
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(after)
        alive = process.poll() is None
        process.kill()
        process.wait()
        facts = options.out / "work" / "facts" / "stages.json"
        last = list(json.loads(facts.read_text()))[-1] if facts.exists() else "the start"
        print(f"kill {number + 1}: after {after:5.1f} s, {'killed' if alive else 'was done'}; last stage done: {last}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    same = (options.out / "metrics.json").read_bytes() == (options.undisturbed / "metrics.json").read_bytes()
    print("metrics.json:", "byte for byte the same" if same else "DIFFERENT")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
