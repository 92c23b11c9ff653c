"""A second round of clicks that goes on from the first, beside a training from the beginning on the same clicks.

    python benchmarks/second_round.py --seeds 0,1,2 --counts 100 --rules transport

A run learns from clicks that its rule suggested; it suggests as many more. Then two runs learn from all of them: one
goes on from the first run (`saot run --start`), one begins anew. Prints seconds of everything from opened features to
masks that are scored, without and with the estimate, and mIoU in percent on other pictures.
"""

import csv
from dataclasses import replace
from pathlib import Path

import torch
from clicks import answered, read_options, settings_of

from saot.label import RunSettings, run_job
from saot.tables import ALL_WINGS

OPENING = ("features", "points", "source masks", "evaluation masks")  # the same for all


def main() -> None:
    """One line a seed."""
    options = read_options()
    torch.set_num_threads(options.threads)
    count, rule = int(options.counts.split(",")[0]), options.rules.split(",")[0]
    print("| seed | clicks | run | training, s | whole run, s | mIoU |\n| ---: | ---: | --- | ---: | ---: | ---: |")
    for seed in map(int, options.seeds.split(",")):
        none = settings_of(options, seed)
        root, store = options.out / f"seed-{seed}", options.out / "store"
        run_job(none, root / "none", store=store, wings=ALL_WINGS, compare="none")
        clicks, more = root / f"{rule}-{count}.csv", root / f"{rule}-{count}-more.csv"
        if not clicks.exists():
            answered(root / "none", store, rule, count, seed, clicks)
        first = replace(none, points=str(clicks))
        told(first, root / "first", store, seed, "first round")
        if not more.exists():
            answered(root / "first", store, rule, count, seed, more)
            joined(more, clicks)
        both = replace(first, points=str(more))
        told(both, root / "anew", store, seed, "both, anew")
        told(replace(both, start=str(root / "first")), root / "second", store, seed, "both, `--start`")


def joined(place: Path, others: Path) -> None:
    """Adds the rows of another table that are not there yet."""
    rows = [list(csv.reader(path.read_text().splitlines())) for path in (place, others)]
    every = dict.fromkeys(map(tuple, [*rows[0], *rows[1][1:]]))
    place.write_text("".join(f"{','.join(row)}\n" for row in every))


def told(settings: RunSettings, folder: Path, store: Path, seed: int, name: str) -> None:
    """A line on one run, made where it is not there yet."""
    outcome = run_job(settings, folder, store=store, wings=ALL_WINGS, compare="none")
    spent = {title: one["seconds"] for title, one in outcome.run["stages"].items() if not title.startswith(OPENING)}
    after = sum(seconds for title, seconds in spent.items() if title in ("calibration", "estimate", "report"))
    fold = sum(seconds for title, seconds in spent.items() if "fold" in title)  # within the estimate's
    trained = sum(spent.values()) - after - fold - spent.get("score saot_decoder", 0.0)
    miou = 100 * outcome.metrics["methods"]["saot_decoder"]["miou"]
    budget = outcome.run["label_budget"]
    whole = sum(spent.values()) - fold
    print(f"| {seed} | {budget} | {name} | {trained:.0f} | {whole:.0f} | {miou:.1f} |", flush=True)


if __name__ == "__main__":
    main()
