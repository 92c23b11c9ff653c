"""What frozen and adapted tokens of one backbone are worth to methods that only compare tokens.

    saot lora --source SOURCE --target TARGET --points 20 --backbone mobile-sam --weights mobile_sam.pt --out runs/lora
    python benchmarks/bench_lora.py runs/lora --eval SPEC [--methods nearest_neighbor,uot] [--out runs/lora-scores]

Scores each method twice on the evaluation set, once with the backbone as it was and once as `saot lora` left it, with
the source, target, points, size and seed of that run; nothing is trained but what a method itself trains.
"""

import argparse
import json
from pathlib import Path

from saot.label import RunSettings, score_some
from saot.recipes import PAPER_SMALL, with_words
from saot.tables import ALL_WINGS, run_rivals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--methods", default="nearest_neighbor,knn_global,prototypes,uot,saot")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    run = json.loads((options.run / "run.json").read_text())
    asked, methods = run["settings"], options.methods.split(",")
    out = options.out or options.run.with_name(f"{options.run.name}-scores")
    scores = {}
    for name, weights in (("frozen", asked["weights"]), ("adapted", str(options.run / run["weights"]))):
        settings = RunSettings(
            **{key: asked[key] for key in ("source", "target", "points", "backbone", "size", "seed")},
            weights=weights,
            eval=options.eval,
            recipe=with_words(PAPER_SMALL, options.set),
        )
        found = score_some(settings, out / name, methods, wings=ALL_WINGS, rivals=run_rivals)
        matrices = {method: one.matrix for method, one in found.methods.items()}
        scores[name] = {method: matrix.mean_iou() for method, matrix in matrices.items() if matrix is not None}
    print("| mIoU, % | " + " | ".join(methods) + " |\n| --- |" + " ---: |" * len(methods))
    for name, found in scores.items():
        print(f"| {name} | " + " | ".join(f"{100 * found[method]:.1f}" for method in methods) + " |")


if __name__ == "__main__":
    main()
