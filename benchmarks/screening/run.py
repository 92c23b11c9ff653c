"""Ideas for preset best, judged where nothing is reported: held-out declared points of the target (T), and one half of
the source against the other (S1, S2; source labels alone).

    saot extract SPEC --backbone NAME --out STORE        # of source and target, first
    python benchmarks/screening/run.py --source camvid:DATA:day.txt --target camvid:DATA:dusk-train.txt --store STORE \
        --at T=20 S1=0 --ideas best no-plan --seeds 0,1,2 --out runs/screening.jsonl

One line a trial; the same command again does what is missing. Ends with a table: mean and deviation over seeds.
"""

import argparse
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from shift import load, split
from training import Idea, Trial

from saot.recipes import BEST

IDEAS = {
    "best": Idea(),
    "no-plan": Idea(tau=0.0),
    "tau-3": Idea(tau=3.0),
    "one-round": Idea(rounds=1),
    "one-round-no-plan": Idea(rounds=1, tau=0.0),
    "stage-1": Idea(rounds=0),
    "one-teacher": Idea(teachers=1),
    "no-pyramid": Idea((("context", 0),)),
    "pyramid-never-dropped": Idea((("context_dropout", 0.0),)),
    "stage-1-no-pyramid": Idea((("context", 0),), rounds=0),
    "stage-1-pyramid-never-dropped": Idea((("context_dropout", 0.0),), rounds=0),
    "natural-classes": Idea((("class_power", 1.0),)),
    "sharpened": Idea(sharpen=0.5),
    "mix-plan": Idea(rounds=1, mix="plan"),
    "mix-random": Idea(rounds=1, mix="random"),
    "mix-class": Idea(rounds=1, mix="class"),
    "points-by-shares": Idea(points="shares"),
    "points-offset": Idea(points="offset"),
    "twice-the-steps": Idea((("steps", 2_400),)),
    "wider": Idea((("hidden", 512),)),
    "more-dropout": Idea((("dropout", 0.3),)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="SPEC of the labelled pictures")
    parser.add_argument("--target", required=True, help="SPEC of the pictures to adapt to")
    parser.add_argument("--store", type=Path, required=True, help="features of both, made by saot extract")
    parser.add_argument("--at", nargs="+", default=["T=20"], help="SHIFT=BUDGET: T, S1 or S2; 0, 20, total:20")
    parser.add_argument("--ideas", nargs="+", default=["best", "no-plan"], choices=IDEAS)
    parser.add_argument("--seeds", default="0", help="whole numbers with commas")
    parser.add_argument("--out", type=Path, required=True, help="a JSON line a trial")
    options = parser.parse_args()
    wrong = [at for at in options.at if at.partition("=")[0] not in ("T", "S1", "S2")]
    if wrong:
        parser.error(f"expected --at as SHIFT=BUDGET with T, S1 or S2, such as T=20; got {wrong[0]!r}")
    try:
        (source, classes), (target, _) = load(options.source, options.store), load(options.target, options.store)
    except ValueError as error:
        parser.error(str(error))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    about = f"{options.source} {options.target} {BEST.decoder} {BEST.taught}"
    known = hashlib.sha256(about.encode()).hexdigest()[:8]  # lines of other data or another preset are passed over
    done = read(options.out, known)
    for at in options.at:
        name, _, budget = at.partition("=")
        for seed in map(int, options.seeds.split(",")):
            shift = split(name, source, target, classes, budget, seed)
            for idea in options.ideas:
                if (at, idea, seed) in done:
                    continue
                began = time.perf_counter()
                miou = Trial(shift, IDEAS[idea], seed).run()
                done[at, idea, seed] = miou
                seconds = round(time.perf_counter() - began)
                with options.out.open("a") as file:
                    line = {"of": known, "at": at, "idea": idea, "seed": seed, "miou": miou, "seconds": seconds}
                    file.write(json.dumps(line) + "\n")
                print(f"{at:12} {idea:30} seed {seed}  {miou:6.2f}  {seconds} s", flush=True)
    print_table(done)


def read(path: Path, known: str) -> dict[tuple[str, str, int], float]:
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
    return {(one["at"], one["idea"], one["seed"]): one["miou"] for one in lines if one["of"] == known}


def print_table(done: dict[tuple[str, str, int], float]) -> None:
    columns, ideas = sorted({at for at, _, _ in done}), [idea for idea in IDEAS if any(idea == i for _, i, _ in done)]
    print("\n| idea | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for idea in ideas:
        cells = []
        for column in columns:
            values = [miou for (at, name, _), miou in done.items() if at == column and name == idea]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        print(f"| {idea} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
