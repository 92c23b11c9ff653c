"""What clicks at suggested pixels are worth beside as many at random ones.

    python benchmarks/clicks.py --out runs/clicks --seeds 0,1,2 --counts 20,100,400 --rules random,transport,impure

A run without any click suggests pixels of the target; the target's masks answer there, as a person would, and an
answer that is no class counts as a click all the same. A second run learns from them. Both are scored on other
pictures. Goes on where it was stopped, and prints a Markdown table of mIoU in percent.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from saot.annotate import RULES, suggest
from saot.data import IGNORE_INDEX, Points, open_labelled, write_points_csv
from saot.evaluate import iou_from_counts, mean_over
from saot.label import RunSettings, reopened, run_job
from saot.recipes import DEMO, DEMO_SIZE, DEMO_SOURCE, DEMO_TARGET, DEMO_TEST, preset
from saot.tables import ALL_WINGS
from saot.tables.label_room import score


def main() -> None:
    """One line a rule and count."""
    options = read_options()
    torch.set_num_threads(options.threads)
    found: dict[tuple[str, int], list[float]] = {}
    for seed in map(int, options.seeds.split(",")):
        first = settings_of(options, seed)
        start = options.out / f"seed-{seed}"
        found.setdefault(("none", 0), []).append(scored(first, start / "none", options.out / "store"))
        for count in map(int, options.counts.split(",")):
            for rule in options.rules.split(","):
                name = f"{rule}-{count}"
                clicks = start / f"{name}.csv"
                if not clicks.exists():
                    answered(start / "none", options.out / "store", rule, count, seed, clicks)
                settings = replace(first, points=str(clicks))
                miou = counted(settings, start / name, options.out / "store")
                found.setdefault((rule, count), []).append(miou)
                print(f"seed {seed}, {count} clicks, {rule}: {miou:.1f}", flush=True)
    print(table(found))


def settings_of(options: argparse.Namespace, seed: int) -> RunSettings:
    """Of a run without any click."""
    return RunSettings(
        source=options.source,
        target=options.target,
        eval=options.eval,
        points="0",
        backbone=options.backbone,
        weights=options.weights,
        size=options.size or None,
        seed=seed,
        recipe=DEMO if options.preset == "demo" else preset(options.preset),
    )


def answered(run: Path, store: Path, rule: str, count: int, seed: int, place: Path) -> None:
    """A file of clicks, each answered by the target's mask."""
    with reopened(run, ALL_WINGS, store=store) as (finished, contest):
        asked = suggest(finished, contest, count, rule=rule, seed=seed)
        settings = json.loads((run / "run.json").read_text())["settings"]
    masks = open_labelled(settings["target"], readers=ALL_WINGS.readers)
    index = {key: number for number, key in enumerate(masks.images.keys)}
    rows = []
    for one in asked:
        label = int(masks.mask(index[one.image])[one.y, one.x])
        if label != IGNORE_INDEX:
            rows.append((one.image, one.y, one.x, label))
    keys, ys, xs, labels = zip(*sorted(rows), strict=True)
    write_points_csv(place, Points(keys, xs, ys, labels), masks.classes)


def scored(settings: RunSettings, folder: Path, store: Path) -> float:
    """mIoU of the run, in percent; made where it is not there yet."""
    outcome = run_job(settings, folder, store=store, wings=ALL_WINGS, compare="none")
    return 100 * outcome.metrics["methods"]["saot_decoder"]["miou"]


def counted(settings: RunSettings, folder: Path, store: Path) -> float:
    """The same without a report and an estimate."""
    counts = score(settings, folder, ["saot_decoder"], store, "cpu", None).methods["saot_decoder"].counts
    return 100 * float(mean_over(iou_from_counts(counts.sum(0))))


def table(found: dict[tuple[str, int], list[float]]) -> str:
    """A line a rule and count: each seed, and the mean."""
    lines = ["| clicks | rule | mIoU of each seed | mean |", "| ---: | --- | --- | ---: |"]
    for (rule, count), values in sorted(found.items(), key=lambda one: (one[0][1], one[0][0])):
        seeds = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {count} | {rule} | {seeds} | {sum(values) / len(values):.1f} |")
    return "\n".join(lines)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/clicks"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--counts", default="20,100,400")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--source", default=DEMO_SOURCE)
    parser.add_argument("--target", default=DEMO_TARGET)
    parser.add_argument("--eval", default=DEMO_TEST)
    parser.add_argument("--size", default=DEMO_SIZE, help="empty is the default of the backbone")
    parser.add_argument("--backbone", default="filterbank")
    parser.add_argument("--weights")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
