"""Does the estimate of mIoU hold what it promises? Runs without evaluation labels, then checked on other pictures.

    python benchmarks/estimate_coverage.py --out runs/estimate --budgets total:5,total:20,20 --seeds 0,1,2
    python benchmarks/estimate_coverage.py --out runs/estimate-camvid --source camvid:DATA:day.txt \
        --target camvid:DATA:dusk-train.txt --check camvid:DATA:dusk-eval.txt --backbone mobile-sam \
        --weights mobile_sam.pt --budgets ... --seeds ...

The truth is the mIoU on labelled pictures like the target's that nobody clicked in, over the classes that have points;
no run sees them. Goes on where it was stopped, and prints a Markdown table.
"""

import argparse
import json
from pathlib import Path

from saot.label import RunSettings, evaluate_run, run_job, said
from saot.recipes import DEMO, DEMO_SIZE, DEMO_SOURCE, DEMO_TARGET, DEMO_TEST, preset
from saot.tables import ALL_WINGS


def main() -> None:
    options = _options()
    rows = []
    for budget in options.budgets.split(","):
        for seed in map(int, options.seeds.split(",")):
            rows.append(_one(options, budget, seed))
            print(rows[-1], flush=True)
    print(table(rows))


def _one(options: argparse.Namespace, budget: str, seed: int) -> dict[str, object]:
    """One run and what came true of its estimate."""
    folder = options.out / f"{budget.replace(':', '-')}-{seed}"
    kept = folder / "truth.json"
    settings = RunSettings(
        source=options.source,
        target=options.target,
        points=budget,
        backbone=options.backbone,
        weights=options.weights,
        size=options.size,
        seed=seed,
        recipe=DEMO if options.preset == "demo" else preset(options.preset),
    )
    outcome = run_job(settings, folder, store=options.out / "features", wings=ALL_WINGS)
    estimate = outcome.run["estimate"]
    if not kept.exists():
        print(said(estimate), flush=True)
        metrics = evaluate_run(folder, options.check, wings=ALL_WINGS)
        kept.write_text(json.dumps(metrics["methods"]["saot_decoder"]["iou"]))
    truth = json.loads(kept.read_text())
    known = [name for name, values in estimate["classes"].items() if values is not None and truth[name] is not None]
    actual = sum(truth[name] for name in known) / len(known)
    classes = [estimate["classes"][name][1] <= truth[name] <= estimate["classes"][name][2] for name in known]
    return {
        "budget": budget,
        "seed": seed,
        "basis": estimate["basis"],
        "points": estimate["points"],
        "truth": actual,
        **{name: estimate[name] for name in ("miou", "low", "high")},
        "inside": estimate["low"] <= actual <= estimate["high"],
        "classes_inside": sum(classes) / len(classes),
    }


def table(rows: list[dict[str, object]]) -> str:
    """A line a run, then the shares."""
    lines = ["| points | seed | basis | truth | estimate | interval | held | classes held |"]
    lines.append("| --- | --- | --- | ---: | ---: | --- | --- | ---: |")
    for row in rows:
        truth, miou, low, high = (f"{100 * row[name]:.1f}" for name in ("truth", "miou", "low", "high"))
        held, share = "yes" if row["inside"] else "no", f"{100 * row['classes_inside']:.0f} %"
        cells = [row["budget"], row["seed"], row["basis"], truth, miou, f"{low} to {high}", held, share]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    covered = sum(bool(row["inside"]) for row in rows)
    width = sum(row["high"] - row["low"] for row in rows) / len(rows)
    return "\n".join([*lines, "", f"Held in {covered} of {len(rows)}; mean width {100 * width:.1f} points."])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", default=DEMO_SOURCE)
    parser.add_argument("--target", default=DEMO_TARGET)
    parser.add_argument("--check", default=DEMO_TEST, help="labelled pictures like the target's, without points")
    parser.add_argument("--backbone", default="filterbank")
    parser.add_argument("--weights")
    parser.add_argument("--size", default=None)
    parser.add_argument("--preset", default="best", help="a preset, or demo: that of `saot demo`")
    parser.add_argument("--budgets", default="total:5,total:20,20")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    if options.source == DEMO_SOURCE and options.size is None:
        options.size = DEMO_SIZE
    return options


if __name__ == "__main__":
    main()
